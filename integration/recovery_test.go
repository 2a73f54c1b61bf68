package integration_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"embassy/integration/minio"
)

// treeLimit bounds what is taken of one system tree, in bytes.
const treeLimit = 768 * mib

// TestRecoveryFromOneSurvivor is the main job. The machine is lost with its
// state, keys and configuration, and so is every target but the last.
func TestRecoveryFromOneSurvivor(t *testing.T) {
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	odd := filepath.Join(t.TempDir(), "odd")
	oddTree(t, odd)
	datasets := []dataset{
		{name: "tools", sources: append(excerpt(t, string(bytes.TrimSpace(goroot))), odd)},
		{name: "library", sources: excerpt(t, "/usr/share")},
	}
	stores := []*store{startOne(t, 0), startOne(t, 1, minio.TLS()), startOne(t, 2)}
	s := newSite(t, stores...)
	s.found(datasets...)

	// Neither kit nor passphrase is on the machine that backs up.
	safe := newSite(t, stores...)
	for _, name := range []string{"kit.txt", "phrase"} {
		if err := os.Rename(s.path(name), safe.path(name)); err != nil {
			t.Fatal(err)
		}
	}
	reports, r := s.backup(0)
	t.Logf("backed up in %v", r.took)
	for i, report := range reports {
		if report.Dataset != datasets[i].name || len(report.Gaps) > 0 || len(report.behind()) > 0 {
			t.Errorf("%+v", report)
		}
		t.Logf("%s: %d files, %d MiB read, %d MiB added to each target", report.Dataset, report.New, report.Read/mib, report.Added/mib)
	}
	if len(reports) != len(datasets) {
		t.Fatalf("%d datasets were backed up", len(reports))
	}
	sameStores(t, stores)

	if err := os.RemoveAll(s.dir); err != nil {
		t.Fatal(err)
	}
	stores[0].server.Stop()
	stores[1].server.Kill()
	// The kit knows where to look; --from says it too.
	r = safe.rescue(0, nil, "--list")
	r.says(t, "target "+stores[0].name, "target "+stores[1].name)
	for _, d := range datasets {
		if !strings.Contains(r.stdout, d.name) {
			t.Errorf("the rescue lists no snapshot of %s:\n%s", d.name, r.stdout)
		}
	}
	out := filepath.Join(t.TempDir(), "out")
	r = safe.rescue(0, stores[2:], "--to", out)
	t.Logf("rescued in %v:\n%s%s", r.took, r.stderr, r.stdout)
	if first, second := strings.Index(r.stdout, "tools:"), strings.Index(r.stdout, "library:"); first < 0 || second < first {
		t.Errorf("the datasets were not restored in the order of their priority:\n%s", r.stdout)
	}
	r.says(t, "One target alone cannot prove that this is the newest state")
	compare(t, out, datasets...)

	restored := filepath.Join(out, "tools", odd)
	for name, spoil := range spoilers {
		t.Run("judge objects to "+name, func(t *testing.T) {
			keep := filepath.Join(t.TempDir(), "keep")
			copyTree(t, restored, keep)
			if text := differences(t, odd, keep); text != "" {
				t.Fatalf("before anything was changed:\n%s", text)
			}
			if err := spoil(keep); err != nil {
				t.Fatal(err)
			}
			text := differences(t, odd, keep)
			if text == "" {
				t.Error("it does not")
			}
			t.Logf("%s", text)
		})
	}
}

// spoilers change one thing in a copy of the odd tree, and no more.
var spoilers = map[string]func(dir string) error{
	"a byte": func(dir string) error {
		return quietly(dir, "plain", func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte{'#'}, 12345)
			return errors.Join(err, f.Close())
		})
	},
	"a mode": func(dir string) error {
		return quietly(dir, "plain", func(path string) error { return os.Chmod(path, 0o644) })
	},
	"a time": func(dir string) error {
		return os.Chtimes(filepath.Join(dir, "plain"), time.Time{}, oddTime.Add(time.Nanosecond))
	},
	"a time of a folder": func(dir string) error {
		return os.Chtimes(filepath.Join(dir, "empty"), time.Time{}, oddTime.Add(time.Second))
	},
	"where a link leads": func(dir string) error {
		return quietly(dir, "link", func(path string) error {
			old := filepath.Join(filepath.Dir(dir), "old")
			return errors.Join(os.Rename(path, old), os.Symlink("plaim", path),
				exec.Command("touch", "-h", "-r", old, path).Run())
		})
	},
	"a file that is gone": func(dir string) error {
		return quietly(dir, "plain", os.Remove)
	},
	"a file too many": func(dir string) error {
		return quietly(dir, "more", func(path string) error { return os.WriteFile(path, nil, 0o600) })
	},
}

// quietly changes one name in a folder and hides the traces: the times of the
// file and of the folder are those of before.
func quietly(dir, name string, change func(path string) error) error {
	path := filepath.Join(dir, name)
	folder, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if err := change(path); err != nil {
		return err
	}
	if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() {
		if err := os.Chtimes(path, time.Time{}, oddTime); err != nil {
			return err
		}
	}
	return os.Chtimes(dir, time.Time{}, folder.ModTime())
}

// oddTime has nanoseconds, and lies before the epoch of most file systems' users.
var oddTime = time.Date(1991, 8, 20, 20, 1, 2, 123456789, time.UTC)

// oddTree makes names, modes, sizes and links of all sorts.
func oddTree(t testing.TB, dir string) {
	t.Helper()
	for name, data := range map[string][]byte{
		"plain":                    bytes.Repeat([]byte("one of many lines\n"), 5000),
		"nothing":                  nil,
		"large":                    noise(1, 9*mib),
		"deep/er/läbi rääkimine":   []byte("x"),
		"deep/er/-not a flag":      []byte("y"),
		"deep/er/new\nline":        []byte("z"),
		"deep/er/\xff\xfe not utf": []byte("w"),
	} {
		write(t, filepath.Join(dir, name), data)
	}
	err := errors.Join(
		os.Symlink("plain", filepath.Join(dir, "link")),
		os.Symlink("../../to/nowhere", filepath.Join(dir, "deep/er/dangling")),
		os.Mkdir(filepath.Join(dir, "empty"), 0o700),
		os.Chmod(filepath.Join(dir, "nothing"), 0o444),
		os.Chmod(filepath.Join(dir, "deep"), 0o750),
		os.Chmod(filepath.Join(dir, "empty"), 0o777|fs.ModeSticky),
	)
	for _, name := range []string{"plain", "nothing", "deep/er/new\nline", "deep/er", "deep", "empty", "."} {
		err = errors.Join(err, os.Chtimes(filepath.Join(dir, name), time.Time{}, oddTime))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func copyTree(t testing.TB, from, to string) {
	t.Helper()
	if out, err := exec.Command("rsync", "-aH", "--modify-window=-1", from+"/", to+"/").CombinedOutput(); err != nil {
		t.Fatalf("copy %s: %v\n%s", from, err, out)
	}
}

// excerpt returns the folder if it holds no more than treeLimit, else as many
// of the folders in it, in the order of their names, as fit into that.
func excerpt(t testing.TB, root string) []string {
	t.Helper()
	root, err := filepath.EvalSymlinks(root)
	if err != nil {
		t.Fatal(err)
	}
	if weight(t, root) <= treeLimit {
		return []string{root}
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	var sources []string
	left := int64(treeLimit)
	for _, e := range entries {
		path := filepath.Join(root, e.Name())
		if !e.IsDir() {
			continue
		}
		if n := weight(t, path); n > 0 && n <= left {
			sources, left = append(sources, path), left-n
		}
	}
	if left > treeLimit/2 {
		t.Fatalf("%s: no folders in it make up %d bytes", root, treeLimit/2)
	}
	return sources
}

// weight sums the sizes of the files in a folder.
func weight(t testing.TB, dir string) (sum int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			sum += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}
