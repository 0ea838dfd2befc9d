package testtool

import "syscall"

// dieWithParent ends a process when the test's does, however that ends.
func dieWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGQUIT }
