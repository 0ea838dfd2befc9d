package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"

	"github.com/heartline-mqtt/heartline/broker/internal/listener"
	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

// TestRepeatsOutlastTheKeepalive: a client that notices by its keepalive that it is cut off
// repeats in time the publishes that have no PUBACK.
func TestRepeatsOutlastTheKeepalive(t *testing.T) {
	cfg := config.Default()
	cfg.MQTT.MaxKeepalive = 12 * time.Hour
	if got, least := deliveryOptions(cfg, false).RepeatWithin, cfg.MQTT.MaxKeepalive*3/2; got <= least {
		t.Errorf("%v, want more than %v", got, least)
	}
}

// TestStartAndClose: a second Start does nothing, and one during or after Close leaves
// nothing running.
func TestStartAndClose(t *testing.T) {
	cfg := config.Default()
	cfg.Store.Engine, cfg.MQTT.Address, cfg.HTTP.Address = config.EngineMemory, "127.0.0.1:0", "127.0.0.1:0"
	for range 5 {
		b, err := New(cfg, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := b.Start(); err != nil {
				t.Error(err)
			}
		}
		var all sync.WaitGroup
		for range 2 {
			all.Go(func() {
				if err := b.Close(context.Background()); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if err := b.Start(); !errors.Is(err, delivery.ErrStopped) {
			t.Errorf("start after close: %v", err)
		}
		early, err := New(cfg, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			if err := early.Start(); err != nil && !errors.Is(err, delivery.ErrStopped) {
				t.Error(err)
			}
		})
		if err := early.Close(context.Background()); err != nil {
			t.Error(err)
		}
		all.Wait()
	}
}

// TestCloseInEitherOrder closes Heartline and its server in both orders, Heartline
// twice at once, while clients publish notifications, acknowledge them and use
// ordinary topics. It is for -race, and for what Close returns.
func TestCloseInEitherOrder(t *testing.T) {
	for _, heartlineFirst := range []bool{true, false} {
		for round := range 2 {
			t.Run(fmt.Sprint("heartline first: ", heartlineFirst, " ", round), func(t *testing.T) {
				closeWhileBusy(t, heartlineFirst)
			})
		}
	}
}

func closeWhileBusy(t *testing.T, heartlineFirst bool) {
	log := slog.New(slog.DiscardHandler)
	server := mqtt.New(&mqtt.Options{Logger: log})
	if err := server.AddHook(new(auth.AllowHook), nil); err != nil {
		t.Fatal(err)
	}
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := server.AddListener(listener.New(listener.Options{ID: "tcp", Socket: socket})); err != nil {
		t.Fatal(err)
	}
	cfg := config.Default()
	cfg.Store.Engine = config.EngineMemory
	heartline, err := attach(server, cfg, attachment{log: log, hostAuth: true, services: func(*mqtt.Client) bool { return true }})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Serve(); err != nil {
		t.Fatal(err)
	}

	var clients sync.WaitGroup
	busy := make(chan struct{}, 64) // one for each answer, as long as there is room
	for i := range 4 {
		c, err := rawmqtt.Dial(socket.Addr().String(), 5)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		id := fmt.Sprint("phone", i)
		if pk, err := c.Connect(rawmqtt.Connect{ID: id, Username: "alice", Keepalive: 60}); err != nil || pk.ReasonCode != 0 {
			t.Fatalf("CONNACK 0x%02x, %v", pk.ReasonCode, err)
		}
		if _, err := c.Subscribe(1, 1, "heartline/devices/"+id+"/notifications"); err != nil {
			t.Fatal(err)
		}
		clients.Go(func() {
			for n := uint16(2); ; n = n%1000 + 2 {
				topicName := "heartline/accounts/alice/notifications"
				if n%4 == 0 {
					topicName = "ordinary"
				}
				if c.Publish(n, 1, topicName, []byte(`{"title":"t"}`)) != nil {
					return
				}
			}
		})
		clients.Go(func() {
			for {
				pk, err := c.Read(10 * time.Second)
				if err != nil {
					return
				}
				if pk.FixedHeader.Qos == 1 && pk.TopicName != "" {
					_ = c.Puback(pk.PacketID) // the connection may be gone
				}
				select {
				case busy <- struct{}{}:
				default:
				}
			}
		})
		t.Cleanup(clients.Wait)
		t.Cleanup(c.Close)
	}
	for range cap(busy) {
		<-busy
	}

	closeHeartline := func() {
		var both sync.WaitGroup
		for range 2 {
			both.Go(func() {
				if err := heartline.Close(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		both.Wait()
	}
	if heartlineFirst {
		closeHeartline()
		c, err := rawmqtt.Dial(socket.Addr().String(), 5)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if pk, err := c.Connect(rawmqtt.Connect{ID: "late", Username: "alice", Keepalive: 60}); err != nil || pk.ReasonCode != 0 {
			t.Fatalf("the server does not go on: CONNACK 0x%02x, %v", pk.ReasonCode, err)
		}
		for topicName, want := range map[string]bool{"ordinary": true, "heartline/accounts/alice/notifications": false} {
			if err := c.Publish(9, 1, topicName, []byte(`{"title":"t"}`)); err != nil {
				t.Fatal(err)
			}
			pk, err := c.Read(10 * time.Second)
			if err != nil || pk.ReasonCode < 0x80 != want {
				t.Errorf("%s: reason code 0x%02x, %v", topicName, pk.ReasonCode, err)
			}
		}
	}
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	if !heartlineFirst {
		closeHeartline()
	}
	if err := heartline.Close(t.Context()); err != nil {
		t.Errorf("closed again: %v", err)
	}
}
