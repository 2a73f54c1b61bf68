package integration_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	miniogo "github.com/minio/minio-go/v7"
)

// TestCapturedAgent runs everything with the credentials of agent, steward and
// replicator, each with the policy that is printed for it. Then somebody has
// the agent's, and overwrites with them whatever he may, on all targets. The
// one that keeps versions gives every byte, and heals the other.
func TestCapturedAgent(t *testing.T) {
	src := filepath.Join(t.TempDir(), "src")
	oddTree(t, src)
	d := dataset{name: "data", sources: []string{src}}
	stores := borrow(t, 2)
	guarded, plain := stores[0].keepVersions(), stores[1]
	s := newSite(t, stores...)
	s.found(d) // as the owner of the buckets
	policies := map[string]map[string]string{}
	for _, role := range []string{"agent", "steward", "replicator"} {
		policies[role] = s.policies(role)
	}

	s.become("agent")
	s.configure(d)
	s.backup(0)
	checks := s.checkTargets(0)
	if checks[guarded.name].Guarded != "yes" || checks[plain.name].Guarded != "no" {
		t.Errorf("guarded are %q and %q", checks[guarded.name].Guarded, checks[plain.name].Guarded)
	}
	s.become("steward")
	s.configure(d)
	write(t, filepath.Join(src, "later"), noise(9, mib))
	s.backup(0)
	s.restore(d)
	s.become("replicator")
	machine := s.replicator(true)
	machine.configureAs(s)
	machine.replicate(0)
	machine.verify(0, "--level", "full")

	spoiled := 0
	for _, st := range stores {
		client := st.as(policies["agent"][st.name])
		for key, size := range st.list() {
			for range 2 {
				_, err := client.PutObject(t.Context(), st.bucket, key, bytes.NewReader(noise(99, int(size))), size, putOptions)
				if code := miniogo.ToErrorResponse(err).Code; err != nil && code != miniogo.AccessDenied {
					t.Fatalf("overwrite %s: %v", key, err)
				}
				if mine := !strings.Contains(key, "/charter/"); mine != (err == nil) {
					t.Errorf("overwrite %s: %v", key, err)
				} else if mine {
					spoiled++
				}
			}
			if err := client.RemoveObject(t.Context(), st.bucket, key, miniogo.RemoveObjectOptions{}); err == nil {
				t.Errorf("the agent may delete %s", key)
			}
		}
	}
	t.Logf("overwritten %d times", spoiled)

	out := filepath.Join(t.TempDir(), "out")
	r := s.rescue(0, []*store{guarded}, "--credentials-file", s.path("replicator-"+guarded.name), "--to", out)
	r.says(t, guarded.name, "older version")
	compare(t, out, d)
	s.rescue(1, []*store{plain}, "--to", filepath.Join(t.TempDir(), "out"))
	s.restore(d)

	machine.verify(0, "--level", "full", "--repair")
	if v := machine.verify(0, "--level", "full"); slices.ContainsFunc(v.Targets, func(at verificationTarget) bool { return at.Bad > 0 }) {
		t.Errorf("after the repair: %+v", v)
	}
	sameStores(t, stores)
	s.fromEachAlone(stores, d)
}

// configureAs gives a keyless machine the credentials that the stores have now.
func (s *site) configureAs(from *site) {
	s.t.Helper()
	text := string(read(s.t, s.path("embassy.yaml")))
	for _, st := range from.stores {
		name := strings.ToUpper(st.name)
		asked := fmt.Sprintf("credentials: {access_key_env: %s_KEY, secret_key_env: %s_SECRET}", name, name)
		if !strings.Contains(text, asked) {
			s.t.Fatalf("%q is not in\n%s", asked, text)
		}
		text = strings.Replace(text, asked, fmt.Sprintf("credentials_file: %q", st.credentials), 1)
	}
	write(s.t, s.path("embassy.yaml"), []byte(text))
}
