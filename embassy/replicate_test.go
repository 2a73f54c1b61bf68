package embassy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"embassy/embassy"
	"embassy/embassy/config"
	"embassy/embassy/format"
	"embassy/targets"
)

// replicator is a machine that knows the targets and the nation's public key,
// and nothing else. It keeps its catalog.
func (s *site) replicator() *site {
	s.t.Helper()
	verifier := s.root.Signer().Verifier()
	r := &site{t: s.t, dir: s.t.TempDir(), mems: s.mems, catalog: newMemCatalog(), root: s.root}
	r.config = &config.Config{
		File: "embassy.yaml", Nation: s.config.Nation, StateDir: filepath.Join(r.dir, "state"), Targets: s.config.Targets,
		NationKey: format.NationKey{Nation: format.NationID(verifier, s.root.Identity().Recipient()), Signer: verifier},
	}
	return r
}

// replicate runs one process and expects the exit code.
func (s *site) replicate(exit int, o embassy.ReplicateOptions) embassy.ReplicateReport {
	s.t.Helper()
	rep, err := s.start().Replicate(s.t.Context(), o)
	if err != nil {
		s.t.Fatal(err)
	}
	if rep.Exit != exit {
		s.t.Fatalf("exit code %d, want %d: %+v\n%v", rep.Exit, exit, rep, s.findings)
	}
	return rep
}

// unreachable makes every operation on one target fail.
func unreachable(which int) func(int, targets.Target) targets.Target {
	return func(i int, t targets.Target) targets.Target {
		if i != which {
			return t
		}
		return &targets.Faulty{Target: t, Before: func(targets.Op, string) error { return errors.New("connection refused") }}
	}
}

// one returns the only name on a target that holds all of the texts.
func (s *site) one(i int, texts ...string) string {
	s.t.Helper()
	var found []string
names:
	for name := range s.objects(i) {
		for _, text := range texts {
			if !strings.Contains(name, text) {
				continue names
			}
		}
		found = append(found, name)
	}
	if len(found) != 1 {
		s.t.Fatalf("target %d: %d names hold %q", i, len(found), texts)
	}
	return found[0]
}

func TestReplicateToReturningTarget(t *testing.T) {
	s := newSite(t, 3, 2)
	s.fill(1, 6, 3000)
	s.mustBackup(0)
	s.wrap = unreachable(2)
	s.fill(2, 6, 3000)
	s.mustBackup(0)
	s.wrap = nil
	r := s.replicator()
	dry := r.replicate(0, embassy.ReplicateOptions{DryRun: true})
	if dry.Targets[2].Behind != 1 || dry.Targets[2].Objects == 0 || s.count(2, "ledger") != 0 && len(s.objects(2)) == len(s.objects(0)) {
		t.Fatalf("dry run: %+v", dry.Targets[2])
	}
	rep := r.replicate(0, embassy.ReplicateOptions{})
	got := rep.Targets[2]
	if got.Objects != dry.Targets[2].Objects || got.Bytes != dry.Targets[2].Bytes || got.Entries != 1 || got.Behind != 0 {
		t.Errorf("copied %+v, the dry run promised %+v", got, dry.Targets[2])
	}
	s.same()
	for i := range s.mems {
		s.restore(i)
	}
	again := r.replicate(0, embassy.ReplicateOptions{})
	for _, target := range again.Targets {
		if target.Objects+target.Entries > 0 {
			t.Errorf("copied again: %+v", target)
		}
	}
}

func TestReplicateToNewTarget(t *testing.T) {
	s := newSite(t, 3, 2)
	for seed := range uint64(4) {
		s.fill(seed, 4, 3000)
		s.mustBackup(0)
	}
	s.mems[2] = targets.NewMem()
	s.replicator().replicate(0, embassy.ReplicateOptions{})
	s.same()
	s.restore(2)
}

// What no target has yet comes from the spool of the machine that wrote it.
func TestReplicateDrainsSpool(t *testing.T) {
	s := newSite(t, 3, 2)
	s.fill(1, 6, 3000)
	s.wrap = func(_ int, t targets.Target) targets.Target { return unreachable(0)(0, t) }
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Second, cancel) // the second chance of a run that holds no rule
	defer cancel()
	if rep, err := s.backup(ctx); err == nil && rep.Exit != 4 {
		t.Fatalf("a backup to nowhere: %+v", rep)
	}
	s.wrap = nil
	s.replicate(0, embassy.ReplicateOptions{})
	s.same()
	s.restore(1)
}

func TestReplicateCrashAtEveryStep(t *testing.T) {
	if testing.Short() {
		t.Skip("crashes at every step: left out with -short")
	}
	base := newSite(t, 3, 2)
	base.fill(1, 4, 3000)
	base.mustBackup(0)
	base.fill(2, 4, 3000)
	base.mustBackup(0)
	full := base.mems[2]
	for _, after := range []bool{false, true} {
		steps := 0
		for done := false; !done; steps++ {
			base.mems[2] = targets.NewMem()
			r := base.replicator()
			ctx, cancel := context.WithCancel(t.Context())
			f := &fuse{left: steps, after: after, cancel: cancel}
			r.wrap = f.wrap
			rep, err := r.start().Replicate(ctx, embassy.ReplicateOptions{})
			cancel()
			if done = !f.blown; f.blown && err == nil && rep.Exit == 0 {
				t.Fatalf("step %d: a killed run reports success", steps)
			}
			r.wrap = nil
			if v, err := base.view(2); err == nil {
				for _, snap := range v.Snapshots("") {
					whole(t, v, snap)
				}
			}
			r.replicate(0, embassy.ReplicateOptions{})
			base.same()
		}
		if steps < 15 {
			t.Fatalf("only %d steps: the fuse does not burn", steps)
		}
	}
	if !maps.Equal(base.objects(0), func() map[string]int64 { base.mems[2] = full; return base.objects(2) }()) {
		t.Fatal("the targets that were whole have changed")
	}
}

func TestReplicateShards(t *testing.T) {
	s := newSite(t, 3, 2)
	for seed := range uint64(5) {
		s.fill(seed, 4, 3000)
		s.mustBackup(0)
	}
	s.mems[2] = targets.NewMem()
	want := uint64(s.count(0, "pack") + s.count(0, "index") + s.count(0, "snapshot"))
	var sum uint64
	const shards = 3
	for i := range shards {
		rep, err := s.replicator().start().Replicate(t.Context(), embassy.ReplicateOptions{Shard: i, Shards: shards})
		if err != nil {
			t.Fatal(err)
		}
		sum += rep.Targets[2].Objects
		exit := 4
		if sum == want { // chance may leave a later shard nothing
			exit = 0
		}
		if rep.Exit != exit {
			t.Fatalf("shard %d, %d of %d objects copied: exit code %d, want %d", i, sum, want, rep.Exit, exit)
		}
	}
	s.same()
	if sum != want {
		t.Errorf("%d objects copied, there are %d", sum, want)
	}
}

// kinds returns the faults that a machine has in its book, by target.
func (s *site) kinds() map[string]int {
	faults, err := s.catalog.Faults("")
	if err != nil {
		s.t.Fatal(err)
	}
	out := map[string]int{}
	for _, f := range faults {
		out[f.Target+" "+string(f.Kind)]++
	}
	return out
}

func TestReplicateRollback(t *testing.T) {
	s := newSite(t, 3, 2)
	s.fill(1, 4, 3000)
	s.mustBackup(0)
	early := clone(t, s.mems[1])
	s.fill(2, 4, 3000)
	s.mustBackup(0)
	r := s.replicator()
	r.replicate(0, embassy.ReplicateOptions{})
	now := s.mems[1]
	s.mems[1] = early
	before := s.objects(1)
	for range 2 { // a restart forgets nothing
		r.replicate(5, embassy.ReplicateOptions{})
		if got := r.kinds(); got["t1 rollback"] != 1 || len(got) != 1 {
			t.Fatalf("faults %v", got)
		}
	}
	if !maps.Equal(before, s.objects(1)) {
		t.Error("a target that was rolled back was written to")
	}
	s.mems[1] = now
	since := ""
	for range 2 { // that it shows all again explains nothing
		r.replicate(5, embassy.ReplicateOptions{})
		faults, err := r.catalog.Faults("t1")
		if err != nil || len(faults) != 1 || !strings.Contains(faults[0].Text, "shows all again since") || since != "" && since != faults[0].Text {
			t.Fatalf("faults %+v, %v", faults, err)
		}
		since = faults[0].Text
	}
	if rep := r.replicate(0, embassy.ReplicateOptions{Targets: []string{"t0", "t2"}}); len(rep.Targets) != 2 {
		t.Errorf("a run about the others: %+v", rep)
	}
	if _, err := r.start().Trust(t.Context(), "t1", "the listing was cached"); err != nil {
		t.Fatal(err)
	}
	r.replicate(0, embassy.ReplicateOptions{})
	if got := r.kinds(); len(got) != 0 {
		t.Errorf("trusted, and still: %v", got)
	}
}

// The writer itself lost its catalog: what its entries say of the targets is
// enough to notice a rollback.
func TestRollbackNoticedWithoutCatalog(t *testing.T) {
	t.Parallel() // it waits most of the time
	s := newSite(t, 3, 2)
	for seed := range uint64(2) {
		s.fill(seed, 4, 3000)
		s.mustBackup(0)
	}
	early := clone(t, s.mems[1])
	for name := range s.objects(1) {
		if strings.Contains(name, "/ledger/") {
			if err := early.Delete(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.fill(3, 4, 3000)
	s.mustBackup(0)
	s.mems[1] = early
	s.catalog = newMemCatalog()
	s.fill(4, 4, 3000)
	s.mustBackup(5)
	if got := s.kinds(); got["t1 rollback"] != 1 {
		t.Errorf("faults %v", got)
	}
}

func TestReplicateForgedEntry(t *testing.T) {
	s := newSite(t, 3, 2)
	s.fill(1, 4, 3000)
	s.mustBackup(0)
	entry := s.one(0, "/ledger/", "0000000000000001-")
	forged := []byte("no entry at all")
	name := fmt.Sprintf("%s/%016x-%s", filepath.Dir(entry), 2, format.HashOf(forged))
	if err := s.mems[1].Put(t.Context(), targets.Object{Name: name, Data: forged}); err != nil {
		t.Fatal(err)
	}
	r := s.replicator()
	r.replicate(5, embassy.ReplicateOptions{})
	if got := r.kinds(); got["t1 forged"] != 1 || len(got) != 1 {
		t.Errorf("faults %v", got)
	}
	s.fill(2, 4, 3000)
	s.mustBackup(0)
	if s.count(2, "ledger") != 2 {
		t.Error("the forgery spread, or the true entry did not")
	}
}

// Two machines with one state directory: the chain is frozen where they part.
func TestReplicateFork(t *testing.T) {
	s := newSite(t, 4, 1)
	s.fill(1, 4, 3000)
	s.mustBackup(0)
	r := s.replicator()
	r.replicate(0, embassy.ReplicateOptions{})
	twin := s.clone(t)
	twin.wrap = func(i int, t targets.Target) targets.Target { return unreachable(max(i, 1))(i, t) } // only target 0
	twin.fill(2, 4, 3000)
	twin.mustBackup(0)
	s.wrap = func(i int, t targets.Target) targets.Target {
		if i == 3 {
			return t
		}
		return unreachable(i)(i, t)
	}
	s.fill(3, 4, 3000)
	s.mustBackup(0)
	r.replicate(5, embassy.ReplicateOptions{})
	if got := r.kinds(); got[" fork"] != 1 || len(got) != 1 {
		t.Errorf("faults %v", got)
	}
	if s.count(1, "ledger") != 1 || s.count(0, "ledger") != 2 || s.count(3, "ledger") != 2 {
		t.Errorf("entries %d %d %d: both branches stay, none spreads", s.count(0, "ledger"), s.count(1, "ledger"), s.count(3, "ledger"))
	}
}

// clone is a second machine with the same state directory.
func (s *site) clone(t *testing.T) *site {
	t.Helper()
	c := newSite(t, len(s.mems), 1)
	c.mems, c.root = s.mems, s.root
	if err := os.RemoveAll(c.config.StateDir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(c.config.StateDir, os.DirFS(s.config.StateDir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(c.config.StateDir, "agent.key"), 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

// A source that has a bad copy is named, and another one serves.
func TestReplicateFromBadSource(t *testing.T) {
	s := newSite(t, 3, 2)
	s.fill(1, 4, 3000)
	s.mustBackup(0)
	pack := s.one(0, "/pack/")
	if err := s.mems[0].Put(t.Context(), targets.Object{Name: pack, Data: make([]byte, s.objects(0)[pack])}); err != nil {
		t.Fatal(err)
	}
	s.mems[2] = targets.NewMem()
	r := s.replicator()
	r.replicate(5, embassy.ReplicateOptions{})
	if got := r.kinds(); got["t0 altered"] != 1 || len(got) != 1 {
		t.Errorf("faults %v", got)
	}
	s.restore(2)
}

// A host that says that it stored, and keeps nothing.
func TestHostThatDiscards(t *testing.T) {
	t.Parallel() // it waits most of the time
	s := newSite(t, 3, 2)
	s.fill(1, 4, 3000)
	s.mustBackup(0)
	s.wrap = func(i int, t targets.Target) targets.Target {
		if i == 1 {
			return discarder{t}
		}
		return t
	}
	s.fill(2, 4, 3000)
	rep := s.mustBackup(5)
	if got := s.kinds(); got["t1 discards"] != 1 || !errors.Is(rep.Targets[1].Err, embassy.ErrDiscards) {
		t.Errorf("faults %v, report %+v", got, rep.Targets)
	}
	s.wrap = nil
	s.restore(0)
	r := s.replicator()
	r.wrap = func(i int, t targets.Target) targets.Target {
		if i == 1 {
			return discarder{t}
		}
		return t
	}
	r.replicate(5, embassy.ReplicateOptions{})
	if got := r.kinds(); got["t1 discards"] != 1 {
		t.Errorf("faults of the replicator %v", got)
	}
}

type discarder struct{ targets.Target }

func (discarder) Put(context.Context, targets.Object) error { return nil }

// breaking is a store that fails over some objects, and answers else.
type breaking struct {
	targets.Target
	broken func(name string) bool
}

func (b breaking) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	if b.broken(name) {
		return nil, targets.ErrUnreadable
	}
	return b.Target.Get(ctx, name, offset, length)
}

// A store that fails over one object, as with a bad sector below it, is not a
// dead one: the object is mended, and everything else is verified.
func TestUnreadableObjectIsMended(t *testing.T) {
	t.Parallel() // it waits most of the time
	s := newSite(t, 3, 2)
	for seed := range uint64(3) {
		s.fill(seed, 4, 3000)
		s.mustBackup(0)
	}
	name := s.one(1, "/ledger/", "0000000000000002-")
	entry := s.objects(1)[name]
	r := s.replicator()
	var mended atomic.Bool
	r.wrap = func(i int, t targets.Target) targets.Target {
		if i != 1 {
			return t
		}
		return &targets.Faulty{
			Target: breaking{t, func(n string) bool { return n == name && !mended.Load() }},
			After: func(op targets.Op, n string) error {
				if op == targets.OpPut && n == name {
					mended.Store(true)
				}
				return nil
			},
		}
	}
	rep, err := r.start().Verify(t.Context(), embassy.VerifyOptions{Level: embassy.Full})
	if err != nil {
		t.Fatal(err)
	}
	got := rep.Targets[1]
	if rep.Exit != 5 || got.Err != nil || got.BadTotal != 1 || got.Bad[0].Kind != embassy.FaultCut || got.Bad[0].Object != name {
		t.Fatalf("%+v", rep)
	}
	if rep, err = r.start().Verify(t.Context(), embassy.VerifyOptions{Level: embassy.Full, Repair: true}); err != nil || rep.Exit != 0 || rep.Targets[1].Repaired != 1 {
		t.Fatalf("%+v, %v", rep, err)
	}
	if s.objects(1)[name] != entry {
		t.Error("the entry is another one")
	}
}

// Chains that wait for one another in turn are brought by one replication, of an
// agent as of a replicator.
func TestReplicateInTurn(t *testing.T) {
	for _, agent := range []bool{true, false} {
		s := newSite(t, 3, 1)
		n := s.neighbour()
		s.wrap, n.wrap = onlyTo(0, 1), onlyTo(0, 1)
		all := []*site{s, n}
		for run := range 10 { // what one stores, the other refers to, and stores more
			for i := range all {
				all[(run+i)%2].write(fmt.Sprintf("run%d", run), random(uint64(run), 5000))
				all[(run+i)%2].mustBackup(0)
			}
		}
		s.wrap = nil
		by := s
		if !agent {
			by = s.replicator()
		}
		by.replicate(0, embassy.ReplicateOptions{})
		s.restoresAll(2)
		for _, a := range all {
			if names := a.ledgerOf(a.agentID()); len(a.named(2, a.agentID().String()+"/ledger/")) != len(names) || len(names) < 10 {
				t.Errorf("%d entries of an agent, and not all are brought", len(names))
			}
		}
	}
}
