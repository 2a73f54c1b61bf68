package embassy_test

import (
	"context"
	"embassy/embassy"
	"embassy/embassy/format"
	"embassy/targets"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestBackupCatalogLost(t *testing.T) {
	s := newSite(t, 2, 2)
	s.fill(1, 30, 20000)
	s.mustBackup(0)
	packs := s.count(0, "pack")
	s.catalog = newMemCatalog()
	st, err := s.start().Status(t.Context(), true)
	if err != nil || st.Datasets[0].Newest.IsZero() || st.Datasets[0].Copies != 2 {
		t.Fatalf("status without a catalog: %+v, %v", st, err)
	}
	if rep := s.mustBackup(0); rep.Packs != 0 || s.count(0, "pack") != packs {
		t.Fatalf("chunks were stored again: %+v", rep)
	}
	s.restore(1)
}

func TestBackupClonedStateDirectory(t *testing.T) {
	s := newSite(t, 2, 1)
	s.fill(1, 5, 2000)
	s.mustBackup(0)
	copied := filepath.Join(s.dir, "copy")
	if err := os.CopyFS(copied, os.DirFS(s.config.StateDir)); err != nil {
		t.Fatal(err)
	}
	s.fill(2, 5, 2000)
	s.mustBackup(0)
	// The old copy comes back, without its catalog: its next entry would be the
	// second with its number.
	if err := os.RemoveAll(s.config.StateDir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(copied, s.config.StateDir); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(s.config.StateDir, "agent.key"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.catalog = newMemCatalog()
	s.fill(3, 5, 2000)
	rep := s.mustBackup(5)
	if len(rep.Missing) != 0 || rep.Snapshot.IsZero() {
		t.Fatalf("%+v", rep)
	}
	v, err := s.view(0)
	if err != nil {
		t.Fatal(err)
	}
	if heads := v.Heads(); len(heads) != 2 {
		t.Fatalf("the clone wrote on the chain: %v", heads)
	}
	s.restore(0)
	s.restore(1)
	s.mustBackup(0) // it goes on with its own chain
}

// A clone that alternates with the original, both with their catalogs.
func TestBackupClonesAlternate(t *testing.T) {
	a := newSite(t, 2, 1)
	a.fill(1, 5, 2000)
	a.mustBackup(0)
	cfg := *a.config
	cfg.StateDir = filepath.Join(t.TempDir(), "state")
	b := &site{t: t, dir: a.dir, src: a.src, config: &cfg, mems: a.mems, catalog: newMemCatalog(), root: a.root}
	if err := os.CopyFS(cfg.StateDir, os.DirFS(a.config.StateDir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(cfg.StateDir, "agent.key"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.mustBackup(0) // takes number 2
	a.fill(2, 5, 2000)
	a.mustBackup(5) // finds it taken
	for range 2 {
		b.mustBackup(0)
		a.mustBackup(0)
	}
	a.restore(0)
}

// A name in the chain's folder that our key did not sign convicts nobody.
func TestBackupForgedEntryName(t *testing.T) {
	s := newSite(t, 2, 1)
	s.fill(1, 5, 2000)
	s.mustBackup(0)
	for name := range s.objects(1) {
		if i := strings.Index(name, "/ledger/"); i > 0 {
			junk := []byte("junk")
			h := format.HashOf(junk)
			base := name[:strings.LastIndex(name, "/")]
			if err := s.mems[1].Put(t.Context(), targets.Object{Name: base + "/0000000000000002-" + h.String(), Data: junk, SHA256: h}); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.fill(2, 5, 2000)
	s.mustBackup(0)
	if len(s.findings) != 1 || s.findings[0].Target != "t1" {
		t.Fatalf("the forgery was not told: %v", s.findings)
	}
	s.restore(1)
}

// The only target that had a pending run burns: nothing is lost but time.
func TestBackupOnlyCopyBurns(t *testing.T) {
	s := newSite(t, 3, 2)
	s.fill(1, 10, 3000)
	s.mustBackup(0)
	s.fill(2, 10, 3000)
	s.wrap = func(i int, tgt targets.Target) targets.Target {
		if i > 0 {
			return refuse(tgt)
		}
		return tgt
	}
	s.mustBackup(4)
	s.wrap = func(i int, tgt targets.Target) targets.Target {
		if i == 0 {
			return refuse(tgt)
		}
		return tgt
	}
	s.mustBackup(0)
	s.restore(1)
	s.restore(2)
}

// What this machine has to bring to a target is nowhere any more: a new chain
// begins, and everything is stored again.
func TestBackupObjectLostEverywhere(t *testing.T) {
	s := newSite(t, 2, 1)
	s.fill(1, 10, 3000)
	s.wrap = func(i int, tgt targets.Target) targets.Target {
		if i == 1 {
			return refuse(tgt)
		}
		return tgt
	}
	s.mustBackup(0)
	s.wrap = nil
	for name := range s.objects(0) {
		if strings.Contains(name, "/pack/") {
			if err := s.mems[0].Delete(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
	}
	rep := s.mustBackup(0) // target 0 still shows its entries: that is for verify
	if !errors.Is(rep.Targets[1].Err, embassy.ErrLost) {
		t.Fatalf("%+v", rep.Targets)
	}
	if rep = s.mustBackup(0); rep.Read == 0 {
		t.Fatalf("nothing was stored again: %+v", rep)
	}
	s.restore(0)
	s.restore(1)
}

// A killed run left packs on a target, and then the target was emptied.
func TestBackupPlacedPackVanishes(t *testing.T) {
	s := newSite(t, 2, 1)
	s.fill(1, 10, 3000)
	ctx, cancel := context.WithCancel(t.Context())
	s.wrap = func(_ int, tgt targets.Target) targets.Target {
		return &targets.Faulty{Target: tgt, Before: func(op targets.Op, name string) error {
			if op == targets.OpPut && strings.Contains(name, "/index/") {
				cancel()
				return errDead
			}
			return nil
		}}
	}
	if _, err := s.backup(ctx); err == nil {
		t.Fatal("a cancelled run reports success")
	}
	s.wrap = nil
	for name := range s.objects(0) {
		if strings.Contains(name, "/pack/") {
			if err := s.mems[0].Delete(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.mustBackup(0)
	s.restore(0)
	s.restore(1)
}

// Every target fails for a moment: the run goes on with all of them.
func TestBackupBlip(t *testing.T) {
	s := newSite(t, 2, 2)
	s.fill(1, 10, 3000)
	var mu sync.Mutex
	failures := 4
	s.wrap = func(_ int, tgt targets.Target) targets.Target {
		return &targets.Faulty{Target: tgt, Before: func(op targets.Op, name string) error {
			mu.Lock()
			defer mu.Unlock()
			if op == targets.OpPut && strings.Contains(name, "/pack/") && failures > 0 {
				failures--
				return errDead
			}
			return nil
		}}
	}
	s.mustBackup(0)
	s.same()
}

// A run that is cut short while its packs are on their way commits nothing, and
// leaves nothing that lets the next run commit before its packs are. One that is cut
// short after its commit says so.
func TestBackupCutShort(t *testing.T) {
	s := newSite(t, 2, 1)
	s.fill(1, 10, 3000)
	cut := func(at string) {
		t.Helper()
		ctx, interrupt := context.WithCancel(t.Context())
		s.wrap = func(_ int, tgt targets.Target) targets.Target {
			return &targets.Faulty{Target: tgt, Before: func(op targets.Op, name string) error {
				if op == targets.OpPut && strings.Contains(name, at) {
					interrupt()
					return ctx.Err()
				}
				return nil
			}}
		}
		if rep, err := s.backup(ctx); !errors.Is(err, context.Canceled) {
			t.Fatalf("%+v, %v", rep, err)
		}
		s.wrap = nil
	}
	want := func(snapshots int) {
		t.Helper()
		s.mustBackup(0)
		s.same()
		for i := range s.mems {
			if n := s.count(i, "snapshot"); n != snapshots {
				t.Errorf("target %d holds %d snapshots, want %d", i, n, snapshots)
			}
			s.restore(i)
		}
	}
	for range 30 {
		cut("/pack/")
	}
	if len(s.findings) > 0 {
		t.Error(s.findings)
	}
	want(1)
	cut("/snapshot/")
	if len(s.findings) != 1 || !strings.Contains(s.findings[0].String(), "dataset population: its snapshot ") {
		t.Error(s.findings)
	}
	want(3)
}

// A target that hangs in a call that nobody can cancel holds nobody back.
func TestBackupHungTarget(t *testing.T) {
	t.Parallel() // it waits most of the time
	s := newSite(t, 3, 2)
	s.fill(1, 10, 3000)
	release := make(chan struct{})
	defer close(release)
	s.wrap = func(i int, tgt targets.Target) targets.Target {
		return &targets.Faulty{Target: tgt, Before: func(op targets.Op, name string) error {
			if i == 1 && op == targets.OpPut && strings.Contains(name, "/pack/") {
				<-release
				return errDead
			}
			return nil
		}}
	}
	rep := s.mustBackup(0)
	if rep.Targets[1].Err == nil {
		t.Fatalf("%+v", rep.Targets)
	}
	s.restore(0)
	s.restore(2)
}

func TestBackupTargetRolledBack(t *testing.T) {
	t.Parallel() // it waits most of the time
	s := newSite(t, 3, 2)
	s.fill(1, 5, 2000)
	s.mustBackup(0)
	old := s.mems[1]
	s.mems[1] = targets.NewMem() // emptied by its host, but for the charter
	for name := range s.objects(0) {
		if strings.Contains(name, "/charter/") {
			copyObject(t, old, s.mems[1], name)
		}
	}
	rep := s.mustBackup(5)
	if !errors.Is(rep.Targets[1].Err, embassy.ErrRolledBack) || len(rep.Missing) != 0 {
		t.Fatalf("%+v", rep)
	}
	st, err := s.start().Status(t.Context(), true)
	if err != nil || st.Exit() != 5 || st.Datasets[0].Copies != 2 {
		t.Fatalf("%+v, %v", st, err)
	}
}

func copyObject(t testing.TB, from, to targets.Target, name string) {
	t.Helper()
	info, err := from.Stat(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	r, err := from.Get(t.Context(), name, 0, info.Size)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := to.Put(t.Context(), targets.Object{Name: name, Data: data, SHA256: format.HashOf(data)}); err != nil {
		t.Fatal(err)
	}
}

// A chain that is left behind in one compartment makes the catalog forget all;
// a dataset of another compartment, met before in the same run, goes on.
func TestBackupForgetsBesideAnotherCompartment(t *testing.T) {
	s := newSite(t, 1, 1)
	s.fill(1, 5, 2000)
	open := s.config.Datasets[0]
	secret := s.config.Compartments[0]
	secret.Name = "secret"
	s.config.Compartments = append(s.config.Compartments, secret)
	hidden, again := open, open
	hidden.Name, hidden.Compartment, hidden.Priority = "hidden", "secret", 2
	again.Name, again.Priority = "again", 3
	s.config.Datasets = append(s.config.Datasets, hidden, again)
	if _, err := s.start().ApplyCharter(t.Context(), s.root); err != nil {
		t.Fatal(err)
	}
	run := func() {
		t.Helper()
		reports, err := s.start().Backup(t.Context(), embassy.BackupOptions{})
		if err != nil || len(reports) != 3 {
			t.Fatalf("%+v, %v", reports, err)
		}
		for _, r := range reports {
			if r.Exit != 0 {
				t.Fatalf("%s: exit code %d, %v", r.Dataset, r.Exit, r.Err)
			}
		}
	}
	run()
	chain, err := os.ReadFile(filepath.Join(s.config.StateDir, "chains", format.ID(s.root.CompartmentID("secret")).String(), "current"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.catalog.Note("lost/"+strings.TrimSpace(string(chain)), []byte("gone")); err != nil {
		t.Fatal(err)
	}
	s.fill(2, 5, 2000)
	run()
	s.restore(0)
}
