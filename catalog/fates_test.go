package catalog_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"embassy/catalog"
	"embassy/embassy"
	"embassy/embassy/format"
)

func TestCondemn(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir)
	a := addPack(t, c, pack(1, chain(1)), ids(0, 10))
	b := addPack(t, c, pack(2, chain(1)), ids(5, 15))
	check(t, c.SetListed(chain(1), 1, []embassy.ListedPack{{Num: a.Num}}))
	check(t, c.Condemn([]format.Hash{a.Hash, hash(99)}))
	a = mustPack(t, c, a.Num)
	equal(t, a.Condemned, true)
	for range 2 {
		equal(t, find(t, c, ids(0, 16)), slices.Concat(repeat(0, 10), repeat(b.Num, 5), repeat(0, 1)))
		equal(t, mustPack(t, c, a.Num), a)
		byHash, ok, err := c.PackByHash(a.Hash)
		check(t, err)
		equal(t, ok, true)
		equal(t, byHash, a)
		equal(t, mustPack(t, c, b.Num), b)
		c = reopen(t, c, dir)
	}

	// Only chunks in a condemned pack move, and none into one.
	d := addPack(t, c, pack(3, chain(1)), ids(3, 13))
	want := slices.Concat(repeat(0, 3), repeat(d.Num, 7), repeat(b.Num, 5))
	equal(t, find(t, c, ids(0, 15)), want)
	equal(t, addPack(t, c, pack(1, chain(1)), ids(0, 20)).Num, a.Num)
	equal(t, find(t, c, ids(0, 20)), append(want, repeat(0, 5)...))
	e := addPack(t, c, pack(4, chain(1)), ids(0, 1)) // unlisted, and condemned before it is listed
	check(t, c.Condemn([]format.Hash{e.Hash, d.Hash}))
	check(t, c.SetListed(chain(1), 2, []embassy.ListedPack{{Num: e.Num}}))
	c = reopen(t, c, dir)
	equal(t, mustPack(t, c, e.Num).Condemned, true)
	equal(t, find(t, c, ids(0, 15)), slices.Concat(repeat(0, 10), repeat(b.Num, 5)))
	equal(t, addPack(t, c, pack(5, chain(1)), ids(0, 5)).Num, e.Num+1)
	equal(t, find(t, c, ids(0, 6)), append(repeat(e.Num+1, 5), 0))

	// What is forgotten is condemned no more.
	check(t, c.Forget())
	again := addPack(t, c, pack(1, chain(1)), ids(0, 10))
	for range 2 {
		equal(t, mustPack(t, c, again.Num), again)
		equal(t, find(t, c, ids(0, 10)), repeat(again.Num, 10))
		c = reopen(t, c, dir)
	}
	check(t, c.Close())
	if err := c.Condemn(nil); !errors.Is(err, catalog.ErrClosed) {
		t.Fatalf("after Close: %v", err)
	}
}

// What takes several transactions, and is cut between them, is as if the packs
// had been given one by one; and done again, it is whole.
func TestCondemnInterrupted(t *testing.T) {
	const count = 4_000
	dir := t.TempDir()
	commits := -1
	opts := spaceFor(&commits)
	c, err := catalog.Open(dir, opts)
	check(t, err)
	hashes := make([]format.Hash, count)
	for i := range hashes {
		hashes[i] = pack(i, chain(1)).Hash
		addPack(t, c, pack(i, chain(1)), ids(i, i+1))
	}
	commits = 1
	if err := c.Condemn(hashes); !errors.Is(err, catalog.ErrNoSpace) {
		t.Fatalf("with a disk that fills up: %v", err)
	}
	commits = -1
	check(t, c.Close())
	c, err = catalog.Open(dir, opts)
	check(t, err)
	condemned := 0
	for i, n := range find(t, c, ids(0, count)) {
		if mustPack(t, c, embassy.PackNum(i+1)).Condemned != (n == 0) {
			t.Fatalf("pack %d: its chunk is in pack %d", i+1, n)
		}
		if n == 0 {
			condemned++
		}
	}
	if condemned == 0 || condemned == count {
		t.Fatalf("%d of %d are condemned: the test tests nothing", condemned, count)
	}
	check(t, c.Condemn(hashes))
	equal(t, find(t, c, ids(0, count)), repeat(0, count))
	check(t, c.Close())
}

// A catalog that lost what it knew to be condemned is refused, wherever the
// block lies.
func TestCondemnedDamaged(t *testing.T) {
	const count = 1_500 // several blocks
	dir := t.TempDir()
	c := open(t, dir)
	hashes := make([]format.Hash, count)
	for i := range hashes {
		hashes[i] = addPack(t, c, pack(i, chain(1)), nil).Hash
	}
	check(t, c.Condemn(hashes))
	check(t, c.Close())
	tables, err := filepath.Glob(filepath.Join(dir, "badger", "*.sst"))
	check(t, err)
	broken := 0
	for _, path := range tables {
		data, err := os.ReadFile(path)
		check(t, err)
		for at := range len(data) - 9 {
			// A tag, a number and a version: the first key of a block.
			if !bytes.HasPrefix(data[at:], []byte("z\x00\x00")) || !bytes.HasPrefix(data[at+5:], []byte("\xff\xff\xff\xff")) {
				continue
			}
			broken++
			check(t, flip(path, int64(at)+4))
			if _, err := catalog.Open(dir, catalog.Options{}); !errors.Is(err, catalog.ErrCorrupt) {
				t.Fatalf("damaged at %d in %s: %v", at, path, err)
			}
			check(t, flip(path, int64(at)+4))
		}
	}
	if broken < 4 {
		t.Errorf("%d blocks were damaged: the test tests nothing", broken)
	}
	equal(t, mustPack(t, open(t, dir), count/2).Condemned, true)
}

func TestAbandon(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir)
	a := addPack(t, c, pack(1, chain(1)), ids(0, 10))
	b := addPack(t, c, pack(2, chain(1)), ids(10, 20))
	listed := addPack(t, c, pack(3, chain(1)), ids(20, 30))
	check(t, c.SetListed(chain(1), 7, []embassy.ListedPack{{Num: listed.Num, Pos: 2}}))
	listed = mustPack(t, c, listed.Num)
	for _, n := range []embassy.PackNum{a.Num, listed.Num, 99, 0, a.Num} {
		check(t, c.Abandon(n))
	}
	a.Condemned, a.Head = true, nil
	for range 2 {
		unlisted, err := c.UnlistedPacks(chain(1))
		check(t, err)
		equal(t, unlisted, []embassy.PackState{b})
		equal(t, mustPack(t, c, a.Num), a)
		equal(t, mustPack(t, c, listed.Num), listed)
		equal(t, find(t, c, ids(0, 30)), slices.Concat(repeat(0, 10), repeat(b.Num, 10), repeat(listed.Num, 10)))
		if _, ok, err := c.Pack(99); ok || err != nil {
			t.Fatalf("pack 99: %v, %v", ok, err)
		}
		c = reopen(t, c, dir)
	}
	again := addPack(t, c, pack(4, chain(1)), ids(0, 20))
	equal(t, find(t, c, ids(0, 20)), append(repeat(again.Num, 10), repeat(b.Num, 10)...))
}

// A pack that a listing names, which was written down and then cut, is listed.
func TestAbandonWhileListing(t *testing.T) {
	const count = 2_500
	commits := -1
	c, err := catalog.Open(t.TempDir(), catalog.Options{Free: func(string) (uint64, error) {
		if commits == 0 {
			return 0, nil
		}
		commits--
		return 1 << 40, nil
	}})
	check(t, err)
	packs := make([]embassy.ListedPack, count)
	for i := range packs {
		packs[i].Num = addPack(t, c, pack(i, chain(1)), ids(i, i+1)).Num
	}
	commits = 3
	if err := c.SetListed(chain(1), 1, packs); !errors.Is(err, catalog.ErrNoSpace) {
		t.Fatalf("with a disk that fills up: %v", err)
	}
	commits = -1
	last := packs[count-1].Num
	equal(t, mustPack(t, c, last).Entry, uint64(0))
	check(t, c.Abandon(last))
	p := mustPack(t, c, last)
	equal(t, p.Entry, uint64(1))
	equal(t, p.Condemned, false)
	equal(t, find(t, c, ids(count-1, count)), repeat(last, 1))
	check(t, c.Close())
}

// order is the nth entry of a steward.
func order(n uint64) embassy.Order {
	return embassy.Order{Agent: chain(50), Chain: chain(51), Seq: n, At: now}
}

func TestFates(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir)
	marked := embassy.KnownFate{Agent: chain(1), Kind: format.KindPack, Hash: hash(1), Fate: embassy.Fate{Marked: order(3)}}
	nothing := embassy.KnownFate{Agent: chain(1), Kind: format.KindPack, Hash: hash(2)}
	later := embassy.KnownFate{Agent: chain(2), Kind: format.KindIndex, Hash: hash(1), Fate: embassy.Fate{Marked: order(9), Deleted: order(8)}}
	check(t, c.SetFates(chain(1), []embassy.KnownFate{marked, nothing}))
	got, err := c.Fate(chain(1), hash(1))
	check(t, err)
	equal(t, got, marked.Fate)
	check(t, c.SetFates(chain(1), []embassy.KnownFate{later, marked, nothing}))

	want := marked // the first orders, and the place that came with them
	want.Deleted = order(8)
	for range 2 {
		got, err := c.Fate(chain(1), hash(1))
		check(t, err)
		equal(t, got, want.Fate)
		all, err := collect(c.Fates(chain(1)))
		check(t, err)
		equal(t, all, []embassy.KnownFate{want})

		got, err = c.Fate(chain(2), hash(1))
		check(t, err)
		equal(t, got, embassy.Fate{})
		all, err = collect(c.Fates(chain(2)))
		check(t, err)
		equal(t, len(all), 0)

		check(t, c.Forget())
		check(t, c.ForgetTarget(""))
		c = reopen(t, c, dir)
	}
	check(t, c.Close())
	if _, err := collect(c.Fates(chain(1))); !errors.Is(err, catalog.ErrClosed) {
		t.Fatalf("after Close: %v", err)
	}
}

// More fates than a transaction and a page take; set and read while they are
// read, and refused as a whole when some are damaged.
func TestFatesMany(t *testing.T) {
	const count = 9_000
	dir := t.TempDir()
	commits := -1
	opts := spaceFor(&commits)
	c, err := catalog.Open(dir, opts)
	check(t, err)
	fates := make([]embassy.KnownFate, count)
	for i := range fates {
		fates[i] = embassy.KnownFate{Agent: chain(9), Kind: format.KindPack, Hash: hash(i), Fate: embassy.Fate{Marked: order(uint64(i + 1))}}
	}
	commits = 2
	if err := c.SetFates(chain(1), fates); !errors.Is(err, catalog.ErrNoSpace) {
		t.Fatalf("with a disk that fills up: %v", err)
	}
	commits = -1
	some, err := collect(c.Fates(chain(1)))
	check(t, err)
	if len(some) == 0 || len(some) == count {
		t.Fatalf("%d of %d are set: the test tests nothing", len(some), count)
	}
	check(t, c.SetFates(chain(1), fates))
	check(t, c.SetFates(chain(2), fates[:1])) // behind the last

	slices.SortFunc(fates, func(a, b embassy.KnownFate) int { return bytes.Compare(a.Hash[:], b.Hash[:]) })
	i := 0
	for f, err := range c.Fates(chain(1)) {
		check(t, err)
		equal(t, f, fates[i])
		if i++; i%1_000 == 0 {
			check(t, c.SetFates(chain(1), []embassy.KnownFate{{Hash: f.Hash, Fate: embassy.Fate{Marked: order(1), Deleted: order(2)}}}))
		}
	}
	equal(t, i, count)
	for range c.Fates(chain(1)) {
		break
	}
	got, err := c.Fate(chain(1), fates[999].Hash)
	check(t, err)
	equal(t, got, embassy.Fate{Marked: fates[999].Marked, Deleted: order(2)})
	check(t, c.Close())

	refused := 0
	for i := 1_000; i < count; i += 2_000 {
		damaged := filepath.Join(t.TempDir(), "c")
		check(t, os.CopyFS(damaged, os.DirFS(dir)))
		tables, err := filepath.Glob(filepath.Join(damaged, "badger", "*.sst"))
		check(t, err)
		for _, path := range tables {
			data, err := os.ReadFile(path)
			check(t, err)
			if at := bytes.Index(data, fates[i].Hash[8:]); at >= 0 {
				check(t, flip(path, int64(at)))
			}
		}
		c, err := catalog.Open(damaged, catalog.Options{})
		if errors.Is(err, catalog.ErrCorrupt) { // it was in the last block
			continue
		}
		check(t, err)
		some, err := collect(c.Fates(chain(1)))
		if !errors.Is(err, catalog.ErrCorrupt) || len(some) > 0 {
			t.Errorf("damaged at %s: %d fates, %v", fates[i].Hash, len(some), err)
		}
		refused++
		check(t, c.Close())
	}
	if refused == 0 {
		t.Error("nothing was damaged behind what Open looks at: the test tests nothing")
	}
}

// The orders of one line, in one compartment, go from a number on; all others stay.
func TestDropOrders(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir)
	l := embassy.Line{Compartment: chain(1), Agent: order(1).Agent, Chain: order(1).Chain}
	other, namesake := order(9), order(9)
	other.Chain, namesake.Agent = chain(52), chain(53)
	var all, want []embassy.KnownFate
	fate := func(marked, deleted, markedThen, deletedThen embassy.Order) {
		f := embassy.KnownFate{Agent: chain(2), Kind: format.KindPack, Hash: hash(len(all)), Fate: embassy.Fate{Marked: marked, Deleted: deleted}}
		all = append(all, f)
		if f.Fate = (embassy.Fate{Marked: markedThen, Deleted: deletedThen}); f.Fate != (embassy.Fate{}) {
			want = append(want, f)
		}
	}
	none := embassy.Order{}
	fate(order(3), none, order(3), none)
	fate(order(4), none, none, none)
	fate(order(4), order(5), none, none)
	fate(order(3), order(4), order(3), none)
	fate(order(4), other, none, other)
	fate(namesake, order(9), namesake, none)
	fate(other, namesake, other, namesake)
	check(t, c.SetFates(chain(1), all))
	check(t, c.SetFates(chain(2), all))
	byHash := func(a, b embassy.KnownFate) int { return bytes.Compare(a.Hash[:], b.Hash[:]) }
	slices.SortFunc(all, byHash)
	slices.SortFunc(want, byHash)
	for range 2 {
		check(t, c.DropOrders(l, 3))
		for range 2 {
			got, err := collect(c.Fates(chain(1)))
			check(t, err)
			equal(t, got, want)
			got, err = collect(c.Fates(chain(2)))
			check(t, err)
			equal(t, got, all)
			c = reopen(t, c, dir)
		}
	}

	// What was dropped can be ordered anew, by anybody.
	again := embassy.KnownFate{Agent: chain(3), Kind: format.KindIndex, Hash: hash(1), Fate: embassy.Fate{Deleted: other}}
	check(t, c.SetFates(chain(1), []embassy.KnownFate{again}))
	got, err := c.Fate(chain(1), hash(1))
	check(t, err)
	equal(t, got, again.Fate)
	check(t, c.Close())
	if err := c.DropOrders(l, 0); !errors.Is(err, catalog.ErrClosed) {
		t.Fatalf("after Close: %v", err)
	}
}

// More than a page is dropped; cut in the middle and done again, it is whole; and
// what is set beside it stays.
func TestDropOrdersInterrupted(t *testing.T) {
	const count = 9_000
	dir := t.TempDir()
	commits := -1
	opts := spaceFor(&commits)
	c, err := catalog.Open(dir, opts)
	check(t, err)
	fates := make([]embassy.KnownFate, count)
	for i := range fates {
		fates[i] = embassy.KnownFate{Agent: chain(9), Kind: format.KindPack, Hash: hash(i), Fate: embassy.Fate{Marked: order(uint64(i%2 + 1)), Deleted: order(3)}}
	}
	check(t, c.SetFates(chain(1), fates))
	check(t, c.SetFates(chain(2), fates[:1])) // behind the last
	l := embassy.Line{Compartment: chain(1), Agent: order(1).Agent, Chain: order(1).Chain}
	commits = 2
	if err := c.DropOrders(l, 1); !errors.Is(err, catalog.ErrNoSpace) {
		t.Fatalf("with a disk that fills up: %v", err)
	}
	commits = -1
	check(t, c.Close())
	c, err = catalog.Open(dir, opts)
	check(t, err)
	dropped := 0
	for _, f := range fates {
		got, err := c.Fate(chain(1), f.Hash)
		check(t, err)
		if !got.Deleted.Given() {
			dropped++
		}
	}
	if dropped == 0 || dropped == count {
		t.Fatalf("of %d of %d something is dropped: the test tests nothing", dropped, count)
	}

	other := order(7)
	other.Chain = chain(52)
	done := make(chan error)
	go func() { done <- c.DropOrders(l, 1) }()
	for i := range 100 {
		check(t, c.SetFates(chain(1), []embassy.KnownFate{{Hash: hash(count + i), Fate: embassy.Fate{Marked: other}}}))
	}
	check(t, <-done)
	left := 0
	for f, err := range c.Fates(chain(1)) {
		check(t, err)
		if left++; f.Marked != order(1) && f.Marked != other || f.Deleted.Given() {
			t.Fatalf("%+v is left", f)
		}
	}
	equal(t, left, count/2+100)
	got, err := c.Fate(chain(2), hash(0))
	check(t, err)
	equal(t, got, fates[0].Fate)
	check(t, c.Close())
}
