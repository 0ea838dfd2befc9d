package delivery

import "fmt"

// feedMessages sends the full messages that may be sent now: acked, the app in
// the foreground (a device that never reports one gets them on the ack alone), in
// the order of acceptance (patent claims 6 and 7, §0044).
func (c *Core) feedMessages(dev *device, p *Presence) {
	if !p.messages || dev.app == AppBackground {
		return
	}
	for d := range c.slab.each(dev.queue) {
		if d.message == MessageNone {
			continue
		}
		if !d.state.Final() {
			if d.state == StatePending || d.state == StatePublished {
				return // its ack may come any moment, and its message goes first
			}
			continue
		}
		if d.message != MessageHeld || d.messageRefused {
			continue
		}
		if len(p.open) >= c.settings.Load().MaxInflight || p.packets >= p.info.ReceiveMaximum {
			return
		}
		c.apply(d, inMessageSent, situation{})
		p.opened(d.seq, true)
		if err := p.channel.Publish(Publication{Ref: Ref{Seq: d.seq, Attempt: d.attempts, Message: true, acker: p}, ExpiresAt: c.clock.local(d.expires), Redelivery: d.messageSent}); err != nil {
			p.closed(d.seq, true)
			c.apply(d, inChannelLost, situation{})
			return // tried again at the next ack, heartbeat or return
		}
		d.messageSent = true
	}
}

// SetApp takes what a device says of its app. In the foreground it gets the
// messages that were held.
func (p *Presence) SetApp(state AppState) error {
	if state != AppForeground && state != AppBackground {
		return fmt.Errorf("%w: app state %s", ErrInvalid, state)
	}
	c := p.core
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.gone {
		return nil
	}
	c.setApp(p.dev, state)
	c.feed(p.dev)
	c.settle()
	return nil
}

// ReportsApp notes that a device without a channel has reported the state of its app. Until it
// reports again on a channel that is up, it counts as in the background. A device that is not
// known to the account stays so.
func (c *Core) ReportsApp(id, accountName string) error {
	return c.withDevice(id, accountName, func(a *account, d *device) error {
		if d != nil && d.account == a && !d.ReportsApp {
			c.setApp(d, AppBackground)
		}
		return nil
	})
}

// setApp notes what a device has said of its app. The registry keeps the foreground of a session
// that has an address: it outlives this process, and its client does not say so again.
func (c *Core) setApp(dev *device, state AppState) {
	dev.app = state
	foreground := state == AppForeground && dev.Address != ""
	if !dev.ReportsApp || dev.Foreground != foreground {
		dev.ReportsApp, dev.Foreground = true, foreground
		c.putDevice(dev)
	}
}
