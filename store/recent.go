package store

import (
	"sync"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// recent is a cache of the notifications that were accepted last. They are the ones
// that are published and pushed next, and nobody else has to carry their content.
type recent struct {
	limit int // bytes

	mu    sync.Mutex
	bySeq map[delivery.Seq]*delivery.Notification
	order []delivery.Seq // as accepted; it may hold some that are not in bySeq any more
	bytes int
}

// apply takes what a batch that is in the store says of notifications.
func (r *recent) apply(b *delivery.Batch) {
	if r.limit <= 0 || len(b.Accept) == 0 && len(b.Assign) == 0 && len(b.Erase) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range b.Accept {
		r.addLocked(b.Accept[i].Notification)
	}
	for _, k := range b.Assign { // it changes Devices
		r.dropLocked(k.Seq)
	}
	for _, seq := range b.Erase {
		r.dropLocked(seq)
	}
}

func (r *recent) addLocked(n *delivery.Notification) {
	if r.bySeq == nil {
		r.bySeq = map[delivery.Seq]*delivery.Notification{}
	}
	if r.bySeq[n.Seq] != nil {
		return
	}
	r.bySeq[n.Seq] = n
	r.order = append(r.order, n.Seq)
	r.bytes += cached(n)
	for r.bytes > r.limit {
		r.dropOldestLocked()
	}
}

func (r *recent) dropOldestLocked() {
	seq := r.order[0]
	r.order = r.order[1:]
	r.dropLocked(seq)
}

func (r *recent) dropLocked(seq delivery.Seq) {
	if n := r.bySeq[seq]; n != nil {
		r.bytes -= cached(n)
		delete(r.bySeq, seq)
	}
}

// forget drops notifications that were accepted before a time: they may be pruned.
func (r *recent) forget(before time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.order) > 0 {
		if n := r.bySeq[r.order[0]]; n != nil && !n.AcceptedAt.Before(before) {
			return
		}
		r.dropOldestLocked()
	}
}

// all returns those that are cached, the oldest first.
func (r *recent) all() (ns []*delivery.Notification) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, seq := range r.order {
		if n := r.bySeq[seq]; n != nil {
			ns = append(ns, n)
		}
	}
	return ns
}

// get returns a notification, which nobody may change; nil: it is not here.
func (r *recent) get(seq delivery.Seq) *delivery.Notification {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bySeq[seq]
}

// cached estimates what n takes in memory.
func cached(n *delivery.Notification) int { return 768 + contentBytes(n) + 32*len(n.Devices) }
