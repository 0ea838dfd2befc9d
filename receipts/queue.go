package receipts

import (
	"cmp"
	"container/heap"
	"slices"
	"strconv"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// item is an event on its way to a receiver.
type item struct {
	at   delivery.Position
	kind string // of the message: an event's name, or typeGap
	deferred
	event *delivery.AccountEvent // nil: read again from the store when it is sent

	chain    chainKey
	aside    bool // kept in the store by itself; the cursor passes it
	sending  bool
	probe    bool // sent while the receiver was down
	finished bool
	hastened bool // retried at once because the receiver works again
	index    int  // in the heap; -1: not there
	ready    bool // in the list of those that are due
}

// chainKey names a chain of events that are sent in order: those of a notification, and
// apart from them its parked events that are sent again.
type chainKey struct {
	seq   delivery.Seq
	again bool
}

// gapChain is the chain of the notice of dropped events.
var gapChain = chainKey{again: true}

// messageID is the webhook-id: it stays the same in every attempt, whatever happens to
// the process.
func messageID(partition uint32, number uint64) string {
	id := "evt_"
	if partition != 0 {
		id += strconv.FormatUint(uint64(partition), 36) + "_"
	}
	return id + strconv.FormatUint(number, 36)
}

func (i *item) messageID() string {
	if i.kind == typeGap {
		return "gap_" + strconv.FormatUint(i.at.Number, 36)
	}
	return messageID(i.at.Partition, i.at.Number)
}

// queue orders the items of a webhook: within a chain by position, otherwise by when
// they are due.
type queue struct {
	chains  map[chainKey][]*item
	ready   []*item // heads of chains that are due, in the order in which they are sent
	waiting dueHeap // heads of chains that are not
}

func (q *queue) add(i *item, now time.Time) {
	if q.chains == nil {
		q.chains = map[chainKey][]*item{}
	}
	i.index = -1
	chain := q.chains[i.chain]
	q.chains[i.chain] = append(chain, i)
	if len(chain) == 0 {
		q.schedule(i, now)
	}
}

// schedule gives the head of a chain its place.
func (q *queue) schedule(i *item, now time.Time) {
	if i.Due.After(now) {
		heap.Push(&q.waiting, i)
		return
	}
	q.toReady(i)
}

func (q *queue) toReady(i *item) {
	i.ready = true
	q.ready = append(q.ready, i)
}

// remove takes an item out, and schedules the next of its chain.
func (q *queue) remove(i *item, now time.Time) {
	chain := q.chains[i.chain]
	at := slices.Index(chain, i)
	if at < 0 {
		return
	}
	if at > 0 {
		q.chains[i.chain] = slices.Delete(chain, at, at+1)
		return
	}
	q.unschedule(i)
	if len(chain) == 1 {
		delete(q.chains, i.chain)
		return
	}
	chain[0] = nil
	chain = chain[1:]
	q.chains[i.chain] = chain
	q.schedule(chain[0], now)
}

func (q *queue) unschedule(i *item) {
	if i.index >= 0 {
		heap.Remove(&q.waiting, i.index)
		return
	}
	if i.ready {
		i.ready = false
		q.ready = slices.DeleteFunc(q.ready, func(x *item) bool { return x == i })
	}
}

// ripen makes those ready that are due.
func (q *queue) ripen(now time.Time) {
	for len(q.waiting) > 0 && !q.waiting[0].Due.After(now) {
		q.toReady(heap.Pop(&q.waiting).(*item))
	}
}

// hasten makes those ready that fn picks.
func (q *queue) hasten(fn func(*item) bool) {
	var picked []*item
	for _, i := range q.waiting {
		if fn(i) {
			picked = append(picked, i)
		}
	}
	slices.SortFunc(picked, func(a, b *item) int { return comparePositions(a.at, b.at) })
	for _, i := range picked {
		heap.Remove(&q.waiting, i.index)
		i.Due = time.Time{}
		q.toReady(i)
	}
}

// take returns the next item that is ready; nil: none is. It stays the head of its chain.
func (q *queue) take() *item {
	if len(q.ready) == 0 {
		return nil
	}
	i := q.ready[0]
	q.ready[0] = nil
	q.ready = q.ready[1:]
	i.ready = false
	return i
}

// next returns when the first of those that wait is due; zero: none waits.
func (q *queue) next() time.Time {
	if len(q.waiting) == 0 {
		return time.Time{}
	}
	return q.waiting[0].Due
}

// dueHeap orders items by when they are due.
type dueHeap []*item

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].Due.Before(h[j].Due) }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements heap.Interface.
func (h *dueHeap) Push(x any) {
	i := x.(*item)
	i.index = len(*h)
	*h = append(*h, i)
}

// Pop implements heap.Interface.
func (h *dueHeap) Pop() any {
	old := *h
	i := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	i.index = -1
	return i
}

// comparePositions orders events by their numbers, which is the order of those of one
// notification in whichever partitions of the store they are.
func comparePositions(a, b delivery.Position) int {
	return cmp.Or(cmp.Compare(a.Number, b.Number), cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Commit, b.Commit))
}
