package targets_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"embassy/targets"
)

// smallDisk mounts a disk of 1 MiB, which takes a superuser. Where there is
// none, TestDirReadOnly stands in for the second.
func smallDisk(t *testing.T) string {
	t.Helper()
	path := t.TempDir()
	err := syscall.Mount("embassy-test", path, "tmpfs", 0, "size=1m")
	if err != nil && os.Getenv("CI") != "" && os.Geteuid() == 0 {
		t.Fatalf("cannot mount a small disk: %v", err)
	}
	if err != nil {
		t.Skipf("cannot mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(path, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return path
}

func TestDirFull(t *testing.T) {
	path := smallDisk(t)
	d := openDir(t, path)
	if err := d.Put(t.Context(), object("kept", make([]byte, 1000))); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := d.Put(t.Context(), object("new", make([]byte, 2<<20))); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("Put on a full disk: %v, want ENOSPC", err)
		}
	}
	if got := listNames(t, d, ""); len(got) != 1 || got[0] != "kept" {
		t.Errorf("listed %q", got)
	}
	if left, err := os.ReadDir(filepath.Join(path, ".tmp")); err != nil || len(left) != 0 {
		t.Errorf("temporary files left: %v, %v", left, err)
	}
	if err := d.Put(t.Context(), object("new", make([]byte, 1000))); err != nil {
		t.Errorf("Put of what fits: %v", err)
	}
}

func TestDirReadOnlyDisk(t *testing.T) {
	path := smallDisk(t)
	if err := openDir(t, path).Put(t.Context(), object("there", make([]byte, 1000))); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("embassy-test", path, "tmpfs", syscall.MS_REMOUNT|syscall.MS_RDONLY, "size=1m"); err != nil {
		t.Fatal(err)
	}
	d := openDir(t, path)
	if err := d.Delete(t.Context(), "there"); !errors.Is(err, targets.ErrDenied) {
		t.Errorf("Delete: %v, want ErrDenied", err)
	}
	for op, err := range everyOp(t.Context(), d, []byte("x")) {
		if refused := errors.Is(err, targets.ErrDenied); refused != (op == "put") || !refused && err != nil {
			t.Errorf("%s: %v", op, err)
		}
	}
}

// A pipe on a hostile disk must not block.
func TestDirPipe(t *testing.T) {
	path := t.TempDir()
	d := openDir(t, path)
	if err := syscall.Mkfifo(filepath.Join(path, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Get(t.Context(), "pipe", 0, 1); err == nil {
		t.Error("Get of a pipe succeeded")
	}
	if got := listNames(t, d, ""); len(got) != 0 {
		t.Errorf("listed %q", got)
	}
}
