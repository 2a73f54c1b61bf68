package integration_test

import (
	"bytes"
	"embassy/embassy"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestBitFlips turns one bit in each kind of object in turn, on the Primary,
// which a restore asks first.
func TestBitFlips(t *testing.T) {
	src := t.TempDir()
	for i := range 40 {
		write(t, filepath.Join(src, fmt.Sprintf("noise-%02d", i)), noise(byte(i), mib))
	}
	write(t, filepath.Join(src, "empty"), nil)
	d := dataset{name: "data", sources: []string{src}}
	stores := start(t, 3)
	primary := stores[0]
	s := newSite(t, stores...)
	s.found(d)
	s.backup(0)
	packs := primary.keys("pack")

	// A run that reads no content stores tree chunks only, in a pack of theirs.
	if err := os.Chmod(filepath.Join(src, "empty"), 0o640); err != nil {
		t.Fatal(err)
	}
	reports, _ := s.backup(0)
	trees := slices.DeleteFunc(primary.keys("pack"), func(key string) bool { return slices.Contains(packs, key) })
	if reports[0].Read != 0 || len(trees) != 1 {
		t.Fatalf("not one pack of trees: %q, %+v", trees, reports[0])
	}
	sizes := primary.list()
	full := slices.IndexFunc(packs, func(key string) bool { return sizes[key] == packMax })
	if full < 0 {
		t.Fatalf("no full pack: %v", sizes)
	}
	newest := func(kind string) string {
		keys := primary.keys(kind)
		return keys[len(keys)-1]
	}
	// The snapshot that is restored is the second.
	snapshot := slices.IndexFunc(primary.keys("snapshot"), func(key string) bool { return strings.HasSuffix(key, s.snapshots()[0]) })
	if snapshot < 0 {
		t.Fatal("the newest snapshot is not on the Primary")
	}
	const firstChunk = 1400 // bytes: behind the header of a pack for one recipient
	kinds := []struct {
		name, key string
		at        int64
	}{
		{"charter", newest("charter"), sizes[newest("charter")] / 2},
		{"ledger entry", newest("ledger"), sizes[newest("ledger")] / 2},
		{"index", newest("index"), sizes[newest("index")] / 2},
		{"snapshot", primary.keys("snapshot")[snapshot], sizes[primary.keys("snapshot")[snapshot]] / 2},
		{"data pack", packs[full], packMax / 2},
		{"data pack, last byte", packs[full], packMax - 1},
		{"tree pack, header", trees[0], 100},
		{"tree pack, chunk", trees[0], firstChunk},
	}
	r := s.restore(d)
	if strings.Contains(r.stderr, "warning") {
		t.Fatalf("before any damage:\n%s", r.stderr)
	}
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			good, _ := primary.get(k.key)
			bad := bytes.Clone(good)
			bad[k.at] ^= 1 << (k.at % 8)
			primary.put(k.key, bad)
			defer primary.put(k.key, good)
			r := s.restore(d)
			told := false
			for line := range strings.Lines(r.stderr) {
				told = told || strings.Contains(line, "target "+primary.name+": "+embassy.Title(k.key)+": ")
			}
			if !told {
				t.Errorf("stderr names not both %s and %s:\n%s", primary.name, embassy.Title(k.key), r.stderr)
			}
			t.Logf("%s", r.stderr)
		})
	}

	t.Run("all at once", func(t *testing.T) {
		for key := range sizes {
			data, _ := primary.get(key)
			data[len(data)/2] ^= 1
			primary.put(key, data)
		}
		s.restore(d)
		out := filepath.Join(t.TempDir(), "out")
		s.rescue(0, stores, "--to", out)
		compare(t, out, d)
		s.rescue(1, stores[:1], "--to", filepath.Join(t.TempDir(), "out"))
	})
}
