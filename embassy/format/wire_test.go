package format_test

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"embassy/embassy/format"
)

func TestClassTable(t *testing.T) {
	for _, c := range []struct {
		n     int
		class uint8
		size  int
	}{
		{-1, 0, 1024}, {0, 0, 1024}, {1024, 0, 1024}, {1025, 1, 1280}, {1280, 1, 1280}, {1281, 2, 1536}, {1537, 3, 1792},
		{1793, 4, 2048}, {2049, 5, 2560}, {64 << 10, 24, 64 << 10}, {1<<20 + 1, 41, 5 << 18}, {64 << 20, 64, 64 << 20},
	} {
		if k := format.ClassFor(c.n); k != c.class || format.ClassSize(k) != c.size {
			t.Errorf("%d: class %d of %d bytes, want %d of %d", c.n, k, format.ClassSize(k), c.class, c.size)
		}
	}
}

func TestClasses(t *testing.T) {
	for k := range uint8(math.MaxUint8) {
		if a, b := format.ClassSize(k), format.ClassSize(k+1); a <= 0 || b < a || (b == a && a != math.MaxInt) {
			t.Errorf("class %d of %d bytes, class %d of %d", k, a, k+1, b)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1024, 1<<40).Draw(t, "bytes")
		k := format.ClassFor(n)
		size := format.ClassSize(k)
		if size < n || (k > 0 && format.ClassSize(k-1) >= n) {
			t.Fatalf("%d bytes go into class %d of %d", n, k, size)
		}
		if (size-n)*4 > n {
			t.Fatalf("%d bytes of %d are padding", size-n, size)
		}
	})
}

// Every number has a class, and the search for it ends.
func TestClassForHuge(t *testing.T) {
	for _, n := range []int{math.MaxInt, math.MaxInt - 1, math.MaxInt/8*7 + 8, math.MaxInt/2 + 1} {
		if size := format.ClassSize(format.ClassFor(n)); size < n {
			t.Errorf("%d bytes go into a class of %d", n, size)
		}
	}
}

func TestNamesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var ids [4]format.ID
		for i := range ids {
			copy(ids[i][:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
		}
		h := format.HashOf(ids[0][:])
		seq := rapid.Uint64().Draw(t, "number")
		name := format.EntryName(ids[0], ids[1], ids[2], ids[3], seq, h)
		rest, ok := strings.CutPrefix(name, format.LedgerPrefix(ids[0], ids[1], ids[2]))
		chain, n, got, err := format.ParseEntryName(rest)
		if !ok || err != nil || chain != ids[3] || n != seq || got != h {
			t.Fatalf("%s: %v", name, err)
		}
		rest, ok = strings.CutPrefix(format.CharterName(ids[0], seq, h), format.CharterPrefix(ids[0]))
		if n, got, err := format.ParseNumbered(rest); !ok || err != nil || n != seq || got != h {
			t.Fatalf("%s: %v", rest, err)
		}
		if id, err := format.ParseID(ids[0].String()); err != nil || id != ids[0] {
			t.Fatal(id, err)
		}
		// Names sort as numbers do.
		if next := format.CharterName(ids[0], seq+1, format.Hash{}); seq+1 > seq && next <= format.CharterName(ids[0], seq, h) {
			t.Fatalf("%s sorts before its predecessor", next)
		}
	})
}

func TestParseHashRefuses(t *testing.T) {
	good := format.HashOf(nil).String()
	for _, s := range []string{"", good[1:], good + "0", strings.ToUpper(good), "g" + good[1:], " " + good[1:]} {
		if _, err := format.ParseHash(s); err == nil {
			t.Errorf("%q is taken for a hash", s)
		}
	}
}

func TestKinds(t *testing.T) {
	for k, want := range map[format.Kind]struct {
		name string
		max  uint64
	}{
		format.KindPack: {"pack", 64 << 20}, format.KindIndex: {"index", 32 << 20}, format.KindSnapshot: {"snapshot", 16 << 20},
		format.KindRecord: {"record", 16 << 20}, 0: {"kind 0", 0}, format.KindCheckpoint: {"checkpoint", 64 << 20}, 6: {"kind 6", 0},
	} {
		if k.String() != want.name || k.MaxSize() != want.max {
			t.Errorf("%d: %s of at most %d bytes", uint8(k), k, k.MaxSize())
		}
	}
	if got := fmt.Sprint(format.KindPack); got != "pack" {
		t.Errorf("prints as %s", got)
	}
}
