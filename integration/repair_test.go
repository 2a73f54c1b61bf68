package integration_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
)

// verification is what verify --json prints.
type verification struct {
	Exit    int                  `json:"exit_code"`
	Targets []verificationTarget `json:"targets"`
}

// verificationTarget is the part of a verification about one target.
type verificationTarget struct {
	Target   string `json:"target"`
	Objects  uint64 `json:"objects"`
	Read     uint64 `json:"objects_read"`
	Bad      uint64 `json:"bad"`
	Repaired uint64 `json:"repaired"`
	Damage   []struct {
		Object   string `json:"object"`
		Kind     string `json:"kind"`
		Repaired bool   `json:"repaired"`
	} `json:"damage"`
	Error string `json:"error"`
}

// verify runs verify with the exit code that must come.
func (s *site) verify(code int, args ...string) verification {
	s.t.Helper()
	r := s.exits(code, append([]string{"--json", "verify"}, args...)...)
	var doc verification
	if err := json.Unmarshal([]byte(r.stdout), &doc); err != nil {
		s.t.Fatalf("%q: %v\n%s%s", r.args, err, r.stdout, r.stderr)
	}
	return doc
}

// TestVerifyRepair flips, truncates and deletes fifty random objects over two
// of three targets. A machine without a key names them all, and mends them all
// from what is left.
func TestVerifyRepair(t *testing.T) {
	const damaged, datasets = 50, 12
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	stores := borrow(t, 3)
	s := newSite(t, stores...)
	src := t.TempDir()
	var all []dataset
	for i := range datasets {
		dir := filepath.Join(src, fmt.Sprint(i))
		write(t, filepath.Join(dir, "file"), noise(byte(i), 100_000))
		all = append(all, dataset{name: fmt.Sprintf("part-%d", i), sources: []string{dir}})
	}
	s.found(all...)
	s.backup(0)
	machine := s.replicator(true)
	if v := machine.verify(0, "--level", "full"); slices.ContainsFunc(v.Targets, func(t verificationTarget) bool { return t.Bad > 0 || t.Read < 4*datasets }) {
		t.Fatalf("before any damage: %+v", v)
	}

	type place struct {
		st  *store
		key string
	}
	var places []place
	for _, st := range stores[:2] {
		for _, key := range slices.Sorted(maps.Keys(st.list())) {
			places = append(places, place{st, key})
		}
	}
	rng.Shuffle(len(places), func(i, j int) { places[i], places[j] = places[j], places[i] })
	bad := map[string]map[string]string{stores[0].name: {}, stores[1].name: {}}
	for i, p := range places[:damaged] {
		data, _ := p.st.get(p.key)
		kind := "altered"
		switch i % 3 {
		case 0:
			data[rng.IntN(len(data))] ^= 1 << rng.IntN(8)
			p.st.put(p.key, data)
		case 1:
			kind = "cut"
			p.st.put(p.key, data[:rng.IntN(len(data))])
		case 2:
			kind = "missing"
			p.st.remove(p.key)
		}
		bad[p.st.name][p.key] = kind
	}

	check := func(v verification, repaired bool) {
		t.Helper()
		for _, at := range v.Targets {
			want := bad[at.Target]
			got := map[string]string{}
			for _, d := range at.Damage {
				got[d.Object] = d.Kind
				if d.Repaired != repaired {
					t.Errorf("%s: %+v", at.Target, d)
				}
			}
			for key, kind := range want {
				if got[key] != kind {
					t.Errorf("%s: %s is %s, and verify says %q", at.Target, key, kind, got[key])
				}
			}
			if len(got) > len(want) || at.Error != "" {
				t.Errorf("%s: more than what was damaged is told, or %q: %v", at.Target, at.Error, got)
			}
		}
	}
	check(machine.verify(5, "--level", "full"), false)
	told := machine.status(5)
	for name, keys := range bad {
		for key := range keys {
			if !slices.ContainsFunc(told.Faults, func(f fault) bool { return f.Target == name && f.Object == key }) {
				t.Errorf("status does not tell of %s on %s", key, name)
			}
		}
	}
	check(machine.verify(0, "--level", "full", "--repair"), true)
	sameStores(t, stores)
	machine.verify(0, "--level", "full")
	if told := machine.status(0); len(told.Faults) > 0 {
		t.Errorf("after the repair status tells of %+v", told.Faults)
	}
	s.fromEachAlone(stores, all...)
}
