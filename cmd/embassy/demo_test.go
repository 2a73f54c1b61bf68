package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestCompareTrees shows that the demo's judge objects to every kind of
// difference.
func TestCompareTrees(t *testing.T) {
	then := time.Date(2020, 1, 2, 3, 4, 5, 6, time.UTC)
	build := func(t *testing.T) string {
		t.Helper()
		dir := t.TempDir()
		sub := filepath.Join(dir, "sub")
		if err := os.Mkdir(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(sub, "file"), bytes.Repeat([]byte("x"), 300<<10), 0o644); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	settle := func(t *testing.T, dir string) {
		t.Helper()
		for _, name := range []string{"sub/file", "sub", "."} {
			if err := os.Chtimes(filepath.Join(dir, name), then, then); err != nil && name != "sub/file" {
				t.Fatal(err)
			}
		}
	}
	early := map[string]struct { // changes whose times are then made equal
		change func(sub, file string) error
		want   string
	}{
		"none":  {func(sub, file string) error { return nil }, ""},
		"byte":  {func(sub, file string) error { return flip(file, 299<<10) }, "differs"},
		"size":  {func(sub, file string) error { return os.Truncate(file, 5) }, "bytes"},
		"extra": {func(sub, file string) error { return os.WriteFile(file+"2", nil, 0o644) }, "too many"},
		"gone":  {func(sub, file string) error { return os.Remove(file) }, "no such file"},
		"type":  {func(sub, file string) error { return firstError(os.Remove(file), os.Mkdir(file, 0o644)) }, "mode"},
		"mode":  {func(sub, file string) error { return os.Chmod(file, 0o600) }, "mode"},
	}
	for name, tt := range early {
		t.Run(name, func(t *testing.T) {
			want, got := build(t), build(t)
			if err := tt.change(filepath.Join(got, "sub"), filepath.Join(got, "sub/file")); err != nil {
				t.Fatal(err)
			}
			settle(t, want)
			settle(t, got)
			checkCompared(t, want, got, tt.want)
		})
	}
	late := map[string]func(dir string) error{
		"file time": func(dir string) error {
			return os.Chtimes(filepath.Join(dir, "sub/file"), then, then.Add(time.Nanosecond))
		},
		"folder time": func(dir string) error { return os.Chtimes(filepath.Join(dir, "sub"), then, then.Add(time.Second)) },
	}
	for name, change := range late {
		t.Run(name, func(t *testing.T) {
			want, got := build(t), build(t)
			settle(t, want)
			settle(t, got)
			if err := change(got); err != nil {
				t.Fatal(err)
			}
			checkCompared(t, want, got, "has time")
		})
	}
	t.Run("link", func(t *testing.T) {
		want, got := t.TempDir(), t.TempDir()
		if err := firstError(os.Symlink("a", want+"/link"), os.Symlink("b", got+"/link")); err != nil {
			t.Fatal(err)
		}
		if err := sameLink(want+"/link", got+"/link"); err == nil || !strings.Contains(err.Error(), "leads to b") {
			t.Errorf("sameLink returned %v", err)
		}
	})
}

func checkCompared(t *testing.T, want, got, objection string) {
	t.Helper()
	_, err := compareTrees(t.Context(), want, got)
	if objection == "" && err != nil || objection != "" && (err == nil || !strings.Contains(err.Error(), objection)) {
		t.Errorf("compareTrees returned %v, want an error with %q", err, objection)
	}
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// TestSampleIsDeterministic: the demo shows the same on every machine.
func TestSampleIsDeterministic(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 50 MB twice")
	}
	a, b := filepath.Join(t.TempDir(), "land"), filepath.Join(t.TempDir(), "land")
	for _, dir := range []string{a, b} {
		if err := writeSample(t.Context(), dir, "land"); err != nil {
			t.Fatal(err)
		}
	}
	link := "documents/newest" // has the time of its making
	if err := firstError(os.Remove(filepath.Join(a, link)), os.Remove(filepath.Join(b, link))); err != nil {
		t.Fatal(err)
	}
	then := time.Unix(1e9, 0)
	if err := firstError(os.Chtimes(a+"/documents", then, then), os.Chtimes(b+"/documents", then, then)); err != nil {
		t.Fatal(err)
	}
	total, err := compareTrees(t.Context(), a, b)
	if err != nil || total.files < demoDocuments {
		t.Errorf("%d files compared: %v", total.files, err)
	}
}
