//go:build !linux

package delivery

import "time"

// boottime is 0 where the system has no clock that runs during suspension.
func boottime() time.Duration { return 0 }
