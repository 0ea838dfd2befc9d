package broker

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	mochilisteners "github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
	"github.com/heartline-mqtt/heartline/wire"
)

const eventsPatience = 2 * time.Minute

// reader is a client that reads events.
type reader struct {
	*testing.T
	*rawmqtt.Client
}

func newReader(t *testing.T, address string, version byte, o rawmqtt.Connect) *reader {
	t.Helper()
	c, err := rawmqtt.Dial(address, version)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if pk, err := c.Connect(o); err != nil || pk.ReasonCode != 0 {
		t.Fatalf("CONNACK 0x%02x, %v", pk.ReasonCode, err)
	}
	return &reader{t, c}
}

// event returns the next event and acknowledges it.
func (r *reader) event() (wire.StreamEvent, packets.Packet) {
	r.Helper()
	for {
		pk, err := r.Read(eventsPatience)
		if err != nil {
			r.Fatal(err)
		}
		if pk.FixedHeader.Type != packets.Publish || !strings.HasSuffix(pk.TopicName, "/events") {
			continue
		}
		var e wire.StreamEvent
		if err := json.Unmarshal(pk.Payload, &e); err != nil {
			r.Fatal(err)
		}
		if pk.FixedHeader.Qos > 0 {
			if err := r.Puback(pk.PacketID); err != nil {
				r.Fatal(err)
			}
		}
		return e, pk
	}
}

func runBroker(t *testing.T, cfg *config.Config) *Broker {
	t.Helper()
	cfg.MQTT.Address, cfg.HTTP.Address = "127.0.0.1:0", "127.0.0.1:0"
	b, err := New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	return b
}

func notify(t *testing.T, h *Heartline, account, id string) {
	t.Helper()
	if _, err := h.Notify(t.Context(), delivery.Request{Account: account, ID: id, Title: "t"}); err != nil {
		t.Fatal(err)
	}
}

// TestEventsRights: services read the events of the accounts they may act for, devices
// none, and nobody publishes events.
func TestEventsRights(t *testing.T) {
	dir := t.TempDir()
	cfg := config.Default()
	cfg.DataDir = filepath.Join(dir, "data")
	path := users(t, dir, "alice", "bob", "shop", "all")
	cfg.Auth.Mode, cfg.Auth.File.Path = config.AuthFile, path
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(content), `{name: "shop",`, `{name: "shop", role: service, accounts: ["a*"],`)
	text = strings.ReplaceAll(text, `{name: "all",`, `{name: "all", role: service,`)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	b := runBroker(t, cfg)
	for _, account := range []string{"alice", "bob"} {
		if err := b.PutDevice(t.Context(), account, account+"-phone", nil); err != nil {
			t.Fatal(err)
		}
	}
	login := func(name string) *reader {
		return newReader(t, b.MQTTAddr(), 5, rawmqtt.Connect{ID: name + "-client", Username: name, Password: name, Clean: true})
	}
	for _, c := range []struct {
		user, filter string
		code         byte
	}{
		{"alice", "heartline/accounts/alice/events", 0x87},
		{"alice", "heartline/accounts/+/events", 0x87},
		{"shop", "heartline/accounts/bob/events", 0x87},
		{"shop", "heartline/accounts/alice/events", 1},
		{"shop", "heartline/accounts/+/events", 1},
		{"all", "heartline/accounts/bob/events", 1},
		{"all", "heartline/#", 1},
		{"all", "heartline/accounts/bob/notifications", 0x87},
	} {
		if codes, err := login(c.user).Subscribe(1, 1, c.filter); err != nil || codes[0] != c.code {
			t.Errorf("%s, %s: SUBACK %x, %v; want %x", c.user, c.filter, codes, err, c.code)
		}
	}
	shop, all := login("shop"), login("all")
	for _, r := range []*reader{shop, all} {
		if codes, err := r.Subscribe(1, 1, "#", "heartline/accounts/+/events"); err != nil || codes[0] != 1 {
			t.Fatalf("SUBACK %x, %v", codes, err)
		}
	}
	alice := login("alice")
	if codes, err := alice.Subscribe(1, 1, "heartline/#"); err != nil || codes[0] != 0x87 {
		t.Errorf("alice, heartline/#: SUBACK %x, %v", codes, err)
	}
	if err := alice.Publish(2, 1, "heartline/accounts/alice/events", []byte(`{}`)); err != nil {
		t.Fatal(err)
	}
	if pk, err := alice.Read(eventsPatience); err != nil || pk.ReasonCode != packets.ErrNotAuthorized.Code {
		t.Errorf("a forged event: %+v, %v", pk, err)
	}
	notify(t, b.Heartline, "bob", "b1")
	notify(t, b.Heartline, "alice", "a1")
	want := map[*reader][]string{shop: {"accepted a1", "waiting a1"}, all: {"accepted b1", "waiting b1", "accepted a1", "waiting a1"}}
	for r, events := range want {
		for range events {
			e, pk := r.event()
			ok := false
			for _, w := range events {
				ok = ok || w == e.Event+" "+e.ID
			}
			if !ok || pk.TopicName != "heartline/accounts/"+e.Account+"/events" || pk.Properties.ContentType != "application/json" {
				t.Errorf("got %+v in %+v, want one of %q", e, pk, events)
			}
		}
	}
}

// TestSlowEventReader: a client that takes nothing for a while loses no event and no
// ordinary message, and holds up nobody else's.
func TestSlowEventReader(t *testing.T) {
	cfg := config.Default()
	cfg.DataDir = t.TempDir()
	b := runBroker(t, cfg)
	if err := b.PutDevice(t.Context(), "alice", "phone", nil); err != nil {
		t.Fatal(err)
	}
	slow := newReader(t, b.MQTTAddr(), 5, rawmqtt.Connect{ID: "slow", Clean: true, ReceiveMaximum: 1})
	fast := newReader(t, b.MQTTAddr(), 4, rawmqtt.Connect{ID: "fast", Clean: true})
	for _, r := range []*reader{slow, fast} {
		if _, err := r.Subscribe(1, 1, "heartline/accounts/alice/events", "ordinary"); err != nil {
			t.Fatal(err)
		}
	}
	const n = 400 // more events than a session holds for its client
	for i := range n {
		notify(t, b.Heartline, "alice", fmt.Sprint("n", i))
	}
	seen := map[string]int{}
	for range 2 * n {
		e, _ := fast.event()
		seen[e.Event]++
	}
	if seen["accepted"] != n || seen["waiting"] != n {
		t.Errorf("the fast reader got %v", seen)
	}
	if err := fast.Publish(9, 1, "ordinary", []byte("x")); err != nil {
		t.Fatal(err)
	}
	seen = map[string]int{}
	for range 2*n + 1 {
		pk, err := slow.Read(eventsPatience)
		if err != nil {
			t.Fatalf("%v after %v", err, seen)
		}
		if pk.TopicName == "ordinary" {
			seen["ordinary"]++
		} else {
			var e wire.StreamEvent
			if err := json.Unmarshal(pk.Payload, &e); err != nil {
				t.Fatal(err)
			}
			seen[e.Event]++
			if want := fmt.Sprint("n", seen["accepted"]-1); e.Event == "accepted" && e.ID != want {
				t.Fatalf("got %s, want %s", e.ID, want)
			}
		}
		if err := slow.Puback(pk.PacketID); err != nil {
			t.Fatal(err)
		}
	}
	if seen["accepted"] != n || seen["waiting"] != n || seen["ordinary"] != 1 {
		t.Errorf("the slow reader got %v", seen)
	}
}

// TestEventsOfAKeptSession: a client that comes back to its session gets the events since
// it was there, each once.
func TestEventsOfAKeptSession(t *testing.T) {
	cfg := config.Default()
	cfg.DataDir = t.TempDir()
	b := runBroker(t, cfg)
	if err := b.PutDevice(t.Context(), "alice", "phone", nil); err != nil {
		t.Fatal(err)
	}
	who := rawmqtt.Connect{ID: "kept", SessionExpiry: 3600}
	r := newReader(t, b.MQTTAddr(), 5, who)
	if _, err := r.Subscribe(1, 1, "heartline/accounts/+/events"); err != nil {
		t.Fatal(err)
	}
	var got []string
	seen := map[string]bool{}
	take := func(n int) {
		for n > 0 {
			e, pk := r.event()
			id := pk.Properties.User[0].Val
			if seen[id] && pk.FixedHeader.Dup { // its PUBACK was lost with the connection
				continue
			}
			n--
			seen[id] = true
			got = append(got, e.ID+" "+e.Event)
		}
	}
	for i := range 5 {
		notify(t, b.Heartline, "alice", fmt.Sprint("n", i))
		if i%2 == 1 { // a take-over
			r = newReader(t, b.MQTTAddr(), 5, who)
		}
		if i == 2 {
			r.Close()
			continue
		}
		if i == 3 {
			take(4)
			continue
		}
		take(2)
	}
	if want := "[n0 accepted n0 waiting n1 accepted n1 waiting n2 accepted n2 waiting n3 accepted n3 waiting n4 accepted n4 waiting]"; fmt.Sprint(got) != want {
		t.Errorf("got %v", got)
	}
	r.Close() // so that no copy is left
	r = newReader(t, b.MQTTAddr(), 5, rawmqtt.Connect{ID: "kept", Clean: true})
	if _, err := r.Subscribe(1, 1, "heartline/accounts/+/events"); err != nil {
		t.Fatal(err)
	}
	if err := r.Unsubscribe(2, "heartline/accounts/+/events"); err != nil {
		t.Fatal(err)
	}
	notify(t, b.Heartline, "alice", "unheard")
	if _, err := r.Subscribe(3, 0, "heartline/#"); err != nil {
		t.Fatal(err)
	}
	notify(t, b.Heartline, "alice", "heard")
	if e, pk := r.event(); e.ID != "heard" || pk.FixedHeader.Qos != 0 {
		t.Errorf("got %+v at QoS %d", e, pk.FixedHeader.Qos)
	}
}

// TestEventsInAPlugin: in a server of somebody else, those whom Options.Services names
// read events.
func TestEventsInAPlugin(t *testing.T) {
	server := mqtt.New(&mqtt.Options{Logger: slog.New(slog.DiscardHandler)})
	tcp := mochilisteners.NewTCP(mochilisteners.Config{ID: "tcp", Address: "127.0.0.1:0"})
	for _, err := range []error{server.AddHook(new(auth.AllowHook), nil), server.AddListener(tcp)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	h, err := Attach(server, Options{DataDir: t.TempDir(), Services: func(cl *mqtt.Client) bool { return cl.ID == "backend" }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Close()
		if err := h.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := server.Serve(); err != nil {
		t.Fatal(err)
	}
	if err := h.PutDevice(t.Context(), "alice", "phone", nil); err != nil {
		t.Fatal(err)
	}
	stranger := newReader(t, tcp.Address(), 5, rawmqtt.Connect{ID: "stranger", Clean: true})
	if _, err := stranger.Subscribe(1, 1, "heartline/accounts/+/events", "#"); err != nil { // AllowHook lets it
		t.Fatal(err)
	}
	const n = 100
	for version := byte(4); version <= 5; version++ {
		for qos := byte(0); qos <= 1; qos++ {
			r := newReader(t, tcp.Address(), version, rawmqtt.Connect{ID: "backend", Clean: true, Keepalive: 60})
			if codes, err := r.Subscribe(1, qos, "heartline/accounts/+/events"); err != nil || codes[0] != qos {
				t.Fatalf("SUBACK %x, %v", codes, err)
			}
			for i := range n {
				notify(t, h, "alice", fmt.Sprintf("n%d-%d-%d", version, qos, i))
			}
			seen := map[string]int{}
			for range 2 * n {
				e, pk := r.event()
				seen[e.Event]++
				if pk.FixedHeader.Qos != qos {
					t.Fatalf("QoS %d, want %d", pk.FixedHeader.Qos, qos)
				}
			}
			if seen["accepted"] != n || seen["waiting"] != n {
				t.Errorf("version %d, QoS %d: got %v", version, qos, seen)
			}
			r.Close()
		}
	}
	if err := stranger.Ping(); err != nil {
		t.Fatal(err)
	}
	if pk, err := stranger.Read(eventsPatience); err != nil || pk.FixedHeader.Type != packets.Pingresp {
		t.Errorf("the stranger got %+v, %v", pk, err)
	}
}
