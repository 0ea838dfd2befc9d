package delivery

import (
	"time"

	"golang.org/x/sys/unix"
)

// boottime is the time since the machine's start, suspension included. Go's
// monotonic clock stands still while a machine is suspended.
func boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0 // a kernel without it: as if never suspended
	}
	return time.Duration(ts.Nano())
}
