package delivery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// forgetEvery is how often the registry is searched for devices to forget.
const forgetEvery = time.Hour

// seenResolution spares the store a write at every subscription of a device that
// comes and goes: SeenAt may be this much too old.
const seenResolution = time.Hour

// device is a registry entry that is in memory: because it is connected, has
// something unfinished, or shares its account with one that is or has.
type device struct {
	Device
	account  *account
	presence *Presence   // nil: the channel is down
	queue    []*delivery // unfinished, in the order of acceptance
	due      int         // how many of the queue want the channel
	reserved int         // deliveries of accepts that are being committed
	dropped  string      // why it is not registered any more; "": it is
	app      AppState
	since    time.Time // of the channel's state
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
	pins    int       // commits on their way into the store that change its registry entries
}

func (d *device) idle() bool {
	return d.presence == nil && len(d.queue) == 0 && d.reserved == 0
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
		changes := c.registryChanges
		c.mu.Unlock()
		// Read outside the mutex. No change of this account can be on its way into
		// the store: one that was would hold a pin, and the account in memory.
		stored, err := c.out.AccountDevices(name)
		if err != nil {
			return fmt.Errorf("read the devices of account %s: %w", name, err)
		}
		c.mu.Lock()
		if c.accounts[name] == nil && c.registryChanges == changes { // else: again
			c.load(name, stored)
		}
		c.mu.Unlock()
	}
}

func (c *Core) load(name string, stored []Device) {
	a := &account{name: name}
	c.accounts[name] = a
	for i := range stored {
		if c.devices[stored[i].ID] == nil { // else: it has just moved to another account
			c.addDevice(a, stored[i])
		}
	}
}

func (c *Core) addDevice(a *account, rec Device) *device {
	d := &device{Device: rec, account: a, since: time.Now()}
	if rec.ReportsApp {
		d.app = AppBackground // until it reports again
	}
	i, _ := slices.BinarySearchFunc(a.devices, rec.ID, func(d *device, id string) int { return strings.Compare(d.ID, id) })
	a.devices = slices.Insert(a.devices, i, d)
	c.devices[rec.ID] = d
	return d
}

// release takes an account out of memory when nothing of it is going on. Until the
// store has its changes the store does not tell the truth about it.
func (c *Core) release(a *account) {
	if a.pins > 0 {
		return
	}
	for _, d := range a.devices {
		if !d.idle() {
			return
		}
	}
	for _, d := range a.devices {
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

// withDevice calls fn under the mutex with a registered device of the account,
// registering it first where it is new. A device of another account moves here:
// another user has logged in on it, and what was outstanding for the former one
// is cancelled rather than shown to the wrong person.
func (c *Core) withDevice(id, accountName string, fn func(*device) error) error {
	for {
		former, err := c.AccountOf(id)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		if err == nil && former != accountName {
			if err := c.removeDevice(former, id, "device moved to account "+accountName); err != nil && !errors.Is(err, ErrNotFound) {
				return err
			}
		}
		var moved bool
		err = c.withAccount(accountName, func(a *account) error {
			d := a.device(id)
			if d == nil {
				if moved = c.devices[id] != nil; moved {
					return nil // into yet another account, since we looked
				}
				d = c.addDevice(a, Device{ID: id, Account: accountName})
			}
			c.seen(d)
			return fn(d)
		})
		if !moved {
			return err
		}
	}
}

// seen counts as one of the signs of life that keep a device registered.
func (c *Core) seen(d *device) {
	if now := time.Now(); now.Sub(d.SeenAt) >= seenResolution {
		d.SeenAt = now
		c.putDevice(d)
	}
}

// putDevice has the registry entry of d written, before the mutex is given up.
func (c *Core) putDevice(d *device) {
	c.pending.putDevices = append(c.pending.putDevices, d.Device.Clone())
	c.pending.registry = append(c.pending.registry, d.account)
	c.pending.sync = true
	c.touchPending()
}

// AccountOf returns the account of a registered device.
func (c *Core) AccountOf(id string) (string, error) {
	c.mu.Lock()
	d := c.devices[id]
	c.mu.Unlock()
	if d != nil {
		return d.Account, nil
	}
	rec, err := c.out.Device(id)
	if err != nil {
		return "", fmt.Errorf("device %s: %w", id, err)
	}
	return rec.Account, nil
}

// PutDevice registers a device for a service, or renews its entry, and moves it
// here if another account holds it. A nil r leaves its registrations as they are.
func (c *Core) PutDevice(ctx context.Context, accountName, id string, r *Registration) error {
	if err := ValidName("device", id); err != nil {
		return err
	}
	if err := ValidName("account", accountName); err != nil {
		return err
	}
	if r == nil {
		if err := c.withDevice(id, accountName, func(*device) error { return nil }); err != nil {
			return err
		}
	} else if err := c.SetRegistration(id, accountName, *r); err != nil {
		return err
	}
	return c.Flush(ctx)
}

// SetRegistration gives a device a registration in the place of the one of its
// kind. A token that another device holds moves: it is one physical device, handed
// on or signed in again.
func (c *Core) SetRegistration(id, accountName string, r Registration) error {
	if r.Kind == "" {
		r.Kind = KindAlert
	}
	if c.opts.CheckRegistration != nil {
		if err := c.opts.CheckRegistration(r); err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
	}
	if c.opts.CompleteRegistration != nil {
		var err error
		if r, err = c.opts.CompleteRegistration(r); err != nil {
			return fmt.Errorf("%w: push token of device %s: %w", ErrInvalid, id, err)
		}
	}
	r.RegisteredAt, r.Suspended, r.Ended = time.Now(), nil, nil
	holder, err := c.out.TokenOwner(r.Server, r.Token)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("find the holder of the push token of device %s: %w", id, err)
	}
	return c.withDevice(id, accountName, func(d *device) error {
		if other := c.devices[holder]; other != nil && other != d {
			// The store moves it by itself.
			other.RemoveRegistrations(func(x *Registration) bool { return x.Server == r.Server && x.Token == r.Token })
		}
		d.SetRegistration(r)
		d.SeenAt = r.RegisteredAt
		c.putDevice(d)
		return nil
	})
}

// RemoveRegistrations removes a device's registrations of a server, with kind "" of
// every kind.
func (c *Core) RemoveRegistrations(id, accountName, server, kind string) error {
	return c.withDevice(id, accountName, func(d *device) error {
		if d.RemoveRegistrations(func(r *Registration) bool { return r.Server == server && (kind == "" || r.Kind == kind) }) {
			c.putDevice(d)
		}
		return nil
	})
}

// ForgetDevice takes a device out of the registry and cancels what is outstanding
// for it.
func (c *Core) ForgetDevice(ctx context.Context, accountName, id string) error {
	if err := c.removeDevice(accountName, id, "device removed"); err != nil {
		return err
	}
	return c.Flush(ctx)
}

func (c *Core) removeDevice(accountName, id, why string) error {
	return c.withAccount(accountName, func(a *account) error {
		d := a.device(id)
		if d == nil {
			return fmt.Errorf("%w: device %s of account %s", ErrUnknownDevice, id, accountName)
		}
		c.drop(d, why)
		return nil
	})
}

// drop ends everything of a device. Its entry is removed in a commit of its own:
// a batch puts devices before it removes any.
func (c *Core) drop(d *device, why string) {
	d.dropped = why
	for len(d.queue) > 0 {
		c.apply(d.queue[0], inCancel, situation{detail: why})
	}
	if d.presence != nil {
		d.presence.gone = true
		d.presence = nil
	}
	c.commitPending()
	c.pending.removed = append(c.pending.removed, d.ID)
	c.pending.registry = append(c.pending.registry, d.account)
	c.pending.sync = true
	c.touchPending()
	c.commitPending()
	d.account.devices = slices.DeleteFunc(d.account.devices, func(x *device) bool { return x == d })
	delete(c.devices, d.ID)
}

// forgetDevices drops the devices that have given no sign of life for too long.
func (c *Core) forgetDevices() {
	limit := time.Now().Add(-c.opts.ForgetDeviceAfter)
	var old []Device
	err := c.out.Devices(func(d *Device) bool {
		if d.SeenAt.Before(limit) {
			old = append(old, *d)
		}
		return true
	})
	if err != nil {
		c.log.Error("search the registry for devices to forget", "error", err)
	}
	for _, rec := range old {
		err := c.withAccount(rec.Account, func(a *account) error {
			if d := a.device(rec.ID); d != nil && d.presence == nil && d.SeenAt.Before(limit) {
				c.drop(d, "device not seen for "+c.opts.ForgetDeviceAfter.String())
			}
			return nil
		})
		if err != nil && !errors.Is(err, ErrStopped) {
			c.log.Error("forget a device", "device", rec.ID, "error", err)
		}
	}
}

// maxName is the length of an account or a device in bytes: each is a level of a
// topic name (contract §3).
const maxName = 128

// ValidName tells whether name can be an account or a device: a level of an MQTT
// topic name (MQTT 5 §4.7.1) of 1 to 128 bytes without control characters. what
// stands in the error for what name is.
func ValidName(what, name string) error {
	if name == "" {
		return fmt.Errorf("%w: %s: must not be empty", ErrInvalid, what)
	}
	if len(name) > maxName {
		return fmt.Errorf("%w: %s: at most %d bytes, got %d", ErrInvalid, what, maxName, len(name))
	}
	for _, r := range name {
		if r == '/' || r == '+' || r == '#' || r < 0x20 || r >= 0x7f && r < 0xa0 || r == 0xfffd {
			return fmt.Errorf("%w: %s: must be one level of a topic, without '/', '+', '#' and control characters, got %q", ErrInvalid, what, name)
		}
	}
	return nil
}
