package format_test

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"embassy/chunk"
	"embassy/crypto"
	"embassy/embassy/format"
)

// sized is a data chunk whose encoded form has n bytes.
func (w *world) sized(n int, seed byte) rawChunk { return w.dataChunk(1, noise(n-5, seed)) }

func add(b *format.PackBuilder, chunks ...rawChunk) {
	for _, c := range chunks {
		b.Add(format.ChunkKind(c.kind), c.id, c.encoded)
	}
}

// helper is what testing.T and rapid.T have in common.
type helper interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

// sealed seals a pack, and checks that a reader finds exactly these chunks in
// it, and that what the builder says of it is true.
func (w *world) sealed(t helper, b *format.PackBuilder, chunks []rawChunk) format.Pack {
	t.Helper()
	p, err := b.Seal(w.writer)
	if err != nil {
		t.Fatal(err)
	}
	if p.Hash != format.HashOf(p.Data) {
		t.Fatal("the hash is another")
	}
	parsed, err := format.ParsePack(p.Data)
	if err != nil || len(parsed.Segments) != 1 {
		t.Fatalf("%d segments, %v", len(parsed.Segments), err)
	}
	objects, err := format.BuildIndexes([][]byte{p.Head})
	if err != nil {
		t.Fatal(err)
	}
	indexed, err := format.ParseIndex(objects[0])
	if err != nil {
		t.Fatal(err)
	}
	s := indexed[0].Segments[0]
	if indexed[0].Hash != p.Hash || !bytes.Equal(s.Head, parsed.Segments[0].Head) || !bytes.Equal(s.Dir, parsed.Segments[0].Dir) {
		t.Fatal("the index says other than the pack")
	}
	_, dir, err := format.OpenDirectory(w.writer, s.Head, s.Dir, s.Length)
	if err != nil || !slices.Equal(dir, p.Dir) || len(dir) != len(chunks) {
		t.Fatalf("%d chunks in the directory, want %d; %v", len(dir), len(chunks), err)
	}
	seg, err := format.OpenSegment(format.NewReader(w.reader), s.Head)
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range dir {
		got, err := seg.Open(nil, e.Offset, p.Data[e.Offset:e.Offset+e.Length])
		if err != nil || !bytes.Equal(got, chunks[i].encoded) || e.ID != chunks[i].id || int(e.Raw) != chunks[i].raw {
			t.Fatalf("chunk %d does not come back: %v", i, err)
		}
	}
	return p
}

func panics(f func()) (yes bool) {
	defer func() { yes = recover() != nil }()
	f()
	return false
}

// Free must be exact: a chunk of that size fits, and fills the pack to the
// byte; one byte more does not.
func TestPackFree(t *testing.T) {
	w := newWorld(t, 0)
	rapid.Check(t, func(t *rapid.T) {
		full := 64 << 10 << rapid.IntRange(0, 3).Draw(t, "size")
		b := format.NewPackBuilder(w.session, full, nil)
		var chunks []rawChunk
		for n := rapid.IntRange(0, 60).Draw(t, "chunks"); n > 0 && b.Free() >= 6; n-- {
			c := w.sized(rapid.IntRange(6, min(b.Free(), full/16)).Draw(t, "bytes"), byte(n))
			free := b.Free()
			add(b, c)
			chunks = append(chunks, c)
			if b.Free() > free-len(c.encoded)-16 {
				t.Fatal("free bytes grew")
			}
		}
		if b.Len() != len(chunks) {
			t.Fatalf("%d chunks, want %d", b.Len(), len(chunks))
		}
		if free := b.Free(); free >= 6 {
			if !panics(func() { add(b, w.sized(free+1, 99)) }) {
				t.Fatal("one byte over was taken")
			}
			c := w.sized(free, 99)
			add(b, c)
			chunks = append(chunks, c)
			if p := w.sealed(t, b, chunks); len(p.Data) != full {
				t.Fatalf("a full pack of %d bytes, want %d", len(p.Data), full)
			}
			return
		}
		if p := w.sealed(t, b, chunks); len(p.Data) > full {
			t.Fatalf("a pack of %d bytes, at most %d", len(p.Data), full)
		}
	})
}

func TestPackSizeClasses(t *testing.T) {
	w := newWorld(t, 0)
	// Header and directory of one chunk, and its tag.
	const fixed = 16 + 138 + 2*1188 + 1024 + 16
	for _, c := range []struct{ encoded, want int }{
		{6, 64 << 10}, {64<<10 - fixed, 64 << 10}, {64<<10 - fixed + 1, 128 << 10},
		{128<<10 - fixed, 128 << 10}, {128<<10 - fixed + 1, 256 << 10}, {300 << 10, 512 << 10},
		{512<<10 - fixed + 1, 1 << 20}, {1<<20 - fixed, 1 << 20},
	} {
		b := format.NewPackBuilder(w.session, 1<<20, nil)
		k := w.sized(c.encoded, 1)
		add(b, k)
		if p := w.sealed(t, b, []rawChunk{k}); len(p.Data) != c.want {
			t.Errorf("a chunk of %d bytes makes a pack of %d, want %d", c.encoded, len(p.Data), c.want)
		}
	}
	if p := w.sealed(t, format.NewPackBuilder(w.session, 1<<20, nil), nil); len(p.Data) != 64<<10 {
		t.Errorf("an empty pack of %d bytes", len(p.Data))
	}
}

func TestPackTinyChunks(t *testing.T) {
	w := newWorld(t, 0)
	b := format.NewPackBuilder(w.session, 128<<10, nil)
	var chunks []rawChunk
	for i := 0; b.Free() >= 8; i++ {
		c := w.dataChunk(2, []byte{byte(i), byte(i >> 8), byte(i >> 16)})
		add(b, c)
		chunks = append(chunks, c)
	}
	if len(chunks) < 1500 {
		t.Errorf("only %d chunks fit", len(chunks))
	}
	w.sealed(t, b, chunks)
}

// Header, directory, tags and padding of a pack filled with chunks of 12 to 20
// KiB stay below two in a hundred.
func TestPackOverhead(t *testing.T) {
	w := newWorld(t, 0)
	b := format.NewPackBuilder(w.session, 4<<20, nil)
	payload := 0
	var chunks []rawChunk
	for i := 0; ; i++ {
		c := w.sized(12<<10+i*7919%(8<<10), byte(i))
		if len(c.encoded) > b.Free() {
			break
		}
		add(b, c)
		chunks, payload = append(chunks, c), payload+len(c.encoded)
	}
	p := w.sealed(t, b, chunks)
	if over := len(p.Data) - payload; over*100 > 2*len(p.Data) {
		t.Errorf("%d of %d bytes are overhead", over, len(p.Data))
	}
}

func TestPackBufferIsReused(t *testing.T) {
	w := newWorld(t, 0)
	buf := bytes.Repeat([]byte("secret of a run before"), 10000)
	b := format.NewPackBuilder(w.session, 64<<10, buf)
	c := w.sized(100, 1)
	add(b, c)
	p := w.sealed(t, b, []rawChunk{c})
	if &p.Data[0] != &buf[0] {
		t.Error("the buffer was not used")
	}
	if bytes.Contains(p.Data, []byte("secret of a run before")) {
		t.Error("old bytes show in the padding")
	}
}

func TestPackAbsorb(t *testing.T) {
	w := newWorld(t, 0)
	rapid.Check(t, func(t *rapid.T) {
		fill := func(b *format.PackBuilder, seed int) (chunks []rawChunk) {
			for n := rapid.IntRange(0, 12).Draw(t, "chunks"); n > 0; n-- {
				c := w.sized(rapid.IntRange(6, 2000).Draw(t, "bytes"), byte(seed+n))
				add(b, c)
				chunks = append(chunks, c)
			}
			return chunks
		}
		a, o := format.NewPackBuilder(w.session, 64<<10, nil), format.NewPackBuilder(w.session, 64<<10, nil)
		chunks := slices.Concat(fill(a, 0), fill(o, 100))
		if !a.Absorb(o) {
			t.Fatal("did not fit")
		}
		if o.Len() != 0 || a.Len() != len(chunks) {
			t.Fatalf("%d and %d chunks, want %d and 0", a.Len(), o.Len(), len(chunks))
		}
		w.sealed(t, a, chunks)
	})
}

func TestPackAbsorbBoundary(t *testing.T) {
	w := newWorld(t, 0)
	for over := range 2 {
		t.Run(fmt.Sprintf("%d bytes over", over), func(t *testing.T) {
			a, o := format.NewPackBuilder(w.session, 64<<10, nil), format.NewPackBuilder(w.session, 128<<10, nil)
			first := w.sized(20<<10, 1)
			add(a, first)
			second := w.sized(a.Free()+over, 2)
			add(o, second)
			if fits := a.Absorb(o); fits != (over == 0) {
				t.Fatalf("absorbed: %v", fits)
			}
			if over == 0 {
				if p := w.sealed(t, a, []rawChunk{first, second}); len(p.Data) != 64<<10 {
					t.Errorf("%d bytes", len(p.Data))
				}
				return
			}
			w.sealed(t, a, []rawChunk{first}) // both are whole
			w.sealed(t, o, []rawChunk{second})
		})
	}
}

func TestPackNeverTheSameTwice(t *testing.T) {
	w := newWorld(t, 0)
	c := w.sized(500, 1)
	var packs [2]format.Pack
	for i := range packs {
		b := format.NewPackBuilder(w.session, 64<<10, nil)
		add(b, c)
		packs[i] = w.sealed(t, b, []rawChunk{c})
	}
	e := packs[0].Dir[0]
	if e != packs[1].Dir[0] {
		t.Fatal("the chunk lies at two places")
	}
	a, b := packs[0].Data[e.Offset:][:e.Length], packs[1].Data[e.Offset:][:e.Length]
	if bytes.Equal(a, b) || packs[0].Hash == packs[1].Hash {
		t.Error("one chunk sealed twice looks alike: a key met a nonce twice")
	}
}

func TestSegmentKeysNeeded(t *testing.T) {
	w := newWorld(t, 0)
	c := w.sized(500, 1)
	b := format.NewPackBuilder(w.session, 64<<10, nil)
	add(b, c)
	p := w.sealed(t, b, []rawChunk{c})
	// The agent that wrote it holds the writer secret and its own key.
	for name, r := range map[string]*format.Reader{
		"agent": format.NewReader(w.agent.Identity), "nobody": format.NewReader(),
		"root's own key": format.NewReader(w.root.Identity()), "next epoch": format.NewReader(w.root.Reader(w.comp, 2)),
	} {
		if _, err := format.OpenSegment(r, p.Data); class(err) != "authentication" {
			t.Errorf("%s: %v", name, err)
		}
	}
	both := format.NewReader(w.root.Reader(w.comp, 2), w.partner)
	if _, err := format.OpenSegment(both, p.Data); err != nil {
		t.Errorf("partner with another key: %v", err)
	}
}

// A session key that a reader has opened for one agent must not open what
// somebody who knows it made in another's name.
func TestSegmentSessionOfAnotherAgent(t *testing.T) {
	w := newWorld(t, 0)
	r := format.NewReader(w.reader)
	good := w.segment(t, nil, dirPlain(0, nil, 0), 0)
	if _, err := format.OpenSegment(r, good); err != nil {
		t.Fatal(err)
	}
	forged := *w
	forged.scope.Agent = w.other.ID()
	bad := forged.segment(t, nil, dirPlain(0, nil, 0), 0)
	if _, err := format.OpenSegment(r, bad); class(err) != "authentication" {
		t.Errorf("got %v", err)
	}
	if _, err := format.OpenSegment(r, good); err != nil {
		t.Errorf("the good one no longer opens: %v", err)
	}
}

func TestSessionRecipients(t *testing.T) {
	w := newWorld(t, 0)
	to := make([]format.Recipient, format.MaxRecipients+1)
	for i := range to {
		to[i] = format.Recipient{Epoch: 1, Key: w.reader.Recipient()}
	}
	for _, n := range []int{0, len(to)} {
		if _, err := format.NewSession(w.scope, to[:n]); err == nil {
			t.Errorf("%d recipients were taken", n)
		}
	}
	s, err := format.NewSession(w.scope, to[:format.MaxRecipients])
	if err != nil {
		t.Fatal(err)
	}
	b := format.NewPackBuilder(s, 256<<10, nil)
	c := w.sized(b.Free(), 1)
	add(b, c)
	if p := w.sealed(t, b, []rawChunk{c}); len(p.Data) != 256<<10 {
		t.Errorf("%d bytes", len(p.Data))
	}
	s.Wipe()
	if bytes.Equal(s.Keys[0].Sealed[:], s.Keys[1].Sealed[:]) {
		t.Error("two sealed keys are alike")
	}
}

// Joined packs keep every chunk, and lose the padding of the segments whose
// directories open.
func TestJoin(t *testing.T) {
	w := newWorld(t, 0)
	var objects [][]byte
	var chunks []rawChunk
	for i := range 3 {
		b := format.NewPackBuilder(w.session, 64<<10, nil)
		c := w.sized(1000+i, byte(i))
		add(b, c)
		chunks = append(chunks, c)
		objects = append(objects, w.sealed(t, b, []rawChunk{c}).Data)
	}
	check := func(p format.Pack, of []rawChunk) {
		t.Helper()
		if p.Hash != format.HashOf(p.Data) {
			t.Fatal("the hash is another")
		}
		index, err := format.BuildIndexes([][]byte{p.Head})
		if err != nil {
			t.Fatal(err)
		}
		indexed, err := format.ParseIndex(index[0])
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := format.ParsePack(p.Data)
		if err != nil || !reflect.DeepEqual(parsed, indexed[0]) {
			t.Fatalf("the index says other than the pack: %v", err)
		}
		d := chunk.NewDecoder()
		defer d.Close()
		for i, s := range parsed.Segments {
			_, dir, err := format.OpenDirectory(w.writer, s.Head, s.Dir, s.Length)
			if err != nil || len(dir) != 1 {
				t.Fatal(len(dir), err)
			}
			seg, err := format.OpenSegment(format.NewReader(w.reader), s.Head)
			if err != nil {
				t.Fatal(err)
			}
			at := s.Offset + uint64(dir[0].Offset)
			raw, err := openChunk(seg, w.writer, d, dir[0], p.Data[at:at+uint64(dir[0].Length)])
			if err != nil || !bytes.Equal(raw, of[i].encoded[5:]) {
				t.Errorf("segment %d: %v", i, err)
			}
		}
	}
	whole, err := format.Join(nil, objects...)
	if err != nil || !bytes.Equal(whole.Data, slices.Concat(objects...)) {
		t.Fatalf("joined without keys: %d bytes, %v", len(whole.Data), err)
	}
	check(whole, chunks)
	tight, err := format.Join([]*format.Writer{w.writer}, objects[:2]...)
	if err != nil || len(tight.Data) > 16<<10 {
		t.Fatalf("joined: %d bytes, %v", len(tight.Data), err)
	}
	check(tight, chunks[:2])
	again, err := format.Join([]*format.Writer{w.writer}, tight.Data, objects[2]) // what was joined is joined again
	if err != nil {
		t.Fatal(err)
	}
	check(again, chunks)
	if _, err := format.Join(nil, make([]byte, 1000)); class(err) != "malformed" {
		t.Errorf("joined what is no pack: %v", err)
	}
	if _, err := format.Join(nil, slices.Repeat(objects[:1], 1025)...); class(err) != "malformed" {
		t.Errorf("joined more than a pack holds: %v", err)
	}
}

func TestBuildIndexes(t *testing.T) {
	w := newWorld(t, 0)
	seg := w.segment(t, nil, dirPlain(0, nil, 0), 0)
	p, err := format.ParsePack(seg)
	if err != nil {
		t.Fatal(err)
	}
	head := indexObject(p)[12:]
	for _, n := range []int{0, 1, 2, 100, 12000} {
		heads := slices.Repeat([][]byte{head}, n)
		objects, err := format.BuildIndexes(heads)
		if err != nil {
			t.Fatal(err)
		}
		got := 0
		for _, o := range objects {
			if len(o) != format.ClassSize(format.ClassFor(len(o))) || len(o) > format.MaxIndexSize {
				t.Errorf("%d packs: an object of %d bytes is of no class", n, len(o))
			}
			packs, err := format.ParseIndex(o)
			if err != nil {
				t.Fatal(err)
			}
			got += len(packs)
		}
		if got != n {
			t.Errorf("%d packs in %d objects come back as %d", n, len(objects), got)
		}
		if n == 12000 && len(objects) != 2 {
			t.Errorf("%d objects for %d bytes", len(objects), n*len(head))
		}
	}
	if _, err := format.BuildIndexes([][]byte{make([]byte, format.MaxIndexSize)}); class(err) != "malformed" {
		t.Errorf("a head that fits no object: %v", err)
	}
}

// The writer secret opens directories and summaries, nothing that is sealed
// under a session.
func TestDirectoryWithoutReader(t *testing.T) {
	w := newWorld(t, 0)
	c := w.sized(100, 1)
	seg := w.segment(t, []rawChunk{c}, dirPlain(1, []rawChunk{c}, 0), 0)
	p, err := format.ParsePack(seg)
	if err != nil {
		t.Fatal(err)
	}
	s := p.Segments[0]
	if _, _, err := format.OpenDirectory(w.writer, s.Head, s.Dir, s.Length); err != nil {
		t.Error(err)
	}
	for name, length := range map[string]uint64{"shorter than its parts": 100, "beyond the bound": format.MaxPackSize + 1} {
		if _, _, err := format.OpenDirectory(w.writer, s.Head, s.Dir, length); class(err) != "malformed" {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, typ := range []string{"pack", "snapshot root", "pack directory"} {
		var salt, commitment [32]byte
		copy(salt[:], seg[16+72:])
		copy(commitment[:], seg[16+104:])
		if _, err := crypto.OpenSealKey(w.secret, ctxOf(typ, w.scope, 1), salt, commitment); class(err) != "authentication" {
			t.Errorf("the writer secret opens chunks as %s: %v", typ, err)
		}
	}
}
