package embassy_test

import (
	"context"
	"errors"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"embassy/embassy"
	"embassy/embassy/format"
	"embassy/embassy/policy"
	"embassy/targets"
)

// becomes makes the agent of a site the steward.
func (s *site) becomes(steward *site) {
	s.t.Helper()
	s.amend(func(ch *format.Charter) {
		ch.Compartments[0].Stewards = append(ch.Compartments[0].Stewards, steward.agentID())
	})
}

// another enrols a further machine, once the compartment is shared.
func (s *site) another(dataset string) *site {
	s.t.Helper()
	b := s.beside(dataset)
	kit, err := os.ReadFile(s.kit())
	if err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(b.kit(), kit, 0o600); err != nil {
		s.t.Fatal(err)
	}
	if _, err := b.start().Init(s.t.Context(), embassy.InitOptions{Passphrase: passphrase, KitPath: b.kit(), AgentName: dataset}); err != nil {
		s.t.Fatal(err)
	}
	return b
}

// gives runs one prune that joins so many packs, or repacks with all keys, and
// returns what it ordered.
func (s *site) gives(join int, repack bool) embassy.PrunedCompartment {
	s.t.Helper()
	o := embassy.PruneOptions{MaxRemove: 1, Join: join}
	if repack {
		ch, _, err := embassy.FindCharterOf(s.t.Context(), s.members(), s.nation(), s.root, nil)
		if err != nil {
			s.t.Fatal(err)
		}
		if o.Readers, err = embassy.RootKeys(ch, s.root); err != nil {
			s.t.Fatal(err)
		}
	}
	rep, err := s.start().Prune(s.t.Context(), o)
	if err != nil || len(rep.Compartments) != 1 || rep.Compartments[0].Err != nil {
		s.t.Fatalf("%+v, %v\n%v", rep, err, s.findings)
	}
	return rep.Compartments[0]
}

// filling brings everything to target i, and fails when it ever shows there what does not
// restore from it alone.
func (s *site) filling(i int) {
	s.t.Helper()
	was := s.wrap
	defer func() { s.wrap = was }()
	s.wrap = func(n int, t targets.Target) targets.Target {
		if was != nil {
			t = was(n, t)
		}
		return entriesPut(i, func(name string) {
			if s.t.Failed() {
				return
			}
			v, err := s.view(i)
			if err != nil {
				s.t.Error(err)
				return
			}
			for _, snap := range v.Snapshots("") {
				if _, err := v.Restore(s.t.Context(), embassy.RestoreOptions{Snapshots: []embassy.SnapshotInfo{snap}, To: s.t.TempDir()}); err != nil {
					s.t.Errorf("after %s, entry %d of %s: %v", name, snap.Seq, snap.Summary.Dataset, err)
					return
				}
			}
		})(n, t)
	}
	if _, err := s.start().Replicate(s.t.Context(), embassy.ReplicateOptions{}); err != nil {
		s.t.Fatal(err)
	}
	s.restoresAll(i)
}

// The old steward joined packs where only one target answered, and is gone. The new
// one deletes them there by that order. Who sees the deletion and not the join, for
// want of that target, keeps the packs.
func TestDeletedByTheWordOfTheOther(t *testing.T) {
	s := newSite(t, 3, 1)
	n := s.neighbour()
	s.wrap, n.wrap = onlyTo(0, 1), onlyTo(0, 1)
	n.runs(20, 1)
	s.runs(0, 8)
	s.wrap = onlyTo(0)
	if c := s.gives(4, false); c.Joined == 0 {
		t.Fatalf("%+v", c)
	}
	s.becomes(n)
	s.judge(s.agentID(), format.AgentSuspended)
	deleted := uint64(0)
	for range 3 {
		deleted += n.gives(1000, false).Deletable
	}
	if deleted == 0 {
		t.Fatal("nothing was deleted")
	}
	r := s.replicator()
	r.wrap = unreachable(0)
	r.filling(2)
	r.wrap = nil
	r.replicate(0, embassy.ReplicateOptions{})
	for i := range s.mems {
		s.restoresAll(i)
	}
}

// wasted is a site of two agents with packs that are worth a repack, on two of three
// targets.
func wasted(t *testing.T) (s, n *site) {
	s = newSite(t, 3, 1)
	n = s.neighbour()
	s.config.PackSize, n.config.PackSize = 16<<20, 16<<20
	s.wrap, n.wrap = onlyTo(0, 1), onlyTo(0, 1)
	for i := range 3 {
		s.write("kept", random(1, 60_000))
		s.write("changes", random(uint64(10+i), 60_000))
		s.mustBackup(0)
	}
	n.runs(20, 1)
	s.becomes(n)
	s.forget2(n, 1)
	return s, n
}

// forget2 has a steward keep the newest so many of everything.
func (s *site) forget2(steward *site, last int) {
	s.t.Helper()
	v, err := steward.view(0, 1)
	if err != nil {
		s.t.Fatal(err)
	}
	series := map[string]int{}
	gone := 0
	for _, snap := range v.Snapshots("") {
		if series[snap.Summary.Dataset]++; series[snap.Summary.Dataset] > last {
			gone++
		}
	}
	steward.forget(last, gone)
}

// Two stewards rewrite the same packs, neither knowing of the other, and the order of
// one does not know the newest snapshot: whichever order a target gets first, it
// restores what it shows. Once the snapshot is forgotten, the packs go.
func TestBothReplace(t *testing.T) {
	s, n := wasted(t)
	s.wrap, n.wrap = onlyTo(0), onlyTo(1)
	if c := n.gives(1000, true); c.Repacked == 0 {
		t.Fatalf("%+v", c)
	}
	s.wipe()
	s.write("kept", random(1, 60_000))
	s.write("new", random(2, 900_000)) // in a pack that is not worth it
	s.mustBackup(0)                    // n does not see it
	s.becomes(s)
	if c := s.gives(1000, true); c.Repacked == 0 {
		t.Fatalf("%+v", c)
	}
	s.becomes(n)
	s.wrap, n.wrap = onlyTo(0, 1), onlyTo(0, 1)
	r, late := s.replicator(), s.replicator()
	late.wrap = onlyTo(1) // learns of the second order first
	late.replicate(4, embassy.ReplicateOptions{})
	r.wrap = s.wrap
	if _, err := r.start().Replicate(t.Context(), embassy.ReplicateOptions{}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		s.mustBackup(0)
		n.gives(1000, true)
		n.mustBackup(0)
	}
	late.wrap = nil
	late.filling(2)
	s.mems[2] = targets.NewMem()
	s.replicator().filling(2)
	for i := range s.mems {
		s.restoresAll(i)
	}
	s.wrap, n.wrap = nil, nil
	packs := s.count(0, "pack")
	s.write("more", random(5, 1000))
	s.mustBackup(0)
	n.mustBackup(0)
	s.forget2(n, 1)
	for range 4 {
		n.gives(1000, true)
		s.mustBackup(0)
		n.mustBackup(0)
	}
	if got := s.count(0, "pack"); got > packs {
		t.Errorf("%d packs, were %d: nothing went", got, packs)
	}
	s.verified()
}

// rewritten is a site of two agents, of which the second was the steward for a while and
// rewrote a pack of the first: each writes to a target of its own since.
func rewritten(t *testing.T) (s, n *site) {
	s = newSite(t, 3, 1)
	n = s.neighbour()
	s.config.PackSize, n.config.PackSize = 16<<20, 16<<20
	s.wrap, n.wrap = onlyTo(0, 1), onlyTo(0, 1)
	n.runs(20, 1)
	s.write("kept", random(1, 60_000))
	s.write("dead", random(2, 60_000))
	s.mustBackup(0)
	if err := os.Remove(filepath.Join(s.src, "dead")); err != nil {
		t.Fatal(err)
	}
	s.mustBackup(0)
	s.becomes(n)
	s.forget2(n, 1)
	s.wrap, n.wrap = onlyTo(0), onlyTo(1)
	if c := n.gives(1000, true); c.Repacked == 0 {
		t.Fatalf("%+v", c)
	}
	s.becomes(s)
	return s, n
}

// Two stewards rewrote one pack, and only the order of the second is for the newest
// snapshot: a machine that learned of the first one's before brings both, whatever
// becomes of the pack.
func TestReplacedTwiceLeadsBoth(t *testing.T) {
	s, n := rewritten(t)
	s.judge(n.agentID(), format.AgentSuspended) // nobody waits for it
	s.write("more", random(3, 1_036_000))       // in a pack that is not worth it
	s.mustBackup(0)                             // n does not know of it
	if c := s.gives(1000, true); c.Repacked == 0 {
		t.Fatalf("%+v", c)
	}
	packs := s.count(0, "pack")
	for range 2 {
		s.gives(1000, false)
	}
	if s.count(0, "pack") >= packs {
		t.Fatal("nothing was deleted")
	}
	r := s.replicator()
	r.wrap = onlyTo(1)
	r.replicate(4, embassy.ReplicateOptions{})
	r.wrap = nil
	r.filling(2)
	s.restoresAll(0)
	s.restoresAll(2)
}

// Two stewards rewrote one pack, and only the order of the second, which one target
// has, is for the newest snapshot. Who knows the order and the deletion of the first, and
// not that target, would leave the pack out, and what the snapshot needs.
func TestReplacedTwiceStays(t *testing.T) {
	s, n := rewritten(t)
	s.write("more", random(3, 1_036_000)) // in a pack that is not worth it
	s.mustBackup(0)                       // n does not know of it
	for _, name := range s.named(0, s.agent()) {
		if strings.Contains(name, "/"+s.agent()+"/") {
			copyObject(t, s.mems[0], s.mems[1], name)
		}
	}
	if c := s.gives(1000, true); c.Repacked == 0 {
		t.Fatalf("%+v", c)
	}
	s.becomes(n)
	s.judge(s.agentID(), format.AgentSuspended) // nobody waits for it
	n.wrap = onlyTo(0, 1)
	for range 3 {
		n.gives(1000, false)
	}
	r := s.replicator()
	r.wrap = unreachable(0)
	r.filling(2)
}

// What a steward made of packs is marked by the next one, in a chain of its own. An
// agent may have read that, and not that the packs were replaced: it still uses them,
// and so what was made of them stays until it has read both.
func TestHeirOutlivesItsPacks(t *testing.T) {
	s := newSite(t, 2, 1)
	n := s.neighbour()
	a := s.another("water")
	n.runs(40, 1)
	s.runs(50, 1)
	a.runs(0, 8)
	s.wrap, n.wrap, a.wrap = onlyTo(0), nil, onlyTo(1)
	if c := s.gives(4, false); c.Joined == 0 {
		t.Fatalf("%+v", c)
	}
	s.mustBackup(0) // else what it made may be of a backup that is not finished
	s.becomes(n)
	a.wipe()
	a.write("other", random(99, 5000))
	a.mustBackup(0)
	s.forget2(n, 1)
	marked := n.gives(1000, false).Marked
	if marked == 0 {
		t.Fatal("nothing was marked")
	}
	s.mustBackup(0)
	a.write("other", random(98, 5000))
	a.mustBackup(0) // has read what the new steward says, and not what the old one does
	n.mustBackup(0)
	for range 2 {
		n.gives(1000, false)
	}
	a.wipe()
	a.write("run3", random(3, 5000))
	a.mustBackup(0)
	s.wrap, a.wrap = nil, nil
	r := s.replicator()
	r.replicate(0, embassy.ReplicateOptions{})
	for range 3 {
		for _, m := range []*site{a, s, n} {
			m.mustBackup(0)
		}
		n.gives(1000, false)
		r.replicate(0, embassy.ReplicateOptions{})
		for i := range s.mems {
			s.restoresAll(i)
		}
	}
	s.mems[1] = targets.NewMem()
	s.replicator().filling(1)
	s.forget2(n, 1)
	packs := s.count(0, "pack")
	for range 3 {
		n.gives(1000, false)
		for _, m := range []*site{a, s, n} {
			m.mustBackup(0)
		}
	}
	if got := s.count(0, "pack"); got > packs {
		t.Errorf("%d packs, were %d: nothing went", got, packs)
	}
	s.verified()
}

// withoutCharters hides the charters but for the first so many.
type withoutCharters struct {
	targets.Target
	after string
}

func (w withoutCharters) List(ctx context.Context, prefix string) iter.Seq2[targets.Info, error] {
	return func(yield func(targets.Info, error) bool) {
		for info, err := range w.Target.List(ctx, prefix) {
			if err == nil && strings.Contains(info.Name, "/charter/") && info.Name[strings.LastIndex(info.Name, "/")+1:] > w.after {
				continue
			}
			if !yield(info, err) || err != nil {
				return
			}
		}
	}
}

// oldCharters hides every charter that is not there yet.
func (s *site) oldCharters() func(int, targets.Target) targets.Target {
	last := ""
	for _, name := range s.named(0, "/charter/") {
		last = max(last, name[strings.LastIndex(name, "/")+1:])
	}
	return func(_ int, t targets.Target) targets.Target { return withoutCharters{t, last} }
}

// A steward that has not seen the charter by which an agent is enrolled, or is the
// steward, marks and deletes nothing that this one wrote or made.
func TestStewardOfAnOldCharter(t *testing.T) {
	for _, what := range []string{"a new agent", "a new steward"} {
		t.Run(what, func(t *testing.T) {
			s := newSite(t, 2, 1)
			s.runs(0, 2)
			var n *site
			if what == "a new steward" {
				n = s.neighbour()
				n.runs(20, 1)
				s.mustBackup(0)
			}
			s.wrap = s.oldCharters()
			if n == nil {
				n = s.another("land")
				n.runs(20, 3)
			} else {
				s.becomes(n)
				n.runs(21, 3)
				s.runs(2, 4)
				if c := n.gives(4, false); c.Joined == 0 {
					t.Fatalf("%+v", c)
				}
				n.mustBackup(0)
			}
			for range 3 {
				rep, err := s.start().Prune(t.Context(), embassy.PruneOptions{MaxRemove: 1, Join: 1000})
				if err != nil || len(rep.Compartments) != 1 || !errors.Is(rep.Compartments[0].Err, embassy.ErrBlind) {
					t.Errorf("%+v, %v", rep, err)
				}
				if what == "a new steward" {
					n.mustBackup(0)
				}
			}
			for i := range s.mems {
				s.restoresAll(i)
			}
			s.wrap = nil
			for range 3 {
				for _, m := range []*site{s, n} {
					m.mustBackup(0)
				}
				if what == "a new steward" {
					n.gives(4, false)
				} else {
					s.gives(4, false)
				}
			}
			s.same()
			s.verified()
		})
	}
}

// A steward that has not seen the charter by which another one took over does not know
// what that one holds, and forgets nothing.
func TestForgetByAnOldCharter(t *testing.T) {
	s := newSite(t, 2, 1)
	n := s.neighbour()
	n.runs(20, 1)
	s.runs(0, 3)
	s.wrap = s.oldCharters()
	s.becomes(n)
	if err := n.start().Hold(t.Context(), "population", true); err != nil {
		t.Fatal(err)
	}
	o := embassy.ForgetOptions{Keep: &policy.Retention{Last: 1}, MinAge: new(time.Duration)}
	if rep, err := s.start().Forget(t.Context(), o); !errors.Is(err, embassy.ErrBlind) || rep.Forgotten != 0 {
		t.Errorf("%d forgotten, %v", rep.Forgotten, err)
	}
	v, err := n.view(0, 1)
	if err != nil || len(v.Snapshots("population")) != 3 {
		t.Errorf("%d snapshots are left: %v", len(v.Snapshots("population")), err)
	}
}

// A machine learned what an agent signed before it learned that the agent is a
// steward: it goes by its orders all the same.
func TestLearnedBeforeTheCharter(t *testing.T) {
	s := newSite(t, 3, 1)
	n := s.neighbour()
	s.wrap, n.wrap = onlyTo(0, 1), onlyTo(0, 1)
	n.runs(20, 1)
	s.runs(0, 8)
	r := s.replicator()
	old := s.oldCharters()
	r.wrap = func(i int, t targets.Target) targets.Target { return old(i, onlyTo(0, 1)(i, t)) }
	r.replicate(4, embassy.ReplicateOptions{})
	s.becomes(n)
	var once sync.Once
	for range 3 {
		s.mustBackup(0)
		n.gives(4, false)
		once.Do(func() { r.replicate(4, embassy.ReplicateOptions{}) }) // before anything is gone
		n.mustBackup(0)
	}
	r.wrap = nil
	r.filling(2)
	if faults := r.kinds(); len(faults) > 0 {
		t.Error(faults)
	}
	r.replicate(0, embassy.ReplicateOptions{})
	s.same()
}
