package hooks

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	mqtt "github.com/mochi-mqtt/server/v2"

	"github.com/heartline-mqtt/heartline/auth"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/newcomers"
	"github.com/heartline-mqtt/heartline/internal/testtool"
)

// slowRegistry knows no device, and does not answer for account slow before release.
type slowRegistry struct {
	Core
	release chan struct{}
}

func (slowRegistry) AccountOf(string) (string, error) { return "", delivery.ErrNotFound }

func (r slowRegistry) Devices(account string) ([]delivery.DeviceView, error) {
	if account == "slow" {
		<-r.release
	}
	return nil, nil
}

// TestNewcomersWaitForTheirAccountAlone: a registry that is slow for one account holds
// up no client of another, and an account is forgotten with its last connection.
func TestNewcomersWaitForTheirAccountAlone(t *testing.T) {
	testtool.Bubble(t, func(t *testing.T) {
		h := &Hook{core: slowRegistry{release: make(chan struct{})}}
		h.Reconfigure(Rules{MaxDevices: 1})
		h.opts.Newcomers = &newcomers.List{}
		h.opts.Authenticate = func(context.Context, auth.Credentials) (auth.Identity, error) { return auth.Identity{}, nil }
		newConn := func(account string) *conn {
			return &conn{hook: h, client: &mqtt.Client{ID: account + "-phone"}, identity: auth.Identity{Account: account}}
		}
		slow, quick := newConn("slow"), newConn("quick")
		admitted := make(chan error, 1)
		go func() { admitted <- slow.admitDevice() }()
		synctest.Wait() // it reads the registry
		if err := quick.admitDevice(); err != nil {
			t.Error(err)
		}
		close(h.core.(slowRegistry).release)
		if err := <-admitted; err != nil {
			t.Error(err)
		}
		second := newConn("quick")
		second.client.ID = "quick-watch"
		if err := second.admitDevice(); !errors.Is(err, errTooManyDevices) {
			t.Errorf("a second device: %v", err)
		}
		slow.leaveNewcomers()
		quick.leaveNewcomers()
		if n := h.opts.Newcomers.Accounts(); n != 0 {
			t.Errorf("%d accounts are left", n)
		}
	})
}
