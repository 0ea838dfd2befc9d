package hooks_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/auth"
	"github.com/heartline-mqtt/heartline/hooks"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

// TestWhyALoginIsRefused: apps log their user out on 0x86, so that "not now" has
// another code.
func TestWhyALoginIsRefused(t *testing.T) {
	s := newSite(t, func(o *hooks.Options) {
		o.Authenticate = func(_ context.Context, c auth.Credentials) (auth.Identity, error) {
			switch c.Username {
			case "wrong":
				return auth.Identity{}, fmt.Errorf("%w: no", auth.ErrDenied)
			case "later":
				return auth.Identity{}, fmt.Errorf("%w: busy", auth.ErrUnavailable)
			}
			return auth.Identity{Account: c.Username, DevicePattern: "{account}-*", Service: c.Username == "shop"}, nil
		}
	})
	s.connect(5, rawmqtt.Connect{ID: "bob-2", Username: "bob", SessionExpiry: 3600})
	refused := s.hook.Counters.RefusedConnects.Load()
	for _, c := range []struct {
		username, id string
		want         map[byte]byte
	}{
		{"wrong", "wrong-1", map[byte]byte{4: 5, 5: 0x86}},
		{"later", "later-1", map[byte]byte{4: 3, 5: 0x88}},
		{"alice", "bob-1", map[byte]byte{4: 2, 5: 0x85}},
		{"alice", "bob-2", map[byte]byte{4: 5, 5: 0x87}}, // another account's
		{"alice", "alice-1", map[byte]byte{4: 0, 5: 0}},
		{"shop", "anything", map[byte]byte{4: 0, 5: 0}},
	} {
		for _, version := range []byte{4, 5} {
			pk, err := dial(t, s.address, version).Connect(rawmqtt.Connect{ID: c.id, Username: c.username, Clean: true, Keepalive: 60})
			if err != nil || pk.ReasonCode != c.want[version] {
				t.Errorf("%s as %s, version %d: 0x%02x %v", c.username, c.id, version, pk.ReasonCode, err)
			}
		}
	}
	if n := s.hook.Counters.RefusedConnects.Load() - refused; n != 4 {
		t.Errorf("%d connections under an identifier that is another's are counted, want 4", n)
	}
}

// TestAConnectionEndsWithItsPermission: expired credentials end the connection within
// seconds, and leave others alone.
func TestAConnectionEndsWithItsPermission(t *testing.T) {
	s := newSite(t, func(o *hooks.Options) {
		o.Authenticate = func(_ context.Context, c auth.Credentials) (auth.Identity, error) {
			id := auth.Identity{Account: c.Username}
			if c.Username == "brief" {
				id.Expires = time.Now().Add(500 * time.Millisecond)
			}
			return id, nil
		}
	})
	for _, version := range []byte{4, 5} {
		stays := s.connect(version, rawmqtt.Connect{ID: "stays", Username: "long", Clean: true})
		ends := s.connect(version, rawmqtt.Connect{ID: "ends", Username: "brief", Clean: true})
		pk, err := ends.Read(5 * time.Second)
		if version == 5 && (err != nil || pk.FixedHeader.Type != packets.Disconnect || pk.ReasonCode != packets.ErrNotAuthorized.Code) {
			t.Errorf("version 5: %+v %v", pk, err)
		}
		if err == nil {
			_, err = ends.Read(5 * time.Second)
		}
		if err == nil {
			t.Errorf("version %d: the connection goes on", version)
		}
		must(t, stays.Ping())
		if pk := next(t, stays); pk.FixedHeader.Type != packets.Pingresp {
			t.Errorf("the other connection got %+v", pk)
		}
	}
	if n := s.hook.Counters.Revoked.Load(); n != 2 {
		t.Errorf("%d counted", n)
	}
}
