//go:build linux

package embassy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"embassy/chunk"
	"embassy/embassy"
	"embassy/embassy/format"
	"embassy/targets"
)

// picture is everything that a system tells of a folder and of all below it.
func picture(t *testing.T, top string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(top, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		text := fmt.Sprintf("%v %d %v %d %v", info.Mode(), info.Size(), info.ModTime(), st.Ino, st.Ctim)
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" %x", format.HashOf(data))
		}
		all[name] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// put writes files below a folder, with the time that those of a snapshot have.
func putFiles(t *testing.T, top string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		name = filepath.Join(top, name)
		err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o640), os.Chtimes(name, modified, modified))
		if err != nil {
			t.Fatal(err)
		}
	}
}

// counted puts a counter before the only target.
func (r *repo) counted() (fetched func() int64) {
	var counter *targets.Counter
	r.through(0, func(under targets.Target) targets.Target {
		counter = targets.NewCounter(under)
		return counter
	})
	return func() int64 { return counter.Bytes(targets.OpGet) }
}

// TestRestoreOverwrite restores over what is there in each way. "lies" has the
// size and the time of the snapshot's and another content.
func TestRestoreOverwrite(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	a.snapshot("pop", dir{"same": "same", "lies": "truth", "old": "new text", "lost": "back", "link": link("to"), "way": dir{"in": "x"}})
	was := map[string]string{"same": "same", "lies": "wrong", "old": "old", "mine": "mine"}
	tests := map[embassy.Overwrite]struct {
		files                         map[string]string // beside those that were there
		skipped, trusted, left, wrote uint64
	}{
		embassy.OverwriteNever:     {map[string]string{"lost": "back", "way/in": "x"}, 0, 0, 4, 5},
		embassy.OverwriteIfChanged: {map[string]string{"lost": "back", "way/in": "x", "old": "new text"}, 2, 2, 0, 13},
		embassy.OverwriteAlways:    {map[string]string{"lost": "back", "way/in": "x", "old": "new text", "lies": "truth"}, 1, 0, 0, 18},
	}
	for mode, tt := range tests {
		t.Run(fmt.Sprint(mode), func(t *testing.T) {
			to := t.TempDir()
			top := filepath.Join(to, "pop")
			putFiles(t, top, was)
			r.must(os.Symlink("elsewhere", filepath.Join(top, "link")))
			before := picture(t, top)
			o := embassy.RestoreOptions{To: to, Overwrite: mode, DryRun: true}
			foretold, err := r.restore(&findings{}, o, "pop")
			r.must(err)
			if now := picture(t, to); !maps.Equal(now, picture(t, to)) || len(now) != len(before)+1 {
				t.Errorf("the dry run left %v", slices.Sorted(maps.Keys(now)))
			}
			for name, text := range picture(t, top) {
				if before[name] != text {
					t.Errorf("the dry run made of %s, which was %s, %s", name, before[name], text)
				}
			}
			o.DryRun = false
			report, err := r.restore(&findings{}, o, "pop")
			r.must(err)
			d, f := report.Datasets[0], foretold.Datasets[0]
			if d.Skipped != tt.skipped || d.Trusted != tt.trusted || d.Left != tt.left || d.Wrote != tt.wrote {
				t.Errorf("%d kept, of these %d unread, %d left, %d bytes written; want %+v", d.Skipped, d.Trusted, d.Left, d.Wrote, tt)
			}
			slices.Sort(d.Written.First)
			slices.Sort(f.Written.First)
			if !slices.Equal(d.Written.First, f.Written.First) || d.Files != f.Files || d.Dirs != f.Dirs || d.Left != f.Left || d.Skipped != f.Skipped || d.Wrote != f.Wrote {
				t.Errorf("the dry run foretold %+v, and it came as %+v", f, d)
			}
			want := map[string][]byte{}
			for _, files := range []map[string]string{was, tt.files} {
				for name, text := range files {
					want[name] = []byte(text)
				}
			}
			compare(t, top, want)
			for name := range was {
				name = filepath.Join(top, name)
				if mode == embassy.OverwriteNever && picture(t, top)[name] != before[name] {
					t.Errorf("%s was touched", name)
				}
			}
			if got, err := os.Readlink(filepath.Join(top, "link")); got != map[bool]string{true: "elsewhere", false: "to"}[mode == embassy.OverwriteNever] || err != nil {
				t.Errorf("link leads to %s, %v", got, err)
			}
			if _, err := r.restore(&findings{}, embassy.RestoreOptions{To: to}, "pop"); !errors.Is(err, embassy.ErrNotEmpty) {
				t.Errorf("without being asked: %v", err)
			}
		})
	}
}

// TestRestoreUnchanged fetches no content for a tree that is as it was, and
// leaves every file of it alone; a dry run makes no folder.
func TestRestoreUnchanged(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	a.full = 32 << 20
	a.snapshot("pop", dir{"big": random(10, 24<<20), "small": "small", "link": link("x"), "sub": dir{"pipe": format.Node{Type: format.FIFO, Mode: 0o600}}})
	fetched := r.counted()
	to := filepath.Join(t.TempDir(), "a", "b")
	report, err := r.restore(&findings{}, embassy.RestoreOptions{To: to, DryRun: true, Overwrite: embassy.OverwriteNever}, "pop")
	if d := report.Datasets[0]; err != nil || d.Written.Count != 4 || d.Wrote != 24<<20+5 {
		t.Errorf("%v; %+v", err, d)
	}
	if _, err := os.Stat(filepath.Dir(to)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a dry run made a folder: %v", err)
	}
	if n := fetched(); n > 2<<20 {
		t.Errorf("a dry run fetched %d bytes", n)
	}
	if _, err := r.restore(&findings{}, embassy.RestoreOptions{To: to}, "pop"); err != nil {
		t.Fatal(err)
	}
	inode := func(name string) uint64 {
		info, err := os.Lstat(filepath.Join(to, "pop", name))
		r.must(err)
		return info.Sys().(*syscall.Stat_t).Ino
	}
	link, pipe := inode("link"), inode("sub/pipe")
	for _, mode := range []embassy.Overwrite{embassy.OverwriteIfChanged, embassy.OverwriteAlways} {
		fetched = r.counted()
		report, err = r.restore(&findings{}, embassy.RestoreOptions{To: to, Overwrite: mode, Delete: true, Verify: true}, "pop")
		d := report.Datasets[0]
		if err != nil || fetched() > 2<<20 || d.Written.Count+d.Wrote+d.Deleted.Count+d.ReadBack != 0 || d.Skipped != 2 {
			t.Errorf("mode %d: %v; %d bytes were fetched; %+v", mode, err, fetched(), d)
		}
	}
	if inode("link") != link || inode("sub/pipe") != pipe {
		t.Error("a link or a pipe was made anew")
	}
}

// TestRestoreDelete deletes what the snapshot does not have in the folders that
// are asked for, and nothing else, wherever links lead.
func TestRestoreDelete(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	a.snapshot("pop", dir{"srv": dir{"a": dir{"x": "x"}, "b": dir{"y": "y"}, "blocked": "file"}})
	all := map[string]string{
		"pop/srv/a/x": "x", "pop/srv/b/y": "y",
		"pop/srv/a/gone": "1", "pop/srv/b/gone/deep/er": "2", "pop/srv/b/gone/deep/a.keep": "3", "pop/other": "4", "other/x": "5", "top": "6", "pop/srv/blocked/z": "7",
	}
	tests := map[string]struct {
		o       embassy.RestoreOptions
		deleted string
		missing string
	}{
		"all":                 {embassy.RestoreOptions{}, "/other /srv/a/gone /srv/a/out /srv/b/gone/ /srv/b/gone/deep/ /srv/b/gone/deep/a.keep /srv/b/gone/deep/er /srv/blocked/ /srv/blocked/z", ""},
		"a path":              {embassy.RestoreOptions{Paths: map[string][]string{"pop": {"/srv/a"}}}, "/srv/a/gone /srv/a/out", ""},
		"excluded":            {embassy.RestoreOptions{Exclude: []string{"*.keep", "/srv/a"}}, "/other /srv/b/gone/deep/er /srv/blocked/ /srv/blocked/z", ""},
		"included":            {embassy.RestoreOptions{Include: []string{"g*", "y"}}, "/srv/b/gone/ /srv/b/gone/deep/ /srv/b/gone/deep/a.keep /srv/b/gone/deep/er", ""},
		"a path that is gone": {embassy.RestoreOptions{Paths: map[string][]string{"pop": {"/srv/b/gone", "/srv/b/y"}}}, "", "/srv/b/gone"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			to, outside := t.TempDir(), t.TempDir()
			putFiles(t, to, all)
			putFiles(t, outside, map[string]string{"precious": "p", "sub/precious": "q"})
			far := picture(t, outside)
			r.must(os.Symlink(outside, filepath.Join(to, "pop/srv/a/out")))
			o := tt.o
			o.To, o.Overwrite, o.Delete, o.DryRun = to, embassy.OverwriteIfChanged, true, true
			before := picture(t, to)
			for _, dry := range []bool{true, false} {
				o.DryRun = dry
				report, err := r.restore(&findings{}, o, "pop")
				d := report.Datasets[0]
				slices.Sort(d.Deleted.First)
				if got := strings.Join(d.Deleted.First, " "); got != tt.deleted || d.Deleted.Count != uint64(len(d.Deleted.First)) {
					t.Errorf("dry %v: deleted are %d: %s, want %s", dry, d.Deleted.Count, got, tt.deleted)
				}
				if got := strings.Join(sortedGaps(d.Missing), " "); got != tt.missing || (err == nil) != (tt.missing == "") {
					t.Errorf("dry %v: missing are %s, %v", dry, got, err)
				}
				if dry && !maps.Equal(before, picture(t, to)) {
					t.Error("the dry run touched something")
				}
			}
			if !maps.Equal(far, picture(t, outside)) {
				t.Error("what lies outside changed")
			}
			for name := range before {
				rel, err := filepath.Rel(filepath.Join(to, "pop"), name)
				r.must(err)
				_, err = os.Lstat(name)
				gone := strings.Contains(" "+tt.deleted+" ", " /"+rel+" ") || strings.Contains(" "+tt.deleted+" ", " /"+rel+"/ ") && rel != "srv/blocked"
				if (err != nil) != gone {
					t.Errorf("%s: %v; deleted should be %v", rel, err, gone)
				}
			}
		})
	}
	for _, mode := range []embassy.Overwrite{embassy.OverwriteRefuse, embassy.OverwriteNever} {
		to := filepath.Join(t.TempDir(), "to")
		if _, err := r.restore(&findings{}, embassy.RestoreOptions{To: to, Overwrite: mode, Delete: true}, "pop"); err == nil {
			t.Errorf("mode %d with Delete was not refused", mode)
		}
	}
}

// TestRestoreDeleteUnknown deletes nothing at all when a folder's list could not
// be read to its end: what is missing may be there under another name.
func TestRestoreDeleteUnknown(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	n := format.Node{Type: format.Dir, Mode: 0o755, Content: &format.Content{Size: 10, Chunks: bytes.Repeat([]byte{7}, 32)}}
	a.snapshot("pop", dir{"bad": n, "good": dir{"x": "x"}})
	to := t.TempDir()
	putFiles(t, to, map[string]string{"pop/bad/stays": "1", "pop/good/goes": "2"})
	report, err := r.restore(&findings{}, embassy.RestoreOptions{To: to, Overwrite: embassy.OverwriteAlways, Delete: true}, "pop")
	if got := strings.Join(report.Datasets[0].Deleted.First, " "); got != "" || !errors.Is(err, embassy.ErrIncomplete) {
		t.Errorf("deleted %s, %v", got, err)
	}
	compare(t, to, map[string][]byte{"pop/bad/stays": []byte("1"), "pop/good/x": []byte("x"), "pop/good/goes": []byte("2"), ".embassy-restore": read(t, filepath.Join(to, ".embassy-restore"))})
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// told opens a view that tells its progress.
func (r *repo) told(o *embassy.RestoreOptions, tell func(embassy.Progress), datasets ...string) *embassy.View {
	r.t.Helper()
	r.latest(&findings{}, o, datasets...)
	charter, _, err := embassy.FindCharter(r.t.Context(), r.members, r.nation, r.root.Signer().Verifier(), nil)
	r.must(err)
	keys, err := embassy.RootKeys(charter, r.root)
	r.must(err)
	var ticks atomic.Int64
	v, err := embassy.OpenView(r.t.Context(), embassy.ViewOptions{
		Keys: keys, Members: r.members, Progress: tell,
		Now: func() time.Time { return epoch.Add(time.Duration(ticks.Add(1)) * time.Second) }, // all progress is told
	})
	r.must(err)
	return v
}

// TestRestoreVerify changes a byte on the disk between writing and reading back.
func TestRestoreVerify(t *testing.T) {
	for _, mode := range []embassy.Overwrite{embassy.OverwriteRefuse, embassy.OverwriteNever} {
		r, a := newRepo(t, 1, "pop")
		big := random(4, 3<<20)
		a.snapshot("pop", dir{"good": "good", "srv": dir{"big": big}})
		to := t.TempDir()
		o := embassy.RestoreOptions{To: to, Verify: true, Overwrite: mode}
		var once sync.Once
		v := r.told(&o, func(p embassy.Progress) {
			if p.Phase == "read back" {
				once.Do(func() {
					files, err := filepath.Glob(filepath.Join(to, "pop/srv/*"))
					r.must(err)
					f, err := os.OpenFile(files[0], os.O_WRONLY, 0)
					r.must(err)
					_, err = f.WriteAt([]byte{big[2<<20] ^ 1}, 2<<20)
					r.must(errors.Join(err, f.Close()))
				})
			}
		}, "pop")
		report, err := v.Restore(t.Context(), o)
		d := report.Datasets[0]
		if !errors.Is(err, embassy.ErrIncomplete) || len(d.Missing) != 1 || string(d.Missing[0].Path) != "/srv/big" || !strings.Contains(d.Missing[0].Reason, "read back") {
			t.Fatalf("%v; missing are %+v", err, d.Missing)
		}
		if d.Files != 1 || d.ReadBack != 4 {
			t.Errorf("%d files are said to be right, %d bytes of them were read back", d.Files, d.ReadBack)
		}
		report, err = r.restore(&findings{}, embassy.RestoreOptions{To: to, Verify: true, Overwrite: mode}, "pop")
		if d := report.Datasets[0]; err != nil || d.ReadBack != 3<<20 {
			t.Errorf("%v; %+v", err, d)
		}
		compare(t, to, map[string][]byte{"pop/good": []byte("good"), "pop/srv/big": big})
	}
}

// TestRestoreFirst has what matches a pattern in its place before any of the
// rest is fetched, hard links included.
func TestRestoreFirst(t *testing.T) {
	for _, pattern := range []string{"", "db/**", "/srv/reg/db", "*.db", "db/"} {
		t.Run(pattern, func(t *testing.T) {
			r, a := newRepo(t, 1, "pop")
			large := random(5, 5<<20)
			a.content(large)
			a.seal()
			rest := r.names(0, "/pack/")
			named := func(name string) format.Node {
				n := a.node(name, "accounts")
				n.Hard = 3
				return n
			}
			a.snapshot("pop", dir{"srv": dir{"reg": dir{"aaa": large, "b": named("b"), "db": dir{"x.db": named("x.db"), "l.db": link("x.db")}, "z": "z"}}})
			to := t.TempDir()
			top := filepath.Join(to, "pop/srv/reg")
			early := true
			r.through(0, func(under targets.Target) targets.Target {
				return &targets.Faulty{Target: under, Before: func(op targets.Op, name string) error {
					if op == targets.OpGet && slices.Contains(rest, name) {
						data, err := os.ReadFile(filepath.Join(top, "db/x.db"))
						_, err2 := os.Lstat(filepath.Join(top, "db/l.db"))
						early = early && err == nil && err2 == nil && string(data) == "accounts"
					}
					return nil
				}}
			})
			o := embassy.RestoreOptions{To: to}
			if pattern != "" {
				o.First = map[string][]string{"pop": {pattern}}
			}
			report, err := r.restore(&findings{}, o, "pop")
			if d := report.Datasets[0]; err != nil || d.Files != 4 || d.Dirs != 3 || d.Written.Count != 5 {
				t.Fatalf("%v; %+v", err, d)
			}
			if early != (pattern != "") {
				t.Errorf("it came first: %v", early)
			}
			compare(t, top, map[string][]byte{"aaa": large, "b": []byte("accounts"), "db/x.db": []byte("accounts"), "z": []byte("z")})
			x, err := os.Stat(filepath.Join(top, "db/x.db"))
			r.must(err)
			b, err := os.Stat(filepath.Join(top, "b"))
			r.must(err)
			if !os.SameFile(x, b) {
				t.Error("two names of one file are two files")
			}
			for _, name := range []string{"", "db", "db/x.db", "z"} {
				if info, err := os.Stat(filepath.Join(top, name)); err != nil || !info.ModTime().Equal(modified) {
					t.Errorf("time of %q: %v, %v", name, info, err)
				}
			}
		})
	}
}

// TestRestoreNeverResumes goes on with an interrupted restore that keeps what is
// there: nothing written in part is kept, and names of one file stay one.
func TestRestoreNeverResumes(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	big := random(6, 9<<20)
	a.full = 4 << 20
	hard := func(name string) format.Node {
		n := a.node(name, "shared")
		n.Hard = 5
		return n
	}
	a.snapshot("pop", dir{"a": hard("a"), "b": hard("b"), "c": hard("c"), "big": big})
	to := t.TempDir()
	putFiles(t, to, map[string]string{"pop/a": "another"})
	interrupt := func(o embassy.RestoreOptions) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		v := r.told(&o, func(p embassy.Progress) {
			if p.Phase == "restore" && p.Bytes > 0 {
				cancel()
			}
		}, "pop")
		if _, err := v.Restore(ctx, o); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	never := embassy.RestoreOptions{To: to, Overwrite: embassy.OverwriteNever}
	interrupt(never)
	if _, err := os.Lstat(filepath.Join(to, "pop/big")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not whole has its name: %v", err)
	}
	if _, err := r.restore(&findings{}, embassy.RestoreOptions{To: to}, "pop"); !errors.Is(err, embassy.ErrNotEmpty) {
		t.Errorf("what was to be kept would be replaced: %v", err)
	}
	report, err := r.restore(&findings{}, never, "pop")
	if err != nil || report.Datasets[0].Left == 0 {
		t.Fatalf("%v; %+v", err, report)
	}
	compare(t, filepath.Join(to, "pop"), map[string][]byte{"a": []byte("another"), "b": []byte("shared"), "c": []byte("shared"), "big": big})
	b, err := os.Stat(filepath.Join(to, "pop/b"))
	r.must(err)
	if c, err := os.Stat(filepath.Join(to, "pop/c")); err != nil || !os.SameFile(b, c) {
		t.Errorf("b and c are two files: %v", err)
	}
	// Of a restore that writes into place, nothing can be kept unseen.
	never.To = t.TempDir()
	interrupt(embassy.RestoreOptions{To: never.To})
	if _, err := r.restore(&findings{}, never, "pop"); !errors.Is(err, embassy.ErrNotEmpty) {
		t.Errorf("what may be there in part would be kept: %v", err)
	}
}

// TestRestoreResumesHardAndSparse mends a file of several names and more chunks
// than a window holds, and one with holes, and fetches only what is not there.
func TestRestoreResumesHardAndSparse(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	long := bytes.Repeat([]byte("sixty thousand chunks. "), 60_000)
	id := a.chunk(format.DataChunk, long[:23])
	holed := make([]byte, 40<<20)
	copy(holed, random(7, 3<<20))
	copy(holed[38<<20:], random(8, 2<<20))
	sparse := a.node("sparse", holed)
	sparse.Holes = []uint64{3 << 20, 35 << 20}
	content, err := format.BuildContent(uint64(len(long)), slices.Repeat([]chunk.ID{id}, 60_000), a.tree)
	r.must(err)
	hard := format.Node{Type: format.File, Mode: 0o644, Sec: modified.Unix(), Content: &content, Hard: 9}
	a.snapshot("pop", dir{"one": hard, "two": hard, "sparse": sparse})
	to := t.TempDir()
	at := func(name string) string { return filepath.Join(to, "pop", name) }
	var fetched func() int64
	check := func(o embassy.RestoreOptions, skipped uint64) {
		t.Helper()
		fetched, o.To = r.counted(), to
		report, err := r.restore(&findings{}, o, "pop")
		if d := report.Datasets[0]; err != nil || d.Skipped != skipped || d.Files != 3 {
			t.Fatalf("%v; %+v", err, report)
		}
		compare(t, filepath.Join(to, "pop"), map[string][]byte{"one": long, "two": long, "sparse": holed})
		one, err := os.Stat(at("one"))
		r.must(err)
		if two, err := os.Stat(at("two")); err != nil || !os.SameFile(one, two) {
			t.Errorf("one and two are two files: %v", err)
		}
		if info, err := os.Stat(at("sparse")); err != nil || info.Sys().(*syscall.Stat_t).Blocks*512 > 6<<20 {
			t.Errorf("the holes are filled: %v, %v", info.Sys(), err)
		}
	}
	check(embassy.RestoreOptions{Verify: true}, 0)
	check(embassy.RestoreOptions{Overwrite: embassy.OverwriteAlways}, 2)
	if n := fetched(); n > 3<<20 {
		t.Errorf("%d bytes were fetched for a tree that is right", n)
	}
	// As a kill leaves it: the last chunk of the hard file is not there, the
	// sparse file is there up to its first hole. Another name of the hard file
	// lies outside.
	outside := filepath.Join(t.TempDir(), "outside")
	r.must(os.Link(at("one"), outside))
	f, err := os.OpenFile(outside, os.O_WRONLY, 0)
	r.must(err)
	_, err = f.WriteAt(make([]byte, 10), int64(len(long)-10))
	r.must(errors.Join(err, f.Close()))
	broken := picture(t, outside)[outside]
	broken = broken[strings.LastIndexByte(broken, ' '):]
	r.must(errors.Join(os.Truncate(at("sparse"), 2<<20), os.Truncate(at("sparse"), int64(len(holed)))))
	check(embassy.RestoreOptions{Overwrite: embassy.OverwriteAlways, Verify: true}, 0)
	if now := picture(t, outside)[outside]; !strings.HasSuffix(now, broken) {
		t.Error("the file outside was written into")
	}
}

// TestRestoreIfChangedAfterCrash trusts no time in a folder where a restore was
// not finished: the disk may have kept a file's time and not its content.
func TestRestoreIfChangedAfterCrash(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	a.snapshot("pop", dir{"file": "content"})
	to := t.TempDir()
	putFiles(t, to, map[string]string{"pop/file": strings.Repeat("\x00", 7), ".embassy-restore": "An unfinished restore"})
	report, err := r.restore(&findings{}, embassy.RestoreOptions{To: to, Overwrite: embassy.OverwriteIfChanged}, "pop")
	if err != nil || report.Datasets[0].Trusted != 0 {
		t.Errorf("%v; %+v", err, report)
	}
	compare(t, to, map[string][]byte{"pop/file": []byte("content")})
}
