package delivery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// seenResolution spares the store a write at every subscription of a device that
// comes and goes: SeenAt may be this much too old.
const seenResolution = time.Hour

// device is a registry entry that is in memory: because it is connected, has
// something unfinished, or shares its account with one that is or has.
type device struct {
	Device
	account    *account
	presence   *Presence // nil: the channel is down
	queue      []handle  // unfinished deliveries, in the order of acceptance
	due        int       // how many of the queue want the channel
	reserved   int       // deliveries of acceptances that are being committed
	number     uint32    // in the slab, while it has deliveries
	deliveries int       // in the slab: of the queue, and others
	dropped    string    // why it is not registered any more; "": it is
	foreign    bool      // it stands for a device of another shard, and is not in memory
	app        AppState
	since      time.Time // of the channel's state; zero: not known
	probe      *delivery // the one that tries a suspended registration
	lanes      []*pushLane
	// dismissals are the notifications to take off its screen, in their order.
	dismissals []*dismissal
	// dropsDismissals: the latest one took the place of the oldest.
	dropsDismissals bool
	dismissing      int // pushes of dismissals that are not answered yet
}

// AppState is what a device has said of its app.
type AppState uint8

// The app states. A device that has never reported is AppUnknown.
const (
	AppUnknown AppState = iota
	AppForeground
	AppBackground
)

func (a AppState) String() string {
	return [...]string{"unknown", "foreground", "background"}[a]
}

// account is the devices of one account, all of them.
type account struct {
	name    string
	devices []*device // by ID
	held    *device   // stands for the first device to come; nil: nothing is held for it
	pins    int       // commits on their way into the store that change its registry entries
}

func (d *device) idle() bool {
	return d.presence == nil && len(d.queue) == 0 && len(d.dismissals) == 0 && d.reserved == 0 && !d.asking()
}

// asking reports whether an answer of a notification server is still to come. It may change
// the registry entry, also after the end of its delivery.
func (d *device) asking() bool {
	return d.dismissing > 0 || slices.ContainsFunc(d.lanes, (*pushLane).asking)
}

// answered releases the account of d if the last answer of a notification server has come.
func (c *Core) answered(d *device) {
	if d.idle() {
		c.pending.idle = append(c.pending.idle, d.account)
	}
}

// withAccount calls fn under the mutex with the account in memory, which is empty
// for an account without devices.
func (c *Core) withAccount(name string, fn func(*account) error) error {
	for {
		c.mu.Lock()
		if c.stopped {
			c.mu.Unlock()
			return ErrStopped
		}
		if a := c.accounts[name]; a != nil {
			err := fn(a)
			c.settle()
			c.release(a)
			c.mu.Unlock()
			return err
		}
		before := c.versions
		c.mu.Unlock()
		if err := c.load(name, &before); err != nil {
			return err
		}
	}
}

// withDevice calls fn under the mutex with an account and a device in memory. The
// device may be another account's; it is nil if no account holds it.
func (c *Core) withDevice(id, accountName string, fn func(*account, *device) error) error {
	unknown := false    // the store has no such device,
	var other *device   // or a neighbour serves it,
	var asOf uint32     // if nothing has changed since
	var loaded []string // accounts to release again
	defer func() {
		if len(loaded) == 0 {
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, name := range loaded {
			c.release(c.accounts[name])
		}
	}()
	for {
		c.mu.Lock()
		if c.stopped {
			c.mu.Unlock()
			return ErrStopped
		}
		a, d := c.accounts[accountName], c.devices[id]
		if a != nil && (d != nil || (unknown || other != nil) && c.versions.of(id) == asOf) {
			if d == nil {
				d = other
			}
			err := fn(a, d)
			c.settle()
			c.release(a)
			c.mu.Unlock()
			return err
		}
		before := c.versions
		c.mu.Unlock()
		missing := accountName
		if a != nil {
			rec, err := c.out.Device(id)
			if errors.Is(err, ErrNotFound) {
				unknown, other, asOf = true, nil, before.of(id)
				continue
			} else if err != nil {
				return fmt.Errorf("read device %s: %w", id, err)
			}
			if n := c.opts.Neighbours; n != nil && !n.Ours(rec.Account) {
				unknown, other, asOf = false, foreign(rec), before.of(id)
				continue
			}
			c.mu.Lock()
			if holder := c.accounts[rec.Account]; holder != nil {
				// In memory, so that it knows better: the removal is on its way.
				unknown, other, asOf = c.devices[id] == nil, nil, c.versions.of(id)
				c.mu.Unlock()
				continue
			}
			c.mu.Unlock()
			missing = rec.Account
		}
		if err := c.load(missing, &before); err != nil {
			return err
		}
		loaded = append(loaded, missing)
	}
}

// load reads an account into memory, unless its registry entries have changed since
// `before`. No change can be on its way into the store: it would hold a pin, and the
// account in memory.
func (c *Core) load(name string, before *versions) error {
	stored, err := c.out.AccountDevices(name)
	if err != nil {
		return fmt.Errorf("read the devices of account %s: %w", name, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.accounts[name] != nil || c.versions.of(name) != before.of(name) {
		return nil // the caller looks again
	}
	for i := range stored {
		if c.versions.of(stored[i].ID) != before.of(stored[i].ID) {
			return nil
		}
		for j := range stored[i].Registrations {
			token := stored[i].Registrations[j].address().String()
			if c.versions.of(token) != before.of(token) {
				return nil
			}
		}
	}
	c.loadLocked(name, stored)
	return nil
}

func (c *Core) loadLocked(name string, stored []Device) *account {
	a := &account{name: name}
	c.accounts[name] = a
	for i := range stored {
		if c.devices[stored[i].ID] == nil { // else: it has just moved to another account
			c.addDevice(a, stored[i])
		}
	}
	return a
}

func (c *Core) addDevice(a *account, rec Device) *device {
	d := &device{Device: rec, account: a}
	if rec.ReportsApp {
		d.app = AppBackground // until it reports again
	}
	// A claim on its way into the store has taken some away.
	d.RemoveRegistrations(func(r *Registration) bool {
		holder := c.holders[r.address()]
		return r.Ended == nil && holder != nil && holder != d
	})
	for i := range d.Registrations {
		c.renewed(&d.Registrations[i])
	}
	c.indexTokens(d)
	i, _ := slices.BinarySearchFunc(a.devices, rec.ID, func(d *device, id string) int { return strings.Compare(d.ID, id) })
	a.devices = slices.Insert(a.devices, i, d)
	c.devices[rec.ID] = d
	return d
}

// release takes an account out of memory when nothing of it is going on. Until the
// store has its changes the store does not tell the truth about it.
func (c *Core) release(a *account) {
	if a == nil || a.pins > 0 || a.held != nil && !a.held.idle() || c.accounts[a.name] != a {
		return
	}
	for _, d := range a.devices {
		if !d.idle() {
			return
		}
	}
	for _, d := range a.devices {
		c.unindexTokens(d)
		delete(c.devices, d.ID)
	}
	delete(c.accounts, a.name)
}

func (a *account) device(id string) *device {
	i, found := slices.BinarySearchFunc(a.devices, id, func(d *device, id string) int { return strings.Compare(d.ID, id) })
	if !found {
		return nil
	}
	return a.devices[i]
}

// asDevice calls fn under the mutex with a registered device of the account,
// registering it first where it is new. A device that another account holds is
// refused (ErrForeignDevice) unless it may move: by a service's word, or where
// nobody's name is checked (Options.AnyAccount). Deliveries to its former
// user are cancelled rather than shown to the wrong person.
func (c *Core) asDevice(id, accountName string, move bool, fn func(*device) error) error {
	for {
		holder, err := c.asOwnDevice(id, accountName, move, fn)
		if holder == "" || err != nil {
			return err
		}
		if err := c.releaseForeign(holder, id); err != nil {
			return err
		}
	}
}

// asOwnDevice is asDevice for a device that no account of another shard holds. If one
// does, and the device may move, it returns that account and does nothing.
func (c *Core) asOwnDevice(id, accountName string, move bool, fn func(*device) error) (holder string, err error) {
	err = c.withDevice(id, accountName, func(a *account, d *device) error {
		if d != nil && d.account != a {
			if !move && !c.opts.AnyAccount {
				return fmt.Errorf("%w: %s", ErrForeignDevice, id)
			}
			if d.foreign {
				holder = d.Account
				return nil
			}
			former := d.account
			c.log.Info("device moved to another account, its registrations are removed", "device", id, "account", former.name)
			c.drop(d, "device moved to another account")
			c.pending.idle = append(c.pending.idle, former)
			d = nil
		}
		if d == nil {
			d = c.addDevice(a, Device{ID: id, Account: accountName})
			c.seen(d)
			c.noteClaim(Claim{Device: id})
			c.takeHeld(d)
		}
		c.seen(d)
		return fn(d)
	})
	return holder, err
}

// seen notes a sign of life, which keeps a device registered (contract §3).
func (c *Core) seen(d *device) { c.seenWithin(d, seenResolution) }

func (c *Core) seenWithin(d *device, resolution time.Duration) {
	if now := c.clock.wallNow(); d.dropped == "" && now.Sub(d.SeenAt) >= resolution {
		d.SeenAt = now
		c.putDevice(d)
	}
}

// putDevice has the registry entry of d written, before the mutex is given up.
func (c *Core) putDevice(d *device) {
	c.pending.putDevices = append(c.pending.putDevices, d.Device.Clone())
	c.changed(d)
}

// changed notes that the registry entry of d is about to change in the store.
func (c *Core) changed(d *device) {
	c.pending.registry = append(c.pending.registry, d.account)
	c.pending.slots = append(c.pending.slots, slot(d.account.name), slot(d.ID))
	c.pending.sync = true
	c.touchPending()
}

// AccountOf returns the account that holds a device. The error wraps
// ErrUnknownDevice if none does.
func (c *Core) AccountOf(id string) (string, error) {
	c.mu.Lock()
	d := c.devices[id]
	c.mu.Unlock()
	if d != nil {
		return d.Account, nil
	}
	rec, err := c.out.Device(id)
	if errors.Is(err, ErrNotFound) {
		return "", fmt.Errorf("%w: %s", ErrUnknownDevice, id)
	} else if err != nil {
		return "", fmt.Errorf("read device %s: %w", id, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if d := c.devices[id]; d != nil {
		return d.Account, nil
	}
	if c.accounts[rec.Account] != nil { // its removal is on its way into the store
		return "", fmt.Errorf("%w: %s", ErrUnknownDevice, id)
	}
	return rec.Account, nil
}

// CheckOwner returns ErrForeignDevice if another account holds the device, and nil
// if accountName does or nobody. It is what a CONNECT is checked with; what the
// device does later is checked again.
func (c *Core) CheckOwner(id, accountName string) error {
	if c.opts.AnyAccount {
		return nil
	}
	holder, err := c.AccountOf(id)
	switch {
	case errors.Is(err, ErrUnknownDevice):
		return nil
	case err != nil:
		return err
	case holder != accountName:
		return fmt.Errorf("%w: %s", ErrForeignDevice, id)
	}
	return nil
}

// Register makes a device known without a channel. It is what a subscription
// below QoS 1 amounts to.
func (c *Core) Register(id, accountName string) error {
	return c.asDevice(id, accountName, false, func(*device) error { return nil })
}

// RegisterVia is Register for a device that is not connected by MQTT.
func (c *Core) RegisterVia(id, accountName, via string) error {
	return c.asDevice(id, accountName, false, func(d *device) error {
		c.reachedVia(d, via, d.Address, d.Foreground)
		return nil
	})
}

// reachedVia notes in the registry how a device is connected, and whether the session at
// address has its app in the foreground.
func (c *Core) reachedVia(d *device, via, address string, foreground bool) {
	if via == ViaMQTT {
		via = ""
	}
	foreground = foreground && address != ""
	if d.Via != via || d.Address != address || d.Foreground != foreground {
		d.Via, d.Address, d.Foreground = via, address, foreground
		c.putDevice(d)
	}
}

// ForgetAddress says that nothing answers at a device's address any more. A device that
// has moved to another address, or is not known, is left alone.
func (c *Core) ForgetAddress(id, accountName, address string) error {
	return c.withDevice(id, accountName, func(a *account, d *device) error {
		if d != nil && d.account == a && d.Address == address && d.presence == nil {
			c.reachedVia(d, d.Via, "", false)
		}
		return nil
	})
}

// PutDevice registers a device for a service, or renews its entry, and moves it
// here if another account holds it. A nil r leaves its registrations as they are.
func (c *Core) PutDevice(ctx context.Context, accountName, id string, r *Registration) error {
	if err := errors.Join(ValidAccount(accountName), ValidDevice(id)); err != nil {
		return err
	}
	for {
		var err error
		if r == nil {
			err = c.asDevice(id, accountName, true, func(*device) error { return nil })
		} else {
			err = c.register(id, accountName, *r, true)
		}
		if err == nil {
			err = c.Flush(ctx)
		}
		if err != nil || c.opts.Neighbours == nil {
			return err
		}
		// An account of another shard may have registered it at the same time, and been first.
		rec, err := c.out.Device(id)
		switch {
		case errors.Is(err, ErrNotFound): // removed since
			return nil
		case err != nil:
			return fmt.Errorf("read device %s: %w", id, err)
		case rec.Account == accountName:
			return nil
		}
		if err := c.OnClaimed(Claim{Device: id}); err != nil {
			return err
		}
	}
}
