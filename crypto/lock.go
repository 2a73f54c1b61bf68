package crypto

import (
	"os"
	"sync"
	"unsafe"
)

// locked counts the secrets on each page that is locked, so that one which is
// wiped does not unlock its neighbours. Locks belong to the process, not to a
// secret: that is why this is global.
var locked = struct {
	sync.Mutex
	pages map[uintptr]int
}{pages: map[uintptr]int{}}

// lock keeps b, which is short and on the heap, out of swap and hibernation as
// far as the system allows. It reports whether it did.
func lock(b []byte) bool {
	locked.Lock()
	defer locked.Unlock()
	if lockMemory(b) != nil {
		return false
	}
	for page, last := pages(b); page <= last; page++ {
		locked.pages[page]++
	}
	return true
}

// unlock ends what lock did, unless another secret lies on the same page.
func unlock(b []byte) {
	locked.Lock()
	defer locked.Unlock()
	shared := false
	for page, last := pages(b); page <= last; page++ {
		if locked.pages[page]--; locked.pages[page] > 0 {
			shared = true
		} else {
			delete(locked.pages, page)
		}
	}
	if !shared {
		unlockMemory(b)
	}
}

// pages returns the numbers of the first and the last page of b.
func pages(b []byte) (first, last uintptr) {
	size := uintptr(os.Getpagesize())
	return uintptr(unsafe.Pointer(&b[0])) / size, uintptr(unsafe.Pointer(&b[len(b)-1])) / size
}
