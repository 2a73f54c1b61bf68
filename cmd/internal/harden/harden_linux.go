package harden

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Process forbids core dumps of this process and of what it starts. It also
// makes the process undumpable: a core handler that is a program, which the
// limit does not stop, gets nothing, and only root may trace it or read its
// memory and environment in /proc. What it starts is dumpable again, but for
// the limit. Call it before a secret is read.
func Process() error {
	var failed error
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		failed = fmt.Errorf("forbid core dumps: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		failed = errors.Join(failed, fmt.Errorf("make the process undumpable: %w", err))
	}
	return failed
}
