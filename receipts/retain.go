package receipts

import (
	"maps"
	"slices"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// queueGap sends the notice of dropped events if there is one. mu is held.
func (k *worker) queueGap() {
	if g := k.rec.Gap; g != nil && k.gap == nil {
		k.gap = &item{at: delivery.Position{Number: g.First}, kind: typeGap, chain: gapChain}
		k.queue.add(k.gap, time.Now())
	}
}

// dropped notes that an event was dropped. mu is held.
func (k *worker) dropped(at time.Time, number uint64) {
	k.figures.dropped++
	k.unsaved = true
	into := &k.rec.Gap
	if k.rec.Gap != nil && k.rec.Gap.Sent {
		into = &k.rec.NextGap
	}
	if *into == nil {
		*into = &gap{Since: at, Until: at, First: number}
		k.log.Error("webhook events dropped: not delivered in time", "from", at, "retain", k.r.keep(), "metric", "heartline_webhook_dropped_total")
	}
	g := *into
	g.Dropped++
	g.Since, g.Until = earliest(g.Since, at), latest(g.Until, at)
	k.queueGap()
}

// dropOld drops events that are older than receipts.retain allows. mu is held.
func (k *worker) dropOld(now time.Time) {
	before := k.r.keptSince()
	drop := func(i *item) {
		if !i.sending && !i.finished && i.Time.Before(before) {
			k.dropped(i.Time, i.at.Number)
			k.finish(i, now)
		}
	}
	for _, i := range k.window {
		drop(i)
	}
	for _, at := range slices.SortedFunc(maps.Keys(k.asides), comparePositions) {
		drop(k.asides[at])
	}
	k.advance()
}

// oldest returns the time of the oldest event that is still needed; false: there is
// none.
func (k *worker) oldest() (at time.Time, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.oldestLocked(func(*item) bool { return true })
}

func (k *worker) oldestLocked(of func(*item) bool) (at time.Time, ok bool) {
	see := func(t time.Time) {
		if !ok || t.Before(at) {
			at, ok = t, true
		}
	}
	if len(k.window) > 0 {
		see(k.window[0].Time)
	} else if !k.live {
		see(k.readAt)
	}
	for _, i := range k.asides {
		if of(i) {
			see(i.Time)
		}
	}
	return at, ok
}
