package procstat

import (
	"errors"
	"os"
	"syscall"
	"testing"
	"time"
)

func TestRead(t *testing.T) {
	var r syscall.Rusage
	for r.Utime.Nano() < int64(100*time.Millisecond) { // /proc counts in steps of 10 ms
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
			t.Fatal(err)
		}
	}
	s, err := Read(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		t.Fatal(err)
	}
	used := time.Duration(r.Utime.Nano() + r.Stime.Nano())
	if s.Parent != os.Getppid() || s.CPU() <= 0 || s.CPU() > used || s.Resident < 1<<20 {
		t.Errorf("got %+v, the kernel says elsewhere that %s were used", s, used)
	}
	if _, err := Read(1 << 30); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a process that is not there: %v", err)
	}
}
