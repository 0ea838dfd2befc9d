// Command receipts measures what a webhook that catches up costs the notifications: a
// device gets notifications at a steady rate, first while the webhook is idle, then while
// it catches up with events that have collected while its receiver was away.
//
//	go run ./bench/receipts -events 100000 -rate 500
//
// Everything runs in this process: the broker, the device and the receiver share its
// cores.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/heartline-mqtt/heartline/broker"
	"github.com/heartline-mqtt/heartline/config"
	"github.com/heartline-mqtt/heartline/delivery"
	"github.com/heartline-mqtt/heartline/internal/rawmqtt"
)

// secret is for this process alone.
const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func main() {
	events := flag.Int("events", 100_000, "events that have collected")
	rate := flag.Int("rate", 500, "notifications a second to the device")
	seconds := flag.Int("seconds", 10, "how long the rate is measured without the webhook's work")
	flag.Parse()
	if err := run(*events, *rate, time.Duration(*seconds)*time.Second); err != nil {
		fmt.Fprintln(os.Stderr, "receipts:", err)
		os.Exit(1)
	}
}

func run(events, rate int, alone time.Duration) (err error) {
	dir, err := os.MkdirTemp("", "heartline-receipts")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	var away atomic.Bool
	var got atomic.Int64
	away.Store(true)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if away.Load() {
			http.Error(w, "away", http.StatusBadGateway)
			return
		}
		got.Add(1)
	}))
	defer receiver.Close()

	cfg := config.Default()
	cfg.DataDir, cfg.MQTT.Address, cfg.HTTP.Address = filepath.Join(dir, "data"), "127.0.0.1:0", ""
	cfg.Delivery.MaxOutstandingPerDevice = 1_000_000
	file := filepath.Join(dir, "secret")
	if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
		return err
	}
	cfg.Receipts.Webhooks = []config.Webhook{{Name: "backend", URL: receiver.URL, SecretFile: file, Accounts: []string{"behind"}}}
	b, err := broker.New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close(context.Background())) }()
	if err := b.Start(); err != nil {
		return err
	}
	ctx := context.Background()
	if err := b.PutDevice(ctx, "behind", "cellar", nil); err != nil {
		return err
	}
	if err := collect(ctx, b, events/2); err != nil { // accepted and waiting
		return err
	}
	f, err := newFlow(b)
	if err != nil {
		return err
	}
	defer f.device.Close()

	until := time.Now().Add(alone)
	first, err := f.run(ctx, rate, func() bool { return time.Now().After(until) })
	if err != nil {
		return err
	}
	report("webhook idle", first)
	away.Store(false)
	begun := time.Now()
	if _, err := b.RetryWebhook("backend"); err != nil {
		return err
	}
	beside, err := f.run(ctx, rate, func() bool { return got.Load() >= int64(events) })
	if err != nil {
		return err
	}
	took := time.Since(begun)
	report("catching up ", beside)
	fmt.Fprintf(os.Stdout, "%d events in %.1f s, %.0f a second\n", got.Load(), took.Seconds(), float64(got.Load())/took.Seconds())
	return nil
}

// collect accepts notifications for a device that is away.
func collect(ctx context.Context, b *broker.Broker, n int) error {
	var callers sync.WaitGroup
	failed := make(chan error, 1)
	for worker := range 64 {
		callers.Go(func() {
			for i := worker; i < n; i += 64 {
				if _, err := b.Notify(ctx, delivery.Request{Account: "behind", Title: "t"}); err != nil {
					select {
					case failed <- err:
					default:
					}
					return
				}
			}
		})
	}
	callers.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// flow is a device, and the notifications to it.
type flow struct {
	b      *broker.Broker
	device *rawmqtt.Client

	mu   sync.Mutex
	sent map[string]time.Time
	took []time.Duration
	n    int
}

func newFlow(b *broker.Broker) (*flow, error) {
	d, err := rawmqtt.Dial(b.MQTTAddr(), 5)
	if err != nil {
		return nil, err
	}
	f := &flow{b: b, device: d, sent: map[string]time.Time{}}
	if _, err := d.Connect(rawmqtt.Connect{ID: "phone", Username: "live", Keepalive: 300}); err != nil {
		return nil, err
	}
	if _, err := d.Subscribe(1, 1, "heartline/devices/phone/notifications"); err != nil {
		return nil, err
	}
	go f.read()
	return f, nil
}

// read ends with the connection.
func (f *flow) read() {
	for {
		pk, err := f.device.Read(time.Hour)
		if err != nil {
			return
		}
		if pk.FixedHeader.Type != packets.Publish {
			continue
		}
		at := time.Now()
		var m struct{ ID string }
		if json.Unmarshal(pk.Payload, &m) != nil {
			continue
		}
		f.mu.Lock()
		if begun, ok := f.sent[m.ID]; ok {
			f.took = append(f.took, at.Sub(begun))
			delete(f.sent, m.ID)
		}
		f.mu.Unlock()
		if f.device.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: pk.PacketID}) != nil {
			return
		}
	}
}

// run notifies at a rate until done, and returns how long each notification took from its
// request to the device.
func (f *flow) run(ctx context.Context, rate int, done func() bool) ([]time.Duration, error) {
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for !done() {
		<-tick.C
		f.n++
		id := fmt.Sprint("live-", f.n)
		f.mu.Lock()
		f.sent[id] = time.Now()
		f.mu.Unlock()
		f.b.Core().AcceptAsync(delivery.Request{Account: "live", ID: id, Title: "t"}, func(delivery.Receipt, error) {})
	}
	if err := f.b.Core().Flush(ctx); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	took := f.took
	f.took = nil
	return took, nil
}

func report(name string, took []time.Duration) {
	if len(took) == 0 {
		fmt.Fprintln(os.Stdout, name, "no notification arrived")
		return
	}
	slices.Sort(took)
	at := func(q float64) time.Duration { return took[int(q*float64(len(took)-1))].Round(10 * time.Microsecond) }
	fmt.Fprintf(os.Stdout, "%s  %6d notifications  p50 %v  p99 %v  max %v\n", name, len(took), at(0.5), at(0.99), at(1))
}
