package embassy_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkg/xattr"

	"embassy/chunk"
	"embassy/embassy"
)

var cacheSeed = flag.Uint64("cache.seed", 1, "what TestFileCacheModel does")

// lossyCatalog loses records of the file cache as a crash does, and calls find
// at every look-up of chunks.
type lossyCatalog struct {
	embassy.Catalog
	find func()
	lose func() bool
}

func (c lossyCatalog) FindChunks(ids []chunk.ID, packs []embassy.PackNum) error {
	c.find()
	return c.Catalog.FindChunks(ids, packs)
}

func (c lossyCatalog) PutCachedDirs(series string, dirs map[string][]byte) error {
	kept := maps.Clone(dirs)
	maps.DeleteFunc(kept, func(string, []byte) bool { return c.lose() })
	return c.Catalog.PutCachedDirs(series, kept)
}

// known is what a backup knows of a file as it is.
type known int

const (
	never  known = iota
	maybe        // a run came past it
	surely       // a complete one stored it
)

// cachedTree is a source of large folders, and what a backup knows of it.
type cachedTree struct {
	s     *site
	rng   *rand.Rand
	files map[string]known
	next  int // content that never was
}

// put makes or changes a file; its size stays what it is.
func (c *cachedTree) put(name string) {
	c.s.t.Helper()
	c.next++
	c.s.write(name, fmt.Appendf(nil, "%08d", c.next))
	c.files[name] = never
	if c.rng.IntN(20) == 0 { // it weighs as much as several
		if err := xattr.Set(filepath.Join(c.s.src, name), "user.heavy", make([]byte, c.rng.IntN(3<<10))); err != nil {
			c.s.t.Fatal(err)
		}
	}
}

// change adds, removes and changes a few files or whole ranges of names.
func (c *cachedTree) change() {
	dir := []string{"a", "b", "b/c"}[c.rng.IntN(3)]
	from := c.rng.IntN(6000) // in all less than what makes a run write records before its end
	to := from + 1 + c.rng.IntN([]int{2, 50, 2500}[c.rng.IntN(3)])
	kind := c.rng.IntN(4)
	for i := from; i < to; i++ {
		name := fmt.Sprintf("%s/%04d%s", dir, i, []string{"", ".skip"}[i%50/49])
		_, there := c.files[name]
		switch {
		case kind < 2 && !there, kind == 2 && there:
			c.put(name)
		case kind == 3 && there:
			if err := os.Remove(filepath.Join(c.s.src, name)); err != nil {
				c.s.t.Fatal(err)
			}
			delete(c.files, name)
		}
	}
}

// TestFileCacheModel: whatever becomes of large folders, of runs and of some
// records, what is unchanged since a complete run is known as such, nothing
// else is, and what is restored is what is there.
func TestFileCacheModel(t *testing.T) {
	s := newSite(t, 1, 1)
	c := &cachedTree{s: s, rng: rand.New(rand.NewPCG(*cacheSeed, 0)), files: map[string]known{}}
	exact := false // the last run was complete, and its records were kept
	for round := range 8 {
		for range c.rng.IntN(5) {
			c.change()
		}
		skip := c.rng.IntN(3) == 0
		s.config.Datasets[0].Exclude = nil
		if skip {
			s.config.Datasets[0].Exclude = []string{"*.skip"}
		}
		fate := c.rng.IntN(3) // kept, interrupted, records lost
		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex
		finds, end := 0, 1+c.rng.IntN(3000)
		service, err := embassy.New(embassy.Options{Site: s.config, Members: s.members(), Catalog: lossyCatalog{s.catalog, func() {
			mu.Lock()
			defer mu.Unlock()
			if finds++; fate == 1 && finds == end {
				cancel()
			}
		}, func() bool { return fate == 2 && c.rng.IntN(2) == 0 }}})
		if err != nil {
			t.Fatal(err)
		}
		reports, err := service.Backup(ctx, embassy.BackupOptions{})
		stopped := ctx.Err() != nil
		cancel()
		if stopped {
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			if err != nil {
				exact = false
				for name := range c.files {
					c.files[name] = maybe
				}
				continue
			}
		}
		if err != nil || reports[0].Exit != 0 {
			t.Fatalf("round %d: %v, %+v", round, err, reports)
		}
		least, most, all := uint64(0), uint64(0), uint64(0)
		for name, k := range c.files {
			if skip && strings.HasSuffix(name, ".skip") {
				c.files[name] = min(k, maybe)
				continue
			}
			all++
			if k == surely && exact {
				least++
			}
			if k != never {
				most++
			}
			c.files[name] = surely
		}
		rep := reports[0]
		if rep.Files != all || rep.Same < least || rep.Same > most {
			t.Fatalf("round %d: %d files of %d, %d the same of %d to %d", round, rep.Files, all, rep.Same, least, most)
		}
		c.compare(skip)
		exact = fate != 2
	}
}

// compare restores the newest snapshot.
func (c *cachedTree) compare(skip bool) {
	c.s.t.Helper()
	v, err := c.s.view(0)
	if err != nil {
		c.s.t.Fatal(err)
	}
	snap, err := v.Pick("population", "latest", time.Time{})
	if err != nil {
		c.s.t.Fatal(err)
	}
	to := filepath.Join(c.s.dir, "out")
	defer os.RemoveAll(to)
	if _, err := v.Restore(c.s.t.Context(), embassy.RestoreOptions{Snapshots: []embassy.SnapshotInfo{snap}, To: to}); err != nil {
		c.s.t.Fatal(err)
	}
	want, got := c.s.tree(c.s.src), c.s.tree(filepath.Join(to, "population", c.s.src))
	maps.DeleteFunc(want, func(name, _ string) bool { return skip && strings.HasSuffix(name, ".skip") })
	if !maps.Equal(want, got) {
		names := slices.Sorted(maps.Keys(want))
		names = slices.DeleteFunc(names, func(n string) bool { return got[n] == want[n] })
		c.s.t.Fatalf("%d restored of %d, and other than they are: %.5q", len(got), len(want), names)
	}
}
