package bench

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ticksPerSecond is what Linux counts in towards programs, on every architecture
// that Go runs on.
const ticksPerSecond = 100

// processUsage is what a process has used so far.
func processUsage(pid int) (usage, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, os.ErrNotExist) {
		return usage{}, fmt.Errorf("--server-pid: there is no process %d", pid)
	}
	if err != nil {
		return usage{}, fmt.Errorf("--server-pid: %w", err)
	}
	// The name, in parentheses, may hold anything. proc_pid_stat(5)
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 22 {
		return usage{}, fmt.Errorf("--server-pid: /proc/%d/stat holds %d fields", pid, len(fields))
	}
	ticks := func(s string) time.Duration {
		n, _ := strconv.ParseInt(s, 10, 64) // the kernel writes numbers
		return time.Duration(n) * time.Second / ticksPerSecond
	}
	pages, _ := strconv.ParseInt(fields[21], 10, 64)
	return usage{user: ticks(fields[11]), system: ticks(fields[12]), resident: pages * int64(os.Getpagesize())}, nil
}

// ownUsage is what this process has used so far.
func ownUsage() usage {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return usage{}
	}
	return usage{user: time.Duration(r.Utime.Nano()), system: time.Duration(r.Stime.Nano())}
}
