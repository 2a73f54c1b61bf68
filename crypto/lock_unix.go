//go:build unix

package crypto

import "golang.org/x/sys/unix"

func lockMemory(b []byte) error { return unix.Mlock(b) }

// unlockMemory leaves the memory locked when the system refuses, which harms
// nobody.
func unlockMemory(b []byte) { _ = unix.Munlock(b) }
