package pgstore

import (
	"time"

	"golang.org/x/sys/unix"
)

// now is a clock that never steps, and counts the time during which the machine is
// suspended: a lease ends then, too. Only differences of its times mean something.
func now() time.Time {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return time.Now() // a kernel without it
	}
	return time.Unix(0, ts.Nano())
}
