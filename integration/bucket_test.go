package integration_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	miniogo "github.com/minio/minio-go/v7"
	"github.com/pkg/xattr"
)

// legacySource is a bucket that a dataset is backed up from, behind a front
// that sees every request. The programs may list and read it, and no more.
type legacySource struct {
	*store
	dataset dataset

	mu    sync.Mutex
	gets  map[string]int                               // of objects, by key
	other []string                                     // requests that only a writer sends
	onGet func(w http.ResponseWriter, key string) bool // called once, with the first object that is fetched
}

const legacyPrefix = "old/data"

func newLegacySource(t *testing.T, s *site, st *store) *legacySource {
	t.Helper()
	l := &legacySource{store: st, gets: map[string]int{}}
	access, secret, token := st.server.Restricted(t, fmt.Sprintf(`{"Version":"2012-10-17","Statement":[
		{"Effect":"Allow","Action":["s3:ListBucket"],"Resource":["arn:aws:s3:::%[1]s"]},
		{"Effect":"Allow","Action":["s3:GetObject"],"Resource":["arn:aws:s3:::%[1]s/*"]}]}`, st.bucket))
	write(t, s.path("legacy"), fmt.Appendf(nil, "[default]\naws_access_key_id = %s\naws_secret_access_key = %s\naws_session_token = %s\n", access, secret, token))
	st.inFront().lies(func(w http.ResponseWriter, r request) bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		switch {
		case r.Method != http.MethodGet:
			l.other = append(l.other, r.Method+" "+r.URL.String())
		case !r.list:
			l.gets[strings.TrimPrefix(r.key, legacyPrefix+"/")]++
			if f := l.onGet; f != nil {
				l.onGet = nil
				return f(w, r.key)
			}
		}
		return false
	})
	l.dataset = dataset{name: "legacy", more: fmt.Sprintf("s3: {url: %q, credentials_file: legacy}", l.source())}
	return l
}

// source is the URL of what is backed up.
func (l *legacySource) source() string { return l.url() + "/" + legacyPrefix }

// give puts an object below the prefix.
func (l *legacySource) give(key string, data []byte, o miniogo.PutObjectOptions) {
	l.t.Helper()
	if _, err := l.client.PutObject(l.t.Context(), l.bucket, legacyPrefix+"/"+key, bytes.NewReader(data), int64(len(data)), o); err != nil {
		l.t.Fatalf("put %q: %v", key, err)
	}
}

// once calls f with the next object that is fetched.
func (l *legacySource) once(f func(w http.ResponseWriter, key string) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.onGet = f
}

// written are the requests that only a writer sends.
func (l *legacySource) written() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.other
}

// fetched returns the keys that were asked for since it was asked last.
func (l *legacySource) fetched() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	keys := slices.Sorted(maps.Keys(l.gets))
	clear(l.gets)
	return keys
}

// restored restores the newest snapshot, and fails the test unless it is what
// another client finds in the bucket: names, bytes and times.
func (l *legacySource) restored(s *site) string {
	l.t.Helper()
	out := filepath.Join(l.t.TempDir(), "out")
	s.exits(0, "restore", "--all", "--to", out)
	root := filepath.Join(out, "legacy")
	want := map[string]string{}
	for info := range l.client.ListObjects(l.t.Context(), l.bucket, miniogo.ListObjectsOptions{Prefix: legacyPrefix + "/", Recursive: true}) {
		if info.Err != nil {
			l.t.Fatal(info.Err)
		}
		if key := strings.TrimPrefix(info.Key, legacyPrefix+"/"); !strings.HasSuffix(key, "/") {
			data, _ := l.get(info.Key)
			want[key] = fmt.Sprintf("%v %x", info.LastModified.UTC(), data[:min(len(data), 1<<16)]) + fmt.Sprint(len(data))
		}
	}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		key, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if true, err := xattr.LGet(path, "user.s3.key"); err == nil {
			key = string(true)
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		got := fmt.Sprintf("%v %x", fi.ModTime().UTC(), data[:min(len(data), 1<<16)]) + fmt.Sprint(len(data))
		if got != want[key] {
			l.t.Errorf("%q is restored as %.100q, and is %.100q", key, got, want[key])
		}
		delete(want, key)
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
	for key := range want {
		l.t.Errorf("%q is not restored", key)
	}
	return root
}

// TestBucketSource backs up a bucket of others, and again after what happens to
// buckets.
func TestBucketSource(t *testing.T) {
	t.Parallel()
	stores := borrow(t, 3)
	s := newSite(t, stores[:2]...)
	l := newLegacySource(t, s, stores[2])
	l.put("elsewhere/secret", []byte("not below the prefix"))
	l.put(legacyPrefix+"base/near", []byte("nor this"))
	for _, key := range []string{
		"a-b", "a/b", "a/b c/d+e&f=g", "a.txt", "ünï/cödé", "100%", ".s3-odd", "quote\"'<>", "UPPER/x", "upper/x", strings.Repeat("n", 200) + "/f",
	} {
		l.give(key, []byte("content of "+key), putOptions)
	}
	l.give("empty", nil, putOptions)
	l.give("marked/", nil, putOptions)
	l.give("told.pdf", []byte("%PDF"), miniogo.PutObjectOptions{ContentType: "application/pdf", UserMetadata: map[string]string{"Owner": "ria"}})
	large := noise(4, 20*mib)
	l.give("large", large, miniogo.PutObjectOptions{PartSize: 5 * mib})
	if info, err := l.client.StatObject(t.Context(), l.bucket, legacyPrefix+"/large", miniogo.StatObjectOptions{}); err != nil || !strings.Contains(info.ETag, "-") {
		t.Fatalf("the large object has the ETag %q: %v", info.ETag, err)
	}
	for i := range 40 {
		l.give(fmt.Sprintf("many/%d/%d", i%4, i), noise(byte(i), 1000), putOptions)
	}
	s.found(l.dataset)
	if r := s.exits(0, "backup", "--dry-run"); len(l.fetched()) > 0 {
		t.Errorf("a dry run reads objects:\n%s", r.stdout)
	}
	first, _ := s.backup(0)
	if n := len(l.fetched()); uint64(n) != first[0].New || n != 54 {
		t.Errorf("%d objects fetched, %+v", n, first[0])
	}
	sameStores(t, stores[:2])
	root := l.restored(s)
	if whole, err := os.ReadFile(filepath.Join(root, "large")); err != nil || !bytes.Equal(whole, large) {
		t.Errorf("the large object is restored as %d bytes: %v", len(whole), err)
	}
	for name, want := range map[string]string{"user.s3.content-type": "application/pdf", "user.s3.meta.owner": "ria"} {
		if got, err := xattr.LGet(filepath.Join(root, "told.pdf"), name); err != nil || string(got) != want {
			t.Errorf("%s is %q: %v", name, got, err)
		}
	}
	if fi, err := os.Stat(filepath.Join(root, "marked")); err != nil || !fi.IsDir() {
		t.Errorf("a folder marker is no folder: %v", err)
	}

	packs := stores[0].keys("pack")
	again, _ := s.backup(0)
	if r := again[0]; len(l.fetched()) > 0 || r.New+r.Changed+r.Read+r.Added > 0 || r.Same != first[0].New || !slices.Equal(stores[0].keys("pack"), packs) {
		t.Errorf("unchanged, and %+v", r)
	}

	l.give("a/b", []byte("CONTENT of a/b"), putOptions) // of the same size
	l.give("many/9/new", []byte("new"), putOptions)
	l.remove(legacyPrefix + "/a.txt")
	s.backup(0)
	if got := l.fetched(); !slices.Equal(got, []string{"a/b", "many/9/new"}) {
		t.Errorf("fetched were %q", got)
	}
	l.restored(s)
	ids := s.snapshots()
	var diff struct {
		Changes []struct {
			Path, Change string
			Old, New     *struct{ Type string }
		}
	}
	r := s.exits(0, "--json", "diff", "legacy", ids[1], ids[0])
	if err := json.Unmarshal([]byte(r.stdout), &diff); err != nil {
		t.Fatalf("%v\n%s", err, r.stdout)
	}
	var changes []string
	for _, c := range diff.Changes {
		if !strings.HasSuffix(c.Path, "/") && (c.New == nil || c.New.Type == "file") {
			changes = append(changes, c.Change+" "+strings.Trim(c.Path, "/"))
		}
	}
	if want := []string{"changed a/b", "removed a.txt", "added many/9/new"}; !slices.Equal(changes, want) {
		t.Errorf("diff says %q, want %q:\n%s", changes, want, r.stdout)
	}

	// An object is replaced, and one is deleted, between the listing and the get.
	for _, key := range []string{"replaced", "deleted"} {
		l.give(key, []byte("as it was listed"), putOptions)
		l.once(func(_ http.ResponseWriter, key string) bool {
			if strings.HasSuffix(key, "replaced") {
				l.put(key, []byte("as it is now"))
			} else {
				l.remove(key)
			}
			return false
		})
		reports, _ := s.backup(map[string]int{"replaced": 0, "deleted": 3}[key])
		if gaps := reports[0].Gaps; key == "deleted" && (len(gaps) != 1 || gaps[0].Path != "/deleted") {
			t.Errorf("gaps %+v", gaps)
		}
		l.restored(s)
	}
	if len(l.written()) > 0 {
		t.Errorf("a source was asked to %q", l.written())
	}
	s.says(l, "lists no object", func() { l.dataset.more = strings.Replace(l.dataset.more, legacyPrefix, "old/date", 1) })
}

// says fails the test unless a backup of a source that was changed fails, makes
// no snapshot, and says so.
func (s *site) says(l *legacySource, text string, change func()) result {
	s.t.Helper()
	before := s.snapshots()
	change()
	s.configure(l.dataset)
	r := s.exits(1, "backup")
	r.says(s.t, text)
	if after := s.snapshots(); !slices.Equal(before, after) {
		s.t.Errorf("snapshots %q, and %q before", after, before)
	}
	return r
}

// TestBucketSourceDies loses the source in the middle of a backup. There is no
// snapshot until it is back.
func TestBucketSourceDies(t *testing.T) {
	t.Parallel()
	stores := borrow(t, 2)
	s := newSite(t, stores[0])
	l := newLegacySource(t, s, stores[1])
	for i := range 30 {
		l.give(fmt.Sprintf("%02d", i), noise(byte(i), 100_000), putOptions)
	}
	s.found(l.dataset)
	l.once(func(http.ResponseWriter, string) bool {
		l.proxy.Cut()
		return false
	})
	start := time.Now()
	r := s.says(l, "no snapshot is made", func() {})
	r.says(t, l.source())
	if took := time.Since(start); took > time.Minute {
		t.Errorf("it took %v to say so", took)
	}
	l.proxy.Heal()
	s.backup(0)
	l.restored(s)
}
