package testtool

import (
	"testing"
	"time"
)

func TestStepped(t *testing.T) {
	now := time.Now()
	for _, by := range []time.Duration{-48 * time.Hour, 0, 1500 * time.Millisecond, 48 * time.Hour} {
		at := Stepped(now, by)
		if steady, wall := at.Sub(now), at.Round(0).Sub(now.Round(0)); steady != 0 || wall != by {
			t.Errorf("by %v: the monotonic clock moved by %v, the wall clock by %v", by, steady, wall)
		}
	}
}
