package integration_test

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestRescueWithoutCharter: on the one store that is left, somebody deleted all
// but packs and snapshots. The kit gives everything back.
func TestRescueWithoutCharter(t *testing.T) {
	src := filepath.Join(t.TempDir(), "src")
	oddTree(t, src)
	write(t, filepath.Join(src, "large"), noise(5, 20*mib))
	datasets := []dataset{{name: "data", sources: []string{src}}}
	stores := borrow(t, 1)
	s := newSite(t, stores...)
	s.found(datasets...)
	s.backup(0)
	write(t, filepath.Join(src, "later"), noise(9, mib))
	s.backup(0)
	for key := range stores[0].list() {
		if !strings.Contains(key, "/pack/") && !strings.Contains(key, "/snapshot/") {
			stores[0].remove(key)
		}
	}
	out := filepath.Join(t.TempDir(), "out")
	if r := s.rescue(1, stores, "--to", out); !strings.Contains(r.stderr, "--without-charter") {
		t.Errorf("the flag is not named:\n%s", r.stderr)
	}
	if r := s.rescue(0, stores, "--without-charter", "--list"); strings.Count(r.stdout, "data ") != 2 {
		t.Errorf("the list is\n%s", r.stdout)
	}
	s.rescue(0, stores, "--without-charter", "--to", out)
	compare(t, out, datasets...)
}
