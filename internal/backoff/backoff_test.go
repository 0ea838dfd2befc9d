package backoff

import (
	"math"
	"testing"
	"time"
)

func TestDoubled(t *testing.T) {
	for _, tt := range []struct {
		initial, limit time.Duration
		n              int
		want           time.Duration
	}{
		{time.Second, time.Minute, -1, time.Second},
		{time.Second, time.Minute, 0, time.Second},
		{time.Second, time.Minute, 1, 2 * time.Second},
		{time.Second, time.Minute, 5, 32 * time.Second},
		{time.Second, time.Minute, 6, time.Minute},
		{time.Second, time.Minute, math.MaxInt, time.Minute},
		{time.Minute, time.Second, 3, time.Second},
		{1, math.MaxInt64, 200, math.MaxInt64}, // no overflow
		{0, time.Second, math.MaxInt, 0},       // and no endless loop
	} {
		if got := Doubled(tt.initial, tt.limit, tt.n); got != tt.want {
			t.Errorf("Doubled(%v, %v, %d) = %v, want %v", tt.initial, tt.limit, tt.n, got, tt.want)
		}
	}
}

func TestJitterAndSpread(t *testing.T) {
	jitters, spreads := map[time.Duration]bool{}, map[time.Duration]bool{}
	for range 1000 {
		j, s := Jitter(time.Second), Spread(time.Second)
		if j < time.Second/2 || j > time.Second || s < 0 || s > time.Second {
			t.Fatalf("Jitter %v, Spread %v of 1 s", j, s)
		}
		jitters[j], spreads[s] = true, true
	}
	if len(jitters) < 100 || len(spreads) < 100 {
		t.Errorf("only %d and %d different values", len(jitters), len(spreads))
	}
	if Jitter(0) != 0 || Jitter(1) != 1 || Spread(0) != 0 || Spread(-1) != 0 {
		t.Error("the smallest durations")
	}
}
