package delivery

import (
	"context"
	"errors"
	"fmt"
)

// Neighbours are the Cores of the other shards of a store. Each Core asks them about
// devices and registrations that move between accounts; the store decides who holds
// one (Batch.PutDevices). All methods are safe for concurrent use.
type Neighbours interface {
	// Ours reports whether the Core that asks serves an account.
	Ours(account string) bool
	// Release has the Core that serves an account drop a device of it (Core.Release).
	Release(ctx context.Context, account, device, why string) error
	// Claimed tells all other Cores that the store now has a device under another
	// account, or a registration under another device (Core.OnClaimed). It returns
	// without waiting for them.
	Claimed(c Claim)
}

// Claim names a device, or a registration by its server and token, that an account of
// another shard has claimed. Token is a secret: never logged or shown.
type Claim struct{ Device, Server, Token string }

// releasePatience is how long a Core waits for a neighbour to release a device: as
// long as a write may take before the store counts as failing.
const releasePatience = ackPatience

// Release takes a device out of the registry because an account of another shard
// claims it. It returns when that is on the disk. A device that the account does not
// hold is released already.
func (c *Core) Release(ctx context.Context, accountName, id, why string) error {
	err := c.withAccount(accountName, func(a *account) error {
		if d := a.device(id); d != nil {
			c.drop(d, why)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return c.flush(ctx, true)
}

// OnClaimed drops what this Core has in memory of a claim, unless the store says that
// it is still held here.
func (c *Core) OnClaimed(claim Claim) error {
	if claim.Token != "" {
		return c.onTokenClaimed(address{claim.Server, claim.Token})
	}
	holds := func() *device { return c.devices[claim.Device] }
	if !c.claimed(claim.Device, holds) {
		return nil
	}
	d, err := c.dispossessed(claim.Device, holds, func(d *device) (bool, error) {
		rec, err := c.out.Device(d.ID)
		if errors.Is(err, ErrNotFound) {
			return false, nil
		}
		return err == nil && rec.Account != d.Account, err
	}, func(d *device) {
		c.log.Info("device dropped: another account has registered it", "device", d.ID, "account", d.Account)
		if d.presence != nil {
			replace(d.presence.channel)
		}
		c.end(d, "device moved to another account")
		c.leave(d)
		c.pending.idle = append(c.pending.idle, d.account)
	})
	if err != nil {
		return fmt.Errorf("read device %s, which another account has claimed: %w", d.ID, err)
	}
	return nil
}

// claimed notes a claim for accounts that are being read, and reports whether a device in memory
// holds its name. A claim comes to every Core of the store, and mostly none does.
func (c *Core) claimed(name string, holds func() *device) bool {
	at := slot(name)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.versions[at]++
	return holds() != nil
}

func (c *Core) onTokenClaimed(a address) error {
	holds := func() *device { return c.holders[a] }
	if !c.claimed(a.String(), holds) {
		return nil
	}
	d, err := c.tokenClaimed(a, holds)
	if err != nil {
		return fmt.Errorf("read who holds a registration of device %s, which another has claimed: %w", d.ID, err)
	}
	return nil
}

// tokenClaimed takes a registration away from its holder in memory if the store says
// that another device has it. holds returns the holder; it is called under the mutex.
func (c *Core) tokenClaimed(a address, holds func() *device) (*device, error) {
	return c.dispossessed(a.String(), holds, func(d *device) (bool, error) {
		holder, err := c.out.TokenOwner(a.server, a.token)
		if errors.Is(err, ErrNotFound) { // another had it, and has given it up
			return true, nil
		}
		return err == nil && holder != d.ID, err
	}, func(d *device) {
		c.takeAway(d, a)
		c.touchPending()
	})
}

// dispossessed calls drop, under the mutex, if the store says that another has what a
// device of this Core holds in memory. What the Core itself has registered may still be on
// its way into the store, and then the store speaks of the time before: so it is read
// behind that, and again if anything under the name has changed meanwhile. holds is called
// under the mutex and returns the holder, nil for none. d is the last holder.
func (c *Core) dispossessed(name string, holds func() *device, lost func(*device) (bool, error), drop func(*device)) (d *device, err error) {
	ctx, cancel := context.WithTimeoutCause(c.ctx, releasePatience, errBusy)
	defer cancel()
	for {
		c.mu.Lock()
		before := c.versions.of(name)
		d = holds()
		c.mu.Unlock()
		if d == nil {
			return nil, nil
		}
		switch err := c.Flush(ctx); {
		case errors.Is(err, ErrStopped):
			return d, nil // the next owner reads the store
		case err != nil:
			return d, err
		}
		if gone, err := lost(d); err != nil || !gone {
			return d, err
		}
		c.mu.Lock()
		if c.stopped {
			c.mu.Unlock()
			return d, nil
		}
		if c.versions.of(name) == before && holds() == d {
			drop(d)
			c.settle()
			c.mu.Unlock()
			return d, nil
		}
		c.mu.Unlock()
	}
}

// noteClaim passes a claim to the neighbours after its commit. The caller holds the
// mutex.
func (c *Core) noteClaim(claim Claim) {
	if c.opts.Neighbours != nil {
		c.pending.claims = append(c.pending.claims, claim)
	}
}

// foreign returns a stand-in for a device that an account of another shard holds.
func foreign(rec *Device) *device {
	return &device{Device: Device{ID: rec.ID, Account: rec.Account}, account: &account{name: rec.Account}, foreign: true}
}

// releaseForeign has the neighbour that serves a device's account drop it.
func (c *Core) releaseForeign(accountName, id string) error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), releasePatience, errBusy)
	defer cancel()
	if err := c.opts.Neighbours.Release(ctx, accountName, id, "device moved to another account"); err != nil {
		return fmt.Errorf("take device %s from account %s: %w", id, accountName, err)
	}
	return nil
}

// LastNumber returns the highest Seq or event Number that this Core has given out. Call
// it after Stop: the next Core of its accounts begins above.
func (c *Core) LastNumber() uint64 { return c.clock.last.Load() }
