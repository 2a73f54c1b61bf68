package embassy_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/pkg/xattr"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"embassy/embassy"
)

// TestAnyTree changes a tree at random, backs it up, and restores it into an
// empty folder and over what was restored before; rsync is the judge.
func TestAnyTree(t *testing.T) {
	if _, err := exec.LookPath("rsync"); err != nil {
		t.Fatal("no rsync: run make tools")
	}
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		s := newSite(t, 1, 1)
		defer os.RemoveAll(s.dir)
		tree := &anyTree{rt: rt, dir: s.src}
		over := filepath.Join(s.dir, "over")
		for range rapid.IntRange(1, 3).Draw(rt, "rounds") {
			for range rapid.IntRange(1, 12).Draw(rt, "changes") {
				tree.change()
			}
			if rep, err := s.backup(t.Context()); err != nil || rep.Exit != 0 || len(rep.Gaps) > 0 {
				rt.Fatalf("%v: %+v", err, rep)
			}
			v, err := s.view(0)
			if err != nil {
				rt.Fatal(err)
			}
			snap, err := v.Pick("population", "latest", time.Time{})
			if err != nil {
				rt.Fatal(err)
			}
			to := filepath.Join(s.dir, "out")
			for _, o := range []embassy.RestoreOptions{{To: to}, {To: over, Overwrite: embassy.OverwriteAlways, Delete: true, Verify: true}} {
				o.Snapshots, o.Privileged = []embassy.SnapshotInfo{snap}, true
				if os.Geteuid() == 0 {
					o.Owners = embassy.OwnersByNumber
				}
				if rep, err := v.Restore(t.Context(), o); err != nil {
					rt.Fatalf("%v: %+v", err, rep)
				}
				cmd := exec.Command("rsync", "-aHAXSn", "--modify-window=-1", "--checksum", "--delete", "--itemize-changes",
					s.src+"/", filepath.Join(o.To, "population", s.src)+"/")
				if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
					rt.Fatalf("%q: %v\n%s", cmd.Args, err, out)
				}
			}
			if err := os.RemoveAll(to); err != nil {
				rt.Fatal(err)
			}
		}
	})
}

// anyTree is a source that changes at random.
type anyTree struct {
	rt  *rapid.T
	dir string
}

// names are all names of the tree for which keep is true, its own included.
func (a *anyTree) names(keep func(fs.FileMode) bool) []string {
	var out []string
	err := filepath.WalkDir(a.dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && keep(e.Type()) {
			out = append(out, path)
		}
		return err
	})
	a.ok(err)
	return out
}

func (a *anyTree) ok(err error) {
	a.rt.Helper()
	if err != nil {
		a.rt.Fatal(err)
	}
}

// one draws a name of the tree, or returns the tree's own if there is none.
func (a *anyTree) one(label string, keep func(fs.FileMode) bool) string {
	names := a.names(keep)
	if len(names) == 0 {
		return a.dir
	}
	return rapid.SampledFrom(names).Draw(a.rt, label)
}

func anything(fs.FileMode) bool       { return true }
func notFolder(m fs.FileMode) bool    { return !m.IsDir() }
func notLink(m fs.FileMode) bool      { return m&fs.ModeSymlink == 0 }
func fileOrFolder(m fs.FileMode) bool { return m.IsDir() || m.IsRegular() }

// fresh draws a name that is not there yet.
func (a *anyTree) fresh() string {
	in := a.one("folder", fs.FileMode.IsDir)
	name := rapid.SliceOfN(rapid.ByteRange(1, 255).Filter(func(b byte) bool { return b != '/' }), 1, 255).Draw(a.rt, "name")
	path := filepath.Join(in, string(name))
	for _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist); _, err = os.Lstat(path) {
		path = in + "/" + fmt.Sprint(rapid.Uint32().Draw(a.rt, "number"))
	}
	return path
}

func (a *anyTree) change() {
	rt := a.rt
	switch rapid.SampledFrom([]string{"file", "file", "patch", "sparse", "link", "symlink", "folder", "pipe", "mode", "owner",
		"attribute", "no attribute", "time", "rename", "remove"}).Draw(rt, "change") {
	case "file":
		size := rapid.SampledFrom([]int{0, 1, 4095, 100_000, 600_000, 3_000_000}).Draw(rt, "size")
		a.ok(os.WriteFile(a.fresh(), bytes.Repeat([]byte{rapid.Byte().Draw(rt, "content"), 1}, size)[:size], 0o640))
	case "patch":
		path := a.one("file", fs.FileMode.IsRegular)
		if path == a.dir {
			return
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		a.ok(err)
		_, err = f.WriteAt([]byte("patch"), rapid.Int64Range(0, 1_000_000).Draw(rt, "at"))
		a.ok(errors.Join(err, f.Close()))
	case "sparse":
		path := a.fresh()
		f, err := os.Create(path)
		a.ok(err)
		for range rapid.IntRange(0, 3).Draw(rt, "pieces") {
			_, err := f.WriteAt(make([]byte, rapid.IntRange(1, 70_000).Draw(rt, "zeros")), rapid.Int64Range(0, 4_000_000).Draw(rt, "at"))
			a.ok(err)
			_, err = f.WriteAt([]byte("data"), rapid.Int64Range(0, 4_000_000).Draw(rt, "at"))
			a.ok(err)
		}
		a.ok(errors.Join(f.Truncate(rapid.Int64Range(0, 5_000_000).Draw(rt, "size")), f.Close()))
	case "link":
		if path := a.one("of", notFolder); path != a.dir {
			a.ok(os.Link(path, a.fresh()))
		}
	case "symlink":
		a.ok(os.Symlink(rapid.SampledFrom([]string{"x", "../..", "/etc/passwd", "\xff\n"}).Draw(rt, "target"), a.fresh()))
	case "folder":
		a.ok(os.Mkdir(a.fresh(), 0o750))
	case "pipe":
		a.ok(unix.Mknod(a.fresh(), rapid.SampledFrom([]uint32{unix.S_IFIFO, unix.S_IFSOCK}).Draw(rt, "kind")|0o600, 0))
	case "mode":
		path, mode := a.one("name", notLink), fs.FileMode(rapid.Uint32Range(0, 0o777).Draw(rt, "mode"))
		if rapid.Bool().Draw(rt, "special") {
			mode |= fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky
		}
		a.ok(os.Chmod(path, mode|0o700)) // which root alone could do without
	case "owner":
		if os.Geteuid() == 0 {
			a.ok(os.Lchown(a.one("name", anything), rapid.IntRange(0, 100_000).Draw(rt, "uid"), rapid.IntRange(0, 100_000).Draw(rt, "gid")))
		}
	case "attribute":
		a.ok(xattr.LSet(a.one("name", fileOrFolder), rapid.SampledFrom([]string{"user.a", "user.a", "user.b"}).Draw(rt, "attribute"),
			rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(rt, "value")))
	case "no attribute":
		with := slices.DeleteFunc(a.names(fileOrFolder), func(path string) bool {
			_, err := xattr.LGet(path, "user.a")
			return err != nil
		})
		if len(with) > 0 {
			a.ok(xattr.LRemove(rapid.SampledFrom(with).Draw(rt, "name"), "user.a"))
		}
	case "time":
		a.ok(unix.UtimesNanoAt(unix.AT_FDCWD, a.one("name", anything), []unix.Timespec{{}, {
			Sec: rapid.Int64Range(-1_000_000, 4_000_000_000).Draw(rt, "sec"), Nsec: rapid.Int64Range(0, 999_999_999).Draw(rt, "nsec"),
		}}, unix.AT_SYMLINK_NOFOLLOW))
	case "rename":
		if path := a.one("name", notFolder); path != a.dir {
			a.ok(os.Rename(path, a.fresh()))
		}
	case "remove":
		if path := a.one("name", anything); path != a.dir {
			a.ok(os.RemoveAll(path))
		}
	}
}
