package format_test

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"testing"

	"embassy/crypto"
	"embassy/embassy/format"
)

// opCheckpoint gives the record, and beside it every entry that it restates.
func opCheckpoint(in input) (any, error) {
	v, err := crypto.ParseVerifier(in.Verifier)
	if err != nil {
		return nil, err
	}
	c, err := format.OpenCheckpoint(in.Object, v, id16(in.Nation), id16(in.Compartment), id16(in.Agent))
	if err != nil {
		return nil, err
	}
	entries := []format.Entry{}
	for i := range c.Chains {
		for seq := uint64(1); seq <= c.Chains[i].Len(); seq++ {
			e, err := c.Entry(&c.Chains[i], seq)
			if err != nil {
				return nil, err
			}
			entries = append(entries, e)
		}
	}
	return map[string]any{"checkpoint": c, "entries": entries}, nil
}

// restated is a checkpoint of a chain whose first entry is named only, and whose
// second and third say something still.
func (w *world) restated() format.Checkpoint {
	ch := format.RestatedChain{Agent: w.scope.Agent, Chain: w.scope.Chain}
	gone := format.Listed{}
	ch.Add(format.Entry{Time: 1, Adds: []format.Listed{gone, gone}, Snapshots: []format.Hash{nameHash("deleted")}}, nameHash("one"), 300)
	ch.Add(format.Entry{
		Time: 2, Adds: []format.Listed{gone, {Kind: format.KindPack, Hash: nameHash("a"), Size: 65536}, {Kind: format.KindSnapshot, Hash: nameHash("s"), Size: 4096}},
		Snapshots: []format.Hash{nameHash("s")}, Depends: []format.Head{{Chain: w.comp, Seq: 4, Hash: nameHash("four")}},
		Steward: []format.Head{{Chain: w.nation, Seq: 5, Hash: nameHash("five")}},
	}, nameHash("two"), 400)
	ch.Add(format.Entry{
		Time: 3, Adds: []format.Listed{{Kind: format.KindRecord, Hash: nameHash("o"), Size: 99}},
		Orders: []format.Ordered{{Kind: format.OrderRetire, Record: nameHash("o")}},
	}, nameHash("three"), 500)
	other := format.RestatedChain{Agent: format.ID{}, Chain: w.scope.Chain}
	other.Add(format.Entry{Continues: []format.Head{{Chain: w.comp, Seq: 1, Hash: nameHash("c")}}}, nameHash("first"), 200)
	s, name := nameHash("s"), w.writer.DatasetName("population")
	snapshot := []format.OrderedObject{{Agent: w.scope.Agent, Kind: format.KindSnapshot, Hashes: s[:]}}
	return format.Checkpoint{
		Version: 1, Nation: w.nation, Compartment: w.comp, Agent: w.scope.Agent, Time: 1767225600_000000000,
		Chains: []format.RestatedChain{other, ch}, Retired: snapshot, Pinned: snapshot, Held: name[:],
	}
}

func (g *generator) checkpoints() {
	f := g.file("checkpoint", "Checkpoints: a steward's restatement of the chains of a compartment.")
	scope := format.Scope{Nation: g.nation, Compartment: g.comp, Agent: g.scope.Agent}
	in := input{Nation: g.nation[:], Compartment: g.comp[:], Agent: g.scope.Agent[:], Verifier: g.agent.Signer.Verifier().Bytes()}
	c := g.restated()
	body := mustCBOR(c)
	signed := func(s format.Scope, typ string, body []byte, signer *crypto.Signer) input {
		return input{Object: signedObject("EMBCKPT1", typ, s, body, signer)}
	}
	good := signed(scope, "checkpoint", body, g.agent.Signer).Object
	in.Object = good
	f.add("three entries and one", "checkpoint", "valid", in)
	empty := c
	empty.Chains, empty.Retired, empty.Pinned, empty.Held = nil, nil, nil, nil
	in.Object = signed(scope, "checkpoint", mustCBOR(empty), g.agent.Signer).Object
	f.add("nothing", "checkpoint", "valid", in)

	const base = "three entries and one"
	for _, at := range []int{0, 7, 8, 60, len(good) - 1} {
		f.fault(base, fmt.Sprintf("cut to %d bytes", at), malformed, input{}, cut(good, at))
	}
	f.fault(base, "magic of an entry", malformed, input{}, splice{Cut: 8, Put: hexBytes("EMBLEDG1")})
	at := bytes.Index(good, body)
	f.fault(base, "altered field", auth, input{}, flip(good, at+40))
	f.fault(base, "signed by another agent", auth, signed(scope, "checkpoint", body, g.other.Signer))
	f.fault(base, "signed as an entry", auth, signed(scope, "ledger entry", body, g.agent.Signer))
	wrong := scope
	wrong.Nation[0] ^= 1
	f.fault(base, "signed for another nation", auth, signed(wrong, "checkpoint", body, g.agent.Signer))
	wrong = scope
	wrong.Compartment[0] ^= 1
	f.fault(base, "signed for another compartment", auth, signed(wrong, "checkpoint", body, g.agent.Signer))
	wrong = scope
	wrong.Agent[0] ^= 1
	f.fault(base, "signed in another folder", auth, signed(wrong, "checkpoint", body, g.agent.Signer))
	edits := mapEdits(body)
	for _, name := range slices.Sorted(maps.Keys(edits)) {
		f.fault(base, name, malformed, signed(scope, "checkpoint", edits[name], g.agent.Signer))
	}
	bad := func(name string, edit func(c *format.Checkpoint, ch *format.RestatedChain)) {
		c := g.restated()
		edit(&c, &c.Chains[1])
		f.fault(base, name, malformed, signed(scope, "checkpoint", mustCBOR(c), g.agent.Signer))
	}
	bad("body of another nation", func(c *format.Checkpoint, _ *format.RestatedChain) { c.Nation[0] ^= 1 })
	bad("body of another compartment", func(c *format.Checkpoint, _ *format.RestatedChain) { c.Compartment[0] ^= 1 })
	bad("body of another agent", func(c *format.Checkpoint, _ *format.RestatedChain) { c.Agent[0] ^= 1 })
	bad("chains that descend", func(c *format.Checkpoint, _ *format.RestatedChain) { slices.Reverse(c.Chains) })
	bad("a chain twice", func(c *format.Checkpoint, _ *format.RestatedChain) { c.Chains[0] = c.Chains[1] })
	bad("a chain without entries", func(_ *format.Checkpoint, ch *format.RestatedChain) {
		*ch = format.RestatedChain{Agent: ch.Agent, Chain: ch.Chain, Hashes: []byte{}, Sizes: []byte{}, Times: []byte{}}
	})
	bad("half a hash", func(_ *format.Checkpoint, ch *format.RestatedChain) { ch.Hashes = ch.Hashes[:80] })
	bad("a size too few", func(_ *format.Checkpoint, ch *format.RestatedChain) { ch.Sizes = ch.Sizes[:8] })
	bad("a time too many", func(_ *format.Checkpoint, ch *format.RestatedChain) { ch.Times = append(ch.Times, make([]byte, 8)...) })
	bad("an entry of no bytes", func(_ *format.Checkpoint, ch *format.RestatedChain) { clear(ch.Sizes[:4]) })
	bad("an entry of 4 MiB and a byte", func(_ *format.Checkpoint, ch *format.RestatedChain) { copy(ch.Sizes, u32(4<<20+1)) })
	bad("snapshots pinned that are packs", func(c *format.Checkpoint, _ *format.RestatedChain) { c.Pinned[0].Kind = format.KindPack })
	bad("names that descend", func(c *format.Checkpoint, _ *format.RestatedChain) { c.Held = append(c.Held, make([]byte, 8)...) })
	bad("a name of 7 bytes", func(c *format.Checkpoint, _ *format.RestatedChain) { c.Held = c.Held[:7] })

	entry := func(r format.Restated) []byte { b := mustCBOR(r); return append(u32(len(b)), b...) }
	says := func(name string, entries ...[]byte) {
		bad(name, func(_ *format.Checkpoint, ch *format.RestatedChain) { ch.Entries = slices.Concat(entries...) })
	}
	adds := func(seq uint64, count uint32, all ...format.RestatedAdd) []byte {
		return entry(format.Restated{Seq: seq, Count: count, Adds: all})
	}
	pack := func(at uint32) format.RestatedAdd {
		return format.RestatedAdd{At: at, Kind: format.KindPack, Hash: nameHash("a"), Size: 1}
	}
	says("entries that descend", adds(2, 1, pack(0)), adds(1, 1, pack(0)))
	says("an entry twice", adds(2, 1, pack(0)), adds(2, 1, pack(0)))
	says("an entry behind the last", adds(4, 1, pack(0)))
	says("entry 0", adds(0, 1, pack(0)))
	says("an entry that says nothing", adds(2, 1))
	says("an entry cut short", adds(2, 1, pack(0))[:20])
	says("three bytes of a length", []byte{0, 0, 0})
	says("entry of no bytes restated", u32(0))
	says("positions that descend", adds(2, 2, pack(1), pack(0)))
	says("a position twice", adds(2, 2, pack(1), pack(1)))
	says("a position beyond the count", adds(2, 2, pack(2)))
	says("more objects than an entry holds", adds(2, 200_000, pack(2)))
	says("second entry with a continuation", entry(format.Restated{Seq: 2, Continues: []format.Head{{Chain: g.comp, Seq: 1, Hash: nameHash("c")}}}))
	for name, edit := range map[string]func(a *format.RestatedAdd){
		"object of an unknown kind": func(a *format.RestatedAdd) { a.Kind = 6 }, "object of no bytes": func(a *format.RestatedAdd) { a.Size = 0 },
		"pack too large": func(a *format.RestatedAdd) { a.Size = 64<<20 + 1 },
	} {
		a := pack(0)
		edit(&a)
		says("restated: "+name, adds(2, 1, a))
	}
	f.sort("restated: ")
}

// What is sealed opens to the same, in whatever order its chains came.
func TestSealCheckpoint(t *testing.T) {
	w := newWorld(t, 0)
	c := w.restated()
	slices.Reverse(c.Chains)
	object, err := format.SealCheckpoint(c, w.agent.Signer)
	if err != nil {
		t.Fatal(err)
	}
	got, err := format.OpenCheckpoint(object, w.agent.Signer.Verifier(), w.nation, w.comp, w.scope.Agent)
	if err != nil {
		t.Fatal(err)
	}
	ch := got.Chain(w.scope.Agent, w.scope.Chain)
	if ch == nil || got.Chain(w.scope.Agent, w.comp) != nil {
		t.Fatal("not the chain that was restated")
	}
	if ch.Head() != (format.Head{Chain: w.scope.Chain, Seq: 3, Hash: nameHash("three")}) || ch.Size(2) != 400 || ch.Time(2) != 2 {
		t.Errorf("head %v, size %d, time %d", ch.Head(), ch.Size(2), ch.Time(2))
	}
	e, err := got.Entry(ch, 2)
	if err != nil || len(e.Adds) != 3 || e.Adds[0].Kind != 0 || e.Adds[1].Hash != nameHash("a") || e.Prev != nameHash("one") {
		t.Errorf("%v: %+v", err, e)
	}
	if e, err = got.Entry(ch, 1); err != nil || len(e.Adds)+len(e.Snapshots) != 0 {
		t.Errorf("%v: what is named only says %+v", err, e)
	}
}
