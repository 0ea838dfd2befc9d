//go:build unix

package main

import (
	"os"
	"os/signal"
	"syscall"
)

// reloads delivers every SIGHUP from now on, which then no longer ends the process. Nor does
// a write to the log whose reader has gone (a pipe to tee or to a log collector): Go ends a
// process for that unless it ignores SIGPIPE.
func reloads() <-chan os.Signal {
	signal.Ignore(syscall.SIGPIPE)
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGHUP)
	return c
}
