package catalog_test

import (
	"errors"
	"sync"
	"testing"

	"embassy/catalog"
	"embassy/embassy"
)

func TestForget(t *testing.T) {
	dir := t.TempDir()
	free := uint64(1 << 40)
	opts := catalog.Options{Free: func(string) (uint64, error) { return free, nil }}
	c, err := catalog.Open(dir, opts)
	check(t, err)
	const many = 50_000 // several tables
	addPack(t, c, pack(1, chain(1)), ids(0, many))
	addPack(t, c, pack(2, chain(1)), ids(many, many+1))
	check(t, c.SetListed(chain(1), 5, []embassy.ListedPack{{Num: 1}}))
	check(t, c.Place("t", hash(1), now))
	check(t, c.PutCachedDirs("s", map[string][]byte{"/": []byte("root"), "/large": make([]byte, 1<<20)}))
	seen := embassy.SeenHead{Seq: 5, Hash: hash(5), At: now}
	check(t, c.SetSeenHead("t", line(1), seen))
	run := embassy.Run{Dataset: "d", Exit: 3, Started: now}
	check(t, c.AddRun(run))
	check(t, c.Note("k", []byte("v")))

	free = 0
	if err := c.Forget(); !errors.Is(err, catalog.ErrNoSpace) {
		t.Fatalf("with a full disk: %v", err)
	}
	equal(t, find(t, c, ids(0, 1)), repeat(1, 1))
	free = 1 << 40
	check(t, c.Forget())

	for range 2 {
		equal(t, find(t, c, ids(0, many+1)), repeat(0, many+1))
		for n := range embassy.PackNum(3) {
			if _, ok, err := c.Pack(n); ok || err != nil {
				t.Fatalf("pack %d: %v, %v", n, ok, err)
			}
		}
		if _, ok, err := c.PackByHash(pack(1, chain(1)).Hash); ok || err != nil {
			t.Fatalf("pack by hash: %v, %v", ok, err)
		}
		unlisted, err := c.UnlistedPacks(chain(1))
		check(t, err)
		equal(t, len(unlisted), 0)
		listed, err := c.ListedHead(chain(1))
		check(t, err)
		equal(t, listed, uint64(0))
		at, err := c.Placed("t", hash(1))
		check(t, err)
		equal(t, at.IsZero(), true)
		for _, path := range []string{"/", "/large"} {
			if _, ok, err := c.CachedDir("s", path); ok || err != nil {
				t.Fatalf("%s: %v, %v", path, ok, err)
			}
		}

		head, _, err := c.SeenHead("t", line(1))
		check(t, err)
		equal(t, head, seen)
		for _, dataset := range []string{"", "d"} {
			runs, err := c.Runs(dataset, 9)
			check(t, err)
			equal(t, runs, []embassy.Run{run})
		}
		note, _, err := c.Noted("k")
		check(t, err)
		equal(t, string(note), "v")

		check(t, c.Close())
		if err := c.Forget(); !errors.Is(err, catalog.ErrClosed) {
			t.Fatalf("after Close: %v", err)
		}
		c, err = catalog.Open(dir, opts)
		check(t, err)
	}
	equal(t, addPack(t, c, pack(2, chain(1)), ids(0, 10)).Num, embassy.PackNum(3))
	equal(t, find(t, c, ids(0, 11)), append(repeat(3, 10), 0))
	check(t, c.Close())
}

// Whoever uses the catalog meanwhile sees a pack with all its chunks, or
// nothing of it.
func TestForgetWhileUsed(t *testing.T) {
	c := open(t, t.TempDir())
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for g := range 3 {
		wg.Go(func() {
			chunks := ids(g*1000, g*1000+1000)
			packs := make([]embassy.PackNum, len(chunks))
			for i := g << 20; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				n, err := c.AddPack(pack(i, chain(1)), chunks)
				err = errors.Join(err, c.FindChunks(chunks, packs))
				_, unlistedErr := c.UnlistedPacks(chain(1))
				if err = errors.Join(err, unlistedErr); err != nil {
					t.Error(err)
					return
				}
				for _, in := range packs {
					if in != packs[0] || in > n {
						t.Errorf("chunks of pack %d are in packs %d and %d", n, packs[0], in)
						return
					}
				}
			}
		})
	}
	var errs []error
	for range 20 {
		errs = append(errs, c.Forget())
	}
	close(stop)
	wg.Wait()
	check(t, errors.Join(errs...))
}
