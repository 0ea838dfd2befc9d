package delivery

import (
	"context"
	"errors"
	"slices"
)

// finish takes a delivery that is over out of memory, and its Record out of the
// store.
func (c *Core) finish(d *delivery) {
	dev := c.dev(d)
	d.notDue(dev)
	d.over = true
	dev.forgetMisses(d)
	c.endProbe(dev, d)
	if p := dev.presence; p != nil && d.state != StateAcked && !d.received {
		p.ended(d)
	}
	c.deadlines.remove(d)
	if i, found := c.index(dev, d.seq); found {
		dev.queue = slices.Delete(dev.queue, i, i+1)
	}
	c.over = append(c.over, d)
	c.pending.finished = append(c.pending.finished, Finish{
		Key: Key{Seq: d.seq, Device: dev.ID}, At: c.clock.wallNow(), State: d.state, Attempts: int(d.attempts), Pushed: d.pushAccepted,
	})
	c.touchPending()
	if dev.idle() {
		c.pending.idle = append(c.pending.idle, dev.account)
	}
}

// supersede ends the deliveries of dev whose place the newer one takes, and reports whether
// there was one.
func (c *Core) supersede(dev *device, newer *delivery) (ended bool) {
	for d := range c.slab.each(slices.Clone(dev.queue)) {
		if d != newer && d.collapse == newer.collapse && d.seq < newer.seq && !d.state.Final() {
			c.apply(d, inSupersede, situation{})
			ended = true
		}
	}
	return ended
}

// Cancel ends every delivery of a notification that is not final, drops messages
// that are not delivered, and takes it off the screens. It returns when that is on record; with
// ErrUnavailable it is not yet, and will be unless a crash comes first.
func (c *Core) Cancel(ctx context.Context, id string) error {
	n, err := c.Find(id)
	if err != nil {
		return err
	}
	begun, err := c.cancelBegun(n)
	if err != nil {
		return err
	}
	if !begun {
		// It was in the store, and its acceptance not handled yet. Now it is.
		if err := c.Flush(ctx); err != nil {
			return err
		}
		if _, err := c.cancelBegun(n); err != nil {
			return err
		}
	}
	queued := c.dismissing(n)
	if err := c.Flush(ctx); err != nil {
		return err
	}
	if err := c.dismiss(n, "", queued); err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	// On the disk, also where an ack came first: a crash must not bring it back.
	return c.flush(ctx, true)
}

// cancelBegun ends the deliveries of n that have begun. begun: all have that will.
func (c *Core) cancelBegun(n *Notification) (begun bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return false, ErrStopped
	}
	begun = true
	for _, name := range n.Devices {
		dev := c.devices[name]
		if name == "" {
			dev = c.holderOf(n)
		}
		if dev == nil {
			continue
		}
		d := c.delivery(dev, n.Seq)
		if d == nil {
			begun = begun && dev.reserved == 0
			continue
		}
		c.apply(d, inCancel, situation{})
		c.feed(dev)
	}
	return begun, nil
}
