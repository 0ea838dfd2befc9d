package broker

import (
	"log/slog"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

// TestMochiRoutesNothing: on a server of our own mochi's index of subscriptions, its
// retained messages, and its clients' subscriptions and messages in flight stay empty:
// hooks/ordinary has them all.
func TestMochiRoutesNothing(t *testing.T) {
	cfg := config.Default()
	cfg.DataDir, cfg.MQTT.Address, cfg.HTTP.Address = t.TempDir(), "127.0.0.1:0", ""
	b, err := New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	c, err := rawmqtt.Dial(b.MQTTAddr(), 5)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if pk, err := c.Connect(rawmqtt.Connect{ID: "c", Username: "a", SessionExpiry: 60, Keepalive: 60}); err != nil || pk.ReasonCode != 0 {
		t.Fatal(pk.ReasonCode, err)
	}
	for i, filter := range []string{"x", "x/#", "$share/g/x", "heartline/devices/c/notifications"} {
		if codes, err := c.Subscribe(uint16(i+1), 2, filter); err != nil || codes[0] > 2 {
			t.Fatal(filter, codes, err)
		}
	}
	if err := c.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 2, Retain: true}, PacketID: 9, TopicName: "x", Payload: []byte("y")}); err != nil {
		t.Fatal(err)
	}
	for seen := map[byte]bool{}; !seen[packets.Pubrec] || !seen[packets.Publish]; { // both ways are half done
		pk, err := c.Read(10 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		seen[pk.FixedHeader.Type] = true
	}
	if st := b.hub.Stats(); st.Subscriptions != 4 || st.Inflight == 0 || st.Retained == 0 {
		t.Errorf("the hub has %+v", st)
	}
	if n := len(b.server.Topics.Subscribers("x").Subscriptions) + len(b.server.Topics.Subscribers("x").Shared); n != 0 {
		t.Errorf("mochi's index has %d subscriptions", n)
	}
	if n := b.server.Topics.Retained.Len(); n != 0 {
		t.Errorf("mochi has %d retained messages", n)
	}
	for id, cl := range b.server.Clients.GetAll() {
		if n, m := cl.State.Subscriptions.Len(), cl.State.Inflight.Len(); n != 0 || m != 0 {
			t.Errorf("mochi's client %s has %d subscriptions and %d messages in flight", id, n, m)
		}
	}
}
