package embassy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"embassy/embassy"
	"embassy/embassy/config"
	"embassy/embassy/format"
	"embassy/targets"
)

// verify runs one process that verifies, and expects the exit code.
func (s *site) verify(exit int, o embassy.VerifyOptions) embassy.VerifyReport {
	s.t.Helper()
	rep, err := s.start().Verify(s.t.Context(), o)
	if err != nil {
		s.t.Fatal(err)
	}
	if rep.Exit != exit {
		s.t.Fatalf("exit code %d, want %d: %+v", rep.Exit, exit, rep)
	}
	return rep
}

// content returns every byte on a target.
func content(t testing.TB, m targets.Target) map[string]string {
	t.Helper()
	out := map[string]string{}
	for info, err := range m.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		out[info.Name] = string(bytesOf(t, m, info.Name))
	}
	return out
}

func bytesOf(t testing.TB, m targets.Target, name string) []byte {
	t.Helper()
	buf := targets.NewMem()
	copyObject(t, m, buf, name)
	info, err := buf.Stat(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	r, err := buf.Get(t.Context(), name, 0, info.Size)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, info.Size)
	for n := 0; n < len(data); {
		k, err := r.Read(data[n:])
		if n += k; err != nil && n < len(data) {
			t.Fatal(err)
		}
	}
	return data
}

func plant(t testing.TB, m targets.Target, name string, data []byte) {
	t.Helper()
	if err := m.Put(t.Context(), targets.Object{Name: name, Data: data, SHA256: format.HashOf(data)}); err != nil {
		t.Fatal(err)
	}
}

// holding returns the names on a target that contain what, in order.
func (s *site) holding(i int, what string) []string {
	s.t.Helper()
	var out []string
	for _, name := range slices.Sorted(maps.Keys(s.objects(i))) {
		if strings.Contains(name, what) {
			out = append(out, name)
		}
	}
	if len(out) == 0 {
		s.t.Fatalf("no %s on target %d", what, i)
	}
	return out
}

// only returns the damage that was found, which must be one, on that target.
func only(t testing.TB, rep embassy.VerifyReport, target string) embassy.Damage {
	t.Helper()
	var all []embassy.Damage
	for _, v := range rep.Targets {
		if v.Err != nil {
			t.Fatalf("target %s: %v", v.Target, v.Err)
		}
		all = append(all, v.Bad...)
	}
	if len(all) != 1 || all[0].Target != target {
		t.Fatalf("damage %+v, want one on %s", all, target)
	}
	return all[0]
}

// noFaults fails if the book holds any.
func (s *site) noFaults() {
	s.t.Helper()
	if faults, err := s.catalog.Faults(""); err != nil || len(faults) > 0 {
		s.t.Fatalf("faults %+v, %v", faults, err)
	}
}

// trust forgives a target.
func (s *site) trust(target string) {
	s.t.Helper()
	if _, err := s.start().Trust(s.t.Context(), target, "it is explained"); err != nil {
		s.t.Fatal(err)
	}
}

// threeBackups is a site on three targets whose chain has three entries.
func threeBackups(t testing.TB) *site {
	s := newSite(t, 3, 2)
	for seed := range uint64(3) {
		s.fill(seed, 4, 20_000)
		s.mustBackup(0)
	}
	s.same()
	return s
}

// Every kind of damage to every kind of object is found, named, mended byte
// for byte from another target, and forgotten. Nothing else is touched.
func TestVerifyRepairsEveryKind(t *testing.T) {
	s := threeBackups(t)
	want := content(t, s.mems[0])
	s.verify(0, embassy.VerifyOptions{Level: embassy.Full})
	s.noFaults()
	kinds := map[string]string{ // by the part of a name
		"/pack/": "pack", "/index/": "index", "/snapshot/": "snapshot", "/ledger/": "entry", "/charter/": "charter"}
	other, agent := newRepo(t, 1, "pop")
	agent.snapshot("pop", dir{"x": "y"})
	foreign := other.get(0, other.names(0, "/pack/")[0])
	for part, kind := range kinds {
		names := s.holding(1, part)
		name := names[len(names)/2] // of the ledger one in the middle
		data := bytesOf(t, s.mems[1], name)
		swapped := s.holding(1, "/snapshot/")[0]
		if swapped == name {
			swapped = s.holding(1, "/index/")[0]
		}
		for _, d := range []struct {
			how  string
			kind embassy.FaultKind
			do   func()
		}{
			{"flipped", embassy.FaultAltered, func() {
				bad := bytes.Clone(data)
				bad[len(bad)-3] ^= 1
				plant(t, s.mems[1], name, bad)
			}},
			{"cut", embassy.FaultCut, func() { plant(t, s.mems[1], name, data[:len(data)/2]) }},
			{"longer", embassy.FaultAltered, func() { plant(t, s.mems[1], name, append(bytes.Clone(data), 0)) }},
			{"missing", embassy.FaultMissing, func() {
				if err := s.mems[1].Delete(t.Context(), name); err != nil {
					t.Fatal(err)
				}
			}},
			{"another object's bytes", embassy.FaultSwapped, func() { plant(t, s.mems[1], name, bytesOf(t, s.mems[1], swapped)) }},
			{"another nation's bytes", embassy.FaultSwapped, func() { plant(t, s.mems[1], name, foreign) }},
		} {
			t.Run(kind+" "+d.how, func(t *testing.T) {
				d.do()
				found := only(t, s.verify(5, embassy.VerifyOptions{Level: embassy.Full}), "t1")
				if found.Kind != d.kind || found.Object != name || found.Repaired || found.Lost {
					t.Fatalf("found %+v", found)
				}
				if maps.Equal(content(t, s.mems[1]), want) {
					t.Fatal("mended without being asked")
				}
				if faults, _ := s.catalog.Faults("t1"); len(faults) != 1 || faults[0].Kind != d.kind || !strings.Contains(faults[0].Text, "verify --repair") {
					t.Fatalf("faults %+v", faults)
				}
				// Whatever the level, what is in the book is read.
				rep := s.verify(0, embassy.VerifyOptions{Level: embassy.Presence, Repair: true})
				if d := only(t, rep, "t1"); !d.Repaired || rep.Targets[1].Repaired != 1 {
					t.Fatalf("not mended: %+v", d)
				}
				for i, m := range s.mems {
					if !maps.Equal(content(t, m), want) {
						t.Fatalf("target %d differs", i)
					}
				}
				s.noFaults()
			})
		}
	}
}

// What lay in the place of a mended object is kept, with what it should have
// been.
func TestVerifyKeepsEvidence(t *testing.T) {
	s := threeBackups(t)
	name := s.holding(2, "/pack/")[0]
	bad := append(bytesOf(t, s.mems[2], name), "tail"...)
	plant(t, s.mems[2], name, bad)
	s.verify(0, embassy.VerifyOptions{Repair: true})
	dir := filepath.Join(s.config.StateDir, "evidence", "t2")
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 2 {
		t.Fatalf("%v, %v", files, err)
	}
	kept, err := os.ReadFile(filepath.Join(dir, files[0].Name()))
	if err != nil || !bytes.Equal(kept, bad) {
		t.Fatalf("%d bytes kept, %v", len(kept), err)
	}
	var x struct {
		Object, Fault   string
		Expected_sha256 string
		Found_sha256    string
		Size, Kept      int64
		Target          string
		Time            time.Time
	}
	text, err := os.ReadFile(filepath.Join(dir, files[1].Name()))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &x); err != nil {
		t.Fatal(err)
	}
	if x.Object != name || x.Target != "t2" || !strings.HasSuffix(name, x.Expected_sha256) || x.Found_sha256 != format.HashOf(bad).String() || x.Size != int64(len(bad)) || x.Time.IsZero() {
		t.Fatalf("%s", text)
	}
	// A folder that is full keeps no more, and the repair goes on.
	hog, err := os.Create(filepath.Join(dir, "hog"))
	if err != nil {
		t.Fatal(err)
	}
	defer hog.Close()
	if err := hog.Truncate(1 << 30); err != nil {
		t.Fatal(err)
	}
	plant(t, s.mems[2], name, bad)
	s.verify(0, embassy.VerifyOptions{Repair: true})
	if files, err = os.ReadDir(dir); err != nil || len(files) != 3 {
		t.Fatalf("%v, %v", files, err)
	}
	if !slices.ContainsFunc(s.findings, func(f embassy.Finding) bool { return strings.Contains(f.String(), "are not kept") }) {
		t.Fatalf("nobody was told: %v", s.findings)
	}
	s.same()
}

// A bad copy mends nothing. What no target has whole is lost, named with its
// snapshots, and nothing is written.
func TestVerifyNeverFromABadCopy(t *testing.T) {
	s := threeBackups(t)
	name := s.holding(1, "/pack/")[0]
	good := bytesOf(t, s.mems[0], name)
	bad := bytes.Clone(good)
	bad[100] ^= 1
	plant(t, s.mems[0], name, bad)
	plant(t, s.mems[2], name, bad)
	if err := s.mems[1].Delete(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	before := content(t, s.mems[0])
	rep := s.verify(5, embassy.VerifyOptions{Level: embassy.Full, Repair: true})
	for i, v := range rep.Targets {
		if v.Lost != 1 || v.Repaired != 0 || len(v.Bad) != 1 || !v.Bad[0].Lost {
			t.Fatalf("target %d: %+v", i, v)
		}
	}
	if len(rep.Lost) != 1 || rep.Lost[0].Object != name || rep.Lost[0].Seq == 0 || len(rep.Lost[0].Hits) == 0 || !strings.HasPrefix(rep.Lost[0].Hits[0], "population of ") {
		t.Fatalf("lost %+v", rep.Lost)
	}
	if !maps.Equal(content(t, s.mems[0]), before) || !maps.Equal(content(t, s.mems[2]), before) {
		t.Fatal("something was written")
	}
	// One good copy comes back, on the target asked last: the others follow.
	plant(t, s.mems[2], name, good)
	s.verify(0, embassy.VerifyOptions{Repair: true})
	s.same()
	if !bytes.Equal(bytesOf(t, s.mems[0], name), good) {
		t.Fatal("not mended")
	}
	s.noFaults()
}

// A target that shows less than it showed gets back what it once showed, in
// the commit order, and is trusted again when people say so.
func TestVerifyRollback(t *testing.T) {
	t.Parallel() // it waits
	s := newSite(t, 3, 2)
	s.fill(0, 4, 20_000)
	s.mustBackup(0)
	old := clone(t, s.mems[1])
	var second, third map[string]int64 // what was there after each backup
	for seed := uint64(1); seed < 4; seed++ {
		s.fill(seed, 4, 20_000)
		s.mustBackup(0)
		switch seed {
		case 1:
			second = s.objects(0)
		case 2:
			third = s.objects(0)
		}
	}
	s.mems[1] = old
	rep := s.verify(5, embassy.VerifyOptions{})
	if faults, _ := s.catalog.Faults("t1"); !slices.ContainsFunc(faults, func(f embassy.Fault) bool { return f.Kind == embassy.FaultRollback }) {
		t.Fatalf("no rollback: %+v", faults)
	}
	if rep.Targets[1].Unmended() < 9 || rep.Targets[0].BadTotal+rep.Targets[2].BadTotal > 0 {
		t.Fatalf("%+v", rep)
	}
	var mu sync.Mutex
	var puts []string
	s.wrap = func(i int, tgt targets.Target) targets.Target {
		return &targets.Faulty{Target: tgt, Before: func(op targets.Op, name string) error {
			mu.Lock()
			defer mu.Unlock()
			if op == targets.OpPut {
				puts = append(puts, name)
			}
			return nil
		}}
	}
	s.verify(5, embassy.VerifyOptions{Repair: true})
	s.same()
	if faults, _ := s.catalog.Faults(""); len(faults) != 1 || faults[0].Kind != embassy.FaultRollback || !strings.Contains(faults[0].Text, "shows all again since") {
		t.Fatalf("faults %+v", faults)
	}
	s.trust("t1")
	s.verify(0, embassy.VerifyOptions{})
	s.noFaults()
	first := slices.IndexFunc(puts, func(n string) bool { return strings.Contains(n, "/ledger/") })
	if tail := puts[first:]; len(tail) != 3 || !slices.IsSorted(tail) {
		t.Fatalf("not in the commit order: %v", puts)
	}
	// What comes after a lost object is held back: no entry claims too much.
	s.wrap = nil
	entries := s.holding(1, "/ledger/")
	i := slices.IndexFunc(slices.Sorted(maps.Keys(third)), func(n string) bool { return strings.Contains(n, "/pack/") && second[n] == 0 })
	lost := slices.Sorted(maps.Keys(third))[i]
	for i, m := range s.mems {
		gone := []string{lost}
		if i == 1 {
			gone = append(gone, entries[1:]...)
		}
		for _, name := range gone {
			if err := m.Delete(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
	}
	rep = s.verify(5, embassy.VerifyOptions{Repair: true})
	if left := s.holding(1, "/ledger/"); !slices.Equal(left, entries[:2]) || rep.Targets[1].Lost != 1 {
		t.Fatalf("%d entries are there: %+v", len(left), rep.Targets[1])
	}
}

// A name in the middle of a chain that vanished is a loss, not a rollback, also
// for a machine that looks for the first time and holds no key.
func TestVerifyKeyless(t *testing.T) {
	s := threeBackups(t)
	middle := s.holding(1, "/ledger/")[1]
	pack := s.holding(2, "/pack/")[0]
	if err := s.mems[1].Delete(t.Context(), middle); err != nil {
		t.Fatal(err)
	}
	bad := bytesOf(t, s.mems[2], pack)
	bad[5] ^= 1
	plant(t, s.mems[2], pack, bad)
	key := format.NationKey{
		Nation: format.NationID(s.root.Signer().Verifier(), s.root.Identity().Recipient()), Signer: s.root.Signer().Verifier()}
	cat := newMemCatalog()
	open := func() *embassy.Service {
		svc, err := embassy.New(embassy.Options{
			Site:    &config.Config{NationKey: key, Targets: s.config.Targets, StateDir: filepath.Join(t.TempDir(), "none")},
			Members: s.members(), Catalog: cat,
		})
		if err != nil {
			t.Fatal(err)
		}
		return svc
	}
	rep, err := open().Verify(t.Context(), embassy.VerifyOptions{Level: embassy.Full, Repair: true})
	if err != nil || rep.Exit != 0 || rep.Targets[1].Repaired != 1 || rep.Targets[1].Bad[0].Kind != embassy.FaultMissing || rep.Targets[2].Repaired != 1 {
		t.Fatalf("%+v, %v", rep, err)
	}
	s.same()
	if !bytes.Equal(bytesOf(t, s.mems[2], pack), bytesOf(t, s.mems[0], pack)) {
		t.Fatal("not mended")
	}
	v, ok, err := open().LastVerified("t2")
	if err != nil || !ok || v.Level != "full" || v.Read != rep.Targets[2].Listed-1 || v.Repaired != 1 || v.Time.IsZero() {
		t.Fatalf("%+v, %t, %v", v, ok, err)
	}
	if runs, err := cat.Runs("", 1); err != nil || len(runs) != 1 || runs[0].Kind != "verify" || !strings.Contains(runs[0].Note, "2 mended") {
		t.Fatalf("%+v, %v", runs, err)
	}
	if _, err := open().Verify(t.Context(), embassy.VerifyOptions{Level: embassy.Decrypt}); !errors.Is(err, embassy.ErrNoReader) {
		t.Fatal(err)
	}
}

// service is a machine without keys beside the repo's nation.
func (r *repo) service(cat embassy.Catalog) *embassy.Service {
	r.t.Helper()
	key := format.NationKey{Nation: r.nation, Signer: r.root.Signer().Verifier()}
	cfg := &config.Config{NationKey: key, StateDir: r.t.TempDir()}
	for _, m := range r.members {
		cfg.Targets = append(cfg.Targets, config.Target{Name: m.Name})
	}
	svc, err := embassy.New(embassy.Options{Site: cfg, Members: r.members, Catalog: cat})
	r.must(err)
	return svc
}

// Twenty runs of 5 % read every object once, each target by its own count.
func TestVerifySampleRotates(t *testing.T) {
	r, a := newRepo(t, 2, "pop")
	for i := range 150 {
		a.add(format.KindRecord, random(uint64(i), 50))
	}
	a.entry(format.Entry{})
	var mu sync.Mutex
	reads := map[string]int{}
	r.through(0, func(tgt targets.Target) targets.Target {
		return &targets.Faulty{Target: tgt, Before: func(op targets.Op, name string) error {
			mu.Lock()
			defer mu.Unlock()
			if op == targets.OpGet && strings.Contains(name, "/record/") {
				reads[name]++
			}
			return nil
		}}
	})
	cat := newMemCatalog()
	for run := range uint64(20) {
		if len(reads) == 150 {
			t.Fatalf("everything was read after %d runs", run)
		}
		rep, err := r.service(cat).Verify(t.Context(), embassy.VerifyOptions{Level: embassy.Sample})
		r.must(err)
		if v := rep.Targets[0]; rep.Exit != 0 || v.Class != run || v.Classes != 20 || v.Listed != 152 {
			t.Fatalf("run %d: %+v", run, v)
		}
		if run == 3 { // a run that did not end counts for nothing
			r.members[0].Target = dead(r.mems[0])
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			rep, err := r.service(cat).Verify(ctx, embassy.VerifyOptions{Level: embassy.Sample, Targets: []string{"t0"}})
			cancel()
			if err != nil || rep.Exit != 4 {
				t.Fatalf("%+v, %v", rep, err)
			}
			r.through(0, func(tgt targets.Target) targets.Target {
				return &targets.Faulty{Target: tgt, Before: func(op targets.Op, name string) error {
					mu.Lock()
					defer mu.Unlock()
					if op == targets.OpGet && strings.Contains(name, "/record/") {
						reads[name]++
					}
					return nil
				}}
			})
		}
	}
	if len(reads) != 150 {
		t.Fatalf("%d of 150 objects were read", len(reads))
	}
	for name, n := range reads {
		if n != 1 {
			t.Fatalf("%s was read %d times", name, n)
		}
	}
}

// endless lists names without end in one folder.
type endless struct {
	targets.Target
	folder string
}

func (e endless) List(ctx context.Context, prefix string) iter.Seq2[targets.Info, error] {
	return func(yield func(targets.Info, error) bool) {
		for info, err := range e.Target.List(ctx, prefix) {
			if !yield(info, err) {
				return
			}
		}
		for i := 0; prefix == e.folder; i++ {
			if !yield(targets.Info{Name: fmt.Sprintf("%s~%020d", prefix, i), Size: 1}, ctx.Err()) {
				return
			}
		}
	}
}

// Hosts that answer wrongly without having altered what they store.
func TestVerifyHostileAnswers(t *testing.T) {
	s := threeBackups(t)
	packs := s.holding(0, "/pack/")
	folder := packs[0][:strings.Index(packs[0], "/pack/")+len("/pack/")]
	reading := func(data func(name string, offset int64, data []byte) []byte) func(i int, tgt targets.Target) targets.Target {
		return func(i int, tgt targets.Target) targets.Target {
			if i != 1 {
				return tgt
			}
			return &targets.Faulty{Target: tgt, Data: data}
		}
	}
	for name, d := range map[string]struct {
		wrap func(i int, tgt targets.Target) targets.Target
		want map[embassy.FaultKind]int
	}{
		"two packs swapped": {func(i int, tgt targets.Target) targets.Target {
			if i != 1 {
				return tgt
			}
			m := clone(t, s.mems[1])
			x, y := bytesOf(t, m, packs[0]), bytesOf(t, m, packs[1])
			plant(t, m, packs[0], y)
			plant(t, m, packs[1], x)
			return m
		}, map[embassy.FaultKind]int{embassy.FaultSwapped: 2}},
		"cut short": {reading(func(name string, _ int64, data []byte) []byte {
			if name == packs[0] {
				return data[:len(data)/2]
			}
			return data
		}), map[embassy.FaultKind]int{embassy.FaultCut: 1}},
		"endless object": {reading(func(name string, _ int64, data []byte) []byte {
			if name == packs[0] {
				return bytes.Repeat(data, 3) // what comes first is right
			}
			return data
		}), nil},
		"endless list": {func(i int, tgt targets.Target) targets.Target {
			if i != 1 {
				return tgt
			}
			return endless{tgt, folder}
		}, map[embassy.FaultKind]int{embassy.FaultForged: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			s.wrap = d.wrap
			s.catalog = newMemCatalog()
			rep, err := s.start().Verify(t.Context(), embassy.VerifyOptions{Level: embassy.Full})
			if err != nil {
				t.Fatal(err)
			}
			got := map[embassy.FaultKind]int{}
			for _, b := range rep.Targets[1].Bad {
				got[b.Kind]++
			}
			if !maps.Equal(got, d.want) || rep.Targets[1].Err != nil || (rep.Exit == 5) != (len(d.want) > 0) {
				t.Fatalf("%v: %+v", got, rep)
			}
		})
	}
}

// Credentials that may not write leave everything as it is, and go on reading.
func TestVerifyRepairDenied(t *testing.T) {
	s := threeBackups(t)
	for _, name := range s.holding(1, "/pack/")[:2] {
		if err := s.mems[1].Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	before := content(t, s.mems[1])
	s.wrap = func(i int, tgt targets.Target) targets.Target {
		return &targets.Faulty{Target: tgt, Before: func(op targets.Op, name string) error {
			if op == targets.OpPut {
				return targets.ErrDenied
			}
			return nil
		}}
	}
	rep := s.verify(5, embassy.VerifyOptions{Level: embassy.Full, Repair: true})
	if v := rep.Targets[1]; v.Err != nil || v.Unmended() != 2 || v.Lost != 0 || v.Read != v.Listed-2 {
		t.Fatalf("%+v", v)
	}
	if !maps.Equal(content(t, s.mems[1]), before) {
		t.Fatal("something was written")
	}
}

// A repair dies at every operation on a target, once before it happens and
// once right after. Then nothing lies anywhere but what lay there before or
// belongs there, whatever a target claims restores from it, and the next run
// mends all.
func TestVerifyRepairCrashAtEveryStep(t *testing.T) {
	if testing.Short() {
		t.Skip("crashes at every step: left out with -short")
	}
	synctest.Test(t, repairCrashesAtEveryStep) // a list that may lag is asked for again, after a pause
}

func repairCrashesAtEveryStep(t *testing.T) {
	s := newSite(t, 3, 2)
	s.fill(0, 2, 3000)
	s.mustBackup(0)
	old := clone(t, s.mems[2])
	for seed := uint64(1); seed < 3; seed++ {
		s.fill(seed, 2, 3000)
		s.mustBackup(0)
	}
	whole3 := content(t, s.mems[0])
	intact := s.mems
	for _, after := range []bool{false, true} {
		for steps, done := 0, false; !done; steps++ {
			s.catalog, s.wrap, s.mems = newMemCatalog(), nil, nil
			for _, m := range intact {
				s.mems = append(s.mems, clone(t, m))
			}
			s.verify(0, embassy.VerifyOptions{}) // learns how far each target is
			pack, entry := s.holding(1, "/pack/")[0], s.holding(1, "/ledger/")[1]
			flipped := bytesOf(t, s.mems[1], pack)
			flipped[9] ^= 1
			plant(t, s.mems[1], pack, flipped)
			if err := s.mems[1].Delete(t.Context(), entry); err != nil {
				t.Fatal(err)
			}
			s.mems[2] = clone(t, old)
			before := []map[string]string{content(t, s.mems[0]), content(t, s.mems[1]), content(t, s.mems[2])}

			ctx, cancel := context.WithCancel(t.Context())
			f := &fuse{left: steps, after: after, cancel: cancel}
			s.wrap = f.wrap
			_, err := s.start().Verify(ctx, embassy.VerifyOptions{Level: embassy.Full, Repair: true})
			cancel()
			if done = !f.blown; f.blown && err == nil {
				t.Fatalf("after=%v step %d: a killed run reports success", after, steps)
			}
			s.wrap = nil
			written := false
			for i, m := range s.mems {
				now := content(t, m)
				for name, data := range now {
					if data != whole3[name] && data != before[i][name] {
						t.Fatalf("after=%v step %d: target %d: %s is neither old nor right", after, steps, i, name)
					}
				}
				written = written || !maps.Equal(now, before[i])
			}
			if !written && !done && steps%8 > 0 {
				continue // it died while it read
			}
			v, err := s.view(2)
			if err != nil {
				t.Fatal(err)
			}
			for _, snap := range v.Snapshots("") {
				whole(t, v, snap)
			}
			s.verify(5, embassy.VerifyOptions{Level: embassy.Full, Repair: true})
			for i, m := range s.mems {
				if !maps.Equal(content(t, m), whole3) {
					t.Fatalf("after=%v step %d: target %d is not mended", after, steps, i)
				}
			}
			s.trust("t2") // it was rolled back
			s.noFaults()
			if done && steps < 40 {
				t.Fatalf("only %d steps: the fuse does not burn", steps)
			}
			if done {
				t.Logf("after=%v: %d steps", after, steps)
			}
		}
	}
}

// keys opens everything with the repo's root.
func (r *repo) keys() *embassy.Keys {
	r.t.Helper()
	charter, _, err := embassy.FindCharter(r.t.Context(), r.members, r.nation, r.root.Signer().Verifier(), nil)
	r.must(err)
	keys, err := embassy.RootKeys(charter, r.root)
	r.must(err)
	return keys
}

// What a captured agent wrote hashes right, and only a reader can tell.
func TestVerifyDecryptHostileAgent(t *testing.T) {
	for name, d := range map[string]struct {
		do   func(r *repo, a *agent)
		want string // in the name of what is bad; empty: nothing is
	}{
		"honest": {func(r *repo, a *agent) { a.snapshot("pop", dir{"x": "y", "d": dir{"z": random(1, 9000)}}) }, ""},
		"chunk under another's id": {func(r *repo, a *agent) {
			a.named(format.DataChunk, r.writer.Hasher().ID([]byte("promised")), []byte("delivered"))
			a.snapshot("pop", dir{"x": "promised"})
		}, "/pack/"},
		"index of another pack": {func(r *repo, a *agent) {
			a.chunk(format.DataChunk, []byte("one"))
			a.seal()
			first := a.heads[0]
			a.chunk(format.DataChunk, []byte("two"))
			a.seal()
			// The second pack's hash and size before the first one's directory.
			a.heads = [][]byte{append(bytes.Clone(a.heads[1][:40]), first[40:]...)}
			a.snapshot("pop", dir{"x": "y"})
		}, "/index/"},
		"tree that names what is nowhere": {func(r *repo, a *agent) {
			a.chunks[r.writer.Hasher().ID([]byte("nowhere"))] = true // so it stores nothing
			a.snapshot("pop", dir{"x": "nowhere"})
		}, "/snapshot/"},
	} {
		t.Run(name, func(t *testing.T) {
			r, a := newRepo(t, 2, "pop")
			d.do(r, a)
			cat := newMemCatalog()
			rep, err := r.service(cat).Verify(t.Context(), embassy.VerifyOptions{Level: embassy.Full})
			if err != nil || rep.Exit != 0 {
				t.Fatalf("full: %+v, %v", rep, err)
			}
			rep, err = r.service(cat).Verify(t.Context(), embassy.VerifyOptions{Level: embassy.Decrypt, Keys: r.keys(), Repair: true})
			r.must(err)
			for _, v := range rep.Targets {
				switch {
				case v.Err != nil || v.Repaired > 0:
					t.Fatalf("%+v", v)
				case d.want == "" && (v.BadTotal > 0 || rep.Exit != 0 || len(v.Harmed) > 0):
					t.Fatalf("%+v", v)
				case d.want != "" && (rep.Exit != 5 || len(v.Bad) == 0 || v.Bad[0].Kind != embassy.FaultUnsound || !strings.Contains(v.Bad[0].Object, d.want)):
					t.Fatalf("exit code %d: %+v", rep.Exit, v)
				}
			}
			faults, err := cat.Faults("")
			if err != nil || (len(faults) > 0) != (d.want != "") || len(faults) > 0 && faults[0].Target != "" {
				t.Fatalf("%+v, %v", faults, err)
			}
		})
	}
}

// With a pack gone from one target, a reader learns which snapshots that
// target alone no longer gives; with it gone from all, what is lost.
func TestVerifyDecryptHarm(t *testing.T) {
	r, a := newRepo(t, 2, "pop")
	a.snapshot("pop", dir{"old": random(1, 3000)})
	packs := r.names(0, "/pack/")
	a.snapshot("pop", dir{"new": random(2, 3000)})
	r.must(r.mems[0].Delete(t.Context(), packs[0]))
	cat := newMemCatalog()
	o := embassy.VerifyOptions{Level: embassy.Decrypt, Keys: r.keys()}
	rep, err := r.service(cat).Verify(t.Context(), o)
	r.must(err)
	if v := rep.Targets[0]; rep.Exit != 5 || len(v.Harmed) != 1 || !strings.Contains(v.Harmed[0], "pop of ") || v.BadTotal != 1 || len(rep.Lost) != 0 {
		t.Fatalf("%+v", v)
	}
	if v := rep.Targets[1]; v.BadTotal != 0 || len(v.Harmed) != 0 {
		t.Fatalf("%+v", v)
	}
	r.must(r.mems[1].Delete(t.Context(), packs[0]))
	rep, err = r.service(cat).Verify(t.Context(), o)
	r.must(err)
	if rep.Exit != 5 || len(rep.Lost) != 1 || len(rep.Lost[0].Hits) == 0 {
		t.Fatalf("%+v", rep.Lost)
	}
}

// Nothing outside a valid ledger is ever written, whatever lies on a target.
func TestVerifyRepairsOnlyWhatIsListed(t *testing.T) {
	s := threeBackups(t)
	folder := filepath.Dir(s.holding(0, "/snapshot/")[0])
	junk := []byte("nobody listed me")
	name := folder + "/" + format.HashOf(junk).String()
	plant(t, s.mems[0], name, junk)
	s.verify(0, embassy.VerifyOptions{Level: embassy.Full, Repair: true})
	if _, err := s.mems[1].Stat(t.Context(), name); !errors.Is(err, targets.ErrNotFound) {
		t.Fatalf("it was copied: %v", err)
	}
	if _, err := os.Stat(filepath.Join(s.config.StateDir, "evidence")); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal("evidence without damage")
	}
	if _, err := s.start().Verify(t.Context(), embassy.VerifyOptions{Targets: []string{"nope"}}); !errors.Is(err, embassy.ErrUnknownTarget) {
		t.Fatal(err)
	}
}

// Where a target keeps versions, what was overwritten or hidden counts as bad,
// and is mended from what lies below if no other target has it.
func TestVerifyOlderVersions(t *testing.T) {
	s := newSite(t, 2, 1)
	versioned := targets.NewMemWith(targets.MemOptions{Versioning: true})
	for name := range s.objects(0) {
		copyObject(t, s.mems[0], versioned, name)
	}
	s.mems[0] = versioned
	for seed := range uint64(2) {
		s.fill(seed, 4, 20_000)
		s.mustBackup(0)
	}
	want := content(t, versioned)
	pack, hidden := s.holding(0, "/pack/")[0], s.holding(0, "/snapshot/")[0]
	bad := []byte(want[pack])
	bad[7] ^= 1
	for _, m := range s.mems {
		plant(t, m, pack, bad)
		if err := m.Delete(t.Context(), hidden); err != nil {
			t.Fatal(err)
		}
	}
	rep := s.verify(5, embassy.VerifyOptions{Level: embassy.Full})
	for _, v := range rep.Targets {
		if v.BadTotal != 2 || v.Lost != 0 {
			t.Fatalf("%+v", v)
		}
	}
	s.verify(0, embassy.VerifyOptions{Level: embassy.Full, Repair: true})
	for i, m := range s.mems {
		if !maps.Equal(content(t, m), want) {
			t.Fatalf("target %d differs", i)
		}
	}
	s.noFaults()
}
