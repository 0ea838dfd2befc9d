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

// class is how urgent a check is: a lower class goes first.
type class int

const (
	classClean      class = iota // the address has not failed lately
	classFailed                  // the address has failed a few times
	classSuspect                 // it has failed often, but not with this username
	classSuspectFor              // it has failed often, and this username fails, too
	classes
)

func (c class) suspect() bool { return c >= classSuspect }

// queue shares a few slots among those who wait for a check. Clean addresses go
// first. One slot in four is due to the other classes in turn, so that nobody waits for
// ever. Within a class addresses take turns, so that many
// connections of one do not hold up another's.
//
// A waiter's class is computed again when its turn comes: of forty guesses that arrive
// at once, the first few are all it takes to put the others behind.
//
// The queue has no length limit of its own: every waiter is an open connection, which
// the listener's gate counts, and nobody with good credentials may be refused.
type queue struct {
	mu       sync.Mutex
	free     int
	suspects int // slots in use by suspects, or at rest after their checks
	turns    uint64
	inUse    map[string]int // slots by address

	maxSuspects, maxAddress int // slots that all suspects, and one address, may use
	// rests makes a suspects' slot rest after a check of the last class for as long as
	// the check took. A flood of guesses then leaves half of one core to the rest of
	// the program.
	rests   bool
	classes [classes]turns
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
	address string
	class   class
	rank    func() class // the class as of now
	line    *line        // nil: granted
	place   *list.Element
	began   time.Time
}

func newQueue(slots, maxAddress int, rests bool) *queue {
	q := &queue{free: slots, inUse: map[string]int{}, maxSuspects: max(1, slots/2), maxAddress: maxAddress, rests: rests}
	for i := range q.classes {
		q.classes[i].byAddress = map[string]*line{}
	}
	return q
}

// acquire waits for a slot; the returned function gives it back. It returns early
// when ctx ends or open reports that the connection has closed. rank returns the
// caller's class; it must not use the queue.
func (q *queue) acquire(ctx context.Context, address string, rank func() class, open func() bool) (release func(), err error) {
	w := &waiter{ready: make(chan struct{}), address: address, rank: rank}
	q.mu.Lock()
	w.class = rank()
	if l := q.classes[w.class].byAddress[address]; w.class.suspect() && l != nil && l.waiters.Len() >= maxSuspects {
		q.mu.Unlock()
		return nil, errTooEager
	}
	q.joinLocked(w)
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

// joinLocked puts w at the end of its address's line in its class.
func (q *queue) joinLocked(w *waiter) {
	t := &q.classes[w.class]
	l := t.byAddress[w.address]
	if l == nil {
		l = &line{address: w.address}
		t.byAddress[w.address] = l
		l.place = t.order.PushBack(l)
	}
	w.line = l
	w.place = l.waiters.PushBack(w)
}

// quitLocked takes w out of its line.
func (q *queue) quitLocked(w *waiter) {
	l, t := w.line, &q.classes[w.class]
	l.waiters.Remove(w.place)
	if l.waiters.Len() == 0 {
		t.order.Remove(l.place)
		delete(t.byAddress, l.address)
	}
	w.line, w.place = nil, nil
}

// grantLocked hands free slots out.
func (q *queue) grantLocked() {
	for q.free > 0 {
		w := q.nextLocked()
		if w == nil {
			return
		}
		if now := w.rank(); now > w.class {
			q.quitLocked(w)
			w.class = now
			q.joinLocked(w)
			continue
		}
		q.turns++
		q.classes[w.class].order.MoveToBack(w.line.place)
		q.quitLocked(w)
		q.free--
		if w.class.suspect() {
			q.suspects++
		}
		q.inUse[w.address]++
		w.began = time.Now()
		close(w.ready)
	}
}

// nextLocked is the waiter whose turn it is.
func (q *queue) nextLocked() *waiter {
	order := make([]class, 0, classes+1)
	if n := q.turns / 4; q.turns%4 == 3 { // the turn of another class than the first
		order = append(order, 1+class(n%uint64(classes-1)))
	}
	order = append(order, classClean, classFailed, classSuspect, classSuspectFor)
	for _, c := range order {
		if c.suspect() && q.suspects >= q.maxSuspects {
			continue
		}
		for e := q.classes[c].order.Front(); e != nil; e = e.Next() {
			if l := e.Value.(*line); q.inUse[l.address] < q.maxAddress {
				return l.waiters.Front().Value.(*waiter)
			}
		}
	}
	return nil
}

// leave gives w's slot back, or its place in the queue.
func (q *queue) leave(w *waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if w.line != nil {
		q.quitLocked(w)
		return
	}
	q.free++
	if q.inUse[w.address]--; q.inUse[w.address] == 0 {
		delete(q.inUse, w.address)
	}
	if w.class.suspect() {
		if took := time.Since(w.began); q.rests && w.class == classSuspectFor && took > 0 {
			time.AfterFunc(took, q.endRest)
		} else {
			q.suspects--
		}
	}
	q.grantLocked()
}

// endRest lets suspects use a slot again.
func (q *queue) endRest() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.suspects--
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
