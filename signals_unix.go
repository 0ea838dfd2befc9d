//go:build unix

package main

import (
	"os"
	"os/signal"
	"syscall"
)

// reloads delivers every SIGHUP from now on, which then no longer ends the process.
func reloads() <-chan os.Signal {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGHUP)
	return c
}
