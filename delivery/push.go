package delivery

import (
	"context"
	"errors"
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
			if c.answers.put(answer{d: a.d, token: a.push.Token, result: r}) {
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
	if !d.pushUnderway || d.over || d.state != StatePushing || d.dev.Push == nil || c.stopped {
		// What it was for has changed while it was recorded.
		if d.pushUnderway && !d.over && !c.stopped {
			c.apply(d, inPushRetry, situation{detail: pick(d.dev.Push == nil, "withdrawn: the push token is gone", "withdrawn: the channel is back")})
		}
		return a, false
	}
	a.d = d
	a.ctx, a.cancel = context.WithCancel(c.ctx)
	d.withdraw = a.cancel
	a.push = Push{
		Seq: d.seq, Device: d.dev.ID, Token: *d.dev.Push, Attempt: int(d.pushAttempts),
		ExpiresAt: c.clock.wall(d.expires), Notification: d.content,
	}
	d.content = nil
	c.pushes.Add(1)
	return a, true
}

// answer is what a notification server has said.
type answer struct {
	d      *delivery
	token  PushToken // that was asked
	result PushResult
}

func (c *Core) answered(as []answer) {
	c.mu.Lock()
	for i := range as {
		c.pushed(as[i].d, as[i].token, as[i].result)
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
func (c *Core) pushed(d *delivery, asked PushToken, r PushResult) {
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
	replaced := d.dev.Push != nil && (d.dev.Push.Token != asked.Token || d.dev.Push.App != asked.App)
	switch r.Outcome {
	case PushAccepted:
		c.pending.sync = true // a crash must not push again what was accepted
		c.apply(d, inPushAccepted, situation{detail: r.Detail})
	case PushTokenGone:
		if replaced { // the device has registered another since: ask there
			c.apply(d, inPushRetry, situation{detail: r.Detail + ", a newer token is registered"})
			break
		}
		if d.dev.Push != nil && (r.GoneSince.IsZero() || !r.GoneSince.Before(d.dev.Push.RegisteredAt)) {
			d.dev.Push = nil
			c.putDevice(d.dev)
			c.apply(d, inPushRefused, situation{detail: r.Detail})
			c.record(d, d.attempts, EventTokenRemoved, r.Detail)
			break
		}
		c.apply(d, inPushRefused, situation{detail: r.Detail + ", but the token was registered after that"})
	case PushRefused:
		c.apply(d, inPushRefused, situation{detail: r.Detail})
	default:
		c.apply(d, inPushRetry, situation{detail: r.Detail, after: r.RetryAfter})
	}
}
