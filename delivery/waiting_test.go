package delivery_test

import (
	"fmt"
	"log/slog"
	"runtime"
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/delivery"
)

// BenchmarkWaiting starts a Core on 300,000 deliveries that wait for 300 devices, and
// reports the memory of each and the time of one garbage collection with them in memory.
func BenchmarkWaiting(b *testing.B) {
	const devices, each = 300, 1000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	core := delivery.New(delivery.Options{
		Windows: delivery.Windows{Ack: 3 * time.Second, Fallback: 10 * time.Second}, Ack: delivery.AckReceived,
		TTL: 24 * time.Hour, MaxOutstanding: each, MaxInflight: 16, ForgetDeviceAfter: 1440 * time.Hour,
	}, waiting{devices: devices, each: each, since: time.Now()}, nil, slog.New(slog.DiscardHandler))
	if err := core.Start(); err != nil {
		b.Fatal(err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	for b.Loop() {
		runtime.GC()
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(devices*each), "B/delivery")
	core.Abandon()
}

// waiting is an Outbox that has nothing but unfinished deliveries.
type waiting struct {
	delivery.Outbox
	devices, each int
	since         time.Time
}

func (w waiting) OnGroupDone(func()) {}

func (w waiting) LastSeq(delivery.Shard) (uint64, error) { return 0, nil }

func (w waiting) Dismissals(delivery.Shard, func(*delivery.Dismissal) bool) error { return nil }

func (w waiting) Unfinished(_ delivery.Shard, fn func(*delivery.Record) bool) error {
	for i := range w.devices {
		id := fmt.Sprintf("device-%06d", i)
		for j := range w.each {
			at := w.since.Add(time.Duration(j*w.devices+i) * time.Microsecond)
			r := delivery.NewRecord(&delivery.Notification{
				Seq: delivery.Seq(at.UnixNano()), Ack: delivery.AckReceived, Urgency: delivery.UrgencyHigh, Fallback: true, ExpiresAt: at.Add(24 * time.Hour),
			}, id)
			r.State = delivery.StateWaiting
			if !fn(&r) {
				return nil
			}
		}
	}
	return nil
}

func (w waiting) Device(id string) (*delivery.Device, error) {
	return &delivery.Device{ID: id, Account: id, SeenAt: w.since}, nil
}

func (w waiting) AccountDevices(account string) ([]delivery.Device, error) {
	return []delivery.Device{{ID: account, Account: account, SeenAt: w.since}}, nil
}
