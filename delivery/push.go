package delivery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// registration is what a push of d goes to; nil: the device has none of the kind.
func (c *Core) registration(d *delivery) *Registration {
	return c.dev(d).Registration(c.registrationKind(d))
}

func (c *Core) registrationKind(d *delivery) string {
	return pick(d.kind == 0, KindAlert, c.slab.text(d.kind))
}

// canPush reports whether a notification server can be asked for d: there is a
// registration in use, or d may probe one that is suspended.
func (c *Core) canPush(d *delivery) bool {
	dev := c.dev(d)
	if c.pusher == nil || dev.dropped != "" {
		return false
	}
	r := c.registration(d)
	if r == nil || r.Suspended == nil || c.renewed(r) {
		return r != nil && r.Ended == nil
	}
	return dev.probe == d || dev.probe == nil && r.Usable(c.clock.wallNow())
}

// whyNoPush is the reason that d's registration cannot be asked; "": it has none.
func (c *Core) whyNoPush(d *delivery) string {
	r := c.registration(d)
	switch {
	case c.pusher == nil || r == nil:
		return ""
	case r.Ended != nil:
		return "the push registration has ended: " + r.Ended.Reason
	case r.Suspended != nil:
		return "the push registration is suspended: " + r.Suspended.Reason
	}
	return ""
}

// probeInterval is how long a suspended registration rests between two probes.
const probeInterval = 24 * time.Hour

// probing notes that d, whose push has been asked for, is the one that tries a
// suspended registration.
func (c *Core) probing(d *delivery) {
	dev := c.dev(d)
	if r := c.registration(d); r != nil && r.Suspended != nil && dev.probe == nil {
		dev.probe = d
		r.Suspended.NextProbe = c.clock.wallNow().Add(probeInterval)
		c.putDevice(dev)
	}
}

// nextProbe is when d may try its suspended registration, in steady time; 0: it
// does not wait for that.
func (c *Core) nextProbe(d *delivery) int64 {
	r := c.registration(d)
	if c.pusher == nil || r == nil || r.Ended != nil || r.Suspended == nil || d.pushAccepted || d.refused == RefusedContent || !d.fallback {
		return 0
	}
	next := c.clock.at(r.Suspended.NextProbe)
	if c.dev(d).probe != nil { // not at once again, should that one take longer than a day
		next = max(next, c.clock.steady()+int64(time.Hour))
	}
	return next + 1
}

// pushLane is the pushes to one registration: within one urgency in the order of
// acceptance (contract §2). The pusher has one of each urgency at a time: an urgent push
// must not wait here for the answer to a normal one that waits in the pusher, as it does
// for as long as a breaker is open. That one request is in flight at a time, `high` before
// `normal`, is up to the pusher.
type pushLane struct {
	kind   string
	active [UrgencyNormal + 1]*delivery // by urgency: handed to the pusher, not answered yet
	queue  []*delivery                  // recorded, their turn to come; by urgency, then by Seq
}

// busy reports whether the pusher has a push of each urgency.
func (l *pushLane) busy() bool {
	return l.active[UrgencyHigh] != nil && l.active[UrgencyNormal] != nil
}

// asking reports whether the pusher has a push.
func (l *pushLane) asking() bool {
	return l.active[UrgencyHigh] != nil || l.active[UrgencyNormal] != nil
}

func (c *Core) pushLane(d *delivery) *pushLane {
	dev, kind := c.dev(d), c.slab.text(d.kind)
	for _, l := range dev.lanes {
		if l.kind == kind {
			return l
		}
	}
	l := &pushLane{kind: kind}
	dev.lanes = append(dev.lanes, l)
	return l
}

// startPushes queues pushes whose requests are on record.
func (c *Core) startPushes(ds []*delivery) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range ds {
		dev, l := c.dev(d), c.pushLane(d)
		if c.stopped || d.over || !d.pushUnderway || d.recorded {
			c.unhold(d)
		} else {
			d.recorded = true
			i, _ := slices.BinarySearchFunc(l.queue, d, func(x, d *delivery) int {
				return cmp.Or(cmp.Compare(x.urgency, d.urgency), cmp.Compare(x.seq, d.seq))
			})
			l.queue = slices.Insert(l.queue, i, d)
		}
		c.feedPushes(dev, l) // others may have waited for the record
	}
	c.settle()
}

// feedPushes hands the next push of each urgency to the pusher, if it has none.
func (c *Core) feedPushes(dev *device, l *pushLane) {
	for i := 0; i < len(l.queue) && !l.busy() && !c.stopped; {
		d := l.queue[i]
		if l.active[d.urgency] != nil {
			i++
			continue
		}
		if d.over || !d.pushUnderway || c.dev(d) != dev {
			l.queue = slices.Delete(l.queue, i, i+1)
			c.unhold(d)
			continue
		}
		r, err := c.pushTarget(d, d.pushAttempts)
		if err != nil { // it changed while the push waited
			l.queue = slices.Delete(l.queue, i, i+1)
			c.apply(d, inPushRetry, situation{detail: withdrawn(err), after: distrust(err)})
			c.unhold(d)
			i = 0
			continue
		}
		if c.pushesAfter(d) {
			i++
			continue
		}
		l.queue = slices.Delete(l.queue, i, i+1)
		l.active[d.urgency] = d
		c.push(d, r, l)
	}
	if !l.asking() && len(l.queue) == 0 {
		dev.lanes = slices.DeleteFunc(dev.lanes, func(x *pushLane) bool { return x == l })
	}
}

// patience is how many failures of a push hold up those behind it.
const patience = 3

// pushesAfter reports whether a push of the same urgency that was accepted before d
// goes first: its request is being recorded, or it is about to be tried again.
func (c *Core) pushesAfter(d *delivery) bool {
	for x := range c.slab.each(c.dev(d).queue) {
		if x.seq >= d.seq {
			return false
		}
		if x.state != StatePushing || x.urgency != d.urgency || x.kind != d.kind {
			continue
		}
		if x.pushUnderway && !x.recorded || !x.pushUnderway && x.pushAttempts < patience {
			return true
		}
	}
	return false
}

// push hands the push of d to the pusher.
func (c *Core) push(d *delivery, r Registration, l *pushLane) {
	c.withdrawPush(d) // of the attempt before
	ctx, cancel := context.WithCancel(c.ctx)
	c.withdraws[d.handle] = cancel
	dev, seq, attempt := c.dev(d), d.seq, d.pushAttempts
	p := Push{
		Seq: d.seq, Device: dev.ID, Account: dev.Account, Registration: r, Attempt: int(attempt),
		Urgency: d.urgency, CollapseKey: c.slab.text(d.collapse), ExpiresAt: c.clock.local(d.expires),
		Current: func() (Registration, error) {
			return c.currentTarget(dev, func() (Registration, error) {
				if d.seq != seq { // asked after the answer
					return Registration{}, fmt.Errorf("%w: the delivery is over", ErrPushNotWanted)
				}
				return c.pushTarget(d, attempt)
			})
		},
	}
	if len(dev.Unread) > 0 {
		p.Unread = func() int { return c.unread(dev) }
	}
	c.pushing++
	configs := c.pushConfigs
	c.pusher.Push(ctx, p, func(result PushResult) {
		if c.answers.put(pushAnswer{d: d, dev: dev, lane: l, asked: r, configs: configs, result: result}) {
			c.answers.drain(c.onPushResults)
		}
	})
}

// currentTarget is Push.Current of a push to dev. target is called under the mutex. With
// neighbours the store has the last word: another node may have claimed the registration
// while no word of that could reach this one.
func (c *Core) currentTarget(dev *device, target func() (Registration, error)) (Registration, error) {
	c.mu.Lock()
	r, err := target()
	c.mu.Unlock()
	if err != nil || c.opts.Neighbours == nil {
		return r, err
	}
	holder, err := c.out.TokenOwner(r.Server, r.Token)
	if err == nil && holder == dev.ID {
		return r, nil
	}
	a := r.address()
	_, err = c.tokenClaimed(a, func() *device {
		if c.holders[a] != dev {
			return nil
		}
		return dev
	})
	if err != nil {
		return Registration{}, fmt.Errorf("%w: who holds the registration is not known: %w", errUntrusted, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.holders[a] != dev {
		return Registration{}, fmt.Errorf("%w: another device has registered the token", ErrPushNotWanted)
	}
	return target()
}

// pushTarget returns where the push of d goes now, or why it must not be sent.
func (c *Core) pushTarget(d *delivery, attempt uint16) (Registration, error) {
	unwanted := func(why string) (Registration, error) {
		return Registration{}, fmt.Errorf("%w: %s", ErrPushNotWanted, why)
	}
	if err := c.trusted(); err != nil {
		return Registration{}, err
	}
	switch {
	case c.dev(d).dropped != "":
		return unwanted(c.dev(d).dropped)
	case d.over || d.state.Final():
		return unwanted("the delivery is " + d.state.String())
	case d.state != StatePushing || !d.pushUnderway || d.pushAttempts != attempt:
		return unwanted("the channel is back")
	case !c.canPush(d):
		return unwanted("the registration is gone")
	}
	return c.registration(d).Clone(), nil
}

// trusted returns nil if the core may act on the outside, and otherwise an error that
// wraps ErrPushNotWanted.
func (c *Core) trusted() error {
	if c.abandoned {
		return errUntrusted
	}
	if c.opts.Trusted != nil {
		if err := c.opts.Trusted(); err != nil {
			return fmt.Errorf("%w: %w", errUntrusted, err)
		}
	}
	return nil
}

// errUntrusted is wrapped by the error of a push that Options.Trusted forbids.
var errUntrusted = fmt.Errorf("%w: another node may have taken over", ErrPushNotWanted)

// distrust is how long a push that was not sent for an error waits for its next try.
func distrust(err error) time.Duration { return pick(errors.Is(err, errUntrusted), time.Second, 0) }

// withdrawn is a timeline's line for an error of pushTarget.
func withdrawn(err error) string {
	why := strings.TrimPrefix(err.Error(), ErrPushNotWanted.Error()+": ")
	return "withdrawn: " + why
}

// pushAnswer is what a notification server has answered.
type pushAnswer struct {
	d     *delivery
	dev   *device // of d when it was asked for
	lane  *pushLane
	asked Registration
	// configs is Core.pushConfigs of when the push was handed over.
	configs uint64
	result  PushResult
}

func (c *Core) onPushResults(as []pushAnswer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range as {
		a.lane.active[a.d.urgency] = nil
		if c.outdated(a) {
			a.result = PushResult{Outcome: PushRetry, Detail: a.result.Detail + ", but the configuration has changed", Err: a.result.Err}
		}
		c.onPushResult(a.d, a.asked, a.result)
		c.feedPushes(a.dev, a.lane)
		c.unhold(a.d)
		c.answered(a.dev)
	}
	c.settle()
	c.pushesAnswered(len(as))
}

// outdated reports whether an answer is a verdict on a configuration that has been
// replaced since the push was handed over. The PushPossible that came with the new one has
// not seen that the delivery would wait for it.
func (c *Core) outdated(a pushAnswer) bool {
	switch a.result.Outcome {
	case PushUnserved:
		return a.configs != c.pushConfigs
	case PushTokenSuspended:
		return a.configs != c.pushConfigs && a.result.Config != "" && c.opts.AppConfig != nil && c.opts.AppConfig(a.asked) != a.result.Config
	}
	return false
}

// pushesAnswered ends Stop's waiting after the last answer. The caller holds the mutex.
func (c *Core) pushesAnswered(n int) {
	c.pushing -= n
	if c.pushing == 0 && c.stopped && !c.abandoned {
		close(c.noPushing)
	}
}

func (c *Core) withdrawPush(d *delivery) {
	if withdraw := c.withdraws[d.handle]; withdraw != nil {
		withdraw()
		delete(c.withdraws, d.handle)
	}
}

// unhold notes that one place of the push queues does not have d any more.
func (c *Core) unhold(d *delivery) {
	if d.holds--; d.over {
		c.over = append(c.over, d)
	}
}

// onPushResult handles the notification server's answer. The caller holds the
// mutex.
func (c *Core) onPushResult(d *delivery, asked Registration, r PushResult) {
	defer func() {
		if d.over || d.pushAfter <= c.clock.steady() || d.state != StatePushing {
			c.withdrawPush(d) // it does not come back, or at once
		}
	}()
	if r.Registration.Token != "" {
		asked = r.Registration
	}
	dev := c.dev(d)
	held := c.registration(d) // nil, or maybe another by now
	if held != nil && (held.Ended != nil || !held.SameAddress(&asked)) {
		held = nil
	}
	if r.Outcome != PushRetry && r.Outcome != PushWithdrawn {
		c.endProbe(dev, d) // the next may be another's, whatever has become of this one
	}
	if r.Outcome == PushAccepted {
		c.pushAccepted(d, held)
	}
	if d.over {
		// The end overtook the answer. That it was accepted belongs into the timeline.
		if r.Outcome == PushAccepted && !d.pushAccepted {
			d.pushAccepted = true
			c.record(d, d.attempts, EventPushed, r.detail())
		}
		c.endRegistration(dev, held, asked, r)
		return
	}
	if errors.Is(r.Err, context.Canceled) {
		if c.stopped {
			return // asked for again after the next start
		}
		r = PushResult{Outcome: PushRetry, Detail: "withdrawn: " + pick(d.state == StatePushing, "the registration was replaced or removed", "the channel is back")}
	}
	elsewhere := held == nil && c.canPush(d) // another was registered meanwhile: ask there
	switch r.Outcome {
	case PushAccepted:
		c.pending.sync = true // a crash must not push again what was accepted
		c.apply(d, inPushAccepted, situation{detail: r.detail()})
	case PushTokenGone, PushTokenSuspended:
		if elsewhere {
			c.apply(d, inPushRetry, situation{detail: r.Detail + ", another token is registered"})
			break
		}
		renewed := held != nil && held.RegisteredAt.After(asked.RegisteredAt)
		ended := c.endRegistration(dev, held, asked, r)
		detail := pick(ended, r.Detail, r.Detail+", but the token was registered after that")
		if renewed && !ended { // during the request: a verdict on what it is now is still to come
			c.apply(d, inPushRetry, situation{detail: detail})
			break
		}
		refusal := situation{detail: detail, refused: RefusedRegistration}
		if ended {
			refusal.ended = pick(r.Outcome == PushTokenGone, EventTokenRemoved, EventTokenSuspended)
		}
		c.apply(d, inPushRefused, refusal)
	case PushUnserved:
		if elsewhere {
			c.apply(d, inPushRetry, situation{detail: r.Detail + ", another token is registered"})
			break
		}
		c.apply(d, inPushRefused, situation{detail: r.Detail, refused: RefusedApp})
	case PushWithdrawn:
		c.apply(d, inPushRetry, situation{detail: pick(r.Err != nil && errors.Is(r.Err, ErrPushNotWanted), withdrawn(r.Err), r.Detail), after: distrust(r.Err)})
	case PushRefused:
		c.apply(d, inPushRefused, situation{detail: r.Detail, refused: RefusedContent})
	default:
		// The wait is that of the registration that was asked.
		c.apply(d, inPushRetry, situation{detail: r.Detail, after: pick(held == nil, 0, r.RetryAfter)})
	}
}

// detail is the answer as a timeline shows it.
func (r *PushResult) detail() string {
	if r.Receipt != "" {
		return r.Detail + " " + r.Receipt
	}
	return r.Detail
}

// pushAccepted notes what an accepted push says of the registration: it works, and
// its device gives a sign of life.
func (c *Core) pushAccepted(d *delivery, held *Registration) {
	dev := c.dev(d)
	if held == nil || dev.dropped != "" {
		return
	}
	c.seen(dev)
	if held.Suspended != nil {
		held.Suspended = nil
		c.putDevice(dev)
		c.pushPossible(dev, func(r *Registration) bool { return r == held })
	}
}

// endRegistration ends or suspends the registration that was asked, if the device
// still holds it and the verdict is about it: it was not registered again since.
// It reports whether it did.
func (c *Core) endRegistration(dev *device, held *Registration, asked Registration, r PushResult) bool {
	if r.Outcome != PushTokenGone && r.Outcome != PushTokenSuspended || held == nil || dev.dropped != "" {
		return false
	}
	since := pick(r.GoneSince.IsZero(), asked.RegisteredAt, r.GoneSince)
	if held.RegisteredAt.After(since) {
		return false
	}
	now := c.clock.wallNow()
	if r.Outcome == PushTokenSuspended {
		config := r.Config
		if config == "" && c.opts.AppConfig != nil {
			config = c.opts.AppConfig(asked)
		}
		since := now
		if held.Suspended != nil {
			since = held.Suspended.Since
		}
		held.Suspended = &Suspension{Since: since, Reason: r.Detail, Config: config, NextProbe: now.Add(probeInterval)}
		if p := dev.probe; p != nil && c.registration(p) == held { // of an earlier suspension
			dev.probe = nil
		}
		c.putDevice(dev)
		return true
	}
	c.changeRegistrations(dev, func() {
		*held = c.completed(*held) // the registry says later which app it was of
		held.Token, held.P256dh, held.Auth = "", nil, nil
		held.Suspended, held.Ended = nil, &Ending{At: now, Reason: r.Detail}
	})
	return true
}

func (c *Core) endProbe(dev *device, d *delivery) {
	if dev.probe == d {
		dev.probe = nil
	}
}
