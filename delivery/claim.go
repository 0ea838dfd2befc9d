package delivery

import (
	"fmt"
	"slices"
)

// renewed lifts the suspension of r if the app's configuration has changed since.
func (c *Core) renewed(r *Registration) bool {
	if r.Suspended == nil || c.opts.AppConfig == nil || c.opts.AppConfig(*r) == r.Suspended.Config {
		return false
	}
	r.Suspended = nil
	return true
}

// completed fills in the fields that r leaves out, by the current configuration. It
// returns r as it is where that cannot be done: its server is off, or serves it no longer.
func (c *Core) completed(r Registration) Registration {
	if c.opts.CompleteRegistration == nil || r.Ended != nil {
		return r
	}
	full, err := c.opts.CompleteRegistration(r)
	if err != nil {
		return r
	}
	r.App, r.Environment = full.App, full.Environment
	return r
}

// indexTokens enters the registrations of d into the index of their holders.
func (c *Core) indexTokens(d *device) {
	for i := range d.Registrations {
		if r := &d.Registrations[i]; r.Ended == nil {
			c.holders[r.address()] = d
		}
	}
}

// unindexTokens takes them out.
func (c *Core) unindexTokens(d *device) {
	for i := range d.Registrations {
		if a := d.Registrations[i].address(); c.holders[a] == d {
			delete(c.holders, a)
		}
	}
}

// changeRegistrations has change work on the registrations of d, and the index of
// holders follow.
func (c *Core) changeRegistrations(d *device, change func()) {
	c.reindexed(d, change)
	c.putDevice(d)
}

// reindexed is changeRegistrations for a change that the store gets by another way.
func (c *Core) reindexed(d *device, change func()) {
	before := slices.Clone(d.Registrations)
	c.unindexTokens(d)
	change()
	c.indexTokens(d)
	c.redirectPushes(d, before)
}

// redirectPushes takes the pushes of dev back from registrations that it no longer holds:
// they must not wait for a server, a limit or a Retry-After that is none of the new
// registration's. A request in flight is not cut off.
func (c *Core) redirectPushes(dev *device, before []Registration) {
	replaced := func(kind string) bool {
		was, is := (&Device{Registrations: before}).Registration(kind), dev.Registration(kind)
		return was != nil && was.Ended == nil && (is == nil || is.Ended != nil || !is.SameAddress(was))
	}
	now := c.clock.steady()
	for d := range c.slab.each(dev.queue) {
		switch {
		case d.state.Final() || !replaced(c.registrationKind(d)):
		case d.pushUnderway:
			c.withdrawPush(d)
		case d.pushAfter > now:
			c.retryPush(d, now)
		}
	}
	if replaced(KindAlert) {
		for _, x := range dev.dismissals {
			x.withdrawPush()
		}
	}
}

// retryPush ends the wait of a push that is to be tried again.
func (c *Core) retryPush(d *delivery, now int64) {
	c.withdrawPush(d)
	d.pushAfter = now
	if d.state == StatePushing {
		d.deadline = now
		c.markDirty(d)
		c.deadlines.schedule(d)
		c.wake()
	}
}

// SetRegistration gives a device a registration, in the place of the one of its
// kind. A token that another device holds moves, across accounts too: it is one
// physical device, handed on or signed in again. Of two claims the last wins.
func (c *Core) SetRegistration(id, accountName string, r Registration) error {
	return c.register(id, accountName, r, false)
}

func (c *Core) register(id, accountName string, r Registration, move bool) error {
	if r.Kind == "" {
		r.Kind = KindAlert
	}
	if c.opts.CheckRegistration != nil {
		if err := c.opts.CheckRegistration(r); err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
	}
	if c.opts.CompleteRegistration != nil {
		full, err := c.opts.CompleteRegistration(r)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		// What the registration leaves out stays open: it follows the configuration when
		// that is mended.
		full.App, full.Environment = r.App, r.Environment
		r = full
	}
	r.RegisteredAt, r.Suspended, r.Ended = c.clock.wallNow(), nil, nil
	return c.asDevice(id, accountName, move, func(d *device) error {
		if other := c.holders[r.address()]; other != nil && other != d {
			c.takeAway(other, r.address())
		}
		// Whoever holds it in the store alone loses it there. With neighbours that can be so
		// although this device holds it in memory: their claim is on its way here.
		if c.holders[r.address()] != d || c.opts.Neighbours != nil {
			c.pending.slots = append(c.pending.slots, slot(r.address().String()))
			c.noteClaim(Claim{Server: r.Server, Token: r.Token})
		}
		d.SeenAt = r.RegisteredAt
		c.changeRegistrations(d, func() {
			// The same token under another kind is the same token.
			d.RemoveRegistrations(func(x *Registration) bool { return x.Ended == nil && x.address() == r.address() && x.Kind != r.Kind })
			d.SetRegistration(r)
		})
		put := &c.pending.putDevices[len(c.pending.putDevices)-1]
		put.Registrations[slices.IndexFunc(put.Registrations, func(x Registration) bool { return x.address() == r.address() })].Claims = true
		c.pushPossible(d, func(x *Registration) bool { return x.Kind == r.Kind })
		return nil
	})
}

// takeAway removes a registration that another device has claimed. The claim moves
// it in the store, which decides for devices that are not in memory.
func (c *Core) takeAway(d *device, a address) {
	c.log.Info("registration removed: another device has registered the same token", "device", d.ID, "account", d.Account)
	c.reindexed(d, func() {
		d.RemoveRegistrations(func(r *Registration) bool { return r.Ended == nil && r.address() == a })
	})
	c.pending.registry = append(c.pending.registry, d.account) // in memory until the store agrees
	c.pending.slots = append(c.pending.slots, slot(d.account.name), slot(d.ID))
}

// RemoveRegistrations removes a device's registrations of a server, with kind "" of
// every kind. A device that is not known has none.
func (c *Core) RemoveRegistrations(id, accountName, server, kind string) error {
	return c.withDevice(id, accountName, func(a *account, d *device) error {
		switch {
		case d == nil:
			return nil
		case d.account != a:
			return fmt.Errorf("%w: %s", ErrForeignDevice, id)
		}
		match := func(r *Registration) bool { return r.Server == server && (kind == "" || r.Kind == kind) }
		if slices.ContainsFunc(d.Registrations, func(r Registration) bool { return match(&r) }) {
			c.changeRegistrations(d, func() { d.RemoveRegistrations(match) })
		}
		return nil
	})
}

// PushPossible says that pushes to an app have become possible, or may have: it is
// configured, its configuration has changed, or its server is switched on.
// Suspensions that another configuration caused are lifted, and deliveries that
// wait for a push, or for their next try of one, are pushed.
func (c *Core) PushPossible(server, app string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return
	}
	c.pushConfigs++
	now := c.clock.steady()
	match := func(r *Registration) bool {
		return r.Server == server && (app == "" || r.App == app || c.completed(*r).App == app)
	}
	for _, d := range c.devices {
		for i := range d.Registrations {
			if r := &d.Registrations[i]; match(r) && c.renewed(r) {
				c.putDevice(d)
			}
		}
		for x := range c.slab.each(d.queue) {
			if r := c.registration(x); r != nil && match(r) && !x.pushUnderway && x.pushAfter > now {
				c.retryPush(x, now)
			}
		}
		c.pushPossible(d, match)
	}
	c.settle()
}

// pushPossible asks for pushes of the deliveries that wait for one, to the
// registrations of dev that match.
func (c *Core) pushPossible(dev *device, match func(*Registration) bool) {
	for d := range c.slab.each(slices.Clone(dev.queue)) {
		if r := c.registration(d); r != nil && match(r) && !d.state.Final() {
			c.apply(d, inPushPossible, situation{})
		}
	}
	if r := dev.Registration(KindAlert); r != nil && match(r) && dev.presence == nil {
		c.pushDismissals(dev)
	}
}
