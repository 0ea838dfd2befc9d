package delivery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

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
	c.end(d, why)
	c.commitPending()
	c.pending.removed = append(c.pending.removed, DeviceKey{d.ID, d.Account})
	c.changed(d)
	c.commitPending()
	c.leave(d)
}

// end cancels everything that is outstanding for a device, and takes its channel down.
func (c *Core) end(d *device, why string) {
	d.dropped = why
	c.endUnderway(d, why)
	for len(d.queue) > 0 {
		c.apply(c.slab.at(d.queue[0]), inCancel, situation{detail: why})
	}
	for len(d.dismissals) > 0 {
		c.removeDismissal(d, d.dismissals[0])
	}
	if d.presence != nil {
		c.up.Add(-1)
		d.presence.gone = true
		d.presence = nil
	}
}

// leave takes a device out of memory.
func (c *Core) leave(d *device) {
	c.unindexTokens(d)
	d.account.devices = slices.DeleteFunc(d.account.devices, func(x *device) bool { return x == d })
	delete(c.devices, d.ID)
}

// wallSettles is how long the wall clock must go on after it was set by more than
// that before devices are forgotten and dismissals dropped by it.
const wallSettles = time.Hour

// forgetDevices drops the devices that have given no sign of life for too long.
func (c *Core) forgetDevices() {
	limit := c.clock.wallNow().Add(-c.settings.Load().ForgetDeviceAfter)
	var old []Device
	err := c.out.Devices("", func(d *Device) bool {
		if d.SeenAt.Before(limit) {
			old = append(old, Device{ID: d.ID, Account: d.Account})
		}
		return true
	})
	if err != nil {
		c.log.Error("search for devices to forget failed", "error", err)
	}
	var failed error
	left := 0
	for _, d := range old {
		if err := c.Forget(d.Account, d.ID); err != nil && !errors.Is(err, ErrStopped) {
			failed = err
			left++
		}
	}
	if failed != nil {
		c.log.Error("devices not forgotten, trying again", "devices", left, "error", failed)
	}
}

// Forget takes a device out of the registry if it has given no sign of life for
// ForgetDeviceAfter, and the wall clock has not been set far for a while. A Core with Neighbours
// searches for none itself: whoever does may call before the Core itself looks at the clock.
func (c *Core) Forget(accountName, id string) error {
	after := c.settings.Load().ForgetDeviceAfter
	return c.withAccount(accountName, func(a *account) error {
		c.resync(a)
		if d := a.device(id); d != nil && d.presence == nil && c.clock.wallNow().Sub(d.SeenAt) > after && c.wallSettled() {
			c.drop(d, "device not seen for "+after.String())
		}
		return nil
	})
}

// wallTrusted notes the sign of life that a connection is, and reports whether the
// wall clock may be used to forget devices and dismissals: it has not been set far for a while.
func (c *Core) wallTrusted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.resync(nil)
	settled := c.wallSettled()
	c.clock.takeStep() // small steps do not add up for longer than from one look to the next
	if !settled {
		return false
	}
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

// wallSettled reports whether the wall clock has gone on for a while since it was set far. A Core
// with Neighbours may have taken its accounts over a moment ago: it has not seen whether the clock
// was set before its start. The caller holds the mutex, and has called resync.
func (c *Core) wallSettled() bool {
	if step := c.clock.wallStep(); step.Abs() > wallSettles {
		c.clock.takeStep()
		c.wallSetAt = c.clock.steady()
		c.log.Warn("wall clock was set, forgetting no devices and dismissals for an hour", "by", step.Round(time.Second).String())
	}
	since := c.wallSetAt // 0: not since the start
	if since == 0 && c.opts.Neighbours == nil {
		return true
	}
	return c.clock.steady()-since >= int64(wallSettles)
}
