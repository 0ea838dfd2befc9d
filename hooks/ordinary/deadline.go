package ordinary

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// Run does the due work until ctx ends: wills with a delay, ends of sessions, retained
// messages that expire.
func (h *Hub) Run(ctx context.Context) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			h.Elapse()
		}
	}
}

// Elapse does the work due now.
func (h *Hub) Elapse() {
	now := h.opts.Now().Unix()
	for s := h.deadlines.due(now); s != nil; s = h.deadlines.due(now) {
		h.elapse(s, now)
	}
	for _, topicName := range h.retained.expire(now, 4096) {
		h.expire(topicName, now)
	}
}

// expire removes a retained message whose time is over [MQTT-3.3.2-5].
func (h *Hub) expire(topicName string, now int64) {
	l := h.topicLock(topicName)
	l.Lock()
	defer l.Unlock()
	r := h.retained
	r.mu.Lock()
	k := r.entries[topicName]
	gone := k != nil && k.expiry > 0 && k.expiry <= now && r.removeLocked(topicName)
	r.mu.Unlock()
	if gone {
		h.opts.Journal.Retained(k.account, topicName)
	}
}

// deadlines is when sessions are to be looked at.
type deadlines struct {
	mu   sync.Mutex
	heap deadlineHeap
}

// deadline is a session's place among them.
type deadline struct {
	at    int64 // Unix seconds; 0: none
	place int   // in the heap
}

// set has a session looked at at a time, and not before; 0: not at all. s.mu is held: of two
// that change the session, the later one sets its deadline.
func (d *deadlines) set(s *Session, at int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s.due.at > 0 {
		heap.Remove(&d.heap, s.due.place)
	}
	if s.due.at = at; at > 0 {
		heap.Push(&d.heap, s)
	}
}

// due returns a session whose time has come, nil if there is none.
func (d *deadlines) due(now int64) *Session {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.heap) == 0 || d.heap[0].due.at > now {
		return nil
	}
	s := heap.Pop(&d.heap).(*Session)
	s.due.at = 0
	return s
}

type deadlineHeap []*Session

func (h deadlineHeap) Len() int           { return len(h) }
func (h deadlineHeap) Less(i, j int) bool { return h[i].due.at < h[j].due.at }
func (h deadlineHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].due.place, h[j].due.place = i, j
}

func (h *deadlineHeap) Push(x any) {
	s := x.(*Session)
	s.due.place = len(*h)
	*h = append(*h, s)
}

func (h *deadlineHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return last
}
