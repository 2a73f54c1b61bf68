package integration_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	miniogo "github.com/minio/minio-go/v7"

	"embassy/integration/minio"
)

// TestDestroy destroys a compartment that lies on a plain bucket, on one that keeps
// versions, and under a lock. What the old kit opens, in what a
// host kept, the new one does not, whichever program reads.
func TestDestroy(t *testing.T) {
	src := filepath.Join(t.TempDir(), "src")
	write(t, filepath.Join(src, "a"), noise(1, mib))
	plain := borrow(t, 1)[0]
	versions := plain.at(1, minio.BucketOptions{Versioning: true})
	locked := plain.at(2, minio.BucketOptions{Lock: true})
	stores := []*store{plain, versions, locked}
	s := newSite(t, stores...)
	kept := dataset{name: "data", sources: []string{src}}
	cables := dataset{name: "cables", sources: []string{src}, compartment: "secret"}
	s.found(kept, cables)
	s.backup(0)
	s.configure(kept)

	var dry struct {
		ID      string         `json:"id"`
		Targets []prunedTarget `json:"targets"`
	}
	if err := json.Unmarshal([]byte(s.exits(0, "--json", "compartment", "destroy", "--dry-run", "secret").stdout), &dry); err != nil {
		t.Fatal(err)
	}
	below := func(st *store) map[string][]string {
		all := st.versions()
		maps.DeleteFunc(all, func(key string, _ []string) bool { return !strings.Contains(key, "/"+dry.ID+"/") })
		return all
	}
	for key := range below(versions) { // each has two, and one is hidden
		data, _ := versions.get(key)
		versions.put(key, data)
		if strings.Contains(key, "/snapshot/") {
			versions.remove(key)
		}
	}
	host := map[string][]byte{} // what a host keeps, whatever it is told
	for key := range below(plain) {
		host[key], _ = plain.get(key)
	}
	if n := len(host); n == 0 || dry.Targets[0].Deleted != n || dry.Targets[1].Deleted != n {
		t.Fatalf("%d objects, and %+v", n, dry)
	}
	mode, until := miniogo.Governance, locked.clock().Add(24*time.Hour)
	lock := func(o miniogo.PutObjectRetentionOptions) {
		t.Helper()
		for key, ids := range below(locked) {
			o.VersionID = ids[0]
			if err := locked.client.PutObjectRetention(t.Context(), locked.bucket, key, o); err != nil {
				t.Fatal(err)
			}
		}
	}
	lock(miniogo.PutObjectRetentionOptions{Mode: &mode, RetainUntilDate: &until})

	write(t, s.path("second"), []byte("another "+passphrase+"\n"))
	r := s.exits(4, "compartment", "destroy", "--new-kit", "next.txt", "--new-passphrase-file", "second", "--yes", "secret", "secret")
	if !strings.Contains(r.stdout, "locked: run this again then") || len(below(plain))+len(below(versions)) > 0 || len(below(locked)) == 0 {
		t.Fatalf("%d, %d and %d objects are left:\n%s", len(below(plain)), len(below(versions)), len(below(locked)), r.stdout)
	}
	r.says(t, "destroy every copy of every older recovery kit")
	lock(miniogo.PutObjectRetentionOptions{GovernanceBypass: true})
	s.exits(0, "compartment", "destroy", "secret")
	if n := len(below(locked)); n > 0 {
		t.Fatalf("%d objects are left behind their lock", n)
	}
	s.backup(0)
	s.exits(0, "replicate")

	// The host brings all of it back, and the charters of before with it.
	for key, data := range host {
		plain.put(key, data)
	}
	old, next := s.path("kit.txt"), s.path("next.txt")
	rescue := func(code int, kit, phrase, to string, more ...string) string {
		t.Helper()
		out := filepath.Join(t.TempDir(), to)
		line := append([]string{"--kit", kit, "--passphrase-file", s.path(phrase), "--from", plain.url(), "--to", out}, more...)
		s.launch(rescueProgram, line...).result().wants(t, code)
		return out
	}
	only := func(out string) {
		t.Helper()
		compare(t, out, kept)
		if _, err := os.Stat(filepath.Join(out, "cables")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the new kit restores what was destroyed: %v", err)
		}
	}
	only(rescue(0, next, "second", "charter"))
	for _, key := range plain.keys("charter") {
		plain.remove(key)
	}
	only(rescue(0, next, "second", "bare", "--without-charter"))
	compare(t, rescue(0, old, "phrase", "old", "--without-charter", "cables"), cables)
}
