package embassy_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"embassy/embassy"
	"embassy/embassy/format"
	"embassy/targets"
)

// decrypt verifies everything with the repo's root.
func (r *repo) decrypt(cat embassy.Catalog) embassy.VerifyReport {
	r.t.Helper()
	rep, err := r.service(cat).Verify(r.t.Context(), embassy.VerifyOptions{Level: embassy.Decrypt, Keys: r.keys()})
	r.must(err)
	return rep
}

// faults returns what the book says.
func (r *repo) faults(cat embassy.Catalog) []embassy.Fault {
	r.t.Helper()
	faults, err := cat.Faults("")
	r.must(err)
	return faults
}

// hollow commits a snapshot of a file whose only chunk is nowhere.
func (a *agent) hollow(text string) format.Hash {
	a.chunks[a.r.writer.Hasher().ID([]byte(text))] = true
	return a.snapshot("pop", dir{"x": text})
}

// dependent enrols an agent whose snapshot uses what the other wrote.
func (r *repo) dependent(on *agent, tree any) *agent {
	b := r.enrol()
	r.publish()
	b.chunks, b.holds, b.refs = on.chunks, on.holds, slices.Clone(on.refs)
	b.depends = []format.Head{{Chain: on.scope.Chain, Seq: on.seq, Hash: on.prev}}
	b.snapshot("pop", tree)
	return b
}

// Whichever object a target stops giving, and for however long, and whenever it
// dies: no writer is blamed, the target is not said to be damaged, and the
// result is that it was not verified to the end.
func TestVerifyOutageIsNobodysFault(t *testing.T) {
	for name, fails := range map[string]func(since int64, same bool) bool{
		"one object nine times": func(since int64, same bool) bool { return same && since < 9 },
		"one object for good":   func(_ int64, same bool) bool { return same },
		"everything for good":   func(int64, bool) bool { return true },
	} {
		t.Run(name, func(t *testing.T) {
			gets := int64(1 << 40) // of a calm run
			cut := 0
			for from := int64(0); from <= gets; from++ { // 0: never
				synctest.Test(t, func(t *testing.T) {
					r, a := newRepo(t, 1, "pop")
					a.snapshot("pop", dir{"x": random(1, 3000)})
					r.dependent(a, dir{"x": random(1, 3000), "y": "new"})
					keys := r.keys()
					var n, since atomic.Int64
					var which atomic.Pointer[string]
					r.through(0, func(tgt targets.Target) targets.Target {
						return &targets.Faulty{Target: tgt, Before: func(op targets.Op, name string) error {
							if op == targets.OpGet && n.Add(1) == from {
								which.Store(&name)
							}
							if w := which.Load(); w != nil && fails(since.Load(), op == targets.OpGet && *w == name) {
								since.Add(1)
								return errReset
							}
							return nil
						}}
					})
					cat := newMemCatalog()
					rep, err := r.service(cat).Verify(t.Context(), embassy.VerifyOptions{Level: embassy.Decrypt, Keys: keys})
					if err != nil {
						return // not even the charter
					}
					v := rep.Targets[0]
					switch faults := r.faults(cat); {
					case len(faults) > 0 || v.BadTotal > 0 || v.HarmedTotal > 0:
						t.Fatalf("get %d fails: bad %+v, harmed %v, faults %+v", from, v.Bad, v.Harmed, faults)
					case v.Err != nil && rep.Exit == 4:
						cut++
					case v.Err != nil || rep.Exit != 0:
						t.Fatalf("get %d fails: exit code %d, %v", from, rep.Exit, v.Err)
					}
					if from == 0 {
						gets = n.Load()
					}
				})
			}
			if cut < int(gets)/3 {
				t.Fatalf("of %d runs %d were cut short: this proves nothing", gets, cut)
			}
		})
	}
}

// Bytes that are right once and wrong the next time are the target's doing.
func TestVerifyFickleTargetIsNoWritersFault(t *testing.T) {
	for _, what := range []string{"/pack/", "/index/", "/snapshot/", "/ledger/"} {
		r, a := newRepo(t, 1, "pop")
		a.snapshot("pop", dir{"x": random(1, 3000)})
		r.dependent(a, dir{"x": random(1, 3000), "y": "new"})
		var mu sync.Mutex
		gets, lies := map[string]int{}, 0
		keys := r.keys()
		cat := newMemCatalog()
		_, err := r.service(cat).Verify(t.Context(), embassy.VerifyOptions{})
		r.must(err)
		r.through(0, func(tgt targets.Target) targets.Target {
			return &targets.Faulty{Target: tgt, Before: func(op targets.Op, name string) error {
				mu.Lock()
				defer mu.Unlock()
				if op == targets.OpGet && strings.Contains(name, what) {
					if gets[name]++; gets[name] == 2 { // after it was looked at
						lies++
						return fmt.Errorf("%w: for once", targets.ErrNotFound)
					}
				}
				return nil
			}}
		})
		rep, err := r.service(cat).Verify(t.Context(), embassy.VerifyOptions{Level: embassy.Decrypt, Keys: keys})
		r.must(err)
		v, faults := rep.Targets[0], r.faults(cat)
		if v.BadTotal > 0 { // the lie came when the object itself was looked at: it is the target's fault
			faults = slices.DeleteFunc(faults, func(f embassy.Fault) bool { return f.Target == v.Target })
		}
		if len(faults) > 0 || lies == 0 {
			t.Errorf("%s: %d lies, %+v, %+v", what, lies, v, faults)
		}
	}
}

// Whatever a captured agent puts beside it, its unsound snapshot is told as its
// own doing, and no target is accused.
func TestVerifyBlamesDespiteJunk(t *testing.T) {
	for name, do := range map[string]func(r *repo, a *agent, cat embassy.Catalog) (unsound []format.Hash){
		"another unsound snapshot": func(r *repo, a *agent, _ embassy.Catalog) []format.Hash {
			return []format.Hash{a.hollow("nowhere"), a.hollow("nor here")}
		},
		"an unsound pack": func(r *repo, a *agent, _ embassy.Catalog) []format.Hash {
			a.named(format.DataChunk, r.writer.Hasher().ID([]byte("promised")), []byte("delivered"))
			a.snapshot("pop", dir{"x": "promised"})
			return []format.Hash{a.hollow("nowhere")}
		},
		"names in its ledger that are no entries": func(r *repo, a *agent, _ embassy.Catalog) []format.Hash {
			h := a.hollow("nowhere")
			for i := range 150 {
				junk := fmt.Appendf(nil, "junk %d", i)
				r.put(format.EntryName(r.nation, r.comp, a.scope.Agent, a.scope.Chain, 9, format.HashOf(junk)), junk)
			}
			return []format.Hash{h}
		},
		"an object of its own that it deletes": func(r *repo, a *agent, cat embassy.Catalog) []format.Hash {
			a.add(format.KindRecord, random(1, 50))
			h := a.hollow("nowhere")
			_, err := r.service(cat).Verify(r.t.Context(), embassy.VerifyOptions{})
			r.must(err)
			for i, m := range r.mems {
				r.must(m.Delete(r.t.Context(), r.names(i, "/record/")[0]))
			}
			return []format.Hash{h}
		},
		"a second size of the snapshot": func(r *repo, a *agent, _ embassy.Catalog) []format.Hash {
			h := a.hollow("nowhere")
			a.adds = []format.Listed{{Kind: format.KindSnapshot, Hash: h, Size: 100}}
			a.entry(format.Entry{Snapshots: []format.Hash{h}})
			return []format.Hash{h}
		},
		"a wrong size of an index": func(r *repo, a *agent, _ embassy.Catalog) []format.Hash {
			a.chunk(format.DataChunk, []byte("one"))
			a.seal()
			indexes, err := format.BuildIndexes(a.heads)
			r.must(err)
			a.heads = nil
			h := a.add(format.KindIndex, indexes[0])
			a.adds[len(a.adds)-1].Size++
			a.hollow("nowhere")
			return []format.Hash{h}
		},
		"committed in another chain than its own": func(r *repo, a *agent, _ embassy.Catalog) []format.Hash {
			b := r.agent(a.key)
			b.session = a.session
			h := b.snapshot("pop", dir{"x": "y"})
			a.adds = []format.Listed{{Kind: format.KindSnapshot, Hash: h, Size: uint64(len(r.get(0, r.names(0, h.String())[0])))}}
			a.entry(format.Entry{}) // which lists it, and does not commit it
			return []format.Hash{h}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, a := newRepo(t, 2, "pop")
			a.snapshot("pop", dir{"good": "old"})
			cat := newMemCatalog()
			unsound := do(r, a, cat)
			rep := r.decrypt(cat)
			for _, v := range rep.Targets {
				for _, h := range unsound {
					if !slices.ContainsFunc(v.Bad, func(d embassy.Damage) bool {
						return d.Kind == embassy.FaultUnsound && strings.HasSuffix(d.Object, h.String())
					}) || v.Err != nil || rep.Exit != 5 {
						t.Errorf("%s: %s is not told: %+v", v.Target, h, v)
					}
				}
			}
			for _, f := range r.faults(cat) {
				gone := f.Kind == embassy.FaultMissing || f.Kind == embassy.FaultForged // which it is
				if f.Target != "" && !gone {
					t.Errorf("%+v", f)
				}
			}
		})
	}
}

// Who uses what another agent wrote wrong is harmed, and not blamed.
func TestVerifyBlamesOnlyTheGuilty(t *testing.T) {
	r, a := newRepo(t, 2, "pop")
	a.chunk(format.DataChunk, []byte("one"))
	a.seal()
	first := a.heads[0]
	a.chunk(format.DataChunk, []byte("two"))
	a.seal()
	a.heads = [][]byte{append(bytes.Clone(a.heads[1][:40]), first[40:]...)} // says that "one" is in the second pack
	a.snapshot("pop", dir{"x": "y"})
	b := r.dependent(a, dir{"x": "two"})
	cat := newMemCatalog()
	for _, v := range r.decrypt(cat).Targets {
		if v.HarmedTotal == 0 || v.Err != nil {
			t.Errorf("%+v", v)
		}
	}
	faults := r.faults(cat)
	for _, f := range faults {
		if f.Target != "" || strings.Contains(f.Object, b.scope.Agent.String()) {
			t.Errorf("%+v", f)
		}
	}
	if len(faults) == 0 {
		t.Error("nobody is blamed for the index")
	}
}

// However a captured agent arranges it, what is read grows with what lies
// there, and no faster.
func TestVerifyDecryptIsLinear(t *testing.T) {
	const n = 20
	indexes := func(t *testing.T, segments int, bad bool) {
		r, a := newRepo(t, 1, "pop")
		a.snapshot("pop", dir{"x": "y"})
		a.chunk(format.DataChunk, []byte("one"))
		a.seal()
		segment := a.heads[0][44:]
		length := binary.BigEndian.Uint64(segment[8:])
		size := uint64(segments) * length
		pack := random(1, int(size)) // of no agent's making
		h := a.add(format.KindPack, pack)
		if bad {
			pack[0] ^= 1
			r.put(format.ObjectName(r.nation, r.comp, a.scope.Agent, format.KindPack, h), pack)
		}
		for i := range n {
			out := binary.BigEndian.AppendUint64(h[:], size)
			out = binary.BigEndian.AppendUint32(out, uint32(segments))
			for k := range uint64(segments) {
				out = append(binary.BigEndian.AppendUint64(out, k*length), segment[8:]...)
			}
			other := bytes.Clone(a.heads[0])
			other[0] = byte(i) // so that each index is another one
			index, err := format.BuildIndexes([][]byte{out, other})
			r.must(err)
			a.add(format.KindIndex, index[0])
		}
		a.entry(format.Entry{})
		var lies uint64
		for _, object := range content(t, r.mems[0]) {
			lies += uint64(len(object))
		}
		if got := r.decrypt(newMemCatalog()).Targets[0].Bytes; got < size || got > 3*lies {
			t.Errorf("of %d bytes that lie there %d were read", lies, got)
		}
	}
	t.Run("indexes of a bad pack", func(t *testing.T) { indexes(t, n, true) })
	t.Run("indexes that lie about a pack", func(t *testing.T) { indexes(t, n, false) })
	t.Run("unsound snapshots", func(t *testing.T) {
		r, a := newRepo(t, 1, "pop")
		for i := range uint64(n * n) {
			a.add(format.KindSnapshot, random(i, 60))
			a.entry(format.Entry{Snapshots: []format.Hash{a.adds[0].Hash}})
		}
		cat := &reading{Catalog: newMemCatalog()}
		if rep := r.decrypt(cat); rep.Targets[0].BadTotal != n*n || cat.entries > 4*n*n {
			t.Errorf("%d known entries are read %d times; %d bad", n*n, cat.entries, rep.Targets[0].BadTotal)
		}
	})
}
