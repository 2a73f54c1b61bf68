package embassy_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"embassy/embassy"
	"embassy/embassy/policy"
	"embassy/targets"
)

// forget keeps the newest so many of everything, however young the others are.
// It expects so many to go.
func (s *site) forget(last, gone int) embassy.ForgetReport {
	s.t.Helper()
	rep, err := s.start().Forget(s.t.Context(), embassy.ForgetOptions{Keep: &policy.Retention{Last: last}, MinAge: new(time.Duration)})
	if err != nil || rep.Exit != 0 || rep.Forgotten != gone {
		s.t.Fatalf("%d forgotten, want %d; %+v, %v", rep.Forgotten, gone, rep, err)
	}
	return rep
}

// prune runs one process without a grace period.
func (s *site) prune(exit int) embassy.PruneReport {
	s.t.Helper()
	rep, err := s.start().Prune(s.t.Context(), embassy.PruneOptions{MaxRemove: 1})
	if err != nil || rep.Exit != exit {
		s.t.Fatalf("exit code %d, want %d: %+v, %v\n%v", rep.Exit, exit, rep, err, s.findings)
	}
	return rep
}

// wipe empties the sources.
func (s *site) wipe() {
	s.t.Helper()
	if err := os.RemoveAll(s.src); err != nil {
		s.t.Fatal(err)
	}
	if err := os.MkdirAll(s.src, 0o755); err != nil {
		s.t.Fatal(err)
	}
}

// bytes is what a target holds of one kind.
func (s *site) bytes(i int, kind string) (sum int64) {
	for name, size := range s.objects(i) {
		if strings.Contains(name, "/"+kind+"/") {
			sum += size
		}
	}
	return sum
}

// verified fails unless a verification of every snapshot finds nothing.
func (s *site) verified() {
	s.t.Helper()
	keys, err := s.keys(0, s.root)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, level := range []embassy.VerifyLevel{embassy.Full, embassy.Decrypt} {
		if rep, err := s.start().Verify(s.t.Context(), embassy.VerifyOptions{Level: level, Keys: keys}); err != nil || rep.Exit != 0 {
			s.t.Fatalf("verify: %+v, %v\n%v", rep, err, s.findings)
		}
	}
}

func TestPrune(t *testing.T) {
	s := newSite(t, 3, 2)
	for seed := range uint64(5) {
		s.wipe()
		s.fill(seed, 6, 60000)
		s.write("big", random(seed, 300_000))
		s.mustBackup(0)
	}
	before := s.bytes(0, "pack")
	all := s.count(0, "pack")
	v, err := s.view(0)
	if err != nil || len(v.Snapshots("")) != 5 {
		t.Fatal(v, err)
	}
	s.forget(1, 4)
	for i := range s.mems {
		if v, err := s.view(i); err != nil || len(v.Snapshots("")) != 1 {
			t.Fatalf("target %d alone shows %d snapshots, %v", i, len(v.Snapshots("")), err)
		}
	}
	first := s.prune(0)
	c := first.Compartments[0]
	if c.Marked == 0 || c.Deletable != 0 || s.count(0, "pack") != all {
		t.Fatalf("the first run: %+v, %d of %d packs left", first, s.count(0, "pack"), all)
	}
	second := s.prune(0)
	if c := second.Compartments[0]; c.Marked != 0 || c.Deletable != first.Compartments[0].Marked {
		t.Fatalf("the second run: %+v", second)
	}
	for i, target := range second.Targets {
		if target.Objects != c.Marked || s.bytes(i, "pack") >= before || s.count(i, "snapshot") != 1 {
			t.Errorf("target %d: %+v; %d bytes of packs, %d before; %d snapshots", i, target, s.bytes(i, "pack"), before, s.count(i, "snapshot"))
		}
		s.restore(i)
	}
	s.same()
	s.verified()
	kept := s.objects(0)
	if third := s.prune(0); third.Compartments[0].Marked+third.Compartments[0].Deletable+third.Targets[0].Objects != 0 {
		t.Errorf("a third run has something to do: %+v", third)
	}
	if !maps.Equal(kept, s.objects(0)) {
		t.Error("a run with nothing to do changed a target")
	}
	s.replicator().replicate(0, embassy.ReplicateOptions{})
	s.same()

	// What is stored now is stored whole, though its chunks were known once.
	s.wipe()
	s.fill(0, 6, 60000)
	s.write("big", random(0, 300_000))
	s.mustBackup(0)
	for i := range s.mems {
		s.restore(i)
	}
	s.verified()
	// A new catalog learns what is left, and no more.
	s.catalog = newMemCatalog()
	if rep := s.mustBackup(0); rep.Packs != 0 {
		t.Errorf("%d packs were stored once more", rep.Packs)
	}
	s.verified()
	s.replicate(0, embassy.ReplicateOptions{})
}

// What was deleted and appears again is deleted again; a target that lacks what
// is kept loses nothing.
func TestPruneReappears(t *testing.T) {
	s := newSite(t, 2, 1)
	s.fill(1, 6, 60000)
	s.mustBackup(0)
	old := clone(t, s.mems[1])
	s.wipe()
	s.fill(2, 6, 60000)
	s.mustBackup(0)
	s.forget(1, 1)
	s.prune(0)
	s.prune(0)
	left := s.objects(1)
	for info, err := range old.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		copyObject(t, old, s.mems[1], info.Name)
	}
	if len(s.objects(1)) == len(left) {
		t.Fatal("nothing was put back")
	}
	if rep := s.prune(0); rep.Targets[1].Objects == 0 || rep.Targets[0].Objects != 0 {
		t.Errorf("%+v", rep)
	}
	if got := s.objects(1); !maps.Equal(got, left) {
		t.Errorf("%d objects, want %d", len(got), len(left))
	}

	s.wipe()
	s.fill(3, 6, 60000)
	s.mustBackup(0)
	s.forget(1, 1)
	s.prune(0)
	there, lost := s.objects(1), ""
	for name := range there {
		if _, old := left[name]; !old && strings.Contains(name, "/pack/") {
			lost = name
		}
	}
	if err := s.mems[1].Delete(t.Context(), lost); err != nil {
		t.Fatal(err)
	}
	rep := s.prune(4)
	if rep.Targets[1].Objects != 0 || !errors.Is(rep.Targets[1].Err, embassy.ErrLacks) || rep.Targets[0].Objects == 0 {
		t.Errorf("a target that lost a pack: %+v", rep.Targets)
	}
	copyObject(t, s.mems[0], s.mems[1], lost)
	if rep := s.prune(0); rep.Targets[1].Objects == 0 {
		t.Errorf("the pack is back: %+v", rep.Targets)
	}
	s.same()
	s.verified()
}

// Nothing goes before every agent that may write has read the mark.
func TestPruneFence(t *testing.T) {
	s := newSite(t, 3, 2)
	n := s.neighbour()
	for seed := range uint64(3) {
		s.wipe()
		n.wipe()
		s.fill(seed, 6, 60000)
		n.fill(seed, 6, 60000) // the same: it reuses what s stored
		s.mustBackup(0)
		n.mustBackup(0)
	}
	if _, err := n.start().Forget(t.Context(), embassy.ForgetOptions{}); !errors.Is(err, embassy.ErrNotSteward) {
		t.Errorf("an agent that is no steward: %v", err)
	}
	if _, err := n.start().Prune(t.Context(), embassy.PruneOptions{}); !errors.Is(err, embassy.ErrNotSteward) {
		t.Errorf("an agent that is no steward: %v", err)
	}
	s.forget(1, 4)
	s.prune(0)
	for range 3 {
		rep := s.prune(0)
		c := rep.Compartments[0]
		if c.Deletable != 0 || c.Waiting == 0 || len(c.Waits) != 1 || !strings.Contains(c.Waits[0], "agent second to back up") {
			t.Fatalf("nothing says that the other agent has read the mark: %+v", c)
		}
		s.mustBackup(0)
	}
	// Back to what was forgotten: its packs are still there, and must not be used.
	n.wipe()
	n.fill(0, 6, 60000)
	if rep := n.mustBackup(0); rep.Packs == 0 {
		t.Fatalf("marked packs were used: %+v", rep)
	}
	rep := s.prune(0)
	if rep.Compartments[0].Deletable == 0 || rep.Targets[2].Objects == 0 {
		t.Fatalf("%+v", rep)
	}
	for i := range s.mems {
		s.restore(i)
	}
	v, err := s.view(1)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.restores("land", v.Snapshots("land")[0].Hash); err != nil {
		t.Error(err)
	}
	s.verified()

	// An agent that is silent blocks, until the charter suspends it.
	n.wipe()
	n.fill(4, 6, 60000)
	n.mustBackup(0)
	s.forget(1, 5)
	s.prune(0)
	if rep := s.prune(0); rep.Compartments[0].Deletable != 0 {
		t.Fatalf("%+v", rep)
	}
	if _, err := s.start().Suspend(t.Context(), embassy.Authority{Root: s.root}, "second"); err != nil {
		t.Fatal(err)
	}
	if rep := s.prune(0); rep.Compartments[0].Deletable == 0 {
		t.Fatalf("%+v", rep)
	}
	s.verified()
}

// An agent's machine was cloned, and what it wrote itself reached nobody before the
// clone wrote: the chain is the clone's, and nothing goes before that has read the mark.
func TestPruneWaitsForClone(t *testing.T) {
	s := newSite(t, 3, 2)
	n := s.neighbour()
	n.write("kept", random(1, 60000))
	n.mustBackup(0)
	n.write("dropped", random(2, 60000))
	n.mustBackup(0)
	twin := n.clone(t)
	twin.config.Datasets[0].Name = "land"
	twin.write("kept", random(1, 60000))
	n.wrap = onlyTo()
	for i := range 2 {
		n.write("more", random(uint64(3+i), 60000))
		n.mustBackup(4)
	}
	twin.mustBackup(0)
	n.wrap = nil
	n.wipe()
	n.write("kept", random(1, 60000))
	n.mustBackup(5) // a new chain
	v, err := s.view(0)
	if err != nil {
		t.Fatal(err)
	}
	rep, err := s.start().Forget(t.Context(), embassy.ForgetOptions{Keep: &policy.Retention{Last: 1}, MinAge: new(time.Duration)})
	if err != nil || rep.Forgotten == 0 || rep.Forgotten >= len(v.Snapshots("")) {
		t.Fatalf("%+v, %v", rep, err)
	}
	if c := s.prune(0).Compartments[0]; c.Marked == 0 {
		t.Fatalf("%+v", c)
	}
	n.mustBackup(0) // has read it
	for range 2 {
		if c := s.prune(0).Compartments[0]; c.Deletable != 0 || len(c.Waits) != 1 || !strings.Contains(c.Waits[0], "clone") {
			t.Errorf("%+v", c)
		}
	}
	twin.mustBackup(0)
	if c := s.prune(0).Compartments[0]; c.Deletable == 0 {
		t.Errorf("once the clone has read the mark: %+v", c)
	}
	s.verified()
}

// What a retirement rests on lies behind a fork, where replicators do not follow. A
// target that was away shows what was retired, and must get what that uses.
func TestPruneSparesRetiredByFork(t *testing.T) {
	s := newSite(t, 3, 1)
	n := s.neighbour()
	s.wrap, n.wrap = onlyTo(0, 1), onlyTo(0, 1)
	n.fill(1, 6, 60000)
	n.mustBackup(0)
	n.wipe()
	n.fill(2, 6, 60000)
	n.mustBackup(0)
	s.forget(1, 1)
	n.wipe()
	n.fill(1, 6, 60000)
	n.wrap = onlyTo()
	n.mustBackup(4) // uses what is marked next
	if c := s.prune(4).Compartments[0]; c.Marked == 0 {
		t.Fatalf("%+v", c)
	}
	n.wrap = onlyTo(0, 1)
	n.wipe()
	n.fill(3, 6, 60000)
	n.mustBackup(0) // has read the mark
	twin := n.clone(t)
	twin.config.Datasets[0].Name = "land"
	twin.wrap, n.wrap = onlyTo(0), onlyTo(1)
	for i, m := range []*site{twin, n} {
		m.fill(uint64(4+i), 6, 60000)
		m.mustBackup(0)
	}
	s.forget(1, 4)
	for range 2 {
		if c := s.prune(4).Compartments[0]; len(c.Waits) == 0 || !strings.Contains(c.Waits[0], "embassy forget") {
			t.Errorf("%+v", c)
		}
	}
	s.wrap, n.wrap = nil, nil
	if _, err := s.replicator().start().Replicate(t.Context(), embassy.ReplicateOptions{}); err != nil {
		t.Fatal(err)
	}
	v, err := s.view(2)
	if err != nil || len(v.Snapshots("land")) != 3 {
		t.Fatalf("%+v, %v", v.Snapshots("land"), err)
	}
	for _, snap := range v.Snapshots("") {
		whole(t, v, snap)
	}
	n.mustBackup(5) // a new chain
	n.fill(6, 6, 60000)
	n.mustBackup(0)
	s.forget(1, 2)
	if c := s.prune(0).Compartments[0]; c.Deletable == 0 {
		t.Errorf("a retirement that rests on the new chain: %+v", c)
	}
}

// A machine was restored from an old copy of its state: what it wrote after that is
// nobody's any more, and a prune says so, rather than to wait for a backup.
func TestPruneWaitsForRestored(t *testing.T) {
	s := newSite(t, 3, 2)
	n := s.neighbour()
	n.runs(0, 3)
	old := n.clone(t)
	old.config.Datasets[0].Name = "land"
	n.runs(3, 2)
	if _, err := old.start().Verify(t.Context(), embassy.VerifyOptions{}); err != nil { // sees what it did not write
		t.Fatal(err)
	}
	old.write("again", random(7, 5000))
	old.mustBackup(5)
	if _, err := s.start().Forget(t.Context(), embassy.ForgetOptions{Keep: &policy.Retention{Last: 1}, MinAge: new(time.Duration)}); err != nil {
		t.Fatal(err)
	}
	s.prune(0)
	old.mustBackup(0)
	if c := s.prune(0).Compartments[0]; c.Deletable != 0 || len(c.Waits) != 1 || !strings.Contains(c.Waits[0], "clone") {
		t.Errorf("%+v", c)
	}
}

// wantedAgain returns a steward, and an agent whose sources hold again what was
// forgotten, and is not marked yet.
func wantedAgain(t *testing.T) (s, n *site) {
	s = newSite(t, 3, 2)
	n = s.neighbour()
	n.fill(1, 6, 60000)
	n.mustBackup(0)
	n.wipe()
	n.fill(2, 6, 60000)
	n.mustBackup(0)
	s.fill(5, 2, 1000)
	s.mustBackup(0)
	s.forget(1, 1)
	n.wipe()
	n.fill(1, 6, 60000)
	return s, n
}

// What a backup that already runs refers to is not deleted, though it was marked
// meanwhile.
func TestPruneBesideBackup(t *testing.T) {
	s, n := wantedAgain(t)

	var marked atomic.Bool
	n.wrap = func(i int, target targets.Target) targets.Target {
		return &targets.Faulty{Target: target, Before: func(op targets.Op, name string) error {
			if op == targets.OpPut && strings.Contains(name, "/snapshot/") && marked.CompareAndSwap(false, true) {
				rep, err := s.start().Prune(t.Context(), embassy.PruneOptions{MaxRemove: 1})
				if err != nil || rep.Compartments[0].Marked == 0 {
					t.Errorf("nothing is marked beside the backup: %+v, %v", rep, err)
				}
			}
			return nil
		}}
	}
	n.config.Compartments[0].Commit.Targets = 2
	rep := n.mustBackup(0)
	n.wrap = nil
	if !marked.Load() || rep.Packs > 1 {
		t.Fatalf("marked %v, %+v", marked.Load(), rep)
	}
	for range 3 {
		s.prune(0)
		n.mustBackup(0)
	}
	if err := n.restores("land", rep.Snapshot); err != nil {
		t.Error(err)
	}
	s.verified()
}

// A prune dies at every operation on any target. What is kept restores from
// each, and the next runs end the work.
func TestPruneCrashAtEveryStep(t *testing.T) {
	if testing.Short() {
		t.Skip("crashes at every step: left out with -short")
	}
	base := newSite(t, 2, 1)
	for seed := range uint64(2) {
		base.wipe()
		base.fill(seed, 3, 3000)
		base.mustBackup(0)
	}
	base.forget(1, 1)
	for _, marked := range []bool{false, true} {
		if marked {
			base.prune(0)
		}
		for _, after := range []bool{false, true} {
			steps := 0
			for done := false; !done; steps++ {
				s := base.clone(t)
				s.src, s.config.Datasets = base.src, base.config.Datasets
				s.mems = []*targets.Mem{clone(t, base.mems[0]), clone(t, base.mems[1])}
				ctx, cancel := context.WithCancel(t.Context())
				f := &fuse{left: steps, after: after, cancel: cancel}
				s.wrap = f.wrap
				rep, err := s.start().Prune(ctx, embassy.PruneOptions{MaxRemove: 1})
				cancel()
				if done = !f.blown; f.blown && err == nil && rep.Exit == 0 {
					t.Fatalf("step %d: a killed run reports success", steps)
				}
				s.wrap = nil
				for i := range s.mems {
					s.restore(i)
				}
				for range 3 {
					s.prune(0)
				}
				if n := s.count(0, "snapshot"); n != 1 || s.count(1, "snapshot") != 1 {
					t.Fatalf("step %d: %d snapshots are left", steps, n)
				}
				s.same()
				s.restore(0)
			}
			if steps < 20 {
				t.Fatalf("only %d steps: the fuse does not burn", steps)
			}
		}
	}
}

// A target that was away keeps what it has until it has what took its place.
func TestPruneTargetAway(t *testing.T) {
	s := newSite(t, 4, 2)
	s.fill(1, 6, 60000)
	s.mustBackup(0)
	s.wrap = unreachable(3)
	for seed := range uint64(3) {
		s.wipe()
		s.fill(seed+2, 6, 60000)
		s.mustBackup(0)
	}
	s.forget(1, 3)
	s.prune(4)
	s.prune(4)
	if s.count(0, "snapshot") != 1 {
		t.Fatalf("%d snapshots on a target that answers", s.count(0, "snapshot"))
	}
	s.wrap = nil
	old := s.objects(3)
	v, err := s.view(3)
	if err != nil || len(v.Snapshots("")) != 1 {
		t.Fatalf("the one that was away: %v", err)
	}
	rep := s.prune(0) // it brings the own chain first
	if rep.Targets[3].Objects == 0 {
		t.Errorf("%+v", rep.Targets[3])
	}
	for name := range old {
		if _, there := s.objects(3)[name]; !there && strings.Contains(name, "/ledger/") {
			t.Errorf("%s is gone", name)
		}
	}
	s.restore(3)
	s.same()
	s.verified()
}

// Pins, holds, and the share of a target that may go at once.
func TestForgetSpares(t *testing.T) {
	s := newSite(t, 2, 1)
	var ids []string
	for seed := range uint64(4) {
		s.wipe()
		s.fill(seed, 6, 60000)
		ids = append(ids, s.mustBackup(0).Snapshot.String())
	}
	if _, err := s.start().Pin(t.Context(), ids[0][:12], true); err != nil {
		t.Fatal(err)
	}
	rep := s.forget(1, 2)
	if last := rep.Snapshots[3]; !slices.Contains(last.Keep, "pinned") || !last.Pinned {
		t.Errorf("%+v", last)
	}
	if err := s.start().Hold(t.Context(), "population", true); err != nil {
		t.Fatal(err)
	}
	s.wipe()
	s.fill(9, 6, 60000)
	s.mustBackup(0)
	s.forget(1, 0)
	if err := s.start().Hold(t.Context(), "population", false); err != nil {
		t.Fatal(err)
	}
	if _, err := s.start().Pin(t.Context(), ids[0][:12], false); err != nil {
		t.Fatal(err)
	}
	dry, err := s.start().Forget(t.Context(), embassy.ForgetOptions{Keep: &policy.Retention{Last: 1}, MinAge: new(time.Duration), DryRun: true})
	if err != nil || dry.Forgotten != 2 {
		t.Fatalf("%+v, %v", dry, err)
	}
	age := 14 * 24 * time.Hour
	if rep, err := s.start().Forget(t.Context(), embassy.ForgetOptions{Keep: &policy.Retention{Last: 1}, MinAge: &age}); err != nil || rep.Forgotten != 0 {
		t.Fatalf("%+v, %v", rep, err)
	}
	s.forget(1, 2)
	s.prune(0)
	full := s.objects(0)
	some, err := s.start().Prune(t.Context(), embassy.PruneOptions{MaxRemove: 0.5})
	if err != nil || some.Exit != 4 || !errors.Is(some.Targets[0].Err, embassy.ErrTooMuch) {
		t.Fatalf("%+v, %v", some, err)
	}
	for name, size := range full {
		if s.objects(0)[name] != size {
			t.Fatalf("%s is gone", name)
		}
	}
	plan, err := s.start().Prune(t.Context(), embassy.PruneOptions{MaxRemove: 1, DryRun: true})
	if err != nil || plan.Targets[0].Objects == 0 {
		t.Fatalf("%+v, %v", plan, err)
	}
	done := s.prune(0)
	if done.Targets[0].Objects != plan.Targets[0].Objects || done.Targets[0].Bytes != plan.Targets[0].Bytes {
		t.Errorf("planned %+v, done %+v", plan.Targets[0], done.Targets[0])
	}
	s.restore(1)
	s.verified()
}

// A snapshot that an agent signed where it reached no target, before anything
// was marked, keeps what it uses until it gets there.
func TestPruneSparesPending(t *testing.T) {
	s, n := wantedAgain(t)
	n.wrap = func(i int, target targets.Target) targets.Target { return unreachable(i)(i, target) }
	pending := n.mustBackup(4)
	for range 3 {
		rep, err := s.start().Prune(t.Context(), embassy.PruneOptions{MaxRemove: 1})
		if err != nil || rep.Compartments[0].Deletable != 0 {
			t.Fatalf("%+v, %v", rep, err)
		}
	}
	n.wrap = nil
	n.config.Compartments[0].Commit.Targets = 2
	after := n.mustBackup(0)
	for range 3 {
		s.prune(0)
		n.mustBackup(0)
	}
	if err := n.restores("land", pending.Snapshot); err != nil {
		t.Error(err)
	}
	if err := n.restores("land", after.Snapshot); err != nil {
		t.Error(err)
	}
	s.verified()
}
