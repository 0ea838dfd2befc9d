//go:build !linux

package testtool

import "syscall"

func dieWithParent(*syscall.SysProcAttr) {}
