package hooks

import (
	"errors"
	"sync"

	"github.com/heartline-mqtt/heartline/delivery"
)

// newcomers are the devices that connections are about to make known, by account and
// identifier. The registry does not have them yet: without this list, connections that
// come at once would all find room for the same one device more.
type newcomers struct {
	mu        sync.Mutex
	byAccount map[string]map[string]*conn
}

// errTooManyDevices refuses what would make a device known to an account that has as
// many as it may.
var errTooManyDevices = errors.New("the account has as many devices as it may have (mqtt.limits.devices)")

// admitDevice returns errTooManyDevices if the client's device is not known and its
// account has no room for it. Call it before anything that makes the device known.
func (c *conn) admitDevice() error {
	h, id, account := c.hook, c.client.ID, c.identity.Account
	limit := h.opts.MaxDevices
	if limit == 0 || h.opts.Authenticate == nil || c.identity.Service || c.counted.Load() {
		return nil
	}
	n := &h.newcomers
	n.mu.Lock()
	defer n.mu.Unlock()
	switch _, err := h.core.AccountOf(id); {
	case err == nil:
		c.counted.Store(true)
		return nil
	case !errors.Is(err, delivery.ErrNotFound):
		return nil // the caller sees what fails
	}
	devices, err := h.core.Devices(account)
	if err != nil {
		return nil // likewise
	}
	coming := n.byAccount[account]
	for i := range devices {
		delete(coming, devices[i].ID) // it has come
	}
	if _, again := coming[id]; !again && len(devices)+len(coming) >= limit {
		return errTooManyDevices
	}
	if coming == nil {
		if n.byAccount == nil {
			n.byAccount = map[string]map[string]*conn{}
		}
		coming = map[string]*conn{}
		n.byAccount[account] = coming
	}
	coming[id] = c
	c.counted.Store(true)
	return nil
}

// remove forgets the device of a connection that has ended.
func (n *newcomers) remove(c *conn) {
	if !c.counted.Load() {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	coming := n.byAccount[c.identity.Account]
	if coming[c.client.ID] == c {
		delete(coming, c.client.ID)
	}
	if len(coming) == 0 {
		delete(n.byAccount, c.identity.Account)
	}
}
