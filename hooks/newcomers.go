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
	byAccount map[string]*arriving
}

// arriving are the new devices of one account. Its mutex is held while the store is read:
// a slow read holds up the account's own clients alone.
type arriving struct {
	users  int // of mu; newcomers.mu guards it
	mu     sync.Mutex
	coming map[string]*conn
}

// use returns the entry of an account. The caller gives it back with done.
func (n *newcomers) use(account string) *arriving {
	n.mu.Lock()
	defer n.mu.Unlock()
	a := n.byAccount[account]
	if a == nil {
		if n.byAccount == nil {
			n.byAccount = map[string]*arriving{}
		}
		a = &arriving{coming: map[string]*conn{}}
		n.byAccount[account] = a
	}
	a.users++
	return a
}

// done gives an account back, and forgets it if nobody else uses it and no device of it
// is coming.
func (n *newcomers) done(account string, a *arriving) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if a.users--; a.users == 0 && len(a.coming) == 0 {
		delete(n.byAccount, account)
	}
}

// errTooManyDevices refuses what would make a device known to an account that has as
// many as it may.
var errTooManyDevices = errors.New("the account has as many devices as it may have (mqtt.limits.devices)")

// admitDevice returns errTooManyDevices if the client's device is not known and its
// account has no room for it. Call it before anything that makes the device known.
func (c *conn) admitDevice() error {
	h, id, account := c.hook, c.client.ID, c.identity.Account
	limit := h.rules.Load().MaxDevices
	if limit == 0 || h.opts.Authenticate == nil || c.identity.Service || c.counted.Load() {
		return nil
	}
	switch _, err := h.core.AccountOf(id); {
	case err == nil:
		c.counted.Store(true)
		return nil
	case !errors.Is(err, delivery.ErrNotFound):
		return nil // the caller sees what fails
	}
	a := h.newcomers.use(account)
	defer h.newcomers.done(account, a)
	a.mu.Lock()
	defer a.mu.Unlock()
	devices, err := h.core.Devices(account)
	if err != nil {
		return nil // likewise
	}
	for i := range devices {
		delete(a.coming, devices[i].ID) // it has come
	}
	if _, again := a.coming[id]; !again && len(devices)+len(a.coming) >= limit {
		return errTooManyDevices
	}
	a.coming[id] = c
	c.counted.Store(true)
	return nil
}

// remove forgets the device of a connection that has ended.
func (n *newcomers) remove(c *conn) {
	if !c.counted.Load() {
		return
	}
	account := c.identity.Account
	n.mu.Lock()
	a := n.byAccount[account]
	if a != nil {
		a.users++
	}
	n.mu.Unlock()
	if a == nil {
		return
	}
	a.mu.Lock()
	if a.coming[c.client.ID] == c {
		delete(a.coming, c.client.ID)
	}
	a.mu.Unlock()
	n.done(account, a)
}
