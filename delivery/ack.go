package delivery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Heartbeat reports a control packet from the device, other than the PUBACK of one
// of our packets: a late PUBACK has others behind it, and a retry would double
// their deliveries. It is cheap unless the device missed an ack: then the core
// publishes again.
func (p *Presence) Heartbeat() {
	p.heartbeat.Store(p.core.clock.steady())
	if p.missed.Load() {
		p.core.retryMissed(p)
	}
}

// Acked reports the device's PUBACK with a reason code below 0x80.
func (r Ref) Acked() {
	p, c := r.presence, r.presence.core
	p.heartbeat.Store(c.clock.steady())
	c.mu.Lock()
	defer c.mu.Unlock()
	p.closed(r.Seq, r.Message)
	// A late ack counts, even from a connection that has been taken over.
	if d := p.dev.delivery(r.Seq); d != nil {
		if r.Message {
			c.apply(d, inMessageReceived, situation{})
		} else {
			d.misses = 0
			c.apply(d, inReceived, situation{late: r.Attempt < d.attempts})
		}
	}
	c.feed(p.dev)
	c.settle()
}

// Nacked reports the device's PUBACK with a reason code of 0x80 and up, or a packet
// that cannot be sent.
func (r Ref) Nacked(reason string) {
	p, c := r.presence, r.presence.core
	c.mu.Lock()
	defer c.mu.Unlock()
	p.closed(r.Seq, r.Message)
	if d := p.dev.delivery(r.Seq); d != nil && !p.gone {
		if r.Message {
			c.apply(d, inChannelLost, situation{}) // held again, until the device's next return
			d.messageRefused = true
		} else if r.Attempt == d.attempts {
			c.apply(d, inNacked, situation{detail: reason})
		}
	}
	c.feed(p.dev)
	c.settle()
}

// AckByID handles a device's ack of a notification, from its acks topic or over
// HTTP. A repetition is harmless. The error wraps ErrNotYours if the notification
// was not for this device of this account.
func (c *Core) AckByID(id, deviceID, accountName string, kind AckKind) error {
	seq, err := c.out.Lookup(id)
	if errors.Is(err, ErrNotFound) {
		return fmt.Errorf("%w: notification %s: %w", ErrNotYours, id, err)
	} else if err != nil {
		return fmt.Errorf("find notification %s: %w", id, err)
	}
	c.mu.Lock()
	if dev := c.devices[deviceID]; dev != nil {
		if dev.Account != accountName {
			c.mu.Unlock()
			return fmt.Errorf("%w: notification %s, device %s", ErrNotYours, id, deviceID)
		}
		if d := dev.delivery(seq); d != nil {
			in := inReceived
			if kind == AckDisplayed {
				in = inDisplayed
			}
			if !d.state.Final() || kind == AckDisplayed {
				d.misses = 0
				c.apply(d, in, situation{})
			}
			c.seen(dev)
			c.feed(dev)
			c.settle()
			c.mu.Unlock()
			return nil
		}
	}
	c.mu.Unlock()
	if err := c.ackFinished(seq, id, deviceID, accountName, kind); err != nil {
		return err
	}
	return c.seenByID(deviceID, accountName)
}

// seenByID notes a sign of life of a device that is known.
func (c *Core) seenByID(deviceID, accountName string) error {
	return c.withDevice(deviceID, accountName, func(a *account, d *device) error {
		if d != nil && d.account == a {
			c.seen(d)
		}
		return nil
	})
}

var errBusy = fmt.Errorf("%w: write queue full: the disk is too slow", ErrUnavailable)

// ackPatience is how long a device's read loop may wait for the store: as long as
// a write may take before the store counts as failing.
const ackPatience = 5 * time.Second

// ackFinished adds an ack to the timeline of a delivery that is over: `displayed`
// where `received` was asked for, or a late ack. Nothing else changes.
func (c *Core) ackFinished(seq Seq, id, deviceID, accountName string, kind AckKind) error {
	n, err := c.out.Notification(seq)
	if err != nil {
		return fmt.Errorf("read notification %s: %w", id, err)
	}
	if n.Account != accountName || !slices.Contains(n.Devices, deviceID) {
		return fmt.Errorf("%w: notification %s, device %s", ErrNotYours, id, deviceID)
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), ackPatience, errBusy)
	defer cancel()
	if err := c.Flush(ctx); err != nil { // or a repeated ack would stand there twice
		return fmt.Errorf("look for earlier acks of notification %s: %w", id, err)
	}
	timeline, err := c.out.Timeline(seq)
	if err != nil {
		return fmt.Errorf("read the timeline of notification %s: %w", id, err)
	}
	attempt, received := 0, false
	for _, e := range timeline {
		if e.Device != deviceID {
			continue
		}
		if e.Kind == EventDisplayed {
			return nil
		}
		received = received || e.Kind == EventReceived
		attempt = e.Attempt
	}
	if kind == AckReceived && received {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.stopped {
		c.event(Event{
			Seq: seq, Time: time.Now(), Kind: pick(kind == AckReceived, EventReceived, EventDisplayed),
			Device: deviceID, Attempt: attempt, Detail: pick(received, "", "late"),
		}, n.Account)
		c.settle()
	}
	return nil
}

// delivery returns the unfinished delivery of a notification, nil for none.
func (dev *device) delivery(seq Seq) *delivery {
	if i, found := dev.index(seq); found {
		return dev.queue[i]
	}
	return nil
}

func (dev *device) index(seq Seq) (int, bool) {
	return slices.BinarySearchFunc(dev.queue, seq, func(d *delivery, s Seq) int { return cmp.Compare(d.seq, s) })
}
