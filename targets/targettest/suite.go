// Package targettest checks that a target keeps the contract of
// targets.Target. A new target joins with one call of Test.
package targettest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"

	"embassy/targets"
)

// Option says what a target can do beyond the contract.
type Option func(*suite)

// Reopen gives the suite a second, independent way to the store of a target
// that open returned, as another process would have it.
func Reopen(reopen func(t *testing.T, first targets.Target) targets.Target) Option {
	return func(s *suite) { s.reopen = reopen }
}

// ChecksHash says that the store refuses an Object whose SHA256 is wrong.
func ChecksHash() Option {
	return func(s *suite) { s.checksHash = true }
}

// Test runs the suite. open returns a new, empty target on each call, and
// cleans up after itself.
func Test(t *testing.T, open func(t *testing.T) targets.Target, opts ...Option) {
	s := suite{open: open}
	for _, opt := range opts {
		opt(&s)
	}
	for _, c := range []struct {
		name string
		test func(*testing.T, targets.Target)
	}{
		{"put then get whole", testWhole},
		{"ranges", testRanges},
		{"short objects", testShort},
		{"stat", testStat},
		{"missing objects", testMissing},
		{"same bytes again", testAgain},
		{"data is borrowed until put returns", testBorrowed},
		{"delete", testDelete},
		{"list order and nesting", testListOrder},
		{"list prefixes", testListPrefix},
		{"list after a name", testListAfter},
		{"list nothing", testListEmpty},
		{"list stops when told", testListStop},
		{"list more than one page", testListMany},
		{"concurrent puts of one name", testConcurrentPuts},
		{"concurrent use", testConcurrentUse},
		{"cancelled context", testCancelled},
		{"context cancelled while reading", testCancelledReader},
		{"names", testNames},
		{"invalid ranges", testInvalidRanges},
		{"large object", testLarge},
		{"wrong hash", s.testWrongHash},
		{"seen by a second opener", s.testReopen},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

type suite struct {
	open       func(t *testing.T) targets.Target
	reopen     func(t *testing.T, first targets.Target) targets.Target
	checksHash bool
}

func testWhole(t *testing.T, target targets.Target) {
	for _, size := range []int{0, 1, 4095, 64 << 10, 1<<20 + 1} {
		name := fmt.Sprintf("whole/%d", size)
		data := randomBytes(size)
		put(t, target, name, data)
		if size > 0 {
			wantRange(t, target, name, 0, int64(size), data)
		}
		if info := stat(t, target, name); info.Size != int64(size) {
			t.Errorf("%s: Stat says %d bytes", name, info.Size)
		}
	}
}

func testRanges(t *testing.T, target targets.Target) {
	const size = 300_000
	data := randomBytes(size)
	put(t, target, "n/object", data)
	for _, r := range []struct{ offset, length int64 }{
		{0, 1}, {0, 2}, {1, 1}, {size - 1, 1}, {0, size - 1}, {1, size - 1}, {65_536, 131_072}, {size / 2, size - size/2},
	} {
		wantRange(t, target, "n/object", r.offset, r.length, data[r.offset:r.offset+r.length])
	}
}

func testShort(t *testing.T, target targets.Target) {
	data := randomBytes(1000)
	put(t, target, "short", data)
	put(t, target, "empty", nil)
	for _, c := range []struct {
		name           string
		offset, length int64
		have           []byte
	}{
		{"short", 0, 1001, data},
		{"short", 0, 10 << 20, data},
		{"short", 999, 2, data[999:]},
		{"short", 1000, 1, nil},
		{"short", 5000, 10, nil},
		{"empty", 0, 1, nil},
	} {
		got, err := get(t.Context(), target, c.name, c.offset, c.length)
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes of %s from %d: error %v, want io.ErrUnexpectedEOF", c.length, c.name, c.offset, err)
		}
		if !bytes.HasPrefix(c.have, got) {
			t.Errorf("%d bytes of %s from %d: %d bytes that are not the object's", c.length, c.name, c.offset, len(got))
		}
	}
}

func testStat(t *testing.T, target targets.Target) {
	put(t, target, "a/b/c", randomBytes(77))
	if info := stat(t, target, "a/b/c"); info.Name != "a/b/c" || info.Size != 77 {
		t.Errorf("Stat = %+v", info)
	}
}

func testMissing(t *testing.T, target targets.Target) {
	put(t, target, "folder/object", []byte("x"))
	for _, name := range []string{"missing", "no/such/folder", "folder", "folder/obj", "folder/object2"} {
		if _, err := target.Stat(t.Context(), name); !errors.Is(err, targets.ErrNotFound) {
			t.Errorf("Stat of %s: %v, want ErrNotFound", name, err)
		}
		if _, err := get(t.Context(), target, name, 0, 1); !errors.Is(err, targets.ErrNotFound) {
			t.Errorf("Get of %s: %v, want ErrNotFound", name, err)
		}
		if err := target.Delete(t.Context(), name); err != nil {
			t.Errorf("Delete of %s: %v", name, err)
		}
	}
	wantRange(t, target, "folder/object", 0, 1, []byte("x"))
}

func testAgain(t *testing.T, target targets.Target) {
	data := randomBytes(100_000)
	for range 3 {
		put(t, target, "a/again", data)
		wantRange(t, target, "a/again", 0, int64(len(data)), data)
	}
	if names := list(t, target, ""); !slices.Equal(names, []string{"a/again"}) {
		t.Errorf("listed %q", names)
	}
}

func testBorrowed(t *testing.T, target targets.Target) {
	data := randomBytes(1 << 20)
	kept := bytes.Clone(data)
	put(t, target, "borrowed", data)
	if !bytes.Equal(data, kept) {
		t.Error("Put modified the data")
	}
	clear(data)
	wantRange(t, target, "borrowed", 0, int64(len(kept)), kept)
}

func testDelete(t *testing.T, target targets.Target) {
	put(t, target, "d/one", []byte("1"))
	put(t, target, "d/two", []byte("2"))
	for range 2 {
		if err := target.Delete(t.Context(), "d/one"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := target.Stat(t.Context(), "d/one"); !errors.Is(err, targets.ErrNotFound) {
		t.Errorf("Stat of a deleted object: %v, want ErrNotFound", err)
	}
	if names := list(t, target, ""); !slices.Equal(names, []string{"d/two"}) {
		t.Errorf("listed %q", names)
	}
	put(t, target, "d/one", []byte("new"))
	wantRange(t, target, "d/one", 0, 3, []byte("new"))
}

// nested holds names whose order differs between byte order and the order in
// which a tree of folders is walked: '-' < '/' < '0'.
var nested = []string{
	"a-b", "a-b-c/x", "a/b", "a/b-c", "a/b-c-d/e", "a/c/d/e/f", "a/c/d0", "a0/b0", "b", "c/1", "c/2", "z",
}

func putNested(t *testing.T, target targets.Target) {
	for i, name := range nested {
		put(t, target, name, make([]byte, i))
	}
}

func testListOrder(t *testing.T, target targets.Target) {
	putNested(t, target)
	if got := list(t, target, ""); !slices.Equal(got, nested) {
		t.Errorf("listed %q\nwant   %q", got, nested)
	}
	for info, err := range target.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if i := slices.Index(nested, info.Name); info.Size != int64(i) {
			t.Errorf("%s listed with %d bytes, has %d", info.Name, info.Size, i)
		}
	}
}

func testListPrefix(t *testing.T, target targets.Target) {
	putNested(t, target)
	for _, prefix := range []string{"a", "a-", "a/", "a/b", "a/b-c", "a/c/", "a/c/d", "a/c/d/", "b", "b/", "c/1", "c/3", "none", "z"} {
		var want []string
		for _, name := range nested {
			if strings.HasPrefix(name, prefix) {
				want = append(want, name)
			}
		}
		if got := list(t, target, prefix); !slices.Equal(got, want) {
			t.Errorf("prefix %q: listed %q, want %q", prefix, got, want)
		}
	}
}

func testListEmpty(t *testing.T, target targets.Target) {
	for _, prefix := range []string{"", "a", "a/b/"} {
		if names := list(t, target, prefix); len(names) != 0 {
			t.Errorf("prefix %q of an empty target: %q", prefix, names)
		}
	}
}

func testListStop(t *testing.T, target targets.Target) {
	putNested(t, target)
	seen := 0
	for _, err := range target.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if seen++; seen == 2 {
			break
		}
	}
	if seen != 2 {
		t.Errorf("saw %d objects", seen)
	}
}

func testListMany(t *testing.T, target targets.Target) {
	const count = 1100 // more than a page of S3
	want := make([]string, count)
	g, ctx := errgroup.WithContext(t.Context())
	g.SetLimit(8)
	for i := range count {
		want[i] = fmt.Sprintf("many/%02x/%04d", i/100, i)
		g.Go(func() error { return target.Put(ctx, object(want[i], []byte{byte(i)})) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := list(t, target, ""); !slices.Equal(got, want) {
		t.Errorf("listed %d names, want %d in order", len(got), count)
	}
	if got := list(t, target, "many/0a/"); !slices.Equal(got, want[1000:]) {
		t.Errorf("listed %d names below many/0a/, want 100", len(got))
	}
}

// testConcurrentPuts writes different contents under one name, which the
// format never does, because then a torn object can be told from a whole one.
func testConcurrentPuts(t *testing.T, target targets.Target) {
	const size, writers, rounds = 512 << 10, 4, 6
	ctx := t.Context()
	var g errgroup.Group
	var writing sync.WaitGroup
	for w := range writers {
		data := bytes.Repeat([]byte{byte(w + 1)}, size)
		writing.Add(1)
		g.Go(func() error {
			defer writing.Done()
			for range rounds {
				if err := target.Put(ctx, object("contended", data)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	done := make(chan struct{})
	go func() { writing.Wait(); close(done) }()
	for range 2 {
		g.Go(func() error {
			last := false // all is written: it is there
			for seen := 0; !last; {
				select {
				case <-done:
					last = true
				default:
				}
				data, err := get(ctx, target, "contended", 0, size)
				if errors.Is(err, targets.ErrNotFound) {
					if seen > 0 || last {
						return fmt.Errorf("the object vanished: %w", err)
					}
					continue
				}
				if err != nil {
					return err
				}
				if bytes.Count(data, data[:1]) != size {
					return errors.New("a reader saw parts of two objects")
				}
				seen++
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := list(t, target, ""); !slices.Equal(got, []string{"contended"}) {
		t.Errorf("listed %q", got)
	}
}

func testConcurrentUse(t *testing.T, target targets.Target) {
	var g errgroup.Group
	for worker := range 8 {
		g.Go(func() error {
			for i := range 8 {
				name := fmt.Sprintf("w%d/%d", worker, i)
				data := randomBytes(1 + 1000*i)
				if err := target.Put(t.Context(), object(name, data)); err != nil {
					return err
				}
				got, err := get(t.Context(), target, name, 0, int64(len(data)))
				if err != nil {
					return err
				}
				if !bytes.Equal(got, data) {
					return fmt.Errorf("%s came back different", name)
				}
				for _, err := range target.List(t.Context(), fmt.Sprintf("w%d/", (worker+1)%8)) {
					if err != nil {
						return err
					}
				}
				if i%2 == 1 {
					if err := target.Delete(t.Context(), name); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := list(t, target, ""); len(got) != 8*4 {
		t.Errorf("listed %d objects, want %d", len(got), 8*4)
	}
}

func testCancelled(t *testing.T, target targets.Target) {
	put(t, target, "there", []byte("x"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantCancelled := func(op string, err error) {
		t.Helper()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s with a cancelled context: %v", op, err)
		}
	}
	wantCancelled("Put", target.Put(ctx, object("new", []byte("x"))))
	_, err := get(ctx, target, "there", 0, 1)
	wantCancelled("Get", err)
	_, err = target.Stat(ctx, "there")
	wantCancelled("Stat", err)
	wantCancelled("Delete", target.Delete(ctx, "there"))
	yields := 0
	for info, err := range target.List(ctx, "") {
		wantCancelled("List", err)
		if info != (targets.Info{}) {
			t.Errorf("List yielded %v with its error", info)
		}
		yields++
	}
	if yields != 1 {
		t.Errorf("List with a cancelled context yielded %d times, want its error once", yields)
	}
	if got := list(t, target, ""); !slices.Equal(got, []string{"there"}) {
		t.Errorf("after cancelled calls: %q", got)
	}
}

func testCancelledReader(t *testing.T, target targets.Target) {
	const size = 4 << 20
	put(t, target, "big", randomBytes(size))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := target.Get(ctx, "big", 0, size)
	if err != nil {
		t.Fatal(err)
	}
	defer closeReader(t, r)
	if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.Copy(io.Discard, r); !errors.Is(err, context.Canceled) {
		t.Errorf("reading on after the context was cancelled: %v", err)
	}
}

func testNames(t *testing.T, target targets.Target) {
	for _, name := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/./b", ".tmp", ".tmp/a", "A", "a b", "a.b", "a_b", "ä", "a\x00b", "a\nb", `a\b`, "a%2fb",
		strings.Repeat("x", 256), strings.Repeat("x/", 512) + "x",
	} {
		wantName := func(op string, err error) {
			t.Helper()
			if !errors.Is(err, targets.ErrName) {
				t.Errorf("%s of %q: %v, want ErrName", op, name, err)
			}
		}
		wantName("Put", target.Put(t.Context(), object(name, []byte("x"))))
		_, err := get(t.Context(), target, name, 0, 1)
		wantName("Get", err)
		_, err = target.Stat(t.Context(), name)
		wantName("Stat", err)
		wantName("Delete", target.Delete(t.Context(), name))
	}
	for _, prefix := range []string{"/", "/a", "a//", "..", "a/../", "A"} {
		for _, err := range target.List(t.Context(), prefix) {
			if !errors.Is(err, targets.ErrName) {
				t.Errorf("List of %q: %v, want ErrName", prefix, err)
			}
		}
	}
	if names := list(t, target, ""); len(names) != 0 {
		t.Errorf("invalid names left %q", names)
	}
	longest := strings.Repeat("0123456789abcdef-/", 10) + strings.Repeat("z", 64)
	put(t, target, longest, []byte("x"))
	if names := list(t, target, ""); !slices.Equal(names, []string{longest}) {
		t.Errorf("listed %q", names)
	}
}

func testInvalidRanges(t *testing.T, target targets.Target) {
	put(t, target, "a", []byte("abc"))
	for _, r := range []struct{ offset, length int64 }{{-1, 1}, {0, 0}, {0, -1}, {1<<63 - 1, 2}} {
		if _, err := get(t.Context(), target, "a", r.offset, r.length); !errors.Is(err, targets.ErrName) {
			t.Errorf("%d bytes from %d: %v, want ErrName", r.length, r.offset, err)
		}
	}
}

func testLarge(t *testing.T, target targets.Target) {
	const size = 33 << 20
	data := randomBytes(size)
	put(t, target, "large/object", data)
	wantRange(t, target, "large/object", 0, size, data)
	wantRange(t, target, "large/object", 32<<20, 1<<20, data[32<<20:])
}

func (s suite) testWrongHash(t *testing.T, target targets.Target) {
	if !s.checksHash {
		t.Skip("this store does not check hashes")
	}
	o := object("wrong", []byte("what was sent"))
	o.SHA256 = sha256.Sum256([]byte("what was meant"))
	if err := target.Put(t.Context(), o); !errors.Is(err, targets.ErrCorrupt) {
		t.Errorf("Put with a wrong hash: %v, want ErrCorrupt", err)
	}
	if _, err := target.Stat(t.Context(), "wrong"); !errors.Is(err, targets.ErrNotFound) {
		t.Errorf("Stat of a refused object: %v, want ErrNotFound", err)
	}
}

func (s suite) testReopen(t *testing.T, target targets.Target) {
	if s.reopen == nil {
		t.Skip("nothing outlives this target")
	}
	data := randomBytes(100_000)
	put(t, target, "n/kept", data)
	put(t, target, "n/deleted", data)
	if err := target.Delete(t.Context(), "n/deleted"); err != nil {
		t.Fatal(err)
	}
	second := s.reopen(t, target)
	wantRange(t, second, "n/kept", 0, int64(len(data)), data)
	if names := list(t, second, ""); !slices.Equal(names, []string{"n/kept"}) {
		t.Errorf("a second opener lists %q", names)
	}
	put(t, second, "n/second", data[:10])
	wantRange(t, target, "n/second", 0, 10, data[:10])
}

func object(name string, data []byte) targets.Object {
	return targets.Object{Name: name, Data: data, SHA256: sha256.Sum256(data)}
}

func put(t *testing.T, target targets.Target, name string, data []byte) {
	t.Helper()
	if err := target.Put(t.Context(), object(name, data)); err != nil {
		t.Fatal(err)
	}
}

// get reads all that Get yields.
func get(ctx context.Context, target targets.Target, name string, offset, length int64) ([]byte, error) {
	r, err := target.Get(ctx, name, offset, length)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(r)
	return data, errors.Join(err, r.Close())
}

func wantRange(t *testing.T, target targets.Target, name string, offset, length int64, want []byte) {
	t.Helper()
	got, err := get(t.Context(), target, name, offset, length)
	if err != nil {
		t.Errorf("%d bytes of %s from %d: %v", length, name, offset, err)
	} else if !bytes.Equal(got, want) {
		t.Errorf("%d bytes of %s from %d: got %d bytes that differ", length, name, offset, len(got))
	}
}

func stat(t *testing.T, target targets.Target, name string) targets.Info {
	t.Helper()
	info, err := target.Stat(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func list(t *testing.T, target targets.Target, prefix string) []string {
	t.Helper()
	var names []string
	for info, err := range target.List(t.Context(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, info.Name)
	}
	return names
}

func closeReader(t *testing.T, r io.Closer) {
	t.Helper()
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

// randomBytes returns the same bytes for the same size.
func randomBytes(size int) []byte {
	data := make([]byte, size)
	src := rand.NewChaCha8([32]byte{byte(size), byte(size >> 8), byte(size >> 16)})
	_, _ = src.Read(data) // never fails
	return data
}
