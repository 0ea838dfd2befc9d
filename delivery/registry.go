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
	account  *account
	presence *Presence   // nil: the channel is down
	queue    []*delivery // unfinished, in the order of acceptance
	due      int         // how many of the queue want the channel
	reserved int         // deliveries of acceptances that are being committed
	dropped  string      // why it is not registered any more; "": it is
	app      AppState
	since    time.Time // of the channel's state; zero: not known
	probe    *delivery // the one that tries a suspended registration
	lanes    []*pushLane
	// dismissals are the notifications to take off its screen, in their order.
	dismissals []*dismissal
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
	return d.presence == nil && len(d.queue) == 0 && len(d.dismissals) == 0 && d.reserved == 0
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
		if a != nil && (d != nil || unknown && c.versions.of(id) == asOf) {
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
				unknown, asOf = true, before.of(id)
				continue
			} else if err != nil {
				return fmt.Errorf("read device %s: %w", id, err)
			}
			c.mu.Lock()
			if holder := c.accounts[rec.Account]; holder != nil {
				// In memory, so that it knows better: the removal is on its way.
				unknown, asOf = c.devices[id] == nil, c.versions.of(id)
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
	c.unindexTokens(d)
	change()
	c.indexTokens(d)
	c.putDevice(d)
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
	return c.withDevice(id, accountName, func(a *account, d *device) error {
		if d != nil && d.account != a {
			if !move && !c.opts.AnyAccount {
				return fmt.Errorf("%w: %s", ErrForeignDevice, id)
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
			c.takeHeld(d)
		}
		c.seen(d)
		return fn(d)
	})
}

// seen notes a sign of life, which keeps a device registered (contract §3).
func (c *Core) seen(d *device) { c.seenWithin(d, seenResolution) }

func (c *Core) seenWithin(d *device, resolution time.Duration) {
	if now := time.Now(); d.dropped == "" && now.Sub(d.SeenAt) >= resolution {
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
		c.reachedVia(d, via, d.Address)
		return nil
	})
}

// reachedVia notes in the registry how a device is connected.
func (c *Core) reachedVia(d *device, via, address string) {
	if via == ViaMQTT {
		via = ""
	}
	if d.Via != via || d.Address != address {
		d.Via, d.Address = via, address
		c.putDevice(d)
	}
}

// ForgetAddress says that nothing answers at a device's address any more. A device that
// has moved to another address, or is not known, is left alone.
func (c *Core) ForgetAddress(id, accountName, address string) error {
	return c.withDevice(id, accountName, func(a *account, d *device) error {
		if d != nil && d.account == a && d.Address == address && d.presence == nil {
			c.reachedVia(d, d.Via, "")
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
	if r == nil {
		if err := c.asDevice(id, accountName, true, func(*device) error { return nil }); err != nil {
			return err
		}
	} else if err := c.register(id, accountName, *r, true); err != nil {
		return err
	}
	return c.Flush(ctx)
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
	r.RegisteredAt, r.Suspended, r.Ended = time.Now(), nil, nil
	return c.asDevice(id, accountName, move, func(d *device) error {
		if other := c.holders[r.address()]; other != nil && other != d {
			c.takeAway(other, r.address())
		}
		if c.holders[r.address()] != d {
			// Whoever holds it in the store alone loses it there.
			c.pending.slots = append(c.pending.slots, slot(r.address().String()))
		}
		d.SeenAt = r.RegisteredAt
		c.changeRegistrations(d, func() {
			// The same token under another kind is the same token.
			d.RemoveRegistrations(func(x *Registration) bool { return x.Ended == nil && x.address() == r.address() && x.Kind != r.Kind })
			d.SetRegistration(r)
		})
		c.pushPossible(d, func(x *Registration) bool { return x.Kind == r.Kind })
		return nil
	})
}

// takeAway removes a registration that another device has claimed. The claim moves
// it in the store, which decides for devices that are not in memory.
func (c *Core) takeAway(d *device, a address) {
	c.log.Info("registration removed: another device has registered the same token", "device", d.ID, "account", d.Account)
	c.unindexTokens(d)
	d.RemoveRegistrations(func(r *Registration) bool { return r.Ended == nil && r.address() == a })
	c.indexTokens(d)
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
// wait for a push are pushed.
func (c *Core) PushPossible(server, app string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return
	}
	match := func(r *Registration) bool {
		return r.Server == server && (app == "" || r.App == app || r.App == "" && c.completed(*r).App == app)
	}
	for _, d := range c.devices {
		for i := range d.Registrations {
			if r := &d.Registrations[i]; match(r) && c.renewed(r) {
				c.putDevice(d)
			}
		}
		c.pushPossible(d, match)
	}
	c.settle()
}

// pushPossible asks for pushes of the deliveries that wait for one, to the
// registrations of dev that match.
func (c *Core) pushPossible(dev *device, match func(*Registration) bool) {
	for _, d := range slices.Clone(dev.queue) {
		if r := d.registration(); r != nil && match(r) && !d.state.Final() {
			c.apply(d, inPushPossible, situation{})
		}
	}
}

// SignOut takes a device out of the registry because its user leaves it: its
// registrations go, and its deliveries are cancelled. It returns when that is on the
// disk; the caller then ends the connection and the session. A
// device that is not known has signed out already.
func (c *Core) SignOut(ctx context.Context, id, accountName string) error {
	err := c.withDevice(id, accountName, func(a *account, d *device) error {
		switch {
		case d == nil:
			return nil
		case d.account != a:
			return fmt.Errorf("%w: %s", ErrForeignDevice, id)
		}
		c.drop(d, "signed out")
		return nil
	})
	if err != nil {
		return err
	}
	return c.flush(ctx, true)
}

// ForgetDevice takes a device out of the registry for a service, and cancels its
// deliveries.
func (c *Core) ForgetDevice(ctx context.Context, accountName, id string) error {
	err := c.withDevice(id, accountName, func(a *account, d *device) error {
		if d == nil || d.account != a {
			return fmt.Errorf("%w: account %s has no device %s", ErrUnknownDevice, accountName, id)
		}
		c.drop(d, "device removed")
		return nil
	})
	if err != nil {
		return err
	}
	return c.Flush(ctx)
}

// drop ends everything of a device. Its entry is removed in a commit of its own:
// a batch puts devices before it removes any.
func (c *Core) drop(d *device, why string) {
	d.dropped = why
	for len(d.queue) > 0 {
		c.apply(d.queue[0], inCancel, situation{detail: why})
	}
	for len(d.dismissals) > 0 {
		c.removeDismissal(d, d.dismissals[0])
	}
	if d.presence != nil {
		d.presence.gone = true
		d.presence = nil
	}
	c.commitPending()
	c.pending.removed = append(c.pending.removed, d.ID)
	c.changed(d)
	c.commitPending()
	c.unindexTokens(d)
	d.account.devices = slices.DeleteFunc(d.account.devices, func(x *device) bool { return x == d })
	delete(c.devices, d.ID)
}

// wallSettles is how long the wall clock must go on after it was set by more than
// that before devices are forgotten by it.
const wallSettles = time.Hour

// forgetDevices drops the devices that have given no sign of life for too long.
func (c *Core) forgetDevices() {
	if !c.wallTrusted() {
		return
	}
	now := time.Now()
	limit := now.Add(-c.settings.Load().ForgetDeviceAfter)
	var old []Device
	err := c.out.Devices("", func(d *Device) bool {
		if d.SeenAt.Before(limit) {
			old = append(old, *d)
		}
		return true
	})
	if err != nil {
		c.log.Error("search for devices to forget failed", "error", err)
	}
	for _, rec := range old {
		err := c.withAccount(rec.Account, func(a *account) error {
			if d := a.device(rec.ID); d != nil && d.presence == nil && d.SeenAt.Before(limit) {
				c.drop(d, "device not seen for "+c.settings.Load().ForgetDeviceAfter.String())
			}
			return nil
		})
		if err != nil && !errors.Is(err, ErrStopped) {
			c.log.Error("device not forgotten, trying again", "device", rec.ID, "error", err)
		}
	}
}

// wallTrusted notes the sign of life that a connection is, and reports whether the
// wall clock may be used to forget devices: it has not been set far for a while.
func (c *Core) wallTrusted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clock.resync()
	if step := c.clock.wallStep(); step.Abs() > wallSettles {
		c.wallSetAt = c.clock.steady()
		c.log.Warn("wall clock was set, forgetting no devices for an hour", "by", step.Round(time.Second).String())
	}
	if c.wallSetAt != 0 && c.clock.steady()-c.wallSetAt < int64(wallSettles) {
		return false
	}
	c.wallSetAt = 0
	// Written now and then, so that a crash does not take it back.
	resolution := min(24*time.Hour, max(c.settings.Load().ForgetDeviceAfter/10, seenResolution))
	for _, d := range c.devices {
		if d.presence != nil {
			c.seenWithin(d, resolution)
		}
	}
	c.settle()
	return true
}

// EraseAccount forgets an account: its devices and their registrations, its
// notifications and their timelines. When it returns, nothing of it can be read.
// An account of which nothing is known is no error.
func (c *Core) EraseAccount(ctx context.Context, accountName string) error {
	if err := ValidAccount(accountName); err != nil {
		return err
	}
	var until Seq // whoever signs in meanwhile keeps what comes after it
	err := c.withAccount(accountName, func(a *account) error {
		until = Seq(c.clock.next())
		for len(a.devices) > 0 {
			c.drop(a.devices[0], "account erased")
		}
		if a.held != nil {
			for len(a.held.queue) > 0 {
				c.apply(a.held.queue[0], inCancel, situation{detail: "account erased"})
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := c.flush(ctx, true); err != nil {
		return err
	}
	for {
		var seqs []Seq
		err := c.out.List(accountName, until, func(n *Notification) bool {
			seqs = append(seqs, n.Seq)
			return len(seqs) < eraseStep
		})
		if err != nil {
			return fmt.Errorf("list the notifications of account %s: %w", accountName, err)
		}
		if len(seqs) == 0 {
			return nil
		}
		if err := c.erase(ctx, seqs); err != nil {
			return err
		}
	}
}

// eraseStep is how many notifications one commit erases.
const eraseStep = 500

// Erase cancels a notification and erases its content and its timeline.
func (c *Core) Erase(ctx context.Context, id string) error {
	n, err := c.find(id)
	if err != nil {
		return err
	}
	if err := c.Cancel(ctx, id); err != nil {
		return err
	}
	return c.erase(ctx, []Seq{n.Seq})
}

func (c *Core) erase(ctx context.Context, seqs []Seq) error {
	c.mu.Lock()
	if c.stopped {
		c.mu.Unlock()
		return ErrStopped
	}
	c.commitPending()
	c.out.Commit(&Batch{Erase: seqs, Sync: true}, func(error) {})
	c.mu.Unlock()
	return c.flush(ctx, true)
}

// ValidAccount tells whether name can be an account: any UTF-8 of 1 to 128 bytes
// without control characters, but not "." or "..".
func ValidAccount(name string) error {
	if err := validName("account", name); err != nil {
		return err
	}
	if name == "." || name == ".." {
		return fieldErrorf("account", `must not be "." or ".."`, nil)
	}
	return nil
}

// ValidDevice tells whether id can be a device: a level of an MQTT topic name (MQTT
// 5 §4.7.1) of 1 to 128 bytes without control characters.
func ValidDevice(id string) error {
	if err := validName("device", id); err != nil {
		return err
	}
	if strings.ContainsAny(id, "/+#") {
		return fieldErrorf("device", "must be one level of a topic, without '/', '+' and '#'", id)
	}
	return nil
}

// ValidName is ValidAccount or ValidDevice, by field: "account" or "device".
func ValidName(field, name string) error {
	if field == "account" {
		return ValidAccount(name)
	}
	return ValidDevice(name)
}

func validName(field, name string) error {
	if name == "" {
		return fieldErrorf(field, "must not be empty", nil)
	}
	if len(name) > MaxName {
		return fieldErrorf(field, fmt.Sprintf("at most %d bytes", MaxName), len(name))
	}
	for _, r := range name {
		if r < 0x20 || r >= 0x7f && r < 0xa0 || r == 0xfffd {
			return fieldErrorf(field, "must be UTF-8 without control characters", name)
		}
	}
	return nil
}
