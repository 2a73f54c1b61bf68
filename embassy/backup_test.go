package embassy_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"embassy/crypto"
	"embassy/embassy"
	"embassy/embassy/config"
	"embassy/embassy/format"
	"embassy/targets"
)

var errDead = errors.New("connection refused")

// refuse makes a target that answers nothing.
func refuse(t targets.Target) targets.Target {
	return &targets.Faulty{Target: t, Before: func(targets.Op, string) error { return errDead }}
}

func TestBackupPutsSameObjectsEverywhere(t *testing.T) {
	s := newSite(t, 3, 2)
	s.fill(1, 40, 20000)
	rep := s.mustBackup(0)
	if rep.Files != 40 || rep.New != 40 || rep.Packs == 0 || rep.Added == 0 || len(rep.Targets) != 3 {
		t.Fatalf("%+v", rep)
	}
	s.same()
	for i := range s.mems {
		s.restore(i)
	}
}

func TestBackupUnchangedUploadsNoPack(t *testing.T) {
	s := newSite(t, 2, 2)
	s.fill(1, 40, 20000)
	s.mustBackup(0)
	packs := s.count(0, "pack")
	rep := s.mustBackup(0)
	if got := s.count(0, "pack"); got != packs || rep.Packs != 0 || rep.Same != 40 || rep.Read != 0 {
		t.Fatalf("%d packs after %d; %+v", got, packs, rep)
	}
	if s.count(0, "snapshot") != 2 {
		t.Fatal("the second run made no snapshot")
	}
	s.write("d0/new", []byte("one more"))
	if rep := s.mustBackup(0); rep.New != 1 || rep.Same != 40 || rep.Packs != 1 {
		t.Fatalf("%+v", rep)
	}
	s.restore(1)
}

func TestBackupLargeFile(t *testing.T) {
	s := newSite(t, 2, 1)
	// Beyond what a Content holds itself: the list of chunks becomes a chunk.
	data := random(7, 80<<20)
	s.write("large", data)
	rep := s.mustBackup(0)
	if rep.Packs < 3 {
		t.Fatalf("%d packs for 80 MiB", rep.Packs)
	}
	s.restore(0)
	data[40<<20] ^= 1
	s.write("large", data)
	rep = s.mustBackup(0)
	if rep.Changed != 1 || rep.Added > 16<<20 {
		t.Fatalf("one changed byte added %d bytes: %+v", rep.Added, rep)
	}
	s.restore(1)
}

func TestBackupDeadTargetHoldsNobody(t *testing.T) {
	t.Parallel() // it waits most of the time
	s := newSite(t, 3, 2)
	s.fill(1, 20, 5000)
	s.wrap = func(i int, tgt targets.Target) targets.Target {
		if i == 0 {
			return refuse(tgt)
		}
		return tgt
	}
	rep := s.mustBackup(0)
	if rep.Targets[0].Err == nil || rep.Targets[0].Behind != 1 || rep.Targets[1].Behind != 0 {
		t.Fatalf("%+v", rep.Targets)
	}
	s.restore(1)
	s.restore(2)
	if _, err := s.view(0); err != nil {
		t.Fatal(err) // its charter is from init
	}

	// It returns: the next run brings it everything, from the others.
	s.wrap = nil
	s.fill(2, 5, 5000)
	if rep := s.mustBackup(0); rep.Targets[0].Behind != 0 {
		t.Fatalf("%+v", rep.Targets)
	}
	s.same()
	s.restore(0)
}

func TestBackupBelowCommitRule(t *testing.T) {
	s := newSite(t, 3, 3)
	s.fill(1, 20, 5000)
	s.wrap = func(i int, tgt targets.Target) targets.Target {
		if i == 2 {
			return refuse(tgt)
		}
		return tgt
	}
	rep := s.mustBackup(4)
	if len(rep.Missing) == 0 || rep.Snapshot.IsZero() {
		t.Fatalf("%+v", rep)
	}
	st, err := s.start().Status(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	if st.Exit() != 4 || st.Datasets[0].Pending == nil || st.Datasets[0].Pending.Copies != 2 || len(st.Datasets[0].Pending.Missing) == 0 {
		t.Fatalf("%+v", st)
	}
	s.wrap = nil
	s.mustBackup(0)
	if st, err = s.start().Status(t.Context(), true); err != nil || st.Exit() != 0 || st.Datasets[0].Copies != 3 {
		t.Fatalf("%+v, %v", st, err)
	}
	s.same()
}

func TestBackupNoTargetAnswers(t *testing.T) {
	s := newSite(t, 2, 1)
	s.fill(1, 20, 5000)
	s.wrap = func(_ int, tgt targets.Target) targets.Target { return refuse(tgt) }
	rep := s.mustBackup(4)
	if rep.Snapshot.IsZero() {
		t.Fatal("no pending snapshot")
	}
	spooled, err := filepath.Glob(filepath.Join(s.config.StateDir, "spool", "*", "*"))
	if err != nil || len(spooled) < 3 {
		t.Fatalf("pack, index and snapshot should wait in the spool: %v, %v", spooled, err)
	}
	s.wrap = nil
	if rep := s.mustBackup(0); rep.Same != 20 {
		t.Fatalf("%+v", rep)
	}
	s.same()
	s.restore(1)
	if spooled, _ = filepath.Glob(filepath.Join(s.config.StateDir, "spool", "*", "*")); len(spooled) != 0 {
		t.Fatalf("left in the spool: %v", spooled)
	}
}

// A dataset that moves to another compartment is stored there anew.
func TestBackupDatasetMoves(t *testing.T) {
	t.Parallel() // it waits most of the time
	s := newSite(t, 1, 1)
	s.fill(1, 10, 3000)
	s.mustBackup(0)
	secret := s.config.Compartments[0]
	secret.Name = "secret"
	s.config.Compartments = append(s.config.Compartments, secret)
	s.config.Datasets[0].Compartment = "secret"
	if _, err := s.start().ApplyCharter(t.Context(), s.root); err != nil {
		t.Fatal(err)
	}
	if rep := s.mustBackup(0); rep.Same != 0 {
		t.Fatalf("%+v", rep)
	}
	s.restore(0)
}

// One dataset's mistake does not stop the others.
func TestBackupOneDatasetUnknown(t *testing.T) {
	s := newSite(t, 1, 1)
	s.fill(1, 3, 1000)
	typo := s.config.Datasets[0]
	typo.Name, typo.Priority = "typo", 0
	s.config.Datasets = append(s.config.Datasets, typo)
	reports, err := s.start().Backup(t.Context(), embassy.BackupOptions{})
	if err != nil || len(reports) != 2 || !errors.Is(reports[0].Err, embassy.ErrNotInCharter) || reports[1].Exit != 0 {
		t.Fatalf("%+v, %v", reports, err)
	}
}

func TestBackupForeignTarget(t *testing.T) {
	other := newSite(t, 1, 1) // another nation than that of sites with two targets
	s := newSite(t, 2, 1)
	s.mems[1] = other.mems[0]
	s.fill(1, 3, 1000)
	before := len(s.objects(1))
	rep := s.mustBackup(0)
	if !errors.Is(rep.Targets[1].Err, embassy.ErrForeignTarget) {
		t.Fatalf("%+v", rep.Targets)
	}
	if len(s.objects(1)) != before {
		t.Fatal("something was written beside another nation's data")
	}
}

func TestBackupMissingSource(t *testing.T) {
	s := newSite(t, 1, 1)
	s.fill(1, 3, 1000)
	d := &s.config.Datasets[0]
	d.Sources = append(d.Sources, filepath.Join(s.dir, "gone"))
	rep := s.mustBackup(3)
	if len(rep.Gaps) != 1 || string(rep.Gaps[0].Path) != d.Sources[1] || rep.Snapshot.IsZero() {
		t.Fatalf("%+v", rep)
	}
	d.Sources = d.Sources[1:]
	rep = s.mustBackup(1)
	if !errors.Is(rep.Err, embassy.ErrNoSource) || !rep.Snapshot.IsZero() {
		t.Fatalf("%+v", rep)
	}
	if n := s.count(0, "snapshot"); n != 1 {
		t.Fatalf("%d snapshots", n)
	}
}

func TestBackupExcludes(t *testing.T) {
	s := newSite(t, 1, 1)
	s.write("keep/a", []byte("a"))
	s.write("keep/b.tmp", []byte("b"))
	s.write("drop/c", []byte("c"))
	s.config.Datasets[0].Exclude = []string{"*.tmp", "drop/"}
	if rep := s.mustBackup(0); rep.Files != 1 {
		t.Fatalf("%+v", rep)
	}
}

func TestBackupUnknownNames(t *testing.T) {
	s := newSite(t, 1, 1)
	s.fill(1, 2, 100)
	_, err := s.start().Backup(t.Context(), embassy.BackupOptions{Datasets: []string{"land"}})
	if !errors.Is(err, embassy.ErrUnknownName) {
		t.Fatal(err)
	}
	land := s.config.Datasets[0]
	land.Name, land.Priority = "land", 2
	s.config.Datasets = append(s.config.Datasets, land)
	root := s.root
	rep, err := s.start().ApplyCharter(t.Context(), root)
	if err != nil || rep.Seq != 2 || !slices.Equal(rep.Added, []string{"dataset land"}) {
		t.Fatalf("%+v, %v", rep, err)
	}
	if rep, err = s.start().ApplyCharter(t.Context(), root); err != nil || rep.Seq != 2 || len(rep.Added) != 0 {
		t.Fatalf("applied again: %+v, %v", rep, err)
	}
	s.mustBackup(0)
}

func TestInitResumes(t *testing.T) {
	s := newSite(t, 2, 1)
	opts := embassy.InitOptions{Passphrase: passphrase, KitPath: s.kit(), AgentName: "test", Steward: true}
	first, err := s.start().Init(t.Context(), opts)
	if err != nil || !first.Resumed {
		t.Fatalf("%+v, %v", first, err)
	}
	for _, lost := range []string{"charter", "nation.json", "agent.key"} {
		if err := os.Remove(filepath.Join(s.config.StateDir, lost)); err != nil {
			t.Fatal(err)
		}
		if lost == "agent.key" { // the pin promises that it is there
			if err := os.Remove(filepath.Join(s.config.StateDir, "nation.json")); err != nil {
				t.Fatal(err)
			}
		}
		again, err := s.start().Init(t.Context(), opts)
		if err != nil || again.Nation != first.Nation || again.Fingerprint != first.Fingerprint {
			t.Fatalf("without %s: %+v, %v", lost, again, err)
		}
	}
	s.fill(1, 3, 1000)
	s.mustBackup(0)
	opts.Passphrase = []byte("not the passphrase")
	if _, err := s.start().Init(t.Context(), opts); !errors.Is(err, crypto.ErrAuthentication) {
		t.Fatal(err)
	}
	// The kit was moved away, as it should be: init again needs nothing.
	if err := os.Rename(s.kit(), s.kit()+".moved"); err != nil {
		t.Fatal(err)
	}
	if rep, err := s.start().Init(t.Context(), opts); err != nil || rep.Nation != first.Nation || rep.KitFound {
		t.Fatalf("%+v, %v", rep, err)
	}
	if _, err := os.Stat(s.kit()); !errors.Is(err, os.ErrNotExist) {
		t.Fatal("a second kit was made")
	}
}

// What lies in an agent's state directory must not open what it wrote.
func TestStateDirectoryOpensNothing(t *testing.T) {
	s := newSite(t, 1, 1)
	s.fill(1, 10, 20000)
	rep := s.mustBackup(0)
	raw, err := os.ReadFile(filepath.Join(s.config.StateDir, "agent.key"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := crypto.ParseAgentKey(raw)
	if err != nil {
		t.Fatal(err)
	}
	object, err := os.ReadFile(filepath.Join(s.config.StateDir, "charter"))
	if err != nil {
		t.Fatal(err)
	}
	root := s.root
	state, err := embassy.OpenState(s.config.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	ch, err := format.OpenCharter(object, state.Nation(), state.Verifier())
	if err != nil {
		t.Fatal(err)
	}
	agent, err := embassy.AgentKeys(ch, key)
	if err != nil {
		t.Fatal(err)
	}
	if agent.Compartments[0].Reader != nil {
		t.Fatal("an agent has a reader")
	}
	comp := ch.Compartments[0].ID
	identities := []*crypto.Identity{key.Identity}
	secrets := [][]byte{root.Bytes(), root.Reader(comp, 1).Bytes()}

	// Every 32 bytes of every file, as if they were a reader key.
	err = filepath.WalkDir(s.config.StateDir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, secret := range secrets {
			if bytes.Contains(data, secret) {
				t.Errorf("%s holds a root or reader secret", path)
			}
		}
		for off := 0; off+32 <= min(len(data), 200); off++ {
			if id, err := crypto.ParseIdentity(data[off : off+32]); err == nil {
				identities = append(identities, id)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(identities) < 30 {
		t.Fatalf("only %d candidates tried", len(identities))
	}
	captured := format.NewReader(identities...)
	reader := format.NewReader(root.Reader(comp, 1))
	packs := 0
	for name, size := range s.objects(0) {
		r, err := s.mems[0].Get(t.Context(), name, 0, size)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case strings.Contains(name, "/pack/"):
			packs++
			if _, err := format.OpenSegment(captured, data); !errors.Is(err, crypto.ErrAuthentication) {
				t.Errorf("pack opened: %v", err)
			}
			if _, err := format.OpenSegment(reader, data); err != nil {
				t.Errorf("the reader key does not open it: %v", err)
			}
		case strings.Contains(name, "/snapshot/"):
			snap, err := format.ParseSnapshot(data)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := snap.Root(captured); !errors.Is(err, crypto.ErrAuthentication) {
				t.Errorf("snapshot root opened: %v", err)
			}
			if _, err := snap.Root(reader); err != nil {
				t.Errorf("the reader key does not open it: %v", err)
			}
			if sum, err := snap.Summary(agent.Compartments[0].Current()); err != nil || sum.Dataset != "population" {
				t.Errorf("the agent cannot read its summary: %v", err)
			}
		}
	}
	if packs == 0 || rep.Packs != packs {
		t.Fatalf("%d packs looked at, %d made", packs, rep.Packs)
	}
}

// The number of workers changes the order of chunks in packs, and nothing of
// the chunks and trees.
func TestBackupSameTreeAtAnyParallelism(t *testing.T) {
	roots := map[string]int{}
	s := newSite(t, 1, 1)
	s.fill(3, 200, 9000)
	s.write("big", random(9, 12<<20))
	for i, procs := range []int{1, 4} {
		s.config.Datasets = append(s.config.Datasets, config.Dataset{})
		old := runtime.GOMAXPROCS(procs)
		s.config.Datasets = s.config.Datasets[:1]
		s.catalog = newMemCatalog() // and no memory of what was stored
		rep, err := s.backup(t.Context())
		runtime.GOMAXPROCS(old)
		if err != nil || rep.Exit != 0 {
			t.Fatalf("%+v, %v", rep, err)
		}
		v, err := s.view(0)
		if err != nil {
			t.Fatal(err)
		}
		var tree strings.Builder
		err = v.Walk(t.Context(), v.Snapshots("")[0], "", true, func(path string, n *format.Node) error {
			if n.Content != nil {
				tree.WriteString(path + string(n.Content.Chunks))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		roots[tree.String()] = i
	}
	if len(roots) != 1 {
		t.Fatal("the trees differ")
	}
}

func TestBackupInterrupted(t *testing.T) {
	s := newSite(t, 1, 1)
	s.fill(1, 50, 20000)
	ctx, cancel := context.WithCancel(t.Context())
	s.wrap = func(_ int, tgt targets.Target) targets.Target {
		return &targets.Faulty{Target: tgt, After: func(op targets.Op, name string) error {
			if op == targets.OpPut && strings.Contains(name, "/pack/") {
				cancel()
			}
			return nil
		}}
	}
	if _, err := s.backup(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if n := s.count(0, "snapshot"); n != 0 {
		t.Fatalf("%d snapshots of an interrupted run", n)
	}
	s.wrap = nil
	rep := s.mustBackup(0)
	if n := s.count(0, "pack"); n > 2 {
		t.Fatalf("%d packs: what had arrived was sent again; %+v", n, rep)
	}
	s.restore(0)
}

func TestDryRunStoresNothing(t *testing.T) {
	s := newSite(t, 1, 1)
	s.fill(1, 10, 5000)
	before := len(s.objects(0))
	reports, err := s.start().Backup(t.Context(), embassy.BackupOptions{DryRun: true})
	if err != nil || len(reports) != 1 || reports[0].New != 10 || !reports[0].Snapshot.IsZero() {
		t.Fatalf("%+v, %v", reports, err)
	}
	if len(s.objects(0)) != before || len(s.catalog.dirs) != 0 || len(s.catalog.packs) != 0 {
		t.Fatal("a dry run left something")
	}
	if rep := s.mustBackup(0); rep.New != 10 {
		t.Fatalf("%+v", rep)
	}
}

// A source whose folder changes beside it is unchanged itself.
func TestBackupIgnoresWhatLeadsToSources(t *testing.T) {
	s := newSite(t, 1, 1)
	s.fill(1, 5, 2000)
	s.mustBackup(0)
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(s.dir, later, later); err != nil {
		t.Fatal(err)
	}
	if rep := s.mustBackup(0); rep.Packs != 0 {
		t.Fatalf("%+v", rep)
	}
}
