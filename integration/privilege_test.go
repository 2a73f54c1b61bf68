package integration_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	miniogo "github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// policies returns the S3 policy of a role for every store, by its name, as
// the program prints them.
func (s *site) policies(role string) map[string]string {
	s.t.Helper()
	r := s.exits(0, "--json", "target", "check", "--print-policy", role)
	var doc struct {
		Policies []struct {
			Target string          `json:"target"`
			Policy json.RawMessage `json:"policy"`
		} `json:"policies"`
	}
	if err := json.Unmarshal([]byte(r.stdout), &doc); err != nil {
		s.t.Fatalf("%v\n%s", err, r.stdout)
	}
	out := map[string]string{}
	for _, p := range doc.Policies {
		if out[p.Target] != "" {
			s.t.Fatalf("two policies for %s", p.Target)
		}
		out[p.Target] = string(p.Policy)
	}
	return out
}

// become gives the site the credentials of a role on every store, and no
// others. The configuration has to be written again.
func (s *site) become(role string) {
	s.t.Helper()
	for name, policy := range s.policies(role) {
		st := s.store(name)
		access, secret, token := st.server.Restricted(s.t, policy)
		st.credentials = s.path(role + "-" + name)
		write(s.t, st.credentials, fmt.Appendf(nil, "[default]\naws_access_key_id = %s\naws_secret_access_key = %s\naws_session_token = %s\n", access, secret, token))
	}
}

// store returns the site's store of that name.
func (s *site) store(name string) *store {
	s.t.Helper()
	i := slices.IndexFunc(s.stores, func(st *store) bool { return st.name == name })
	if i < 0 {
		s.t.Fatalf("no store %s", name)
	}
	return s.stores[i]
}

// as returns a client of the store with what a policy allows.
func (st *store) as(policy string) *miniogo.Client {
	st.t.Helper()
	access, secret, token := st.server.Restricted(st.t, policy)
	client, err := miniogo.New(st.server.Endpoint, &miniogo.Options{
		Creds:  credentials.NewStaticV4(access, secret, token),
		Region: "us-east-1", BucketLookup: miniogo.BucketLookupPath,
	})
	if err != nil {
		st.t.Fatal(err)
	}
	return client
}

// keepVersions turns on versioning.
func (st *store) keepVersions() *store {
	st.t.Helper()
	if err := st.client.EnableVersioning(st.t.Context(), st.bucket); err != nil {
		st.t.Fatal(err)
	}
	return st
}

// locking returns the store with a new bucket that locks every new object.
func (st *store) locking(bucket string, mode miniogo.RetentionMode, days uint) *store {
	st.t.Helper()
	c := *st
	c.bucket, c.client = bucket, c.connect()
	if err := c.client.MakeBucket(st.t.Context(), bucket, miniogo.MakeBucketOptions{ObjectLocking: true}); err != nil {
		st.t.Fatal(err)
	}
	unit := miniogo.Days
	if err := c.client.SetObjectLockConfig(st.t.Context(), bucket, &mode, &days, &unit); err != nil {
		st.t.Fatal(err)
	}
	return &c
}

// check is what target check --json prints of a target.
type check struct {
	Target   string `json:"target"`
	Error    string `json:"error"`
	Guarded  string `json:"guarded"`
	Left     int    `json:"probes_left"`
	Verdicts []struct {
		Capability string `json:"capability"`
		Answer     string `json:"answer"`
		Reason     string `json:"reason"`
		Advice     string `json:"advice"`
	} `json:"verdicts"`
}

// checkTargets runs target check, and returns what it prints by target.
func (s *site) checkTargets(code int) map[string]check {
	s.t.Helper()
	r := s.exits(code, "--json", "target", "check")
	var doc struct {
		Targets []check `json:"targets"`
	}
	if err := json.Unmarshal([]byte(r.stdout), &doc); err != nil {
		s.t.Fatalf("%v\n%s", err, r.stdout)
	}
	out := map[string]check{}
	for _, c := range doc.Targets {
		out[c.Target] = c
	}
	return out
}

// wants compares some answers: "capability=answer".
func (c check) wants(t testing.TB, answers ...string) {
	t.Helper()
	got := map[string]string{}
	for _, v := range c.Verdicts {
		got[v.Capability] = v.Answer
	}
	for _, a := range answers {
		capability, want, _ := strings.Cut(a, "=")
		if got[capability] != want {
			t.Errorf("%s: %s is %q, want %q: %+v", c.Target, capability, got[capability], want, c)
		}
	}
}

// TestLeastPrivilege runs an agent with the policy that is printed for it, and
// tries with each role's policy what it must and must not allow.
func TestLeastPrivilege(t *testing.T) {
	src := t.TempDir()
	write(t, filepath.Join(src, "file"), noise(1, mib))
	d := dataset{name: "data", sources: []string{src}}
	stores := start(t, 2)
	stores[0].keepVersions()
	stores[1] = stores[1].locking("locked", miniogo.Governance, 3)
	stores[1].lock = "{mode: governance, days: 3}"
	plain := stores[1].in("plain")
	plain.name, plain.jurisdiction, plain.lock = "helsinki", "FI", ""
	s := newSite(t, append(stores, plain)...)
	s.found(d) // as the owner
	s.checkTargets(0)["tallinn"].wants(t, "guarded=no", "may_delete_version=yes", "may_write_elsewhere=yes")
	if left := stores[0].keys("probe"); len(left) > 0 {
		t.Errorf("the owner's check left %q", left)
	}
	policies := map[string]map[string]string{}
	for _, role := range []string{"agent", "replicator", "steward"} {
		policies[role] = s.policies(role)
	}

	s.become("agent")
	s.configure(d)
	s.backup(0)
	checks := s.checkTargets(0)
	for _, name := range []string{"tallinn", "luxembourg"} {
		checks[name].wants(t, "put=yes", "read_back=yes", "listing=yes", "clock=yes", "versioning=yes", "conditional_put=yes", "checksum=yes",
			"may_overwrite=yes", "may_delete=no", "may_delete_version=no", "may_shorten_lock=no", "may_write_elsewhere=no", "guarded=yes")
	}
	checks["luxembourg"].wants(t, "object_lock=yes", "default_lock=yes", "configured_lock=yes")
	checks["tallinn"].wants(t, "object_lock=no", "default_lock=no")
	checks["helsinki"].wants(t, "versioning=no", "may_delete=no", "guarded=no")
	s.backup(0)
	if r := s.exits(0, "--json", "status"); !strings.Contains(strings.Join(strings.Fields(r.stdout), ""), `"copies":3,"guarded":2`) {
		t.Errorf("status does not count two guarded copies of three:\n%s", r.stdout)
	}
	s.restore(d)

	for _, c := range privileges(s) {
		for role, by := range policies {
			st := s.store(c.on)
			err := c.do(st, st.as(by[st.name]))
			if allowed := err == nil; allowed != slices.Contains(c.roles, role) {
				t.Errorf("%s on %s as %s: %v", c.name, st.name, role, err)
			} else if code := miniogo.ToErrorResponse(err).Code; err != nil && code != miniogo.AccessDenied && code != "InvalidRequest" { // of what is locked
				t.Errorf("%s on %s as %s: refused for another reason: %v", c.name, st.name, role, err)
			}
		}
	}
}

// privilege is something that credentials of some roles may do on a store.
type privilege struct {
	name  string
	on    string // a store
	roles []string
	do    func(st *store, client *miniogo.Client) error
}

// privileges lists what to try after a backup.
func privileges(s *site) []privilege {
	s.t.Helper()
	entry := s.stores[0].keys("ledger")[0] // <n>/<c>/<a>/ledger/...
	part := strings.Split(entry, "/")
	nation, compartment, agent := part[0], part[1], part[2]
	const other = "0123456789abcdef0123456789abcdef"
	all, replicator, steward, none := []string{"agent", "replicator", "steward"}, []string{"replicator"}, []string{"steward"}, []string{}
	put := func(parts ...string) func(*store, *miniogo.Client) error {
		return func(st *store, client *miniogo.Client) error {
			_, err := client.PutObject(st.t.Context(), st.bucket, strings.Join(parts, "/"), strings.NewReader("x"), 1, miniogo.PutObjectOptions{DisableMultipart: true})
			return err
		}
	}
	get := func(key, version string) func(*store, *miniogo.Client) error {
		return func(st *store, client *miniogo.Client) error {
			o, err := client.GetObject(st.t.Context(), st.bucket, key, miniogo.GetObjectOptions{VersionID: version})
			if err == nil {
				_, err = io.ReadAll(o)
			}
			return err
		}
	}
	list := func(prefix string, versions bool) func(*store, *miniogo.Client) error {
		return func(st *store, client *miniogo.Client) error {
			for o := range client.ListObjects(st.t.Context(), st.bucket, miniogo.ListObjectsOptions{Prefix: prefix, WithVersions: versions, Recursive: true}) {
				if o.Err != nil {
					return o.Err
				}
			}
			return nil
		}
	}
	// victim is a new object of the owner's.
	victim := func(st *store, folder string) miniogo.UploadInfo {
		key := folder + fmt.Sprintf("/probe/victim-%d", time.Now().UnixNano())
		up, err := st.client.PutObject(st.t.Context(), st.bucket, key, bytes.NewReader([]byte("x")), 1, miniogo.PutObjectOptions{})
		if err != nil {
			st.t.Fatal(err)
		}
		return up
	}
	own := strings.Join([]string{nation, compartment, agent}, "/")
	remove := func(folder string, version bool) func(*store, *miniogo.Client) error {
		return func(st *store, client *miniogo.Client) error {
			up := victim(st, folder)
			o := miniogo.RemoveObjectOptions{}
			if version {
				o.VersionID = up.VersionID
			}
			return client.RemoveObject(st.t.Context(), st.bucket, up.Key, o)
		}
	}
	lock := func(after time.Duration) func(*store, *miniogo.Client) error {
		return func(st *store, client *miniogo.Client) error {
			mode, until := miniogo.Governance, time.Now().Add(after)
			return client.PutObjectRetention(st.t.Context(), st.bucket, victim(st, own).Key, miniogo.PutObjectRetentionOptions{
				Mode: &mode, RetainUntilDate: &until, GovernanceBypass: true,
			})
		}
	}
	missing := func(st *store, client *miniogo.Client) error {
		_, err := client.StatObject(st.t.Context(), st.bucket, own+"/pack/none", miniogo.StatObjectOptions{})
		if miniogo.ToErrorResponse(err).Code == miniogo.NoSuchKey {
			return nil
		}
		return errors.Join(errors.New("no 404"), err)
	}
	return []privilege{
		{"write its own prefix", "tallinn", all, put(own, "probe", "x")},
		{"overwrite its own entry", "tallinn", all, put(entry)},
		{"write below another agent", "tallinn", replicator, put(nation, compartment, other, "probe", "x")},
		{"write below another compartment", "tallinn", replicator, put(nation, other, agent, "x")},
		{"write a charter", "tallinn", replicator, put(nation, "charter", "x")},
		{"write for another nation", "tallinn", none, put(other, "charter", "x")},
		{"read an entry", "luxembourg", all, get(s.store("luxembourg").keys("ledger")[0], "")},
		{"read another nation", "tallinn", none, get(other+"/charter/x", "")},
		{"list the nation", "tallinn", all, list(nation+"/", false)},
		{"list the nation's versions", "tallinn", all, list(nation+"/", true)},
		{"list another nation", "tallinn", none, list(other+"/", false)},
		{"list another nation's versions", "tallinn", none, list(other+"/", true)},
		{"tell missing from forbidden", "tallinn", all, missing},
		{"delete its own", "helsinki", steward, remove(own, false)},
		{"delete in its compartment", "tallinn", steward, remove(nation+"/"+compartment+"/"+other, false)},
		{"delete a version", "tallinn", steward, remove(own, true)},
		{"delete a charter", "tallinn", none, remove(nation+"/charter", true)},
		{"delete a locked version", "luxembourg", none, remove(own, true)},
		// MinIO does not know the days that remain at a put: locks come from the
		// bucket's default, and a replicator renews them.
		{"put with a lock", "luxembourg", none, func(st *store, client *miniogo.Client) error {
			_, err := client.PutObject(st.t.Context(), st.bucket, own+"/probe/locked", strings.NewReader("x"), 1, miniogo.PutObjectOptions{
				DisableMultipart: true, Mode: miniogo.Governance, RetainUntilDate: time.Now().Add(72*time.Hour + time.Minute), SendContentMd5: true,
			})
			return err
		}},
		{"renew a lock", "luxembourg", replicator, lock(72*time.Hour + time.Minute)},
		{"shorten a lock", "luxembourg", none, lock(24 * time.Hour)},
		{"lock for a year", "luxembourg", none, lock(365 * 24 * time.Hour)},
	}
}
