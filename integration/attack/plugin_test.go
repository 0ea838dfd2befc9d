package attack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/broker"
	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

// TestPlugin: the hooks of a foreign server accept every password of its list and allow
// every topic. Still nobody gets at another account's device, and nobody is a service.
func TestPlugin(t *testing.T) {
	server := mqtt.New(&mqtt.Options{Logger: slog.New(slog.DiscardHandler)})
	ledger := &auth.Ledger{Auth: auth.AuthRules{
		{Username: "alice", Password: "alice", Allow: true}, {Username: "bob", Password: "bob", Allow: true},
	}, ACL: auth.ACLRules{{Filters: auth.Filters{"#": auth.ReadWrite}}}}
	if err := server.AddHook(new(auth.Hook), &auth.Options{Ledger: ledger}); err != nil {
		t.Fatal(err)
	}
	tcp := listeners.NewTCP(listeners.Config{ID: "tcp", Address: "127.0.0.1:0"})
	if err := server.AddListener(tcp); err != nil {
		t.Fatal(err)
	}
	h, err := broker.Attach(server, broker.Options{Store: config.Store{Engine: config.EngineMemory}, Services: func(*mqtt.Client) bool { return false }})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Serve(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(context.Background()); err != nil {
			t.Error(err)
		}
		_ = server.Close() // its error tells of connections that are closed
	})
	join := func(version byte, o rawmqtt.Connect) (*rawmqtt.Client, packets.Packet, error) {
		nc, err := dialer().Dial("tcp", tcp.Address())
		if err != nil {
			t.Fatal(err)
		}
		c := rawmqtt.New(nc, version)
		t.Cleanup(c.Close)
		o.Keepalive = 60
		pk, err := c.Connect(o)
		return c, pk, err
	}
	a := &target{T: t}
	phone, pk, err := join(5, rawmqtt.Connect{ID: "alice-phone", Username: "alice", Password: "alice", SessionExpiry: 3600})
	if err != nil || pk.ReasonCode != 0 {
		t.Fatalf("alice: 0x%02x %v", pk.ReasonCode, err)
	}
	a.alice = phone
	if codes, err := a.alice.Subscribe(1, 1, "heartline/devices/alice-phone/notifications"); err != nil || codes[0] != 1 {
		t.Fatal(codes, err)
	}
	a.unharmed("before")
	for _, version := range []byte{4, 5} {
		for row, o := range map[string]rawmqtt.Connect{
			"wrong password":         {ID: "alice-2", Username: "alice", Password: "wrong", Clean: true},
			"no name":                {ID: "alice-2", Clean: true},
			"alice's device":         {ID: "alice-phone", Username: "bob", Password: "bob", SessionExpiry: 60},
			"alice's device, clean":  {ID: "alice-phone", Username: "bob", Password: "bob", Clean: true},
			"will to alice's device": {ID: "bob-w", Username: "bob", Password: "bob", Clean: true, WillTopic: "heartline/devices/alice-phone/notifications", WillPayload: "x"},
			"will as a backend":      {ID: "bob-w", Username: "bob", Password: "bob", Clean: true, WillTopic: "heartline/accounts/alice/notifications", WillPayload: "{}"},
		} {
			rows.Add(1)
			c, pk, err := join(version, o)
			if err == nil && pk.ReasonCode == 0 {
				t.Errorf("plugin, %s, version %d: let in", row, version)
			}
			c.Close()
			a.unharmed(row)
		}
		bob, pk, err := join(version, rawmqtt.Connect{ID: fmt.Sprint("bob-", version), Username: "bob", Password: "bob", Clean: true})
		if err != nil || pk.ReasonCode != 0 {
			t.Fatalf("bob: 0x%02x %v", pk.ReasonCode, err)
		}
		for i, filter := range []string{
			"heartline/devices/alice-phone/notifications", "heartline/devices/alice-phone/messages", "heartline/devices/alice-phone/#",
			"heartline/devices/+/notifications", "heartline/devices/#", "$share/g/heartline/devices/alice-phone/notifications", "heartline/accounts/alice/events",
		} {
			rows.Add(1)
			// The host's rules grant it: mochi grants each filter that one hook allows. He
			// gets nothing by it, as the end of this round shows.
			if codes, err := bob.Subscribe(uint16(i+1), 1, filter); err != nil || len(codes) != 1 {
				t.Errorf("plugin: bob subscribes to %s, version %d: %x %v", filter, version, codes, err)
			}
		}
		for i, topic := range []string{
			"heartline/devices/alice-phone/notifications", "heartline/devices/alice-phone/messages", "heartline/devices/alice-phone/acks", "heartline/devices/alice-phone/state",
			"heartline/devices/alice-phone/push-token", "heartline/devices/alice-phone/sign-out", "heartline/accounts/alice/notifications",
		} {
			rows.Add(1)
			if err := bob.Publish(uint16(100+i), 1, topic, []byte(`{"id":"x","title":"t","app":"background","apns":null,"status":"displayed"}`)); err != nil {
				t.Fatal(err)
			}
			pk, err := bob.Read(10 * time.Second)
			if err != nil || pk.FixedHeader.Type != packets.Puback || version == 5 && pk.ReasonCode < 0x80 {
				t.Errorf("plugin: bob publishes to %s, version %d: %+v 0x%02x %v", topic, version, pk.FixedHeader, pk.ReasonCode, err)
				break
			}
			a.unharmed(topic)
		}
		rows.Add(1)
		if _, err := h.Notify(t.Context(), delivery.Request{Account: "alice", ID: fmt.Sprint("n", version), Title: "for alice"}); err != nil {
			t.Fatal(err)
		}
		pk, err = a.alice.Read(10 * time.Second)
		if err != nil || pk.FixedHeader.Type != packets.Publish {
			t.Fatalf("alice's phone got %+v %v", pk.FixedHeader, err)
		}
		if err := a.alice.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: pk.PacketID}); err != nil {
			t.Fatal(err)
		}
		if err := bob.Ping(); err != nil {
			t.Fatal(err)
		}
		if pk, err := bob.Read(10 * time.Second); err != nil || pk.FixedHeader.Type != packets.Pingresp {
			t.Errorf("plugin: bob got %+v of alice's %v", pk.FixedHeader, err)
		}
		// A topic of the host is not forbidden.
		if codes, err := bob.Subscribe(50, 1, "news/#"); err != nil || codes[0] != 1 {
			t.Errorf("the host's topics: %x %v", codes, err)
		}
		bob.Close()
	}
	if _, err := h.Timeline(t.Context(), "x"); !errors.Is(err, delivery.ErrUnknownNotification) {
		t.Errorf("a notification was made: %v", err)
	}
}
