package delivery

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
	held := d.account.held
	if held == nil || len(held.queue) == 0 {
		return
	}
	queue := held.queue
	held.queue = nil
	c.commitPending() // the device, before what is assigned to it
	for x := range c.slab.each(queue) {
		x.notDue(held)
		c.assign(x, d)
		d.queue = append(d.queue, x.handle)
	}
	for x := range c.slab.each(queue) {
		c.apply(x, inPushPossible, situation{})
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
