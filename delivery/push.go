package delivery

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// startPushes asks the notification server, now that the requests are on record.
func (c *Core) startPushes(ds []*delivery) {
	begun := make([]asked, 0, len(ds))
	c.mu.Lock()
	for _, d := range ds {
		if a, ok := c.startPush(d); ok {
			begun = append(begun, a)
		}
	}
	c.settle()
	c.mu.Unlock()
	for _, a := range begun {
		c.pusher.Push(a.ctx, a.push, func(r PushResult) {
			a.cancel()
			if c.answers.put(answer{d: a.d, asked: a.push.Registration, result: r}) {
				c.answers.attend(c.answered)
			}
		})
	}
}

// asked is a push that has begun.
type asked struct {
	d      *delivery
	push   Push
	ctx    context.Context
	cancel context.CancelFunc
}

func (c *Core) startPush(d *delivery) (a asked, ok bool) {
	if !d.pushUnderway || d.over || d.state != StatePushing || !d.registration().Usable(time.Now()) || c.stopped {
		// What it was for has changed while it was recorded.
		if d.pushUnderway && !d.over && !c.stopped {
			c.apply(d, inPushRetry, situation{detail: pick(!d.registration().Usable(time.Now()), "withdrawn: the push token is gone", "withdrawn: the channel is back")})
		}
		return a, false
	}
	a.d = d
	a.ctx, a.cancel = context.WithCancel(c.ctx)
	d.withdraw = a.cancel
	a.push = Push{
		Seq: d.seq, Device: d.dev.ID, Account: d.dev.Account, Registration: d.registration().Clone(), Attempt: int(d.pushAttempts),
		Urgency: d.urgency, CollapseKey: d.collapse,
		ExpiresAt: c.clock.wall(d.expires), Notification: d.content,
	}
	d.content = nil
	attempt := d.pushAttempts
	a.push.Current = func() (Registration, error) { return c.current(d, attempt) }
	c.pushes.Add(1)
	return a, true
}

// answer is what a notification server has said.
type answer struct {
	d      *delivery
	asked  Registration
	result PushResult
}

func (c *Core) answered(as []answer) {
	c.mu.Lock()
	for i := range as {
		c.pushed(as[i].d, as[i].asked, as[i].result)
	}
	c.settle()
	c.mu.Unlock()
	c.pushes.Add(-len(as))
}

func (d *delivery) withdrawPush() {
	if d.withdraw != nil {
		d.withdraw()
		d.withdraw = nil
	}
}

// pushed takes the notification server's answer. The caller holds the mutex.
func (c *Core) pushed(d *delivery, asked Registration, r PushResult) {
	d.withdraw = nil
	if d.over {
		// The end overtook the answer. That Apple took it belongs into the timeline.
		if r.Outcome == PushAccepted && !d.pushAccepted {
			d.pushAccepted = true
			c.record(d, d.attempts, EventPushed, r.Detail)
		}
		return
	}
	if errors.Is(r.Err, context.Canceled) {
		if c.stopped {
			return // asked for again after the next start
		}
		r = PushResult{Outcome: PushRetry, Detail: "withdrawn: the channel is back"}
	}
	if r.Registration.Token != "" {
		asked = r.Registration
	}
	held := d.registration()
	switch r.Outcome {
	case PushAccepted:
		c.pending.sync = true // a crash must not push again what was accepted
		c.apply(d, inPushAccepted, situation{detail: r.Detail})
	case PushTokenGone:
		if held != nil && held.Ended == nil && !held.SameAddress(&asked) { // another was registered since: ask there
			c.apply(d, inPushRetry, situation{detail: r.Detail + ", a newer token is registered"})
			break
		}
		since := pick(r.GoneSince.IsZero(), asked.RegisteredAt, r.GoneSince)
		if held == nil || held.Ended != nil || held.RegisteredAt.After(since) {
			c.apply(d, inPushRefused, situation{detail: r.Detail + ", but the token was registered after that", refused: RefusedRegistration})
			break
		}
		held.Token, held.P256dh, held.Auth = "", nil, nil
		held.Suspended, held.Ended = nil, &Ending{At: time.Now(), Reason: r.Detail}
		c.putDevice(d.dev)
		c.apply(d, inPushRefused, situation{detail: r.Detail, refused: RefusedRegistration})
		c.record(d, d.attempts, EventTokenRemoved, r.Detail)
	case PushTokenSuspended:
		if held != nil && held.Ended == nil && held.SameAddress(&asked) {
			now := time.Now()
			held.Suspended = &Suspension{Since: now, Reason: r.Detail, Config: r.Config, NextProbe: now.Add(probeEvery)}
			c.putDevice(d.dev)
		}
		c.apply(d, inPushRefused, situation{detail: r.Detail, refused: RefusedRegistration})
		c.record(d, d.attempts, EventTokenSuspended, r.Detail)
	case PushUnserved:
		c.apply(d, inPushRefused, situation{detail: r.Detail, refused: RefusedApp})
	case PushWithdrawn:
		c.apply(d, inPushRetry, situation{detail: r.Detail})
	case PushRefused:
		c.apply(d, inPushRefused, situation{detail: r.Detail, refused: RefusedContent})
	default:
		c.apply(d, inPushRetry, situation{detail: r.Detail, after: r.RetryAfter})
	}
}

// probeEvery is how often a suspended registration is tried again.
const probeEvery = 24 * time.Hour

// registration is what a push of d goes to; nil: the device has none of the kind.
func (d *delivery) registration() *Registration {
	return d.dev.Registration(pick(d.kind == "", KindAlert, d.kind))
}

// current is Push.Current.
func (c *Core) current(d *delivery, attempt uint16) (Registration, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := d.registration()
	switch {
	case d.over || d.state.Final():
		return Registration{}, fmt.Errorf("%w: the delivery is over", ErrPushNotWanted)
	case d.state != StatePushing || d.pushAttempts != attempt:
		return Registration{}, fmt.Errorf("%w: the channel is back", ErrPushNotWanted)
	case d.dev.dropped != "":
		return Registration{}, fmt.Errorf("%w: %s", ErrPushNotWanted, d.dev.dropped)
	case !r.Usable(time.Now()):
		return Registration{}, fmt.Errorf("%w: the device has no usable registration", ErrPushNotWanted)
	}
	return r.Clone(), nil
}
