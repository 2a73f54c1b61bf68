package format_test

import (
	"bytes"
	"encoding/binary"
	"reflect"
	"runtime"
	"slices"
	"testing"

	"embassy/chunk"
	"embassy/embassy/format"
)

// bounded fails when f allocates more than hostile input of n bytes is worth.
func bounded(t *testing.T, n int, f func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	if got, limit := after.TotalAlloc-before.TotalAlloc, uint64(8<<20+1024*n); got > limit {
		t.Fatalf("%d bytes of input made %d bytes of garbage", n, got)
	}
}

func FuzzEntry(f *testing.F) {
	w := newWorld(f, 0)
	v := w.agent.Signer.Verifier()
	for seq := range uint64(3) {
		e := w.entry(seq + 1)
		e.Version = 1
		e.Adds = []format.Listed{{Kind: format.KindPack, Size: 5}}
		e.Confirmed = []format.Confirmation{{Seq: 1}}
		f.Add(mustCBOR(e), false)
		object, err := format.SealEntry(e, w.agent.Signer)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(object, true)
	}
	f.Fuzz(func(t *testing.T, data []byte, whole bool) {
		object := data
		if !whole {
			object = signedObject("EMBLEDG1", "ledger entry", entryScope(w.entry(1)), data, w.agent.Signer)
		}
		bounded(t, len(object), func() {
			for seq := range uint64(3) {
				e, err := format.OpenEntry(object, v, w.entry(seq+1))
				if err != nil {
					continue
				}
				if again, err := format.SealEntry(e, w.agent.Signer); err != nil || !bytes.Equal(again, object) {
					t.Fatalf("written again it is another object: %v", err)
				}
			}
		})
	})
}

func FuzzCharter(f *testing.F) {
	w := newWorld(f, 0)
	c := w.charterOf()
	c.Version = 1
	c.Parts = []format.Part{{Kind: 1, To: w.agent.Identity.Recipient().ID(), Compartment: w.comp, Box: []byte{1}}}
	f.Add(mustCBOR(c), false)
	object, err := format.SealCharter(c, w.root.Signer())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(object, true)
	f.Fuzz(func(t *testing.T, data []byte, whole bool) {
		object := data
		if !whole {
			object = signedObject("EMBCHAR1", "charter", format.Scope{Nation: w.nation}, data, w.root.Signer())
		}
		bounded(t, len(object), func() {
			c, err := format.OpenCharter(object, w.nation, w.root.Signer().Verifier())
			if err != nil {
				return
			}
			if again, err := format.SealCharter(*c, w.root.Signer()); err != nil || !bytes.Equal(again, object) {
				t.Fatalf("written again it is another object: %v", err)
			}
			if _, err := c.OpenPart(w.comp, format.AgentPart, w.agent.Identity); class(err) != "authentication" {
				t.Fatalf("a part that nobody sealed: %v", err)
			}
		})
	})
}

// FuzzSnapshot puts any summary and root into good seals, and any bytes in
// place of an object.
func FuzzSnapshot(f *testing.F) {
	w := newWorld(f, 0)
	summary := mustCBOR(format.Summary{Dataset: "d", Tags: []string{"t"}, Refs: []format.Refs{{Seq: 1, Runs: []uint32{0, 1}}}})
	root := mustCBOR(format.Root{Host: "h", Errors: []format.Gap{{Path: []byte("p"), Reason: "r"}}})
	f.Add(summary, root, []byte{})
	f.Add(summary, root, w.snapshot(f, padTo(summary, 80), padTo(root, 16)))
	r := format.NewReader(w.reader)
	f.Fuzz(func(t *testing.T, summary, root, object []byte) {
		bounded(t, len(summary)+len(root)+len(object)+64<<10, func() {
			if s, err := format.ParseSnapshot(object); err == nil {
				for _, err := range []error{second(s.Summary(w.writer)), second(s.Root(r))} {
					if c := class(err); err != nil && c != "authentication" && c != "malformed" {
						t.Fatal(err)
					}
				}
			}
			s, err := format.ParseSnapshot(w.snapshot(t, padTo(summary, 80), padTo(root, 16)))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := s.Summary(w.writer); err == nil && !bytes.Equal(mustCBOR(got), summary) {
				t.Fatalf("the summary has another encoding: %x", mustCBOR(got))
			}
			if got, err := s.Root(r); err == nil && !bytes.Equal(mustCBOR(got), root) {
				t.Fatalf("the root has another encoding: %x", mustCBOR(got))
			}
		})
	})
}

func second[T any](_ T, err error) error { return err }

func FuzzIndex(f *testing.F) {
	w := newWorld(f, 0)
	p, err := format.ParsePack(w.segment(f, nil, dirPlain(0, nil, 0), 0))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(indexObject())
	f.Add(indexObject(p, p))
	f.Add(append(indexObject(p), make([]byte, 1000)...))
	f.Fuzz(func(t *testing.T, object []byte) {
		bounded(t, len(object), func() {
			packs, err := format.ParseIndex(object)
			if err != nil {
				return
			}
			again := indexObject(packs...)
			if rest, ok := bytes.CutPrefix(object, again); !ok || len(bytes.Trim(rest, "\x00")) != 0 {
				t.Fatal("written again it is another object")
			}
			for _, p := range packs {
				for _, s := range p.Segments {
					if _, dir, err := format.OpenDirectory(w.writer, s.Head, s.Dir, s.Length); err == nil && len(dir) != 0 {
						t.Fatal("chunks that nobody sealed")
					}
				}
			}
		})
	})
}

// FuzzPackDirectory puts any directory into a good seal, and reads any bytes
// as a pack.
func FuzzPackDirectory(f *testing.F) {
	w := newWorld(f, 0)
	chunks := []rawChunk{w.sized(100, 1), w.sized(200, 2)}
	f.Add(dirPlain(2, chunks, 0), []byte{})
	f.Add(dirPlain(0, nil, 0), w.segment(f, chunks, dirPlain(2, chunks, 0), 10))
	f.Fuzz(func(t *testing.T, plain, object []byte) {
		bounded(t, len(plain)+len(object), func() {
			if p, err := format.ParsePack(object); err == nil {
				at := uint64(0)
				for _, s := range p.Segments {
					if s.Offset != at || !bytes.Equal(s.Head, object[at:][:len(s.Head)]) {
						t.Fatal("a segment is not at its place")
					}
					at += s.Length
				}
				if at != uint64(len(object)) {
					t.Fatal("segments do not fill the pack")
				}
			}
			if len(plain) > 1<<16 {
				return
			}
			// The smallest class holds it, as a directory must fill one.
			size := format.ClassSize(format.ClassFor(len(plain)+80)) - 80
			plain := append(bytes.Clone(plain), make([]byte, size-len(plain))...)
			seg := w.segment(t, chunks, plain, 50)
			p, err := format.ParsePack(seg)
			if err != nil {
				t.Fatal(err)
			}
			s := p.Segments[0]
			_, dir, err := format.OpenDirectory(w.writer, s.Head, s.Dir, s.Length)
			if err != nil {
				if class(err) != "malformed" {
					t.Fatal(err)
				}
				return
			}
			again := u32(len(dir))
			at := uint32(len(s.Head))
			for _, e := range dir {
				if e.Offset != at || uint64(e.Offset)+uint64(e.Length) > s.Length-uint64(len(s.Dir)) {
					t.Fatalf("a chunk at %d, %d bytes", e.Offset, e.Length)
				}
				at += e.Length
				again = slices.Concat(again, []byte{byte(e.Kind)}, u32(int(e.Length)), u32(int(e.Raw)), e.ID[:])
			}
			if rest, ok := bytes.CutPrefix(plain, again); !ok || len(bytes.Trim(rest, "\x00")) != 0 {
				t.Fatal("written again it is another directory")
			}
		})
	})
}

func FuzzNodes(f *testing.F) {
	f.Add(nodeList(everyNode()), []byte{})
	f.Add(nodeList(everyNode()), []byte("a"))
	for _, n := range everyNode() {
		f.Add(mustCBOR(n), []byte{})
	}
	f.Fuzz(func(t *testing.T, list, after []byte) {
		bounded(t, len(list), func() {
			nodes, err := format.ParseNodes(list, after)
			if err != nil {
				if class(err) != "malformed" {
					t.Fatal(err)
				}
				return
			}
			var again []byte
			b := format.NewTreeBuilder(func(list []byte) (chunk.ID, error) {
				again = append(again, list...)
				return chunk.ID{}, nil
			})
			for i := range nodes {
				if err := b.Add(&nodes[i]); err != nil {
					t.Fatalf("a node that was read is refused: %v", err)
				}
			}
			if _, err := b.Finish(); err != nil || !bytes.Equal(again, list) {
				t.Fatalf("written again it is another list: %v", err)
			}
		})
	})
}

// FuzzKit reads any text, and any bytes as the body of a good text.
func FuzzKit(f *testing.F) {
	w := newWorld(f, 0)
	k := w.cheapKit(f)
	text := mustText(f, k)
	f.Add([]byte(text), true)
	f.Add([]byte(kitText(nil)), true)
	f.Add(mustCBOR(k), false)
	f.Fuzz(func(t *testing.T, data []byte, whole bool) {
		text := string(data)
		if !whole {
			text = kitText(data)
		}
		bounded(t, len(text), func() {
			k, err := format.ParseKit([]byte(text))
			if err != nil {
				if class(err) != "malformed" {
					t.Fatal(err)
				}
				return
			}
			if !whole && !bytes.Equal(mustCBOR(k), data) {
				t.Fatal("the kit has another encoding")
			}
			again, err := k.Text("Estland")
			if err != nil {
				return // no good root key in it
			}
			if got, err := format.ParseKit([]byte(again)); err != nil || !reflect.DeepEqual(got, k) {
				t.Fatalf("the kit does not come back: %v", err)
			}
		})
	})
}

// FuzzGrant reads any bytes as a grant record.
func FuzzGrant(f *testing.F) {
	w := newWorld(f, 0)
	g := format.Grant{Version: 1, Nation: w.nation, Compartment: w.comp, Keys: []format.GrantedKey{{Sealed: make([]byte, 1168)}}}
	f.Add(append([]byte("EMBGRNT1"), mustCBOR(g)...))
	f.Fuzz(func(t *testing.T, object []byte) {
		bounded(t, len(object), func() {
			g, err := format.OpenGrant(object, w.nation, w.comp)
			if err != nil {
				if class(err) != "malformed" {
					t.Fatal(err)
				}
				return
			}
			if !bytes.Equal(append([]byte("EMBGRNT1"), mustCBOR(g)...), object) {
				t.Fatal("the grant has another encoding")
			}
		})
	})
}

// FuzzCheckpoint reads any bytes as a checkpoint, or signs them as the body of one.
func FuzzCheckpoint(f *testing.F) {
	w := newWorld(f, 0)
	object, err := format.SealCheckpoint(w.restated(), w.agent.Signer)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(object, true)
	f.Add(mustCBOR(w.restated()), false)
	scope := format.Scope{Nation: w.nation, Compartment: w.comp, Agent: w.scope.Agent}
	f.Fuzz(func(t *testing.T, data []byte, whole bool) {
		object := data
		if !whole {
			object = signedObject("EMBCKPT1", "checkpoint", scope, data, w.agent.Signer)
		}
		var c *format.Checkpoint
		var err error
		bounded(t, len(object), func() {
			c, err = format.OpenCheckpoint(object, w.agent.Signer.Verifier(), w.nation, w.comp, w.scope.Agent)
		})
		if err != nil {
			if class(err) != "malformed" && class(err) != "authentication" {
				t.Fatal(err)
			}
			return
		}
		for i := range c.Chains {
			for seq := range c.Chains[i].Len() {
				if _, err := c.Entry(&c.Chains[i], seq+1); err != nil {
					t.Fatal(err)
				}
			}
		}
		if again, err := format.SealCheckpoint(*c, w.agent.Signer); err != nil || !bytes.Equal(again, object) {
			t.Fatalf("written again it is another object: %v", err)
		}
	})
}

// Counts and lengths that claim more than there is must cost nothing.
func TestOversizedCounts(t *testing.T) {
	w := newWorld(t, 0)
	segment := w.segment(t, nil, dirPlain(0, nil, 0), 0)
	huge := func(b []byte, at int) []byte {
		b = append(bytes.Clone(b), make([]byte, 8<<20)...)
		binary.BigEndian.PutUint32(b[at:], 1<<32-1)
		return b
	}
	array := slices.Concat([]byte("EMBLEDG1"), []byte{0xa2, 1, 0x40, 2, 0x9b, 0, 0, 0, 0, 0xff, 0, 0, 0}, make([]byte, 3<<20))
	p, err := format.ParsePack(segment)
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func() error{
		"packs of an index":    func() error { return second(format.ParseIndex(huge(indexObject(), 8))) },
		"segments of an index": func() error { return second(format.ParseIndex(huge(indexObject(p), 52))) },
		"header of a pack":     func() error { return second(format.ParsePack(huge(segment, 4))) },
		"header of a snapshot": func() error { return second(format.ParseSnapshot(huge([]byte("EMBN0000"), 4))) },
		"signatures":           func() error { return second(format.OpenEntry(array, w.agent.Signer.Verifier(), w.entry(1))) },
		"nodes": func() error {
			return second(format.ParseNodes([]byte{0xa1, 0x0f, 0x9b, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, nil))
		},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := f()
		runtime.ReadMemStats(&after)
		if class(err) != "malformed" {
			t.Errorf("%s: %v", name, err)
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > 20<<20 { // 8 MiB are the input
			t.Errorf("%s: %d bytes allocated", name, got)
		}
	}
	for name, f := range map[string]func() error{
		"pack":     func() error { return second(format.ParsePack(make([]byte, format.MaxPackSize+1))) },
		"index":    func() error { return second(format.ParseIndex(make([]byte, format.MaxIndexSize+1))) },
		"snapshot": func() error { return second(format.ParseSnapshot(make([]byte, format.MaxSnapshotSize+1))) },
		"entry": func() error {
			return second(format.OpenEntry(make([]byte, format.MaxEntrySize+1), w.agent.Signer.Verifier(), w.entry(1)))
		},
		"charter": func() error {
			return second(format.OpenCharter(make([]byte, format.MaxCharterSize+1), w.nation, w.root.Signer().Verifier()))
		},
		"kit":  func() error { return second(format.ParseKit(make([]byte, format.MaxKitSize+1))) },
		"list": func() error { return second(format.ParseIDList(make([]byte, 32*8193))) },
	} {
		if class(f()) != "malformed" {
			t.Errorf("a %s beyond its bound is taken", name)
		}
	}
}
