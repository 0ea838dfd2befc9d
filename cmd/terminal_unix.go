//go:build !windows

package cmd

import (
	"os"
	"syscall"
)

// appSignals are those that bring the app of `heartline terminal` to the
// foreground and to the background.
func appSignals() (foreground, background os.Signal) { return syscall.SIGUSR1, syscall.SIGUSR2 }
