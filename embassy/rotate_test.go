package embassy_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"embassy/crypto"
	"embassy/embassy"
	"embassy/embassy/format"
	"embassy/targets"
)

// rotateWriter begins a new writer epoch everywhere.
func (s *site) rotateWriter() {
	s.t.Helper()
	rep, err := s.start().RotateWriter(s.t.Context(), s.root, nil)
	if err != nil || len(rep.Added) != 1 {
		s.t.Fatalf("%+v, %v", rep, err)
	}
}

// restoreFrom restores one snapshot from a target alone, with any keys, and returns the
// folder that the sources are in.
func (s *site) restoreFrom(i int, keys *embassy.Keys, snapshot format.Hash) (string, error) {
	s.t.Helper()
	v, err := embassy.OpenView(s.t.Context(), embassy.ViewOptions{
		Keys: keys, Members: []*embassy.Member{embassy.NewMember("t", "", "", s.mems[i], nil, time.Now)},
	})
	if err != nil {
		return "", err
	}
	to := filepath.Join(s.t.TempDir(), "out")
	snap, err := v.Pick("population", snapshot.String(), time.Time{})
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = v.Restore(s.t.Context(), embassy.RestoreOptions{Snapshots: []embassy.SnapshotInfo{snap}, To: to})
	return filepath.Join(to, "population", s.src), err
}

// keys opens the newest charter of a target with a root.
func (s *site) keys(i int, root *crypto.Root) (*embassy.Keys, error) {
	s.t.Helper()
	ch, _, err := embassy.FindCharterOf(s.t.Context(), s.members()[i:i+1], s.nation(), root, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return embassy.RootKeys(ch, root)
}

func (s *site) nation() format.ID {
	s.t.Helper()
	key, _, err := embassy.Identify(s.config)
	if err != nil {
		s.t.Fatal(err)
	}
	return key.Nation
}

// holds restores a snapshot from every target alone and compares it.
func (s *site) holds(root *crypto.Root, snapshot format.Hash, want map[string]string) {
	s.t.Helper()
	for i := range s.mems {
		keys, err := s.keys(i, root)
		if err != nil {
			s.t.Fatal(err)
		}
		to, err := s.restoreFrom(i, keys, snapshot)
		if err != nil {
			s.t.Fatalf("target %d: %v", i, err)
		}
		if got := s.tree(to); !maps.Equal(got, want) {
			s.t.Fatalf("target %d: %d names restored, want %d", i, len(got), len(want))
		}
	}
}

// A snapshot of a new writer epoch uses nothing of the one before, and both
// are there.
func TestRotateWriter(t *testing.T) {
	s := newSite(t, 2, 2)
	s.fill(1, 8, 3000)
	s.write("large", random(7, 5<<20))
	first := s.mustBackup(0)
	before, was := s.tree(s.src), s.objects(0)
	s.rotateWriter()
	s.write("d0/new", []byte("new"))
	second := s.mustBackup(0)
	if second.Same != 0 || second.Added < first.Added {
		t.Fatalf("%d files were taken from the file cache, %d bytes stored after %d", second.Same, second.Added, first.Added)
	}
	if again := s.mustBackup(0); again.Packs != 0 || again.New+again.Changed != 0 {
		t.Fatalf("unchanged: %+v", again)
	}
	s.holds(s.root, first.Snapshot, before)
	s.write("d0/new", []byte("old")) // of the same size
	third := s.mustBackup(0)
	if got := s.diff(first.Snapshot, third.Snapshot); !slices.Equal(got, []string{"d0 time", "d0/new added"}) {
		t.Errorf("what differs between the epochs: %q", got)
	}
	if got := s.diff(second.Snapshot, third.Snapshot); !slices.Equal(got, []string{"d0/new content,time"}) {
		t.Errorf("what differs within the epoch: %q", got)
	}

	// A new catalog learns both epochs.
	s.catalog = newMemCatalog()
	if rep, err := s.start().Rebuild(t.Context(), "t1"); err != nil || rep.Exit != 0 || rep.Lost != 0 || rep.Packs != uint64(first.Packs+second.Packs+third.Packs) {
		t.Fatalf("%+v, %v", rep, err)
	}
	if rep := s.mustBackup(0); rep.Packs != 0 {
		t.Fatalf("%d packs stored again after a rebuild", rep.Packs)
	}

	for name := range was {
		if strings.Contains(name, "/pack/") || strings.Contains(name, "/index/") {
			if err := errors.Join(s.mems[0].Delete(t.Context(), name), s.mems[1].Delete(t.Context(), name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.holds(s.root, third.Snapshot, s.tree(s.src))
}

// diff says what differs between two snapshots.
func (s *site) diff(old, new format.Hash) []string {
	s.t.Helper()
	v, err := s.view(0)
	if err != nil {
		s.t.Fatal(err)
	}
	var snaps [2]embassy.SnapshotInfo
	for i, h := range []format.Hash{old, new} {
		if snaps[i], err = v.Pick("population", h.String(), time.Time{}); err != nil {
			s.t.Fatal(err)
		}
	}
	var out []string
	if err := v.Diff(s.t.Context(), snaps[0], snaps[1], s.src, func(c embassy.Change) error {
		what := strings.Join(c.What.Names(), ",")
		if c.Old == nil {
			what = "added"
		}
		out = append(out, strings.TrimPrefix(c.Path, s.src+"/")+" "+what)
		return nil
	}); err != nil {
		s.t.Fatal(err)
	}
	return out
}

func TestRotateUnknown(t *testing.T) {
	s := newSite(t, 1, 1)
	before := len(s.objects(0))
	for _, rotate := range []func(context.Context, *crypto.Root, []string) (embassy.CharterReport, error){s.start().RotateReader, s.start().RotateWriter} {
		if _, err := rotate(t.Context(), s.root, []string{"official", "secret"}); !errors.Is(err, embassy.ErrUnknownName) {
			t.Errorf("an unknown compartment: %v", err)
		}
		if _, err := rotate(t.Context(), crypto.NewRoot(), nil); !errors.Is(err, crypto.ErrAuthentication) {
			t.Errorf("another root: %v", err)
		}
	}
	if n := len(s.objects(0)); n != before {
		t.Errorf("%d objects were put", n-before)
	}
}

// What an agent has in hand when the secret is rotated, and what it writes while
// it does not know, is as good as all else.
func TestRotateWriterBehindAgent(t *testing.T) {
	s := newSite(t, 2, 2)
	s.fill(1, 50, 20000)
	office := s.clone(t) // where the charter is signed

	// A run that was cut off left a pack that no entry lists.
	var has atomic.Int32 // targets
	ctx, cancel := context.WithCancel(t.Context())
	s.wrap = func(_ int, tgt targets.Target) targets.Target {
		return &targets.Faulty{Target: tgt, After: func(op targets.Op, name string) error {
			if op == targets.OpPut && strings.Contains(name, "/pack/") && int(has.Add(1)) == len(s.mems) {
				cancel()
			}
			return nil
		}}
	}
	if _, err := s.backup(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	office.rotateWriter()

	// The agent does not hear of it, and goes on.
	s.wrap = func(_ int, tgt targets.Target) targets.Target {
		return &targets.Faulty{Target: tgt, Before: func(targets.Op, string) error { return errors.New("connection refused") }}
	}
	s.write("offline", []byte("written while no target answered"))
	offline := s.mustBackup(4)
	before := s.tree(s.src)

	s.wrap = nil
	s.write("online", []byte("written with the new secret"))
	online := s.mustBackup(0)
	if online.Same != 0 {
		t.Fatalf("%+v", online)
	}
	s.holds(s.root, offline.Snapshot, before)
	s.holds(s.root, online.Snapshot, s.tree(s.src))
	if rep, err := s.start().Verify(t.Context(), embassy.VerifyOptions{Level: embassy.Full}); err != nil || rep.Exit != 0 {
		t.Fatalf("%+v, %v", rep, err)
	}
	s.same()
}

// A reader key opens what was written in its epoch, and nothing later.
func TestRotateReader(t *testing.T) {
	s := newSite(t, 1, 1)
	s.fill(1, 5, 3000)
	first := s.mustBackup(0)
	before := s.tree(s.src)
	if rep, err := s.start().RotateReader(t.Context(), s.root, []string{"official"}); err != nil || len(rep.Added) != 1 {
		t.Fatalf("%+v, %v", rep, err)
	}
	s.fill(2, 5, 3000)
	second := s.mustBackup(0)
	if second.Same != 5 {
		t.Fatalf("%d files were unchanged, want 5", second.Same)
	}
	s.holds(s.root, first.Snapshot, before)
	s.holds(s.root, second.Snapshot, s.tree(s.src))

	keys, err := s.keys(0, s.root)
	if err != nil {
		t.Fatal(err)
	}
	c := keys.Compartments[0]
	c.Reader = format.NewReader(s.root.Reader(c.ID, 1))
	if to, err := s.restoreFrom(0, keys, first.Snapshot); err != nil || !maps.Equal(s.tree(to), before) {
		t.Errorf("the old key and the old snapshot: %v", err)
	}
	if _, err := s.restoreFrom(0, keys, second.Snapshot); err == nil {
		t.Error("the old key opened what was written after it was replaced")
	}
}

var nextPassphrase = []byte("another passphrase for tests")

// newRoot makes the root that follows s.root, and its kit.
func (s *site) newRoot(name string) *crypto.Root {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := s.start().NewRoot(s.t.Context(), s.root, embassy.RootKeeping{KitPath: path, Passphrase: nextPassphrase}); err != nil {
		s.t.Fatal(err)
	}
	_, next, err := embassy.OpenKit(path, nextPassphrase)
	if err != nil {
		s.t.Fatal(err)
	}
	return next
}

// rotateRoot makes next the root.
func (s *site) rotateRoot(next *crypto.Root) {
	s.t.Helper()
	if rep, err := s.start().RotateRoot(s.t.Context(), next); err != nil || len(rep.Added) != 2 {
		s.t.Fatalf("%+v, %v", rep, err)
	}
}

func TestRotateRoot(t *testing.T) {
	s := newSite(t, 3, 2)
	old := s.root
	nation := s.nation()
	s.fill(1, 5, 3000)
	first := s.mustBackup(0)
	before := s.tree(s.src)
	office, thief := s.clone(t), s.clone(t)
	office.root = old

	// The new root is kept before anything depends on it, and nothing does yet.
	next := office.newRoot("next.txt")
	if err := office.start().NewRoot(t.Context(), old, embassy.RootKeeping{KitPath: filepath.Join(office.dir, "next.txt"), Passphrase: nextPassphrase}); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("a second new root: %v", err)
	}
	if _, err := office.start().RotateWriter(t.Context(), next, nil); !errors.Is(err, embassy.ErrUnfinished) {
		t.Fatalf("a root that nobody knows yet: %v", err)
	}
	if _, err := office.start().RotateRoot(t.Context(), crypto.NewRoot()); !errors.Is(err, embassy.ErrUnrelated) {
		t.Fatalf("any root: %v", err)
	}
	s.mustBackup(0)

	// Target 2 is away. What was interrupted goes on, and is done once.
	office.wrap = unreachable(2)
	office.rotateRoot(next)
	if rep, err := office.start().RotateRoot(t.Context(), next); err != nil || len(rep.Added) != 0 {
		t.Fatalf("again: %+v, %v", rep, err)
	}
	if _, err := s.keys(0, old); !errors.Is(err, embassy.ErrReplaced) || !errors.Is(err, crypto.ErrAuthentication) {
		t.Fatalf("the old root: %v", err)
	}
	if _, err := office.start().RotateWriter(t.Context(), old, nil); !errors.Is(err, embassy.ErrReplaced) {
		t.Fatalf("the old root signs: %v", err)
	}

	// A target that knows older charters only serves both kits.
	for name, root := range map[string]*crypto.Root{"old": old, "new": next} {
		keys, err := s.keys(2, root)
		if err != nil {
			t.Fatalf("%s root, old charter: %v", name, err)
		}
		if to, err := s.restoreFrom(2, keys, first.Snapshot); err != nil || !maps.Equal(s.tree(to), before) {
			t.Fatalf("%s root, old charter: %v", name, err)
		}
	}

	// Machines that were away follow without a step, keyless ones too.
	s.root = old
	replicator := s.replicator()
	s.root = next
	s.write("later", []byte("later"))
	second := s.mustBackup(0)
	if second.Same != 0 {
		t.Fatalf("%+v", second)
	}
	replicator.replicate(0, embassy.ReplicateOptions{})
	s.same()
	s.holds(next, first.Snapshot, before)
	s.holds(next, second.Snapshot, s.tree(s.src))
	if n := s.nation(); n != nation {
		t.Errorf("the nation is %s, was %s", n, nation)
	}
	after := s.tree(s.src)
	keys, err := s.keys(0, next)
	if err != nil {
		t.Fatal(err)
	}
	c := keys.Compartments[0]
	c.Reader = format.NewReader(old.Reader(c.ID, 1), old.Reader(c.ID, 2))
	if _, err := s.restoreFrom(0, keys, second.Snapshot); err == nil {
		t.Error("keys of the old root open what was written under the new one")
	}

	// Who has the old root lets it hand over to another one. Whoever knows the
	// right one stays with it.
	thief.mems = []*targets.Mem{targets.NewMem(), targets.NewMem(), targets.NewMem()}
	thief.root = old
	for i := range thief.mems {
		for name := range s.objects(i) {
			if strings.Contains(name, "/charter/") && strings.Contains(name, "/0000000000000001-") {
				s.copyTo(thief.mems[i], name)
			}
		}
	}
	other := thief.newRoot("thief.txt")
	thief.rotateRoot(other)
	thief.root = other
	thief.rotateWriter()
	for name := range thief.objects(0) {
		if strings.Contains(name, "/charter/") {
			for _, m := range s.mems {
				thief.copyTo(m, name)
			}
		}
	}
	s.findings, replicator.findings = nil, nil
	s.write("last", []byte("last"))
	if rep := s.mustBackup(0); rep.Same == 0 {
		t.Errorf("a new writer epoch: %+v", rep)
	}
	replicator.replicate(0, embassy.ReplicateOptions{})
	for _, m := range []*site{s, replicator} {
		if !m.heard(embassy.ErrTwoRoots) {
			t.Errorf("nothing is said of a second root: %v", m.findings)
		}
	}
	s.same()
	s.holds(next, second.Snapshot, after)
}

// heard reports whether a finding is of that error.
func (s *site) heard(want error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.findings, func(f embassy.Finding) bool { return errors.Is(f.Err, want) })
}

// copyTo copies an object of target 0 to a target of another site.
func (s *site) copyTo(to *targets.Mem, name string) {
	s.t.Helper()
	r, err := s.mems[0].Get(s.t.Context(), name, 0, s.objects(0)[name])
	if err != nil {
		s.t.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err == nil {
		err = to.Put(s.t.Context(), targets.Object{Name: name, Data: data, SHA256: format.HashOf(data)})
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// Twice rotated, everything is there.
func TestRotateRootTwice(t *testing.T) {
	s := newSite(t, 1, 1)
	s.fill(1, 3, 3000)
	first := s.mustBackup(0)
	before := s.tree(s.src)
	for _, name := range []string{"second.txt", "third.txt"} {
		next := s.newRoot(name)
		s.rotateRoot(next)
		s.root = next
	}
	s.fill(2, 3, 3000)
	last := s.mustBackup(0)
	s.holds(s.root, first.Snapshot, before)
	s.holds(s.root, last.Snapshot, s.tree(s.src))
}

func TestRotatePassphrase(t *testing.T) {
	s := newSite(t, 1, 1)
	old, err := os.ReadFile(s.kit())
	if err != nil {
		t.Fatal(err)
	}
	kit, root, err := embassy.OpenKit(s.kit(), passphrase)
	if err != nil {
		t.Fatal(err)
	}
	if err := embassy.RotatePassphrase(s.kit(), "testland", kit, root, passphrase, time.Now()); !errors.Is(err, embassy.ErrSamePassphrase) {
		t.Errorf("the same passphrase: %v", err)
	}
	if err := embassy.RotatePassphrase(s.kit(), "testland", kit, root, nextPassphrase, time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := embassy.OpenKit(s.kit(), passphrase); !errors.Is(err, crypto.ErrAuthentication) {
		t.Errorf("the old passphrase: %v", err)
	}
	made, again, err := embassy.OpenKit(s.kit(), nextPassphrase)
	if err != nil || !again.Equal(&root.Secret) || made.Nation != kit.Nation || !bytes.Equal(made.Hints, kit.Hints) || len(kit.Hints) == 0 {
		t.Errorf("the new kit: %+v, %v", made, err)
	}
	if info, err := os.Stat(s.kit()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(s.kit(), old, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := embassy.OpenKit(s.kit(), passphrase); err != nil {
		t.Errorf("a copy of the old kit: %v", err)
	}
}

// A target has what was written in new epochs, and not the charters that began
// them: the root opens it all the same.
func TestRotateAheadOfCharter(t *testing.T) {
	s := newSite(t, 2, 2)
	s.fill(1, 5, 3000)
	first := s.mustBackup(0)
	before, old := s.tree(s.src), s.objects(0)
	s.rotateWriter()
	if _, err := s.start().RotateReader(t.Context(), s.root, nil); err != nil {
		t.Fatal(err)
	}
	s.write("new", []byte("under new keys"))
	second := s.mustBackup(0)
	for name := range s.objects(0) {
		if _, was := old[name]; strings.Contains(name, "/charter/") && !was {
			for _, m := range s.mems {
				if err := m.Delete(t.Context(), name); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	s.holds(s.root, first.Snapshot, before)
	s.holds(s.root, second.Snapshot, s.tree(s.src))
}
