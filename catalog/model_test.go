package catalog_test

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"embassy/catalog"
	"embassy/chunk"
	"embassy/embassy"
	"embassy/embassy/format"
)

// model is the simplest catalog: maps in memory.
type model struct {
	last   embassy.PackNum
	fates  map[inCompartment]embassy.KnownFate
	packs  map[embassy.PackNum]embassy.PackState
	chunks map[chunk.ID]embassy.PackNum
	heads  map[format.ID]uint64
	placed map[place]embassy.Evidence
	seen   map[seen]embassy.SeenHead
	known  map[embassy.Line][]learned
	faults map[fault]embassy.Fault
	dirs   map[string][]byte
	runs   []embassy.Run
	notes  map[string][]byte

	abandoned map[embassy.PackNum]bool
}

type (
	place struct {
		target string
		h      format.Hash
	}
	inCompartment struct {
		compartment format.ID
		h           format.Hash
	}
	seen struct {
		target string
		l      embassy.Line
	}
	fault struct {
		target string
		kind   embassy.FaultKind
		object string
	}
	learned struct {
		embassy.Known
		adds []format.Listed
	}
)

var _ embassy.Catalog = (*model)(nil)

func newModel() *model {
	return &model{
		fates:  map[inCompartment]embassy.KnownFate{},
		packs:  map[embassy.PackNum]embassy.PackState{},
		chunks: map[chunk.ID]embassy.PackNum{},
		heads:  map[format.ID]uint64{},
		placed: map[place]embassy.Evidence{},
		seen:   map[seen]embassy.SeenHead{},
		known:  map[embassy.Line][]learned{},
		faults: map[fault]embassy.Fault{},
		dirs:   map[string][]byte{},
		notes:  map[string][]byte{},

		abandoned: map[embassy.PackNum]bool{},
	}
}

func (m *model) FindChunks(ids []chunk.ID, packs []embassy.PackNum) error {
	for i, id := range ids {
		packs[i] = m.chunks[id]
		if m.packs[packs[i]].Condemned {
			packs[i] = 0
		}
	}
	return nil
}

func (m *model) AddPack(p embassy.PackState, ids []chunk.ID) (embassy.PackNum, error) {
	known, ok, _ := m.PackByHash(p.Hash)
	p.Num = known.Num
	if !ok {
		m.last++
		p.Num, p.Condemned = m.last, false
		if p.Entry != 0 {
			p.Head = nil
		}
		m.packs[p.Num] = p
	}
	for _, id := range ids {
		if m.chunks[id] == 0 || m.packs[m.chunks[id]].Condemned && !m.packs[p.Num].Condemned {
			m.chunks[id] = p.Num
		}
	}
	return p.Num, nil
}

func (m *model) Condemn(packs []format.Hash) error {
	for n, p := range m.packs {
		p.Condemned = p.Condemned || slices.Contains(packs, p.Hash)
		m.packs[n] = p
	}
	return nil
}

func (m *model) Abandon(n embassy.PackNum) error {
	if p, ok := m.packs[n]; ok && p.Entry == 0 {
		p.Condemned, p.Head = true, nil
		m.packs[n], m.abandoned[n] = p, true
	}
	return nil
}

func (m *model) SetFates(compartment format.ID, fates []embassy.KnownFate) error {
	for _, f := range fates {
		for i, o := range []embassy.Order{f.Marked, f.Deleted} {
			if !o.Given() {
				continue
			}
			key := inCompartment{compartment, f.Hash}
			known, ok := m.fates[key]
			if !ok {
				known = embassy.KnownFate{Agent: f.Agent, Kind: f.Kind, Hash: f.Hash}
			}
			if have := []*embassy.Order{&known.Marked, &known.Deleted}[i]; !have.Given() {
				*have = o
			}
			m.fates[key] = known
		}
	}
	return nil
}

func (m *model) DropOrders(l embassy.Line, after uint64) error {
	gone := func(o embassy.Order) bool { return o.Agent == l.Agent && o.Chain == l.Chain && o.Seq > after }
	for key, f := range m.fates {
		if key.compartment != l.Compartment {
			continue
		}
		if gone(f.Marked) {
			f.Marked = embassy.Order{}
		}
		if gone(f.Deleted) {
			f.Deleted = embassy.Order{}
		}
		if m.fates[key] = f; f.Fate == (embassy.Fate{}) {
			delete(m.fates, key)
		}
	}
	return nil
}

func (m *model) Fate(compartment format.ID, h format.Hash) (embassy.Fate, error) {
	return m.fates[inCompartment{compartment, h}].Fate, nil
}

func (m *model) Fates(compartment format.ID) iter.Seq2[embassy.KnownFate, error] {
	return func(yield func(embassy.KnownFate, error) bool) {
		var all []embassy.KnownFate
		for key, f := range m.fates {
			if key.compartment == compartment {
				all = append(all, f)
			}
		}
		slices.SortFunc(all, func(a, b embassy.KnownFate) int { return bytes.Compare(a.Hash[:], b.Hash[:]) })
		for _, f := range all {
			if !yield(f, nil) {
				return
			}
		}
	}
}

func (m *model) Pack(n embassy.PackNum) (embassy.PackState, bool, error) {
	p, ok := m.packs[n]
	return p, ok, nil
}

func (m *model) PackByHash(h format.Hash) (embassy.PackState, bool, error) {
	for _, p := range m.packs {
		if p.Hash == h {
			return p, true, nil
		}
	}
	return embassy.PackState{}, false, nil
}

func (m *model) UnlistedPacks(chain format.ID) (out []embassy.PackState, _ error) {
	for _, n := range slices.Sorted(maps.Keys(m.packs)) {
		if p := m.packs[n]; p.Chain == chain && p.Entry == 0 && !m.abandoned[n] {
			out = append(out, p)
		}
	}
	return out, nil
}

func (m *model) Forget() error {
	clear(m.abandoned)
	clear(m.packs) // m.last stays: no number is used again
	clear(m.chunks)
	clear(m.heads)
	clear(m.placed)
	clear(m.dirs)
	return nil
}

func (m *model) ForgetCompartment(compartment format.ID) error {
	maps.DeleteFunc(m.known, func(l embassy.Line, _ []learned) bool { return l.Compartment == compartment })
	maps.DeleteFunc(m.fates, func(k inCompartment, _ embassy.KnownFate) bool { return k.compartment == compartment })
	return m.Forget()
}

var errRefused = errors.New("refused")

func (m *model) SetListed(chain format.ID, seq uint64, packs []embassy.ListedPack) error {
	for _, l := range packs {
		if p, ok := m.packs[l.Num]; !ok || p.Chain != chain {
			return errRefused
		}
	}
	for _, l := range packs {
		p := m.packs[l.Num]
		p.Entry, p.Pos, p.Head = seq, l.Pos, nil
		m.packs[l.Num] = p
	}
	m.heads[chain] = seq
	return nil
}

func (m *model) ListedHead(chain format.ID) (uint64, error) { return m.heads[chain], nil }

func (m *model) Place(target string, h format.Hash, at time.Time) error {
	return m.SetEvidence(target, map[format.Hash]embassy.Evidence{h: {Stored: at}})
}

func (m *model) Placed(target string, h format.Hash) (time.Time, error) {
	return m.placed[place{target, h}].Stored, nil
}

func (m *model) SetEvidence(target string, found map[format.Hash]embassy.Evidence) error {
	for h, e := range found {
		known := m.placed[place{target, h}]
		if !e.Stored.IsZero() {
			known.Stored = e.Stored
		}
		if !e.Verified.IsZero() {
			known.Verified = e.Verified
		}
		if !e.Locked.IsZero() {
			known.Locked = e.Locked
		}
		m.placed[place{target, h}] = known
	}
	return nil
}

func (m *model) Evidence(target string, h format.Hash) (embassy.Evidence, error) {
	return m.placed[place{target, h}], nil
}

func (m *model) DropEvidence(target string, h format.Hash) error {
	delete(m.placed, place{target, h})
	return nil
}

func (m *model) Learn(l embassy.Line, e embassy.Known, adds []format.Listed) error {
	n := uint64(len(m.known[l]))
	if e.Seq >= 1 && e.Seq <= n && m.known[l][e.Seq-1].Known == e {
		return nil
	}
	if e.Seq != n+1 {
		return errRefused
	}
	m.known[l] = append(m.known[l], learned{e, adds})
	return nil
}

func (m *model) LearnAll(l embassy.Line, entries []embassy.LearnedEntry) error {
	was := slices.Clone(m.known[l])
	for _, e := range entries {
		if err := m.Learn(l, e.Known, e.Adds); err != nil {
			if m.known[l] = was; len(was) == 0 {
				delete(m.known, l)
			}
			return err
		}
	}
	return nil
}

func (m *model) KnownHead(l embassy.Line) (embassy.Known, bool, error) {
	return m.KnownEntry(l, uint64(len(m.known[l])))
}

func (m *model) KnownEntry(l embassy.Line, seq uint64) (embassy.Known, bool, error) {
	if seq == 0 || seq > uint64(len(m.known[l])) {
		return embassy.Known{}, false, nil
	}
	return m.known[l][seq-1].Known, true, nil
}

func (m *model) KnownEntries(l embassy.Line) (out []embassy.Known, err error) {
	for _, e := range m.known[l] {
		out = append(out, e.Known)
	}
	return out, nil
}

func (m *model) KnownLines() ([]embassy.Line, error) {
	return slices.SortedFunc(maps.Keys(m.known), func(a, b embassy.Line) int {
		return strings.Compare(fmt.Sprint(a), fmt.Sprint(b))
	}), nil
}

func (m *model) KnownObjects(compartment, agent format.ID, kind format.Kind, prefix []byte) iter.Seq2[embassy.KnownObject, error] {
	return func(yield func(embassy.KnownObject, error) bool) {
		all := map[string]embassy.KnownObject{} // an object that an entry lists twice is there once
		for l, entries := range m.known {
			for _, e := range entries {
				for _, a := range e.adds {
					if l.Compartment == compartment && l.Agent == agent && a.Kind == kind && bytes.HasPrefix(a.Hash[:], prefix) {
						all[fmt.Sprintf("%x %x %20d", a.Hash, l.Chain, e.Seq)] = embassy.KnownObject{
							Kind: kind, Hash: a.Hash, Size: a.Size, Chain: l.Chain, Seq: e.Seq,
						}
					}
				}
			}
		}
		for _, key := range slices.Sorted(maps.Keys(all)) {
			if !yield(all[key], nil) {
				return
			}
		}
	}
}

func (m *model) AddFault(f embassy.Fault) error {
	key := fault{f.Target, f.Kind, f.Object}
	if before, ok := m.faults[key]; ok {
		f.First = before.First
	}
	m.faults[key] = f
	return nil
}

func (m *model) Faults(target string) (out []embassy.Fault, _ error) {
	for _, f := range m.faults {
		if target == "" || f.Target == target {
			out = append(out, f)
		}
	}
	slices.SortFunc(out, func(a, b embassy.Fault) int {
		return cmp.Or(strings.Compare(a.Target, b.Target), cmp.Compare(a.Kind, b.Kind), strings.Compare(a.Object, b.Object))
	})
	return out, nil
}

func (m *model) Fault(target string, kind embassy.FaultKind, object string) (embassy.Fault, bool, error) {
	f, ok := m.faults[fault{target, kind, object}]
	return f, ok, nil
}

func (m *model) ClearFault(target string, kind embassy.FaultKind, object string) error {
	delete(m.faults, fault{target, kind, object})
	return nil
}

func (m *model) SetSeenHead(target string, l embassy.Line, h embassy.SeenHead) error {
	if h.Seq < m.seen[seen{target, l}].Seq {
		return errRefused
	}
	m.seen[seen{target, l}] = h
	return nil
}

func (m *model) SeenHead(target string, l embassy.Line) (embassy.SeenHead, bool, error) {
	h, ok := m.seen[seen{target, l}]
	return h, ok, nil
}

func (m *model) ForgetTarget(target string) error {
	maps.DeleteFunc(m.placed, func(k place, _ embassy.Evidence) bool { return k.target == target })
	maps.DeleteFunc(m.seen, func(k seen, _ embassy.SeenHead) bool { return k.target == target })
	maps.DeleteFunc(m.faults, func(k fault, _ embassy.Fault) bool { return k.target == target })
	return nil
}

func (m *model) CachedDir(series, path string) ([]byte, bool, error) {
	d, ok := m.dirs[series+"\n"+path]
	return d, ok, nil
}

func (m *model) PutCachedDirs(series string, dirs map[string][]byte) error {
	for path, d := range dirs {
		m.dirs[series+"\n"+path] = d
	}
	return nil
}

func (m *model) AddRun(r embassy.Run) error {
	m.runs = append(m.runs, r)
	return nil
}

func (m *model) Runs(dataset string, n int) (out []embassy.Run, _ error) {
	for _, r := range slices.Backward(m.runs) {
		if len(out) < n && (dataset == "" || r.Dataset == dataset) {
			out = append(out, r)
		}
	}
	return out, nil
}

func (m *model) Note(key string, value []byte) error {
	m.notes[key] = value
	return nil
}

func (m *model) Noted(key string) ([]byte, bool, error) {
	v, ok := m.notes[key]
	return v, ok, nil
}

func (m *model) Notes(prefix string) (map[string][]byte, error) {
	out := map[string][]byte{}
	for key, value := range m.notes {
		if rest, ok := strings.CutPrefix(key, prefix); ok {
			out[rest] = value
		}
	}
	return out, nil
}

func (m *model) Close() error { return nil }

// Lines that share what they can: the chain's id alone names none.
var lines = []embassy.Line{
	{Compartment: chain(1), Agent: chain(1), Chain: chain(1)},
	{Compartment: chain(1), Agent: chain(1), Chain: chain(2)},
	{Compartment: chain(1), Agent: chain(2), Chain: chain(1)},
	{Compartment: chain(2), Agent: chain(1), Chain: chain(1)},
}

// collect returns what a sequence yields before its first error.
func collect[T any](seq iter.Seq2[T, error]) (out []T, _ error) {
	for v, err := range seq {
		if err != nil {
			return out, err
		}
		out = append(out, v)
	}
	return out, nil
}

// Few values, so that they meet again.
var (
	genName  = rapid.SampledFrom([]string{"", "a", "ab", "\x00", "a\x00b"})
	genChain = rapid.Map(rapid.IntRange(0, 2), func(i int) format.ID { return chain(byte(i)) })
	genHash  = rapid.Map(rapid.IntRange(0, 20), hash)
	genIDs   = rapid.SliceOfN(rapid.Map(rapid.IntRange(0, 60), func(i int) chunk.ID { return chunk.ID(hash(i)) }), 0, 20)
	genNum   = rapid.Map(rapid.Uint32Range(0, 25), func(i uint32) embassy.PackNum { return embassy.PackNum(i) })
	genLine  = rapid.SampledFrom(lines)
	genSeq   = rapid.Uint64Range(1, 10)
	genTime  = rapid.Map(rapid.Int64Range(-1<<40, 1<<40), func(s int64) time.Time { return time.Unix(s, s&0xfffffff).UTC() })
	genWhen  = rapid.OneOf(rapid.Just(time.Time{}), genTime)
	genBytes = rapid.SliceOfN(rapid.Byte(), 0, 40)
	genAdds  = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) format.Listed {
		return format.Listed{
			Kind: rapid.SampledFrom([]format.Kind{format.KindPack, format.KindRecord}).Draw(t, "kind"),
			Hash: genHash.Draw(t, "hash"), Size: rapid.Uint64().Draw(t, "size"),
		}
	}), 0, 8)
	genOrder = rapid.Custom(func(t *rapid.T) embassy.Order {
		return embassy.Order{
			Agent: genChain.Draw(t, "agent"), Chain: genChain.Draw(t, "chain"),
			Seq: rapid.Uint64Range(0, 3).Draw(t, "seq"), At: genWhen.Draw(t, "at"),
		}
	})
	genFates = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) embassy.KnownFate {
		return embassy.KnownFate{
			Agent: genChain.Draw(t, "agent"), Hash: genHash.Draw(t, "hash"),
			Kind: rapid.SampledFrom([]format.Kind{format.KindPack, format.KindSnapshot}).Draw(t, "kind"),
			Fate: embassy.Fate{Marked: genOrder.Draw(t, "marked"), Deleted: genOrder.Draw(t, "deleted")},
		}
	}), 0, 6)
	genFault = rapid.Custom(func(t *rapid.T) embassy.Fault {
		return embassy.Fault{
			Target: genName.Draw(t, "target"), Kind: embassy.FaultKind(genName.Draw(t, "kind")), Object: genName.Draw(t, "object"),
			Text: genName.Draw(t, "text"), First: genTime.Draw(t, "first"), Last: genTime.Draw(t, "last"),
		}
	})
)

// The catalog and the model answer alike, whatever is asked in whatever order,
// and however often the catalog is closed and opened in between.
func TestAgreesWithModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := tempDir(t)
		if err != nil {
			t.Fatal(err)
		}
		real, err := catalog.Open(dir, catalog.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := real.Close(); err != nil {
				t.Fatal(err)
			}
		})
		m := newModel()
		both := func(do func(c embassy.Catalog) error) {
			got, want := do(real), do(m)
			if (got != nil) != (want != nil) {
				t.Fatalf("catalog: %v, model: %v", got, want)
			}
		}
		same := func() {
			if diff := gocmp.Diff(observe(t, m), observe(t, real), cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("(-model +catalog):\n%s", diff)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"add pack": func(t *rapid.T) {
				p := embassy.PackState{
					Hash: genHash.Draw(t, "hash"), Size: rapid.Int64Min(0).Draw(t, "size"), Chain: genChain.Draw(t, "chain"),
					Head: genBytes.Draw(t, "head"), Condemned: rapid.Bool().Draw(t, "condemned"), // ignored
				}
				if rapid.Bool().Draw(t, "listed") {
					p.Entry, p.Pos = genSeq.Draw(t, "entry"), rapid.Uint32().Draw(t, "pos")
				}
				ids := genIDs.Draw(t, "ids")
				var nums []embassy.PackNum
				both(func(c embassy.Catalog) error {
					n, err := c.AddPack(p, ids)
					nums = append(nums, n)
					return err
				})
				if nums[0] != nums[1] {
					t.Fatalf("number %d, want %d", nums[0], nums[1])
				}
			},
			"list": func(t *rapid.T) {
				chain, seq := genChain.Draw(t, "chain"), genSeq.Draw(t, "seq")
				var packs []embassy.ListedPack
				unlisted, _ := m.UnlistedPacks(chain)
				for _, p := range unlisted {
					if rapid.Bool().Draw(t, "take") {
						packs = append(packs, embassy.ListedPack{Num: p.Num, Pos: rapid.Uint32().Draw(t, "pos")})
					}
				}
				if rapid.IntRange(0, 3).Draw(t, "any") == 0 {
					packs = append(packs, embassy.ListedPack{Num: genNum.Draw(t, "num")})
				}
				both(func(c embassy.Catalog) error { return c.SetListed(chain, seq, packs) })
			},
			"condemn": func(t *rapid.T) {
				hashes := rapid.SliceOfN(genHash, 0, 3).Draw(t, "hashes")
				both(func(c embassy.Catalog) error { return c.Condemn(hashes) })
			},
			"abandon": func(t *rapid.T) {
				n := genNum.Draw(t, "num")
				both(func(c embassy.Catalog) error { return c.Abandon(n) })
			},
			"order": func(t *rapid.T) {
				compartment, fates := genChain.Draw(t, "compartment"), genFates.Draw(t, "fates")
				both(func(c embassy.Catalog) error { return c.SetFates(compartment, fates) })
			},
			"drop orders": func(t *rapid.T) {
				l := embassy.Line{Compartment: genChain.Draw(t, "compartment"), Agent: genChain.Draw(t, "agent"), Chain: genChain.Draw(t, "chain")}
				after := rapid.Uint64Range(0, 3).Draw(t, "after")
				both(func(c embassy.Catalog) error { return c.DropOrders(l, after) })
			},
			"place": func(t *rapid.T) {
				target, h, at := genName.Draw(t, "target"), genHash.Draw(t, "hash"), genTime.Draw(t, "at")
				both(func(c embassy.Catalog) error { return c.Place(target, h, at) })
			},
			"find out": func(t *rapid.T) {
				target := genName.Draw(t, "target")
				found := rapid.MapOfN(genHash, rapid.Custom(func(t *rapid.T) embassy.Evidence {
					return embassy.Evidence{Stored: genWhen.Draw(t, "stored"), Verified: genWhen.Draw(t, "verified"), Locked: genWhen.Draw(t, "locked")}
				}), 0, 8).Draw(t, "found")
				both(func(c embassy.Catalog) error { return c.SetEvidence(target, found) })
			},
			"drop evidence": func(t *rapid.T) {
				target, h := genName.Draw(t, "target"), genHash.Draw(t, "hash")
				both(func(c embassy.Catalog) error { return c.DropEvidence(target, h) })
			},
			"learn": func(t *rapid.T) {
				l, adds := genLine.Draw(t, "line"), genAdds.Draw(t, "adds")
				seq := uint64(len(m.known[l]) + 1)
				if rapid.IntRange(0, 3).Draw(t, "any") == 0 {
					seq = rapid.Uint64Range(0, 6).Draw(t, "seq")
				}
				e, ok, _ := m.KnownEntry(l, seq)
				if !ok || rapid.Bool().Draw(t, "another") {
					e = embassy.Known{Seq: seq, Hash: genHash.Draw(t, "hash"), Size: rapid.Uint64().Draw(t, "size")}
				}
				both(func(c embassy.Catalog) error { return c.Learn(l, e, adds) })
			},
			"learn all": func(t *rapid.T) {
				l := genLine.Draw(t, "line")
				first := rapid.Uint64Range(1, uint64(len(m.known[l])+2)).Draw(t, "first")
				end := first + rapid.Uint64Range(0, 4).Draw(t, "count")
				var entries []embassy.LearnedEntry
				for seq := first; seq < end; seq++ {
					e, ok, _ := m.KnownEntry(l, seq)
					if !ok || rapid.IntRange(0, 5).Draw(t, "another") == 0 {
						e = embassy.Known{Seq: seq, Hash: genHash.Draw(t, "hash"), Size: rapid.Uint64().Draw(t, "size")}
					}
					entries = append(entries, embassy.LearnedEntry{Known: e, Adds: genAdds.Draw(t, "adds")})
				}
				both(func(c embassy.Catalog) error { return c.LearnAll(l, entries) })
			},
			"fault": func(t *rapid.T) {
				f := genFault.Draw(t, "fault")
				both(func(c embassy.Catalog) error { return c.AddFault(f) })
			},
			"clear fault": func(t *rapid.T) {
				f := genFault.Draw(t, "fault")
				if faults, _ := m.Faults(""); len(faults) > 0 && rapid.Bool().Draw(t, "there") {
					f = rapid.SampledFrom(faults).Draw(t, "which")
				}
				both(func(c embassy.Catalog) error { return c.ClearFault(f.Target, f.Kind, f.Object) })
			},
			"see head": func(t *rapid.T) {
				target, l := genName.Draw(t, "target"), genLine.Draw(t, "line")
				h := embassy.SeenHead{Seq: genSeq.Draw(t, "seq"), Hash: genHash.Draw(t, "hash"), At: genTime.Draw(t, "at")}
				both(func(c embassy.Catalog) error { return c.SetSeenHead(target, l, h) })
			},
			"cache": func(t *rapid.T) {
				series := genName.Draw(t, "series")
				dirs := rapid.MapOfN(genName, genBytes, 0, 4).Draw(t, "dirs")
				both(func(c embassy.Catalog) error { return c.PutCachedDirs(series, dirs) })
			},
			"run": func(t *rapid.T) {
				r := embassy.Run{
					Kind: genName.Draw(t, "kind"), Dataset: genName.Draw(t, "dataset"), Note: genName.Draw(t, "note"),
					Started: genTime.Draw(t, "started"), Ended: genTime.Draw(t, "ended"),
					Exit: rapid.IntRange(0, 130).Draw(t, "exit"), Snapshot: genHash.Draw(t, "snapshot"),
				}
				both(func(c embassy.Catalog) error { return c.AddRun(r) })
			},
			"forget": func(t *rapid.T) {
				if rapid.IntRange(0, 4).Draw(t, "really") == 0 {
					both(func(c embassy.Catalog) error { return c.Forget() })
				}
				if rapid.IntRange(0, 4).Draw(t, "a compartment") == 0 {
					compartment := genChain.Draw(t, "compartment")
					both(func(c embassy.Catalog) error { return c.ForgetCompartment(compartment) })
				}
			},
			"forget target": func(t *rapid.T) {
				if rapid.IntRange(0, 4).Draw(t, "really") == 0 {
					target := genName.Draw(t, "target")
					both(func(c embassy.Catalog) error { return c.ForgetTarget(target) })
				}
			},
			"note": func(t *rapid.T) {
				key, value := genName.Draw(t, "key"), genBytes.Draw(t, "value")
				both(func(c embassy.Catalog) error { return c.Note(key, value) })
			},
			"reopen": func(t *rapid.T) {
				same()
				if err := real.Close(); err != nil {
					t.Fatal(err)
				}
				if real, err = catalog.Open(dir, catalog.Options{}); err != nil {
					t.Fatal(err)
				}
				same()
			},
		})
		same()
	})
}

type answer struct {
	Value any
	OK    bool
}

// observe asks a catalog everything that the generators can have told it.
func observe(t *rapid.T, c embassy.Catalog) map[string]any {
	all := map[string]any{}
	say := func(err error, value any, question ...any) {
		if err != nil {
			t.Fatalf("%v: %v", question, err)
		}
		all[fmt.Sprintf("%q", question)] = value
	}
	found := make([]embassy.PackNum, 61)
	say(c.FindChunks(ids(0, 61), found), found, "chunks")
	for n := range embassy.PackNum(26) {
		p, ok, err := c.Pack(n)
		say(err, answer{p, ok}, "pack", n)
	}
	for i := range 3 {
		packs, err := c.UnlistedPacks(chain(byte(i)))
		say(err, packs, "unlisted", i)
		seq, err := c.ListedHead(chain(byte(i)))
		say(err, seq, "head", i)
		fates, err := collect(c.Fates(chain(byte(i))))
		say(err, fates, "fates", i)
		for h := range 21 {
			f, err := c.Fate(chain(byte(i)), hash(h))
			say(err, f, "fate", i, h)
		}
	}
	names := []string{"", "a", "ab", "\x00", "a\x00b"}
	for i := range 21 {
		p, ok, err := c.PackByHash(hash(i))
		say(err, answer{p, ok}, "hash", i)
		for _, target := range names {
			at, err := c.Placed(target, hash(i))
			say(err, at, "placed", target, i)
			e, err := c.Evidence(target, hash(i))
			say(err, e, "evidence", target, i)
		}
	}
	firstHash := hash(1)
	known, err := c.KnownLines()
	say(err, known, "lines")
	for _, l := range lines {
		e, ok, err := c.KnownHead(l)
		say(err, answer{e, ok}, "known head", l)
		entries, err := c.KnownEntries(l)
		say(err, entries, "known entries", l)
		for seq := range e.Seq + 2 {
			e, ok, err := c.KnownEntry(l, seq)
			say(err, answer{e, ok}, "known", l, seq)
		}
		for _, kind := range []format.Kind{format.KindPack, format.KindIndex, format.KindRecord} {
			for _, prefix := range []string{"", string(firstHash[:1])} {
				objects, err := collect(c.KnownObjects(l.Compartment, l.Agent, kind, []byte(prefix)))
				say(err, objects, "objects", l.Compartment, l.Agent, kind, prefix)
			}
		}
	}
	for _, a := range names {
		runs, err := c.Runs(a, 7)
		say(err, runs, "runs", a)
		v, ok, err := c.Noted(a)
		say(err, answer{string(v), ok}, "note", a)
		notes, err := c.Notes(a)
		say(err, notes, "notes", a)
		faults, err := c.Faults(a)
		say(err, faults, "faults", a)
		for _, l := range lines {
			h, ok, err := c.SeenHead(a, l)
			say(err, answer{h, ok}, "seen", a, l)
		}
		for _, b := range names {
			d, ok, err := c.CachedDir(a, b)
			say(err, answer{string(d), ok}, "dir", a, b)
		}
	}
	return all
}
