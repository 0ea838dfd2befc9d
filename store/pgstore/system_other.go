//go:build !linux

package pgstore

import "time"

// now is a clock that never steps. Only differences of its times mean something.
func now() time.Time { return time.Now() }

// limitSilence leaves it to the system how long the other side of a connection may be silent.
func limitSilence(uintptr, time.Duration) {}
