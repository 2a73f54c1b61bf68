package catalog_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"embassy/catalog"
	"embassy/chunk"
	"embassy/embassy"
	"embassy/embassy/format"
)

var now = time.Date(2026, 7, 1, 12, 0, 0, 123456789, time.UTC)

func open(t testing.TB, dir string) *catalog.Catalog {
	t.Helper()
	c, err := catalog.Open(dir, catalog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { check(t, c.Close()) })
	return c
}

func reopen(t testing.TB, c *catalog.Catalog, dir string) *catalog.Catalog {
	t.Helper()
	check(t, c.Close())
	return open(t, dir)
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal(t testing.TB, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
}

func hash(i int) format.Hash { return format.HashOf(fmt.Append(nil, i)) }

func chain(i byte) format.ID { return format.ID{15: i} }

func line(i byte) embassy.Line {
	return embassy.Line{Compartment: chain(100), Agent: chain(101), Chain: chain(i)}
}

// ids returns the ids first to last-1.
func ids(first, last int) []chunk.ID {
	out := make([]chunk.ID, 0, last-first)
	for i := first; i < last; i++ {
		out = append(out, chunk.ID(hash(i)))
	}
	return out
}

func pack(i int, ch format.ID) embassy.PackState {
	return embassy.PackState{Hash: hash(-i), Size: int64(i) << 16, Chain: ch, Head: fmt.Append(nil, "head ", i)}
}

func addPack(t testing.TB, c *catalog.Catalog, p embassy.PackState, ids []chunk.ID) embassy.PackState {
	t.Helper()
	n, err := c.AddPack(p, ids)
	check(t, err)
	p.Num = n
	return p
}

func find(t testing.TB, c *catalog.Catalog, ids []chunk.ID) []embassy.PackNum {
	t.Helper()
	out := make([]embassy.PackNum, len(ids))
	for i := range out {
		out[i] = 999 // FindChunks must overwrite it
	}
	check(t, c.FindChunks(ids, out))
	return out
}

func repeat(n embassy.PackNum, times int) []embassy.PackNum {
	return slices.Repeat([]embassy.PackNum{n}, times)
}

func mustPack(t testing.TB, c *catalog.Catalog, n embassy.PackNum) embassy.PackState {
	t.Helper()
	p, ok, err := c.Pack(n)
	check(t, err)
	if !ok {
		t.Fatalf("no pack %d", n)
	}
	return p
}

func TestPacks(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir)
	a := addPack(t, c, pack(1, chain(1)), ids(0, 10))
	b := addPack(t, c, pack(2, chain(1)), ids(5, 15))
	other := addPack(t, c, pack(3, chain(2)), nil)
	rebuilt := pack(4, chain(1))
	rebuilt.Entry, rebuilt.Pos = 3, 1
	rebuilt = addPack(t, c, rebuilt, ids(20, 21))
	equal(t, []embassy.PackNum{a.Num, b.Num, other.Num, rebuilt.Num}, []embassy.PackNum{1, 2, 3, 4})

	for range 2 {
		equal(t, find(t, c, ids(0, 16)), slices.Concat(repeat(1, 10), repeat(2, 5), repeat(0, 1)))
		equal(t, mustPack(t, c, 1), a)
		byHash, ok, err := c.PackByHash(b.Hash)
		check(t, err)
		equal(t, ok, true)
		equal(t, byHash, b)
		unlisted, err := c.UnlistedPacks(chain(1))
		check(t, err)
		equal(t, unlisted, []embassy.PackState{a, b})
		equal(t, mustPack(t, c, 4).Head, []byte(nil)) // an entry lists it
		c = reopen(t, c, dir)
	}

	again := a
	again.Size, again.Chain, again.Head, again.Num = 7, chain(9), nil, 77
	equal(t, addPack(t, c, again, ids(14, 16)).Num, a.Num)
	equal(t, mustPack(t, c, 1), a)
	equal(t, find(t, c, ids(14, 16)), []embassy.PackNum{2, 1})

	for _, n := range []embassy.PackNum{0, 5} {
		if _, ok, err := c.Pack(n); ok || err != nil {
			t.Fatalf("pack %d: %v, %v", n, ok, err)
		}
	}
	if _, ok, err := c.PackByHash(hash(99)); ok || err != nil {
		t.Fatalf("unknown hash: %v, %v", ok, err)
	}
	if err := c.FindChunks(ids(0, 2), make([]embassy.PackNum, 1)); err == nil {
		t.Fatal("room for one pack, two ids, no error")
	}
}

func TestSetListed(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir)
	for i := range 3 {
		addPack(t, c, pack(i, chain(1)), nil)
	}
	addPack(t, c, pack(3, chain(2)), nil)
	head, err := c.ListedHead(chain(1))
	check(t, err)
	equal(t, head, uint64(0))

	for range 2 { // the second time changes nothing
		check(t, c.SetListed(chain(1), 8, []embassy.ListedPack{{Num: 3, Pos: 0}, {Num: 1, Pos: 1}}))
		c = reopen(t, c, dir)
		want := pack(2, chain(1))
		want.Num, want.Entry, want.Pos, want.Head = 3, 8, 0, nil
		equal(t, mustPack(t, c, 3), want)
		equal(t, mustPack(t, c, 1).Pos, uint32(1))
		unlisted, err := c.UnlistedPacks(chain(1))
		check(t, err)
		equal(t, len(unlisted), 1)
		equal(t, unlisted[0].Num, embassy.PackNum(2))
		head, err := c.ListedHead(chain(1))
		check(t, err)
		equal(t, head, uint64(8))
	}

	t.Run("refused as a whole", func(t *testing.T) {
		for name, bad := range map[string]embassy.ListedPack{"unknown": {Num: 9}, "of another chain": {Num: 4}} {
			if err := c.SetListed(chain(1), 9, []embassy.ListedPack{{Num: 2}, bad}); err == nil {
				t.Fatalf("pack %s: no error", name)
			}
		}
		if err := c.SetListed(chain(1), 0, nil); err == nil {
			t.Fatal("entry 0: no error")
		}
		equal(t, mustPack(t, c, 2).Entry, uint64(0))
		head, err := c.ListedHead(chain(1))
		check(t, err)
		equal(t, head, uint64(8))
	})
}

// More packs than a transaction of Badger takes.
func TestSetListedMany(t *testing.T) {
	const count = 4_000
	dir := t.TempDir()
	c := open(t, dir)
	listed := make([]embassy.ListedPack, count)
	for i := range listed {
		listed[i] = embassy.ListedPack{Num: addPack(t, c, pack(i, chain(1)), nil).Num, Pos: uint32(i)}
	}
	if err := c.SetListed(chain(1), 2, append(slices.Clone(listed), embassy.ListedPack{Num: count + 1})); err == nil {
		t.Fatal("unknown pack: no error")
	}
	equal(t, mustPack(t, c, 1).Entry, uint64(0))

	// Readers see none of it, or all.
	var wg sync.WaitGroup
	var counts []int
	var watch error
	done := make(chan struct{})
	wg.Go(func() {
		for watch == nil {
			var unlisted []embassy.PackState
			unlisted, watch = c.UnlistedPacks(chain(1))
			counts = append(counts, len(unlisted))
			select {
			case <-done:
				return
			default:
			}
		}
	})
	check(t, c.SetListed(chain(1), 2, listed))
	close(done)
	wg.Wait()
	check(t, watch)
	for _, n := range counts {
		if n != 0 && n != count {
			t.Fatalf("saw %d unlisted packs", n)
		}
	}
	c = reopen(t, c, dir)
	for i := range listed {
		p := mustPack(t, c, listed[i].Num)
		if p.Entry != 2 || p.Pos != uint32(i) || p.Head != nil {
			t.Fatalf("pack %d: %+v", p.Num, p)
		}
	}
}

func TestNumbersAreNeverReused(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir)
	for i := 1; i <= 5; i++ {
		equal(t, addPack(t, c, pack(i, chain(1)), nil).Num, embassy.PackNum(i))
		check(t, c.SetListed(chain(1), uint64(i), []embassy.ListedPack{{Num: embassy.PackNum(i)}}))
		c = reopen(t, c, dir)
	}
}

// Chunks of one pack that need several transactions.
func TestAddPackMany(t *testing.T) {
	const many = 10_000
	c := open(t, t.TempDir())
	addPack(t, c, pack(1, chain(1)), ids(0, 10))
	addPack(t, c, pack(2, chain(1)), ids(5, many))
	equal(t, find(t, c, ids(0, many+1)), slices.Concat(repeat(1, 10), repeat(2, many-10), repeat(0, 1)))
}

func TestCachedDirs(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir)
	long := "/" + strings.Repeat("x", 100_000)
	dirs := map[string][]byte{
		"/":          []byte("root"),
		"/\xff\x00":  {0},
		"/empty":     {},
		"/nil":       nil,
		long:         []byte("long"),
		long + "y":   []byte("longer"),
		"/big":       bytes.Repeat([]byte("big"), 4<<20),
		"/threshold": make([]byte, 256<<10),
	}
	for i := range 20_000 {
		dirs[fmt.Sprint("/many/", i)] = fmt.Append(nil, i)
	}
	check(t, c.PutCachedDirs("docs", dirs))
	check(t, c.PutCachedDirs("docs", nil))
	for range 2 {
		for path, want := range dirs {
			got, ok, err := c.CachedDir("docs", path)
			check(t, err)
			if !ok || !bytes.Equal(got, want) {
				t.Fatalf("%.30q: %v", path, ok)
			}
		}
		for _, q := range [][2]string{{"doc", "s/"}, {"docs", ""}, {"", "docs/"}, {"docs", long + "z"}} {
			if _, ok, err := c.CachedDir(q[0], q[1]); ok || err != nil {
				t.Fatalf("%.30q: %v, %v", q, ok, err)
			}
		}
		c = reopen(t, c, dir)
	}
	check(t, c.PutCachedDirs("docs", map[string][]byte{"/": []byte("new")}))
	got, _, err := c.CachedDir("docs", "/")
	check(t, err)
	equal(t, string(got), "new")

	err = c.PutCachedDirs("docs", map[string][]byte{"/": make([]byte, 129<<20)})
	if err == nil || len(err.Error()) > 200 {
		t.Fatalf("129 MiB: %v", err)
	}
}

// Large records that are replaced again and again do not pile up.
func TestLargeRecordsAreCollected(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 768 MiB")
	}
	dir := t.TempDir()
	c := open(t, dir)
	dirs := map[string][]byte{}
	for round := range 12 {
		for i := range 4 {
			dirs[fmt.Sprint("/", i)] = bytes.Repeat([]byte{byte(round)}, 16<<20)
		}
		check(t, c.PutCachedDirs("docs", dirs))
		c = reopen(t, c, dir)
	}
	for path, want := range dirs {
		got, ok, err := c.CachedDir("docs", path)
		check(t, err)
		if !ok || !bytes.Equal(got, want) {
			t.Fatalf("%s is not what was put last", path)
		}
	}
	check(t, c.Close())
	var size int64
	files, err := filepath.Glob(filepath.Join(dir, "badger", "*.vlog"))
	check(t, err)
	for _, f := range files {
		info, err := os.Stat(f)
		check(t, err)
		size += info.Size()
	}
	t.Logf("%d MiB of value log for 64 MiB of records, after 768 MiB", size>>20)
	if size > 512<<20 {
		t.Fatal("garbage was not collected")
	}
}

func TestRuns(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir)
	var all []embassy.Run
	for i := range 600 {
		r := embassy.Run{
			Kind: "backup", Dataset: []string{"a", "ab", ""}[i%3], Started: now.Add(-time.Duration(i) * time.Hour),
			Exit: i, Snapshot: hash(i), Note: fmt.Sprint("run ", i),
		}
		if i%2 == 0 {
			r.Kind, r.Snapshot, r.Ended = "restore", format.Hash{}, now
		}
		check(t, c.AddRun(r))
		all = append([]embassy.Run{r}, all...)
		if i == 300 {
			c = reopen(t, c, dir)
		}
	}
	got, err := c.Runs("", 1000)
	check(t, err)
	equal(t, got, all)
	got, err = c.Runs("", 5)
	check(t, err)
	equal(t, got, all[:5])
	got, err = c.Runs("a", 2)
	check(t, err)
	equal(t, got, []embassy.Run{all[2], all[5]})
	for _, q := range []struct {
		dataset string
		n       int
	}{{"b", 5}, {"a", 0}, {"a", -1}} {
		got, err := c.Runs(q.dataset, q.n)
		check(t, err)
		equal(t, len(got), 0)
	}
}

func TestNotes(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir)
	if _, ok, err := c.Noted("k"); ok || err != nil {
		t.Fatalf("unknown: %v, %v", ok, err)
	}
	for _, want := range [][]byte{[]byte("v"), {}, nil, bytes.Repeat([]byte("large"), 1<<20), []byte("w")} {
		check(t, c.Note("k", want))
		c = reopen(t, c, dir)
		got, ok, err := c.Noted("k")
		check(t, err)
		if !ok || !bytes.Equal(got, want) {
			t.Fatalf("%v, %d bytes", ok, len(got))
		}
	}
	value := []byte("mine")
	check(t, c.Note("k", value))
	value[0] = 'X'
	got, _, err := c.Noted("k")
	check(t, err)
	equal(t, string(got), "mine")
}

func TestConcurrentUse(t *testing.T) {
	c := open(t, t.TempDir())
	var wg sync.WaitGroup
	nums := make([][]embassy.PackNum, 4)
	for g := range nums {
		wg.Go(func() {
			for i := range 50 {
				k := g*1000 + i
				n, err := c.AddPack(pack(k, chain(1)), ids(k*10, k*10+10))
				nums[g] = append(nums[g], n)
				found := make([]embassy.PackNum, 10)
				err = errors.Join(err, c.FindChunks(ids(k*10, k*10+10), found))
				if !slices.Equal(found, repeat(n, 10)) {
					t.Errorf("pack %d: chunks in %v", n, found)
				}
				unlisted, err2 := c.UnlistedPacks(chain(1))
				if !slices.IsSortedFunc(unlisted, func(a, b embassy.PackState) int { return int(a.Num) - int(b.Num) }) {
					t.Errorf("unlisted packs out of order")
				}
				err = errors.Join(err, err2,
					c.SetListed(chain(1), uint64(k+1), []embassy.ListedPack{{Num: n}}),
					c.Place("t", hash(k), now),
					c.SetSeenHead("t", line(byte(g)), embassy.SeenHead{Seq: uint64(i)}),
					c.AddRun(embassy.Run{Dataset: "d"}),
					c.PutCachedDirs("s", map[string][]byte{fmt.Sprint("/", k): {}}),
				)
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	all := slices.Sorted(slices.Values(slices.Concat(nums...)))
	for i, n := range all {
		if n != embassy.PackNum(i+1) {
			t.Fatalf("numbers are not dense: %v", all)
		}
	}
	runs, err := c.Runs("d", 1000)
	check(t, err)
	equal(t, len(runs), 200)
}

func TestClose(t *testing.T) {
	c := open(t, t.TempDir())
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				_, err := c.AddPack(pack(g*1000_000+i, chain(1)), ids(i, i+10))
				if err == nil {
					_, err = c.UnlistedPacks(chain(1))
				}
				if errors.Is(err, catalog.ErrClosed) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	check(t, c.Close())
	wg.Wait()
	check(t, c.Close())
	for name, err := range map[string]error{
		"FindChunks": c.FindChunks(ids(0, 1), make([]embassy.PackNum, 1)),
		"SetListed":  c.SetListed(chain(1), 1, nil),
		"Note":       c.Note("k", nil),
		"AddRun":     c.AddRun(embassy.Run{}),
	} {
		if !errors.Is(err, catalog.ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
