package delivery

import (
	"errors"
	"fmt"
	"time"
)

// retryMissed publishes again what the device had not acknowledged, now that it
// has been heard: at its first heartbeat after, then at growing distances.
func (c *Core) retryMissed(p *Presence) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.gone {
		return
	}
	p.missed.Store(false)
	now := c.clock.steady()
	for d := range c.slab.each(p.dev.queue) {
		m, missed := p.misses[d.seq]
		if !missed || d.due || d.state.Final() || d.state == StatePublished {
			continue
		}
		switch {
		case m.notBefore <= now:
			d.makeDue(p.dev)
		case d.state == StateWaiting:
			d.deadline = m.notBefore
			c.deadlines.schedule(d)
		default: // its own window looks at the channel; another heartbeat may, too
			p.missed.Store(true)
		}
	}
	c.wake()
	c.feed(p.dev)
	c.settle()
}

// recover takes up every unfinished delivery where its Record says.
func (c *Core) recover(b Backlog) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	b.Accounts(c.opts.Shard, func(name string, devices []Device) {
		if n := c.opts.Neighbours; n == nil || n.Ours(name) {
			c.loadLocked(name, devices)
		}
	})
	var dev *device
	var failed error
	err := b.Unfinished(c.opts.Shard, func(r *Record) bool {
		if dev == nil || dev.ID != r.Device || r.Device == "" {
			if dev, failed = c.recoverDevice(r); errors.Is(failed, ErrNotFound) {
				// Accepted while the device was removed, and cut off before it was cancelled.
				failed = nil
				c.pending.finished = append(c.pending.finished, Finish{
					Key: Key{Seq: r.Seq, Device: r.Device}, At: c.clock.wallNow(), State: StateCancelled, Attempts: r.Attempts, Pushed: r.PushAccepted,
				})
				c.event(Event{Seq: r.Seq, Time: c.clock.wallNow(), Kind: EventCancelled, Device: r.Device, Attempt: r.Attempts, Detail: "device removed"}, "")
				return true
			} else if failed != nil {
				return false
			}
		}
		d := c.fromRecord(r, dev)
		dev.queue = append(dev.queue, d.handle)
		c.deadlines.schedule(d)
		if d.collapse != 0 { // a crash between an accept and the end of what it superseded
			c.supersede(dev, d)
		}
		return true
	})
	if err == nil && failed == nil {
		c.recoverHeld()
		err = c.recoverDismissals(b)
	}
	c.settle()
	return pick(failed != nil, failed, err)
}

// recoverDevice returns the device of a Record, reading its account into memory.
func (c *Core) recoverDevice(r *Record) (*device, error) {
	if r.Device == "" { // held for an account without devices
		n, err := c.out.Notification(r.Seq)
		if err != nil {
			return nil, fmt.Errorf("read notification %d, which is held: %w", r.Seq, err)
		}
		a, err := c.recoverAccount(n.Account)
		if err != nil {
			return nil, err
		}
		held := a.heldFor()
		if n.BadgeAuto {
			held.Unread = held.Unread.with(markOf(n))
		}
		return held, nil
	}
	if d := c.devices[r.Device]; d != nil {
		return d, nil
	}
	rec, err := c.out.Device(r.Device)
	if err != nil {
		return nil, fmt.Errorf("read device %s, which has unfinished deliveries: %w", r.Device, err)
	}
	if n := c.opts.Neighbours; n != nil && !n.Ours(rec.Account) {
		return nil, fmt.Errorf("device %s is another account's by now: %w", r.Device, ErrUnknownDevice)
	}
	if _, err := c.recoverAccount(rec.Account); err != nil {
		return nil, err
	}
	if d := c.devices[r.Device]; d != nil {
		return d, nil
	}
	return nil, fmt.Errorf("device %s is missing from its account %s", r.Device, rec.Account)
}

func (c *Core) recoverAccount(name string) (*account, error) {
	if a := c.accounts[name]; a != nil {
		return a, nil
	}
	stored, err := c.out.AccountDevices(name)
	if err != nil {
		return nil, fmt.Errorf("read the devices of account %s: %w", name, err)
	}
	return c.loadLocked(name, stored), nil
}

func (c *Core) fromRecord(r *Record, dev *device) *delivery {
	d := c.slab.add(dev, r.Kind, r.CollapseKey)
	d.progress = progress{
		state: r.State, ack: r.Ack, message: r.Message, fallback: r.Fallback,
		received: r.Received, pushAccepted: r.PushAccepted, refused: r.PushRefused,
		attempts: uint16(r.Attempts), pushAttempts: uint16(r.PushAttempts),
		once: r.TTLZero, kind: d.kind, lapsed: r.Attempts > 0,
		deadline: c.clock.at(r.Deadline),
	}
	d.seq, d.urgency, d.expires = r.Seq, max(r.Urgency, UrgencyHigh), c.clock.at(r.ExpiresAt)
	// The ack window depends on the TTL, and a Seq tells when it began; one that is ahead does
	// not.
	ttl := r.ExpiresAt.Sub(time.Unix(0, int64(r.Seq)))
	if ttl <= 0 {
		ttl = time.Duration(d.expires - c.clock.steady())
	}
	d.setWindows(r.AckWindow, ttl, c.settings.Load().Windows)
	grace := c.clock.steady() + int64(c.settings.Load().Windows.Ack)
	if d.once { // its one attempt may have been made: that is not known
		d.expires = max(d.expires, grace+int64(c.settings.Load().Windows.Fallback))
	}
	// Devices get an ack window's time to come back before anything falls back. A
	// push whose answer a crash has hidden is asked for again after it, with the same
	// apns-id and apns-collapse-id (guarantee 2).
	if !d.state.Final() && (d.deadline != 0 || d.state == StatePending || d.state == StatePushing || d.once) {
		d.deadline = max(d.deadline, grace)
	}
	if d.message == MessageSent {
		d.message = MessageHeld
	}
	return d
}

// setWindows works out the ack window of a delivery. own is that of its
// notification, nil for none.
func (p *progress) setWindows(own *time.Duration, ttl time.Duration, configured Windows) {
	window := configured.Ack
	if own != nil {
		p.atOnce = *own == 0
		if *own > 0 {
			window = *own
			p.window = milliseconds(window)
		}
	}
	if ttl > 0 && ttl <= window { // the rest is left for a push
		if window /= 2; window >= ttl {
			window = ttl / 2
		}
		p.window = milliseconds(window)
	}
}

func milliseconds(d time.Duration) uint32 { return uint32(max(d.Milliseconds(), 1)) }

// recordNow is what the store is to know of d.
func (c *Core) recordNow(d *delivery) Record {
	r := Record{
		Seq: d.seq, Device: c.dev(d).ID, State: d.state,
		Attempts: int(d.attempts), PushAttempts: int(d.pushAttempts),
		PushAccepted: d.pushAccepted, PushRefused: d.refused, Received: d.received,
		Ack: d.ack, Fallback: d.fallback, Message: d.message, CollapseKey: c.slab.text(d.collapse),
		Deadline: c.clock.wall(d.deadline), ExpiresAt: c.clock.wall(d.expires),
		Urgency: d.urgency, Kind: c.slab.text(d.kind), TTLZero: d.once,
	}
	switch {
	case d.atOnce:
		r.AckWindow = new(time.Duration(0))
	case d.window > 0:
		r.AckWindow = new(time.Duration(d.window) * time.Millisecond)
	}
	return r
}
