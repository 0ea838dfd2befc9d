package bench

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// alarm sleeps exactly: the runtime's timers are up to a millisecond late on an idle
// machine, which would count against the server, and a thread asleep in a system call
// keeps one of the few places to run in that the others wait for.
type alarm struct {
	timer *os.File // waited for with the sockets; nil where there is none
}

func newAlarm() alarm {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return alarm{}
	}
	return alarm{timer: os.NewFile(uintptr(fd), "timerfd")}
}

// sleep is for d, which is above 0; whoever needs to know looks at the clock after it.
func (a alarm) sleep(d time.Duration) {
	if a.timer == nil {
		time.Sleep(d)
		return
	}
	raw, err := a.timer.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			_ = unix.TimerfdSettime(int(fd), 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}, nil)
		})
	}
	if err == nil {
		var expirations [8]byte
		_, _ = a.timer.Read(expirations[:])
	}
}

func (a alarm) close() { _ = a.timer.Close() }
