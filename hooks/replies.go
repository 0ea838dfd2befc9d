package hooks

import "sync"

// replies keeps the answers to a backend's publishes in the order of the publishes
// [MQTT-4.6.0-2]: one that is refused at once must not overtake one that waits for
// the disk.
type replies struct {
	mu    sync.Mutex
	queue []*reply // from the oldest that has no answer
}

// reply is the answer to one publish. Its item is empty where there is nothing to
// say.
type reply struct {
	ack      ack
	item     item
	answered bool
}

// expect takes the next place. The connection's read goroutine calls it.
func (q *replies) expect(a ack) *reply {
	r := &reply{ack: a}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.queue = append(q.queue, r)
	return r
}

// answer sends r's item, as soon as everything before it is sent.
func (q *replies) answer(c *conn, r *reply) {
	q.mu.Lock()
	defer q.mu.Unlock()
	r.answered = true
	for len(q.queue) > 0 && q.queue[0].answered {
		if it := q.queue[0].item; it != (item{}) {
			_ = c.send(it) // the connection is gone: the backend will ask again
		}
		q.queue[0] = nil
		q.queue = q.queue[1:]
	}
	if len(q.queue) == 0 {
		q.queue = nil
	}
}
