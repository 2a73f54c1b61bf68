package embassy_test

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"embassy/embassy"
	"embassy/embassy/format"
	"embassy/targets"
)

// A host that is the only one to have an entry lists it and withholds it.
func TestReplicateTellsOfWithheldEntry(t *testing.T) {
	s := newSite(t, 3, 1)
	s.fill(1, 4, 3000)
	s.mustBackup(0)
	s.wrap = func(i int, t targets.Target) targets.Target { return unreachable(max(i, 1))(i, t) }
	s.fill(2, 4, 3000)
	s.mustBackup(0)
	s.wrap = nil
	r := s.replicator()
	r.wrap = func(i int, tgt targets.Target) targets.Target {
		return &targets.Faulty{Target: tgt, Before: func(op targets.Op, name string) error {
			if i == 0 && op == targets.OpGet && strings.Contains(name, "/0000000000000002-") {
				return targets.ErrNotFound
			}
			return nil
		}}
	}
	rep, err := r.start().Replicate(t.Context(), embassy.ReplicateOptions{})
	if err != nil || rep.Exit == 0 && len(r.kinds()) == 0 {
		t.Fatalf("exit %d, faults %v, findings %v: %+v", rep.Exit, r.kinds(), r.findings, rep.Targets)
	}
}

// Somebody with an agent's credentials put a hundred names that are no entries
// on every target. What the agent signs is still copied, or it is said.
func TestReplicateJunkHidesNoEntries(t *testing.T) {
	s := newSite(t, 3, 1)
	s.fill(1, 4, 3000)
	s.mustBackup(0)
	folder := filepath.Dir(filepath.Dir(s.one(0, "/ledger/")))
	for i := range 101 {
		junk := fmt.Appendf(nil, "junk %d", i)
		for _, m := range s.mems {
			plant(t, m, fmt.Sprintf("%s/%s/%016x-%s", folder, format.ID{}, 1, format.HashOf(junk)), junk)
		}
	}
	r := s.replicator()
	r.start().Replicate(t.Context(), embassy.ReplicateOptions{})
	s.wrap = func(i int, t targets.Target) targets.Target { return unreachable(max(i, 1))(i, t) }
	s.fill(2, 4, 3000)
	s.mustBackup(0)
	rep, err := r.start().Replicate(t.Context(), embassy.ReplicateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if rep.Exit != 5 || rep.Targets[1].Behind > 0 || len(s.objects(1)) < len(s.objects(0)) { // 5: the junk is still there
		t.Fatalf("exit %d, %d objects of %d: %+v", rep.Exit, len(s.objects(1)), len(s.objects(0)), rep.Targets)
	}
}

// listsMore is a store in which somebody put names without end.
type listsMore struct{ targets.Target }

func (l listsMore) List(ctx context.Context, prefix string) iter.Seq2[targets.Info, error] {
	if !strings.Contains(prefix, "/ledger/") {
		return l.Target.List(ctx, prefix)
	}
	return func(yield func(targets.Info, error) bool) {
		for i, err := range l.Target.List(ctx, prefix) {
			if !yield(i, err) {
				return
			}
		}
		for i := range 1<<18 + 1 {
			if !yield(targets.Info{Name: fmt.Sprintf("%sz%08x", prefix, i), Size: 1}, nil) {
				return
			}
		}
	}
}

func TestVerifyManyNamesAreNoDeadTarget(t *testing.T) {
	s := newSite(t, 3, 1)
	s.fill(1, 4, 3000)
	s.mustBackup(0)
	r := s.replicator()
	r.wrap = func(_ int, tgt targets.Target) targets.Target { return listsMore{tgt} }
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	members := r.members()
	svc, err := embassy.New(embassy.Options{Site: r.config, Members: members, Catalog: r.catalog})
	if err != nil {
		t.Fatal(err)
	}
	svc.RenewLocks(ctx) // opens no atlas without locks
	svc.Verify(ctx, embassy.VerifyOptions{})
	for _, m := range members {
		if m.Down() != nil {
			t.Errorf("%s counts as dead: %v", m.Name, m.Down())
		}
	}
}

// other signs another entry in the place of the agent's first n.
func (a *agent) other(seq uint64, prev format.Hash, adds []format.Listed) (name string, object []byte) {
	e := format.Entry{Nation: a.r.nation, Compartment: a.r.comp, Agent: a.scope.Agent, Chain: a.scope.Chain,
		Seq: seq, Prev: prev, Time: 7, Adds: adds}
	object, err := format.SealEntry(e, a.key.Signer)
	a.r.must(err)
	return format.EntryName(e.Nation, e.Compartment, e.Agent, e.Chain, seq, format.HashOf(object)), object
}

// Who captured an agent's key forks its chain at the first entry: what was
// known before is verified, mended and locked as it was.
func TestVerifyForkKeepsThePast(t *testing.T) {
	r, a := newRepo(t, 2, "pop")
	a.add(format.KindRecord, random(1, 50))
	a.entry(format.Entry{})
	a.add(format.KindRecord, random(2, 50))
	a.entry(format.Entry{})
	cat := newMemCatalog()
	before, err := r.service(cat).Verify(t.Context(), embassy.VerifyOptions{})
	r.must(err)
	name, object := a.other(1, format.Hash{}, nil)
	r.putOn(0, name, object)
	if err := r.mems[1].Delete(t.Context(), r.names(1, "/record/")[0]); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		rep, err := r.service(cat).Verify(t.Context(), embassy.VerifyOptions{Repair: true})
		if err != nil || rep.Targets[1].Listed < before.Targets[1].Listed {
			t.Errorf("listed %d, before the fork %d, mended %d, exit %d, %v", rep.Targets[1].Listed, before.Targets[1].Listed, rep.Targets[1].Repaired, rep.Exit, err)
		}
	}
}

// A revocation names the last good entry by its hash.
func TestReplicateRevocationByHash(t *testing.T) {
	for _, both := range []bool{true, false} {
		r, a := newRepo(t, 2, "pop")
		a.add(format.KindRecord, random(1, 50))
		first := a.entry(format.Entry{})
		prev := a.prev
		a.add(format.KindRecord, random(2, 50))
		second := a.entry(format.Entry{})
		good := a.prev
		name, object := a.other(2, prev, nil)
		r.putOn(0, name, object)
		for _, n := range []string{first, second} {
			if err := r.mems[1].Delete(t.Context(), n); err != nil {
				t.Fatal(err)
			}
		}
		if !both {
			if err := r.mems[0].Delete(t.Context(), second); err != nil {
				t.Fatal(err)
			}
		}
		r.charter.Agents[0].Status = format.AgentRevoked
		r.charter.Agents[0].After = []format.Head{{Chain: a.scope.Chain, Seq: 2, Hash: good}}
		r.charter.Seq, r.charter.Prev = 2, format.HashOf(r.get(0, r.names(0, "/charter/")[0]))
		r.publish()
		rep, err := r.service(newMemCatalog()).Replicate(t.Context(), embassy.ReplicateOptions{})
		r.must(err)
		got := slices.Collect(maps.Keys(content(t, r.mems[1])))
		if both && !slices.Contains(got, second) {
			t.Errorf("what the charter vouches for is not copied: %d entries, exit %d", len(got), rep.Exit)
		}
		if slices.Contains(got, name) {
			t.Errorf("what the charter does not vouch for is copied, exit %d", rep.Exit)
		}
		if !both && (rep.Exit != 4 || rep.Targets[1].Behind != 2) {
			t.Errorf("what the charter vouches for is nowhere, exit %d: %+v", rep.Exit, rep.Targets[1])
		}
	}
}

// The clock was a year ahead once: a rollback is noticed all the same.
func TestReplicateRollbackAfterWrongClock(t *testing.T) {
	s := newSite(t, 3, 2)
	s.fill(1, 4, 3000)
	s.mustBackup(0)
	early := clone(t, s.mems[1])
	s.fill(2, 4, 3000)
	s.mustBackup(0)
	r := s.replicator()
	svc, err := embassy.New(embassy.Options{Site: r.config, Members: r.members(), Catalog: r.catalog,
		Now: func() time.Time { return time.Now().AddDate(1, 0, 0) }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := svc.Replicate(t.Context(), embassy.ReplicateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.mems[1] = early
	r.mems = s.mems
	rep, err := r.start().Replicate(t.Context(), embassy.ReplicateOptions{})
	if err != nil || rep.Exit != 5 {
		t.Fatalf("exit %d, faults %v: %+v, %v", rep.Exit, r.kinds(), rep, err)
	}
}

// An agent lists what it never put: no target lost it.
func TestVerifyNeverPutIsNoLoss(t *testing.T) {
	r, a := newRepo(t, 2, "pop")
	name, object := a.other(1, format.Hash{}, []format.Listed{{Kind: format.KindRecord, Hash: format.HashOf([]byte("never")), Size: 5}})
	r.put(name, object)
	cat := newMemCatalog()
	rep, err := r.service(cat).Verify(t.Context(), embassy.VerifyOptions{Repair: true})
	r.must(err)
	faults, _ := cat.Faults("")
	for _, f := range faults {
		if f.Target != "" {
			t.Errorf("exit %d: %s %s: %s", rep.Exit, f.Target, f.Kind, f.Text)
		}
	}
}

// An entry in the middle that a target lost is told, also when it is put back
// by a replication.
func TestReplicateTellsOfLossInTheMiddle(t *testing.T) {
	s := threeBackups(t)
	r := s.replicator()
	r.replicate(0, embassy.ReplicateOptions{})
	if err := s.mems[1].Delete(t.Context(), s.holding(1, "/ledger/")[1]); err != nil {
		t.Fatal(err)
	}
	rep, err := r.start().Replicate(t.Context(), embassy.ReplicateOptions{})
	if err != nil || rep.Exit == 0 && len(r.kinds()) == 0 && len(r.findings) == 0 {
		t.Fatalf("a lost entry was put back without a word: %+v", rep.Targets[1])
	}
}

// What was booked against a name is forgiven when the name is gone. A newest
// entry with other bytes is damaged, and not forged.
func TestReplicateForgivesWhatIsGone(t *testing.T) {
	s := threeBackups(t)
	last := s.one(0, "/ledger/", "/0000000000000003-")
	entry := bytesOf(t, s.mems[0], last)
	rotten := slices.Clone(entry)
	rotten[len(rotten)/2] ^= 1
	junk := []byte("no entry")
	forged := fmt.Sprintf("%s/%016x-%s", filepath.Dir(last), 4, format.HashOf(junk))
	plant(t, s.mems[1], forged, junk)
	for _, m := range s.mems {
		plant(t, m, last, rotten)
	}
	r := s.replicator()
	rep := r.replicate(5, embassy.ReplicateOptions{})
	if got := r.kinds(); got["t0 altered"] != 1 || got["t1 altered"] != 1 || got["t1 forged"] != 1 || len(got) != 4 {
		t.Fatalf("faults %v", got)
	}
	if rep.Targets[0].Behind != 1 {
		t.Errorf("nobody gives the last entry: %+v", rep.Targets[0])
	}
	r.replicate(5, embassy.ReplicateOptions{}) // it is met again, and still behind
	plant(t, s.mems[0], last, entry)
	for _, m := range s.mems[1:] {
		if err := m.Delete(t.Context(), last); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.mems[1].Delete(t.Context(), forged); err != nil {
		t.Fatal(err)
	}
	r.replicate(0, embassy.ReplicateOptions{})
	r.verify(0, embassy.VerifyOptions{})
	r.noFaults()
	s.same()
}

// hastier is a catalog that another job of the same machine fills meanwhile.
type hastier struct {
	embassy.Catalog
	before func(l embassy.Line, e embassy.Known)
}

func (h *hastier) Learn(l embassy.Line, e embassy.Known, adds []format.Listed) error {
	h.before(l, e)
	return h.Catalog.Learn(l, e, adds)
}

// Two jobs at once are shown two branches: the chain is forked, and both go on.
func TestVerifyLearnsAForkMeanwhile(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	a.add(format.KindRecord, random(1, 50))
	a.entry(format.Entry{})
	cat := newMemCatalog()
	other := embassy.Known{Seq: 1, Hash: format.HashOf([]byte("the other branch")), Size: 5}
	_, err := r.service(&hastier{cat, func(l embassy.Line, _ embassy.Known) { r.must(cat.Learn(l, other, nil)) }}).Verify(t.Context(), embassy.VerifyOptions{})
	r.must(err)
	faults, err := cat.Faults("")
	r.must(err)
	if !slices.ContainsFunc(faults, func(f embassy.Fault) bool { return f.Target == "" && f.Kind == embassy.FaultFork }) {
		t.Fatalf("faults %+v", faults)
	}
}

// reading counts how often a known entry is read.
type reading struct {
	embassy.Catalog
	entries int
}

func (c *reading) KnownEntry(l embassy.Line, seq uint64) (embassy.Known, bool, error) {
	c.entries++
	return c.Catalog.KnownEntry(l, seq)
}

// A chain of which nothing is new costs no reads, whatever its length; one that
// is shown otherwise is compared.
func TestReplicateReadsNoKnownEntries(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	var prev format.Hash
	for i := range 20 {
		a.add(format.KindRecord, random(uint64(i), 50))
		a.entry(format.Entry{})
		if i == 8 {
			prev = a.prev
		}
	}
	cat := &reading{Catalog: newMemCatalog()}
	run := func() (exit int) {
		cat.entries = 0
		rep, err := r.service(cat).Replicate(t.Context(), embassy.ReplicateOptions{})
		r.must(err)
		return rep.Exit
	}
	run()
	if exit := run(); exit != 0 || cat.entries != 0 {
		t.Errorf("exit %d, %d entries read again", exit, cat.entries)
	}
	name, object := a.other(10, prev, nil)
	r.put(name, object)
	for _, n := range r.names(0, fmt.Sprintf("/%016x-", 10)) {
		if n != name {
			r.must(r.mems[0].Delete(t.Context(), n))
		}
	}
	if exit := run(); exit != 5 || cat.entries < 20 {
		t.Errorf("another branch in the place of a known entry: exit %d, %d entries read", exit, cat.entries)
	}
}

// A backup lists another agent's ledger from the last entry on that a target
// showed: while that is there, what was before is for a replication to miss.
func TestBackupListsWhatIsNew(t *testing.T) {
	s := newSite(t, 2, 1)
	n := s.neighbour()
	for seed := range uint64(5) {
		s.fill(seed, 2, 100)
		s.mustBackup(0)
	}
	third, last := s.one(0, "/ledger/", "/0000000000000003-"), s.one(0, "/ledger/", "/0000000000000005-")
	n.fill(1, 2, 100)
	n.mustBackup(0)
	without := func(name string, kinds ...embassy.FaultKind) {
		t.Helper()
		if err := s.mems[0].Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		if _, err := n.backup(t.Context()); err != nil {
			t.Fatal(err)
		}
		var got []embassy.FaultKind
		found, err := n.catalog.Faults("t0")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			got = append(got, f.Kind)
		}
		if !slices.Equal(got, kinds) {
			t.Errorf("without %s the book has %v, want %v", name, got, kinds)
		}
	}
	without(third)
	n.replicate(5, embassy.ReplicateOptions{})
	copyObject(t, s.mems[1], s.mems[0], third)
	without(last, embassy.FaultRollback)
}
