package embassy_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"embassy/embassy"
	"embassy/embassy/format"
	"embassy/targets"
)

// latest opens a view and picks the newest snapshots of the datasets.
func (r *repo) latest(f *findings, o *embassy.RestoreOptions, datasets ...string) *embassy.View {
	r.t.Helper()
	v, err := r.view(f)
	r.must(err)
	for _, d := range datasets {
		s, err := v.Pick(d, "latest", time.Time{})
		r.must(err)
		o.Snapshots = append(o.Snapshots, s)
	}
	return v
}

// TestRestoreTreeBomb restores and lists few node lists that are in one
// another again and again, which no honest numbers cover.
func TestRestoreTreeBomb(t *testing.T) {
	tests := map[string]func(a *agent) format.Content{
		"folders": func(a *agent) format.Content {
			c := a.folder(dir{"p": format.Node{Type: format.FIFO}})
			for range 30 {
				n := format.Node{Type: format.Dir, Mode: 0o755, Content: &c}
				c = a.folder(dir{"a": n, "b": n})
			}
			return c
		},
		"a file of one chunk": func(a *agent) format.Content {
			ids := a.content(random(1, 2<<20)).Chunks
			list := []byte(strings.Repeat(string(ids[:32]), 8192))
			id := a.chunk(format.TreeChunk, list)
			up := a.chunk(format.TreeChunk, []byte(strings.Repeat(string(id[:]), 8192)))
			c := format.Content{Size: 1 << 50, Chunks: up[:], Depth: 2}
			return a.folder(dir{"huge": format.Node{Type: format.File, Mode: 0o644, Content: &c}})
		},
	}
	for name, build := range tests {
		t.Run(name, func(t *testing.T) {
			r, a := newRepo(t, 1, "pop", "land")
			c := build(a)
			a.claims = &format.Summary{Files: 100, Dirs: 100, Others: 100, Bytes: 1 << 20}
			a.commit("pop", c)
			a.snapshot("land", dir{"parcel": "1"})
			to := t.TempDir()
			report, err := r.restore(&findings{}, embassy.RestoreOptions{To: to}, "pop", "land")
			if !errors.Is(err, embassy.ErrIncomplete) {
				t.Errorf("%v, want ErrIncomplete", err)
			}
			d := report.Datasets[0]
			if n := len(d.Missing); n == 0 || n > 101 || d.Dirs > 101 || d.Bytes > 1<<20 {
				t.Errorf("%d folders and %d bytes were made, %d names are missing", d.Dirs, d.Bytes, n)
			}
			compare(t, filepath.Join(to, "land"), map[string][]byte{"parcel": []byte("1")})
			var o embassy.RestoreOptions
			v := r.latest(&findings{}, &o, "pop")
			seen := 0
			err = v.Walk(t.Context(), o.Snapshots[0], "/", true, func(string, *format.Node) error { seen++; return nil })
			if !errors.Is(err, format.ErrMalformed) || seen > 200 {
				t.Errorf("Walk went through %d names and returned %v", seen, err)
			}
		})
	}
}

// TestRestoreDeepPath refuses source paths without end.
func TestRestoreDeepPath(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	c := a.folder(dir{"leaf": link("x")})
	for range 40 {
		c = a.folder(dir{strings.Repeat("n", 4000): format.Node{Type: format.Dir, Mode: 0o755, Content: &c}})
	}
	a.commit("pop", c)
	var o embassy.RestoreOptions
	v := r.latest(&findings{}, &o, "pop")
	longest := 0
	err := v.Walk(t.Context(), o.Snapshots[0], "/", true, func(p string, _ *format.Node) error {
		longest = max(longest, len(p))
		return nil
	})
	if !errors.Is(err, format.ErrMalformed) || longest < 32<<10 || longest > 64<<10 {
		t.Errorf("Walk came to a path of %d bytes and returned %v", longest, err)
	}
}

// TestRestoreMissingIsBounded counts what is missing beyond what a report can
// hold.
func TestRestoreMissingIsBounded(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	tree := dir{}
	for i := range 3000 {
		tree[fmt.Sprintf("%d%s", i, strings.Repeat("x", 4000))] = format.Node{Type: format.FIFO}
	}
	a.snapshot("pop", tree)
	report, err := r.restore(&findings{}, embassy.RestoreOptions{To: t.TempDir()}, "pop")
	if !errors.Is(err, embassy.ErrIncomplete) {
		t.Fatalf("%v, want ErrIncomplete", err)
	}
	missing := report.Datasets[0].Missing
	last := missing[len(missing)-1]
	if n := len(missing) - 1; n < 1000 || n >= 3000 || last.Reason != fmt.Sprintf("%d more are not named", 3000-n) {
		t.Errorf("%d are named, then %q", n, last.Reason)
	}
}

// TestRestoreLargeComesLast restores a dataset that says to hold more than the
// disk does after the others.
func TestRestoreLargeComesLast(t *testing.T) {
	r, a := newRepo(t, 1, "huge", "land")
	a.claims = &format.Summary{Files: 1, Bytes: 1 << 60}
	a.snapshot("huge", dir{"file": "huge"})
	a.snapshot("land", dir{"parcel": "1"})
	var f findings
	o := embassy.RestoreOptions{To: t.TempDir()}
	r.latest(&f, &o, "huge", "land")
	charter, _, err := embassy.FindCharter(t.Context(), r.members, r.nation, r.root.Signer().Verifier(), f.add)
	r.must(err)
	keys, err := embassy.RootKeys(charter, r.root)
	r.must(err)
	var order []string
	v, err := embassy.OpenView(t.Context(), embassy.ViewOptions{Keys: keys, Members: r.members, Warn: f.add, Progress: func(p embassy.Progress) {
		if p.Phase == "restore" && (len(order) == 0 || order[len(order)-1] != p.Dataset) {
			order = append(order, p.Dataset)
		}
	}})
	r.must(err)
	report, err := v.Restore(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(order, " "); got != "land huge" {
		t.Errorf("restored in the order %s", got)
	}
	if report.Datasets[0].Dataset != "huge" || len(f.about("", "comes after the others")) != 1 {
		t.Errorf("report %+v, findings %v", report, f.list)
	}
}

// TestRestoreRefsTwice refuses a snapshot that refers to one entry many times.
func TestRestoreRefsTwice(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	a.snapshot("pop", dir{"x": "1"})
	a.refs = append(a.refs, a.refs[0])
	a.snapshot("pop", dir{"x": "2"})
	f := &findings{}
	v, err := r.view(f)
	r.must(err)
	for _, s := range v.Snapshots("pop") {
		err := v.Walk(t.Context(), s, "/", true, func(string, *format.Node) error { return nil })
		if s.Seq == 2 && !errors.Is(err, format.ErrMalformed) || s.Seq == 1 && err != nil {
			t.Errorf("snapshot of entry %d: %v", s.Seq, err)
		}
	}
	if n := len(v.Snapshots("pop")); n == 2 {
		return
	}
	if len(f.about("", "snapshot left out")) != 1 { // the summary is refused already
		t.Errorf("findings %v", f.list)
	}
}

// TestRestoreHardLinkOutside restores over a file that has another name
// outside, of the same size: nothing of that one changes.
func TestRestoreHardLinkOutside(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	a.snapshot("pop", dir{"other": "12345", "right": "54321"})
	base := t.TempDir()
	to := filepath.Join(base, "to")
	r.must(os.MkdirAll(filepath.Join(to, "pop"), 0o755))
	for name, text := range map[string]string{"other": "other", "right": "54321"} {
		outside := filepath.Join(base, name)
		r.must(os.WriteFile(outside, []byte(text), 0o640))
		r.must(os.Chtimes(outside, time.Time{}, epoch))
		r.must(os.Link(outside, filepath.Join(to, "pop", name)))
	}
	if _, err := r.restore(&findings{}, embassy.RestoreOptions{To: to, Overwrite: embassy.OverwriteAlways}, "pop"); err != nil {
		t.Fatal(err)
	}
	compare(t, filepath.Join(to, "pop"), map[string][]byte{"other": []byte("12345"), "right": []byte("54321")})
	for name, text := range map[string]string{"other": "other", "right": "54321"} {
		info, err := os.Stat(filepath.Join(base, name))
		r.must(err)
		data, err := os.ReadFile(filepath.Join(base, name))
		if info.Mode() != 0o640 || !info.ModTime().Equal(epoch) || string(data) != text {
			t.Errorf("%s outside is now %q, mode %v, time %v; %v", name, data, info.Mode(), info.ModTime(), err)
		}
	}
}

// TestRestoreSameNames restores names that the system takes for the same, once
// and again: the one that it can hold stays, the other is missing each time.
func TestRestoreSameNames(t *testing.T) {
	to := t.TempDir()
	r, a := newRepo(t, 1, "pop")
	a.snapshot("pop", dir{"A": "first", "a": "then", "D": dir{"x": "first"}, "d": dir{"x": "then", "y": "then"}})
	for run := range 3 {
		report, err := r.restore(&findings{}, embassy.RestoreOptions{To: to, FoldNames: true}, "pop")
		if !errors.Is(err, embassy.ErrIncomplete) {
			t.Errorf("run %d: %v, want ErrIncomplete", run, err)
		}
		if got := strings.Join(sortedGaps(report.Datasets[0].Missing), " "); got != "/a /d" {
			t.Errorf("run %d: missing are %s", run, got)
		}
		compare(t, filepath.Join(to, "pop"), map[string][]byte{"A": []byte("first"), "D/x": []byte("first")})
	}
}

// TestRestoreCancelledVerification counts no file that was not yet looked at.
func TestRestoreCancelledVerification(t *testing.T) {
	t.Parallel() // it waits most of the time
	r, a := newRepo(t, 1, "pop")
	tree := dir{}
	for i := range 500 {
		tree[fmt.Sprint(i)] = fmt.Sprintf("file %d", i)
	}
	a.snapshot("pop", tree)
	to := t.TempDir()
	if _, err := r.restore(&findings{}, embassy.RestoreOptions{To: to}, "pop"); err != nil {
		t.Fatal(err)
	}
	o := embassy.RestoreOptions{To: to, Overwrite: embassy.OverwriteAlways}
	r.latest(&findings{}, &o, "pop")
	charter, _, err := embassy.FindCharter(t.Context(), r.members, r.nation, r.root.Signer().Verifier(), nil)
	r.must(err)
	keys, err := embassy.RootKeys(charter, r.root)
	r.must(err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var ticks atomic.Int64
	v, err := embassy.OpenView(t.Context(), embassy.ViewOptions{
		Keys: keys, Members: r.members,
		Now: func() time.Time { return epoch.Add(time.Duration(ticks.Add(1)) * time.Second) }, // all progress is told
		Progress: func(p embassy.Progress) {
			if p.Phase == "restore" && p.Bytes > 0 {
				cancel()
			}
		},
	})
	r.must(err)
	report, err := v.Restore(ctx, o)
	if !errors.Is(err, embassy.ErrIncomplete) || !errors.Is(err, context.Canceled) {
		t.Fatalf("Restore returned %v", err)
	}
	if d := report.Datasets[0]; d.Files != 0 || d.Skipped != 0 || len(d.Missing) == 0 {
		t.Errorf("%d files are said to be right, %d to be skipped, %d to be missing", d.Files, d.Skipped, len(d.Missing))
	}
}

// TestRestoreBadlyWritten blames no target for a chunk that its agent named
// wrongly.
func TestRestoreBadlyWritten(t *testing.T) {
	for _, kind := range []format.ChunkKind{format.DataChunk, format.TreeChunk} {
		r, a := newRepo(t, 2, "pop")
		a.full = 16 << 20
		wrong := a.r.writer.Hasher().ID([]byte("another"))
		a.named(kind, wrong, random(2, 4000))
		n := format.Node{Type: format.File, Mode: 0o644, Content: &format.Content{Size: 4000, Chunks: wrong[:]}}
		if kind == format.TreeChunk {
			n = format.Node{Type: format.Dir, Mode: 0o755, Content: n.Content}
		}
		a.content(random(3, 12<<20))
		a.snapshot("pop", dir{"bad": n})
		a.snapshot("pop", dir{"bad": n, "good": "good"})
		var f findings
		to := t.TempDir()
		report, err := r.restore(&f, embassy.RestoreOptions{To: to}, "pop")
		if !errors.Is(err, embassy.ErrIncomplete) {
			t.Errorf("%v, want ErrIncomplete", err)
		}
		if got := strings.Join(sortedGaps(report.Datasets[0].Missing), " "); got != "/bad" {
			t.Errorf("missing are %s", got)
		}
		if bad := report.Datasets[0].Bad; len(bad) != 0 || len(f.list) != 0 {
			t.Errorf("blamed are %v, told %v", bad, f.list)
		}
		compare(t, filepath.Join(to, "pop"), map[string][]byte{"good": []byte("good")})
	}
}

// TestRestoreMarkerCrash resumes when the marker was not yet whole, and names
// what an interrupted restore was of.
func TestRestoreMarkerCrash(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	first := a.snapshot("pop", dir{"x": "1"})
	to := t.TempDir()
	outside := filepath.Join(t.TempDir(), "outside")
	r.must(os.WriteFile(outside, []byte("mine"), 0o600))
	r.must(os.Link(outside, filepath.Join(to, ".embassy-restore.new")))
	if begun, err := embassy.Unfinished(to); len(begun) != 0 || err != nil {
		t.Errorf("begun are %v, %v", begun, err)
	}
	r.through(0, func(under targets.Target) targets.Target {
		return &targets.Faulty{Target: under, Before: func(op targets.Op, name string) error {
			if op == targets.OpGet && strings.Contains(name, "/pack/") {
				return targets.ErrNotFound
			}
			return nil
		}}
	})
	if _, err := r.restore(&findings{}, embassy.RestoreOptions{To: to}, "pop"); !errors.Is(err, embassy.ErrIncomplete) {
		t.Fatalf("%v, want ErrIncomplete", err)
	}
	if begun, err := embassy.Unfinished(to); begun["pop"] != first.String() || len(begun) != 1 || err != nil {
		t.Errorf("begun are %v, %v", begun, err)
	}
	r.through(0, func(under targets.Target) targets.Target { return under })
	if _, err := r.restore(&findings{}, embassy.RestoreOptions{To: to}, "pop"); err != nil {
		t.Fatal(err)
	}
	compare(t, to, map[string][]byte{"pop/x": []byte("1")})
	compare(t, filepath.Dir(outside), map[string][]byte{"outside": []byte("mine")})
	if begun, err := embassy.Unfinished(to); len(begun) != 0 || err != nil {
		t.Errorf("begun are %v, %v", begun, err)
	}
}

// TestRestoreBesideAnother restores the urgent dataset first, and then the
// other one into the same folder. Anything else in it is refused.
func TestRestoreBesideAnother(t *testing.T) {
	r, a := newRepo(t, 1, "pop", "land")
	a.snapshot("pop", dir{"x": "people"})
	a.snapshot("land", dir{"y": "fields"})
	to := t.TempDir()
	for _, name := range []string{"pop", "land"} {
		if _, err := r.restore(&findings{}, embassy.RestoreOptions{To: to}, name); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	compare(t, filepath.Join(to, "pop"), map[string][]byte{"x": []byte("people")})
	compare(t, filepath.Join(to, "land"), map[string][]byte{"y": []byte("fields")})
	if _, err := r.restore(&findings{}, embassy.RestoreOptions{To: to}, "pop"); !errors.Is(err, embassy.ErrNotEmpty) {
		t.Errorf("restored over itself: %v", err)
	}
	to = t.TempDir()
	r.must(os.WriteFile(filepath.Join(to, "land"), nil, 0o600))
	if _, err := r.restore(&findings{}, embassy.RestoreOptions{To: to}, "pop"); !errors.Is(err, embassy.ErrNotEmpty) {
		t.Errorf("a file of a dataset's name was taken for its folder: %v", err)
	}
}
