package receipts

import (
	"testing"
	"time"
)

// TestPace: a backlog is sent at the first rate; where new events come faster than that,
// it is doubled until the webhook comes nearer to them.
func TestPace(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	for _, c := range []struct {
		name string
		rate float64 // events a second, in the time of the events
		want float64 // requests a second after ten minutes
	}{
		{"few events", 10, catchUpRate},
		{"as many as that", catchUpRate - 10, catchUpRate},
		{"more", catchUpRate + 10, 2 * catchUpRate},
		{"many more", 7 * catchUpRate, 8 * catchUpRate},
	} {
		t.Run(c.name, func(t *testing.T) {
			var p pace
			now, n := start, 0
			for ; now.Sub(start) < 10*time.Minute; n++ {
				p.sends(now, start.Add(-time.Hour).Add(time.Duration(float64(n)/c.rate*float64(time.Second))))
				if p.next.After(now) {
					now = p.next
				}
			}
			if p.rate != c.want {
				t.Errorf("%g requests a second, want %g", p.rate, c.want)
			}
			if most := int(10*60*c.want) + 20; n > most {
				t.Errorf("%d requests, more than %d", n, most)
			}
		})
	}
}
