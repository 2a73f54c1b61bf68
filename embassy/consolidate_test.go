package embassy_test

import (
	"fmt"
	"testing"

	"embassy/embassy"
)

// joins runs one prune that joins so many short packs of about one size.
func (s *site) joins(exit, join int) embassy.PruneReport {
	s.t.Helper()
	rep, err := s.start().Prune(s.t.Context(), embassy.PruneOptions{MaxRemove: 0.5, Join: join})
	if err != nil || rep.Exit != exit {
		s.t.Fatalf("exit code %d, want %d: %+v, %v\n%v", rep.Exit, exit, rep, err, s.findings)
	}
	return rep
}

// Short packs of many runs become one. Every snapshot restores before the old ones
// go and after, from each target alone, and nothing is stored or read again.
func TestConsolidate(t *testing.T) {
	s := newSite(t, 3, 2)
	s.fill(1, 6, 60000)
	var snapshots []embassy.BackupReport
	var trees []map[string]string
	for i := range 12 {
		s.write(fmt.Sprintf("run%d", i), random(uint64(i), 5000))
		snapshots = append(snapshots, s.mustBackup(0))
		trees = append(trees, s.tree(s.src))
	}
	packs := s.count(0, "pack")
	dry, err := s.start().Prune(t.Context(), embassy.PruneOptions{Join: 4, DryRun: true})
	if err != nil || dry.Compartments[0].Joined == 0 || s.count(0, "pack") != packs {
		t.Fatalf("a dry run: %+v, %v", dry, err)
	}
	rep := s.joins(0, 4)
	c := rep.Compartments[0]
	if c.Joined != dry.Compartments[0].Joined || c.Joined < 8 || c.JoinedInto == 0 {
		t.Fatalf("joined: %+v", rep)
	}
	check := func() {
		t.Helper()
		for i := range s.mems {
			s.restore(i)
		}
		for _, b := range []int{0, 5} {
			if err := s.restoresAs("population", snapshots[b].Snapshot, trees[b]); err != nil {
				t.Errorf("snapshot %d: %v", b, err)
			}
		}
		s.verified()
	}
	check()
	if b := s.mustBackup(0); b.Read != 0 || b.Packs != 0 {
		t.Errorf("after packs were joined a backup reads %d bytes and stores %d packs", b.Read, b.Packs)
	}
	for range 3 {
		s.joins(0, 4)
	}
	if n := s.count(0, "pack"); n != packs-int(c.Joined)+int(c.JoinedInto) {
		t.Errorf("%d packs, were %d; %+v", n, packs, c)
	}
	check()
	if b := s.mustBackup(0); b.Read != 0 || b.Packs != 0 {
		t.Errorf("a backup reads %d bytes and stores %d packs", b.Read, b.Packs)
	}
	s.catalog = newMemCatalog()
	if b := s.mustBackup(0); b.Packs != 0 {
		t.Errorf("with a new catalog %d packs are stored", b.Packs)
	}
	s.replicator().replicate(0, embassy.ReplicateOptions{})
	check()
}

// Packs of which little is used are rewritten, with the keys of a reader: what is
// left is little more than a fresh repository of the same snapshots.
func TestRepack(t *testing.T) {
	s := newSite(t, 2, 1)
	s.config.PackSize = 16 << 20
	for i := range 40 {
		s.write(fmt.Sprintf("f%d", i), random(uint64(i), 700_000))
	}
	s.mustBackup(0)
	var last embassy.BackupReport
	for run := range 6 {
		for i := range 5 {
			s.write(fmt.Sprintf("f%d", 5*run+i), random(uint64(1000+5*run+i), 700_000))
		}
		last = s.mustBackup(0)
	}
	s.forget(1, 6)
	before := s.bytes(0, "pack")
	repack := func(n int) (rep embassy.PruneReport) {
		t.Helper()
		keys, err := s.keys(0, s.root)
		if err != nil {
			t.Fatal(err)
		}
		for range n {
			rep, err = s.start().Prune(t.Context(), embassy.PruneOptions{MaxRemove: 1, Readers: keys})
			if err != nil || rep.Exit != 0 {
				t.Fatalf("%+v, %v\n%v", rep, err, s.findings)
			}
		}
		return rep
	}
	rep := repack(1)
	if c := rep.Compartments[0]; c.Repacked == 0 {
		t.Fatalf("%+v", c)
	}
	check := func() {
		t.Helper()
		for i := range s.mems {
			s.restore(i)
		}
		s.verified()
	}
	check()
	if b := s.mustBackup(0); b.Read != 0 || b.Packs != 0 {
		t.Errorf("a backup reads %d bytes and stores %d packs", b.Read, b.Packs)
	}
	s.forget(1, 1)
	rep = repack(3)
	if c := rep.Compartments[0]; c.Repacked+c.Marked+c.Waiting != 0 {
		t.Errorf("a fourth run has something to do: %+v", c)
	}
	check()
	fresh := newSite(t, 1, 1)
	fresh.src, fresh.config.Datasets[0].Sources = s.src, s.config.Datasets[0].Sources
	fresh.config.PackSize = 16 << 20
	fresh.mustBackup(0)
	got, want := s.bytes(0, "pack"), fresh.bytes(0, "pack")
	t.Logf("packs of %d bytes, %d before, %d fresh; last run %+v", got, before, want, last.Added)
	if float64(got) > 1.05*float64(want) || got >= before {
		t.Errorf("%d bytes of packs, a fresh repository has %d", got, want)
	}
}
