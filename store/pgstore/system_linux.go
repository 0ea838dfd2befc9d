package pgstore

import (
	"time"

	"golang.org/x/sys/unix"
)

// limitSilence bounds how long the other side of a TCP connection may acknowledge nothing.
func limitSilence(fd uintptr, patience time.Duration) {
	_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(patience.Milliseconds())) // a Unix socket has none
}

// now is a clock that never steps, and counts the time during which the machine is
// suspended: a lease ends then, too. Only differences of its times mean something.
func now() time.Time {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return time.Now() // a kernel without it
	}
	return time.Unix(0, ts.Nano())
}
