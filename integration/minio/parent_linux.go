package minio

import (
	"os/exec"
	"syscall"
)

// endWithParent makes the kernel kill the server when a test binary dies
// without cleaning up, as it does at a test timeout.
func endWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
