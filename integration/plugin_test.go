package integration

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
	"go.uber.org/goleak"

	"github.com/heartline-mqtt/heartline/broker"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
	"github.com/heartline-mqtt/heartline/wire"
)

// TestPlugin: Heartline on someone's own mochi server, with its listener and its
// hooks, and ordinary MQTT. Nothing is left when both are closed, and the
// server goes on without Heartline.
func TestPlugin(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	server := mqtt.New(&mqtt.Options{Logger: slog.New(slog.DiscardHandler)})
	tcp := listeners.NewTCP(listeners.Config{ID: "tcp", Address: "127.0.0.1:0"})
	for _, err := range []error{server.AddHook(new(auth.AllowHook), nil), server.AddListener(tcp)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	heartline, err := broker.Attach(server, broker.Options{DataDir: t.TempDir(), Services: func(*mqtt.Client) bool { return true }})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Serve(); err != nil {
		t.Fatal(err)
	}

	phone := dial(t, tcp.Address(), "phone", "alice", "heartline/devices/phone/notifications")
	events := heartline.Subscribe(64)
	defer events.Close()
	n, err := heartline.Notify(ctx, delivery.Request{Account: "alice", Title: "Order 7"})
	if err != nil {
		t.Fatal(err)
	}
	pk := receive(t, phone)
	var pseudo wire.Pseudo
	if err := json.Unmarshal(pk.Payload, &pseudo); err != nil || pseudo.ID != n.ID || pseudo.Title != "Order 7" {
		t.Errorf("got %s, %v", pk.Payload, err)
	}
	if err := phone.Puback(pk.PacketID); err != nil {
		t.Fatal(err)
	}
	for e := range events.C {
		if e.Kind == delivery.EventReceived {
			break
		}
	}
	v, err := heartline.Timeline(ctx, n.ID)
	if err != nil {
		t.Fatal(err)
	}
	var got []delivery.EventKind
	for _, e := range v.Timeline {
		got = append(got, e.Kind)
	}
	if want := []delivery.EventKind{delivery.EventAccepted, delivery.EventPublished, delivery.EventReceived}; !slices.Equal(got, want) || v.State != delivery.StateAcked {
		t.Errorf("%v %v, want %v", v.State, got, want)
	}

	for range 2 {
		if err := heartline.Close(ctx); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	if _, err := heartline.Notify(ctx, delivery.Request{Account: "alice", Title: "too late"}); err == nil {
		t.Error("it accepts after Close")
	}
	other := dial(t, tcp.Address(), "other", "bob", "news")
	if err := phone.Publish(1, 1, "news", []byte("the server goes on")); err != nil {
		t.Fatal(err)
	}
	if pk := receive(t, other); string(pk.Payload) != "the server goes on" {
		t.Errorf("got %s", pk.Payload)
	}
	phone.Close()
	other.Close()
	server.Listeners.ClientsWg.Wait() // mochi's Close can hang where a client goes in between
	if err := server.Close(); err != nil {
		t.Error(err)
	}
}

func dial(t *testing.T, address, id, username, filter string) *rawmqtt.Client {
	t.Helper()
	c, err := rawmqtt.Dial(address, 5)
	if err == nil {
		_, err = c.Connect(rawmqtt.Connect{ID: id, Username: username, Keepalive: 60, Clean: true})
	}
	if err == nil {
		_, err = c.Subscribe(1, 1, filter)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func receive(t *testing.T, c *rawmqtt.Client) packets.Packet {
	t.Helper()
	for {
		pk, err := c.Read(10 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if pk.FixedHeader.Type == packets.Publish {
			return pk
		}
	}
}
