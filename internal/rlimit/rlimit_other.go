//go:build !unix

package rlimit

// OpenFiles returns 0, no limit: sockets are no file descriptors on this system.
func OpenFiles() int { return 0 }
