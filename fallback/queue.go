package fallback

import (
	"container/heap"
	"context"
	"slices"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// item is a push that waits. It is an element of the list of its class.
type item struct {
	ctx        context.Context
	push       delivery.Push
	to         *delivery.Registration // push.Registration completed; nil: it is complete
	done       func(delivery.PushResult)
	failures   int // that were its own: not the registration's, the app's or the configuration's
	prev, next *item
}

// The classes of a queue, by urgency. The lower one goes first wherever pushes wait.
const (
	classHigh = iota
	classNormal
	classes
)

func classOf(p *delivery.Push) int {
	if p.Urgency == delivery.UrgencyNormal {
		return classNormal
	}
	return classHigh
}

// queue holds the pushes to one registration. One of them is in flight at a time, so
// that the server receives them in order. Everything is guarded by lane.mu.
type queue struct {
	token    string
	class    [classes]itemList
	inFlight bool
	away     []awayPush
	until    time.Time // throttled: nothing is sent before

	ready      int // the ready list it is in; classes: none
	prev, next *queue

	wakeAt time.Time // while it is in the heap
	index  int       // in the heap; -1: not in it
}

// awayPush is a push that failed and was handed back to the core, which pushes it
// again after its wait.
type awayPush struct {
	seq      delivery.Seq
	class    int
	collapse string
	until    time.Time       // forgotten then: the core no longer wants the push
	failures int             // below holdAttempts, later pushes of the class wait for it
	passed   bool            // a newer one of its collapse key has been sent
	ctx      context.Context // ends when the core no longer wants it
}

const (
	// holdAttempts is how often a push may fail before the next one of its
	// registration no longer waits for it.
	holdAttempts = 3
	// awayGrace is how long after its wait a push is expected back: the core writes
	// the attempt to the disk first.
	awayGrace = 3 * time.Second
)

func (q *queue) empty() bool {
	return !q.inFlight && len(q.away) == 0 && q.class[classHigh].head == nil && q.class[classNormal].head == nil
}

// turn returns the class whose first push may be sent now; classes: none before wake,
// which is zero if only another event can change that.
func (q *queue) turn(now time.Time) (class int, wake time.Time) {
	if q.inFlight {
		return classes, time.Time{}
	}
	earlier := func(t time.Time) {
		if t.After(now) && (wake.IsZero() || t.Before(wake)) {
			wake = t
		}
	}
	q.away = slices.DeleteFunc(q.away, func(a awayPush) bool { return !a.until.After(now) })
	for _, a := range q.away {
		earlier(a.until)
	}
	if q.until.After(now) {
		earlier(q.until)
		return classes, wake
	}
	for c := range q.class {
		if q.class[c].head != nil && !slices.ContainsFunc(q.away, func(a awayPush) bool { return a.ctx.Err() == nil && a.failures < holdAttempts && a.class == c }) {
			return c, time.Time{}
		}
	}
	return classes, wake
}

// insert puts it in its place, by order of acceptance; a push that has failed
// holdAttempts times goes behind those that wait, which stay before it. Of one collapse key only the newest
// push stays: insert returns those that it has replaced, which may be it itself.
func (q *queue) insert(it *item) (replaced []*item) {
	seq, collapse := it.push.Seq, it.push.CollapseKey
	if i := slices.IndexFunc(q.away, func(a awayPush) bool { return a.seq == seq }); i >= 0 {
		passed := q.away[i].passed
		it.failures = q.away[i].failures
		q.away = slices.Delete(q.away, i, i+1)
		if passed {
			return []*item{it}
		}
	}
	if collapse != "" {
		for c := range q.class {
			for x := q.class[c].head; x != nil; {
				next := x.next
				if x.push.CollapseKey == collapse && x.push.Seq != seq {
					if x.push.Seq > seq {
						return append(replaced, it)
					}
					q.class[c].remove(x)
					replaced = append(replaced, x)
				}
				x = next
			}
		}
	}
	l := &q.class[classOf(&it.push)]
	after := l.tail
	if it.failures < holdAttempts {
		for x := l.tail; x != nil && (x.failures >= holdAttempts || x.push.Seq > seq); x = x.prev {
			if x.failures < holdAttempts {
				after = x.prev
			}
		}
	}
	l.insertAfter(after, it)
	return replaced
}

// sending notes that it goes to the server: older pushes of its collapse key that are
// away have lost their turn.
func (q *queue) sending(it *item) {
	if it.push.CollapseKey == "" {
		return
	}
	for i := range q.away {
		if a := &q.away[i]; a.collapse == it.push.CollapseKey && a.seq < it.push.Seq {
			a.passed = true
		}
	}
}

// handedBack notes that it has failed and is expected back after wait.
func (q *queue) handedBack(it *item, now time.Time, wait time.Duration) {
	q.away = append(q.away, awayPush{
		seq: it.push.Seq, ctx: it.ctx, class: classOf(&it.push), collapse: it.push.CollapseKey,
		until: now.Add(wait + awayGrace), failures: it.failures,
	})
}

// itemList is a doubly linked list. Its zero value is empty.
type itemList struct{ head, tail *item }

// insertAfter inserts it behind after; nil: at the head.
func (l *itemList) insertAfter(after, it *item) {
	it.prev, it.next = after, l.head
	if after != nil {
		it.next = after.next
		after.next = it
	} else {
		l.head = it
	}
	if it.next != nil {
		it.next.prev = it
	} else {
		l.tail = it
	}
}

func (l *itemList) remove(it *item) {
	if it.prev != nil {
		it.prev.next = it.next
	} else {
		l.head = it.next
	}
	if it.next != nil {
		it.next.prev = it.prev
	} else {
		l.tail = it.prev
	}
	it.prev, it.next = nil, nil
}

// readyList holds the queues whose turn has come, in order.
type readyList struct{ head, tail *queue }

func (l *readyList) push(q *queue) {
	q.prev, q.next = l.tail, nil
	if l.tail != nil {
		l.tail.next = q
	} else {
		l.head = q
	}
	l.tail = q
}

func (l *readyList) remove(q *queue) {
	if q.prev != nil {
		q.prev.next = q.next
	} else {
		l.head = q.next
	}
	if q.next != nil {
		q.next.prev = q.prev
	} else {
		l.tail = q.prev
	}
	q.prev, q.next = nil, nil
}

// moveBack moves the queues whose first push is of account behind the others, in their order.
func (l *readyList) moveBack(class int, account string) {
	var moved []*queue
	for q := l.head; q != nil; q = q.next {
		if q.class[class].head.push.Account == account {
			moved = append(moved, q)
		}
	}
	for _, q := range moved {
		l.remove(q)
		l.push(q)
	}
}

// wakeHeap orders the queues that wait for a time.
type wakeHeap []*queue

func (h wakeHeap) Len() int           { return len(h) }
func (h wakeHeap) Less(i, j int) bool { return h[i].wakeAt.Before(h[j].wakeAt) }
func (h wakeHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements heap.Interface.
func (h *wakeHeap) Push(x any) {
	q := x.(*queue)
	q.index = len(*h)
	*h = append(*h, q)
}

// Pop implements heap.Interface.
func (h *wakeHeap) Pop() any {
	old := *h
	q := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	q.index = -1
	return q
}

var _ heap.Interface = (*wakeHeap)(nil)
