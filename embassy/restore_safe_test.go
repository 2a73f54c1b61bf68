//go:build linux

package embassy_test

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"embassy/embassy"
	"embassy/embassy/format"
)

// TestRestoreDeletesNothingInDoubt: when the snapshot does not say all that
// there was, or not all of it can be had, nothing is deleted, and what is in the
// way of a file goes only when the file is at hand.
func TestRestoreDeletesNothingInDoubt(t *testing.T) {
	for name, spoil := range map[string]func(r *repo, a *agent){
		"the source was not read": func(r *repo, a *agent) {
			a.commit("pop", a.folder(dir{"doc": "longer than before", "folder": "a file now"}),
				format.Gap{Path: []byte("/kept"), Reason: "permission denied"})
		},
		"packs are gone": func(r *repo, a *agent) {
			a.snapshot("pop", dir{"doc": "longer than before", "folder": "a file now"})
			for _, name := range r.names(0, "/pack/") {
				damages["missing"](r, 0, name)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, a := newRepo(t, 1, "pop")
			spoil(r, a)
			to := t.TempDir()
			putFiles(t, to, map[string]string{"pop/doc": "before", "pop/folder/precious": "p", "pop/kept": "k"})
			report, err := r.restore(&findings{}, embassy.RestoreOptions{To: to, Overwrite: embassy.OverwriteAlways, Delete: true}, "pop")
			if !errors.Is(err, embassy.ErrIncomplete) {
				t.Errorf("%v, want ErrIncomplete: %+v", err, report)
			}
			if got, err := os.ReadFile(filepath.Join(to, "pop/kept")); string(got) != "k" || err != nil {
				t.Errorf("what is in doubt holds %q, %v", got, err)
			}
			if strings.Contains(name, "packs") {
				compare(t, to, map[string][]byte{"pop/doc": []byte("before"), "pop/folder/precious": []byte("p"), "pop/kept": []byte("k"),
					".embassy-restore": read(t, filepath.Join(to, ".embassy-restore"))})
			}
		})
	}
}

// TestRestoreSparesOtherNames: a file with a name outside To keeps its bytes,
// mode and time, whatever a snapshot says of the name inside.
func TestRestoreSparesOtherNames(t *testing.T) {
	for _, mode := range []embassy.Overwrite{embassy.OverwriteIfChanged, embassy.OverwriteAlways} {
		r, a := newRepo(t, 1, "pop")
		n := a.node("one", "the same")
		n.Hard, n.Mode = 7, 0o666
		two := a.node("two", "the same")
		two.Hard, two.Mode = 7, 0o666
		a.snapshot("pop", dir{"one": n, "two": two})
		to, outside := t.TempDir(), filepath.Join(t.TempDir(), "live")
		when := time.Unix(n.Sec, int64(n.Nsec))
		r.must(errors.Join(os.WriteFile(outside, []byte("the same"), 0o600), os.Chtimes(outside, when, when),
			os.Mkdir(filepath.Join(to, "pop"), 0o755), os.Link(outside, filepath.Join(to, "pop/one"))))
		if report, err := r.restore(&findings{}, embassy.RestoreOptions{To: to, Overwrite: mode}, "pop"); err != nil {
			t.Fatal(err, report)
		}
		for name, want := range map[string]fs.FileMode{outside: 0o600, filepath.Join(to, "pop/one"): 0o666, filepath.Join(to, "pop/two"): 0o666} {
			info, err := os.Lstat(name)
			if err != nil || info.Mode() != want {
				t.Errorf("%s: %v, %v", name, info, err)
			}
		}
	}
}

// TestRestoreKeepsOthersMarker: a restore of a part does not make an unfinished
// one look finished; one of everything does.
func TestRestoreKeepsOthersMarker(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	hash := a.snapshot("pop", dir{"one": "1", "two": "22"})
	to := t.TempDir()
	began := "An unfinished restore; the same command resumes it, and removes this file at its end.\n" + hash.String() + " pop\n"
	putFiles(t, to, map[string]string{"pop/two": "2x", ".embassy-restore": began})
	marker := filepath.Join(to, ".embassy-restore")
	part := embassy.RestoreOptions{To: to, Paths: map[string][]string{"pop": {"/one"}}}
	if _, err := r.restore(&findings{}, part, "pop"); !errors.Is(err, embassy.ErrNotEmpty) {
		t.Errorf("a part was taken for the whole that is unfinished: %v", err)
	}
	part.Overwrite = embassy.OverwriteIfChanged
	if _, err := r.restore(&findings{}, part, "pop"); err != nil {
		t.Fatal(err)
	}
	if got := string(read(t, marker)); got != began {
		t.Errorf("the marker says %q, want %q", got, began)
	}
	if got, err := embassy.Unfinished(to); err != nil || !maps.Equal(got, map[string]string{"pop": hash.String()}) {
		t.Errorf("unfinished are %v, %v", got, err)
	}
	if _, err := r.restore(&findings{}, embassy.RestoreOptions{To: to}, "pop"); err != nil {
		t.Fatal(err)
	}
	compare(t, to, map[string][]byte{"pop/one": []byte("1"), "pop/two": []byte("22")})
}

// TestRestoreOwners: by number, or by name where the system knows the name.
func TestRestoreOwners(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	known, err := user.Lookup("daemon")
	if err != nil {
		t.Skip(err)
	}
	r, a := newRepo(t, 1, "pop")
	one, two := a.node("known", "1"), a.node("unknown", "2")
	one.UID, one.GID, one.User, one.Group = 70001, 70002, "daemon", "daemon"
	two.UID, two.GID, two.User, two.Group = 70003, 70004, "nobody-has-this-name", ""
	a.snapshot("pop", dir{"d": dir{"known": one, "unknown": two}})
	for how, want := range map[embassy.Owners]string{
		embassy.OwnersLeft: "0:0 0:0", embassy.OwnersByNumber: "70001:70002 70003:70004", embassy.OwnersByName: known.Uid + ":" + known.Gid + " 70003:70004",
	} {
		to := t.TempDir()
		if _, err := r.restore(&findings{}, embassy.RestoreOptions{To: to, Owners: how}, "pop"); err != nil {
			t.Fatal(err)
		}
		got, err := exec.Command("stat", "-c", "%u:%g", to+"/pop/d/known", to+"/pop/d/unknown").Output()
		if err != nil || strings.Join(strings.Fields(string(got)), " ") != want {
			t.Errorf("owners %d: %q, %v; want %s", how, got, err, want)
		}
	}
}
