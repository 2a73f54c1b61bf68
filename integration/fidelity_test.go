package integration_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pkg/xattr"
	"golang.org/x/sys/unix"
)

// TestFidelity backs up a tree of everything that a file system can hold,
// restores it, and lets other programs judge. Then it breaks one thing of each
// kind, and the judges must object to every one; a restore over it mends all.
func TestFidelity(t *testing.T) {
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		t.Skip("owners, devices and trusted attributes take root on linux")
	}
	t.Parallel()
	base := t.TempDir()
	d := dataset{name: "torture", sources: []string{filepath.Join(base, "tree"), filepath.Join(base, "beside"), filepath.Join(base, "deep")}}
	tree, beside, deep := d.sources[0], d.sources[1], d.sources[2]
	torture(t, tree)
	write(t, filepath.Join(beside, "x"), []byte("x"))
	must(t, os.Link(filepath.Join(tree, "hard"), filepath.Join(beside, "hard across sources")))
	beyondPathMax(t, deep)

	s := newSite(t, borrow(t, 3)...)
	s.found(d)
	reports, r := s.backup(0)
	if report := reports[0]; len(report.Gaps) > 0 {
		t.Fatalf("%+v\n%s", report, r.stderr)
	}
	reports, _ = s.backup(0)
	if report := reports[0]; report.Read != 0 || report.New+report.Changed != 0 {
		t.Errorf("an unchanged tree: %+v", report)
	}
	out := filepath.Join(t.TempDir(), "out")
	s.exits(0, "restore", "--all", "--privileged", "--to", out)
	at := func(source string) string { return filepath.Join(out, d.name, source) }
	whole := func() {
		t.Helper()
		// As one tree, for hard links lead from one source to the other.
		if text := objections(t, base, at(base)); len(text) > 0 {
			t.Errorf("not restored as it was:\n%s", strings.Join(text, "\n"))
		}
		if want, got := archive(t, deep), archive(t, at(deep)); !bytes.Equal(want, got) {
			t.Error("tar gives another archive of the deep folders")
		}
	}
	whole()

	broken := breakEach(t, at(tree))
	found := objections(t, base, at(base))
	for _, name := range broken {
		if !slices.ContainsFunc(found, func(line string) bool { return strings.Contains(line, "tree/"+name) }) {
			t.Errorf("nobody objects to %s:\n%s", name, strings.Join(found, "\n"))
		}
	}
	must(t, os.Remove(filepath.Join(at(tree), "sparse"))) // what is right stays as it is
	s.exits(0, "restore", "--all", "--privileged", "--overwrite", "always", "--delete", "--verify", "--to", out)
	whole()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// torture makes a tree of everything but depth.
func torture(t testing.TB, dir string) {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o755))
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"plain", "setuid", "owned", "acl", "able", "sub/file", "-dash", " blank", "new\nline",
		"\xff\xfe no text", "\x01\x1b[31m", "läbi \"rääkimine'", strings.Repeat("n", 255), "times/old", "times/before 1970", "times/far"} {
		write(t, at(name), []byte("the content of "+name))
	}
	write(t, at("empty"), nil)
	write(t, at("hard"), noise(3, 3*mib))
	for i := range 1000 {
		write(t, at(fmt.Sprintf("many/%d", i)), fmt.Append(nil, i))
	}
	must(t, errors.Join(
		os.Link(at("hard"), at("hard 2")), os.Link(at("hard"), at("sub/hard 3")),
		os.Symlink("plain", at("link")), os.Symlink("/to/\xff/nowhere", at("dangling")), os.Link(at("link"), at("link 2")),
		os.Lchown(at("dangling"), 1001, 1002), os.Chown(at("owned"), 12345, 54321),
		os.Mkdir(at("sticky"), 0), os.Chmod(at("sticky"), 0o777|fs.ModeSticky),
		os.Mkdir(at("setgid"), 0), os.Chmod(at("setgid"), 0o750|fs.ModeSetgid), os.Chown(at("setgid"), 3, 4),
		os.Chmod(at("setuid"), 0o711|fs.ModeSetuid|fs.ModeSetgid),
		unix.Mknod(at("fifo"), unix.S_IFIFO|0o640, 0), os.Link(at("fifo"), at("fifo 2")),
		unix.Mknod(at("socket"), unix.S_IFSOCK|0o600, 0),
		unix.Mknod(at("char"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		unix.Mknod(at("block"), unix.S_IFBLK|0o600, int(unix.Mkdev(259, 70000))),
	))
	sparse(t, at("sparse"), 200*mib, 50*mib, noise(4, 100_000), 150*mib, append(make([]byte, 70_000), 1))
	sparse(t, at("a hole"), 5*mib)
	sparse(t, at("small hole"), 300_000, 200_000, []byte("x"))
	write(t, at("zeros"), make([]byte, mib))

	capability := binary.LittleEndian.AppendUint32(nil, 0x02000001)
	capability = append(capability, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	for _, x := range []struct {
		name, attr string
		value      []byte
	}{
		{"plain", "user.note", []byte("any \x00 bytes \xff")}, {"plain", "trusted.note", []byte("t")}, {"empty", "user.none", nil},
		{"sub", "user.note", []byte("of a folder")}, {"dangling", "trusted.note", []byte("of a link")}, {"fifo", "trusted.note", []byte("of a pipe")},
		{"able", "security.capability", capability},
		{"acl", "system.posix_acl_access", acl()}, {"sub", "system.posix_acl_default", acl()},
	} {
		must(t, xattr.LSet(at(x.name), x.attr, x.value))
	}
	write(t, at("sub/heir"), []byte("its ACL came by itself"))
	for name, when := range map[string]time.Time{
		"times/old": time.Unix(0, 123456789), "times/before 1970": time.Unix(-2, 500_000_001), "times/far": time.Unix(4102444800, 1),
		"times": time.Unix(5, 987654321), ".": oddTime,
	} {
		must(t, os.Chtimes(at(name), time.Time{}, when))
	}
}

// acl is one that names a user, in the form of the kernel.
func acl() []byte {
	const none = 0xffffffff
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range [][3]uint32{{1, 6, none}, {2, 4, 1000}, {4, 4, none}, {0x10, 4, none}, {0x20, 0, none}} {
		b = binary.LittleEndian.AppendUint16(b, uint16(e[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(e[1]))
		b = binary.LittleEndian.AppendUint32(b, e[2])
	}
	return b
}

// sparse makes a file of holes and some data: offset, bytes, offset, bytes, …
func sparse(t testing.TB, path string, size int64, data ...any) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	must(t, f.Truncate(size))
	for i := 0; i < len(data); i += 2 {
		_, err := f.WriteAt(data[i+1].([]byte), int64(data[i].(int)))
		must(t, err)
	}
	must(t, f.Close())
}

// beyondPathMax makes folders in folders, until no path leads to the last.
func beyondPathMax(t testing.TB, dir string) {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o755))
	at, err := os.OpenRoot(dir)
	must(t, err)
	for i := range 30 {
		name := fmt.Sprintf("%03d-%s", i, strings.Repeat("x", 200))
		must(t, at.Mkdir(name, 0o755))
		next, err := at.OpenRoot(name)
		must(t, errors.Join(err, at.Close()))
		at = next
		must(t, at.WriteFile("file", fmt.Append(nil, "file ", i), 0o644))
		must(t, at.Link("file", "link"))
	}
	must(t, at.Close())
}

// breakEach changes one attribute of each kind, and returns the names that it
// changed.
func breakEach(t testing.TB, dir string) (names []string) {
	t.Helper()
	at := func(name string) string {
		names = append(names, name)
		return filepath.Join(dir, name)
	}
	keep := func(path string, change func()) { // the time of its folder or its own
		t.Helper()
		fi, err := os.Lstat(path)
		must(t, err)
		change()
		must(t, os.Chtimes(path, time.Time{}, fi.ModTime()))
	}
	content := at("zeros")
	keep(content, func() {
		f, err := os.OpenFile(content, os.O_WRONLY, 0)
		must(t, err)
		_, err = f.WriteAt([]byte{1}, mib/2)
		must(t, errors.Join(err, f.Close()))
	})
	must(t, os.Chmod(at("setuid"), 0o711))
	must(t, os.Chmod(at("sticky"), 0o777))
	must(t, os.Chmod(at("setgid"), 0o750))
	must(t, os.Chown(at("owned"), 12345, 54320))
	must(t, os.Lchown(at("dangling"), 1001, 1003))
	must(t, os.Chtimes(at("times/old"), time.Time{}, time.Unix(0, 123456788)))
	must(t, os.Chtimes(at("times"), time.Time{}, time.Unix(5, 987654320)))
	must(t, xattr.LSet(at("plain"), "user.note", []byte("any \x00 bytes")))
	must(t, xattr.LSet(at("times/far"), "user.surplus", []byte("x")))
	must(t, xattr.LRemove(at("able"), "security.capability"))
	must(t, xattr.LRemove(at("acl"), "system.posix_acl_access"))
	must(t, xattr.LRemove(at("sub"), "system.posix_acl_default"))
	must(t, xattr.LRemove(at("fifo"), "trusted.note"))
	must(t, errors.Join(os.Remove(at("link")), os.Symlink("plane", filepath.Join(dir, "link"))))
	must(t, errors.Join(os.Remove(at("char")), unix.Mknod(filepath.Join(dir, "char"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5)))))
	must(t, errors.Join(os.Remove(at("socket")), unix.Mknod(filepath.Join(dir, "socket"), unix.S_IFIFO|0o600, 0)))
	must(t, os.Remove(at("many/7")))
	write(t, at("surplus"), nil)
	single := at("hard 2")
	data, err := os.ReadFile(single)
	must(t, err)
	keep(single, func() { must(t, errors.Join(os.Remove(single), os.WriteFile(single, data, 0o600))) })
	full := at("sparse")
	keep(full, func() {
		f, err := os.OpenFile(full, os.O_WRONLY, 0)
		must(t, err)
		_, err = f.WriteAt(make([]byte, 20*mib), 0)
		must(t, errors.Join(err, f.Close()))
	})
	return names
}

// objections is what rsync, getfattr and getfacl find different, and the files
// that take more of the disk than they should.
func objections(t testing.TB, want, got string) []string {
	t.Helper()
	lines := strings.Split(rsyncFinds(t, want, got, "-aHAXSn", "--exclude=/deep"), "\n")
	for _, tool := range [][]string{{"getfattr", "-R", "-P", "-h", "-d", "-m", "-", "-e", "hex"}, {"getfacl", "-R", "-P", "-n"}} {
		a, b := describe(t, want, tool), describe(t, got, tool)
		for name := range a {
			if a[name] != b[name] {
				lines = append(lines, fmt.Sprintf("%s %s: %q, want %q", tool[0], name, b[name], a[name]))
			}
		}
		for name := range b {
			if _, ok := a[name]; !ok {
				lines = append(lines, fmt.Sprintf("%s %s: %q, want nothing", tool[0], name, b[name]))
			}
		}
	}
	err := filepath.WalkDir(want, func(path string, e fs.DirEntry, err error) error {
		if path == filepath.Join(want, "deep") {
			return fs.SkipDir
		}
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(want, path)
		if err != nil {
			return err
		}
		var source, restored syscall.Stat_t
		if err := syscall.Lstat(path, &source); err != nil {
			return err
		}
		switch err := syscall.Lstat(filepath.Join(got, rel), &restored); {
		case errors.Is(err, fs.ErrNotExist): // rsync tells it
		case err != nil:
			return err
		case restored.Blocks*20 > source.Blocks*21+20*8: // a block of 4 KiB more may be the file system's doing
			lines = append(lines, fmt.Sprintf("blocks %s: %d, want %d", rel, restored.Blocks, source.Blocks))
		}
		return nil
	})
	must(t, err)
	return slices.DeleteFunc(lines, func(l string) bool { return l == "" || strings.HasSuffix(l, " ./") }) // which only leads to sources
}

// describe runs getfattr or getfacl over a tree, and returns what it says of
// each name.
func describe(t testing.TB, dir string, tool []string) map[string]string {
	t.Helper()
	path, err := exec.LookPath(tool[0])
	if err != nil {
		missing(t, tool[0])
	}
	cmd := exec.Command(path, append(tool[1:], "tree", "beside")...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	text, err := cmd.Output()
	if err != nil {
		t.Fatalf("%q: %v\n%s", cmd.Args, err, stderr.String())
	}
	says := map[string]string{}
	for part := range strings.SplitSeq(string(text), "\n\n") {
		name, rest, _ := strings.Cut(strings.TrimPrefix(part, "# file: "), "\n")
		if name != "" {
			says[name] = rest
		}
	}
	return says
}

// archive is what tar makes of a folder, without what no restore can set.
func archive(t testing.TB, dir string) []byte {
	t.Helper()
	cmd := exec.Command("tar", "-C", dir, "--sort=name", "--format=posix",
		"--pax-option=delete=atime,delete=ctime,exthdr.name=%d/%f", "--xattrs", "--xattrs-include=*", "-cf", "-", ".")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	data, err := cmd.Output()
	if err != nil {
		t.Fatalf("%q: %v\n%s", cmd.Args, err, stderr.String())
	}
	return data
}
