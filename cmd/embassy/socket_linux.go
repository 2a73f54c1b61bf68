package main

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// shortPath returns another name of a folder, good until done is called: the
// path of a socket has at most 107 bytes, and that of a folder may have more.
func shortPath(dir string) (path string, done func(), err error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, fmt.Errorf("state directory %s: %w", dir, err)
	}
	return fmt.Sprintf("/proc/self/fd/%d", fd), func() { unix.Close(fd) }, nil
}

// privateSocket gives the socket its mode before it has a name.
func privateSocket(_, _ string, c syscall.RawConn) error {
	var failed error
	if err := c.Control(func(fd uintptr) { failed = unix.Fchmod(int(fd), 0o600) }); err != nil {
		return err
	}
	return failed
}
