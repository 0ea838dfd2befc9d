//go:build !linux

package child

import "syscall"

// Attr returns the attributes of a process. Only Linux tells a process that its parent
// has ended: elsewhere it stays in the group of this one, and gets the terminal's Ctrl-C.
func Attr(syscall.Signal) *syscall.SysProcAttr { return &syscall.SysProcAttr{} }
