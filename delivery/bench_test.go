package delivery

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkTransition is the way of most deliveries: published, acknowledged.
func BenchmarkTransition(b *testing.B) {
	s := situation{now: 1, windows: &Windows{Ack: 3 * time.Second, Fallback: 10 * time.Second}, up: true, room: true}
	b.ReportAllocs()
	for b.Loop() {
		p := progress{state: StatePending, ack: AckReceived, fallback: true}
		p, _ = transition(p, inOffer, s)
		if p, _ = transition(p, inReceived, s); p.state != StateAcked {
			b.Fatal(p.state)
		}
	}
}

// BenchmarkDeadlines puts a delivery among a million and takes it out again.
func BenchmarkDeadlines(b *testing.B) {
	for _, n := range []int{1000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			h, dev := deadlines{slab: &slab{}}, &device{}
			add := func(expires int64) *delivery {
				d := h.slab.add(dev, "", "")
				d.expires = expires
				return d
			}
			for i := range n {
				h.schedule(add(int64(24*time.Hour) + int64(i)))
			}
			d := add(int64(48 * time.Hour))
			d.deadline = int64(3 * time.Second)
			b.ReportAllocs()
			for b.Loop() {
				h.schedule(d)
				h.remove(d)
			}
		})
	}
}
