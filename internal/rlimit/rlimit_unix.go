//go:build unix

package rlimit

import "syscall"

// OpenFiles returns the number of file descriptors that the process may have open;
// 0 means no limit.
func OpenFiles() int {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil || uint64(l.Cur) > 1<<30 { //nolint:unconvert // signed on FreeBSD
		return 0
	}
	return int(l.Cur)
}
