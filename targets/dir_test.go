package targets_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"embassy/targets"
	"embassy/targets/targettest"
)

func TestDir(t *testing.T) {
	paths := make(map[targets.Target]string)
	open := func(t *testing.T, path string) targets.Target {
		d := openDir(t, path)
		paths[d] = path
		return d
	}
	targettest.Test(t,
		func(t *testing.T) targets.Target { return open(t, t.TempDir()) },
		targettest.Reopen(func(t *testing.T, first targets.Target) targets.Target { return open(t, paths[first]) }))
}

func TestDirInspected(t *testing.T) {
	targettest.Inspected(t, targets.Features{}, func(t *testing.T) targets.Target { return openDir(t, t.TempDir()) })
	path := t.TempDir()
	d := openDir(t, path)
	for _, want := range []bool{true, false} {
		if created, err := d.PutNew(t.Context(), object("a/b", []byte("x"))); err != nil || created != want {
			t.Errorf("PutNew: %v, %v", created, err)
		}
	}
	if left, err := os.ReadDir(filepath.Join(path, ".tmp")); err != nil || len(left) != 0 {
		t.Errorf("left below .tmp: %v, %v", left, err)
	}
	if _, err := d.Features(t.Context()); err != nil {
		t.Error(err)
	}
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Features(t.Context()); !errors.Is(err, targets.ErrNoStore) {
		t.Errorf("Features of a directory that is gone: %v", err)
	}
}

func openDir(t *testing.T, path string) *targets.Dir {
	t.Helper()
	d, err := targets.OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func object(name string, data []byte) targets.Object {
	return targets.Object{Name: name, Data: data, SHA256: sha256.Sum256(data)}
}

func listNames(t *testing.T, target targets.Target, prefix string) []string {
	t.Helper()
	var names []string
	for info, err := range target.List(t.Context(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, info.Name)
	}
	return names
}

func TestOpenDirMissing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if _, err := targets.OpenDir(path); !errors.Is(err, targets.ErrNoStore) {
		t.Errorf("OpenDir of a missing directory: %v, want ErrNoStore", err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("OpenDir made the directory: %v", err)
	}
	if _, err := targets.CreateDir(filepath.Join(path, "deeper")); !errors.Is(err, targets.ErrNoStore) {
		t.Errorf("CreateDir without a parent: %v, want ErrNoStore", err)
	}
	for range 2 {
		d, err := targets.CreateDir(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if fi, err := os.Lstat(path); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("made directory: %v, %v", fi, err)
	}
}

func TestOpenDirFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := targets.OpenDir(path); err == nil {
		t.Error("OpenDir of a file succeeded")
	}
}

// A disk that goes away while the target is open must not look empty.
func TestDirVanished(t *testing.T) {
	for _, c := range []struct {
		name   string
		vanish func(path string) error
	}{
		{"removed", os.RemoveAll},
		{"moved away", func(path string) error { return os.Rename(path, path+"-moved") }},
		{"replaced by an empty one", func(path string) error {
			return errors.Join(os.Rename(path, path+"-moved"), os.Mkdir(path, 0o700))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "disk")
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
			d := openDir(t, path)
			if err := d.Put(t.Context(), object("a/b", []byte("x"))); err != nil {
				t.Fatal(err)
			}
			if err := c.vanish(path); err != nil {
				t.Fatal(err)
			}
			_, getErr := d.Get(t.Context(), "a/b", 0, 1)
			_, statErr := d.Stat(t.Context(), "a/b")
			var listErr error
			for _, listErr = range d.List(t.Context(), "") {
			}
			for op, err := range map[string]error{
				"Get": getErr, "Stat": statErr, "List": listErr,
				"Put":    d.Put(t.Context(), object("a/c", []byte("x"))),
				"Delete": d.Delete(t.Context(), "a/b"),
			} {
				if !errors.Is(err, targets.ErrNoStore) {
					t.Errorf("%s: %v, want ErrNoStore", op, err)
				}
			}
		})
	}
}

func TestDirModes(t *testing.T) {
	path := t.TempDir()
	d := openDir(t, path)
	if err := d.Put(t.Context(), object("a/b/c", []byte("x"))); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{"a": 0o700, "a/b": 0o700, "a/b/c": 0o600, ".tmp": 0o700} {
		fi, err := os.Lstat(filepath.Join(path, name))
		if err != nil {
			t.Fatal(err)
		}
		if fi.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", name, fi.Mode().Perm(), want)
		}
	}
	left, err := os.ReadDir(filepath.Join(path, ".tmp"))
	if err != nil || len(left) != 0 {
		t.Errorf("temporary files left: %v, %v", left, err)
	}
}

// Folders that somebody removed are made again.
func TestDirFolderRemoved(t *testing.T) {
	path := t.TempDir()
	d := openDir(t, path)
	if err := d.Put(t.Context(), object("a/b/c", []byte("x"))); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(path, "a")); err != nil {
		t.Fatal(err)
	}
	var err error
	for range 2 { // the first call may notice; the second works
		if err = d.Put(t.Context(), object("a/b/c", []byte("y"))); err == nil {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := listNames(t, d, ""); len(got) != 1 {
		t.Errorf("listed %q", got)
	}
}

// What others put on the disk is no object, and nothing leads off the disk.
func TestDirForeignFiles(t *testing.T) {
	path, outside := t.TempDir(), t.TempDir()
	d := openDir(t, path)
	if err := d.Put(t.Context(), object("good/object", []byte("x"))); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(outside, "secret")
	for _, err := range []error{
		os.WriteFile(secret, []byte("secret"), 0o600),
		os.Symlink(secret, filepath.Join(path, "link")),
		os.Symlink(outside, filepath.Join(path, "linked")),
		os.Mkdir(filepath.Join(path, "lost+found"), 0o700),
		os.WriteFile(filepath.Join(path, "lost+found", "a"), nil, 0o600),
		os.WriteFile(filepath.Join(path, "README.txt"), nil, 0o600),
		os.Mkdir(filepath.Join(path, "emptyfolder"), 0o700),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := listNames(t, d, ""); len(got) != 1 || got[0] != "good/object" {
		t.Errorf("listed %q", got)
	}
	for _, name := range []string{"link", "linked/secret", "emptyfolder"} {
		if _, err := d.Get(t.Context(), name, 0, 1); err == nil {
			t.Errorf("Get of %s succeeded", name)
		}
		if _, err := d.Stat(t.Context(), name); err == nil {
			t.Errorf("Stat of %s succeeded", name)
		}
	}
	if err := d.Put(t.Context(), object("linked/new", []byte("x"))); err == nil {
		t.Error("Put through a symlink that leads outside succeeded")
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) != 1 {
		t.Errorf("outside: %v, %v", left, err)
	}
}

func TestDirReadOnly(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may write anywhere")
	}
	path := t.TempDir()
	d := openDir(t, path)
	if err := os.Chmod(path, 0o500); err != nil {
		t.Fatal(err)
	}
	if err := d.Put(t.Context(), object("a", []byte("x"))); !errors.Is(err, targets.ErrDenied) {
		t.Errorf("Put: %v, want ErrDenied", err)
	}
}

func TestOpenDirRemovesStaleFiles(t *testing.T) {
	path := t.TempDir()
	temp := filepath.Join(path, ".tmp")
	if err := os.Mkdir(temp, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, age := range map[string]time.Duration{"old": 25 * time.Hour, "young": 23 * time.Hour, "future": -time.Hour} {
		file := filepath.Join(temp, name)
		when := time.Now().Add(-age)
		if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Chtimes(file, when, when)); err != nil {
			t.Fatal(err)
		}
	}
	openDir(t, path)
	left, err := os.ReadDir(temp)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 2 || left[0].Name() != "future" || left[1].Name() != "young" {
		t.Errorf("left: %v", left)
	}
}

const crashEnv = "EMBASSY_TEST_CRASH_DIR"

const crashSize = 4 << 20

func crashData(i int) []byte { return bytes.Repeat([]byte{byte(i)}, crashSize) }

// TestMain runs the process that TestDirCrash kills.
func TestMain(m *testing.M) {
	if path := os.Getenv(crashEnv); path != "" {
		fmt.Fprintln(os.Stderr, putForever(path))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// putForever names each object on stdout once Put has returned.
func putForever(path string) error {
	d, err := targets.OpenDir(path)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for i := 0; ; i++ {
		name := fmt.Sprintf("f%d/o%d", i%3, i)
		if err := d.Put(ctx, object(name, crashData(i))); err != nil {
			return err
		}
		fmt.Println(name)
	}
}

func TestDirCrash(t *testing.T) {
	path := t.TempDir()
	for round := range 5 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), crashEnv+"="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var acknowledged []string
		for lines := bufio.NewScanner(out); lines.Scan(); {
			acknowledged = append(acknowledged, strings.TrimSpace(lines.Text()))
			if len(acknowledged) == 2+round {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("the writer ended by itself")
		}
		if len(acknowledged) < 2+round {
			t.Fatalf("the writer died after %d objects", len(acknowledged))
		}
		d := openDir(t, path)
		seen := make(map[string]bool)
		for _, name := range listNames(t, d, "") {
			seen[name] = true
			var folder, i int
			if _, err := fmt.Sscanf(name, "f%d/o%d", &folder, &i); err != nil {
				t.Fatalf("listed %q: %v", name, err)
			}
			data, err := os.ReadFile(filepath.Join(path, name))
			if err != nil || !bytes.Equal(data, crashData(i)) {
				t.Errorf("%s is not whole: %d bytes, %v", name, len(data), err)
			}
		}
		for _, name := range acknowledged {
			if !seen[name] {
				t.Errorf("%s was acknowledged and is gone", name)
			}
		}
	}
}
