package crypto_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"
	"unsafe"

	"embassy/crypto"

	"golang.org/x/sys/unix"
)

// lockedKiB is how much memory of this process is locked.
func lockedKiB(t *testing.T) (n int) {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := bytes.Cut(status, []byte("VmLck:"))
	if _, err := fmt.Sscan(string(after), &n); !found || err != nil {
		t.Fatalf("no VmLck in %s: %v", status, err)
	}
	return n
}

// TestRootIsLockedUntilWiped runs in a process of its own, where no other test
// has left a root behind.
func TestRootIsLockedUntilWiped(t *testing.T) {
	if os.Getenv("EMBASSY_TEST_ALONE") == "" {
		again := exec.Command(os.Args[0], "-test.run=^TestRootIsLockedUntilWiped$", "-test.v")
		again.Env = append(os.Environ(), "EMBASSY_TEST_ALONE=1")
		out, err := again.CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("--- ")) {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	if err := unix.Mlock(make([]byte, 64)); errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOMEM) {
		t.Skip("this system locks no memory for this user")
	}
	if err := unix.Munlockall(); err != nil {
		t.Fatal(err)
	}
	var roots []*crypto.Root
	for range 200 { // more than fit on one page
		roots = append(roots, crypto.NewRoot())
	}
	loaded, err := crypto.RootFromBytes(roots[0].Bytes())
	if err != nil {
		t.Fatal(err)
	}
	unwrapped, err := crypto.UnwrapRoot(wrap(t, loaded), []byte("passphrase"), testContext())
	if err != nil {
		t.Fatal(err)
	}
	roots = append(roots, loaded, unwrapped)
	if i := slices.IndexFunc(roots, func(r *crypto.Root) bool { return !r.Locked() }); i >= 0 {
		t.Fatalf("root %d is not locked", i)
	}
	full := lockedKiB(t)
	if full == 0 {
		t.Fatal("no memory is locked")
	}
	// While each page has a root that lives, all stay locked.
	lives := map[uintptr]bool{}
	for _, r := range roots {
		from := uintptr(unsafe.Pointer(r)) / uintptr(os.Getpagesize())
		to := (uintptr(unsafe.Pointer(r)) + unsafe.Sizeof(*r) - 1) / uintptr(os.Getpagesize())
		if lives[from] && lives[to] {
			r.Wipe()
		}
		lives[from], lives[to] = true, true
	}
	if got := lockedKiB(t); got != full {
		t.Errorf("%d KiB are locked while roots live, before %d", got, full)
	}
	for _, r := range roots {
		r.Wipe()
		r.Wipe()
		if r.Locked() || !bytes.Equal(r.Bytes(), make([]byte, crypto.KeySize)) {
			t.Fatal("a wiped root is left")
		}
	}
	if got := lockedKiB(t); got != 0 {
		t.Errorf("%d KiB are locked when all are wiped", got)
	}
}
