//go:build !linux

package main

import (
	"fmt"
	"path/filepath"
	"syscall"
)

// shortPath refuses a folder whose path is too long for a socket in it.
func shortPath(dir string) (path string, done func(), err error) {
	if len(filepath.Join(dir, socketName)) > 100 {
		return "", nil, fmt.Errorf("state directory %s: %w for a socket: choose a shorter state_dir", dir, syscall.ENAMETOOLONG)
	}
	return dir, func() {}, nil
}

// privateSocket does nothing: the state directory keeps others out until the
// socket has its mode.
func privateSocket(string, string, syscall.RawConn) error { return nil }
