package embassy_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"embassy/embassy"
	"embassy/embassy/format"
	"embassy/targets"

	"github.com/pkg/xattr"
)

// sample is a tree with small files, a large one, an empty one, an empty
// folder and a link.
func sample(seed uint64) (dir, map[string][]byte) {
	files := map[string][]byte{
		"srv/pop/a.txt":     []byte("alpha"),
		"srv/pop/b.txt":     []byte(strings.Repeat("beta ", 1000)),
		"srv/pop/empty":     {},
		"srv/pop/sub/large": random(seed, 9<<20),
		"srv/pop/sub/same":  []byte("alpha"),
	}
	return dir{"srv": dir{"pop": dir{
		"a.txt": files["srv/pop/a.txt"], "b.txt": files["srv/pop/b.txt"], "empty": files["srv/pop/empty"],
		"link": link("../outside"), "none": dir{},
		"sub": dir{"large": files["srv/pop/sub/large"], "same": files["srv/pop/sub/same"]},
	}}}, files
}

// compare fails the test unless exactly these regular files are below base.
func compare(t *testing.T, base string, want map[string][]byte) {
	t.Helper()
	got := map[string]bool{}
	err := filepath.WalkDir(base, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(base, name)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		got[rel] = true
		data, err := os.ReadFile(name)
		if err == nil && !bytes.Equal(data, want[rel]) {
			t.Errorf("%s has other bytes", rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range want {
		if !got[name] {
			t.Errorf("%s is missing", name)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s should not be there", name)
		}
	}
}

func TestRestore(t *testing.T) {
	r, a := newRepo(t, 2, "pop")
	tree, files := sample(1)
	node := a.node("setuid", "run me")
	node.Mode = 0o6750
	tree["srv"].(dir)["pop"].(dir)["setuid"] = node
	files["srv/pop/setuid"] = []byte("run me")
	closed := a.node("closed", dir{"inside": "x"})
	closed.Mode = 0o2555
	tree["srv"].(dir)["closed"] = closed
	files["srv/closed/inside"] = []byte("x")
	a.snapshot("pop", tree)
	to := filepath.Join(t.TempDir(), "new", "out")
	var f findings
	report, err := r.restore(&f, embassy.RestoreOptions{To: to}, "pop")
	if err != nil {
		t.Fatalf("%v; %v", err, report)
	}
	base := filepath.Join(to, "pop")
	compare(t, base, files)
	d := report.Datasets[0]
	if d.Files != 7 || d.Dirs != 5 || d.Skipped != 0 || len(d.Bad) != 0 || len(d.Missing) != 0 {
		t.Errorf("report is %+v", d)
	}
	if len(f.list) != 1 || !strings.Contains(f.list[0].String(), "setuid or setgid bits were left out, 1 in all, first /srv/pop/setuid") {
		t.Errorf("findings %v", f.list)
	}
	if len(d.Served) != 1 || d.Served[0].Target != "t0" || d.Served[0].Bytes < 9<<20 {
		t.Errorf("served by %+v, want the Primary alone", d.Served)
	}
	for name, mode := range map[string]fs.FileMode{
		"srv/pop": 0o755, "srv/pop/a.txt": 0o644, "srv/pop/setuid": 0o750, "srv/closed": 0o555 | fs.ModeSetgid,
		"srv/pop/sub/large": 0o644, "srv/pop/link": 0o777, "srv/pop/none": 0o755, "srv/pop/empty": 0o644,
	} {
		info, err := os.Lstat(filepath.Join(base, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode() &^ (fs.ModeDir | fs.ModeSymlink); got != mode {
			t.Errorf("%s has mode %v, want %v", name, got, mode)
		}
		if name != "srv/closed" && !info.ModTime().Equal(modified) {
			t.Errorf("%s has time %v, want %v", name, info.ModTime(), modified)
		}
	}
	if got, err := os.Readlink(filepath.Join(base, "srv/pop/link")); got != "../outside" || err != nil {
		t.Errorf("link leads to %q, %v", got, err)
	}
	if _, err := os.Lstat(filepath.Join(to, ".embassy-restore")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the marker is still there: %v", err)
	}
	// And with the bits asked for.
	to = t.TempDir()
	if _, err := r.restore(&f, embassy.RestoreOptions{To: to, Privileged: true}, "pop"); err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(filepath.Join(to, "pop/srv/pop/setuid"))
	if err != nil || info.Mode() != 0o750|fs.ModeSetuid|fs.ModeSetgid {
		t.Errorf("mode is %v, %v", info.Mode(), err)
	}
}

// TestRestoreFailover damages every object of a kind on the Primary in every
// way: the right bytes come from elsewhere, and the bad copy is named.
func TestRestoreFailover(t *testing.T) {
	t.Parallel() // it waits most of the time
	for _, kind := range []string{"/charter/", "/ledger/", "/index/", "/snapshot/", "/pack/"} {
		for how, damage := range damages {
			t.Run(strings.Trim(kind, "/")+" "+how, func(t *testing.T) {
				r, a := newRepo(t, 3, "pop")
				tree, files := sample(2)
				a.snapshot("pop", tree)
				names := r.names(0, kind)
				for _, name := range names {
					damage(r, 0, name)
				}
				var f findings
				to := t.TempDir()
				report, err := r.restore(&f, embassy.RestoreOptions{To: to}, "pop")
				if err != nil {
					t.Fatalf("%v; %+v", err, report)
				}
				compare(t, filepath.Join(to, "pop"), files)
				if how == "missing" && (kind == "/charter/" || kind == "/ledger/") {
					return // the target does not claim to have it
				}
				if len(f.about("t0", kind)) == 0 {
					t.Errorf("nothing was told of the copies of %v; findings %v", names, f.list)
				}
				if len(f.about("t1", kind)) != 0 {
					t.Errorf("a good target is blamed: %v", f.list)
				}
				if kind == "/pack/" && len(report.Datasets[0].Bad) == 0 {
					t.Error("the report lists no bad copy")
				}
			})
		}
	}
}

func TestRestoreDeadPrimary(t *testing.T) {
	r, a := newRepo(t, 3, "pop")
	tree, files := sample(3)
	a.snapshot("pop", tree)
	r.through(0, dead)
	var f findings
	to := t.TempDir()
	report, err := r.restore(&f, embassy.RestoreOptions{To: to}, "pop")
	if err != nil {
		t.Fatal(err)
	}
	compare(t, filepath.Join(to, "pop"), files)
	if got := f.about("t0", ""); len(got) != 1 {
		t.Errorf("told %d times that the target is dead: %v", len(got), got)
	}
	if s := report.Datasets[0].Served; len(s) != 1 || s[0].Target != "t1" {
		t.Errorf("served by %v, want the Alternate", s)
	}
}

// TestRestorePrimaryDies lets the Primary fail once the restore has begun.
func TestRestorePrimaryDies(t *testing.T) {
	r, a := newRepo(t, 2, "pop")
	tree, files := sample(4)
	a.snapshot("pop", tree)
	r.through(0, func(under targets.Target) targets.Target {
		return &targets.Faulty{Target: under, Before: func(op targets.Op, name string) error {
			if op == targets.OpGet && strings.Contains(name, "/pack/") {
				return errBroken
			}
			return nil
		}}
	})
	var f findings
	to := t.TempDir()
	if report, err := r.restore(&f, embassy.RestoreOptions{To: to}, "pop"); err != nil {
		t.Fatalf("%v; %+v", err, report)
	}
	compare(t, filepath.Join(to, "pop"), files)
}

func TestRestoreSharesTheLoad(t *testing.T) {
	t.Parallel() // it waits most of the time
	r, a := newRepo(t, 3, "pop")
	a.full = 4 << 20
	tree := dir{}
	for i := range 24 {
		tree[string(rune('a'+i))] = random(uint64(100+i), 3<<20/2)
	}
	a.snapshot("pop", tree)
	served := func(o embassy.RestoreOptions) map[string]bool {
		var f findings
		o.To = t.TempDir()
		report, err := r.restore(&f, o, "pop")
		if err != nil {
			t.Fatal(err)
		}
		by := map[string]bool{}
		for _, s := range report.Datasets[0].Served {
			by[s.Target] = s.Bytes > 4<<20
		}
		return by
	}
	if by := served(embassy.RestoreOptions{}); len(by) != 1 || !by["t0"] {
		t.Errorf("served by %v, want t0 alone", by)
	}
	if by := served(embassy.RestoreOptions{Fastest: true}); !by["t0"] || !by["t1"] || !by["t2"] {
		t.Errorf("with Fastest served by %v, want all", by)
	}
	r.members[1] = r.members[1].At(r.members[0].Tier)
	if by := served(embassy.RestoreOptions{}); !by["t0"] || !by["t1"] || by["t2"] {
		t.Errorf("served by %v, want the two of the best tier", by)
	}
}

func TestRestoreWithoutAnyIndex(t *testing.T) {
	for _, how := range []string{"missing", "flipped", "never written"} {
		t.Run(how, func(t *testing.T) {
			r, a := newRepo(t, 2, "pop")
			a.noIndex = how == "never written"
			tree, files := sample(5)
			a.snapshot("pop", tree)
			for i := range r.mems {
				if !a.noIndex {
					for _, name := range r.names(i, "/index/") {
						damages[how](r, i, name)
					}
				}
			}
			var f findings
			to := t.TempDir()
			if report, err := r.restore(&f, embassy.RestoreOptions{To: to}, "pop"); err != nil {
				t.Fatalf("%v; %+v", err, report)
			}
			compare(t, filepath.Join(to, "pop"), files)
		})
	}
}

// TestRestoreSalvage damages every copy of every pack, each elsewhere: what is
// whole in some copy is restored.
func TestRestoreSalvage(t *testing.T) {
	r, a := newRepo(t, 2, "pop")
	a.full = 16 << 20
	tree, files := sample(6)
	a.snapshot("pop", tree)
	for _, name := range r.names(0, "/pack/") {
		for i, at := range []int{1 << 20, 5 << 20} {
			data := r.get(i, name)
			data[at] ^= 1
			r.putOn(i, name, data)
		}
	}
	var f findings
	to := t.TempDir()
	report, err := r.restore(&f, embassy.RestoreOptions{To: to}, "pop")
	if err != nil {
		t.Fatalf("%v; %+v", err, report)
	}
	compare(t, filepath.Join(to, "pop"), files)
	if len(f.about("t0", "/pack/")) == 0 || len(f.about("t1", "/pack/")) == 0 {
		t.Errorf("both targets have bad copies; findings %v", f.list)
	}
}

// TestRestoreLost restores all but what is on no target, and says so.
func TestRestoreLost(t *testing.T) {
	r, a := newRepo(t, 2, "pop", "land")
	lost := random(7, 9<<20)
	id := a.content(lost)
	a.seal()
	gone := a.adds[len(a.adds)-1].Hash
	a.snapshot("pop", dir{"srv": dir{"lost": format.Node{Type: format.File, Content: &id, Mode: 0o644}, "kept": "kept"}})
	a.snapshot("land", dir{"srv": dir{"parcel": "1"}})
	name := r.names(0, gone.String())[0]
	for i := range r.mems {
		damages["missing"](r, i, name)
	}
	var f findings
	to := t.TempDir()
	report, err := r.restore(&f, embassy.RestoreOptions{To: to}, "pop", "land")
	if !errors.Is(err, embassy.ErrIncomplete) {
		t.Fatalf("%v, want ErrIncomplete", err)
	}
	compare(t, filepath.Join(to, "pop"), map[string][]byte{"srv/kept": []byte("kept")})
	compare(t, filepath.Join(to, "land"), map[string][]byte{"srv/parcel": []byte("1")})
	if got := sortedGaps(report.Datasets[0].Missing); !slices.Equal(got, []string{"/srv/lost"}) {
		t.Errorf("missing are %q", got)
	}
	if len(report.Datasets[1].Missing) != 0 {
		t.Errorf("the other dataset is said to miss %v", report.Datasets[1].Missing)
	}
}

func TestRestoreOrder(t *testing.T) {
	r, a := newRepo(t, 1, "first", "second", "third")
	for _, d := range []string{"third", "first", "second"} {
		a.snapshot(d, dir{"srv": dir{"file": d}})
	}
	v, err := r.view(&findings{})
	if err != nil {
		t.Fatal(err)
	}
	o := embassy.RestoreOptions{To: t.TempDir()}
	want := []string{"second", "third", "first"}
	for _, d := range want {
		s, err := v.Pick(d, "", time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		o.Snapshots = append(o.Snapshots, s)
	}
	report, err := v.Restore(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range report.Datasets {
		got = append(got, d.Dataset)
	}
	if !slices.Equal(got, want) {
		t.Errorf("restored %v, want %v", got, want)
	}
	if _, err := v.Restore(t.Context(), embassy.RestoreOptions{To: t.TempDir(), Snapshots: append(o.Snapshots, o.Snapshots[0])}); err == nil {
		t.Error("one dataset twice was not refused")
	}
}

// TestRestoreHostileTree restores trees that a captured agent wrote. Nothing
// outside the folder changes, and what is refused is named.
func TestRestoreHostileTree(t *testing.T) {
	outside := t.TempDir()
	file := func(a *agent, name string) format.Node { n := a.node(name, "hostile"); return n }
	tests := map[string]struct {
		tree func(a *agent) any
		kept bool // /srv/good is restored all the same
	}{
		"dot dot":        {func(a *agent) any { return raw{file(a, ".."), file(a, "x")} }, true},
		"dot dot folder": {func(a *agent) any { n := a.node("..", dir{"evil": "hostile"}); return raw{n} }, true},
		"slash":          {func(a *agent) any { return raw{file(a, "a/../../../evil")} }, true},
		"absolute":       {func(a *agent) any { return raw{file(a, outside+"/evil")} }, true},
		"empty name":     {func(a *agent) any { return raw{file(a, "")} }, true},
		"nul":            {func(a *agent) any { return raw{file(a, "a\x00b")} }, true},
		"duplicate":      {func(a *agent) any { return raw{file(a, "evil"), file(a, "evil")} }, true},
		"out of order":   {func(a *agent) any { return raw{file(a, "z"), file(a, "evil")} }, true},
		"link, then through it": {func(a *agent) any {
			return raw{a.node("a", link(outside)), a.node("a", dir{"evil": "hostile"})}
		}, true},
		"hard link to a link": {func(a *agent) any {
			l, n, bad := a.node("a", link(outside+"/evil")), a.node("b", "hostile"), file(a, "c")
			l.Hard, n.Hard = 7, 7
			bad.Content.Size++ // so that something is missing
			return raw{l, n, bad}
		}, true},
		"case folds, link first": {func(a *agent) any {
			return raw{a.node("D", link(outside)), a.node("d", dir{"evil": "hostile"})}
		}, true},
		"not a node": {func(a *agent) any { return raw{{}} }, true},
		"content too long": {func(a *agent) any {
			n := file(a, "evil")
			n.Content.Size++
			return raw{n}
		}, true},
		"content too short": {func(a *agent) any {
			n := file(a, "evil")
			n.Content.Size--
			return raw{n}
		}, true},
		"chunk of nowhere": {func(a *agent) any {
			n := file(a, "evil")
			n.Content.Chunks = bytes.Repeat([]byte{7}, 32)
			return raw{n}
		}, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r, a := newRepo(t, 1, "pop")
			a.snapshot("pop", dir{"srv": dir{"bad": tt.tree(a), "good": "good"}})
			parent := t.TempDir()
			to := filepath.Join(parent, "to")
			report, err := r.restore(&findings{}, embassy.RestoreOptions{To: to, FoldNames: true}, "pop")
			if !errors.Is(err, embassy.ErrIncomplete) || len(report.Datasets[0].Missing) == 0 {
				t.Errorf("Restore returned %v, missing %v", err, report.Datasets[0].Missing)
			}
			if data, err := os.ReadFile(filepath.Join(to, "pop/srv/good")); string(data) != "good" {
				t.Errorf("the rest was not restored: %v", err)
			}
			for _, d := range []string{outside, parent} {
				entries, err := os.ReadDir(d)
				if err != nil || len(entries) > 1 || len(entries) == 1 && entries[0].Name() != "to" {
					t.Errorf("%s holds %v, %v", d, entries, err)
				}
			}
			for _, evil := range []string{"pop/srv/bad/evil", "pop/evil", "evil"} {
				if _, err := os.Stat(filepath.Join(to, evil)); err == nil {
					t.Errorf("%s was written", evil)
				}
			}
		})
	}
}

// TestRestoreOverLinks restores over a folder in which someone has put links
// that lead away.
func TestRestoreOverLinks(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	a.snapshot("pop", dir{"srv": dir{"pop": dir{"file": "new"}, "plain": "new"}})
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "file"), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	to := t.TempDir()
	if err := os.MkdirAll(filepath.Join(to, "pop/srv"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"pop/srv/pop": outside, "pop/srv/plain": filepath.Join(outside, "file")} {
		if err := os.Symlink(target, filepath.Join(to, name)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.restore(&findings{}, embassy.RestoreOptions{To: to, Overwrite: embassy.OverwriteAlways}, "pop"); err != nil {
		t.Fatal(err)
	}
	compare(t, filepath.Join(to, "pop"), map[string][]byte{"srv/pop/file": []byte("new"), "srv/plain": []byte("new")})
	compare(t, outside, map[string][]byte{"file": []byte("old")})
}

func TestRestoreNotEmpty(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	a.snapshot("pop", dir{"file": "new", "hard": "new"})
	to := t.TempDir()
	mine := filepath.Join(to, "mine")
	if err := os.WriteFile(mine, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.restore(&findings{}, embassy.RestoreOptions{To: to}, "pop"); !errors.Is(err, embassy.ErrNotEmpty) {
		t.Fatalf("%v, want ErrNotEmpty", err)
	}
	// A file of the right size that has another name is replaced, not written
	// into.
	if err := os.Mkdir(filepath.Join(to, "pop"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(mine, filepath.Join(to, "pop/hard")); err != nil {
		t.Fatal(err)
	}
	if _, err := r.restore(&findings{}, embassy.RestoreOptions{To: to, Overwrite: embassy.OverwriteAlways}, "pop"); err != nil {
		t.Fatal(err)
	}
	compare(t, to, map[string][]byte{"mine": []byte("old"), "pop/file": []byte("new"), "pop/hard": []byte("new")})
}

// TestRestoreResumes interrupts a restore and damages what it left.
func TestRestoreResumes(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	a.full = 4 << 20
	tree, files := sample(8)
	a.snapshot("pop", tree)
	packs := len(r.names(0, "/pack/"))
	to := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	var gets atomic.Int64
	count := func(after int64) func(targets.Target) targets.Target {
		return func(under targets.Target) targets.Target {
			return &targets.Faulty{Target: under, Before: func(op targets.Op, name string) error {
				if op == targets.OpGet && strings.Contains(name, "/pack/") && gets.Add(1) == after {
					cancel()
				}
				return nil
			}}
		}
	}
	r.through(0, count(int64(packs)))
	v, err := r.view(&findings{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := v.Pick("pop", "latest", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	o := embassy.RestoreOptions{To: to, Snapshots: []embassy.SnapshotInfo{s}}
	if _, err := v.Restore(ctx, o); !errors.Is(err, context.Canceled) || !errors.Is(err, embassy.ErrIncomplete) {
		t.Fatalf("the interrupted restore returned %v", err)
	}
	// What a kill leaves: a file in full size that is partly zeros, one that
	// is right, one that is too short.
	base := filepath.Join(to, "pop/srv/pop")
	if err := os.MkdirAll(filepath.Join(base, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	large := bytes.Clone(files["srv/pop/sub/large"])
	clear(large[len(large)-100:])
	for name, data := range map[string][]byte{"sub/large": large, "a.txt": []byte("alpha"), "b.txt": []byte("b")} {
		if err := os.WriteFile(filepath.Join(base, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	gets.Store(0)
	r.through(0, count(-1))
	report, err := r.restore(&findings{}, embassy.RestoreOptions{To: to}, "pop")
	if err != nil {
		t.Fatalf("%v; %+v", err, report)
	}
	compare(t, filepath.Join(to, "pop"), files)
	if d := report.Datasets[0]; d.Skipped == 0 || d.Files != 5 {
		t.Errorf("%d of %d files were kept", d.Skipped, d.Files)
	}
	if info, err := os.Stat(filepath.Join(base, "sub/large")); err != nil || !info.ModTime().Equal(modified) || info.Mode() != 0o644 {
		t.Errorf("attributes of a mended file: %v, %v", info, err)
	}
	if served := report.Datasets[0].Served[0].Bytes; served > 8<<20 {
		t.Errorf("%d bytes were fetched to mend one chunk", served)
	}
	// Another snapshot does not resume it.
	if err := os.WriteFile(filepath.Join(to, ".embassy-restore"), []byte("other\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.restore(&findings{}, embassy.RestoreOptions{To: to}, "pop"); !errors.Is(err, embassy.ErrNotEmpty) {
		t.Errorf("%v, want ErrNotEmpty", err)
	}
}

func TestRestoreSelection(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	tree, files := sample(9)
	a.snapshot("pop", tree)
	tests := map[string]struct {
		paths, include, exclude []string
		want                    []string
		missing                 []string
	}{
		"folder":          {paths: []string{"/srv/pop/sub/"}, want: []string{"srv/pop/sub/large", "srv/pop/sub/same"}},
		"file":            {paths: []string{"/srv/pop/a.txt"}, want: []string{"srv/pop/a.txt"}},
		"root":            {paths: []string{"/"}, exclude: []string{"large"}, want: []string{"srv/pop/a.txt", "srv/pop/b.txt", "srv/pop/empty", "srv/pop/sub/same"}},
		"not there":       {paths: []string{"/srv/pop/a.txt", "/srv/nowhere"}, want: []string{"srv/pop/a.txt"}, missing: []string{"/srv/nowhere"}},
		"include":         {include: []string{"*.txt"}, want: []string{"srv/pop/a.txt", "srv/pop/b.txt"}},
		"include folder":  {include: []string{"/srv/pop/sub"}, want: []string{"srv/pop/sub/large", "srv/pop/sub/same"}},
		"exclude folder":  {exclude: []string{"sub/", "*.txt"}, want: []string{"srv/pop/empty"}},
		"path and glob":   {paths: []string{"/srv/pop/sub"}, include: []string{"*.txt", "sam*"}, want: []string{"srv/pop/sub/same"}},
		"relative path":   {paths: []string{"srv"}, missing: []string{"/"}},
		"nothing matches": {include: []string{"*.none"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			to := t.TempDir()
			o := embassy.RestoreOptions{To: to, Include: tt.include, Exclude: tt.exclude, Paths: map[string][]string{"pop": tt.paths}}
			report, err := r.restore(&findings{}, o, "pop")
			if (err == nil) != (tt.missing == nil) {
				t.Errorf("Restore returned %v", err)
			}
			if got := sortedGaps(report.Datasets[0].Missing); !slices.Equal(got, tt.missing) {
				t.Errorf("missing are %q, want %q", got, tt.missing)
			}
			want := map[string][]byte{}
			for _, w := range tt.want {
				want[w] = files[w]
			}
			compare(t, to, func() map[string][]byte {
				all := map[string][]byte{}
				for k, v := range want {
					all["pop/"+k] = v
				}
				if tt.missing != nil {
					if m, err := os.ReadFile(filepath.Join(to, ".embassy-restore")); err == nil {
						all[".embassy-restore"] = m
					}
				}
				return all
			}())
		})
	}
}

// TestRestoreLittle reads little of a large pack for a small file.
func TestRestoreLittle(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	a.full = 32 << 20
	a.snapshot("pop", dir{"big": random(10, 24<<20), "small": "small"})
	var counter *targets.Counter
	r.through(0, func(under targets.Target) targets.Target {
		counter = targets.NewCounter(under)
		return counter
	})
	to := t.TempDir()
	o := embassy.RestoreOptions{To: to, Paths: map[string][]string{"pop": {"/small"}}}
	if _, err := r.restore(&findings{}, o, "pop"); err != nil {
		t.Fatal(err)
	}
	compare(t, filepath.Join(to, "pop"), map[string][]byte{"small": []byte("small")})
	if got := counter.Bytes(targets.OpGet); got > 4<<20 {
		t.Errorf("%d bytes were read for five", got)
	}
}

// TestRestoreLeavesRights restores no device and no capability unless asked,
// and says so once per kind.
func TestRestoreLeavesRights(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	able := a.node("able", "x")
	able.Xattrs = []format.Xattr{{Name: []byte("security.capability"), Value: []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")}}
	a.snapshot("pop", dir{
		"fifo": format.Node{Type: format.FIFO, Mode: 0o640}, "socket": format.Node{Type: format.Socket, Mode: 0o600},
		"char": format.Node{Type: format.CharDevice, Rdev: 1}, "disk": format.Node{Type: format.Device, Rdev: 1}, "able": able,
	})
	to := t.TempDir()
	var f findings
	report, err := r.restore(&f, embassy.RestoreOptions{To: to}, "pop")
	if err != nil {
		t.Fatal(err, report)
	}
	for _, want := range []string{"devices were left out, 2 in all, first /char:", "attributes were left out, 1 in all, first /able:"} {
		if !slices.ContainsFunc(f.list, func(f embassy.Finding) bool { return strings.Contains(f.String(), want) }) {
			t.Errorf("nothing says %q: %v", want, f.list)
		}
	}
	modes := map[string]fs.FileMode{}
	entries, err := os.ReadDir(filepath.Join(to, "pop"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		modes[e.Name()] = info.Mode()
	}
	want := map[string]fs.FileMode{"able": 0o644, "fifo": 0o640 | fs.ModeNamedPipe, "socket": 0o600 | fs.ModeSocket}
	if !maps.Equal(modes, want) {
		t.Errorf("restored are %v, want %v", modes, want)
	}
	names, err := xattr.LList(filepath.Join(to, "pop/able"))
	if err != nil || slices.Contains(names, "security.capability") {
		t.Errorf("attributes %q, %v", names, err)
	}
}

// TestRestoreHardLinks: names of one file are one file again, also when the
// restore is begun anew; two files that claim to be one stay two, and a file of
// somebody else that has a restored name is not written through.
func TestRestoreHardLinks(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	named := func(name string, content any) format.Node {
		n := a.node(name, content)
		n.Hard = 7
		return n
	}
	a.snapshot("pop", dir{
		"one": named("one", "same"), "two": named("two", "same"), "three": named("three", "liar"), "sub": dir{"four": named("four", "same")},
		"fifo": format.Node{Type: format.FIFO, Hard: 8}, "pipe": format.Node{Type: format.FIFO, Hard: 8},
	})
	to := t.TempDir()
	at := func(name string) string { return filepath.Join(to, "pop", name) }
	same := func(x, y string) bool {
		a, err := os.Lstat(at(x))
		b, err2 := os.Lstat(at(y))
		return err == nil && err2 == nil && os.SameFile(a, b)
	}
	check := func(o embassy.RestoreOptions, skipped uint64) {
		t.Helper()
		o.To = to
		report, err := r.restore(&findings{}, o, "pop")
		if err != nil {
			t.Fatal(err, report)
		}
		if d := report.Datasets[0]; d.Files != 4 || d.Skipped != skipped {
			t.Errorf("%d files, %d of them there already, want 4 and %d", d.Files, d.Skipped, skipped)
		}
		if !same("one", "two") || !same("one", "sub/four") || same("one", "three") || !same("fifo", "pipe") {
			t.Error("the names are not those of the right files")
		}
		if got, err := os.ReadFile(at("three")); string(got) != "liar" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	}
	check(embassy.RestoreOptions{}, 0)
	check(embassy.RestoreOptions{Overwrite: embassy.OverwriteAlways}, 2)
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"one", "two"} {
		if err := errors.Join(os.Remove(at(name)), os.Link(outside, at(name))); err != nil {
			t.Fatal(err)
		}
	}
	check(embassy.RestoreOptions{Overwrite: embassy.OverwriteAlways}, 1)
	if got, err := os.ReadFile(outside); string(got) != "mine" || err != nil {
		t.Errorf("what lies outside is now %q, %v", got, err)
	}
}
