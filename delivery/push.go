package delivery

import (
	"context"
	"errors"
)

// startPush asks the notification server, now that the request is on record. It
// runs on the outbox's goroutine, without the mutex.
func (c *Core) startPush(d *delivery) {
	c.mu.Lock()
	if !d.pushUnderway || d.over || d.state != StatePushing || d.dev.Push == nil || c.stopped {
		// What it was for has changed while it was recorded.
		if d.pushUnderway && !d.over && !c.stopped {
			c.apply(d, inPushRetry, situation{detail: pick(d.dev.Push == nil, "withdrawn: the push token is gone", "withdrawn: the channel is back")})
		}
		c.settle()
		c.mu.Unlock()
		return
	}
	ctx, cancel := context.WithCancel(c.ctx)
	d.withdraw = cancel
	p := Push{
		Seq: d.seq, Device: d.dev.ID, Token: *d.dev.Push, Attempt: int(d.pushAttempts),
		ExpiresAt: c.clock.wall(d.expires), Notification: d.content,
	}
	d.content = nil
	c.pushes.Add(1)
	c.mu.Unlock()
	c.pusher.Push(ctx, p, func(r PushResult) {
		defer c.pushes.Done()
		cancel()
		c.pushed(d, p.Token, r)
	})
}

func (d *delivery) withdrawPush() {
	if d.withdraw != nil {
		d.withdraw()
		d.withdraw = nil
	}
}

// pushed takes the notification server's answer.
func (c *Core) pushed(d *delivery, asked PushToken, r PushResult) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d.withdraw = nil
	if d.over {
		// The end overtook the answer. That Apple took it belongs into the timeline.
		if r.Outcome == PushAccepted && !d.pushAccepted {
			d.pushAccepted = true
			c.record(d, d.attempts, EventPushed, r.Detail)
		}
		c.settle()
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
	c.settle()
}
