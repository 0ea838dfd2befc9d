package hooks

import "sync"

// replies keeps the replies to a backend's publishes in the order of the publishes
// [MQTT-4.6.0-2]: one that is refused at once must not overtake one that waits for
// the disk.
type replies struct {
	mu    sync.Mutex
	queue []*reply // from the oldest that is not complete
}

// reply is what one publish is replied to with: its ack, or the item of a refusal.
type reply struct {
	ack      ack
	refusal  *item // nil: none
	complete bool
}

// item returns the packet to write; it may be empty.
func (r *reply) item() item {
	switch {
	case r.refusal != nil:
		return *r.refusal
	case r.ack.qos > 0:
		return item{ack: &r.ack}
	}
	return item{}
}

// expect takes the next place. The connection's read goroutine calls it.
func (q *replies) expect(a ack) *reply {
	r := &reply{ack: a}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.queue = append(q.queue, r)
	return r
}

// complete sends r's item as soon as everything before it is sent.
func (q *replies) complete(c *conn, r *reply) {
	q.mu.Lock()
	defer q.mu.Unlock()
	r.complete = true
	for len(q.queue) > 0 && q.queue[0].complete {
		if it := q.queue[0].item(); !it.empty() {
			_ = c.send(it) // if the connection is gone, the backend publishes again
		}
		q.queue[0] = nil
		q.queue = q.queue[1:]
	}
	if len(q.queue) == 0 {
		q.queue = nil
	}
}
