package format_test

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"testing"

	"embassy/embassy/format"
)

func nameHash(name string) format.Hash { return format.HashOf([]byte(name)) }

func opOrder(in input) (any, error) {
	return format.OpenOrder(in.Object, id16(in.Nation), id16(in.Compartment), format.OrderKind(in.Kind))
}

func (g *generator) orders() {
	f := g.file("order", "Orders of a steward: snapshots that are retired, objects that are marked and deleted, pins and holds.")
	agent, other := g.scope.Agent, g.comp
	objects := func(kind format.Kind, names ...string) format.OrderedObject {
		var all [][]byte
		for _, n := range names {
			h := nameHash(n)
			all = append(all, h[:])
		}
		slices.SortFunc(all, bytes.Compare)
		return format.OrderedObject{Agent: agent, Kind: kind, Hashes: bytes.Join(all, nil)}
	}
	order := func(kind format.OrderKind, of ...format.OrderedObject) format.Order {
		return format.Order{Version: 1, Nation: g.nation, Compartment: g.comp, Kind: kind, Objects: of}
	}
	record := func(body []byte) []byte { return append([]byte("EMBORDR1"), body...) }
	add := func(name string, o format.Order) []byte {
		object := record(mustCBOR(o))
		f.add(name, "order", "valid", input{Object: object, Nation: g.nation[:], Compartment: g.comp[:], Kind: uint8(o.Kind)})
		return object
	}
	add("retire", order(format.OrderRetire, objects(format.KindSnapshot, "a", "b")))
	mark := order(format.OrderMark, objects(format.KindPack, "a", "b"), objects(format.KindIndex, "c"))
	first := add("mark", mark)
	add("delete", order(format.OrderDelete, objects(format.KindPack, "a")))
	add("pin", order(format.OrderPin, objects(format.KindSnapshot, "a")))
	add("unpin", order(format.OrderUnpin, objects(format.KindSnapshot, "a")))
	name := g.writer.DatasetName("population")
	hold := order(format.OrderHold)
	hold.Dataset = name[:]
	add("hold", hold)
	hold.Kind = format.OrderRelease
	add("release", hold)

	faults := mapEdits(mustCBOR(mark))
	for _, name := range slices.Sorted(maps.Keys(faults)) {
		f.fault("mark", name, "malformed", input{Object: record(faults[name])})
	}
	for _, at := range []int{0, 7, 8, 60, len(first) - 1} {
		f.fault("mark", fmt.Sprintf("cut to %d bytes", at), "malformed", input{}, cut(first, at))
	}
	f.fault("mark", "magic of a grant", "malformed", input{}, splice{Cut: 8, Put: hexBytes("EMBGRNT1")})
	f.fault("mark", "wrong nation", "malformed", input{Nation: g.comp[:]})
	f.fault("mark", "wrong compartment", "malformed", input{Compartment: g.nation[:]})
	f.fault("mark", "listed as a deletion", "malformed", input{Kind: uint8(format.OrderDelete)})
	change := func(from, name string, edit func(o *format.Order)) {
		o := mark
		o.Objects = slices.Clone(mark.Objects)
		edit(&o)
		f.fault(from, name, "malformed", input{Object: record(mustCBOR(o)), Kind: uint8(o.Kind)})
	}
	change("mark", "no object", func(o *format.Order) { o.Objects = nil })
	change("mark", "no hash", func(o *format.Order) { o.Objects[0].Hashes = []byte{} })
	change("mark", "half a hash", func(o *format.Order) { o.Objects[0].Hashes = o.Objects[0].Hashes[:48] })
	change("mark", "a hash twice", func(o *format.Order) {
		o.Objects[0].Hashes = slices.Concat(o.Objects[0].Hashes[:32], o.Objects[0].Hashes[:32])
	})
	change("mark", "hashes that descend", func(o *format.Order) {
		o.Objects[0].Hashes = slices.Concat(o.Objects[0].Hashes[32:], o.Objects[0].Hashes[:32])
	})
	change("mark", "kinds that descend", func(o *format.Order) { slices.Reverse(o.Objects) })
	change("mark", "agents that descend", func(o *format.Order) {
		o.Objects[0].Agent, o.Objects[1].Agent = agent, other
		if bytes.Compare(agent[:], other[:]) < 0 {
			o.Objects[0].Agent, o.Objects[1].Agent = other, agent
		}
	})
	change("mark", "a kind that entries do not list", func(o *format.Order) { o.Objects[1].Kind = 6 })
	change("mark", "a dataset", func(o *format.Order) { o.Dataset = name[:] })
	change("retire", "a pack retired", func(o *format.Order) { o.Kind = format.OrderRetire })
	change("hold", "objects held", func(o *format.Order) { o.Kind, o.Dataset = format.OrderHold, name[:] })
	change("hold", "name of 7 bytes", func(o *format.Order) { o.Kind, o.Objects, o.Dataset = format.OrderHold, nil, name[:7] })
	change("hold", "no name", func(o *format.Order) { o.Kind, o.Objects = format.OrderHold, nil })
	change("mark", "a kind of a later version", func(o *format.Order) { o.Kind = 9 })
	change("mark", "heads", func(o *format.Order) { o.Heads = []format.Head{{Chain: agent, Seq: 1, Hash: nameHash("e")}} })

	var by []format.Replaced
	for _, name := range []string{"a", "b", "c"} {
		by = append(by, format.NewReplaced(agent, nameHash(name), []format.Hash{nameHash("x"), nameHash("y")}))
	}
	by[2].By = []byte{}
	slices.SortFunc(by, func(a, b format.Replaced) int { return bytes.Compare(a.Pack[:], b.Pack[:]) })
	replace := order(format.OrderReplace)
	replace.Replaced = by
	add("replace", replace)
	replace.Heads = []format.Head{{Chain: agent, Seq: 7, Hash: nameHash("e")}, {Chain: other, Seq: 1, Hash: nameHash("f")}}
	add("replace what entries need", replace)
	instead := func(name string, edit func(o *format.Order)) {
		o := replace
		o.Replaced = slices.Clone(by)
		edit(&o)
		f.fault("replace what entries need", name, "malformed", input{Object: record(mustCBOR(o)), Kind: uint8(o.Kind)})
	}
	instead("nothing replaced", func(o *format.Order) { o.Replaced = nil })
	instead("packs that descend", func(o *format.Order) { slices.Reverse(o.Replaced) })
	instead("a pack replaced twice", func(o *format.Order) { o.Replaced[1].Pack = o.Replaced[0].Pack })
	instead("half a hash", func(o *format.Order) { o.Replaced[0].By = make([]byte, 48) })
	instead("a hash twice", func(o *format.Order) { o.Replaced[0].By = make([]byte, 64) })
	instead("objects too", func(o *format.Order) { o.Objects = mark.Objects })
	instead("a dataset too", func(o *format.Order) { o.Dataset = name[:] })
	instead("replaced by a mark", func(o *format.Order) { o.Kind, o.Objects = format.OrderMark, mark.Objects })
}

// What replaces very many packs takes several records.
func TestSealReplaced(t *testing.T) {
	const n = 100_001
	var all []format.Replaced
	for i := range n {
		all = append(all, format.NewReplaced(format.ID{1}, nameHash(fmt.Sprint(i)), []format.Hash{nameHash("x")}))
	}
	o := format.Order{Nation: format.ID{2}, Compartment: format.ID{3}, Heads: []format.Head{{Chain: format.ID{4}, Seq: 1}}}
	records, err := format.SealReplaced(o, all)
	if err != nil || len(records) != 2 {
		t.Fatalf("%d records, %v", len(records), err)
	}
	got := map[format.Hash]bool{}
	for _, r := range records {
		if uint64(len(r)) > format.KindRecord.MaxSize() {
			t.Errorf("a record of %d bytes", len(r))
		}
		o, err := format.OpenOrder(r, o.Nation, o.Compartment, format.OrderReplace)
		if err != nil {
			t.Fatal(err)
		}
		if len(o.Heads) != 1 {
			t.Errorf("%d heads", len(o.Heads))
		}
		for _, r := range o.Replaced {
			if by := r.Packs(); len(by) != 1 || by[0] != nameHash("x") {
				t.Fatalf("replaced by %v", by)
			}
			got[r.Pack] = true
		}
	}
	if len(got) != n {
		t.Errorf("%d packs replaced, want %d", len(got), n)
	}
}

// What names very many objects takes several records, which together order the
// same.
func TestSealOrders(t *testing.T) {
	const n = 400_001
	agent, nation, comp := format.ID{1}, format.ID{2}, format.ID{3}
	var packs []format.Hash
	for i := range n {
		packs = append(packs, nameHash(fmt.Sprint(i)))
	}
	objects := map[format.OrderedKey][]format.Hash{
		{Agent: agent, Kind: format.KindPack}:  append(packs, packs[0]),
		{Agent: agent, Kind: format.KindIndex}: {nameHash("x")},
	}
	records, err := format.SealOrders(format.Order{Nation: nation, Compartment: comp, Kind: format.OrderMark}, objects)
	if err != nil || len(records) != 2 {
		t.Fatalf("%d records, %v", len(records), err)
	}
	got := map[format.Hash]format.Kind{}
	for _, r := range records {
		if uint64(len(r)) > format.KindRecord.MaxSize() {
			t.Errorf("a record of %d bytes", len(r))
		}
		o, err := format.OpenOrder(r, nation, comp, format.OrderMark)
		if err != nil {
			t.Fatal(err)
		}
		for _, of := range o.Objects {
			for _, h := range of.All() {
				got[h] = of.Kind
			}
		}
	}
	if len(got) != n+1 || got[nameHash("x")] != format.KindIndex || got[packs[n-1]] != format.KindPack {
		t.Errorf("%d objects ordered, want %d", len(got), n+1)
	}
}
