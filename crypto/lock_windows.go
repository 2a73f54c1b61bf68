package crypto

import (
	"unsafe"

	"golang.org/x/sys/windows"
)

func lockMemory(b []byte) error {
	return windows.VirtualLock(uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
}

// unlockMemory leaves the memory locked when the system refuses, which harms
// nobody.
func unlockMemory(b []byte) {
	_ = windows.VirtualUnlock(uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
}
