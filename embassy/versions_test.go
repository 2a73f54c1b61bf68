package embassy_test

import (
	"context"
	"errors"
	"io"
	"iter"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"embassy/embassy"
	"embassy/embassy/format"
	"embassy/targets"
)

// withVersions returns a target that holds the same, and keeps versions.
func withVersions(t *testing.T, from *targets.Mem) *targets.Mem {
	t.Helper()
	to := targets.NewMemWith(targets.MemOptions{Versioning: true})
	for info, err := range from.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		copyObject(t, from, to, info.Name)
	}
	return to
}

// keepVersions makes the first target one that keeps versions.
func (r *repo) keepVersions() {
	r.mems[0] = withVersions(r.t, r.mems[0])
	r.members[0] = r.member(0, r.mems[0])
}

// versionDamages are what captured credentials can do to an object.
func versionDamages() map[string]func(r *repo, i int, name string) {
	all := maps.Clone(damages)
	all["altered, then hidden"] = func(r *repo, i int, name string) {
		damages["flipped"](r, i, name)
		damages["missing"](r, i, name)
	}
	all["hidden, then made up"] = func(r *repo, i int, name string) {
		damages["missing"](r, i, name)
		r.putOn(i, name, []byte("made up"))
	}
	all["buried"] = func(r *repo, i int, name string) {
		size := len(r.get(i, name))
		for n := range 100 {
			data := make([]byte, size)
			data[0] = byte(n)
			r.putOn(i, name, data)
		}
	}
	return all
}

// TestOlderVersions restores from a single target on which every object of a
// kind was overwritten or hidden.
func TestOlderVersions(t *testing.T) {
	want := map[string][]byte{"a": random(1, 100_000), "b/c": []byte("small")}
	tree := dir{"a": want["a"], "b": dir{"c": want["b/c"]}}
	for _, kind := range []string{"/charter/", "/ledger/", "/index/", "/snapshot/", "/pack/"} {
		for how, damage := range versionDamages() {
			t.Run(kind+how, func(t *testing.T) {
				r, a := newRepo(t, 1, "pop")
				r.keepVersions()
				a.snapshot("pop", tree)
				names := r.names(0, kind)
				for _, name := range names {
					damage(r, 0, name)
				}
				var f findings
				to := t.TempDir()
				rep, err := r.restore(&f, embassy.RestoreOptions{To: to}, "pop")
				if err != nil {
					t.Fatalf("%v; %v", err, f.list)
				}
				compare(t, filepath.Join(to, "pop"), want)
				for _, name := range names {
					told := f.about("t0", name)
					if !slices.ContainsFunc(told, func(one embassy.Finding) bool { return strings.Contains(one.Err.Error(), "older version") }) {
						t.Errorf("nobody is told of %s: %v", name, told)
					}
				}
				if kind == "/pack/" && len(rep.Datasets[0].Bad) == 0 {
					t.Error("the report names no bad copy")
				}
			})
		}
	}
}

// All at once, and of a small part only, which is read in ranges.
func TestOlderVersionsOfEverything(t *testing.T) {
	big := dir{}
	want := map[string][]byte{}
	for i := range 4 {
		name := string(rune('a' + i))
		want[name] = random(uint64(i), 1_500_000)
		big[name] = want[name]
	}
	for how, damage := range damages {
		t.Run(how, func(t *testing.T) {
			r, a := newRepo(t, 1, "pop")
			r.keepVersions()
			a.snapshot("pop", big)
			for _, name := range r.names(0, "/") {
				damage(r, 0, name)
			}
			for part, files := range map[string]map[string][]byte{"": want, "b": {"b": want["b"]}} {
				to := t.TempDir()
				o := embassy.RestoreOptions{To: to}
				if part != "" {
					o.Include = []string{part}
				}
				if _, err := r.restore(&findings{}, o, "pop"); err != nil {
					t.Fatal(err)
				}
				compare(t, filepath.Join(to, "pop"), files)
			}
		})
	}
}

// A target without versions has lost what was overwritten or deleted, and
// nobody says otherwise.
func TestNoOlderVersions(t *testing.T) {
	for _, kind := range []string{"/charter/", "/ledger/", "/snapshot/", "/pack/"} {
		for how, damage := range damages {
			t.Run(kind+how, func(t *testing.T) {
				r, a := newRepo(t, 1, "pop")
				a.snapshot("pop", dir{"x": random(1, 300_000)})
				for _, name := range r.names(0, kind) {
					damage(r, 0, name)
				}
				v, err := r.view(&findings{})
				if kind == "/charter/" {
					if !errors.Is(err, embassy.ErrNoCharter) {
						t.Errorf("the charter is found: %v", err)
					}
					return
				}
				r.must(err)
				s, err := v.Pick("pop", "latest", time.Time{})
				if kind != "/pack/" {
					if err == nil {
						t.Errorf("picked %v", s)
					}
					return
				}
				r.must(err)
				if _, err := v.Restore(t.Context(), embassy.RestoreOptions{Snapshots: []embassy.SnapshotInfo{s}, To: t.TempDir()}); err == nil {
					t.Error("the restore is said to be complete")
				}
			})
		}
	}
}

// shy counts how often it is asked for versions, and may refuse.
type shy struct {
	*targets.Mem
	list, get error
	lists     atomic.Int64
	gets      atomic.Int64
}

func (s *shy) Versions(ctx context.Context, prefix string) iter.Seq2[targets.Version, error] {
	s.lists.Add(1)
	if s.list == nil {
		return s.Mem.Versions(ctx, prefix)
	}
	return func(yield func(targets.Version, error) bool) { yield(targets.Version{}, s.list) }
}

func (s *shy) GetVersion(ctx context.Context, name, id string, offset, length int64) (io.ReadCloser, error) {
	s.gets.Add(1)
	if s.get == nil {
		return s.Mem.GetVersion(ctx, name, id, offset, length)
	}
	return nil, s.get
}

// A store that refuses to show versions, or keeps none, is asked once; and it
// is not taken for one that is down.
func TestVersionsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		versioned bool
		list, get error
		lists     int64
		gets      int64
	}{
		"denied":          {versioned: true, list: targets.ErrDenied, lists: 1},
		"not implemented": {versioned: true, list: errors.ErrUnsupported, lists: 1},
		"broken":          {versioned: true, list: errBroken, lists: 1},
		"none kept":       {lists: 1},
		"bytes denied":    {versioned: true, get: targets.ErrDenied, lists: 100, gets: 1},
	} {
		t.Run(name, func(t *testing.T) {
			r, a := newRepo(t, 2, "pop")
			if c.versioned {
				r.keepVersions()
			}
			content := random(1, 300_000)
			a.snapshot("pop", dir{"x": content})
			for _, kind := range []string{"/snapshot/", "/pack/"} {
				for _, name := range r.names(0, kind) {
					damages["flipped"](r, 0, name)
				}
			}
			s := &shy{Mem: r.mems[0], list: c.list, get: c.get}
			r.through(0, func(targets.Target) targets.Target { return s })
			to := t.TempDir()
			rep, err := r.restore(&findings{}, embassy.RestoreOptions{To: to}, "pop")
			r.must(err)
			compare(t, filepath.Join(to, "pop"), map[string][]byte{"x": content})
			if s.lists.Load() > c.lists || s.gets.Load() != c.gets {
				t.Errorf("asked for versions %d times, for bytes of one %d times; want %d and %d", s.lists.Load(), s.gets.Load(), c.lists, c.gets)
			}
			if cause := r.members[0].Down(); cause != nil {
				t.Errorf("the target is taken for down: %v", cause)
			}
			if len(rep.Datasets[0].Bad) == 0 {
				t.Error("the report names no bad copy")
			}
		})
	}
}

// A replicator copies from an older version, and the damage stands in the book.
func TestReplicateFromOlderVersions(t *testing.T) {
	s := newSite(t, 2, 1)
	s.mems[0] = withVersions(t, s.mems[0])
	s.fill(1, 6, 3000)
	s.mustBackup(0)
	s.mems[1] = targets.NewMem()
	damaged := map[string]bool{}
	for name := range s.objects(0) {
		if !strings.Contains(name, "/charter/") {
			junk := []byte("junk of another size")
			if err := s.mems[0].Put(t.Context(), targets.Object{Name: name, Data: junk, SHA256: format.HashOf(junk)}); err != nil {
				t.Fatal(err)
			}
			damaged[name] = true
		}
	}
	r := s.replicator()
	rep := r.replicate(5, embassy.ReplicateOptions{})
	if rep.Targets[1].Behind != 0 || rep.Targets[1].Err != nil {
		t.Errorf("the second target: %+v", rep.Targets[1])
	}
	s.restore(0)
	s.restore(1)
	faults, err := r.catalog.Faults("t0")
	if err != nil {
		t.Fatal(err)
	}
	told := maps.Clone(damaged)
	for _, f := range faults {
		if !told[f.Object] || f.Kind.Distrusts() || !strings.Contains(f.Text, "older version") {
			t.Errorf("fault %+v", f)
		}
		delete(damaged, f.Object)
	}
	if len(damaged) > 0 {
		t.Errorf("no fault tells of %v", damaged)
	}
}

// Of what no other target has, a repair brings back the older version, whatever
// part of it was deleted besides.
func TestRepairFromOlderVersions(t *testing.T) {
	for hide := range 3 {
		s := newSite(t, 1, 1)
		s.mems[0] = withVersions(t, s.mems[0])
		s.fill(1, 6, 3000)
		s.mustBackup(0)
		before := s.objects(0)
		for i, name := range slices.Sorted(maps.Keys(before)) {
			if strings.Contains(name, "/charter/") {
				continue
			}
			junk := make([]byte, before[name]+int64(i%2))
			if err := s.mems[0].Put(t.Context(), targets.Object{Name: name, Data: junk, SHA256: format.HashOf(junk)}); err != nil {
				t.Fatal(err)
			}
			if i%3 == hide {
				if err := s.mems[0].Delete(t.Context(), name); err != nil {
					t.Fatal(err)
				}
			}
		}
		rep, err := s.replicator().start().Verify(t.Context(), embassy.VerifyOptions{Level: embassy.Full, Repair: true})
		if err != nil {
			t.Fatal(err)
		}
		if rep.Exit != 0 {
			t.Errorf("verify: %+v", rep)
		}
		if got := s.objects(0); !maps.Equal(got, before) {
			t.Errorf("the target holds %v, want %v", got, before)
		}
		s.mems[0] = clone(t, s.mems[0]) // without the versions
		s.restore(0)
	}
}
