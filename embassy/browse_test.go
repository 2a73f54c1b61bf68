package embassy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"embassy/chunk"
	"embassy/embassy"
	"embassy/embassy/format"
	"embassy/targets"
)

// browse returns the tree of the newest snapshot.
func (r *repo) browse(f *findings) *embassy.Tree {
	r.t.Helper()
	v, err := r.view(f)
	r.must(err)
	s, err := v.Pick("pop", "latest", time.Time{})
	r.must(err)
	b := v.Browse()
	r.t.Cleanup(b.Close)
	return b.Tree(s)
}

// lookUp looks a path up, part by part.
func lookUp(ctx context.Context, tree *embassy.Tree, path string) (n *format.Node, err error) {
	f, err := tree.Root(ctx)
	for part := range strings.SplitSeq(path, "/") {
		if n != nil {
			f = tree.Folder(n)
		}
		if err == nil {
			n, err = f.Lookup(ctx, part)
		}
		if err != nil {
			return nil, err
		}
	}
	return n, nil
}

// readWhole reads a whole file, in pieces of a size that fits nothing.
func readWhole(ctx context.Context, tree *embassy.Tree, path string) ([]byte, error) {
	n, err := lookUp(ctx, tree, path)
	if err != nil {
		return nil, err
	}
	f := tree.File(n)
	var out []byte
	for buf := make([]byte, 100_001); ; {
		n, err := f.ReadAt(ctx, buf, int64(len(out)))
		out = append(out, buf[:n]...)
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return out, err
		}
	}
}

// packReads counts requests for packs and their bytes.
func (r *repo) packReads() (requests, read *atomic.Int64) {
	requests, read = &atomic.Int64{}, &atomic.Int64{}
	r.through(0, func(on targets.Target) targets.Target {
		return &targets.Faulty{
			Target: on,
			Before: func(op targets.Op, name string) error {
				if strings.Contains(name, "/pack/") {
					requests.Add(1)
				}
				return nil
			},
			Data: func(name string, _ int64, data []byte) []byte {
				if strings.Contains(name, "/pack/") {
					read.Add(int64(len(data)))
				}
				return data
			},
		}
	})
	return requests, read
}

// TestBrowseFetchesAhead: a long file that is read in order takes few requests
// and each byte of its packs once; one byte of it takes little.
func TestBrowseFetchesAhead(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	a.full = 32 << 20
	want := random(1, 120<<20) // more chunks than a node holds itself
	a.snapshot("pop", dir{"big": want})
	requests, read := r.packReads()
	tree := r.browse(&findings{})
	n, err := lookUp(t.Context(), tree, "big")
	r.must(err)
	requests.Store(0)
	read.Store(0)
	one := make([]byte, 1)
	if _, err := tree.File(n).ReadAt(t.Context(), one, 77_777_777); err != nil || one[0] != want[77_777_777] {
		t.Fatal(one, err)
	}
	if read.Load() > 6<<20 {
		t.Errorf("%d bytes were fetched for one", read.Load())
	}
	requests.Store(0)
	read.Store(0)
	got, err := readWhole(t.Context(), tree, "big")
	if err != nil || !bytes.Equal(got, want) {
		t.Fatal(len(got), err)
	}
	if requests.Load() > 40 || read.Load() > 130<<20 {
		t.Errorf("%d requests, %d bytes", requests.Load(), read.Load())
	}
}

// TestBrowseSmallFiles: files that lie one after another in a pack do not cost
// a request each.
func TestBrowseSmallFiles(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	files := dir{}
	for i := range 300 {
		files[fmt.Sprintf("%03d", i)] = random(uint64(i), 50_000)
	}
	a.snapshot("pop", files)
	requests, _ := r.packReads()
	tree := r.browse(&findings{})
	for name := range files {
		_, err := lookUp(t.Context(), tree, name)
		r.must(err)
	}
	requests.Store(0)
	for i := range 300 {
		name := fmt.Sprintf("%03d", i)
		if got, err := readWhole(t.Context(), tree, name); err != nil || !bytes.Equal(got, files[name].([]byte)) {
			t.Fatal(name, len(got), err)
		}
	}
	if requests.Load() > 30 {
		t.Errorf("%d requests for 300 files", requests.Load())
	}
}

// TestBrowseManyReaders: any place of any file of several snapshots, by many
// at once, in any order.
func TestBrowseManyReaders(t *testing.T) {
	r, a := newRepo(t, 2, "pop")
	wants := []map[string][]byte{{}, {}, {}}
	for i, files := range wants {
		tree := dir{}
		for j := range 4 {
			name := fmt.Sprint("f", j)
			files[name] = random(uint64(10*i+j), 6<<20+j)
			tree[name] = files[name]
		}
		a.snapshot("pop", tree)
	}
	for _, name := range r.names(0, "/pack/")[:2] {
		damages["flipped"](r, 0, name)
	}
	v, err := r.view(&findings{})
	r.must(err)
	b := v.Browse()
	defer b.Close()
	infos := v.Snapshots("pop") // newest first
	var readers sync.WaitGroup
	for seed := range uint64(8) {
		readers.Go(func() {
			rng := rand.New(rand.NewPCG(seed, 1))
			for range 40 {
				i := rng.IntN(len(wants))
				name := fmt.Sprint("f", rng.IntN(4))
				want := wants[len(wants)-1-i][name]
				tree := b.Tree(infos[i])
				n, err := lookUp(t.Context(), tree, name)
				if err != nil {
					t.Error(err)
					return
				}
				off := rng.IntN(len(want))
				buf := make([]byte, rng.IntN(1<<20))
				got, err := tree.File(n).ReadAt(t.Context(), buf, int64(off))
				if rest := want[off:min(off+len(buf), len(want))]; !bytes.Equal(buf[:got], rest) || err != nil && (err != io.EOF || len(rest) == len(buf)) {
					t.Errorf("%d bytes of %s from %d: %d, %v", len(buf), name, off, got, err)
				}
			}
		})
	}
	readers.Wait()
}

// TestBrowseFolder: a folder of many parts gives every name, in any order, and
// what is not there is not there.
func TestBrowseFolder(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	files := dir{}
	for i := range 20_000 {
		files[fmt.Sprintf("name-%05d", i)] = link("x")
	}
	a.snapshot("pop", dir{"many": files, "none": dir{}, "zero": ""})
	tree := r.browse(&findings{})
	for _, i := range []int{19_999, 3, 10_000, 19_998, 0} {
		name := fmt.Sprintf("name-%05d", i)
		if n, err := lookUp(t.Context(), tree, "many/"+name); err != nil || string(n.Name) != name {
			t.Error(name, err)
		}
	}
	for _, path := range []string{"many/a", "many/name-00003x", "many/z", "none/x", "x"} {
		if _, err := lookUp(t.Context(), tree, path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", path, err)
		}
	}
	n, err := lookUp(t.Context(), tree, "many")
	r.must(err)
	names, parts := 0, 0
	for f := tree.Folder(n); ; parts++ {
		nodes, err := f.Page(t.Context(), parts)
		r.must(err)
		if nodes == nil {
			break
		}
		for _, n := range nodes {
			if want := fmt.Sprintf("name-%05d", names); string(n.Name) != want {
				t.Fatalf("%q, want %q", n.Name, want)
			}
			names++
		}
	}
	if names != len(files) || parts < 3 {
		t.Errorf("%d names in %d parts", names, parts)
	}
	if nodes, err := tree.Folder(n).Page(t.Context(), parts+7); nodes != nil || err != nil {
		t.Error(nodes, err)
	}
	if got, err := readWhole(t.Context(), tree, "zero"); len(got) > 0 || err != nil {
		t.Error(got, err)
	}
}

// TestBrowseBadCopies: another target serves, or an error and no wrong byte.
func TestBrowseBadCopies(t *testing.T) {
	for how, damage := range damages {
		t.Run(how, func(t *testing.T) {
			r, a := newRepo(t, 2, "pop")
			want := random(1, 20<<20)
			a.snapshot("pop", dir{"a": "first", "big": want})
			packs := r.names(0, "/pack/")
			for _, name := range packs {
				damage(r, 0, name)
			}
			var f findings
			if got, err := readWhole(t.Context(), r.browse(&f), "big"); err != nil || !bytes.Equal(got, want) {
				t.Fatal(len(got), err)
			}
			if len(f.about("t0", "/pack/")) == 0 {
				t.Error("the bad copy was not told")
			}
			for _, name := range packs {
				damage(r, 1, name)
			}
			if got, err := readWhole(t.Context(), r.browse(&findings{}), "big"); err == nil || !bytes.HasPrefix(want, got) {
				t.Errorf("%d bytes and %v of damaged packs", len(got), err)
			}
		})
	}
}

// TestBrowseHostile: what only looks like a file or folder is refused.
func TestBrowseHostile(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	file := func(c format.Content) format.Node { return format.Node{Type: format.File, Mode: 0o644, Content: &c} }
	whole := a.content(random(1, 3<<20))
	short, long, list, lost := whole, whole, whole, whole
	short.Size--
	long.Size++
	list.Depth = 1
	lost.Chunks = bytes.Repeat([]byte{7}, 32)
	names := func(names ...string) any {
		var out raw
		for _, name := range names {
			n := a.node(name, "x")
			out = append(out, n)
		}
		return out
	}
	a.snapshot("pop", dir{
		"short": file(short), "long": file(long), "list": file(list), "lost": file(lost),
		"dots": names("..", "a"), "dot": names("."), "slash": names("a/b"), "zero": names("a\x00b"), "twice": names("a", "a"), "back": names("b", "a"),
	})
	tree := r.browse(&findings{})
	for _, name := range []string{"short", "long", "list", "lost"} {
		if got, err := readWhole(t.Context(), tree, name); err == nil || len(got) > 0 {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	for _, name := range []string{"dots", "dot", "slash", "zero", "twice", "back"} {
		n, err := lookUp(t.Context(), tree, name)
		r.must(err)
		if nodes, err := tree.Folder(n).Page(t.Context(), 0); !errors.Is(err, format.ErrMalformed) {
			t.Errorf("%s: %d nodes, %v", name, len(nodes), err)
		}
	}
}

// alive returns the bytes that are in use.
func alive() int64 {
	runtime.GC()
	runtime.GC() // what finalizers let go
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestBrowseMemory: what is kept of packs is what it is counted with, whatever
// comes out of them and whoever had the memory before.
func TestBrowseMemory(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	a.full = 64 << 20
	files := dir{}
	put := func(name string, pieces ...[]byte) {
		c := format.Content{}
		for _, piece := range pieces {
			id := a.chunk(format.DataChunk, piece)
			c.Size, c.Chunks = c.Size+uint64(len(piece)), append(c.Chunks, id[:]...)
		}
		files[name] = format.Node{Type: format.File, Mode: 0o644, Content: &c}
		a.seal()
	}
	const small, zeros, piece = 35, 100, 2 << 20
	for i := range 2 {
		var pieces [][]byte
		for j := range 30 {
			pieces = append(pieces, random(uint64(100*i+j), piece))
		}
		put(fmt.Sprint("large", i), pieces...)
	}
	for i := range small {
		put(fmt.Sprint("small", i), random(uint64(1000+i), piece))
	}
	for i := range zeros {
		data := make([]byte, chunk.MaxSize)
		data[0] = byte(i)
		put(fmt.Sprint("zeros", i), data)
	}
	a.snapshot("pop", files)
	tree := r.browse(&findings{})
	read := func(name string, off int64) {
		n, err := lookUp(t.Context(), tree, name)
		r.must(err)
		_, err = tree.File(n).ReadAt(t.Context(), make([]byte, 1), off)
		r.must(err)
	}
	before := alive()
	for i := range zeros {
		read(fmt.Sprint("zeros", i), 0)
	}
	if grown := alive() - before; grown > 120<<20 {
		t.Errorf("%d MiB for small packs of large chunks", grown>>20)
	}
	for i := range 15 { // the large pack makes way for the last of the small ones
		read(fmt.Sprint("large", i%2), int64(2*i)*piece)
		for j := range 32 {
			read(fmt.Sprint("small", (i+j)%small), 0)
		}
	}
	if grown := alive() - before; grown > 220<<20 {
		t.Errorf("%d MiB for packs that make way", grown>>20)
	}
}

// TestBrowseEndlessFile: who gives up on a file whose lists of chunks are all
// the same few need not wait until they are gone through.
func TestBrowseEndlessFile(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	data := make([]byte, chunk.MaxSize)
	id := a.chunk(format.DataChunk, data)
	for range 2 {
		id = a.chunk(format.TreeChunk, bytes.Repeat(id[:], 8192))
	}
	c := format.Content{Size: uint64(len(data)) * 8192 * 8192 * 4, Depth: 2, Chunks: bytes.Repeat(id[:], 4)}
	a.snapshot("pop", dir{"f": format.Node{Type: format.File, Mode: 0o644, Content: &c}})
	tree := r.browse(&findings{})
	n, err := lookUp(t.Context(), tree, "f")
	r.must(err)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	if n, err := tree.File(n).ReadAt(ctx, make([]byte, 1), 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%d bytes, %v", n, err)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("it took %v to give up", took)
	}
}
