package format_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"

	"embassy/chunk"
	"embassy/crypto"
	"embassy/embassy/format"
)

// everyNode is a folder with a node of every type, as a tree chunk.
func everyNode() []format.Node {
	id := bytes.Repeat([]byte{0x1d}, 32)
	return []format.Node{
		{Name: []byte("\xff\xfe not UTF-8"), Type: format.FIFO, Mode: 0o644, Sec: -1, Nsec: 999999999},
		{Name: []byte("block"), Type: format.Device, Mode: 0o660, Rdev: 0x0801, Sec: 1},
		{Name: []byte("char"), Type: format.CharDevice, Mode: 0o666, Rdev: 0x0103, Sec: 1},
		{Name: []byte("dir"), Type: format.Dir, Mode: 0o1777, Sec: 1, Content: &format.Content{Size: 70, Chunks: id}},
		{Name: []byte("empty"), Type: format.File, Mode: 0o600, Sec: 1, Content: &format.Content{}},
		{
			Name: []byte("file"), Type: format.File, Mode: 0o4755, UID: 1000, GID: 100, User: "mari", Group: "users",
			Sec: 1767225600, Nsec: 1, Content: &format.Content{Size: 1 << 40, Chunks: append(id, id...), Depth: 2},
			Xattrs: []format.Xattr{{Name: []byte("user.note"), Value: []byte("x")}, {Name: []byte("user.none"), Value: []byte{}}},
			Hard:   7, Holes: []uint64{0, 4096, 8192, 4096}, Changed: true,
		},
		{Name: []byte("link"), Type: format.Symlink, Mode: 0o777, Sec: 1, Link: []byte("../dir/\xff")},
		{Name: []byte("socket"), Type: format.Socket, Mode: 0o755, Sec: 1},
	}
}

// nodeList is the encoding of nodes, unchecked.
func nodeList(nodes []format.Node) (b []byte) {
	slices.SortFunc(nodes, func(a, b format.Node) int { return bytes.Compare(a.Name, b.Name) })
	for _, n := range nodes {
		b = append(b, mustCBOR(n)...)
	}
	return b
}

func (g *generator) trees() {
	f := g.file("tree", "Node lists, lists of chunks, contents, refs.")
	list := nodeList(everyNode())
	f.add("every type", "nodes", "valid", input{Object: list})
	f.add("no nodes", "nodes", "valid", input{})
	f.add("after another list", "nodes", "valid", input{Object: list, After: hexBytes("a")})
	f.fault("after another list", "first name not after the list before", "malformed", input{After: hexBytes("block")})

	pipe := format.Node{Name: []byte("p"), Type: format.FIFO, Mode: 0o600, Sec: 1}
	one := mustCBOR(pipe) // a6 01 41 70 02 04 …
	f.add("one node", "nodes", "valid", input{Object: one})
	raw := func(name string, b []byte) { f.fault("one node", name, "malformed", input{Object: b}) }
	raw("key not in its shortest form", slices.Concat([]byte{one[0], 0x18}, one[1:]))
	raw("value not in its shortest form", slices.Concat(one[:4], []byte{2, 0x18, 4}, one[6:]))
	raw("keys not in order", slices.Concat(one[:1], one[4:], one[1:4]))
	raw("map of indefinite length", slices.Concat([]byte{0xbf}, one[1:], []byte{0xff}))
	raw("key twice", slices.Concat([]byte{one[0] + 1}, one[1:4], one[1:]))
	raw("unknown key", slices.Concat([]byte{one[0] + 1}, one[1:], []byte{0x18, 0x63, 1}))
	raw("zero written out", slices.Concat([]byte{one[0] + 1}, one[1:], []byte{0x0e, 0}))
	raw("tag before a value", slices.Concat(one[:4], []byte{2, 0xc1, 4}, one[6:]))
	raw("name as text", slices.Concat(one[:2], []byte{0x61}, one[3:]))
	raw("array for a map", append([]byte{0x82}, one[1:4]...))
	raw("user not UTF-8", slices.Concat([]byte{one[0] + 1}, one[1:len(one)-2], []byte{6, 0x61, 0xff}, one[len(one)-2:]))
	raw("cut", one[:len(one)-1])
	raw("name of 2^63 bytes", append([]byte{0xa6, 1, 0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, one[3:]...))
	raw("twice", append(bytes.Clone(one), one...))
	other := pipe
	other.Name = []byte("o")
	raw("not sorted", append(bytes.Clone(one), mustCBOR(other)...))
	edit := func(name string, change func(n *format.Node)) {
		n := pipe
		change(&n)
		raw(name, mustCBOR(n))
	}
	for what, name := range map[string]string{
		"empty": "", "dot": ".", "dot dot": "..", "slash": "a/b", "root": "/", "up": "../a", "zero byte": "a\x00b", "too long": strings.Repeat("n", 4097),
	} {
		edit("name: "+what, func(n *format.Node) { n.Name = []byte(name) })
	}
	edit("type 0", func(n *format.Node) { n.Type = 0 })
	edit("type 8", func(n *format.Node) { n.Type = 8 })
	edit("mode beyond 07777", func(n *format.Node) { n.Mode = 0o10000 })
	edit("a second of 1000000000 ns", func(n *format.Node) { n.Nsec = 1e9 })
	edit("pipe with content", func(n *format.Node) { n.Content = &format.Content{} })
	edit("pipe with link", func(n *format.Node) { n.Link = []byte("x") })
	edit("pipe with holes", func(n *format.Node) { n.Holes = []uint64{0, 1} })
	edit("file without content", func(n *format.Node) { n.Type = format.File })
	edit("folder without content", func(n *format.Node) { n.Type = format.Dir })
	edit("symlink without link", func(n *format.Node) { n.Type = format.Symlink })
	content := func(name string, c format.Content, holes ...uint64) {
		edit(name, func(n *format.Node) { n.Type, n.Content, n.Holes = format.File, &c, holes })
	}
	content("content: half an id", format.Content{Size: 1, Chunks: make([]byte, 48)})
	content("content: 33 ids", format.Content{Size: 1, Chunks: make([]byte, 33*32)})
	content("content: depth 7", format.Content{Size: 1, Chunks: make([]byte, 32), Depth: 7})
	content("hole without a length", format.Content{Size: 100}, 5)
	content("hole of no bytes", format.Content{Size: 100}, 5, 0)
	content("hole beyond the file", format.Content{Size: 100}, 99, 2)
	content("holes that touch", format.Content{Size: 100}, 5, 5, 10, 5)
	content("holes that descend", format.Content{Size: 100}, 50, 5, 10, 5)
	content("hole that wraps", format.Content{Size: 100}, 50, 1<<64-1)
	f.sort("name: ")

	f.add("list of chunks", "list", "valid", input{Object: noise(96, 1)})
	f.fault("list of chunks", "list of chunks: half an id", "malformed", input{}, cut(noise(96, 1), 80))
	for _, n := range []int{0, 1, 32, 33, 3000} {
		f.add(fmt.Sprintf("content of %d chunks", n), "content", "valid", input{Count: n, Limit: 1000 * n})
	}
	f.add("folder of 4000 pipes", "tree", "valid", input{Count: 4000})
	f.add("refs", "refs", "valid", input{Runs: []uint32{2, 3, 1, 1}, Limit: 7})
	f.add("refs from 0", "refs", "valid", input{Runs: []uint32{0, 1}, Limit: 1})
	f.add("no refs", "refs", "valid", input{})
	f.fault("refs", "refs: beyond the entry", "malformed", input{Limit: 6})
	f.fault("refs", "refs: end in unused", "malformed", input{Runs: []uint32{2, 3, 1}})
	f.fault("refs", "refs: empty run", "malformed", input{Runs: []uint32{2, 1, 0, 1}})
	f.fault("refs", "refs: wrap", "malformed", input{Runs: []uint32{1<<32 - 1, 1<<32 - 1}})
}

// trimmed is a segment without its inner padding: what a steward joins.
func trimmed(object []byte, s format.IndexedSegment, dir []format.DirEntry) []byte {
	end := len(s.Head)
	if n := len(dir); n > 0 {
		end = int(dir[n-1].Offset + dir[n-1].Length)
	}
	b := slices.Concat(object[s.Offset:][:end], s.Dir)
	binary.BigEndian.PutUint64(b[8:], uint64(len(b)))
	return b
}

func (g *generator) packs() {
	f := g.file("pack", "Packs, their joining, and index objects.")
	build := func(chunks ...rawChunk) format.Pack {
		b := format.NewPackBuilder(g.session, 64<<10, nil)
		for _, c := range chunks {
			b.Add(format.ChunkKind(c.kind), c.id, c.encoded)
		}
		p, err := b.Seal(g.writer)
		if err != nil {
			g.t.Fatal(err)
		}
		return p
	}
	table := bytes.Repeat([]byte("a line of a table\n"), 40)
	packed := rawChunk{1, g.writer.Hasher().ID(table), chunk.NewEncoder().Encode(nil, table), len(table)}
	chunks := []rawChunk{g.dataChunk(1, noise(300, 1)), g.dataChunk(1, noise(300, 2)), packed, g.dataChunk(2, nodeList(everyNode()))}
	first, second := build(chunks...), build(g.dataChunk(1, noise(300, 3)), g.dataChunk(2, []byte{}))
	in := input{
		Object: first.Data, Nation: g.nation[:], Compartment: g.comp[:], Epoch: 1, Writer: g.secret.Bytes(),
		Identities: []hexBytes{g.reader.Bytes()},
	}
	f.add("two recipients", "pack", "valid", in)
	f.fault("two recipients", "opened by the partner", "valid", input{Identities: []hexBytes{g.partner.Bytes()}})

	parse := func(object []byte) format.IndexedPack {
		p, err := format.ParsePack(object)
		if err != nil {
			g.t.Fatal(err)
		}
		return p
	}
	p1, p2 := parse(first.Data), parse(second.Data)
	joined := slices.Concat(trimmed(first.Data, p1.Segments[0], first.Dir), trimmed(second.Data, p2.Segments[0], second.Dir))
	in.Object = joined
	f.add("joined, without inner padding", "pack", "valid", in)
	in.Object = g.segment(g.t, chunks[:2], dirPlain(2, chunks[:2], 0), 100)
	small := in.Object
	f.add("small", "pack", "valid", in)
	in.Object = g.segment(g.t, nil, dirPlain(0, nil, 0), 0)
	f.add("no chunks", "pack", "valid", in)

	head := len(p1.Segments[0].Head)
	dir := len(small) - 1024
	for what, at := range map[string]int{
		"in the magic": 3, "in the length of the header": 7, "before the header": 16, "in the fixed header": 100,
		"before the recipients": 154, "between the recipients": 154 + 1188, "behind the header": head, "behind the first chunk": head + 321,
		"before the directory": dir, "by one byte": len(small) - 1, "to nothing": 0,
	} {
		f.fault("small", "cut: "+what, "malformed", input{}, cut(small, at))
	}
	f.sort("cut: ")
	f.fault("small", "byte behind", "malformed", input{}, splice{At: len(small), Put: hexBytes{0}})
	put := func(name, class string, at int, b []byte) {
		f.fault("small", name, class, input{}, splice{At: at, Cut: len(b), Put: b})
	}
	put("magic of a snapshot", "malformed", 0, []byte("EMBN"))
	put("header of 2^32-1 bytes", "malformed", 4, u32(1<<32-1))
	put("segment of 2^63 bytes", "malformed", 8, u64(1<<62))
	put("segment of 0 bytes", "malformed", 8, u64(0))
	put("version 2", "malformed", 16, []byte{2})
	put("size class 65", "malformed", 17, []byte{65})
	put("suite 2", "malformed", 18, u16(2))
	put("no recipients", "malformed", 152, u16(0))
	put("three recipients", "malformed", 152, u16(3))
	put("65 recipients", "malformed", 152, u16(65))
	for what, at := range map[string]int{
		"nation": 20, "compartment": 36, "agent": 52, "chain": 68, "epoch": 87, "salt": 88, "commitment": 120,
		"epoch of a recipient": 154 + 3, "id of a recipient": 154 + 4, "sealed key": 154 + 20 + 5,
		"chunk": head + 5, "tag of a chunk": head + 320, "salt of the directory": dir, "commitment of the directory": dir + 32,
		"directory": dir + 64, "tag of the directory": len(small) - 1,
	} {
		f.fault("small", "altered: "+what, "authentication", input{}, flip(small, at))
	}
	f.sort("altered: ")
	r1, r2 := small[154:154+1188], small[154+1188:head]
	put("recipients swapped", "authentication", 154, slices.Concat(r2, r1))
	c1, c2 := small[head:head+321], small[head+321:head+642]
	put("chunks swapped", "authentication", head, slices.Concat(c2, c1))
	elsewhere := g.segment(g.t, chunks[:2], dirPlain(2, chunks[:2], 0), 100)
	put("chunk from another pack", "authentication", head, elsewhere[head:head+321])
	put("directory of another pack", "authentication", dir, elsewhere[dir:])
	f.fault("small", "wrong nation", "authentication", input{Nation: g.comp[:]})
	f.fault("small", "wrong compartment", "authentication", input{Compartment: g.nation[:]})
	f.fault("small", "wrong epoch", "authentication", input{Epoch: 2})
	f.fault("small", "wrong writer secret", "authentication", input{Writer: g.root.Writer(g.comp, 2).Bytes()})
	f.fault("small", "wrong reader", "authentication", input{Identities: []hexBytes{g.root.Reader(g.comp, 2).Bytes()}})
	foreign := newWorld(g.t, 1)
	f.fault("small", "of another nation", "authentication", input{Object: foreign.segment(g.t, nil, dirPlain(0, nil, 0), 0)})

	directory := func(name string, plain []byte) {
		f.fault("small", "directory: "+name, "malformed", input{Object: g.segment(g.t, chunks[:2], plain, 100)})
	}
	directory("2^32-1 chunks", dirPlain(1<<32-1, chunks[:2], 0))
	directory("one more than fit", dirPlain(23, nil, 0))
	directory("fewer than it holds", dirPlain(1, chunks[:2], 0))
	nonzero := dirPlain(2, chunks[:2], 0)
	nonzero[len(nonzero)-1] = 1
	directory("padding not zero", nonzero)
	odd := slices.Clone(chunks[:2])
	odd[1].kind = 3
	directory("chunk of kind 3", dirPlain(2, odd, 0))
	odd[1] = chunks[1]
	odd[1].encoded = make([]byte, 600)
	directory("chunk that reaches into it", dirPlain(2, odd, 0))
	short := dirPlain(2, chunks[:2], 0)
	copy(short[5:], u32(15))
	directory("chunk shorter than its tag", short)
	wrong := slices.Clone(chunks[:2])
	wrong[0].id[0] ^= 1
	f.fault("small", "chunk under another id", "malformed", input{Object: g.segment(g.t, chunks[:2], dirPlain(2, wrong, 0), 0)})
	wrong[0] = chunks[0]
	wrong[0].raw++
	f.fault("small", "chunk of another length", "malformed", input{Object: g.segment(g.t, chunks[:2], dirPlain(2, wrong, 0), 0)})

	g.indexes(f, first, second, parse(joined))
}

func (g *generator) indexes(f *vectorFile, first, second format.Pack, joined format.IndexedPack) {
	objects, err := format.BuildIndexes([][]byte{first.Head, second.Head})
	if err != nil || len(objects) != 1 {
		g.t.Fatal(len(objects), err)
	}
	f.add("index of two packs", "index", "valid", input{Object: objects[0]})
	object := indexObject(joined)
	f.add("index of a joined pack", "index", "valid", input{Object: object})
	f.add("empty index", "index", "valid", input{Object: indexObject()})
	head := 12 + 44 + 24
	dir := head + len(joined.Segments[0].Head)
	next := dir + len(joined.Segments[0].Dir)
	for what, at := range map[string]int{
		"in the magic": 7, "in the number of packs": 11, "in the hash": 40, "before the segments": 56, "in the header": 100,
		"before the directory": dir, "in the directory": dir + 1, "between segments": next, "by one byte": len(object) - 1,
	} {
		f.fault("index of a joined pack", "index: cut "+what, "malformed", input{}, cut(object, at))
	}
	f.sort("index: cut ")
	bad := func(name string, at int, b []byte) {
		f.fault("index of a joined pack", "index: "+name, "malformed", input{}, splice{At: at, Cut: len(b), Put: b})
	}
	bad("magic", 0, []byte("EMBINDX2"))
	bad("2^32-1 packs", 8, u32(1<<32-1))
	bad("two packs", 8, u32(2))
	bad("pack of 0 bytes", 44, u64(0))
	bad("pack beyond its bound", 44, u64(64<<20+1))
	bad("pack that its segments do not fill", 44, u64(int(joined.Size)+1))
	bad("2^32-1 segments", 52, u32(1<<32-1))
	bad("no segments", 52, u32(0))
	bad("segment not at its place", 56, u64(1))
	bad("segment of another length than its header says", 64, u64(int(joined.Segments[0].Length)-1))
	bad("header of 2^32-1 bytes", 72, u32(1<<32-1))
	bad("header that is not one", 76, []byte("EMBN"))
	bad("directory of another class", 76+17, []byte{1})
	bad("directory of 2^32-1 bytes", dir-4, u32(1<<32-1))
	f.fault("index of a joined pack", "index: padding not zero", "malformed", input{}, splice{At: len(object), Put: hexBytes{0, 0, 1}})
}

func (g *generator) snapshots() {
	f := g.file("snapshot", "Snapshots.")
	summary := format.Summary{
		Dataset: "population", Time: 1767225600_000000001, Priority: 1, Files: 2, Dirs: 3, Others: 4, Bytes: 1 << 40, Added: 5, Errors: 1,
		Label: "restricted", Tags: []string{"nightly", "õhtu"},
		Targets: []format.TargetHint{{Name: "tallinn", URL: "s3+https://s3.tallinn.example/embassy", Jurisdiction: "EE"}, {Name: "vault", URL: "dir:/mnt/vault", Tier: 3}},
		Refs:    []format.Refs{{Chain: g.scope.Chain, Seq: 1, Runs: []uint32{0, 2, 1, 1}}},
	}
	root := format.Root{
		Tree: format.Content{Size: 1000, Chunks: noise(64, 9)}, Errors: []format.Gap{{Path: []byte("/srv/\xff"), Reason: "permission denied"}},
		Host: "tallinn-1", Program: "embassy 1", Sources: [][]byte{[]byte("/srv/population")},
	}
	object, err := format.SealSnapshot(g.session, g.writer, summary, root)
	if err != nil {
		g.t.Fatal(err)
	}
	in := input{
		Object: object, Nation: g.nation[:], Compartment: g.comp[:], Epoch: 1, Writer: g.secret.Bytes(),
		Identities: []hexBytes{g.reader.Bytes()},
	}
	f.add("full", "snapshot", "valid", in)
	f.fault("full", "opened by the partner", "valid", input{Identities: []hexBytes{g.partner.Bytes()}})
	plainSummary, plainRoot := mustCBOR(format.Summary{Dataset: "d"}), mustCBOR(format.Root{})
	in.Object = g.snapshot(g.t, padTo(plainSummary, crypto.BoxOverhead), padTo(plainRoot, crypto.TagSize))
	f.add("least", "snapshot", "valid", in)

	box := 154 + 2*1188
	sealed := box + 4 + int(binary.BigEndian.Uint32(object[box:]))
	for what, at := range map[string]int{
		"to nothing": 0, "in the preamble": 12, "in the header": 100, "before the summary": box, "in the summary": box + 100,
		"before the root": sealed, "by one byte": len(object) - 1,
	} {
		f.fault("full", "cut: "+what, "malformed", input{}, cut(object, at))
	}
	f.sort("cut: ")
	f.fault("full", "byte behind", "malformed", input{}, splice{At: len(object), Put: hexBytes{0}})
	put := func(name, class string, at int, b []byte) {
		f.fault("full", name, class, input{}, splice{At: at, Cut: len(b), Put: b})
	}
	put("magic of a segment", "malformed", 0, []byte("EMBS"))
	put("another length", "malformed", 8, u64(len(object)+1))
	put("version 2", "malformed", 16, []byte{2})
	put("size class of a directory", "malformed", 17, []byte{1})
	put("suite 0", "malformed", 18, u16(0))
	put("65 recipients", "malformed", 152, u16(65))
	put("summary of 2^32-1 bytes", "malformed", box, u32(1<<32-1))
	put("summary of 0 bytes", "authentication", box, u32(0))
	for what, at := range map[string]int{
		"nation": 20, "compartment": 36, "agent": 52, "chain": 68, "epoch": 87, "salt": 88, "commitment": 120,
		"id of a recipient": 154 + 4, "sealed key": 154 + 20 + 5, "salt of the summary": box + 4, "commitment of the summary": box + 36,
		"summary": box + 68, "tag of the summary": sealed - 1, "root": sealed, "tag of the root": len(object) - 1,
	} {
		f.fault("full", "altered: "+what, "authentication", input{}, flip(object, at))
	}
	f.sort("altered: ")
	r1, r2 := object[154:154+1188], object[154+1188:box]
	put("recipients swapped", "authentication", 154, slices.Concat(r2, r1))
	f.fault("full", "wrong compartment", "authentication", input{Compartment: g.nation[:]})
	f.fault("full", "wrong epoch", "authentication", input{Epoch: 2})
	f.fault("full", "wrong reader", "authentication", input{Identities: []hexBytes{g.root.Reader(g.comp, 2).Bytes()}})
	twin, err := format.SealSnapshot(g.session, g.writer, summary, root)
	if err != nil {
		g.t.Fatal(err)
	}
	put("root of another snapshot", "authentication", sealed, twin[sealed:])
	put("summary of another snapshot", "authentication", box, twin[box:sealed])

	made := func(name string, summary, root []byte) {
		f.fault("least", name, "malformed", input{Object: g.snapshot(g.t, summary, root)})
	}
	goodSummary, goodRoot := padTo(plainSummary, crypto.BoxOverhead), padTo(plainRoot, crypto.TagSize)
	dirty := func(b []byte) []byte { b = bytes.Clone(b); b[len(b)-1] = 1; return b }
	made("padding of the summary not zero", dirty(goodSummary), goodRoot)
	made("padding of the root not zero", goodSummary, dirty(goodRoot))
	made("length of the summary beyond its end", append(u32(2000), plainSummary...), goodRoot)
	made("length of the root beyond its end", goodSummary, append(u32(2000), plainRoot...))
	made("empty summary", []byte{}, goodRoot)
	more := func(b []byte) []byte { return slices.Concat([]byte{b[0] + 1}, b[1:], []byte{0x18, 0x63, 1}) }
	twice := func(b []byte) []byte { return slices.Concat([]byte{b[0] + 1}, b[1:], b[len(b)-2:]) }
	made("unknown key in the summary", padTo(more(plainSummary), 80), goodRoot)
	made("unknown key in the root", goodSummary, padTo(more(plainRoot), 16))
	made("key twice in the summary", padTo(twice(plainSummary), 80), goodRoot)
	made("key twice in the root", goodSummary, padTo(twice(plainRoot), 16))
	made("list as null in the summary", padTo(bytes.Replace(plainSummary, []byte{12, 0x80}, []byte{12, 0xf6}, 1), 80), goodRoot)
	made("root in place of the summary", padTo(plainRoot, 80), goodRoot)
	beyond := func(name string, s format.Summary) { made(name, padTo(mustCBOR(s), crypto.BoxOverhead), goodRoot) }
	beyond("65 tags", format.Summary{Tags: make([]string, 65)})
	beyond("65 targets", format.Summary{Targets: make([]format.TargetHint, 65)})
	beyond("label of 1025 bytes", format.Summary{Label: strings.Repeat("x", 1025)})
	beyond("tag of 1025 bytes", format.Summary{Tags: []string{strings.Repeat("x", 1025)}})
	beyond("URL of 1025 bytes", format.Summary{Targets: []format.TargetHint{{URL: strings.Repeat("x", 1025)}}})
	in.Object = g.snapshot(g.t, padTo(mustCBOR(format.Summary{
		Dataset: strings.Repeat("x", 1024), Tags: make([]string, 64), Targets: make([]format.TargetHint, 64),
	}), crypto.BoxOverhead), goodRoot)
	f.add("most tags, targets and text", "snapshot", "valid", in)
}

func (g *generator) kits() {
	f := g.file("kit", "The recovery kit in its text form. Argon2id at a low cost.")
	wrapped, err := crypto.WrapParams{Time: 1, MemoryKiB: 64, Threads: 2}.WrapRoot(g.root, []byte("passphrase"),
		crypto.Context{Type: "recovery kit", Nation: g.nation})
	if err != nil {
		g.t.Fatal(err)
	}
	kit := format.Kit{
		Version: 1, Nation: g.nation, Created: 1767225600_000000000, Wrapped: wrapped,
		RootSigner: g.root.Signer().Verifier().Bytes(), RootRecipient: g.root.Identity().Recipient().Bytes(),
	}
	text := func(k format.Kit) string {
		s, err := k.Text("Estland")
		if err != nil {
			g.t.Fatal(err)
		}
		return s
	}
	f.add("without hints", "kit", "valid", input{Text: text(kit), Passphrase: "passphrase"})
	plain := text(kit)
	hinted := kit
	if err := hinted.SetHints(format.Hints{
		Time: 1767225600_000000000, Charter: 1, Heads: []format.Head{{Chain: g.scope.Chain, Seq: 1, Hash: format.HashOf(nil)}},
		Targets:     []format.TargetHint{{Name: "tallinn", URL: "dir:/mnt/vault", Tier: 1}},
		Credentials: []format.Credential{{Target: "tallinn", AccessKey: "a", SecretKey: "s"}},
	}); err != nil {
		g.t.Fatal(err)
	}
	f.add("with hints", "kit", "valid", input{Text: text(hinted), Passphrase: "passphrase"})
	f.fault("without hints", "on one line", "valid", input{Text: strings.Join(strings.Fields(plain), " ")})
	f.fault("without hints", "other ends of lines", "valid", input{Text: strings.ReplaceAll(plain, "\n", "\r\n\t")})

	begin := strings.Index(plain, "KIT-----\n") + len("KIT-----\n")
	change := func(name, class string, at int, b string) {
		f.fault("without hints", name, class, input{}, splice{At: at, Cut: len(b), Put: hexBytes(b)})
	}
	digit := func(at int) string {
		if plain[at] == 'A' {
			return "B"
		}
		return "A"
	}
	change("first line damaged", "malformed", begin+20, digit(begin+20))
	change("sum of a line damaged", "malformed", begin+66, map[bool]string{true: "1", false: "0"}[plain[begin+66] == '0'])
	f.fault("without hints", "a line is missing", "malformed", input{}, splice{At: begin, Cut: 66})
	f.fault("without hints", "two lines swapped", "malformed", input{},
		splice{At: begin, Cut: 132, Put: hexBytes(plain[begin+66:begin+132] + plain[begin:begin+66])})
	last := strings.LastIndex(plain[:strings.Index(plain, "-----END")-1], "\n") + 1
	f.fault("without hints", "the last line is missing", "malformed", input{}, splice{At: last, Cut: strings.Index(plain, "-----END") - last})
	f.fault("without hints", "no end", "malformed", input{}, cut([]byte(plain), strings.Index(plain, "-----END")))
	f.fault("without hints", "no begin", "malformed", input{}, splice{Cut: begin - 20})
	f.fault("without hints", "wrong passphrase", "authentication", input{Passphrase: "Passphrase"})

	body := mustCBOR(kit)
	faults := mapEdits(body)
	for _, name := range slices.Sorted(maps.Keys(faults)) {
		f.fault("without hints", name, "malformed", input{Text: kitText(faults[name])})
	}
	edit := func(name string, change func(k *format.Kit)) {
		k := kit
		change(&k)
		f.fault("without hints", name, "authentication", input{Text: kitText(mustCBOR(k))})
	}
	edit("of another nation", func(k *format.Kit) { k.Nation[0] ^= 1 })
	edit("another root's signer", func(k *format.Kit) { k.RootSigner = g.other.Signer.Verifier().Bytes() })
	edit("another root's recipient", func(k *format.Kit) { k.RootRecipient = g.partner.Recipient().Bytes() })
	edit("altered cost", func(k *format.Kit) { k.Wrapped.Time = 2 })
	edit("cost beyond its bound", func(k *format.Kit) { k.Wrapped.MemoryKiB = 2<<20 + 1 })
	edit("altered salt", func(k *format.Kit) { k.Wrapped.Salt = make([]byte, 16) })
	edit("salt of 15 bytes", func(k *format.Kit) { k.Wrapped.Salt = make([]byte, 15) })
	edit("altered hints", func(k *format.Kit) {
		k.Hints = bytes.Clone(hinted.Hints)
		k.Hints[len(k.Hints)-1] ^= 1
	})
}
