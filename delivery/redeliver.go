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
	for _, d := range p.dev.queue {
		if d.misses == 0 || d.due || d.state.Final() || d.state == StatePublished {
			continue
		}
		switch {
		case d.notBefore <= now:
			d.makeDue()
		case d.state == StateWaiting:
			d.deadline = d.notBefore
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
func (c *Core) recover() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var dev *device
	var failed error
	err := c.out.Unfinished(func(r *Record) bool {
		if dev == nil || dev.ID != r.Device {
			if dev, failed = c.recoverDevice(r.Device); errors.Is(failed, ErrNotFound) {
				// Accepted while the device was removed, and cut off before it was cancelled.
				failed = nil
				c.pending.finished = append(c.pending.finished, Finish{
					Key: Key{Seq: r.Seq, Device: r.Device}, At: time.Now(), State: StateCancelled, Attempts: r.Attempts, Pushed: r.PushAccepted,
				})
				c.event(Event{Seq: r.Seq, Time: time.Now(), Kind: EventCancelled, Device: r.Device, Attempt: r.Attempts, Detail: "device removed"}, "")
				return true
			} else if failed != nil {
				return false
			}
		}
		d := c.fromRecord(r, dev)
		dev.queue = append(dev.queue, d)
		c.deadlines.schedule(d)
		if d.collapse != "" { // a crash between an accept and the end of what it superseded
			c.supersede(dev, d)
		}
		return true
	})
	if err != nil || failed != nil {
		return pick(failed != nil, failed, err)
	}
	// A push whose outcome a crash has hidden is asked for again, with the same
	// apns-id and apns-collapse-id (guarantee 2).
	for _, dev := range c.devices {
		for _, d := range dev.queue {
			if d.state == StatePushing && d.deadline == 0 {
				d.deadline = c.clock.steady()
				c.deadlines.schedule(d)
			}
		}
	}
	c.settle()
	return nil
}

func (c *Core) recoverDevice(id string) (*device, error) {
	if d := c.devices[id]; d != nil {
		return d, nil
	}
	rec, err := c.out.Device(id)
	if err != nil {
		return nil, fmt.Errorf("read device %s, which has unfinished deliveries: %w", id, err)
	}
	stored, err := c.out.AccountDevices(rec.Account)
	if err != nil {
		return nil, fmt.Errorf("read the devices of account %s: %w", rec.Account, err)
	}
	c.load(rec.Account, stored)
	if d := c.devices[id]; d != nil {
		return d, nil
	}
	return nil, fmt.Errorf("device %s is missing from its account %s", id, rec.Account)
}

func (c *Core) fromRecord(r *Record, dev *device) *delivery {
	d := &delivery{
		progress: progress{
			state: r.State, ack: r.Ack, message: r.Message, fallback: r.Fallback,
			received: r.Received, pushAccepted: r.PushAccepted, refused: r.PushRefused,
			attempts: uint16(r.Attempts), pushAttempts: uint16(r.PushAttempts),
			deadline: c.clock.at(r.Deadline),
		},
		dev: dev, seq: r.Seq, urgency: max(r.Urgency, UrgencyHigh), kind: r.Kind, collapse: r.CollapseKey, expires: c.clock.at(r.ExpiresAt),
	}
	if d.state == StatePending { // an ack window's time for the device to come back before the fallback
		d.deadline = c.clock.steady() + int64(c.opts.Windows.Ack)
	}
	if d.message == MessageSent {
		d.message = MessageHeld
	}
	return d
}

// recordNow is what the store is to know of d.
func (d *delivery) recordNow(c *clock) Record {
	return Record{
		Seq: d.seq, Device: d.dev.ID, State: d.state,
		Attempts: int(d.attempts), PushAttempts: int(d.pushAttempts),
		PushAccepted: d.pushAccepted, PushRefused: d.refused, Received: d.received,
		Ack: d.ack, Fallback: d.fallback, Message: d.message, CollapseKey: d.collapse,
		Deadline: c.wall(d.deadline), ExpiresAt: c.wall(d.expires),
		Urgency: d.urgency, Kind: d.kind,
	}
}
