package persist

import (
	"testing"
	"time"
)

// TestSlowWritesLeaveTheDiskToOthers: a pause is three times as long as the last write
// took, so that at most a quarter of the disk's time goes into ordinary MQTT.
func TestSlowWritesLeaveTheDiskToOthers(t *testing.T) {
	for took, want := range map[time.Duration]time.Duration{
		0: 5 * time.Millisecond, 60 * time.Millisecond: 180 * time.Millisecond, time.Minute: maxRest,
	} {
		if got := rest(5*time.Millisecond, took); got != want {
			t.Errorf("after a write of %s the pause is %s, want %s", took, got, want)
		}
	}
}
