package harden_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"embassy/cmd/internal/harden"

	"golang.org/x/sys/unix"
)

func TestProcess(t *testing.T) {
	if err := harden.Process(); err != nil {
		t.Fatal(err)
	}
	if dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || dumpable != 0 {
		t.Errorf("dumpable is %d, %v", dumpable, err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err != nil || limit != (unix.Rlimit{}) {
		t.Errorf("the limit of core dumps is %+v, %v", limit, err)
	}
	// What the program itself needs of /proc goes on.
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d/file", d.Fd())); err != nil {
		t.Error(err)
	}
	out, err := exec.Command("sh", "-c", "ulimit -c; cat /proc/self/environ >/dev/null").CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "0" {
		t.Errorf("a program that is started has the limit %q, %v", out, err)
	}
}
