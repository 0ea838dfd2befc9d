package hooks

import "github.com/heartline-mqtt/heartline/internal/newcomers"

// Newcomers are the devices that are about to become known.
type Newcomers = newcomers.List

// errTooManyDevices refuses what would make a device known to an account that has as
// many as it may.
var errTooManyDevices = newcomers.ErrTooMany

// admitDevice returns errTooManyDevices if the client's device is not known and its
// account has no room for it. Call it before anything that makes the device known.
func (c *conn) admitDevice() error {
	h := c.hook
	limit := h.rules.Load().MaxDevices
	if limit == 0 || h.opts.Authenticate == nil || c.identity.Service || c.counted.Load() {
		return nil
	}
	sure, err := h.opts.Newcomers.Admit(h.core, limit, c.identity.Account, c.client.ID, c)
	if sure {
		c.counted.Store(true)
	}
	return err
}

// leaveNewcomers gives back the room of a device that did not become known before its
// connection ended.
func (c *conn) leaveNewcomers() {
	if c.counted.Load() {
		c.hook.opts.Newcomers.Leave(c.identity.Account, c.client.ID, c)
	}
}
