package receipts

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/backoff"
	"github.com/heartline-mqtt/heartline/wire"
)

// begin sends an item, and others after it for as long as there are any. mu is held.
func (k *worker) begin(i *item) {
	k.sends.Go(func() {
		for i != nil {
			o := k.attempt(i)
			k.mu.Lock()
			k.answered(i, o)
			i = k.next(time.Now())
			k.mu.Unlock()
		}
		k.wake()
	})
}

// attempt makes one request.
func (k *worker) attempt(i *item) outcome {
	k.mu.Lock()
	s := k.sender
	k.mu.Unlock()
	m, err := k.message(i, &s.hook)
	if errors.Is(err, delivery.ErrNotFound) || errors.Is(err, errUnwanted) {
		return outcome{dropped: true}
	}
	var body []byte
	if err == nil {
		body, err = json.Marshal(m)
	}
	if err != nil {
		return outcome{local: true, err: err}
	}
	if k.own.Trusted != nil {
		if err := k.own.Trusted(); err != nil {
			return outcome{local: true, err: err}
		}
	}
	o := s.send(k.sendCtx, i.messageID(), body)
	o.url = s.hook.URL
	return o
}

// errUnwanted: the configuration has changed since the event was read.
var errUnwanted = errors.New("the webhook does not want this event any more")

func (k *worker) message(i *item, hook *Webhook) (message, error) {
	if i.kind == typeGap {
		k.mu.Lock()
		g := *k.rec.Gap
		k.mu.Unlock()
		return message{typeGap, wire.FormatTime(g.Until), gapData{
			Dropped: g.Dropped, Since: wire.FormatTime(g.Since), Until: wire.FormatTime(g.Until),
			Detail: "these events were dropped: they were not delivered within receipts.retain, or too many were refused",
		}}, nil
	}
	e := i.event
	if e == nil {
		var err error
		if e, err = k.r.event(i.at); err != nil {
			return message{}, err
		}
	}
	if !hook.wants(e) {
		return message{}, errUnwanted
	}
	n, err := k.r.core.Notification(e.Seq)
	switch {
	case errors.Is(err, delivery.ErrDamaged): // to wait for it would hold up all that follow
		k.r.seldom.Error(k.log, "event sent without the ID of its notification, which is damaged", "error", err)
		n = new(delivery.Notification)
	case err != nil:
		return message{}, err
	}
	return message{i.kind, wire.FormatTime(e.Time), wire.NewStreamEvent(*e, n.ID)}, nil
}

// answered handles the outcome of a request. mu is held.
func (k *worker) answered(i *item, o outcome) {
	k.inflight--
	i.sending = false
	now := time.Now()
	switch {
	case o.dropped:
		k.finish(i, now)
	case o.err == nil:
		k.figures.delivered++
		k.figures.lastSuccess = now
		k.finish(i, now)
		k.working()
	case k.sendCtx.Err() != nil: // cut off by stop: nobody knows
		k.queue.schedule(i, now)
	case o.local:
		k.log.Debug("event not sent, retrying", "event", i.messageID(), "error", o.err)
		i.Due = now.Add(localRetry)
		k.queue.schedule(i, now)
	case o.url != k.sender.hook.URL: // a failure of the former receiver says nothing about this one
		k.queue.schedule(i, now)
	default:
		k.refused(i, o, now)
	}
	k.advance()
}

// working handles an answer that shows that the receiver works. mu is held.
func (k *worker) working() {
	k.failures, k.probes = 0, 0
	if k.up {
		return
	}
	k.up = true
	k.log.Info("webhook works again")
	// They may have failed because of the receiver. Once: the next time it is because of
	// themselves.
	k.queue.hasten(func(i *item) bool {
		again := i.Strikes < 2 && !i.hastened
		i.hastened = i.hastened || again
		return again
	})
	k.wake()
}

// refused handles a request that has failed. mu is held.
func (k *worker) refused(i *item, o outcome, now time.Time) {
	k.figures.failed++
	k.figures.lastFailure, k.figures.lastError = now, o.err.Error()
	if o.excerpt != "" {
		k.figures.lastError += ": " + o.excerpt
	}
	if i.First.IsZero() {
		i.First = now
	}
	i.Attempts++
	switch {
	case o.aboutEvent():
		k.working()
	case i.Attempts == 1:
		k.failures++
	}
	i.Error = o.err.Error()
	if o.gone() {
		k.rec.Disabled, k.unsaved = &disabling{At: now, Reason: o.err.Error(), Of: hashURL(o.url)}, true
		k.log.Error("webhook disabled: its receiver answered 410 Gone", "url", shownURL(k.sender.hook.URL), "to_enable", "heartline webhooks retry "+k.name)
		i.Due = time.Time{}
		k.queue.schedule(i, now)
		return
	}
	if o.retryAfter > 0 {
		k.pausedTo = now.Add(o.retryAfter)
	}
	if k.up {
		i.Strikes++
	}
	switch {
	case i.kind != typeGap && i.Strikes > len(schedule):
		k.park(i, now)
	case !k.up:
		i.Due = time.Time{}
		k.queue.schedule(i, now) // behind the others: the next probe is one of them
	default:
		i.Due = now.Add(pauseAfter(i.Strikes))
		if i.Due.Sub(now) >= deferFrom && i.kind != typeGap {
			k.deferChain(i)
		}
		if !i.finished {
			k.queue.schedule(i, now)
		}
	}
	if i.aside && !i.finished { // else it was the oldest of too many
		k.dirty[i.at] = i
	}
	if !k.up {
		if !i.probe { // of before the receiver went down
			return
		}
		k.probes++
		k.probeAt = now.Add(backoff.Jitter(backoff.Doubled(probeInitial, probeMax, k.probes)))
		return
	}
	// With nothing else to try, this event alone says how the receiver is.
	alone := !o.aboutEvent() && i.Strikes < 2 && len(k.queue.ready) == 0 && k.inflight == 0
	if k.failures >= downAfter || alone {
		k.up, k.probes = false, 0
		k.probeAt = now.Add(backoff.Jitter(probeInitial))
		k.log.Warn("webhook fails, retrying", "url", shownURL(k.sender.hook.URL), "error", k.figures.lastError)
		k.queue.hasten(func(x *item) bool { return x == i && alone })
	}
}

// pauseAfter is the pause after the failure of that number.
func pauseAfter(strikes int) time.Duration {
	d := schedule[min(max(strikes, 1), len(schedule))-1]
	return d + backoff.Spread(d/10)
}

// deferChain sets an event aside, and those of its notification that wait behind it.
// mu is held.
func (k *worker) deferChain(i *item) {
	for _, x := range k.queue.chains[i.chain] {
		if !x.aside {
			k.setAside(x)
		}
	}
}

func (k *worker) setAside(i *item) {
	i.aside = true
	i.event = nil
	k.asides[i.at] = i
	k.dirty[i.at] = i
	if len(k.asides) > k.r.opts.aside {
		k.dropAside()
	}
}

// dropAside makes room: it drops some of the oldest parked events, or else of the
// oldest deferred ones.
func (k *worker) dropAside() {
	idle := slices.DeleteFunc(slices.Collect(maps.Values(k.asides)), func(i *item) bool { return i.sending })
	slices.SortFunc(idle, func(a, b *item) int {
		if a.Parked.IsZero() != b.Parked.IsZero() {
			return pick(b.Parked.IsZero(), -1, 1)
		}
		return comparePositions(a.at, b.at)
	})
	now := time.Now()
	for _, i := range idle[:min(len(idle), max(1, k.r.opts.aside/100))] {
		k.dropped(i.Time, i.at.Number)
		k.finish(i, now)
	}
}

// park gives an event up until somebody asks for it. The next of its notification goes
// on.
func (k *worker) park(i *item, now time.Time) {
	i.Parked = now
	k.figures.parked++
	k.r.seldom.Error(k.log, "webhook event parked: every attempt has failed", "event", i.messageID(), "attempts", i.Attempts, "error", i.Error, "to_retry", "heartline webhooks retry "+k.name)
	if !i.aside {
		k.setAside(i)
	}
	k.queue.remove(i, now)
}

// finish takes an item away. mu is held.
func (k *worker) finish(i *item, now time.Time) {
	i.finished = true
	k.queue.remove(i, now)
	if i.aside {
		delete(k.asides, i.at)
		k.dirty[i.at] = nil
	}
	if i.kind == typeGap {
		k.log.Info("dropped events reported to the receiver", "dropped", k.rec.Gap.Dropped)
		k.rec.Gap, k.rec.NextGap = k.rec.NextGap, nil
		k.gap, k.unsaved = nil, true
		k.queueGap()
	}
}
