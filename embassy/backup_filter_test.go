package embassy_test

import (
	"errors"
	"io"
	"iter"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"embassy/embassy"
	"embassy/embassy/config"
	"embassy/embassy/format"
)

const cacheSignature = "Signature: 8a477f597d28d172789f06886806bc55\n# made by a test\n"

// latest restores the newest snapshot of the dataset, and returns it and where to.
func (s *site) latest() (*embassy.View, embassy.SnapshotInfo, string) {
	s.t.Helper()
	v, err := s.view(0)
	if err != nil {
		s.t.Fatal(err)
	}
	snap, err := v.Pick("population", "latest", time.Time{})
	if err != nil {
		s.t.Fatal(err)
	}
	to := filepath.Join(s.t.TempDir(), "out")
	if _, err := v.Restore(s.t.Context(), embassy.RestoreOptions{Snapshots: []embassy.SnapshotInfo{snap}, To: to}); err != nil {
		s.t.Fatal(err)
	}
	return v, snap, to
}

// restored restores the newest snapshot of the dataset, and returns its files
// and folders below a folder of it, in order.
func (s *site) restored(below string) []string {
	s.t.Helper()
	_, _, to := s.latest()
	names := maps.Keys(s.tree(filepath.Join(to, "population", below)))
	return slices.Sorted(files(names))
}

// files leaves out the folder itself.
func files(names iter.Seq[string]) iter.Seq[string] {
	return func(yield func(string) bool) {
		for n := range names {
			if n != "." && !yield(n) {
				return
			}
		}
	}
}

func TestBackupExcludesCaches(t *testing.T) {
	s := newSite(t, 1, 1)
	s.write("a/CACHEDIR.TAG", []byte(cacheSignature))
	s.write("a/deep/page", []byte("x"))
	s.write("short/CACHEDIR.TAG", []byte(cacheSignature[:42]))
	s.write("short/page", []byte("x"))
	s.write("folder/CACHEDIR.TAG/page", []byte("x"))
	if err := os.Symlink("../a/CACHEDIR.TAG", filepath.Join(s.src, "short", "link")); err != nil {
		t.Fatal(err)
	}
	s.write("linked/page", []byte("x"))
	if err := os.Symlink("../a/CACHEDIR.TAG", filepath.Join(s.src, "linked", "CACHEDIR.TAG")); err != nil {
		t.Fatal(err)
	}
	all := s.mustBackup(0)
	if all.Left != (embassy.LeftOut{}) || all.Files != 6 {
		t.Fatalf("%+v", all)
	}
	s.config.Datasets[0].ExcludeCaches = true
	rep := s.mustBackup(0)
	if rep.Left != (embassy.LeftOut{Caches: 1}) || rep.Files != 5 || rep.Same != 5 {
		t.Fatalf("%+v", rep)
	}
	want := []string{"a", "a/CACHEDIR.TAG", "folder", "folder/CACHEDIR.TAG", "folder/CACHEDIR.TAG/page",
		"linked", "linked/CACHEDIR.TAG", "linked/page", "short", "short/CACHEDIR.TAG", "short/link", "short/page"}
	if got := s.restored(s.src); !slices.Equal(got, want) {
		t.Errorf("restored %q, want %q", got, want)
	}
	// What is named as a source is meant.
	s.config.Datasets[0].Sources = []string{filepath.Join(s.src, "a")}
	if rep := s.mustBackup(0); rep.Files != 2 || rep.Left.Caches != 0 {
		t.Errorf("%+v", rep)
	}
}

func TestBackupExcludesLargeFiles(t *testing.T) {
	s := newSite(t, 1, 1)
	d := &s.config.Datasets[0]
	d.ExcludeLargerThan = 1000
	d.Exclude = []string{"*.tmp"}
	s.write("d/as large", make([]byte, 1000))
	s.write("d/larger", make([]byte, 1001))
	s.write("d/much larger", make([]byte, 100<<10))
	s.write("d/larger.tmp", make([]byte, 2000)) // counted once
	s.write("named", make([]byte, 5000))
	d.Sources = []string{filepath.Join(s.src, "d"), filepath.Join(s.src, "named")}
	rep := s.mustBackup(0)
	if rep.Left != (embassy.LeftOut{Excluded: 1, Larger: 2, LargerBytes: 1001 + 100<<10}) {
		t.Fatalf("%+v", rep.Left)
	}
	if got, want := s.restored(s.src), []string{"d", "d/as large", "named"}; !slices.Equal(got, want) {
		t.Errorf("restored %q, want %q", got, want)
	}
}

// stream makes the dataset one of an input.
func (s *site) stream() {
	d := &s.config.Datasets[0]
	d.Sources, d.Stdin, d.Filename = nil, true, "dump"
}

// feed backs up what r gives.
func (s *site) feed(r io.Reader, exit int) embassy.BackupReport {
	s.t.Helper()
	reports, err := s.start().Backup(s.t.Context(), embassy.BackupOptions{Datasets: []string{"population"}, Stdin: r})
	if err != nil || len(reports) != 1 || reports[0].Exit != exit {
		s.t.Fatalf("%+v, %v; want exit code %d", reports, err, exit)
	}
	return reports[0]
}

// An input of any length is stored in chunks as a file is.
func TestBackupInput(t *testing.T) {
	s := newSite(t, 1, 1)
	s.stream()
	for _, size := range []int64{1, 1 << 20, 40<<20 + 1} {
		// One seed: what was stored of a shorter one is known.
		data := func() io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{1}), size) }
		rep := s.feed(data(), 0)
		if rep.Files != 1 || rep.Bytes != uint64(size) || rep.Read != uint64(size) {
			t.Fatalf("%+v", rep)
		}
		v, err := s.view(0)
		if err != nil {
			t.Fatal(err)
		}
		snap, err := v.Pick("population", "latest", time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(t.TempDir(), "out")
		if _, err := v.Restore(t.Context(), embassy.RestoreOptions{Snapshots: []embassy.SnapshotInfo{snap}, To: to}); err != nil {
			t.Fatal(err)
		}
		fi, err := os.Stat(filepath.Join(to, "population", "dump"))
		if err != nil || fi.Mode() != 0o600 || fi.ModTime().Before(rep.Started) || fi.ModTime().After(rep.Started.Add(time.Minute)) {
			t.Fatalf("%v, %v", fi, err)
		}
		got, err := os.ReadFile(filepath.Join(to, "population", "dump"))
		if err != nil {
			t.Fatal(err)
		}
		want, err := io.ReadAll(data())
		if err != nil || string(got) != string(want) {
			t.Fatalf("%d bytes of %d are not the same", len(got), len(want))
		}
	}
	before := s.count(0, "pack")
	s.feed(io.LimitReader(rand.NewChaCha8([32]byte{1}), 40<<20+1), 0)
	if n := s.count(0, "pack"); n > before+1 { // the tree has another time
		t.Errorf("%d packs after %d for the same input", n, before)
	}
}

// What does not come to a good end gives no snapshot.
func TestBackupInputFails(t *testing.T) {
	s := newSite(t, 1, 1)
	s.stream()
	broken := errors.New("connection reset")
	rep := s.feed(io.MultiReader(io.LimitReader(rand.NewChaCha8([32]byte{1}), 20<<20), failing{broken}), 1)
	if !errors.Is(rep.Err, broken) || !rep.Snapshot.IsZero() {
		t.Errorf("%+v", rep)
	}
	if rep := s.feed(strings.NewReader(""), 1); !errors.Is(rep.Err, embassy.ErrEmptyInput) {
		t.Errorf("%+v", rep)
	}
	if rep := s.feed(nil, 1); rep.Err == nil {
		t.Errorf("%+v", rep)
	}
	if _, err := s.start().Backup(t.Context(), embassy.BackupOptions{}); !errors.Is(err, embassy.ErrUnknownName) {
		t.Errorf("a run that names none: %v", err)
	}
	if n := s.count(0, "snapshot"); n != 0 {
		t.Errorf("%d snapshots", n)
	}
}

type failing struct{ error }

func (f failing) Read([]byte) (int, error) { return 0, f.error }

// Sources that pre brings are found, and a failing post undoes no snapshot.
func TestBackupHooks(t *testing.T) {
	s := newSite(t, 1, 1)
	d := &s.config.Datasets[0]
	d.Sources = []string{filepath.Join(s.dir, "made")}
	d.Pre = config.Program{Args: []string{"/bin/mkdir", d.Sources[0]}}
	d.Post = config.Program{Args: []string{"/bin/rmdir", d.Sources[0]}}
	if rep := s.mustBackup(0); rep.Snapshot == (format.Hash{}) || rep.PostErr != nil {
		t.Fatalf("%+v", rep)
	}
	if rep, err := s.start().Backup(t.Context(), embassy.BackupOptions{DryRun: true}); err != nil || !errors.Is(rep[0].Err, embassy.ErrNoSource) {
		t.Fatalf("a dry run: %+v, %v", rep, err)
	}
	d.Post.Args = []string{"/bin/rmdir", d.Sources[0], filepath.Join(s.dir, "nowhere")}
	if rep := s.mustBackup(1); rep.Snapshot.IsZero() || rep.PostErr == nil || rep.Err != nil || !strings.Contains(rep.PostErr.Error(), "nowhere") {
		t.Fatalf("%+v", rep)
	}
	d.Pre.Args = []string{"/bin/mkdir", s.dir}
	if rep := s.mustBackup(1); !rep.Snapshot.IsZero() || rep.Err == nil || rep.PostErr != nil {
		t.Fatalf("%+v", rep)
	}
	if n := s.count(0, "snapshot"); n != 2 {
		t.Errorf("%d snapshots", n)
	}
}
