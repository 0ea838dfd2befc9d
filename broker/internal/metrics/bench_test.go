package metrics_test

import (
	"testing"
	"time"

	"github.com/heartline-mqtt/heartline/broker/internal/metrics"
	"github.com/heartline-mqtt/heartline/delivery"
)

// BenchmarkObserve is the cost of the metrics on the way of one notification: accepted,
// published, received.
func BenchmarkObserve(b *testing.B) {
	m := metrics.New()
	at := time.Now()
	seq := delivery.Seq(at.Add(-3 * time.Millisecond).UnixNano())
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			for _, kind := range []delivery.EventKind{delivery.EventAccepted, delivery.EventPublished, delivery.EventReceived} {
				m.Observe("alice", delivery.Event{Seq: seq, Time: at, Kind: kind})
			}
		}
	})
}
