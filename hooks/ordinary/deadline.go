package ordinary

import (
	"container/heap"
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

// Run does the due work until ctx ends: wills with a delay, ends of sessions, retained
// messages that expire.
func (h *Hub) Run(ctx context.Context) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	ahead := h.wallAhead()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			now := h.wallAhead()
			if step := now - ahead; step.Abs() > wallStep {
				h.opts.Logger.Warn("wall clock was set, sessions and wills last as long as before", "by", step.Round(time.Second).String())
				h.wallSet(now)
			}
			ahead = now
			h.Elapse()
		}
	}
}

// wallStep is by how much the wall clock must be set for sessions and wills to be moved with it.
const wallStep = 5 * time.Second

// wallAhead is by how much the wall clock has gone further than the monotonic one since New.
func (h *Hub) wallAhead() time.Duration {
	return h.opts.Now().Round(0).Sub(h.beganWall) - time.Since(h.began) // Round(0): by the wall clock
}

// wallSet moves the deadlines of clients that are away after the wall clock was set: a session
// lives, and a will waits, for as long as it was to. ahead is wallAhead since then.
func (h *Hub) wallSet(ahead time.Duration) {
	h.mu.Lock()
	all := slices.Collect(maps.Values(h.sessions))
	h.mu.Unlock()
	for _, s := range all {
		h.moveDeadline(s, ahead)
	}
}

func (h *Hub) moveDeadline(s *Session, ahead time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	step := ahead - s.wallAhead
	if s.gone == 0 || s.ended || s.ending || step.Abs() <= wallStep { // the last: it ended after the clock was set
		return
	}
	seconds := int64(step.Round(time.Second) / time.Second)
	// Not after now: a store has the time by a clock that was right, and this one was not at the start.
	s.gone, s.wallAhead = min(s.gone+seconds, h.opts.Now().Add(time.Second-1).Unix()), ahead
	at := s.endsLocked()
	if s.willAt > 0 {
		s.willAt += seconds
		at = min(at, s.willAt)
	}
	h.deadlines.set(s, at)
	h.opts.Journal.Session(s.Account, s.ID)
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
