package integration_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestBadTargets backs up to two good stores and one that cannot be used: the
// run succeeds by the commit rule, names the bad one and says what to do.
func TestBadTargets(t *testing.T) {
	src := t.TempDir()
	write(t, filepath.Join(src, "file"), noise(1, mib))
	d := dataset{name: "data", sources: []string{src}}
	servers := start(t, 3)
	last := len(servers) - 1
	const readOnly = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetObject","s3:ListBucket","s3:GetBucketLocation"],"Resource":["arn:aws:s3:::*"]}]}`
	cases := []struct {
		name  string
		spoil func(t *testing.T, s *site, st *store)
		mend  func(s *site, st *store)
		init  string   // in what init prints
		says  []string // in what a backup prints
		hint  string   // what to do, in what a backup prints
	}{
		{
			name:  "no bucket",
			spoil: func(t *testing.T, _ *site, st *store) { st.server.RemoveBucket(t, st.bucket) },
			mend:  func(_ *site, st *store) { st.server.Bucket(st.t, st.bucket) },
			init:  "has no charter yet",
			says:  []string{`no bucket "`},
			hint:  "make the bucket or directory",
		},
		{
			name: "no right to write",
			spoil: func(t *testing.T, s *site, st *store) {
				access, secret, token := st.server.Restricted(t, readOnly)
				st.credentials = s.path("read-only")
				write(t, st.credentials, fmt.Appendf(nil, "[default]\naws_access_key_id = %s\naws_secret_access_key = %s\naws_session_token = %s\n", access, secret, token))
			},
			mend: func(_ *site, st *store) { st.credentials = "" },
			init: "has no charter yet",
			says: []string{"access denied"},
			hint: "check its credentials and what they may do",
		},
	}
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			for _, st := range servers {
				st.t = t
			}
			s := newSite(t, in(servers, fmt.Sprintf("case-%d", i))...)
			bad := s.stores[last]
			c.spoil(t, s, bad)
			s.configure(d)
			s.cheapKit()
			r := s.exits(0, "init")
			if !strings.Contains(r.stdout, "target "+bad.name) || !strings.Contains(r.stdout, c.init) {
				t.Errorf("init does not say that %s %s:\n%s", bad.name, c.init, r.stdout)
			}
			r = s.exits(0, "backup")
			all := r.stdout + r.stderr
			for _, text := range append(c.says, bad.name, c.hint) {
				if !strings.Contains(all, text) {
					t.Errorf("backup does not say %q:\n%s", text, all)
				}
			}
			sameStores(t, s.stores[:last])
			s.restore(d)

			s.commit = last + 1 // the rule cannot hold now
			s.configure(d)
			r = s.exits(4, "backup")
			if !strings.Contains(r.stdout, "lacks 1 more target") {
				t.Errorf("backup does not say what the rule lacks:\n%s", r.stdout)
			}
			c.mend(s, bad)
			s.configure(d)
			s.backup(0)
			sameStores(t, s.stores)
		})
	}
}

// TestOtherNationsTarget points a nation at a bucket of another one: when it
// is founded, when it backs up, signs a charter and restores. Neither nation
// loses anything.
func TestOtherNationsTarget(t *testing.T) {
	src := t.TempDir()
	write(t, filepath.Join(src, "file"), noise(1, mib))
	d := dataset{name: "data", sources: []string{src}}
	stores := start(t, 3)
	other := newSite(t, stores[2])
	other.nation = "lv"
	other.found(d)
	other.backup(0)
	theirs := stores[2].contents()

	s := newSite(t, stores[:2]...)
	s.found(d)
	s.backup(0)
	s.stores = stores
	s.configure(d)
	third := newSite(t, stores[2])
	third.nation = "lt"
	third.configure(d)
	for _, r := range []result{s.exits(0, "charter", "apply"), s.exits(0, "backup"), third.exits(1, "init")} {
		if !strings.Contains(r.stdout+r.stderr, "holds another nation") {
			t.Errorf("%q does not say what is wrong:\n%s%s", r.args, r.stdout, r.stderr)
		}
	}
	if now := stores[2].contents(); !maps.Equal(now, theirs) {
		t.Errorf("their bucket was changed:\n%v\n%v", theirs, now)
	}
	sameStores(t, stores[:2])

	s.rescue(1, stores[2:], "--to", filepath.Join(t.TempDir(), "out")).says(t, "holds another nation")
	s.restore(d)
	other.restore(d)
}

// TestMistakes makes the mistakes of people, one after another. No bucket is
// changed by any.
func TestMistakes(t *testing.T) {
	src := t.TempDir()
	write(t, filepath.Join(src, "file"), noise(1, mib))
	d := dataset{name: "data", sources: []string{src}}
	stores := start(t, 3)
	s := newSite(t, stores...)
	s.found(d, dataset{name: "nowhere", sources: []string{"/not/there", "/nor/here"}})
	s.backup(0, "data")
	before := stores[0].contents()
	wrong := s.path("wrong")
	write(t, wrong, []byte("incorrect horse battery staple\n"))
	out := filepath.Join(t.TempDir(), "out")

	unchanged := func(t *testing.T) {
		t.Helper()
		if now := stores[0].contents(); !maps.Equal(now, before) {
			t.Errorf("before:\n%v\nafter:\n%v", before, now)
		}
		sameStores(t, stores)
	}
	t.Run("wrong passphrase", func(t *testing.T) {
		for _, args := range [][]string{
			{"restore", "--passphrase-file", wrong, "--to", out, "data"},
			{"ls", "--passphrase-file", wrong, "data"},
			{"charter", "apply", "--passphrase-file", wrong},
			{"init", "--passphrase-file", wrong},
		} {
			s.exits(6, args...).says(t, "wrong passphrase")
		}
		args := []string{"--kit", s.path("kit.txt"), "--passphrase-file", wrong, "--from", stores[0].url(), "--to", out}
		s.launch(rescueProgram, args...).result().wants(t, 6).says(t, "passphrase")
		unchanged(t)
	})
	t.Run("unknown key in the configuration", func(t *testing.T) {
		good := read(t, s.path("embassy.yaml"))
		write(t, s.path("embassy.yaml"), append([]byte("tragets: []\n"), good...))
		defer write(t, s.path("embassy.yaml"), good)
		for _, args := range [][]string{{"backup"}, {"config", "check"}, {"restore", "--all", "--to", out}, {"snapshots"}} {
			s.exits(2, args...).says(t, `embassy.yaml:1:1: unknown key "tragets"`, `write "targets"`)
		}
		unchanged(t)
	})
	t.Run("every source is missing", func(t *testing.T) {
		listed := s.snapshots()
		r := s.exits(1, "backup", "nowhere")
		if text := r.stdout + r.stderr; !strings.Contains(text, "/not/there") || !strings.Contains(text, "/nor/here") {
			t.Errorf("the sources are not named:\n%s", text)
		}
		if now := s.snapshots(); !slices.Equal(now, listed) {
			t.Errorf("snapshots before %q, after %q", listed, now)
		}
		unchanged(t)
	})
	t.Run("one source is missing", func(t *testing.T) {
		gone := filepath.Join(src, "gone")
		s.configure(dataset{name: "data", sources: []string{filepath.Join(src, "file"), gone}})
		reports, _ := s.backup(3)
		if gaps := reports[0].Gaps; len(gaps) != 1 || gaps[0].Path != gone || gaps[0].Reason == "" {
			t.Errorf("gaps %+v", gaps)
		}
		r := s.exits(0, "--json", "restore", "--to", out, "data")
		var doc struct {
			Datasets []struct {
				SourceGaps []struct {
					Path string `json:"path"`
				} `json:"source_gaps"`
			} `json:"datasets"`
		}
		if err := json.Unmarshal([]byte(r.stdout), &doc); err != nil {
			t.Fatal(err)
		}
		if gaps := doc.Datasets[0].SourceGaps; len(gaps) != 1 || gaps[0].Path != gone {
			t.Errorf("the snapshot does not name %s: %+v", gone, gaps)
		}
		for key, sum := range before {
			if stores[0].contents()[key] != sum {
				t.Errorf("%s was changed", key)
			}
		}
	})
}
