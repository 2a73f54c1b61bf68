package embassy_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"embassy/chunk"
	"embassy/embassy"
	"embassy/embassy/config"
	"embassy/embassy/format"
	"embassy/targets"
)

// legacy is a bucket in memory. It keeps what targets.Bucket promises, but for
// the faults that a test gives it.
type legacy struct {
	mu      sync.Mutex
	clock   time.Time // of the last put
	objects map[string]legacyObject
	opened  map[string]int
	pages   int // listings begun

	// Both are called without the lock; n counts from 1. A nil body is what is
	// stored.
	listing func(n int, key string) error
	opening func(key string, n int, body io.Reader) (io.Reader, error)
}

type legacyObject struct {
	targets.Entry
	data  []byte
	field []targets.Field
}

func newLegacy() *legacy {
	return &legacy{clock: time.Unix(1e9, 0), objects: map[string]legacyObject{}, opened: map[string]int{}}
}

func (l *legacy) put(key string, data []byte, fields ...targets.Field) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clock = l.clock.Add(1234 * time.Millisecond)
	l.objects[key] = legacyObject{targets.Entry{
		Key: key, Size: int64(len(data)), ETag: fmt.Sprintf("%x", md5.Sum(data)), Modified: l.clock,
	}, data, fields}
}

func (l *legacy) remove(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.objects, key)
}

func (l *legacy) get(key string) (legacyObject, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	o, ok := l.objects[key]
	return o, ok
}

// asked returns how often each object was opened since it was asked last.
func (l *legacy) asked() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.opened
	l.opened = map[string]int{}
	return n
}

func (l *legacy) List(_ context.Context, after string) iter.Seq2[targets.Entry, error] {
	return func(yield func(targets.Entry, error) bool) {
		l.mu.Lock()
		l.pages++
		n, keys := l.pages, slices.Sorted(maps.Keys(l.objects))
		l.mu.Unlock()
		for _, key := range keys {
			if after != "" && key <= after {
				continue
			}
			if l.listing != nil {
				if err := l.listing(n, key); err != nil {
					yield(targets.Entry{}, err)
					return
				}
			}
			if o, ok := l.get(key); ok && !yield(o.Entry, nil) {
				return
			}
		}
	}
}

func (l *legacy) Look(_ context.Context, key string) (targets.Entry, error) {
	if o, ok := l.get(key); ok {
		return o.Entry, nil
	}
	return targets.Entry{}, targets.ErrNotFound
}

func (l *legacy) Open(_ context.Context, e targets.Entry, offset int64) (*targets.Source, error) {
	l.mu.Lock()
	l.opened[e.Key]++
	n, o := l.opened[e.Key], l.objects[e.Key]
	l.mu.Unlock()
	var body io.Reader = bytes.NewReader(o.data[min(offset, o.Size):])
	if l.opening != nil {
		var err error
		if body, err = l.opening(e.Key, n, body); err != nil {
			return nil, err
		}
		l.mu.Lock()
		o = l.objects[e.Key]
		l.mu.Unlock()
	}
	switch {
	case o.Key != e.Key:
		return nil, targets.ErrNotFound
	case o.ETag != e.ETag:
		return nil, targets.ErrChanged
	}
	sum := md5.Sum(o.data)
	return &targets.Source{ReadCloser: io.NopCloser(body), Header: o.field, MD5: sum[:]}, nil
}

const legacyURL = "s3+http://localhost:1/old"

// from makes the bucket the source of the site's only dataset.
func (s *site) from(l *legacy) {
	d := &s.config.Datasets[0]
	d.Sources, d.S3 = nil, config.Bucket{URL: legacyURL}
	s.bucket = l
}

// found is what a snapshot holds of an object.
type found struct {
	path    string
	content string
	at      time.Time
	xattrs  map[string]string
	changed bool
}

// held returns what the newest snapshot holds, by key, and its folders with
// their times.
func (s *site) held() (objects map[string]found, folders map[string]time.Time) {
	s.t.Helper()
	v, snap, to := s.latest()
	objects, folders = map[string]found{}, map[string]time.Time{}
	err := v.Walk(s.t.Context(), snap, "", true, func(path string, n *format.Node) error {
		at := time.Unix(n.Sec, int64(n.Nsec))
		path = strings.TrimPrefix(path, "/")
		if n.Type == format.Dir {
			folders[path] = at
			return nil
		}
		f := found{path: path, at: at, xattrs: map[string]string{}, changed: n.Changed}
		for _, x := range n.Xattrs {
			f.xattrs[string(x.Name)] = string(x.Value)
		}
		data, err := os.ReadFile(filepath.Join(to, "population", path))
		f.content = string(data)
		key, odd := f.xattrs["user.s3.key"]
		if !odd {
			key = path
		} else if key == path {
			s.t.Errorf("%q carries a key that is its path", key)
		}
		if _, twice := objects[key]; twice {
			s.t.Errorf("two files of the key %q", key)
		}
		objects[key] = f
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return objects, folders
}

// TestBucketKeys backs up keys of every kind, and again with little changed.
func TestBucketKeys(t *testing.T) {
	l, rng := newLegacy(), rand.New(rand.NewPCG(4, 4))
	long := strings.Repeat("l", 300)
	for _, key := range []string{
		"a", "a-b", "a/b", "a/b/c", "a.txt", "a//b", "a/./b", "a/../b", "../../etc/passwd", "/etc/passwd", "..", ".", "x/",
		"nul\x00l", long, long + "/x", long + "%object", "inv\xffalid", "line\nbreak", ".s3-a", ".s3-a%object", ".s3-", ".s3-%2E", ".s3-%25",
		"%2E", "deep" + strings.Repeat("/d", 100) + "/f", "empty", "dir/f", "UPPER/f", "upper/f", "sub/\x01", "~",
	} {
		l.put(key, []byte("content of "+key))
	}
	parts := []string{"a", "b", "/", "/", ".", "-", ".s3-", "%", "%object", "\x00", "0"}
	for range 300 {
		var key strings.Builder
		for range 1 + rng.IntN(7) {
			key.WriteString(parts[rng.IntN(len(parts))])
		}
		l.put(key.String(), []byte("content of "+key.String()))
	}
	l.put("", []byte("in the name of the prefix"))
	l.put("empty", nil)
	l.put("large", bytes.Repeat([]byte("0123456789abcde\n"), 3*chunk.MaxSize/16))
	l.put("dir/", nil)
	marker, _ := l.get("dir/")
	l.put("dir/g", []byte("newer than the folder's own object"))
	l.put("told", []byte("x"), targets.Field{Name: "content-type", Value: "text/plain"}, targets.Field{Name: "meta.owner", Value: "ria"})
	for i := range 300 { // more than may wait
		l.put(fmt.Sprintf("many/%d/x-%d", i%7, i), fmt.Append(nil, i))
	}

	s := newSite(t, 1, 1)
	s.from(l)
	check := func() {
		t.Helper()
		objects, folders := s.held()
		for key, o := range l.objects {
			f, ok := objects[key]
			switch {
			case key == "dir/":
				if at := folders["dir"]; !at.Equal(marker.Modified) {
					t.Errorf("folder dir is of %v, not of %v", at, marker.Modified)
				}
				continue
			case !ok:
				t.Errorf("key %q is not in the snapshot", key)
				continue
			case f.content != string(o.data) || !f.at.Equal(o.Modified) || f.changed:
				t.Errorf("key %q is %.40q of %v at %q, and was %.40q of %v", key, f.content, f.at, f.path, o.data, o.Modified)
			}
			for part := range strings.SplitSeq(f.path, "/") {
				if part == "" || part == "." || part == ".." || len(part) > 255 {
					t.Errorf("key %q lies at %q", key, f.path)
				}
			}
			delete(objects, key)
		}
		for key, f := range objects {
			t.Errorf("%q at %q is not in the bucket", key, f.path)
		}
	}
	first := s.mustBackup(0)
	if first.Files != uint64(len(l.objects)-1) || first.New != first.Files {
		t.Errorf("%d files, %d new, of %d objects", first.Files, first.New, len(l.objects)-1)
	}
	check()
	objects, folders := s.held()
	if x := objects["told"].xattrs; x["user.s3.content-type"] != "text/plain" || x["user.s3.meta.owner"] != "ria" {
		t.Errorf("attributes %q", x)
	}
	for _, key := range []string{"a/b/c", "inv\xffalid", "line\nbreak", "UPPER/f", "%2E"} {
		if objects[key].path != key {
			t.Errorf("key %q lies at %q", key, objects[key].path)
		}
	}
	l.asked()

	packs := s.count(0, "pack")
	if again := s.mustBackup(0); again.Same != first.Files || again.New+again.Changed+again.Read > 0 || len(l.asked()) > 0 || s.count(0, "pack") != packs {
		t.Errorf("unchanged, and %+v; %d packs, then %d", again, packs, s.count(0, "pack"))
	}
	if same, at := s.held(); fmt.Sprint(same) != fmt.Sprint(objects) || !maps.Equal(at, folders) {
		t.Error("the same bucket gives another tree")
	}

	l.put("a", []byte("CONTENT of a")) // of the same size, beside a folder of its name
	l.remove("many/3/x-3")
	l.put("many/4/new", []byte("new"))
	rep := s.mustBackup(0)
	if asked := l.asked(); rep.New != 1 || rep.Changed != 1 || rep.Files != first.Files || fmt.Sprint(asked) != "map[a:1 many/4/new:1]" {
		t.Errorf("%+v; asked for %v", rep, asked)
	}
	check()
}

// TestBucketFaults gives a bucket with one fault each.
func TestBucketFaults(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), chunk.MinSize/8)
	fill := func(l *legacy) {
		for _, key := range []string{"a", "b/c", "z"} {
			l.put(key, append([]byte(key), data...))
		}
	}
	of := func(key string, times int, f func(body io.Reader) (io.Reader, error)) func(string, int, io.Reader) (io.Reader, error) {
		return func(k string, n int, body io.Reader) (io.Reader, error) {
			if k == key && n <= times {
				return f(body)
			}
			return body, nil
		}
	}
	says := func(err error) func(io.Reader) (io.Reader, error) {
		return func(io.Reader) (io.Reader, error) { return nil, err }
	}
	bent := func(body io.Reader) (io.Reader, error) {
		data, err := io.ReadAll(body)
		data[len(data)/2] ^= 1
		return bytes.NewReader(data), err
	}
	const always = 1 << 30
	tests := map[string]struct {
		set   func(l *legacy)
		exit  int
		gap   string // of b/c
		fails string // what the error says; there is no snapshot
		flag  bool   // b/c is stored as changed
	}{
		"denied":             {set: func(l *legacy) { l.opening = of("b/c", always, says(targets.ErrDenied)) }, exit: 3, gap: "access denied"},
		"refused":            {set: func(l *legacy) { l.opening = of("b/c", always, says(targets.ErrRefused)) }, exit: 3, gap: "does not give it out"},
		"vanished":           {set: func(l *legacy) { l.opening = of("b/c", always, says(targets.ErrNotFound)) }, exit: 3, gap: "not found"},
		"fails for a moment": {set: func(l *legacy) { l.opening = of("b/c", 1, says(targets.ErrBusy)) }},
		"breaks off": {set: func(l *legacy) {
			l.opening = of("b/c", 1, func(body io.Reader) (io.Reader, error) {
				return io.MultiReader(io.LimitReader(body, 1000), iotest.ErrReader(targets.ErrUnreadable)), nil
			})
		}},
		"breaks off with the last bytes that came": {set: func(l *legacy) {
			l.opening = of("b/c", 1, func(body io.Reader) (io.Reader, error) {
				return iotest.DataErrReader(io.MultiReader(io.LimitReader(body, 1000), iotest.ErrReader(targets.ErrUnreadable))), nil
			})
		}},
		"changes": {set: func(l *legacy) {
			l.opening = of("b/c", 1, func(body io.Reader) (io.Reader, error) {
				l.put("b/c", []byte("changed"))
				return body, nil
			})
		}},
		"changes again and again": {set: func(l *legacy) {
			n := 0
			l.opening = of("b/c", always, func(body io.Reader) (io.Reader, error) {
				n++
				l.put("b/c", fmt.Append(nil, n))
				return body, nil
			})
		}, exit: 3, gap: "changed since it was listed"},
		"changes and is deleted": {set: func(l *legacy) {
			l.opening = of("b/c", 1, func(io.Reader) (io.Reader, error) {
				l.remove("b/c")
				return nil, targets.ErrChanged
			})
		}, exit: 3, gap: "not found"},
		"damaged on the way":    {set: func(l *legacy) { l.opening = of("b/c", 1, bent) }},
		"damaged in the bucket": {set: func(l *legacy) { l.opening = of("b/c", always, bent) }, exit: 3, gap: "not those of its ETag", flag: true},
		"nothing can be read": {set: func(l *legacy) {
			l.opening = func(string, int, io.Reader) (io.Reader, error) { return nil, targets.ErrDenied }
		}, fails: "not one object"},
		"empty":                  {set: func(l *legacy) { clear(l.objects) }, fails: "lists no object"},
		"only a marker":          {set: func(l *legacy) { clear(l.objects); l.put("", nil) }, fails: "lists no object"},
		"listing breaks off":     {set: func(l *legacy) { l.listing = failsAt("z", 1, targets.ErrBusy) }},
		"listing breaks at once": {set: func(l *legacy) { l.listing = failsAt("a", 2, targets.ErrBusy) }},
		"listing is wrong":       {set: func(l *legacy) { l.listing = failsAt("z", always, targets.ErrCorrupt) }, fails: "no snapshot is made"},
		"listing is denied":      {set: func(l *legacy) { l.listing = failsAt("a", always, targets.ErrDenied) }, fails: "access denied"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, s := newLegacy(), newSite(t, 1, 1)
			fill(l)
			tc.set(l)
			s.from(l)
			if tc.fails != "" {
				rep := s.mustBackup(1)
				if rep.Err == nil || !strings.Contains(rep.Err.Error(), tc.fails) || !strings.Contains(rep.Err.Error(), legacyURL) || !rep.Snapshot.IsZero() || s.count(0, "snapshot") > 0 {
					t.Errorf("%v; %d snapshots", rep.Err, s.count(0, "snapshot"))
				}
				return
			}
			rep := s.mustBackup(tc.exit)
			objects, _ := s.held()
			for key, o := range l.objects {
				f, ok := objects[key]
				switch lost := key == "b/c" && tc.gap != ""; {
				case lost && tc.flag:
					if !f.changed || len(f.content) != len(o.data) {
						t.Errorf("%q: %d bytes, flagged %t", key, len(f.content), f.changed)
					}
				case lost && ok, !lost && (f.content != string(o.data) || !f.at.Equal(o.Modified) || f.changed):
					t.Errorf("%q: there %t, %d bytes, of %v", key, ok, len(f.content), f.at)
				}
			}
			if tc.gap == "" && len(rep.Gaps) > 0 || tc.gap != "" &&
				(len(rep.Gaps) != 1 || string(rep.Gaps[0].Path) != "/b/c" || !strings.Contains(rep.Gaps[0].Reason, tc.gap)) {
				t.Errorf("gaps %+v", rep.Gaps)
			}
			l.asked()
			l.listing, l.opening = nil, nil
			s.mustBackup(0)
			want := map[string]int{}
			if _, there := l.objects["b/c"]; tc.gap != "" && there {
				want["b/c"] = 1
			}
			if asked := l.asked(); !maps.Equal(asked, want) {
				t.Errorf("healthy, %v were fetched, want %v", asked, want)
			}
		})
	}
}

func failsAt(key string, times int, err error) func(int, string) error {
	return func(n int, k string) error {
		if k == key && n <= times {
			return err
		}
		return nil
	}
}

// TestBucketFilter leaves out what the configuration says, and looks only when
// asked for no more.
func TestBucketFilter(t *testing.T) {
	l, s := newLegacy(), newSite(t, 1, 1)
	for _, key := range []string{"keep/a", "keep/b.tmp", "logs/a", "logs/deep/b", "large"} {
		l.put(key, []byte(key))
	}
	l.put("large", make([]byte, 100))
	s.from(l)
	d := &s.config.Datasets[0]
	d.Exclude, d.ExcludeLargerThan = []string{"*.tmp", "/logs/"}, 50
	reports, err := s.start().Backup(t.Context(), embassy.BackupOptions{DryRun: true})
	if err != nil || len(reports) != 1 || reports[0].Err != nil || reports[0].Files != 1 || len(l.asked()) > 0 || s.count(0, "pack") > 0 {
		t.Fatalf("%+v, %v", reports, err)
	}
	rep := s.mustBackup(0)
	objects, folders := s.held()
	if _, ok := objects["keep/a"]; len(objects) != 1 || !ok || len(folders) != 1 || rep.Left.Excluded != 2 || rep.Left.Larger != 1 || rep.Left.LargerBytes != 100 {
		t.Errorf("%v, %v, %+v", objects, folders, rep.Left)
	}
	s.bucket = nil
	if rep := s.mustBackup(1); rep.Err == nil || errors.Is(rep.Err, embassy.ErrNoObject) {
		t.Errorf("%v", rep.Err)
	}
}

// TestBucketSeveralAtOnce fetches objects of different folders side by side: none
// of the first eight comes before all of them were asked for.
func TestBucketSeveralAtOnce(t *testing.T) {
	const atOnce = 8
	l, s := newLegacy(), newSite(t, 1, 1)
	for i := range 3 * atOnce {
		l.put(fmt.Sprintf("%d/deep/object", i), fmt.Append(nil, i))
	}
	var mu sync.Mutex
	open, most, all := 0, 0, make(chan struct{})
	reached := sync.OnceFunc(func() { close(all) })
	l.opening = func(_ string, _ int, body io.Reader) (io.Reader, error) {
		mu.Lock()
		open++
		most = max(most, open)
		if open == atOnce {
			reached()
		}
		mu.Unlock()
		defer func() {
			mu.Lock()
			defer mu.Unlock()
			open--
		}()
		select {
		case <-all:
			return body, nil
		case <-time.After(20 * time.Second):
			return nil, targets.ErrDenied
		}
	}
	s.from(l)
	s.mustBackup(0)
	if most > atOnce {
		t.Errorf("%d at once", most)
	}
}

// TestBucketGone loses the store after some objects: it is noticed by what was
// asked for then, and not after everything that may wait has failed.
func TestBucketGone(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	b, err := targets.OpenBucket(targets.S3Config{Endpoint: server.Listener.Addr().String(), Bucket: "old", AccessKey: "a", SecretKey: "s"})
	if err != nil {
		t.Fatal(err)
	}
	_, gone := b.Look(t.Context(), "k")
	if !targets.OfStore(gone) {
		t.Fatal(gone)
	}
	l, s := newLegacy(), newSite(t, 1, 1)
	for i := range 1000 {
		l.put(fmt.Sprint(i), fmt.Append(nil, i))
	}
	var asked, late atomic.Int64
	l.opening = func(_ string, _ int, body io.Reader) (io.Reader, error) {
		if asked.Add(1) <= 500 {
			return body, nil
		}
		late.Add(1)
		time.Sleep(10 * time.Millisecond)
		return nil, gone
	}
	s.from(l)
	if s.mustBackup(1); late.Load() > 100 {
		t.Errorf("%d objects were asked for of a store that is gone", late.Load())
	}
}
