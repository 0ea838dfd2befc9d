// Package procstat reads what a process has used from Linux's /proc.
package procstat

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Stat is what a process has used so far. See proc_pid_stat(5).
type Stat struct {
	Parent       int // process identifier
	User, System time.Duration
	Ended        time.Duration // user and system time of its children that have ended and been waited for
	Resident     int64         // memory, bytes
}

// CPU is the CPU time of the process itself.
func (s Stat) CPU() time.Duration { return s.User + s.System }

// ticksPerSecond is what Linux counts in towards programs, on every architecture
// that Go runs on.
const ticksPerSecond = 100

// Read reads /proc/PID/stat. The error wraps os.ErrNotExist where there is no such process.
func Read(pid int) (Stat, error) {
	name := fmt.Sprintf("/proc/%d/stat", pid)
	text, err := os.ReadFile(name)
	if err != nil {
		return Stat{}, err
	}
	f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])) // the name, in parentheses, may hold anything
	if len(f) < 22 {
		return Stat{}, fmt.Errorf("%s holds %d fields", name, len(f))
	}
	number := func(i int) int64 {
		n, _ := strconv.ParseInt(f[i], 10, 64) // the kernel writes numbers
		return n
	}
	ticks := func(n int64) time.Duration { return time.Duration(n) * time.Second / ticksPerSecond }
	return Stat{
		Parent: int(number(1)), User: ticks(number(11)), System: ticks(number(12)), Ended: ticks(number(13) + number(14)),
		Resident: number(21) * int64(os.Getpagesize()),
	}, nil
}
