package auth

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"time"
)

// openEvery is how often a waiting connection is asked whether it is still open.
const openEvery = time.Second

// maxSuspects is how many checks of one suspect address may wait at a time. Further
// ones are refused: a password is never hashed for them.
const maxSuspects = 256

var (
	errClosed   = errors.New("the connection closed before its credentials were checked")
	errTooEager = errors.New("too many failures from this address")
)

// queue shares a few slots among those who wait for a check. Addresses take turns,
// so that many connections of one do not hold up another's. Suspects, which have
// failed often, take turns among themselves, when nobody else waits or one slot in
// four is due to them, in at most half of the slots.
//
// The queue has no length limit of its own: every waiter is an open connection, which
// the listener's gate counts, and nobody with good credentials may be refused.
type queue struct {
	mu       sync.Mutex
	free     int
	suspects int // slots in use by suspects
	turns    uint64
	inUse    map[string]int // slots by address

	maxSuspects, maxAddress int      // slots that all suspects, and one address, may use
	classes                 [2]turns // 0: others, 1: suspects
}

// turns is a round robin over addresses.
type turns struct {
	byAddress map[string]*line
	order     list.List // of *line that have waiters
}

type line struct {
	address string
	waiters list.List // of *waiter
	place   *list.Element
}

type waiter struct {
	ready   chan struct{}
	suspect int // the class
	line    *line
	place   *list.Element
	granted bool
}

func newQueue(slots, maxAddress int) *queue {
	q := &queue{free: slots, inUse: map[string]int{}, maxSuspects: max(1, slots/2), maxAddress: maxAddress}
	for i := range q.classes {
		q.classes[i].byAddress = map[string]*line{}
	}
	return q
}

// acquire waits for a slot; the returned function gives it back. It returns early
// when ctx ends or open reports that the connection has closed.
func (q *queue) acquire(ctx context.Context, address string, suspect bool, open func() bool) (release func(), err error) {
	q.mu.Lock()
	w, err := q.joinLocked(address, suspect)
	if err != nil {
		q.mu.Unlock()
		return nil, err
	}
	q.grantLocked()
	q.mu.Unlock()

	var poll <-chan time.Time
	if open != nil {
		t := time.NewTicker(openEvery)
		defer t.Stop()
		poll = t.C
	}
	for {
		select {
		case <-w.ready:
			if open != nil && !open() {
				q.leave(w)
				return nil, errClosed
			}
			return func() { q.leave(w) }, nil
		case <-poll:
			if !open() {
				q.leave(w)
				return nil, errClosed
			}
		case <-ctx.Done():
			q.leave(w)
			return nil, ctx.Err()
		}
	}
}

func (q *queue) joinLocked(address string, suspect bool) (*waiter, error) {
	w := &waiter{ready: make(chan struct{})}
	if suspect {
		w.suspect = 1
	}
	t := &q.classes[w.suspect]
	l := t.byAddress[address]
	if l == nil {
		l = &line{address: address}
		t.byAddress[address] = l
		l.place = t.order.PushBack(l)
	} else if suspect && l.waiters.Len() >= maxSuspects {
		return nil, errTooEager
	}
	w.line = l
	w.place = l.waiters.PushBack(w)
	return w, nil
}

// grantLocked hands free slots out.
func (q *queue) grantLocked() {
	for q.free > 0 {
		others, suspects := q.nextLocked(0), q.nextLocked(1)
		if q.suspects >= q.maxSuspects {
			suspects = nil
		}
		l, class := others, 0
		if suspects != nil && (others == nil || q.turns%4 == 3) {
			l, class = suspects, 1
		}
		if l == nil {
			return
		}
		q.turns++
		w := l.waiters.Remove(l.waiters.Front()).(*waiter)
		w.place, w.granted = nil, true
		t := &q.classes[class]
		if l.waiters.Len() > 0 {
			t.order.MoveToBack(l.place)
		} else {
			t.dropLocked(l)
		}
		q.free--
		q.suspects += class
		q.inUse[l.address]++
		close(w.ready)
	}
}

// nextLocked is the line of a class whose turn it is.
func (q *queue) nextLocked(class int) *line {
	for e := q.classes[class].order.Front(); e != nil; e = e.Next() {
		if l := e.Value.(*line); q.inUse[l.address] < q.maxAddress {
			return l
		}
	}
	return nil
}

func (t *turns) dropLocked(l *line) {
	t.order.Remove(l.place)
	delete(t.byAddress, l.address)
}

// leave gives w's slot back, or its place in the queue.
func (q *queue) leave(w *waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !w.granted {
		w.line.waiters.Remove(w.place)
		if w.line.waiters.Len() == 0 {
			q.classes[w.suspect].dropLocked(w.line)
		}
		return
	}
	q.free++
	q.suspects -= w.suspect
	if q.inUse[w.line.address]--; q.inUse[w.line.address] == 0 {
		delete(q.inUse, w.line.address)
	}
	q.grantLocked()
}

// pause waits for d, or until ctx ends or the connection has closed.
func pause(ctx context.Context, d time.Duration, open func() bool) {
	end := time.NewTimer(d)
	defer end.Stop()
	for d > 0 {
		t := time.NewTimer(min(d, openEvery))
		select {
		case <-t.C:
		case <-end.C:
			t.Stop()
			return
		case <-ctx.Done():
			t.Stop()
			return
		}
		if open != nil && !open() {
			return
		}
	}
}
