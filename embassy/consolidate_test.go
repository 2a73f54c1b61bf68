package embassy_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"embassy/embassy"
	"embassy/embassy/config"
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

// recovers puts objects back on every target, and fails unless each then restores all.
func (s *site) recovers(whole map[string][]byte) {
	s.t.Helper()
	for name, data := range whole {
		for i := range s.mems {
			s.put(i, name, data)
		}
	}
	for i := range s.mems {
		s.restoresAll(i)
	}
	s.verified()
}

// What cannot be read, for damage or because an agent was captured, is left as it is
// with all that the snapshot uses if it is a tree, and stops the repack of nothing else.
func TestRepackLeavesUnread(t *testing.T) {
	for what, says := range map[string]string{"trees": "trees cannot be read, 1 of them: snapshot ", "contents": "cannot be read, such as pack "} {
		t.Run(what, func(t *testing.T) {
			s := newSite(t, 2, 1)
			s.config.PackSize = 1 << 20
			n := s.neighbour()
			n.config.PackSize = 1 << 20
			var bad []string // packs
			for run := range 2 {
				for i, a := range []*site{s, n} {
					for f := range 20 - 10*run { // every second one changes: some of each pack
						a.write(fmt.Sprintf("f%02d", f+f*run), random(uint64(100*run+1000*i+f), 300_000))
					}
					before := s.objects(0)
					a.mustBackup(0)
					for name, size := range s.objects(0) {
						if _, old := before[name]; !old && a == n && strings.Contains(name, "/pack/") {
							if what == "trees" && run == 1 || what == "contents" && run == 0 && size >= 1<<20 {
								bad = append(bad, name)
							}
						}
					}
				}
			}
			s.forget(1, 2)
			whole := map[string][]byte{}
			for _, name := range bad {
				whole[name] = s.fetched(0, name)
				data := slices.Clone(whole[name])
				for at := 100; at < len(data); at += 100 {
					data[at] ^= 1
				}
				for i := range s.mems {
					s.put(i, name, data)
				}
			}
			keys, err := s.keys(0, s.root)
			if err != nil {
				t.Fatal(err)
			}
			prune := func(exit int) embassy.PrunedCompartment {
				t.Helper()
				rep, err := s.start().Prune(t.Context(), embassy.PruneOptions{MaxRemove: 1, Readers: keys})
				if err != nil || rep.Exit != exit {
					t.Fatalf("%+v, %v", rep, err)
				}
				return rep.Compartments[0]
			}
			repacked := uint64(0)
			for run := range 3 {
				c := prune(4)
				if c.Err == nil || !strings.Contains(c.Err.Error(), says) {
					t.Fatalf("%+v", c)
				}
				repacked += c.Repacked
				s.mustBackup(0)
				n.write("news", random(uint64(run), 100))
				if _, err := n.backup(t.Context()); err != nil { // its exit code may tell of the damage
					t.Fatal(err)
				}
			}
			if repacked == 0 {
				t.Error("nothing was rewritten")
			}
			s.recovers(whole)
			if c := prune(0); c.Repacked == 0 { // now that it can be read
				t.Errorf("after %d packs: %+v", repacked, c)
			}
			prune(0)
			for i := range s.mems {
				s.restoresAll(i)
			}
		})
	}
}

// Two agents have the same folder, each in packs of its own, and something in it cannot
// be read just now: that the walk through the one broke off in it says nothing of what
// the other needs.
func TestRepackOfAFolderTwice(t *testing.T) {
	s := newSite(t, 2, 1)
	n := s.neighbour()
	s.share(config.DedupAgent)
	n.config.Compartments[0].Dedup = config.DedupAgent
	n.src, n.config.Datasets[0].Sources = s.src, s.config.Datasets[0].Sources
	s.config.PackSize, n.config.PackSize = 1<<20, 1<<20
	s.write("x/y/deep", random(1, 1000))
	s.mustBackup(0)
	n.mustBackup(0)
	bad := s.named(0, "/pack/")
	for f := range 20 {
		s.write(fmt.Sprintf("z/f%d", f), random(uint64(100+f), 300_000))
	}
	s.mustBackup(0)
	n.mustBackup(0)
	for f := range 10 {
		if err := os.Remove(filepath.Join(s.src, fmt.Sprintf("z/f%d", 2*f))); err != nil {
			t.Fatal(err)
		}
	}
	s.mustBackup(0)
	n.mustBackup(0)
	s.forget(1, 4)
	whole := map[string][]byte{}
	for _, name := range bad {
		whole[name] = s.fetched(0, name)
		for i := range s.mems {
			s.put(i, name, make([]byte, len(whole[name])))
		}
	}
	keys, err := s.keys(0, s.root)
	if err != nil {
		t.Fatal(err)
	}
	rep, err := s.start().Prune(t.Context(), embassy.PruneOptions{MaxRemove: 1, Readers: keys})
	if err != nil || rep.Exit != 4 || !strings.Contains(fmt.Sprint(rep.Compartments[0].Err), "trees cannot be read, 2 of them") {
		t.Errorf("%+v, %v", rep, err)
	}
	s.recovers(whole)
}

// After 100 daily snapshots with 1 % of change each, forgotten but for 7, every
// target holds within 5 % of what a fresh repository of the same 7 does.
func TestSpace(t *testing.T) {
	if testing.Short() {
		t.Skip("a hundred backups: left out with -short")
	}
	s, fresh := newSite(t, 3, 2), newSite(t, 1, 1)
	fresh.src, fresh.config.Datasets[0].Sources = s.src, s.config.Datasets[0].Sources
	for _, m := range []*site{s, fresh} {
		m.config.PackSize = 16 << 20
	}
	const files, days = 200, 100
	large := random(1, 24<<20)
	for i := range files {
		s.write(fmt.Sprintf("f%d", i), random(uint64(i), 200_000))
	}
	r := rand.New(rand.NewPCG(1, 2))
	for day := range days {
		for range files / 100 { // whole files, and a hundredth of a large one
			s.write(fmt.Sprintf("f%d", r.IntN(files)), random(uint64(1000+day), 200_000))
		}
		at := r.IntN(len(large) - len(large)/100)
		copy(large[at:], random(uint64(day), len(large)/100))
		s.write("large", large)
		s.mustBackup(0)
		if day >= days-7 {
			fresh.mustBackup(0)
		}
	}
	s.forget(7, days-7)
	before := s.total(0)
	keys, err := s.keys(0, s.root)
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		rep, err := s.start().Prune(t.Context(), embassy.PruneOptions{MaxRemove: 1, Readers: keys})
		if err != nil || rep.Exit != 0 {
			t.Fatalf("%+v, %v\n%v", rep, err, s.findings)
		}
		t.Logf("%+v", rep.Compartments[0])
	}
	for _, k := range []string{"pack", "index", "snapshot", "record", "ledger"} {
		t.Logf("%s: %d %d; fresh %d %d", k, s.count(0, k), s.bytes(0, k), fresh.count(0, k), fresh.bytes(0, k))
	}
	want := fresh.total(0)
	for i := range s.mems {
		got := s.total(i)
		t.Logf("target %d: %d bytes, %d before, %d in a fresh repository: %.1f %% more", i, got, before, want, 100*float64(got-want)/float64(want))
		if float64(got) > 1.05*float64(want) {
			t.Errorf("target %d holds %d bytes, a fresh repository %d", i, got, want)
		}
		s.restore(i)
	}
	s.verified()
}

// total is how many bytes a target holds.
func (s *site) total(i int) (sum int64) {
	for _, size := range s.objects(i) {
		sum += size
	}
	return sum
}
