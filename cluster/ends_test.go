package cluster_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// A node has all others end a device's connection. One that is gone or does not answer is
// left out after 2 s.
func TestEndElsewhere(t *testing.T) {
	relayed(t, func(t *testing.T, _ *base, n *network, all []*machine) {
		all[1].connect("ann", "phone")
		if !all[0].router.EndElsewhere(t.Context(), "ann", true, "pad", "phone") || all[1].has("phone") {
			t.Error("the session at another node was not ended")
		}
		all[1].connect("ann", "phone")
		if all[0].router.EndElsewhere(t.Context(), "bob", true, "phone") || !all[1].has("phone") {
			t.Error("the session of another account was ended")
		}
		n.cut("two", true)
		begun := time.Now()
		if all[0].router.EndElsewhere(t.Context(), "ann", true, "pad", "phone") || time.Since(begun) > 2*time.Second {
			t.Error("waited for a node that is cut off for", time.Since(begun))
		}
		n.cut("two", false)
		time.Sleep(2 * time.Second)
		if all[1].has("phone") {
			t.Error("a node that is back did not end the session")
		}
		n.cut("two", true)
		time.Sleep(lease + 5*time.Second) // its relay has ended
		all[2].connect("ann", "phone")
		begun = time.Now()
		if !all[0].router.EndElsewhere(t.Context(), "ann", true, "phone") || time.Since(begun) > 0 {
			t.Error("waited for a node that is gone for", time.Since(begun))
		}
		n.cut("two", false)
		time.Sleep(20 * time.Second)
	})
}

// A device that signs out, or moves to another account, has no session of its former
// account left at any node.
func TestSessionsOfFormerAccount(t *testing.T) {
	relayed(t, func(t *testing.T, _ *base, _ *network, all []*machine) {
		names := accounts()
		for i, account := range names {
			next := names[(i+1)%len(names)]
			for _, move := range []bool{false, true} {
				if err := all[0].router.PutDevice(t.Context(), account, "phone", nil); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				all[1].connect(account, "phone")
				all[2].connect(next, "phone")
				var err error
				if move {
					err = all[i%3].router.PutDevice(t.Context(), next, "phone", nil)
				} else {
					err = all[0].router.SignOut(t.Context(), "phone", account)
				}
				if err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if all[1].has("phone") || !all[2].has("phone") {
					t.Errorf("%s, moved %v: has its session %v, the other account's %v", account, move, all[1].has("phone"), all[2].has("phone"))
				}
				holder, err := all[1].router.AccountOf("phone")
				if want := map[bool]string{true: next}[move]; holder != want {
					t.Errorf("the device is %q's, error %v; want %q", holder, err, want)
				}
				all[2].end("phone", "", true)
			}
		}
	})
}

// connect gives a machine a session of a device.
func (m *machine) connect(account, device string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sessions = append(m.sessions, delivery.Device{ID: device, Account: account})
}

func (m *machine) has(device string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(m.sessions, func(d delivery.Device) bool { return d.ID == device })
}

// end ends it, as a broker does.
func (m *machine) end(device, account string, _ bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := len(m.sessions)
	m.sessions = slices.DeleteFunc(m.sessions, func(d delivery.Device) bool {
		return d.ID == device && (account == "" || d.Account == account)
	})
	return len(m.sessions) < before
}
