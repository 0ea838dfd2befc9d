package child

import "syscall"

// Attr returns the attributes of a process that gets death when this one ends, however
// that ends.
func Attr(death syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: death}
}
