package embassy_test

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"embassy/embassy"
	"embassy/embassy/format"
	"embassy/targets"
)

// TestViewContradictedSnapshot: what an agent says later about an old snapshot
// does not touch it, and no target is blamed.
func TestViewContradictedSnapshot(t *testing.T) {
	for _, how := range []string{"listed again", "committed again", "committed on a fork"} {
		t.Run(how, func(t *testing.T) {
			for range 5 { // what counts must not depend on any order
				r, a := newRepo(t, 2, "pop")
				h := a.snapshot("pop", dir{"x": "y"})
				if how == "committed on a fork" {
					a.seq, a.prev = 0, format.Hash{}
				}
				var again format.Entry
				if how != "listed again" {
					again.Snapshots = []format.Hash{h}
				}
				a.adds = []format.Listed{{Kind: format.KindSnapshot, Hash: h, Size: 1}}
				a.entry(again)
				var f findings
				report, err := r.restore(&f, embassy.RestoreOptions{To: t.TempDir()}, "pop")
				if err != nil || len(report.Datasets) != 1 || report.Datasets[0].Files != 1 {
					t.Fatalf("Restore returned %v, %+v", err, report.Datasets)
				}
				if how == "listed again" && len(f.list) != 0 {
					t.Fatalf("findings %v", f.list)
				}
			}
		})
	}
}

// listedPacks returns the packs on target 0 as an entry would list them.
func (r *repo) listedPacks(size func(true int) uint64) []format.Listed {
	r.t.Helper()
	var packs []format.Listed
	for _, name := range r.names(0, "/pack/") {
		h, err := format.ParseHash(filepath.Base(name))
		r.must(err)
		packs = append(packs, format.Listed{Kind: format.KindPack, Hash: h, Size: size(len(r.get(0, name)))})
	}
	return packs
}

// forks signs a twin of an entry of number 1, once with a hash that sorts
// before it and once with one that sorts behind.
func (a *agent) forks(of format.Hash, adds []format.Listed, snapshots ...format.Hash) {
	var before, behind bool
	for stamp := int64(1); !before || !behind; stamp++ {
		e := format.Entry{Nation: a.r.nation, Compartment: a.r.comp, Agent: a.scope.Agent, Chain: a.scope.Chain,
			Seq: 1, Time: stamp, Adds: adds, Snapshots: snapshots}
		object, err := format.SealEntry(e, a.key.Signer)
		a.r.must(err)
		h := format.HashOf(object)
		if first := slices.Compare(h[:], of[:]) < 0; first && before || !first && behind {
			continue
		} else if first {
			before = true
		} else {
			behind = true
		}
		a.r.put(format.EntryName(e.Nation, e.Compartment, e.Agent, e.Chain, 1, h), object)
	}
}

// TestRestoreContradictedPacks: forks that list the packs of a snapshot with
// other sizes do not touch it, whether they commit it too or not, and whether
// they come from its agent or from a steward who uses the agent's chain id.
func TestRestoreContradictedPacks(t *testing.T) {
	untrue := func(int) uint64 { return 70_000 }
	for _, how := range []string{"fork", "fork of an entry depended on", "fork that commits", "steward"} {
		t.Run(how, func(t *testing.T) {
			r, a := newRepo(t, 2, "pop")
			b := r.enrol()
			r.charter.Compartments[0].Stewards = []format.ID{b.scope.Agent}
			r.publish()
			h := a.snapshot("pop", dir{"x": "y"})
			first := a.prev
			adds := r.listedPacks(untrue)
			switch how {
			case "fork":
				a.forks(first, adds)
			case "fork of an entry depended on":
				a.forks(first, adds)
				b.refs, b.depends = a.refs, []format.Head{{Chain: a.scope.Chain, Seq: 1, Hash: first}}
				r.charter.Compartments[0].Stewards = nil
				r.publish()
				b.chunks = a.chunks // so it stores nothing
				b.snapshot("pop", dir{"x": "y"})
			case "fork that commits":
				s := r.get(0, format.ObjectName(r.nation, r.comp, a.scope.Agent, format.KindSnapshot, h))
				a.forks(first, append(adds, format.Listed{Kind: format.KindSnapshot, Hash: h, Size: uint64(len(s))}), h)
			case "steward":
				b.scope.Chain = a.scope.Chain
				b.forks(first, adds)
			}
			var f findings
			report, err := r.restore(&f, embassy.RestoreOptions{To: t.TempDir()}, "pop")
			if err != nil || report.Datasets[0].Files != 1 {
				t.Errorf("Restore returned %v, %+v; %v", err, report.Datasets, f.list)
			}
			if bad := len(f.about("t0", "")); bad > 0 && how != "fork that commits" {
				t.Errorf("a target is blamed: %v", f.list)
			}
		})
	}
}

// TestRestoreBehindGap: an entry that no target shows hides no older packs,
// and neither does the change to a new chain.
func TestRestoreBehindGap(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	old := random(1, 1<<20)
	a.snapshot("pop", dir{"x": old})
	lost := a.entry(format.Entry{})
	a.snapshot("pop", dir{"x": old, "y": "new"})
	damages["missing"](r, 0, lost)
	to := t.TempDir()
	if report, err := r.restore(&findings{}, embassy.RestoreOptions{To: to}, "pop"); err != nil {
		t.Errorf("Restore returned %v, %+v", err, report)
	}
	compare(t, filepath.Join(to, "pop"), map[string][]byte{"x": old, "y": []byte("new")})

	next := r.agent(a.key)
	next.chunks, next.refs = a.chunks, a.refs
	next.entry(format.Entry{Continues: []format.Head{{Chain: a.scope.Chain, Seq: a.seq, Hash: a.prev}}})
	next.snapshot("pop", dir{"x": old, "z": "newer"})
	to = t.TempDir()
	if report, err := r.restore(&findings{}, embassy.RestoreOptions{To: to}, "pop"); err != nil {
		t.Errorf("in a chain that continues: %v, %+v", err, report)
	}
	compare(t, filepath.Join(to, "pop"), map[string][]byte{"x": old, "z": []byte("newer")})
}

// TestViewForgedNames: a target that lists thousands of entries which are none
// costs little, and hides nothing that verified entries vouch for or that
// another target shows.
func TestViewForgedNames(t *testing.T) {
	const forged, entries = 5000, 60
	r, a := newRepo(t, 2, "pop")
	var alone []string // entries that only the hostile target has
	for i := range entries {
		a.snapshot("pop", dir{"x": fmt.Sprint(i)})
	}
	b := r.enrol()
	r.publish()
	honest := b.snapshot("pop", dir{"x": "of another agent"})
	for _, name := range r.names(0, a.scope.Chain.String())[:entries-1] {
		if strings.Contains(name, "/ledger/") {
			alone = append(alone, name)
		}
	}
	for _, name := range append(alone, r.names(0, b.scope.Chain.String())...) {
		damages["missing"](r, 0, name)
	}
	for i := range forged {
		var h format.Hash
		binary.BigEndian.PutUint32(h[:], uint32(i))
		r.putOn(1, format.EntryName(r.nation, r.comp, a.scope.Agent, format.ID{2}, uint64(i+1), h), []byte("forged"))
	}
	var gets atomic.Int64
	r.through(1, func(under targets.Target) targets.Target {
		return &targets.Faulty{Target: under, Before: func(op targets.Op, name string) error {
			if op == targets.OpGet && strings.Contains(name, "/ledger/") {
				gets.Add(1)
			}
			return nil
		}}
	})
	var f findings
	v, err := r.view(&f)
	r.must(err)
	if n := gets.Load(); n > 500 {
		t.Errorf("%d forged names cost %d gets", forged, n)
	}
	got := hashes(v.Snapshots("pop"))
	if len(got) != entries+1 || !slices.Contains(got, honest) {
		t.Errorf("%d snapshots, want %d", len(got), entries+1)
	}
	if n := len(f.about("t1", "were not read")); n != 1 {
		t.Errorf("the cut was told %d times", n)
	}
}

// TestViewBigEntries: what a captured agent lists takes no memory, and what
// was committed before stays.
func TestViewBigEntries(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	want := a.snapshot("pop", dir{"x": "old"})
	many := func(e *format.Entry, kind format.Kind, from int) {
		for i := range 80_000 {
			var h format.Hash
			binary.BigEndian.PutUint32(h[:], uint32(from+i))
			a.adds = append(a.adds, format.Listed{Kind: kind, Hash: h, Size: 1})
		}
	}
	for k := range 6 {
		var e format.Entry
		many(&e, format.KindPack, k*80_000)
		a.entry(e)
	}
	for range 20 {
		var e format.Entry
		many(&e, format.KindSnapshot, 0)
		a.entry(e)
	}
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc >> 20)
	}
	before := heap()
	var f findings
	v, err := r.view(&f)
	r.must(err)
	if kept := heap() - before; kept > 80 {
		t.Errorf("the view keeps %d MiB", kept)
	}
	if got := hashes(v.Snapshots("pop")); !slices.Equal(got, []format.Hash{want}) {
		t.Errorf("snapshots %v", got)
	}
	if len(f.about("", "left out")) == 0 {
		t.Errorf("nothing was told: %v", f.list)
	}
	if _, err := v.Restore(t.Context(), embassy.RestoreOptions{To: t.TempDir(), Snapshots: v.Snapshots("pop")}); err != nil {
		t.Error(err)
	}
	runtime.KeepAlive(r)
}

// TestPickWrongClock: the order of a chain counts, not the clock.
func TestPickWrongClock(t *testing.T) {
	year := int64(365 * 24 * time.Hour)
	for name, shift := range map[string]int64{"ahead": year, "behind": -50 * year} {
		t.Run(name, func(t *testing.T) {
			r, a := newRepo(t, 1, "pop")
			first := a.snapshot("pop", dir{"x": "1"})
			second := a.snapshot("pop", dir{"x": "2"})
			between := time.Unix(0, r.stamp)
			was := r.stamp
			r.stamp += shift
			wrong := a.snapshot("pop", dir{"x": "with the wrong clock"})
			r.stamp = was
			last := a.snapshot("pop", dir{"x": "3"})
			next := r.agent(a.key)
			next.entry(format.Entry{Continues: []format.Head{{Chain: a.scope.Chain, Seq: a.seq, Hash: a.prev}}})
			newest := next.snapshot("pop", dir{"x": "4"})
			var f findings
			v, err := r.view(&f)
			r.must(err)
			if got, want := hashes(v.Snapshots("pop")), []format.Hash{newest, last, wrong, second, first}; !slices.Equal(got, want) {
				t.Errorf("snapshots are %v, want %v", got, want)
			}
			if len(f.about("", "contradicts")) != 1 || len(f.about("", wrong.String())) != 1 {
				t.Errorf("findings %v, want one about %s", f.list, wrong)
			}
			if s, err := v.Pick("pop", "", time.Unix(0, was+int64(30*time.Second))); err != nil || s.Hash != wrong {
				t.Errorf("before the last: %v, %v", s.Hash, err)
			}
			if s, err := v.Pick("pop", "", between.Add(-time.Hour)); err == nil {
				t.Errorf("before the first: %v", s.Hash)
			}
		})
	}
}

// TestPickFuture: what is dated after now gives way, and is told.
func TestPickFuture(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	good := a.snapshot("pop", dir{"x": "1"})
	b := r.enrol()
	r.publish()
	r.stamp = time.Now().Add(48 * time.Hour).UnixNano()
	if r.stamp < epoch.UnixNano() {
		r.stamp = epoch.Add(48 * time.Hour).UnixNano()
	}
	future := b.snapshot("pop", dir{"x": "2"})
	ch, _, err := embassy.FindCharter(t.Context(), r.members, r.nation, r.root.Signer().Verifier(), nil)
	r.must(err)
	keys, err := embassy.RootKeys(ch, r.root)
	r.must(err)
	var f findings
	v, err := embassy.OpenView(t.Context(), embassy.ViewOptions{Keys: keys, Members: r.members, Warn: f.add,
		Now: func() time.Time { return time.Unix(0, r.stamp).Add(-47 * time.Hour) }})
	r.must(err)
	if s, err := v.Pick("pop", "latest", time.Time{}); err != nil || s.Hash != good {
		t.Errorf("latest is %v, %v", s.Hash, err)
	}
	if s, err := v.Pick("pop", future.String(), time.Time{}); err != nil || s.Hash != future {
		t.Errorf("by name: %v, %v", s.Hash, err)
	}
	if len(f.about("", "after now")) != 1 {
		t.Errorf("findings %v", f.list)
	}
}
