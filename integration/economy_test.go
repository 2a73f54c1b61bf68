package integration_test

import (
	"bufio"
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"embassy/chunk"
)

// TestUnchangedUploadsNoPack backs up a tree to three stores, and again with
// nothing changed.
func TestUnchangedUploadsNoPack(t *testing.T) {
	src := filepath.Join(t.TempDir(), "src")
	oddTree(t, src)
	d := dataset{name: "odd", sources: []string{src}}
	stores := start(t, 3)
	s := newSite(t, stores...)
	s.found(d)
	first, _ := s.backup(0)
	if first[0].Added == 0 || first[0].Read == 0 {
		t.Fatalf("%+v", first[0])
	}
	sameStores(t, stores)
	before, sentBefore := map[*store][]string{}, map[*store]int64{}
	for _, st := range stores {
		before[st], sentBefore[st] = st.keys("pack"), st.proxy.Sent()
	}

	again, _ := s.backup(0)
	if r := again[0]; r.New+r.Changed+r.Read+r.Added != 0 || r.Same != first[0].New {
		t.Errorf("%+v", r)
	}
	for _, st := range stores {
		if after := st.keys("pack"); !slices.Equal(after, before[st]) {
			t.Errorf("%s: packs before %q, after %q", st.name, before[st], after)
		}
		// A snapshot, an entry and what asks for them: less than the smallest pack.
		n := st.proxy.Sent() - sentBefore[st]
		if n >= 64<<10 {
			t.Errorf("%s: %d bytes were sent", st.name, n)
		}
		t.Logf("%s: %d bytes sent", st.name, n)
	}
	if n := len(stores[0].keys("snapshot")); n != 2 {
		t.Errorf("%d snapshots", n)
	}
	sameStores(t, stores)
}

// TestOneByteInLargeFile changes one byte in the middle of a file of 1 GiB.
//
// A changed byte touches the chunk that it lies in, and if it moves a cut, its
// neighbours: three chunks of the largest size bound what is new. Padding to a
// power of two stays below that unless they hold more than 8 MiB together,
// which takes three that are all far above the mean. What comes besides is the
// list of the file's chunks, the folders above it, index, snapshot and entry,
// and HTTP: less than 1 MiB.
func TestOneByteInLargeFile(t *testing.T) {
	size := int64(1 << 30)
	if testing.Short() {
		size = 64 * mib
	}
	const bound = 3*chunk.MaxSize + mib
	src := t.TempDir()
	file := filepath.Join(src, "large")
	writeNoise(t, file, size)
	st := startOne(t, 0)
	s := newSite(t, st)
	s.found(dataset{name: "large", sources: []string{src}})
	_, r := s.backup(0)
	whole := st.proxy.Sent()
	if whole < size {
		t.Fatalf("%d bytes were sent of a file of %d that does not compress", whole, size)
	}
	t.Logf("first: %d bytes sent in %v", whole, r.took)
	packs := len(st.keys("pack"))

	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	_, err = f.ReadAt(b[:], size/2)
	b[0] ^= 1
	_, errWrite := f.WriteAt(b[:], size/2)
	if err := errors.Join(err, errWrite, f.Close()); err != nil {
		t.Fatal(err)
	}
	reports, r := s.backup(0)
	n := st.proxy.Sent() - whole
	t.Logf("one byte changed: %d bytes sent in %v, %d packs", n, r.took, len(st.keys("pack"))-packs)
	if n > bound {
		t.Errorf("%d bytes were sent, more than %d", n, bound)
	}
	if reports[0].Changed != 1 || n < chunk.MinSize {
		t.Errorf("the change was not stored: %d bytes sent, %+v", n, reports[0])
	}
	s.restore(dataset{name: "large", sources: []string{src}})
}

// writeNoise writes a large file that does not compress.
func writeNoise(t testing.TB, path string, size int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := bufio.NewWriterSize(f, mib)
	source, block := rand.NewChaCha8([32]byte{7}), make([]byte, mib)
	for left := size; left > 0; left -= int64(len(block)) {
		block = block[:min(left, mib)]
		_, _ = source.Read(block) // never fails
		if _, err := w.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Flush(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestSlowStoreHoldsNobodyBack gives one store too little bandwidth to take
// part. The run ends without it, and a later one brings it everything.
func TestSlowStoreHoldsNobodyBack(t *testing.T) {
	t.Parallel()
	const size, rate = 96 * mib, 200 // bytes; kilobytes per second and connection
	const uploads = 2                // connections that send packs at once
	const alone = size / (uploads * rate * 1000)
	src := t.TempDir()
	writeNoise(t, filepath.Join(src, "data"), size)
	d := dataset{name: "data", sources: []string{src}}
	stores := start(t, 3)
	slow := stores[2]
	s := newSite(t, stores...)
	s.found(d)
	slow.proxy.Slow(rate)
	reports, r := s.backup(0)
	if behind := reports[0].behind(); !slices.Equal(behind, []string{slow.name}) {
		t.Errorf("behind are %q", behind)
	}
	t.Logf("in %v; the slow store would have taken %d s", r.took, alone)
	if r.took.Seconds() > alone/2 {
		t.Errorf("the run took %v", r.took)
	}
	sameStores(t, stores[:2])
	if len(slow.keys("snapshot")) > 0 || len(slow.keys("ledger")) > 0 {
		t.Errorf("an incomplete store shows entries or snapshots: %q", slices.Sorted(maps.Keys(slow.list())))
	}
	slow.proxy.Heal()
	reports, _ = s.backup(0)
	if behind := reports[0].behind(); len(behind) > 0 || reports[0].Read > 0 {
		t.Errorf("%+v", reports[0])
	}
	sameStores(t, stores)
	s.restore(d)
}
