package delivery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Heartbeat implements Up.
func (p *Presence) Heartbeat() {
	p.heartbeat.Store(p.core.clock.steady())
	if p.missed.Load() {
		p.core.retryMissed(p)
	}
}

// Acked implements Acker.
func (p *Presence) Acked(r Ref) {
	c := p.core
	p.heartbeat.Store(c.clock.steady())
	c.mu.Lock()
	defer c.mu.Unlock()
	was := p.closed(r.Seq, r.Message)
	switch {
	case r.Dismissal:
		c.onDismissalAcked(p.dev, r.Seq, false)
	case was.ended && p.dev.dropped == "" && !c.stopped:
		c.event(Event{Seq: r.Seq, Time: c.clock.wallNow(), Kind: EventReceived, Device: p.dev.ID, Attempt: int(was.attempt), Detail: "late"}, p.dev.Account)
	}
	// A late ack counts, even from a connection that has been taken over.
	if d := c.delivery(p.dev, r.Seq); d != nil {
		if r.Message {
			c.apply(d, inMessageReceived, situation{})
		} else {
			c.apply(d, inReceived, situation{late: r.Attempt < d.attempts})
		}
	}
	c.feed(p.dev)
	c.settle()
}

// Nacked implements Acker.
func (p *Presence) Nacked(r Ref, reason string) {
	c := p.core
	c.mu.Lock()
	defer c.mu.Unlock()
	p.closed(r.Seq, r.Message)
	if r.Dismissal {
		c.onDismissalAcked(p.dev, r.Seq, true)
	}
	if d := c.delivery(p.dev, r.Seq); d != nil && !p.gone {
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
// HTTP. A repetition is harmless. AckRead counts as AckDisplayed, ends the deliveries
// to the account's other devices, and takes the notification off their screens. The
// error wraps ErrUnknownNotification if there is none, or its history is over, and
// ErrNotYours if it was not for this device of this account.
func (c *Core) AckByID(id, deviceID, accountName string, kind AckKind) error {
	seq, err := c.out.Lookup(id)
	if errors.Is(err, ErrNotFound) {
		if kind != AckReceived {
			if counted, err := c.readForgotten(id, deviceID, accountName); counted || err != nil {
				return err
			}
		}
		return fmt.Errorf("%w: %s", ErrUnknownNotification, clip(id))
	} else if err != nil {
		return fmt.Errorf("find notification %s: %w", id, err)
	}
	handled, err := c.ackUnfinished(seq, id, deviceID, accountName, kind)
	if err != nil {
		return err
	}
	if !handled {
		if err := c.ackFinished(seq, id, deviceID, accountName, kind); err != nil {
			return err
		}
		if err := c.seenByID(seq, deviceID, accountName, kind); err != nil {
			return err
		}
	}
	if kind == AckRead {
		return c.onRead(seq, id, deviceID)
	}
	return nil
}

// ackUnfinished acks a delivery that is in memory; handled is false if it is not.
func (c *Core) ackUnfinished(seq Seq, id, deviceID, accountName string, kind AckKind) (handled bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	dev := c.devices[deviceID]
	if dev == nil {
		return false, nil
	}
	if dev.Account != accountName {
		return false, fmt.Errorf("%w: notification %s was not sent to device %s of this account", ErrNotYours, id, deviceID)
	}
	d := c.delivery(dev, seq)
	if d == nil {
		return false, nil
	}
	in := inReceived
	if kind != AckReceived {
		in = inDisplayed
	}
	if !d.state.Final() || kind != AckReceived {
		c.apply(d, in, situation{})
	}
	c.seen(dev)
	c.feed(dev)
	c.settle()
	return true, nil
}

// onRead cancels the deliveries to the other devices, takes the notification off their screens
// and adds `read` to the timeline, once. It returns when that is on the disk. The line comes last:
// if a crash comes before it, the device repeats its `read`, and that does the rest.
func (c *Core) onRead(seq Seq, id, deviceID string) error {
	n, err := c.out.Notification(seq)
	if err != nil {
		return fmt.Errorf("read notification %s: %w", id, err)
	}
	// First: dismiss does not know of a copy that leaves after the timeline was read.
	if err := c.cancelOthers(n, deviceID); err != nil {
		return err
	}
	queued := c.dismissing(n)
	timeline, err := c.settledTimeline(n)
	if err != nil {
		return err
	}
	attempt := 0
	for _, e := range timeline {
		if e.Device == deviceID && e.Kind == EventRead {
			return nil
		}
		if e.Device == deviceID {
			attempt = e.Attempt
		}
	}
	if err := c.dismiss(n, deviceID, queued); err != nil {
		return err
	}
	c.mu.Lock()
	if c.stopped {
		c.mu.Unlock()
		return ErrStopped
	}
	c.event(Event{Seq: seq, Time: c.clock.wallNow(), Kind: EventRead, Device: deviceID, Attempt: attempt}, n.Account)
	c.mu.Unlock()
	ctx, cancel := context.WithTimeoutCause(context.Background(), ackPatience, errBusy)
	defer cancel()
	if err := c.flush(ctx, true); err != nil { // a crash must not leave it on the other screens
		return fmt.Errorf("record that notification %s was read: %w", id, err)
	}
	return nil
}

// cancelOthers ends the deliveries of a notification that one device has read to the account's
// other devices.
func (c *Core) cancelOthers(n *Notification, deviceID string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return ErrStopped
	}
	for _, name := range n.Devices {
		dev := c.devices[name]
		if dev == nil || name == deviceID {
			continue
		}
		if d := c.delivery(dev, n.Seq); d != nil && !d.state.Final() {
			c.apply(d, inCancel, situation{detail: "read on " + deviceID})
			c.feed(dev)
		}
	}
	c.settle()
	return nil
}

// settledTimeline is the timeline of a notification with everything that has
// happened so far. It waits for the store no longer than a read loop may.
func (c *Core) settledTimeline(n *Notification) ([]Event, error) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), ackPatience, errBusy)
	defer cancel()
	if err := c.Flush(ctx); err != nil { // or a repeated ack would stand there twice
		return nil, fmt.Errorf("look for earlier acks of notification %s: %w", n.ID, err)
	}
	timeline, err := c.out.Timeline(n.Seq)
	if err != nil {
		return nil, fmt.Errorf("read the timeline of notification %s: %w", n.ID, err)
	}
	return timeline, nil
}

// seenByID notes a sign of life of a known device, and that it has displayed a
// notification.
func (c *Core) seenByID(seq Seq, deviceID, accountName string, kind AckKind) error {
	return c.withDevice(deviceID, accountName, func(a *account, d *device) error {
		if d != nil && d.account == a {
			c.seen(d)
			if kind != AckReceived {
				c.markRead(d, seq)
			}
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
		return fmt.Errorf("%w: notification %s was not sent to device %s of this account", ErrNotYours, id, deviceID)
	}
	timeline, err := c.settledTimeline(n)
	if err != nil {
		return err
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
			Seq: seq, Time: c.clock.wallNow(), Kind: pick(kind == AckReceived, EventReceived, EventDisplayed),
			Device: deviceID, Attempt: attempt, Detail: pick(received, "", "late"),
		}, n.Account)
		c.settle()
	}
	return nil
}

// delivery returns the unfinished delivery of a notification to dev, nil for none.
func (c *Core) delivery(dev *device, seq Seq) *delivery {
	if i, found := c.index(dev, seq); found {
		return c.slab.at(dev.queue[i])
	}
	return nil
}

func (c *Core) index(dev *device, seq Seq) (int, bool) {
	return slices.BinarySearchFunc(dev.queue, seq, func(h handle, s Seq) int { return cmp.Compare(c.slab.at(h).seq, s) })
}
