package format_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"embassy/chunk"
	"embassy/embassy/format"
)

// store keeps tree chunks by id.
type store map[chunk.ID][]byte

func (s store) put(list []byte) (chunk.ID, error) {
	id := chunk.ID(sha256.Sum256(list))
	s[id] = bytes.Clone(list)
	return id, nil
}

// ids walks a content down to its chunks.
func (s store) ids(t testing.TB, c format.Content) []chunk.ID {
	t.Helper()
	ids, err := c.IDs()
	for depth := c.Depth; err == nil && depth > 0; depth-- {
		var below []chunk.ID
		for _, id := range ids {
			var list []chunk.ID
			if list, err = format.ParseIDList(s[id]); err != nil {
				break
			}
			below = append(below, list...)
		}
		ids = below
	}
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// fresh is how many chunks s holds that old does not.
func (s store) fresh(old store) (n int) {
	for id := range s {
		if _, ok := old[id]; !ok {
			n++
		}
	}
	return n
}

func numberedIDs(n int) (ids []chunk.ID) {
	for i := range n {
		ids = append(ids, numberedID(i))
	}
	return ids
}

func TestBuildContent(t *testing.T) {
	for _, c := range []struct {
		chunks int
		depth  uint8
	}{{0, 0}, {1, 0}, {32, 0}, {33, 1}, {1024, 1}, {20000, 1}, {150000, 2}} {
		s := store{}
		ids := numberedIDs(c.chunks)
		got, err := format.BuildContent(uint64(c.chunks), ids, s.put)
		if err != nil {
			t.Fatal(err)
		}
		if got.Depth != c.depth || got.Size != uint64(c.chunks) || len(got.Chunks) > 32*32 {
			t.Errorf("%d chunks: depth %d, %d bytes of ids", c.chunks, got.Depth, len(got.Chunks))
		}
		if !slices.Equal(s.ids(t, got), ids) {
			t.Errorf("%d chunks do not come back", c.chunks)
		}
		for _, list := range s {
			if len(list) > 8192*32 {
				t.Errorf("a list of %d bytes", len(list))
			}
		}
	}
	broken := errors.New("broken")
	if _, err := format.BuildContent(1, numberedIDs(40), func([]byte) (chunk.ID, error) { return chunk.ID{}, broken }); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

// Equal ids never say where to cut: a list is then cut at its greatest length.
func TestBuildContentWithoutCuts(t *testing.T) {
	s := store{}
	ids := slices.Repeat([]chunk.ID{{0xff, 0xff}}, 20000)
	c, err := format.BuildContent(1, ids, s.put)
	if err != nil || c.Depth != 1 || len(c.Chunks) != 3*32 {
		t.Fatalf("depth %d, %d bytes, %v", c.Depth, len(c.Chunks), err)
	}
	if got := s.ids(t, c); len(got) != len(ids) {
		t.Errorf("%d ids come back", len(got))
	}
}

func TestBuildContentStability(t *testing.T) {
	ids := numberedIDs(40000)
	old := store{}
	if _, err := format.BuildContent(1, ids, old.put); err != nil {
		t.Fatal(err)
	}
	if len(old) < 10 {
		t.Fatalf("only %d lists", len(old))
	}
	const seed = 7
	random := rand.New(rand.NewPCG(seed, 0))
	changed := 0
	for i := range 50 {
		at := random.IntN(len(ids))
		edited := slices.Clone(ids)
		switch i % 3 {
		case 0:
			edited = slices.Insert(edited, at, numberedID(1<<30+i))
		case 1:
			edited = slices.Delete(edited, at, at+1)
		default:
			edited[at] = numberedID(1<<30 + i)
		}
		s := store{}
		if _, err := format.BuildContent(1, edited, s.put); err != nil {
			t.Fatal(err)
		}
		n := s.fresh(old)
		if n == 0 || n > 6 {
			t.Errorf("seed %d, edit %d at %d: %d of %d lists are new", seed, i, at, n, len(s))
		}
		changed += n
	}
	if changed > 75 {
		t.Errorf("seed %d: %d lists are new after 50 edits", seed, changed)
	}
}

func pipeNode(i int) format.Node {
	return format.Node{Name: fmt.Appendf(nil, "name-%06d", i), Type: format.FIFO, Mode: 0o644, User: "root", Group: "root", Sec: int64(i)}
}

// build writes a folder.
func build(t testing.TB, nodes []format.Node) (store, format.Content) {
	t.Helper()
	s := store{}
	b := format.NewTreeBuilder(s.put)
	for i := range nodes {
		if err := b.Add(&nodes[i]); err != nil {
			t.Fatal(err)
		}
	}
	c, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return s, c
}

// read reads a folder.
func (s store) read(t testing.TB, c format.Content) (nodes []format.Node) {
	t.Helper()
	var after []byte
	var size uint64
	for _, id := range s.ids(t, c) {
		list, err := format.ParseNodes(s[id], after)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 0 {
			t.Fatal("an empty list")
		}
		nodes, after, size = append(nodes, list...), list[len(list)-1].Name, size+uint64(len(s[id]))
	}
	if size != c.Size {
		t.Fatalf("%d bytes, want %d", size, c.Size)
	}
	return nodes
}

func TestTreeBuilder(t *testing.T) {
	for _, n := range []int{0, 1, 1000, 10000} {
		var nodes []format.Node
		for i := range n {
			nodes = append(nodes, pipeNode(i))
		}
		s, c := build(t, nodes)
		if !reflect.DeepEqual(nodes, s.read(t, c)) {
			t.Errorf("%d nodes do not come back", n)
		}
		for _, id := range s.ids(t, c)[:max(0, len(s.ids(t, c))-1)] {
			if n := len(s[id]); n < 64<<10 || n > format.MaxTreeChunk {
				t.Errorf("a chunk of %d bytes", n)
			}
		}
	}
	nodes := everyNode()
	s, c := build(t, nodes[1:])
	if diff := cmp.Diff(nodes[1:], s.read(t, c)); diff != "" {
		t.Error(diff)
	}
}

func TestTreeBuilderStability(t *testing.T) {
	var nodes []format.Node
	for i := range 20000 {
		nodes = append(nodes, pipeNode(2*i))
	}
	old, _ := build(t, nodes)
	if len(old) < 8 {
		t.Fatalf("only %d chunks", len(old))
	}
	const seed = 11
	random := rand.New(rand.NewPCG(seed, 0))
	changed := 0
	for i := range 12 {
		at := random.IntN(len(nodes))
		edited := slices.Clone(nodes)
		switch i % 3 {
		case 0:
			edited = slices.Insert(edited, at+1, pipeNode(2*at+1))
		case 1:
			edited = slices.Delete(edited, at, at+1)
		default:
			edited[at].Sec = 1 << 40
		}
		s, _ := build(t, edited)
		n := s.fresh(old)
		if n == 0 || n > 4 {
			t.Errorf("seed %d, edit %d at %d: %d of %d chunks are new", seed, i, at, n, len(s))
		}
		changed += n
	}
	if changed > 24 {
		t.Errorf("seed %d: %d chunks are new after 12 edits", seed, changed)
	}
}

// A chunk stays within its bound, however large the nodes.
func TestTreeBuilderLargeNodes(t *testing.T) {
	large := func(name string, n int) format.Node {
		return format.Node{Name: []byte(name), Type: format.FIFO, Sec: 1, Xattrs: []format.Xattr{{Name: []byte("user.x"), Value: make([]byte, n)}}}
	}
	nodes := []format.Node{large("a", 600<<10), large("b", 600<<10), large("c", 1), large("d", 1<<20-40), large("e", 1)}
	s, c := build(t, nodes)
	if len(s) != 4 {
		t.Errorf("%d chunks, want 4", len(s))
	}
	if !reflect.DeepEqual(nodes, s.read(t, c)) {
		t.Error("the nodes do not come back")
	}
	n := large("a", 1<<20)
	if err := format.NewTreeBuilder(s.put).Add(&n); err == nil {
		t.Error("a node that fits no chunk was taken")
	}
	var list []byte
	for i := range nodes {
		list = append(list, mustCBOR(nodes[i])...)
	}
	if _, err := format.ParseNodes(list, nil); class(err) != "malformed" {
		t.Errorf("good nodes in a chunk beyond the bound: %v", err)
	}
}

func TestTreeBuilderRefuses(t *testing.T) {
	first := pipeNode(5)
	for name, edit := range map[string]func(n *format.Node){
		"same name":     func(n *format.Node) { n.Name = first.Name },
		"earlier name":  func(n *format.Node) { *n = pipeNode(4) },
		"empty name":    func(n *format.Node) { n.Name = nil },
		"slash":         func(n *format.Node) { n.Name = []byte("z/z") },
		"dot dot":       func(n *format.Node) { n.Name = []byte("..") },
		"zero byte":     func(n *format.Node) { n.Name = []byte("z\x00") },
		"long name":     func(n *format.Node) { n.Name = bytes.Repeat([]byte("z"), format.MaxNameSize+1) },
		"no type":       func(n *format.Node) { n.Type = 0 },
		"no content":    func(n *format.Node) { n.Type = format.File },
		"odd content":   func(n *format.Node) { n.Type, n.Content = format.File, &format.Content{Chunks: make([]byte, 31)} },
		"link of pipe":  func(n *format.Node) { n.Link = []byte("x") },
		"overlap":       func(n *format.Node) { n.Type, n.Content, n.Holes = 1, &format.Content{Size: 9}, []uint64{0, 5, 4, 2} },
		"nanoseconds":   func(n *format.Node) { n.Nsec = 1e9 },
		"unknown modes": func(n *format.Node) { n.Mode = 1 << 12 },
	} {
		b := format.NewTreeBuilder(store{}.put)
		if err := b.Add(&first); err != nil {
			t.Fatal(err)
		}
		n := pipeNode(6)
		edit(&n)
		if err := b.Add(&n); class(err) != "malformed" {
			t.Errorf("%s: %v", name, err)
		}
	}
	longest := pipeNode(1)
	longest.Name = bytes.Repeat([]byte("z"), format.MaxNameSize)
	if err := format.NewTreeBuilder(store{}.put).Add(&longest); err != nil {
		t.Errorf("the longest name: %v", err)
	}
}

// A user of an old machine whose name is Latin-1 must not make the folder
// unreadable.
func TestTreeBuilderNamesOfUsers(t *testing.T) {
	n := pipeNode(1)
	n.User, n.Group = "J\xfcri", "k\xfclla"
	s, c := build(t, []format.Node{n})
	got := s.read(t, c)[0]
	if got.User != "J\uFFFDri" || got.Group != "k\uFFFDlla" {
		t.Errorf("got %q, %q", got.User, got.Group)
	}
	if n.User != "J\xfcri" {
		t.Error("the caller's node was changed")
	}
}

func TestRefsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Uint32Range(0, 200).Draw(t, "objects")
		var positions []uint32
		for i := range n {
			if rapid.IntRange(0, 3).Draw(t, "used") > 0 {
				positions = append(positions, i)
			}
		}
		runs := format.RefRuns(positions)
		got, err := format.Positions(runs, n)
		if err != nil || !slices.Equal(got, positions) {
			t.Fatalf("%v become %v, %v", positions, got, err)
		}
		if len(positions) > 0 {
			if _, err := format.Positions(runs, positions[len(positions)-1]); class(err) != "malformed" {
				t.Fatalf("a position beyond the entry: %v", err)
			}
		}
	})
}

func TestRefsOneEncoding(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		runs := rapid.SliceOfN(rapid.Uint32Range(0, 4), 0, 12).Draw(t, "runs")
		positions, err := format.Positions(runs, 100)
		if err == nil && !slices.Equal(format.RefRuns(positions), runs) && len(runs) > 0 {
			t.Fatalf("%v read as %v, written %v", runs, positions, format.RefRuns(positions))
		}
	})
	for _, runs := range [][]uint32{{1}, {0, 0}, {1, 0}, {1, 1, 0, 1}, {0, 1, 2}} {
		if _, err := format.Positions(runs, 100); class(err) != "malformed" {
			t.Errorf("%v: %v", runs, err)
		}
	}
}
