package embassy_test

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"embassy/embassy"
	"embassy/embassy/config"
	"embassy/embassy/format"
	"embassy/targets"
)

// neighbour enrols a second machine with a dataset of its own, and makes the
// compartment shared.
func (s *site) neighbour() *site {
	s.t.Helper()
	n := newSite(s.t, len(s.mems), 1)
	n.mems, n.root = s.mems, s.root
	n.config.Compartments[0].Commit = s.config.Compartments[0].Commit
	n.config.Datasets[0].Name = "land"
	if err := os.RemoveAll(n.config.StateDir); err != nil {
		s.t.Fatal(err)
	}
	kit, err := os.ReadFile(s.kit())
	if err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(n.kit(), kit, 0o600); err != nil {
		s.t.Fatal(err)
	}
	if _, err := n.start().Init(s.t.Context(), embassy.InitOptions{Passphrase: passphrase, KitPath: n.kit(), AgentName: "second"}); err != nil {
		s.t.Fatal(err)
	}
	s.share(config.DedupCompartment)
	return n
}

// share signs what dedup says.
func (s *site) share(dedup string) {
	s.t.Helper()
	s.config.Compartments[0].Dedup = dedup
	if rep, err := s.start().ApplyCharter(s.t.Context(), s.root); err != nil || len(rep.Added) != 1 {
		s.t.Fatalf("%+v, %v", rep, err)
	}
}

// restores restores a snapshot of a dataset from every target alone.
func (s *site) restores(dataset string, snapshot format.Hash) error {
	s.t.Helper()
	return s.restoresAs(dataset, snapshot, s.tree(s.src))
}

// restoresAs is restores of what the sources were once.
func (s *site) restoresAs(dataset string, snapshot format.Hash, want map[string]string) error {
	s.t.Helper()
	var failed error
	for i := range s.mems {
		v, err := s.view(i)
		if err != nil {
			s.t.Fatal(err)
		}
		snap, err := v.Pick(dataset, snapshot.String(), time.Time{})
		if err != nil {
			return err
		}
		to := filepath.Join(s.t.TempDir(), "out")
		if _, err := v.Restore(s.t.Context(), embassy.RestoreOptions{Snapshots: []embassy.SnapshotInfo{snap}, To: to}); err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		if !maps.Equal(want, s.tree(filepath.Join(to, dataset, s.src))) {
			s.t.Fatalf("target %d restores another tree", i)
		}
	}
	return failed
}

// In a shared compartment what another agent stored is not stored again, and
// every target that shows the snapshot can restore it alone.
func TestSharedCompartment(t *testing.T) {
	s := newSite(t, 3, 2)
	n := s.neighbour()
	for _, m := range []*site{s, n} {
		m.fill(1, 20, 60000)
		m.write("large", random(3, 4<<20))
	}
	first := s.mustBackup(0)
	second := n.mustBackup(0)
	if second.Added > first.Added/10 {
		t.Fatalf("%d bytes were stored once more, of %d", second.Added, first.Added)
	}
	if again := n.mustBackup(0); again.Packs != 0 || again.Same != 21 {
		t.Fatalf("%+v", again)
	}
	if err := n.restores("land", second.Snapshot); err != nil {
		t.Fatal(err)
	}
	keys, err := s.keys(0, s.root)
	if err != nil {
		t.Fatal(err)
	}
	if rep, err := s.start().Verify(t.Context(), embassy.VerifyOptions{Level: embassy.Decrypt, Keys: keys}); err != nil || rep.Exit != 0 {
		t.Fatalf("%+v, %v", rep, err)
	}

	// A new catalog learns what was reused, from the chains.
	n.catalog = newMemCatalog()
	if again := n.mustBackup(0); again.Packs != 0 {
		t.Fatalf("%d packs stored after the catalog was lost", again.Packs)
	}
	s.same()

	// It ends when the charter says so.
	s.share(config.DedupAgent)
	alone := n.mustBackup(0)
	if alone.Added < first.Added/2 {
		t.Fatalf("%d bytes stored, though nothing is shared any more", alone.Added)
	}
	if err := n.restores("land", alone.Snapshot); err != nil {
		t.Fatal(err)
	}
}

// What the other's commit targets do not hold is not reused, and an entry goes to no
// target before what it depends on.
func TestSharedNeedsCommit(t *testing.T) {
	s := newSite(t, 3, 2)
	n := s.neighbour()
	s.fill(1, 20, 60000)
	n.fill(1, 20, 60000)
	s.wrap = func(i int, tgt targets.Target) targets.Target {
		if i == 0 {
			return tgt
		}
		return unreachable(i)(i, tgt)
	}
	pending := s.mustBackup(4)
	if got := n.mustBackup(0); got.Added < pending.Added/2 {
		t.Fatalf("%d bytes stored: what one target holds was reused", got.Added)
	}

	s.wrap = unreachable(2)
	s.fill(2, 20, 60000)
	n.fill(2, 20, 60000)
	first := s.mustBackup(0)
	second := n.mustBackup(0)
	if second.Added > first.Added/2 {
		t.Fatalf("%d bytes stored of %d", second.Added, first.Added)
	}
	if v, err := n.view(2); err != nil {
		t.Fatal(err)
	} else if _, err := v.Pick("land", second.Snapshot.String(), time.Time{}); err == nil {
		t.Fatal("target 2 shows a snapshot, and lacks what it depends on")
	}
	r := s.replicator()
	r.replicate(0, embassy.ReplicateOptions{})
	s.same()
	if err := n.restores("land", second.Snapshot); err != nil {
		t.Fatal(err)
	}
}

// judge signs a charter that says something else of an agent.
func (s *site) judge(agent format.ID, status format.AgentStatus, after ...format.Head) {
	s.t.Helper()
	s.amend(func(ch *format.Charter) {
		a := ch.Agent(agent)
		a.Status, a.After = status, after
	})
}

// amend signs a charter that says something else.
func (s *site) amend(what func(*format.Charter)) {
	s.t.Helper()
	ch, object, err := embassy.FindCharter(s.t.Context(), s.members(), s.nation(), s.root.Signer().Verifier(), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	ch.Seq, ch.Prev = ch.Seq+1, format.HashOf(object)
	what(ch)
	if object, err = format.SealCharter(*ch, s.root.Signer()); err != nil {
		s.t.Fatal(err)
	}
	h := format.HashOf(object)
	for _, m := range s.mems {
		if err := m.Put(s.t.Context(), targets.Object{Name: format.CharterName(ch.Nation, ch.Seq, h), Data: object, SHA256: h}); err != nil {
			s.t.Fatal(err)
		}
	}
}

// heads are the entries with snapshots of an agent.
func (s *site) heads(agent format.ID) []format.Head {
	s.t.Helper()
	v, err := s.view(0)
	if err != nil {
		s.t.Fatal(err)
	}
	var out []format.Head
	for _, snap := range v.Snapshots("") {
		if snap.Agent == agent {
			name := s.one(0, "/ledger/"+snap.Chain.String()+"/", fmt.Sprintf("/%016x-", snap.Seq))
			_, h, err := format.ParseNumbered(name[strings.LastIndex(name, "/")+1:])
			if err != nil {
				s.t.Fatal(err)
			}
			out = append(out, format.Head{Chain: snap.Chain, Seq: snap.Seq, Hash: h})
		}
	}
	slices.SortFunc(out, func(a, b format.Head) int { return cmp.Compare(a.Seq, b.Seq) })
	return out
}

func (s *site) agentID() format.ID {
	s.t.Helper()
	id, err := format.ParseID(s.agent())
	if err != nil {
		s.t.Fatal(err)
	}
	return id
}

// What relied on entries of an agent that do not count any more is stored anew;
// what relied on the others is not; and no target is held up.
func TestSharedAgentRevoked(t *testing.T) {
	s := newSite(t, 3, 2)
	n := s.neighbour()
	for _, m := range []*site{s, n} {
		m.fill(1, 20, 100000)
	}
	one := s.mustBackup(0)
	s.wrap, n.wrap = unreachable(2), unreachable(2)
	for _, m := range []*site{s, n} {
		m.fill(2, 20, 100000)
	}
	two := s.mustBackup(0)
	if rep := n.mustBackup(0); rep.Added > one.Added/4 {
		t.Fatalf("%d bytes stored", rep.Added)
	}
	heads := s.heads(s.agentID())
	s.judge(s.agentID(), format.AgentRevoked, heads[0])
	n.wrap = nil
	rep := n.mustBackup(0)
	if rep.Added < two.Added*3/4 || rep.Added > two.Added*3/2 {
		t.Fatalf("%d bytes stored, want about %d", rep.Added, two.Added)
	}
	for _, p := range rep.Targets {
		if p.Err != nil || p.Behind != 0 {
			t.Errorf("target %s is %d behind: %v", p.Target, p.Behind, p.Err)
		}
	}
	if err := n.restores("land", rep.Snapshot); err != nil {
		t.Fatal(err)
	}
	if again := n.mustBackup(0); again.Packs != 0 {
		t.Errorf("%d packs stored again", again.Packs)
	}
	if _, err := s.backup(t.Context()); !errors.Is(err, embassy.ErrNotEnrolled) {
		t.Errorf("a revoked agent: %v", err)
	}
}

// Of a suspended agent what was learned stays, and nothing new is reused.
func TestSharedAgentSuspended(t *testing.T) {
	s := newSite(t, 1, 1)
	n := s.neighbour()
	for _, m := range []*site{s, n} {
		m.fill(1, 20, 100000)
	}
	s.mustBackup(0)
	n.mustBackup(0)
	for _, m := range []*site{s, n} {
		m.fill(2, 20, 100000)
	}
	two := s.mustBackup(0)
	s.judge(s.agentID(), format.AgentSuspended)
	rep := n.mustBackup(0)
	if rep.Added < two.Added*3/4 || rep.Added > two.Added*3/2 {
		t.Fatalf("%d bytes stored, want about %d", rep.Added, two.Added)
	}
	if err := n.restores("land", rep.Snapshot); err != nil {
		t.Fatal(err)
	}
}
