package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// without copies a target but for the names that contain one of what.
func without(t *testing.T, vault string, what ...string) string {
	t.Helper()
	out := t.TempDir()
	if err := os.CopyFS(out, os.DirFS(vault)); err != nil {
		t.Fatal(err)
	}
	removed := 0
	err := filepath.WalkDir(out, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		for _, w := range what {
			if strings.Contains(filepath.ToSlash(path), "/"+w+"/") {
				removed++
				return os.Remove(path)
			}
		}
		return nil
	})
	if err != nil || removed == 0 {
		t.Fatalf("%d removed, %v", removed, err)
	}
	return out
}

// TestRescueWithoutCharter: packs, snapshots and the kit are enough, once they
// are asked for.
func TestRescueWithoutCharter(t *testing.T) {
	n := lostNation(t)
	vault := without(t, n.vaults[0], "charter", "ledger", "index")
	from := []string{"--kit", n.kit, "--passphrase-file", n.phrase, "--from", "dir:" + vault}
	to := filepath.Join(t.TempDir(), "out")
	code, out, errs := rescued(t, append(from, "--to", to)...)
	if code != 1 || out != "" || !strings.Contains(errs, "--without-charter restores from packs and snapshots alone") {
		t.Fatalf("exit code %d\n%s\n%s", code, out, errs)
	}
	from = append(from, "--without-charter")
	code, out, errs = rescued(t, append(from, "--list")...)
	if code != 0 || strings.Count(out, "\n") != 4 || strings.Index(out, "population") > strings.Index(out, "land") {
		t.Errorf("exit code %d\n%s\n%s", code, out, errs)
	}
	for _, want := range []string{"nobody vouches", "older snapshots may be shown as the newest", "The newest snapshot found is of"} {
		if !strings.Contains(errs, want) {
			t.Errorf("stderr lacks %q:\n%s", want, errs)
		}
	}
	if code, out, errs = rescued(t, append(from, "--verify", "--to", to)...); code != 0 || !strings.Contains(out, "Complete: every byte of 2 datasets") {
		t.Fatalf("exit code %d\n%s\n%s", code, out, errs)
	}
	n.holds(t, to, "population")
	n.holds(t, to, "land")
	to = t.TempDir()
	if code, out, errs = rescued(t, append(from, "--at", n.first.UTC().Format(time.RFC3339Nano), "--to", to, "land")...); code != 0 {
		t.Fatalf("exit code %d\n%s\n%s", code, out, errs)
	}
	n.holds(t, to, "land", "/three")
	if code, _, errs = rescued(t, append(from, "--to", to, "sea")...); code != 2 || !strings.Contains(errs, "they are of population, land") {
		t.Errorf("exit code %d\n%s", code, errs)
	}
}

// TestRescueWithoutCharterIncomplete: what is missing is said, and the restore
// goes on where it ended once another target has it.
func TestRescueWithoutCharterIncomplete(t *testing.T) {
	n := lostNation(t)
	part := without(t, n.vaults[0], "charter", "ledger", "index", "pack")
	whole := without(t, n.vaults[1], "charter")
	to := filepath.Join(t.TempDir(), "out")
	args := []string{"--kit", n.kit, "--passphrase-file", n.phrase, "--without-charter", "--to", to}
	code, out, errs := rescued(t, append(args, "--from", "dir:"+part)...)
	if code != 1 || !strings.Contains(out, "MISSING") || !strings.Contains(out, "INCOMPLETE") {
		t.Fatalf("exit code %d\n%s\n%s", code, out, errs)
	}
	if code, out, errs = rescued(t, append(args, "--from", "dir:"+part, "--from", "dir:"+whole)...); code != 0 {
		t.Fatalf("exit code %d\n%s\n%s", code, out, errs)
	}
	n.holds(t, to, "population")
	n.holds(t, to, "land")
}

// TestRescueLedgersLost: with a charter and no ledger, the flag is named, and
// helps.
func TestRescueLedgersLost(t *testing.T) {
	n := lostNation(t)
	vault := without(t, n.vaults[0], "ledger")
	to := filepath.Join(t.TempDir(), "out")
	args := []string{"--kit", n.kit, "--passphrase-file", n.phrase, "--from", "dir:" + vault, "--to", to}
	if code, out, errs := rescued(t, args...); code != 1 || !strings.Contains(errs, "--without-charter") {
		t.Fatalf("exit code %d\n%s\n%s", code, out, errs)
	}
	code, out, errs := rescued(t, append(args, "--without-charter")...)
	if code != 0 || !strings.Contains(errs, "was found and is not used") {
		t.Fatalf("exit code %d\n%s\n%s", code, out, errs)
	}
	n.holds(t, to, "land")
	// A target without any object of the nation is no case for the flag.
	empty := t.TempDir()
	code, _, errs = rescued(t, "--kit", n.kit, "--passphrase-file", n.phrase, "--from", "dir:"+empty, "--list", "--without-charter")
	if code != 1 || !strings.Contains(errs, "is empty") || strings.Contains(errs, "nobody vouches") {
		t.Errorf("exit code %d\n%s", code, errs)
	}
}
