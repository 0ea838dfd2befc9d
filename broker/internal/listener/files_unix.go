//go:build unix

package listener

import "syscall"

// openFiles is how many file descriptors the process may have, 0 for no limit.
func openFiles() int {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil || uint64(l.Cur) > 1<<30 { //nolint:unconvert // signed on FreeBSD
		return 0
	}
	return int(l.Cur)
}
