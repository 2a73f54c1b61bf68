package integration_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// mounted is a running embassy mount.
type mounted struct {
	*running
	dir string
}

// mount shows what the site has. However the test ends, nothing stays mounted.
func (s *site) mount(args ...string) *mounted {
	s.t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil || os.Geteuid() != 0 {
		s.t.Skip("to mount takes /dev/fuse and root")
	}
	dir := s.t.TempDir()
	m := &mounted{s.launch(embassyProgram, append(append([]string{"mount"}, args...), dir)...), dir}
	s.t.Cleanup(func() {
		if m.there() {
			must(s.t, unix.Unmount(dir, unix.MNT_DETACH|unix.MNT_FORCE))
		}
	})
	m.until(func() bool { return m.there() && strings.Contains(m.stderr.String(), "mounted at ") })
	return m
}

// there reports whether anything is mounted, in whatever state.
func (m *mounted) there() bool {
	m.t.Helper()
	table, err := os.ReadFile("/proc/self/mounts")
	must(m.t, err)
	return strings.Contains(string(table), " "+m.dir+" fuse.embassy ")
}

// ends waits for the process, whose mount must be gone.
func (m *mounted) ends(code int) result {
	m.t.Helper()
	r := m.result().wants(m.t, code)
	if m.there() {
		m.t.Errorf("%q ended and left its mount", r.args)
	}
	return r
}

func (m *mounted) interrupt() {
	m.t.Helper()
	must(m.t, m.cmd.Process.Signal(os.Interrupt))
}

// TestMount shows a tree of everything that a file system can hold; the judges
// of a restore compare it with the source, and dump with a restore of it.
func TestMount(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("owners, devices and mounts take root")
	}
	t.Parallel()
	base := t.TempDir()
	tree, beside := filepath.Join(base, "tree"), filepath.Join(base, "beside")
	torture(t, tree)
	write(t, filepath.Join(beside, "x"), []byte("x"))
	must(t, os.Link(filepath.Join(tree, "hard"), filepath.Join(beside, "hard across sources")))
	big := noise(9, 90*mib)
	write(t, filepath.Join(beside, "big"), big)
	first, second := dataset{name: "first", sources: []string{beside}}, dataset{name: "torture", sources: []string{tree, beside}}
	s := newSite(t, borrow(t, 2)...)
	s.found(first, second)
	s.backup(0)
	write(t, filepath.Join(beside, "later"), []byte("later"))
	s.backup(0, "first")

	m := s.mount()
	names := func(dir ...string) []string {
		t.Helper()
		entries, err := os.ReadDir(filepath.Join(append([]string{m.dir}, dir...)...))
		must(t, err)
		var out []string
		for _, e := range entries {
			out = append(out, e.Name())
		}
		return out
	}
	if got := names(); !slices.Equal(got, []string{"first", "torture"}) {
		t.Errorf("datasets %q", got)
	}
	snapshots := names("first")
	if len(snapshots) != 3 || snapshots[2] != "latest" {
		t.Fatalf("snapshots of first: %q", snapshots)
	}
	for i, want := range []bool{false, true, true} {
		if got := slices.Contains(names("first", snapshots[i], beside), "later"); got != want {
			t.Errorf("%s has the later file: %v", snapshots[i], got)
		}
	}
	must(t, os.Remove(filepath.Join(beside, "later")))
	must(t, os.Chtimes(beside, time.Time{}, mtime(t, filepath.Join(m.dir, "torture/latest", beside))))
	if text := objections(t, base, filepath.Join(m.dir, "torture/latest", base)); len(text) > 0 {
		t.Errorf("not shown as it was:\n%s", strings.Join(text, "\n"))
	}

	file := filepath.Join(m.dir, "first/latest", beside, "big")
	dumped := s.exits(0, "dump", "first:"+filepath.Join(beside, "big"))
	if got := read(t, file); sha256.Sum256(got) != sha256.Sum256([]byte(dumped.stdout)) || !bytes.Equal(got, big) {
		t.Error("mount, dump and source have not the same bytes")
	}
	old := filepath.Join(m.dir, "first", snapshots[0], beside, "big") // which is not in the kernel's cache
	var readers sync.WaitGroup
	for seed := range uint64(4) {
		readers.Go(func() {
			f, err := os.Open(old)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			rng := rand.New(rand.NewPCG(seed, 0))
			for range 50 {
				off, buf := rng.IntN(len(big)), make([]byte, rng.IntN(300_000))
				n, err := f.ReadAt(buf, int64(off))
				if want := big[off:min(off+len(buf), len(big))]; !bytes.Equal(buf[:n], want) || err != nil && !errors.Is(err, io.EOF) {
					t.Errorf("%d bytes from %d: %d, %v", len(buf), off, n, err)
				}
			}
		})
	}
	readers.Wait()

	for what, err := range map[string]error{
		"write":  os.WriteFile(file, nil, 0),
		"create": os.WriteFile(file+"-2", nil, 0o600),
		"remove": os.Remove(file),
		"mkdir":  os.Mkdir(filepath.Join(m.dir, "new"), 0o700),
		"chmod":  os.Chmod(file, 0o777),
	} {
		if !errors.Is(err, unix.EROFS) {
			t.Errorf("%s: %v", what, err)
		}
	}
	table := string(read(t, "/proc/self/mounts"))
	if _, line, _ := strings.Cut(table, m.dir+" "); !strings.HasPrefix(line, "fuse.embassy ro,nosuid,nodev") {
		t.Errorf("mounted as %.80s", line)
	}
	m.interrupt()
	m.ends(0).says(t, "first (2 snapshots), torture (1 snapshot)", "umount "+m.dir)

	id := s.snapshots()[0]
	m = s.mount("--snapshot", id[:10])
	held, err := os.Open(m.dir)
	must(t, err)
	defer held.Close()
	if got := names("first"); len(got) != 2 || !strings.HasSuffix(got[0], id[:12]) {
		t.Errorf("of one snapshot: %q", got)
	}
	m.interrupt()
	m.ends(0).says(t, "still in use")

	m = s.mount("--at", "2100-01-01")
	m.until(func() bool { return unix.Unmount(m.dir, 0) == nil }) // somebody else ends it
	m.ends(0)
	s.exits(2, "mount", base).says(t, "is not empty")
	s.exits(2, "mount", filepath.Join(base, "no"))
}

func mtime(t testing.TB, path string) time.Time {
	t.Helper()
	fi, err := os.Lstat(path)
	must(t, err)
	return fi.ModTime()
}

// TestMountBadCopies: where one target has other bytes, the next one serves;
// where all have, nobody gets them.
func TestMountBadCopies(t *testing.T) {
	t.Parallel()
	src := t.TempDir()
	want := noise(3, 40*mib)
	write(t, filepath.Join(src, "file"), want)
	write(t, filepath.Join(src, "small"), []byte("small"))
	stores := borrow(t, 2)
	s := newSite(t, stores...)
	s.found(dataset{name: "data", sources: []string{src}})
	s.backup(0)
	data := stores[0].keys("pack")
	must(t, os.Chmod(filepath.Join(src, "small"), 0o640))
	s.backup(0) // reads no content, and stores its folders in a pack of theirs
	spoil := func(st *store) {
		for _, key := range data {
			pack, _ := st.get(key)
			for at := 0; at < len(pack); at += mib / 2 {
				pack[at] ^= 1
			}
			st.put(key, pack)
		}
	}
	spoil(stores[0])
	m := s.mount()
	if got := read(t, filepath.Join(m.dir, "data/latest", src, "file")); !bytes.Equal(got, want) {
		t.Error("other bytes")
	}
	m.interrupt()
	m.ends(0).says(t, "target "+stores[0].name+": ", "pack")

	spoil(stores[1])
	m = s.mount()
	file := filepath.Join("data/latest", src, "file")
	got, err := os.ReadFile(filepath.Join(m.dir, file))
	if !errors.Is(err, unix.EIO) || !bytes.HasPrefix(want, got) || len(got) == len(want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	m.interrupt()
	m.ends(1).says(t, src[1:]+"/file: cannot be read: ", "/pack/")
}
