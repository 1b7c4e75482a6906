package program

import "syscall"

// dieWithParent makes the kernel kill the child when the test process dies in
// a way that runs no cleanup, for example at go test's -timeout.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
