package hooks_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/auth"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/hooks"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

// proven makes the user name the account, as a checked password would. Only the
// backend is a service.
func proven(o *hooks.Options) {
	o.Authenticate = func(_ context.Context, c auth.Credentials) (auth.Identity, error) {
		return auth.Identity{Account: c.Username, Service: c.Username == "backend"}, nil
	}
}

// hostAuth stands for the authentication of somebody else's server.
type hostAuth struct{ mqtt.HookBase }

func (*hostAuth) ID() string { return "host" }

func (*hostAuth) Provides(b byte) bool {
	return b == mqtt.OnConnectAuthenticate || b == mqtt.OnACLCheck
}

func (*hostAuth) OnConnectAuthenticate(*mqtt.Client, packets.Packet) bool { return true }

func (*hostAuth) OnACLCheck(*mqtt.Client, string, bool) bool { return true }

var notAuthorized = map[byte]byte{4: packets.Err3NotAuthorized.Code, 5: packets.ErrNotAuthorized.Code}

// TestDeviceBelongsToItsAccount connects bob under every kind of identifier that is
// alice's. He is refused, and nothing of hers changes.
func TestDeviceBelongsToItsAccount(t *testing.T) {
	for name, setup := range map[string]func(*testing.T) *site{
		"own auth": func(t *testing.T) *site { return newSite(t, proven) },
		"plugin": func(t *testing.T) *site {
			s := newSite(t, func(o *hooks.Options) { o.HostAuth = true })
			must(t, s.server.AddHook(new(hostAuth), nil))
			return s
		},
	} {
		for _, version := range []byte{4, 5} {
			t.Run(fmt.Sprint(name, " ", version), func(t *testing.T) {
				s := setup(t)
				expiry := uint32(3600)
				must(t, s.core.PutDevice(t.Context(), "alice", "registered", nil))
				s.device(version, rawmqtt.Connect{ID: "away", Username: "alice", SessionExpiry: expiry}).Close()
				kept := s.connect(version, rawmqtt.Connect{ID: "kept", Username: "alice", SessionExpiry: expiry})
				_, err := kept.Subscribe(1, 1, "private/alice")
				must(t, err)
				kept.Close()
				online := s.device(version, rawmqtt.Connect{ID: "online", Username: "alice", SessionExpiry: expiry})
				ordinary := s.connect(version, rawmqtt.Connect{ID: "ordinary", Username: "alice", Clean: true})
				s.closed("away")
				s.closed("kept")

				before := s.hook.Counters.RefusedConnects.Load()
				for i, id := range []string{"registered", "away", "kept", "online", "ordinary"} {
					for _, clean := range []bool{true, false} {
						bob := dial(t, s.address, version)
						pk, err := bob.Connect(rawmqtt.Connect{ID: id, Username: "bob", Clean: clean, SessionExpiry: expiry, Keepalive: 60})
						if err != nil || pk.ReasonCode != notAuthorized[version] || pk.SessionPresent {
							t.Errorf("bob as %s, clean %v: CONNACK 0x%02x, session %v, %v", id, clean, pk.ReasonCode, pk.SessionPresent, err)
						}
						if _, err := bob.Read(10 * time.Second); err == nil {
							t.Errorf("bob as %s: the connection goes on", id)
						}
					}
					if n := s.hook.Counters.RefusedConnects.Load() - before; n != int64(2*i+2) {
						t.Errorf("after %s: %d refusals counted, want %d", id, n, 2*i+2)
					}
				}

				must(t, ordinary.Ping())
				if pk := next(t, ordinary); pk.FixedHeader.Type != packets.Pingresp {
					t.Errorf("alice's ordinary client got %+v", pk)
				}
				n := s.notify(delivery.Request{Account: "alice", Devices: []string{"online"}})
				if p := pseudo(t, next(t, online)); p.ID != n.ID {
					t.Errorf("alice's device got %s, want %s", p.ID, n.ID)
				}
				again := dial(t, s.address, version)
				pk, err := again.Connect(rawmqtt.Connect{ID: "kept", Username: "alice", SessionExpiry: expiry, Keepalive: 60})
				if err != nil || pk.ReasonCode != 0 || !pk.SessionPresent {
					t.Errorf("alice's kept session: CONNACK 0x%02x, session %v, %v", pk.ReasonCode, pk.SessionPresent, err)
				}
				// mochi removes a refused connection after its CONNACK, and has no signal for it.
				refused := func() bool {
					for id := range s.server.Clients.GetAll() {
						if id[0] == 0 {
							return true
						}
					}
					return false
				}
				for deadline := time.Now().Add(2 * time.Minute); refused(); time.Sleep(time.Millisecond) {
					if time.Now().After(deadline) {
						t.Fatal("a refused connection is left among the clients")
					}
				}
			})
		}
	}
}

// away waits until a client's session has no connection.
func (s *site) away(id string) {
	s.Helper()
	for end := time.Now().Add(2 * time.Minute); s.hub.Connection(id) != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			s.Fatalf("%s is still connected", id)
		}
	}
}

// closed waits until the server has noticed that a client is gone.
func (s *site) closed(id string) {
	s.Helper()
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Millisecond) {
		cl, ok := s.server.Clients.Get(id)
		if !ok || cl.Closed() {
			return
		}
		if time.Now().After(end) {
			s.Fatalf("%s is still connected", id)
		}
	}
}

// TestTwoAccountsClaimAnIdentifierAtOnce lets two accounts connect at the same moment
// under an identifier that nobody has: one of them gets in, and stays.
func TestTwoAccountsClaimAnIdentifierAtOnce(t *testing.T) {
	s := newSite(t, proven)
	for round := range 50 {
		id := fmt.Sprint("new", round)
		type answer struct {
			client *rawmqtt.Client
			code   byte
		}
		answers := make(chan answer, 2)
		for _, account := range []string{"alice", "bob"} {
			c := dial(t, s.address, 5)
			go func() {
				pk, err := c.Connect(rawmqtt.Connect{ID: id, Username: account, SessionExpiry: 60, Keepalive: 60})
				if err != nil {
					pk.ReasonCode = 0xff
				}
				answers <- answer{c, pk.ReasonCode}
			}()
		}
		in := 0
		for range 2 {
			if a := <-answers; a.code == 0 {
				in++
				must(t, a.client.Ping())
				if pk := next(t, a.client); pk.FixedHeader.Type != packets.Pingresp {
					t.Errorf("round %d: got %+v", round, pk)
				}
			} else if a.code != packets.ErrNotAuthorized.Code {
				t.Errorf("round %d: CONNACK 0x%02x", round, a.code)
			}
		}
		if in != 1 {
			t.Fatalf("round %d: %d got in, want 1", round, in)
		}
	}
}

// TestServiceMovesADevice: after a PUT under bob the device is bob's, whatever session
// alice has left behind.
func TestServiceMovesADevice(t *testing.T) {
	s := newSite(t, proven)
	alice := s.device(5, rawmqtt.Connect{ID: "phone", Username: "alice", SessionExpiry: 3600})
	_, err := alice.Subscribe(2, 1, "private/alice")
	must(t, err)
	must(t, s.core.PutDevice(t.Context(), "bob", "phone", nil))

	bob := dial(t, s.address, 5)
	pk, err := bob.Connect(rawmqtt.Connect{ID: "phone", Username: "bob", SessionExpiry: 3600, Keepalive: 60})
	if err != nil || pk.ReasonCode != 0 || pk.SessionPresent {
		t.Fatalf("bob: CONNACK 0x%02x, session %v, %v", pk.ReasonCode, pk.SessionPresent, err)
	}
	back := dial(t, s.address, 5)
	if pk, err := back.Connect(rawmqtt.Connect{ID: "phone", Username: "alice", Keepalive: 60}); err != nil || pk.ReasonCode != packets.ErrNotAuthorized.Code {
		t.Errorf("alice: CONNACK 0x%02x, %v", pk.ReasonCode, err)
	}
}

// TestEndSession releases an identifier, connected or kept.
func TestEndSession(t *testing.T) {
	for _, version := range []byte{4, 5} {
		for _, connected := range []bool{true, false} {
			s := newSite(t, proven)
			alice := s.connect(version, rawmqtt.Connect{ID: "phone", Username: "alice", SessionExpiry: 3600})
			if !connected {
				alice.Close()
				s.closed("phone")
			}
			if s.hook.EndSession("phone", "another") || !s.hook.EndSession("phone", "") || s.hook.EndSession("nobody", "") {
				t.Error("EndSession reports something else")
			}
			if _, ok := s.hub.Holder("phone"); ok && !connected {
				t.Error("the session is still there")
			}
			bob := dial(t, s.address, version)
			if pk, err := bob.Connect(rawmqtt.Connect{ID: "phone", Username: "bob", Keepalive: 60}); err != nil || pk.ReasonCode != 0 || pk.SessionPresent {
				t.Errorf("version %d, connected %v: CONNACK 0x%02x, session %v, %v", version, connected, pk.ReasonCode, pk.SessionPresent, err)
			}
		}
	}
}
