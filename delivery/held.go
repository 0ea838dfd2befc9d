package delivery

import (
	"cmp"
	"slices"
)

// heldFor returns the stand-in for the first device of an account without devices
// (delivery.unknown_accounts: hold). It is no entry of the registry; its deliveries
// have a Record with an empty device.
func (a *account) heldFor() *device {
	if a.held == nil {
		a.held = &device{Device: Device{Account: a.name}, account: a}
	}
	return a.held
}

// holderOf returns the holder of a notification that was held when it was read: the stand-in,
// or the device that has come since. Nil: its account is not in memory.
func (c *Core) holderOf(n *Notification) *device {
	a := c.accounts[n.Account]
	if a == nil {
		return nil
	}
	for _, d := range a.devices {
		if c.delivery(d, n.Seq) != nil {
			return d
		}
	}
	return a.held
}

// takeHeld gives a new device the notifications held for its account.
func (c *Core) takeHeld(d *device) {
	if held := d.account.held; held == nil || len(held.queue) == 0 {
		return
	}
	c.commitPending() // the device, before what is assigned to it
	for x := range c.slab.each(c.giveHeld(d)) {
		c.apply(x, inPushPossible, situation{})
	}
}

// giveHeld puts the notifications held for an account into the queue of a device of it.
func (c *Core) giveHeld(d *device) (given []handle) {
	held := d.account.held
	given, held.queue = held.queue, nil
	for x := range c.slab.each(given) {
		x.notDue(held)
		c.assign(x, d)
		d.queue = append(d.queue, x.handle)
	}
	return given
}

// recoverHeld gives notifications that are held although their account has a device to that
// device: the crash came before they were assigned. Until after the start it has time to come
// back, as for every other delivery.
func (c *Core) recoverHeld() {
	grace := c.clock.steady() + int64(c.settings.Load().Windows.Ack)
	for _, a := range c.accounts {
		if a.held == nil || len(a.held.queue) == 0 || len(a.devices) == 0 {
			continue
		}
		dev := a.devices[0]
		for d := range c.slab.each(c.giveHeld(dev)) {
			if d.state == StateWaiting {
				d.deadline = grace
				c.deadlines.schedule(d)
			}
		}
		slices.SortFunc(dev.queue, func(x, y handle) int { return cmp.Compare(c.slab.at(x).seq, c.slab.at(y).seq) })
		for d := range c.slab.each(slices.Clone(dev.queue)) {
			if d.collapse != 0 && !d.over {
				c.supersede(dev, d)
			}
		}
	}
}

// assign makes a held delivery one to dev, in the store too.
func (c *Core) assign(d *delivery, dev *device) {
	held := c.dev(d)
	if i, counted := held.Unread.index(d.seq); counted {
		dev.Unread = dev.Unread.with(held.Unread[i])
		c.putDevice(dev)
		c.markRead(held, d.seq)
	}
	c.slab.detach(d)
	c.slab.attach(d, dev)
	c.pending.assign = append(c.pending.assign, Key{Seq: d.seq, Device: dev.ID})
	c.pending.sync = true
	c.markDirty(d)
	c.touchPending()
}
