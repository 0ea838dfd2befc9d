package bench

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/heartline-mqtt/heartline/internal/procstat"
)

// processUsage is what a process has used so far.
func processUsage(pid int) (usage, error) {
	s, err := procstat.Read(pid)
	if errors.Is(err, os.ErrNotExist) {
		return usage{}, fmt.Errorf("--server-pid: there is no process %d", pid)
	}
	if err != nil {
		return usage{}, fmt.Errorf("--server-pid: %w", err)
	}
	return usage{user: s.User, system: s.System, resident: s.Resident}, nil
}

// ownUsage is what this process has used so far.
func ownUsage() usage {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return usage{}
	}
	return usage{user: time.Duration(r.Utime.Nano()), system: time.Duration(r.Stime.Nano())}
}
