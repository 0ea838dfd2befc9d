// Package newcomers keeps the devices of an account within their limit while several become
// known at once, over MQTT and XMPP. It imports delivery.
package newcomers

import (
	"errors"
	"sync"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// ErrTooMany refuses what would make a device known to an account that has as many as it
// may.
var ErrTooMany = errors.New("the account has as many devices as it may have (mqtt.limits.devices)")

// Registry is what a List asks of the core.
type Registry interface {
	AccountOf(id string) (string, error)
	Devices(account string) ([]delivery.DeviceView, error)
}

// List holds the devices that are about to become known, by account. The registry does not
// have them yet: without it, clients that come at once would all find room for the same one
// device more. All methods are safe for concurrent use; the zero List is empty.
type List struct {
	// Owner, where there is one, is asked for room, too: it has the node that owns the account
	// Keep the device's. It returns ErrTooMany, or nil where that node is this one or is not
	// reached: what makes the device known will then fail, or the next node decides.
	Owner func(limit int, account, device string) error

	mu        sync.Mutex
	byAccount map[string]*arriving
}

// arriving are the new devices of one account. Its mutex is held while the registry is
// read: a slow read holds up the account's own clients alone.
type arriving struct {
	users  int // of mu; List.mu guards it
	mu     sync.Mutex
	coming map[string]any // by device: who brings it
}

// Admit returns ErrTooMany if the device is not known and its account has no room for it.
// Call it before what makes the device known. The room stays taken until that is in the
// registry, or until Leave. by tells one caller from another. sure is false where the registry
// cannot be read: what makes the device known will fail, too.
func (l *List) Admit(r Registry, limit int, account, device string, by any) (sure bool, err error) {
	return l.admit(r, limit, account, device, by, l.Owner)
}

func (l *List) admit(r Registry, limit int, account, device string, by any, owner func(int, string, string) error) (sure bool, err error) {
	if _, err := r.AccountOf(device); !errors.Is(err, delivery.ErrNotFound) {
		return err == nil, nil
	}
	a := l.use(account)
	defer l.done(account, a)
	a.mu.Lock()
	defer a.mu.Unlock()
	devices, err := r.Devices(account)
	if err != nil {
		return false, nil
	}
	for i := range devices {
		delete(a.coming, devices[i].ID) // it has come
	}
	if _, again := a.coming[device]; !again && len(devices)+len(a.coming) >= limit {
		return false, ErrTooMany
	}
	if owner != nil {
		if err := owner(limit, account, device); err != nil {
			return false, err
		}
	}
	a.coming[device] = by
	return true, nil
}

// Keep is Admit for a device that comes at another node, which says nothing of its end: the room
// is taken for as long as keep, or until the device is in the registry.
func (l *List) Keep(r Registry, limit int, account, device string, keep time.Duration) error {
	by := new(byte)
	_, err := l.admit(r, limit, account, device, by, nil)
	if err == nil {
		time.AfterFunc(keep, func() { l.Leave(account, device, by) })
	}
	return err
}

// Leave gives back what Admit has taken: the device is known, or does not come.
func (l *List) Leave(account, device string, by any) {
	l.mu.Lock()
	a := l.byAccount[account]
	if a != nil {
		a.users++
	}
	l.mu.Unlock()
	if a == nil {
		return
	}
	a.mu.Lock()
	if a.coming[device] == by {
		delete(a.coming, device)
	}
	a.mu.Unlock()
	l.done(account, a)
}

// Accounts returns how many accounts have devices that are about to become known.
func (l *List) Accounts() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.byAccount)
}

// use returns the entry of an account. The caller gives it back with done.
func (l *List) use(account string) *arriving {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.byAccount[account]
	if a == nil {
		if l.byAccount == nil {
			l.byAccount = map[string]*arriving{}
		}
		a = &arriving{coming: map[string]any{}}
		l.byAccount[account] = a
	}
	a.users++
	return a
}

// done gives an account back, and forgets it if nobody else uses it and no device of it
// is coming.
func (l *List) done(account string, a *arriving) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a.users--; a.users == 0 && len(a.coming) == 0 {
		delete(l.byAccount, account)
	}
}
