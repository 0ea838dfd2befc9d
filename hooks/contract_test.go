package hooks_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/hooks"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
	"github.com/heartline-mqtt/heartline/wire"
)

// TestAccountsThatAreNoLevel notifies accounts whose names cannot stand in a topic as
// they are (contract §1). Their devices hear of it, and each account only of its own.
func TestAccountsThatAreNoLevel(t *testing.T) {
	accounts := map[string]string{
		"+4915112345678": "%2B4915112345678", "ann+work@example.org": "ann%2Bwork@example.org", "a/b": "a%2Fb", "#1": "%231",
		"100%": "100%25", "%2B": "%252B", "zoë": "zoë",
	}
	for _, version := range []byte{4, 5} {
		s := newSite(t)
		backend := s.connect(version, rawmqtt.Connect{ID: "backend"})
		devices := map[string]*rawmqtt.Client{}
		for account, level := range accounts {
			id := fmt.Sprintf("phone%x", account)
			devices[account] = s.device(version, rawmqtt.Connect{ID: id, Username: account})
			must(t, backend.Publish(1, 1, "heartline/accounts/"+level+"/notifications", fmt.Appendf(nil, `{"title":"t","id":"%x"}`, account)))
			if pk := next(t, backend); pk.FixedHeader.Type != packets.Puback || pk.ReasonCode != 0 {
				t.Errorf("%s: got %+v", account, pk)
			}
		}
		for account, c := range devices {
			if p := pseudo(t, next(t, c)); p.Account != account || p.ID != fmt.Sprintf("%x", account) {
				t.Errorf("%s got %+v", account, p)
			}
		}
		if version == 5 {
			for _, level := range []string{"%41nna", "a%", "a%2", "%zz"} {
				must(t, backend.Publish(2, 1, "heartline/accounts/"+level+"/notifications", []byte(`{"title":"t"}`)))
				if pk := next(t, backend); pk.ReasonCode != packets.ErrTopicNameInvalid.Code {
					t.Errorf("%s: PUBACK 0x%02x", level, pk.ReasonCode)
				}
			}
		}
	}
}

// TestNoDeviceSubscribesBelowDevices: an identifier that cannot be a level is refused
// its notifications topic with the reason; it was granted in silence.
func TestNoDeviceSubscribesBelowDevices(t *testing.T) {
	for name, change := range map[string]func(*hooks.Options){"mode none": func(*hooks.Options) {}, "proven": proven} {
		for version, code := range map[byte]byte{4: 0x80, 5: packets.ErrNotAuthorized.Code} {
			s := newSite(t, change)
			c := s.connect(version, rawmqtt.Connect{ID: "a+b", Username: "anna"})
			must(t, c.Send(packets.Packet{
				FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 7,
				Filters: packets.Subscriptions{{Filter: "heartline/devices/+/notifications", Qos: 1}, {Filter: "ordinary", Qos: 1}},
			}))
			pk := next(t, c)
			if fmt.Sprint(pk.ReasonCodes) != fmt.Sprint([]byte{code, 1}) {
				t.Errorf("%s, version %d: SUBACK %x", name, version, pk.ReasonCodes)
			}
			if version == 5 && !strings.Contains(pk.Properties.ReasonString, "device") {
				t.Errorf("%s: reason string %q", name, pk.Properties.ReasonString)
			}
		}
	}
}

// TestSignOut: alice signs out with a notification outstanding, and bob signs in on
// the same device.
func TestSignOut(t *testing.T) {
	for _, version := range []byte{4, 5} {
		s := newSite(t, proven)
		alice := s.device(version, rawmqtt.Connect{ID: "phone", Username: "alice", SessionExpiry: 3600})
		_, err := alice.Subscribe(2, 1, "private/alice")
		must(t, err)
		must(t, alice.Publish(3, 1, topicOf("phone", "push-token"), []byte(`{"apns":{"token":"AB"}}`)))
		next(t, alice)
		n := s.notify(delivery.Request{Account: "alice"})
		next(t, alice)

		must(t, alice.Publish(4, 1, topicOf("phone", "sign-out"), []byte(`{}`)))
		if pk := next(t, alice); pk.FixedHeader.Type != packets.Puback || pk.PacketID != 4 || pk.ReasonCode != 0 {
			t.Fatalf("version %d: got %+v, want the PUBACK", version, pk)
		}
		if version == 5 {
			if pk := next(t, alice); pk.FixedHeader.Type != packets.Disconnect || pk.ReasonCode != packets.ErrAdministrativeAction.Code {
				t.Errorf("got %+v, want a DISCONNECT", pk)
			}
		}
		if pk, err := alice.Read(10 * time.Second); err == nil {
			t.Errorf("version %d: the connection goes on: %+v", version, pk)
		}
		v, err := s.core.Get(t.Context(), n.ID)
		must(t, err)
		if last := v.Timeline[len(v.Timeline)-1]; v.State != delivery.StateCancelled || last.Detail != "signed out" {
			t.Errorf("version %d: %v, %+v", version, v.State, last)
		}
		if _, err := s.core.Device("alice", "phone"); !errors.Is(err, delivery.ErrUnknownDevice) {
			t.Errorf("version %d: the device is still there: %v", version, err)
		}

		bob := dial(t, s.address, version)
		pk, err := bob.Connect(rawmqtt.Connect{ID: "phone", Username: "bob", SessionExpiry: 3600, Keepalive: 60})
		if err != nil || pk.ReasonCode != 0 || pk.SessionPresent {
			t.Fatalf("version %d: bob: CONNACK 0x%02x, session %v, %v", version, pk.ReasonCode, pk.SessionPresent, err)
		}
		_, err = bob.Subscribe(1, 1, topicOf("phone", "notifications"))
		must(t, err)
		s.notify(delivery.Request{Account: "bob", ID: "bobs"})
		if p := pseudo(t, next(t, bob)); p.ID != "bobs" {
			t.Errorf("version %d: bob got %+v", version, p)
		}
	}
}

// TestRefusedSignOut: a payload other than `{}` changes nothing.
func TestRefusedSignOut(t *testing.T) {
	s := newSite(t, proven)
	alice := s.device(5, rawmqtt.Connect{ID: "phone", Username: "alice"})
	must(t, alice.Publish(4, 1, topicOf("phone", "sign-out"), []byte(`{"now":true}`)))
	if pk := next(t, alice); pk.ReasonCode != packets.ErrPayloadFormatInvalid.Code {
		t.Errorf("got %+v", pk)
	}
	must(t, alice.Publish(5, 1, topicOf("other", "sign-out"), []byte(`{}`)))
	if pk := next(t, alice); pk.ReasonCode != packets.ErrNotAuthorized.Code {
		t.Errorf("got %+v", pk)
	}
	if _, err := s.core.Device("alice", "phone"); err != nil {
		t.Error(err)
	}
}

// TestRegistryIsOnTheDisk: the PUBACK of a push token, of its removal and of a sign-out
// follows the disk. While the store fails an MQTT 5 client is told, and the connection of a
// 3.1.1 client ends without the PUBACK, which could only say yes. A sign-out ends the connection
// and the session in any case, and never with the reason of one that is done.
func TestRegistryIsOnTheDisk(t *testing.T) {
	for _, version := range []byte{4, 5} {
		for name, publish := range map[string][2]string{
			"token": {"push-token", `{"apns":{"token":"AB"}}`}, "removal": {"push-token", `{"apns":null}`}, "sign-out": {"sign-out", `{}`},
		} {
			for _, fault := range []error{nil, delivery.ErrUnavailable} {
				t.Run(fmt.Sprint(version, name, fault), func(t *testing.T) {
					s := newSite(t)
					c := s.device(version, rawmqtt.Connect{ID: "phone", Username: "alice"})
					must(t, c.Publish(3, 1, topicOf("phone", "push-token"), []byte(`{"apns":{"token":"AA"}}`)))
					next(t, c)
					f := &flushes{asked: make(chan struct{}), answer: make(chan error)}
					s.store.flush.Store(f)
					answer, closed := make(chan packets.Packet, 1), make(chan error, 1)
					go func() {
						if pk, err := c.Read(10 * time.Second); err != nil {
							closed <- err
						} else {
							answer <- pk
						}
					}()
					must(t, c.Publish(4, 1, topicOf("phone", publish[0]), []byte(publish[1])))
					select {
					case <-f.asked:
					case pk := <-answer:
						t.Errorf("got %+v before it is on the disk", pk)
						s.store.flush.Store(nil)
						return
					}
					s.store.flush.Store(nil)
					f.answer <- fault
					select {
					case pk := <-answer:
						if pk.FixedHeader.Type != packets.Puback || pk.PacketID != 4 || (pk.ReasonCode == 0) != (fault == nil) {
							t.Errorf("got %+v", pk)
						}
						if fault != nil && version == 4 {
							t.Error("a 3.1.1 client was told that it is done")
						}
					case err := <-closed:
						if fault == nil || version == 5 {
							t.Error(err)
						}
					}
					if name != "sign-out" || fault == nil {
						return
					}
					if version == 5 {
						if pk := next(t, c); pk.FixedHeader.Type != packets.Disconnect || pk.ReasonCode != packets.ErrServerBusy.Code {
							t.Errorf("got %+v, want a DISCONNECT", pk)
						}
						if pk, err := c.Read(10 * time.Second); err == nil {
							t.Errorf("the connection goes on: %+v", pk)
						}
					}
					pk, err := dial(t, s.address, version).Connect(rawmqtt.Connect{ID: "phone", Username: "bob", SessionExpiry: 3600, Keepalive: 60})
					if err != nil || pk.ReasonCode != 0 || pk.SessionPresent {
						t.Errorf("bob: CONNACK 0x%02x, session %v, %v", pk.ReasonCode, pk.SessionPresent, err)
					}
				})
			}
		}
	}
}

// TestPublishAgain: a PUBLISH whose PUBACK was lost with its connection comes again
// with DUP, and is acknowledged and not accepted again. Without DUP, or with another
// payload or identifier, it is a publish of its own.
func TestPublishAgain(t *testing.T) {
	for _, version := range []byte{4, 5} {
		for _, qos := range []byte{1, 2} {
			s := newSite(t)
			phone := s.device(5, rawmqtt.Connect{ID: "phone", Username: "anna"})
			publish := func(id uint16, dup bool, payload string) {
				t.Helper()
				backend := s.connect(version, rawmqtt.Connect{ID: "backend", SessionExpiry: 60})
				defer backend.Close() // before a PUBREL, if there is to be one
				must(t, backend.Send(packets.Packet{
					FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: qos, Dup: dup}, PacketID: id, TopicName: toAnna, Payload: []byte(payload),
				}))
				for { // a PUBREC of the session's may come first
					pk := next(t, backend)
					if pk.ReasonCode != 0 {
						t.Fatalf("version %d, QoS %d: got %+v", version, qos, pk)
					}
					if pk.PacketID == id {
						return
					}
				}
			}
			publish(7, false, `{"title":"once"}`)
			publish(7, true, `{"title":"once"}`)
			publish(8, true, `{"title":"once"}`)
			publish(9, true, `{"title":"last"}`)
			for i, want := range []string{"once", "once", "last"} {
				pk := next(t, phone)
				if p := pseudo(t, pk); p.Title != want {
					t.Fatalf("version %d, QoS %d: number %d is %q, want %q", version, qos, i, p.Title, want)
				}
				must(t, phone.Puback(pk.PacketID))
			}
		}
	}
}

// TestPublishInDoubt: a publish whose outcome is unknown is neither acknowledged nor
// refused. Its connection ends, and its copy with DUP is acknowledged and not accepted
// again.
func TestPublishInDoubt(t *testing.T) {
	for _, version := range []byte{4, 5} {
		s := newSite(t)
		phone := s.device(5, rawmqtt.Connect{ID: "phone", Username: "anna"})
		publish := func(dup bool) *rawmqtt.Client {
			t.Helper()
			backend := s.connect(version, rawmqtt.Connect{ID: "backend", SessionExpiry: 60})
			must(t, backend.Send(packets.Packet{
				FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1, Dup: dup}, PacketID: 7, TopicName: toAnna, Payload: []byte(`{"title":"once"}`),
			}))
			return backend
		}
		s.store.inDoubt.Store(true)
		backend := publish(false)
		for {
			pk, err := backend.Read(10 * time.Second)
			if err != nil {
				break
			}
			if pk.FixedHeader.Type == packets.Puback {
				t.Fatalf("version %d: got %+v", version, pk)
			}
		}
		backend.Close()
		s.store.inDoubt.Store(false)
		must(t, phone.Puback(next(t, phone).PacketID))
		backend = publish(true)
		if pk := next(t, backend); pk.FixedHeader.Type != packets.Puback || pk.ReasonCode != 0 {
			t.Errorf("version %d: the copy got %+v", version, pk)
		}
		backend.Close()
		s.notify(delivery.Request{Account: "anna", Title: "next"})
		if p := pseudo(t, next(t, phone)); p.Title != "next" {
			t.Errorf("version %d: %q was delivered twice", version, p.Title)
		}
	}
}

// TestPushTokens registers and removes with each server over MQTT.
func TestPushTokens(t *testing.T) {
	key := base64.RawURLEncoding.EncodeToString(append([]byte{4}, make([]byte, 64)...))
	secret := base64.RawURLEncoding.EncodeToString(make([]byte, 16))
	s := newSite(t)
	phone := s.device(5, rawmqtt.Connect{ID: "phone", Username: "anna"})
	id := uint16(10)
	say := func(payload string, code byte) []delivery.Registration {
		t.Helper()
		id++
		must(t, phone.Publish(id, 1, topicOf("phone", "push-token"), []byte(payload)))
		if pk := next(t, phone); pk.ReasonCode != code {
			t.Errorf("%s: PUBACK 0x%02x %q", payload, pk.ReasonCode, pk.Properties.ReasonString)
		}
		d, err := s.core.Device("anna", "phone")
		must(t, err)
		return d.Registrations
	}
	for payload, want := range map[string]string{
		`{"apns":{"token":"ABCD","topic":"com.example","environment":"sandbox"}}`: "apns alert abcd com.example",
		`{"fcm":{"token":"fcm-token","project":"p1"}}`:                            "fcm alert fcm-token p1 token",
		`{"fcm":{"fid":"installation"}}`:                                          "fcm alert installation  fid",
		`{"webpush":{"endpoint":"https://push.example/1","expirationTime":null,"keys":{"p256dh":"` + key + `","auth":"` + secret + `"}}}`: "webpush alert https://push.example/1",
	} {
		rs := say(payload, 0)
		if len(rs) != 1 { // a new one takes the place of the old, whichever server it is of
			t.Fatalf("%s: %d registrations", payload, len(rs))
		}
		if got := strings.TrimSpace(strings.Join([]string{rs[0].Server, rs[0].Kind, rs[0].Token, rs[0].App, rs[0].Form}, " ")); got != want {
			t.Errorf("%s: %q, want %q", payload, got, want)
		}
	}
	say(`{"fcm":{"token":"one"}}`, 0)
	if rs := say(`{"apns":{"token":"ef"},"kind":"voip"}`, 0); len(rs) != 2 {
		t.Errorf("with voip: %d registrations", len(rs))
	}
	if rs := say(`{"apns":null,"kind":"alert"}`, 0); len(rs) != 2 {
		t.Errorf("after the removal of another kind: %d registrations", len(rs))
	}
	if rs := say(`{"apns":null}`, 0); len(rs) != 1 || rs[0].Server != "fcm" {
		t.Errorf("after the removal of apns: %+v", rs)
	}
	invalid := packets.ErrPayloadFormatInvalid.Code
	for _, payload := range []string{
		`{}`, `{"apns":null,"fcm":null}`, `{"apns":{"token":"ab"},"fcm":{"token":"x"}}`, `{"gcm":{"token":"x"}}`, `{"fcm":{}}`,
		`{"fcm":{"token":"x","fid":"y"}}`, `{"webpush":{"endpoint":"https://push.example/1"}}`, `{"apns":{"token":"ab","token":"cd"}}`, `{"apns":{}}`,
	} {
		if rs := say(payload, invalid); len(rs) != 1 || rs[0].Token != "one" {
			t.Errorf("%s: %+v", payload, rs)
		}
	}
}

// TestServersOwnPublish takes what the host of the plugin publishes to an account for
// a service's notification.
func TestServersOwnPublish(t *testing.T) {
	s := newSite(t, proven)
	inline := s.server.NewClient(nil, "local", mqtt.InlineClientId, true)
	publish := func(topicName, payload string) { // as Server.Publish does
		t.Helper()
		must(t, s.server.InjectPacket(inline, packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1}, TopicName: topicName, Payload: []byte(payload), PacketID: 1,
		}))
	}
	phone := s.device(5, rawmqtt.Connect{ID: "phone", Username: "anna"})
	publish(toAnna, `{"title":"from the host","id":"h1"}`)
	if p := pseudo(t, next(t, phone)); p.ID != "h1" {
		t.Errorf("got %+v", p)
	}
	publish("heartline/accounts/nobody/notifications", `{"title":"x"}`)
	if n := s.hook.Counters.Refused.Load(); n != 1 {
		t.Errorf("%d refused, want 1", n)
	}
}

// TestRefusalIsTemporary: what may be accepted later ends the connection of a 3.1.1
// backend without an acknowledgement.
func TestRefusalIsTemporary(t *testing.T) {
	s := newSite(t)
	s.device(5, rawmqtt.Connect{ID: "phone", Username: "anna"}).Close()
	s.closed("phone")
	var full *delivery.FullError
	for i := 0; full == nil; i++ {
		if _, err := s.core.Accept(context.Background(), delivery.Request{Account: "anna", Title: "t"}); err != nil && !errors.As(err, &full) || i > 2000 {
			t.Fatal(i, err)
		}
	}
	backend := s.connect(4, rawmqtt.Connect{ID: "backend"})
	must(t, backend.Publish(1, 1, toAnna, []byte(`{"title":"t"}`)))
	if pk, err := backend.Read(10 * time.Second); err == nil {
		t.Errorf("got %+v, want the end of the connection", pk)
	}
}

// TestRefusalsTopicIsTheClientsOwn: nobody else may read it, and an ordinary publish
// that is refused is told there too.
func TestRefusalsTopicIsTheClientsOwn(t *testing.T) {
	s := newSite(t, proven, withRules(hooks.AccessRule{TopicFilter: "secret/#"}))
	c := s.connect(4, rawmqtt.Connect{ID: "a+b", Username: "anna"})
	codes, err := c.Subscribe(1, 0, "heartline/clients/a%2Bb/refusals", "heartline/clients/other/refusals")
	must(t, err)
	if fmt.Sprint(codes) != fmt.Sprint([]byte{0, 0x80}) {
		t.Fatalf("SUBACK %x", codes)
	}
	must(t, c.Publish(2, 1, "secret/x", nil))
	for {
		pk := next(t, c)
		if pk.FixedHeader.Type != packets.Publish {
			continue
		}
		var r wire.Refusal
		must(t, json.Unmarshal(pk.Payload, &r))
		if r.Topic != "secret/x" || r.Status != 403 {
			t.Errorf("told %+v", r)
		}
		return
	}
}
