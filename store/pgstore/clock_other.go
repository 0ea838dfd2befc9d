//go:build !linux

package pgstore

import "time"

// now is a clock that never steps. Only differences of its times mean something.
func now() time.Time { return time.Now() }
