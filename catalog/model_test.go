package catalog_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
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
	packs  map[embassy.PackNum]embassy.PackState
	chunks map[chunk.ID]embassy.PackNum
	heads  map[format.ID]uint64
	placed map[string]time.Time
	seen   map[string]embassy.SeenHead
	dirs   map[string][]byte
	runs   []embassy.Run
	notes  map[string][]byte
}

var _ embassy.Catalog = (*model)(nil)

func newModel() *model {
	return &model{
		packs:  map[embassy.PackNum]embassy.PackState{},
		chunks: map[chunk.ID]embassy.PackNum{},
		heads:  map[format.ID]uint64{},
		placed: map[string]time.Time{},
		seen:   map[string]embassy.SeenHead{},
		dirs:   map[string][]byte{},
		notes:  map[string][]byte{},
	}
}

func (m *model) FindChunks(ids []chunk.ID, packs []embassy.PackNum) error {
	for i, id := range ids {
		packs[i] = m.chunks[id]
	}
	return nil
}

func (m *model) AddPack(p embassy.PackState, ids []chunk.ID) (embassy.PackNum, error) {
	known, ok, _ := m.PackByHash(p.Hash)
	p.Num = known.Num
	if !ok {
		m.last++
		p.Num = m.last
		if p.Entry != 0 {
			p.Head = nil
		}
		m.packs[p.Num] = p
	}
	for _, id := range ids {
		if m.chunks[id] == 0 {
			m.chunks[id] = p.Num
		}
	}
	return p.Num, nil
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
		if p := m.packs[n]; p.Chain == chain && p.Entry == 0 {
			out = append(out, p)
		}
	}
	return out, nil
}

func (m *model) Forget() error {
	clear(m.packs) // m.last stays: no number is used again
	clear(m.chunks)
	clear(m.heads)
	clear(m.placed)
	clear(m.dirs)
	return nil
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
	m.placed[fmt.Sprint(target, h)] = at
	return nil
}

func (m *model) Placed(target string, h format.Hash) (time.Time, error) {
	return m.placed[fmt.Sprint(target, h)], nil
}

func (m *model) SetSeenHead(target string, chain format.ID, h embassy.SeenHead) error {
	if h.Seq < m.seen[fmt.Sprint(target, chain)].Seq {
		return errRefused
	}
	m.seen[fmt.Sprint(target, chain)] = h
	return nil
}

func (m *model) SeenHead(target string, chain format.ID) (embassy.SeenHead, bool, error) {
	h, ok := m.seen[fmt.Sprint(target, chain)]
	return h, ok, nil
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

func (m *model) Close() error { return nil }

// Few values, so that they meet again.
var (
	genName  = rapid.SampledFrom([]string{"", "a", "ab", "\x00", "a\x00b"})
	genChain = rapid.Map(rapid.IntRange(0, 2), func(i int) format.ID { return chain(byte(i)) })
	genHash  = rapid.Map(rapid.IntRange(0, 20), hash)
	genIDs   = rapid.SliceOfN(rapid.Map(rapid.IntRange(0, 60), func(i int) chunk.ID { return chunk.ID(hash(i)) }), 0, 20)
	genNum   = rapid.Map(rapid.Uint32Range(0, 25), func(i uint32) embassy.PackNum { return embassy.PackNum(i) })
	genSeq   = rapid.Uint64Range(1, 10)
	genTime  = rapid.Map(rapid.Int64Range(-1<<40, 1<<40), func(s int64) time.Time { return time.Unix(s, s&0xfffffff).UTC() })
	genBytes = rapid.SliceOfN(rapid.Byte(), 0, 40)
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
			if diff := cmp.Diff(observe(t, m), observe(t, real), cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("(-model +catalog):\n%s", diff)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"add pack": func(t *rapid.T) {
				p := embassy.PackState{
					Hash: genHash.Draw(t, "hash"), Size: rapid.Int64Min(0).Draw(t, "size"), Chain: genChain.Draw(t, "chain"),
					Head: genBytes.Draw(t, "head"),
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
			"place": func(t *rapid.T) {
				target, h, at := genName.Draw(t, "target"), genHash.Draw(t, "hash"), genTime.Draw(t, "at")
				both(func(c embassy.Catalog) error { return c.Place(target, h, at) })
			},
			"see head": func(t *rapid.T) {
				target, chain := genName.Draw(t, "target"), genChain.Draw(t, "chain")
				h := embassy.SeenHead{Seq: genSeq.Draw(t, "seq"), Hash: genHash.Draw(t, "hash"), At: genTime.Draw(t, "at")}
				both(func(c embassy.Catalog) error { return c.SetSeenHead(target, chain, h) })
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
	}
	names := []string{"", "a", "ab", "\x00", "a\x00b"}
	for i := range 21 {
		p, ok, err := c.PackByHash(hash(i))
		say(err, answer{p, ok}, "hash", i)
		for _, target := range names {
			at, err := c.Placed(target, hash(i))
			say(err, at, "placed", target, i)
		}
	}
	for _, a := range names {
		runs, err := c.Runs(a, 7)
		say(err, runs, "runs", a)
		v, ok, err := c.Noted(a)
		say(err, answer{string(v), ok}, "note", a)
		for i := range 3 {
			h, ok, err := c.SeenHead(a, chain(byte(i)))
			say(err, answer{h, ok}, "seen", a, i)
		}
		for _, b := range names {
			d, ok, err := c.CachedDir(a, b)
			say(err, answer{string(d), ok}, "dir", a, b)
		}
	}
	return all
}
