package embassy_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"embassy/embassy"
	"embassy/embassy/format"
	"embassy/targets"
)

// dump dumps a path of the newest snapshot.
func (r *repo) dump(f *findings, at string, a embassy.Archive) ([]byte, embassy.DumpReport, error) {
	r.t.Helper()
	v, err := r.view(f)
	r.must(err)
	s, err := v.Pick("pop", "latest", time.Time{})
	r.must(err)
	var out bytes.Buffer
	report, err := v.Dump(r.t.Context(), embassy.DumpOptions{Snapshot: s, Path: at, Archive: a}, &out)
	return out.Bytes(), report, err
}

// tarEntries lists an archive, one line for each name.
func tarEntries(t *testing.T, data []byte) []string {
	t.Helper()
	var out []string
	for in := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := in.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprintf("%c %q %o", h.Typeflag, h.Name, h.Mode)
		if h.Linkname != "" {
			line += fmt.Sprintf(" -> %q", h.Linkname)
		}
		if h.Devmajor+h.Devminor > 0 {
			line += fmt.Sprintf(" %d,%d", h.Devmajor, h.Devminor)
		}
		for k, v := range h.PAXRecords {
			if strings.HasPrefix(k, "SCHILY.xattr.") {
				line += fmt.Sprintf(" %s=%q", k, v)
			}
		}
		if !h.ModTime.Equal(modified) && h.ModTime.Unix() != 0 {
			t.Errorf("%s is of %v", h.Name, h.ModTime)
		}
		out = append(out, line+" "+string(content))
	}
}

func TestDumpTar(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	named := func(name, content string) format.Node {
		n := a.node(name, content)
		n.Hard = 7
		return n
	}
	able := a.node("able", "x")
	able.Mode, able.Xattrs = 0o4755, []format.Xattr{{Name: []byte("user.a=b%"), Value: []byte("v\x00\n")}}
	a.snapshot("pop", dir{"srv": dir{
		"able": able, "block": format.Node{Type: format.Device, Mode: 0o660, Rdev: 0x1110fd70},
		"empty": dir{}, "evil\n\xff\\..": "e", "fifo": format.Node{Type: format.FIFO, Mode: 0o600}, "link": link("/etc/../passwd"),
		"one": named("one", "same"), "sub": dir{"three": named("three", "liar"), "two": named("two", "same")},
		"socket": format.Node{Type: format.Socket, Hard: 8}, "socket2": format.Node{Type: format.Socket, Hard: 8},
	}, "other": "o"})
	var f findings
	data, report, err := r.dump(&f, "/srv", embassy.Bare)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`5 "srv/" 755 `,
		`0 "srv/able" 4755 SCHILY.xattr.user.a%3Db%25="v\x00\n" x`,
		`4 "srv/block" 660 253,70000 `,
		`5 "srv/empty/" 755 `,
		`0 "srv/evil\n\xff\\.." 644 e`,
		`6 "srv/fifo" 600 `,
		`2 "srv/link" 777 -> "/etc/../passwd" `,
		`0 "srv/one" 644 same`,
		`5 "srv/sub/" 755 `,
		`0 "srv/sub/three" 644 liar`,
		`1 "srv/sub/two" 644 -> "srv/one" `,
	}
	if diff := cmp.Diff(want, tarEntries(t, data)); diff != "" {
		t.Error(diff)
	}
	if report.Archive != embassy.Tar || report.Files != 5 || report.Dirs != 3 || report.Others != 3 || report.Left != 2 || report.Bytes != 10 {
		t.Errorf("%+v", report)
	}
	if len(f.about("", "a tar holds no socket")) != 2 {
		t.Errorf("told was %v", f.list)
	}
	if data, _, err := r.dump(&f, "/srv/sub/two", embassy.Bare); err != nil || string(data) != "same" {
		t.Errorf("one file: %q, %v", data, err)
	}
	for _, at := range []string{"/srv/link", "/srv/fifo"} {
		if data, _, err := r.dump(&f, at, embassy.Bare); err == nil || errors.Is(err, embassy.ErrPartial) || len(data) > 0 {
			t.Errorf("bytes of %s: %q, %v", at, data, err)
		}
	}
	if _, _, err := r.dump(&f, "/srv/no", embassy.Bare); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, _, err := r.dump(&f, "/srv", embassy.Zip); !errors.Is(err, embassy.ErrPartial) || !strings.Contains(err.Error(), "backslash") {
		t.Error(err)
	}
	data, _, err = r.dump(&f, "/srv/sub", embassy.Zip)
	if err != nil {
		t.Fatal(err)
	}
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, one := range z.File {
		names = append(names, fmt.Sprintf("%s %v %v", one.Name, one.Mode(), one.Modified.Unix() == modified.Unix()))
	}
	if want := []string{"srv/sub/ drwxr-xr-x true", "srv/sub/three -rw-r--r-- true", "srv/sub/two -rw-r--r-- true"}; !slices.Equal(names, want) {
		t.Errorf("%q, want %q", names, want)
	}
	if got, err := fs.ReadFile(z, "srv/sub/two"); err != nil || string(got) != "same" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestDumpFetchesOnce: a dump of many packs, full and small files mixed, reads
// hardly more than the packs have, though its windows are smaller than all.
func TestDumpFetchesOnce(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	d := dir{}
	for i := range 60 {
		d[fmt.Sprintf("f%02d", i)] = random(uint64(i), 100<<10+i)
	}
	d["g"] = random(99, 90<<20)
	a.snapshot("pop", d)
	packs := int64(0)
	for _, name := range r.names(0, "/pack/") {
		info, err := r.mems[0].Stat(t.Context(), name)
		r.must(err)
		packs += info.Size
	}
	var read atomic.Int64
	r.through(0, func(on targets.Target) targets.Target {
		return &targets.Faulty{Target: on, Data: func(name string, _ int64, data []byte) []byte {
			if strings.Contains(name, "/pack/") {
				read.Add(int64(len(data)))
			}
			return data
		}}
	})
	data, report, err := r.dump(&findings{}, "", embassy.Tar)
	if err != nil || report.Files != 61 {
		t.Fatal(report, err)
	}
	if got := read.Load(); got > packs+packs/10 {
		t.Errorf("%d bytes were read of packs that have %d", got, packs)
	}
	if got := tarEntries(t, data); len(got) != 61 || !strings.HasSuffix(got[60], string(d["g"].([]byte))) ||
		!strings.HasSuffix(got[7], string(d["f07"].([]byte))) {
		t.Error("the archive does not hold what was stored")
	}
}

// TestDumpBadCopies: another target serves, or the dump says which file it
// could not write.
func TestDumpBadCopies(t *testing.T) {
	for how, damage := range damages {
		t.Run(how, func(t *testing.T) {
			r, a := newRepo(t, 2, "pop")
			want := random(1, 6<<20)
			a.snapshot("pop", dir{"a": "first", "big": want})
			packs := r.names(0, "/pack/")
			for _, name := range packs {
				damage(r, 0, name)
			}
			var f findings
			if data, _, err := r.dump(&f, "/big", embassy.Bare); err != nil || !bytes.Equal(data, want) {
				t.Fatal(len(data), err)
			}
			if len(f.about("t0", "/pack/")) == 0 {
				t.Error("the bad copy was not told")
			}
			for _, name := range packs {
				damage(r, 1, name)
			}
			if data, _, err := r.dump(&findings{}, "/big", embassy.Bare); err == nil || !bytes.HasPrefix(want, data) {
				t.Errorf("%d bytes and %v of damaged packs", len(data), err)
			}
		})
	}
	t.Run("one file", func(t *testing.T) {
		r, a := newRepo(t, 1, "pop")
		lost := a.node("lost", "x")
		lost.Content = &format.Content{Size: 3, Chunks: bytes.Repeat([]byte{7}, 32)}
		a.snapshot("pop", dir{"a": "first", "lost": lost, "z": "z"})
		_, _, err := r.dump(&findings{}, "", embassy.Tar)
		if !errors.Is(err, embassy.ErrPartial) || !strings.Contains(err.Error(), `"/lost"`) {
			t.Error(err)
		}
		list := a.node("list", dir{})
		list.Content = lost.Content
		a.snapshot("pop", dir{"a": "first", "list": list})
		if _, _, err = r.dump(&findings{}, "", embassy.Tar); !errors.Is(err, embassy.ErrPartial) || !strings.Contains(err.Error(), `"/list"`) {
			t.Error(err)
		}
	})
}

// changes lists what differs between two snapshots.
func changes(t *testing.T, v *embassy.View, old, new format.Hash, at string) []string {
	t.Helper()
	var out []string
	a, err := v.Pick("pop", old.String(), time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := v.Pick("pop", new.String(), time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Diff(t.Context(), a, b, at, func(c embassy.Change) error {
		sign := map[[2]bool]string{{true, false}: "-", {false, true}: "+", {true, true}: "M"}[[2]bool{c.Old != nil, c.New != nil}]
		out = append(out, sign+" "+c.Path+" "+strings.Join(c.What.Names(), ","))
		return nil
	}); err != nil {
		t.Error(err)
	}
	return out
}

// TestDiff: what differs is told by kind and in order; a folder that is the
// same in both is not read, for no target has the list of this one.
func TestDiff(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	unread := a.node("unread", dir{})
	unread.Content = &format.Content{Size: 3, Chunks: bytes.Repeat([]byte{7}, 32)}
	with := func(change func(n *format.Node)) format.Node {
		n := a.node("n", "same")
		change(&n)
		return n
	}
	old := a.snapshot("pop", dir{
		"same": "same", "text": "old", "gone": dir{"in": "x"}, "turned": dir{"was": "x"}, "link": link("a"), "unread": unread,
		"mode": "same", "owner": "same", "time": "same", "xattr": "same", "sub": dir{"x": dir{"y": "1"}, "z": "z"},
	})
	new := a.snapshot("pop", dir{
		"same": "same", "text": "new", "fresh": dir{"in": "x"}, "turned": "file", "link": link("b"), "unread": unread,
		"mode": with(func(n *format.Node) { n.Mode = 0o600 }), "owner": with(func(n *format.Node) { n.GID = 5 }),
		"time":  with(func(n *format.Node) { n.Nsec++ }),
		"xattr": with(func(n *format.Node) { n.Xattrs = []format.Xattr{{Name: []byte("user.x"), Value: []byte("1")}} }),
		"sub":   dir{"x": dir{"y": "2"}, "z": "z"},
	})
	v, err := r.view(&findings{})
	r.must(err)
	want := []string{
		"+ /fresh ", "+ /fresh/in ", "- /gone ", "- /gone/in ", "M /link target", "M /mode mode", "M /owner owner",
		"M /sub/x/y content", "M /text content", "M /time time", "M /turned type", "- /turned/was ", "M /xattr xattrs",
	}
	if diff := cmp.Diff(want, changes(t, v, old, new, "")); diff != "" {
		t.Error(diff)
	}
	if got := changes(t, v, new, old, "/sub/x"); !slices.Equal(got, []string{"M /sub/x/y content"}) {
		t.Errorf("below one path: %q", got)
	}
	if got := changes(t, v, old, new, "/fresh/in"); !slices.Equal(got, []string{"+ /fresh/in "}) {
		t.Errorf("of a new path: %q", got)
	}
	if got := changes(t, v, new, new, ""); got != nil {
		t.Errorf("of one snapshot: %q", got)
	}
	s, err := v.Pick("pop", "", time.Time{})
	r.must(err)
	if err := v.Diff(t.Context(), s, s, "/no", func(embassy.Change) error { return nil }); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	// A list that is there in one of them only is told, and not taken for empty.
	third := a.snapshot("pop", dir{"same": "same", "unread": dir{"in": "x"}})
	v, err = r.view(&findings{})
	r.must(err)
	x, err := v.Pick("pop", new.String(), time.Time{})
	r.must(err)
	y, err := v.Pick("pop", third.String(), time.Time{})
	r.must(err)
	var below []string
	err = v.Diff(t.Context(), x, y, "/unread", func(c embassy.Change) error {
		below = append(below, c.Path)
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), `"/unread"`) || len(below) != 0 {
		t.Errorf("%v, %q", err, below)
	}
}

func TestFind(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	broken := a.node("d", dir{})
	broken.Content = &format.Content{Size: 3, Chunks: bytes.Repeat([]byte{7}, 32)}
	trees := []dir{
		{"a.csv": "1", "d": dir{"b.csv": "x", "c.txt": "y"}, "e.csv": dir{}},
		{"a.csv": "1", "d": dir{"b.csv": "x", "c.txt": "z"}, "e.csv": dir{"in": "x"}},
		{"a.csv": "22", "d": dir{"b.csv": "x"}},
		{"a.csv": "22", "d": dir{"b.csv": "x"}}, // nothing changed
		{"a.csv": "1", "d": dir{"b.csv": "x"}},
	}
	find := func(at string) ([]string, error) {
		t.Helper()
		v, err := r.view(&findings{})
		r.must(err)
		all := v.Snapshots("pop")
		number := func(h format.Hash) int {
			return len(all) - slices.IndexFunc(all, func(s embassy.SnapshotInfo) bool { return s.Hash == h })
		}
		found, err := v.Find(t.Context(), "pop", at, func(n *format.Node) bool { return strings.HasSuffix(string(n.Name), ".csv") })
		var out []string
		for _, f := range found {
			out = append(out, fmt.Sprintf("%s %d-%d (%d)", f.Path, number(f.First.Hash), number(f.Last.Hash), f.Snapshots))
		}
		return out, err
	}
	for _, tree := range trees {
		a.snapshot("pop", tree)
	}
	want := []string{"/a.csv 1-2 (2)", "/a.csv 3-4 (2)", "/a.csv 5-5 (1)", "/d/b.csv 1-5 (5)", "/e.csv 1-2 (2)"}
	got, err := find("")
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if got, err := find("/d"); !slices.Equal(got, []string{"/d/b.csv 1-5 (5)"}) || err != nil {
		t.Errorf("below /d: %q, %v", got, err)
	}
	if _, err := find("/no"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	// In a damaged snapshot the rest is found, and what is damaged is told.
	a.snapshot("pop", dir{"a.csv": "1", "d": broken})
	a.snapshot("pop", dir{"a.csv": "1", "d": dir{"b.csv": "x"}})
	got, err = find("")
	want = []string{"/a.csv 1-2 (2)", "/a.csv 3-4 (2)", "/a.csv 5-7 (3)", "/d/b.csv 1-5 (5)", "/d/b.csv 7-7 (1)", "/e.csv 1-2 (2)"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if err == nil || !strings.Contains(err.Error(), `"/d"`) || strings.Count(err.Error(), "in snapshot") != 1 {
		t.Error(err)
	}
}
