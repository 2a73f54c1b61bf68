package embassy_test

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
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
		if !maps.Equal(s.tree(s.src), s.tree(filepath.Join(to, dataset, s.src))) {
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
