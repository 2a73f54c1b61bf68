package embassy_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"embassy/embassy"
	"embassy/embassy/format"
	"embassy/targets"
)

// denying is a store that gives none of some objects.
func denying(tgt targets.Target, denied func(name string) bool) targets.Target {
	return &targets.Faulty{Target: tgt, Before: func(op targets.Op, name string) error {
		if op == targets.OpGet && denied(name) {
			return targets.ErrDenied
		}
		return nil
	}}
}

// A host that denies one object hides nothing else with that: the loss of
// others is found. The denied one is damage, and credentials that may read
// nothing find none.
func TestVerifyDeniedObject(t *testing.T) {
	r, a := newRepo(t, 2, "pop")
	for i := range 300 {
		a.add(format.KindRecord, random(uint64(i), 50))
	}
	a.entry(format.Entry{})
	names := slices.Sorted(slices.Values(r.names(1, "/record/")))
	last := names[len(names)-1]
	r.must(r.mems[1].Delete(t.Context(), last))
	for what, denied := range map[string]func(name string) bool{
		"a record":                 func(name string) bool { return name == names[0] },
		"what is asked for first":  func(name string) bool { return strings.Contains(name, "/charter/") },
		"the only entry, repaired": func(name string) bool { return strings.Contains(name, "/ledger/") },
		"everything":               func(string) bool { return true },
	} {
		t.Run(what, func(t *testing.T) {
			cat := newMemCatalog()
			if _, err := r.service(cat).Verify(t.Context(), embassy.VerifyOptions{}); err != nil { // learns the entry
				t.Fatal(err)
			}
			r.through(1, func(tgt targets.Target) targets.Target { return denying(tgt, denied) })
			defer r.through(1, func(tgt targets.Target) targets.Target { return tgt })
			o := embassy.VerifyOptions{Level: embassy.Full, Repair: strings.HasSuffix(what, "repaired")}
			rep, err := r.service(cat).Verify(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			got := rep.Targets[1]
			if what == "everything" {
				if got.Err == nil || got.BadTotal != 0 {
					t.Fatalf("%+v", got)
				}
				return
			}
			if got.Err != nil || r.members[1].Down() != nil || rep.Exit != 5 || got.BadTotal != 2 || got.Listed != 302 {
				t.Fatalf("exit %d, %+v; down: %v", rep.Exit, got, r.members[1].Down())
			}
			for _, d := range got.Bad {
				if d.Object != last && !denied(d.Object) || d.Repaired != (o.Repair && d.Object == last) {
					t.Errorf("%+v", d)
				}
			}
			if o.Repair {
				r.must(r.mems[1].Delete(t.Context(), last))
			}
		})
	}
}

// What a repair found lost everywhere, a later look at one copy does not call mendable.
func TestLostStaysLost(t *testing.T) {
	s := newSite(t, 3, 1)
	s.wrap = onlyTo(0, 1)
	s.fill(1, 4, 30_000)
	s.mustBackup(0)
	r := s.replicator()
	r.wrap = onlyTo(0, 1)
	r.replicate(4, embassy.ReplicateOptions{})
	pack := s.one(0, "/pack/")
	whole := s.fetched(0, pack)
	for i := range 2 {
		s.put(i, pack, random(9, len(s.fetched(i, pack))))
	}
	told := func(end string) {
		t.Helper()
		for i := range 2 {
			faults, err := r.catalog.Faults(fmt.Sprintf("t%d", i))
			if err != nil || len(faults) != 1 || !strings.HasSuffix(faults[0].Text, end) {
				t.Errorf("%+v, %v", faults, err)
			}
		}
	}
	r.verify(5, embassy.VerifyOptions{Level: embassy.Full, Repair: true})
	told("no other target that answers has it whole")
	r.wrap = nil
	r.verify(5, embassy.VerifyOptions{Level: embassy.Full, Repair: true})
	told("LOST: no target has it whole")
	r.replicate(5, embassy.ReplicateOptions{})
	told("LOST: no target has it whole")
	for i := range 2 { // and once it is whole again
		s.put(i, pack, whole)
	}
	r.verify(0, embassy.VerifyOptions{Level: embassy.Full, Repair: true})
	if got := r.kinds(); len(got) != 0 {
		t.Errorf("faults %v", got)
	}
}

// The book keeps its bounds whatever lies on a target, says that there is more,
// and gets rid of forged names when they are gone.
func TestFaultsAreBounded(t *testing.T) {
	s := newSite(t, 2, 1)
	s.fill(1, 4, 3000)
	s.mustBackup(0)
	r := s.replicator()
	r.verify(0, embassy.VerifyOptions{})
	folder := s.one(0, "/ledger/")
	folder = filepath.Dir(folder)
	var junk []string
	for i := range 3 {
		data := fmt.Appendf(nil, "junk %d", i)
		name := fmt.Sprintf("%s/%016x-%s", folder, 2, format.HashOf(data))
		plant(t, s.mems[1], name, data)
		junk = append(junk, name)
	}
	r.verify(5, embassy.VerifyOptions{})
	if got := r.kinds(); got["t1 forged"] != 3 || len(got) != 1 {
		t.Fatalf("faults %v", got)
	}
	r.verify(5, embassy.VerifyOptions{}) // met again
	for i, name := range junk {
		if err := s.mems[1].Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		exit := 5
		if i == len(junk)-1 {
			exit = 0
		}
		r.verify(exit, embassy.VerifyOptions{})
		if got := r.kinds(); got["t1 forged"] != len(junk)-1-i {
			t.Fatalf("%d are gone: %v", i+1, got)
		}
	}

	repo, a := newRepo(t, 2, "pop")
	const many = 1100
	for i := range many {
		a.add(format.KindRecord, random(uint64(i), 20))
	}
	a.entry(format.Entry{})
	lost := repo.names(1, "/record/")
	for _, name := range lost {
		repo.must(repo.mems[1].Delete(t.Context(), name))
	}
	cat := newMemCatalog()
	rep, err := repo.service(cat).Verify(t.Context(), embassy.VerifyOptions{})
	if err != nil || rep.Targets[1].BadTotal != many || len(rep.Targets[1].Bad) != 1000 {
		t.Fatalf("%d bad, %v", rep.Targets[1].BadTotal, err)
	}
	faults, err := cat.Faults("t1")
	if err != nil || len(faults) != 1001 || !slices.ContainsFunc(faults, func(f embassy.Fault) bool { return f.Object == "and more" }) {
		t.Fatalf("%d faults, %v", len(faults), err)
	}
	rep, err = repo.service(cat).Verify(t.Context(), embassy.VerifyOptions{Repair: true})
	if err != nil || rep.Exit != 0 || rep.Targets[1].Repaired != many {
		t.Fatalf("exit %d, %d mended, %v", rep.Exit, rep.Targets[1].Repaired, err)
	}
	if faults, err = cat.Faults(""); err != nil || len(faults) != 0 {
		t.Fatalf("%d faults are left, the first %+v, %v", len(faults), faults[0], err)
	}
}

// A fault that was known, and is met again and not mended, is no success; one
// of a target that the run is not about says nothing of it.
func TestKnownFaultMetAgain(t *testing.T) {
	s := newSite(t, 3, 1)
	s.fill(1, 4, 3000)
	s.mustBackup(0)
	pack := s.one(0, "/pack/")
	plant(t, s.mems[0], pack, make([]byte, s.objects(0)[pack]))
	s.mems[2] = targets.NewMem()
	r := s.replicator()
	for range 2 {
		r.replicate(5, embassy.ReplicateOptions{})
		s.mems[2] = targets.NewMem()
		r.mems = s.mems
		r.trust("t2")
	}
	r.verify(5, embassy.VerifyOptions{Level: embassy.Full})
	r.verify(0, embassy.VerifyOptions{Level: embassy.Full, Targets: []string{"t1"}})
	r.verify(0, embassy.VerifyOptions{Level: embassy.Full, Repair: true})
	r.replicate(0, embassy.ReplicateOptions{})
}

// What a writer made unsound is acknowledged by chain, or by object, and does
// not come back.
func TestTrustUnsound(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	for _, text := range []string{"promised", "this as well"} {
		a.named(format.DataChunk, r.writer.Hasher().ID([]byte(text)), []byte("delivered instead of "+text))
		a.snapshot("pop", dir{"x": text})
	}
	cat := newMemCatalog()
	verify := func() {
		t.Helper()
		if rep, err := r.service(cat).Verify(t.Context(), embassy.VerifyOptions{Level: embassy.Decrypt, Keys: r.keys()}); err != nil || rep.Exit != 5 {
			t.Fatalf("%+v, %v", rep, err)
		}
	}
	faults := func(n int) []embassy.Fault {
		t.Helper()
		all, err := cat.Faults("")
		if err != nil || len(all) != n {
			t.Fatalf("%d faults, want %d: %+v, %v", len(all), n, all, err)
		}
		return all
	}
	verify()
	all := faults(2)
	if !strings.Contains(all[0].Text, a.scope.Chain.String()) {
		t.Errorf("the chain is not named: %s", all[0].Text)
	}
	for _, nothing := range []string{"", "zz", all[0].Object + "0"} {
		if got, err := r.service(cat).TrustChain(nothing, "why not"); err == nil {
			t.Fatalf("%q: %+v", nothing, got)
		}
	}
	if got, err := r.service(cat).TrustChain(all[0].Object, "seen"); err != nil || len(got) != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	verify()
	faults(1)
	if got, err := r.service(cat).TrustChain(a.scope.Chain.String()[:8], "the agent was captured"); err != nil || len(got) != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	verify()
	faults(0)
}

// A target that cannot lock at all is not one whose locks are fine.
func TestLockDueWithoutLocks(t *testing.T) {
	s := newLockSite(t, targets.MemOptions{Locks: true})
	due := func(want ...bool) {
		t.Helper()
		svc := s.start()
		st, err := svc.Status(t.Context(), false)
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range want {
			if st.Targets[i].LockDue != want {
				t.Errorf("%s is due: %t, %+v", st.Targets[i].Name, !want, st.Targets[i].Locked)
			}
		}
	}
	due(false, false, false) // another machine may do it
	s.renew(4)               // all is denied on t1
	due(false, true, false)
	s.wrap = func(i int, tgt targets.Target) targets.Target { return struct{ targets.Target }{tgt} } // nothing but a Target
	s.renew(4)
	due(true, true, false)
}

// Somebody with an agent's credentials writes over objects: what is locked for
// the next period is the object, and not what was put on top.
func TestRenewLocksPutsRightFirst(t *testing.T) {
	s := newLockSite(t, targets.MemOptions{Locks: true, Versioning: true})
	s.config.Targets[1].Lock.Mode = ""
	s.renew(0)
	want := content(t, s.mems[0])
	pack, index := s.holding(0, "/pack/")[0], s.holding(0, "/index/")[0]
	bad := []byte(want[pack])
	bad[5] ^= 1
	plant(t, s.mems[0], pack, bad)
	plant(t, s.mems[0], index, []byte("junk"))
	s.now = s.now.Add(20 * day)
	if v := s.renew(0).Targets[0]; v.Extended != v.Objects || v.Doubtful != 0 {
		t.Fatalf("%+v", v)
	}
	if got := content(t, s.mems[0]); got[pack] != want[pack] || got[index] != want[index] {
		t.Fatal("junk is locked")
	}
	for _, name := range []string{pack, index} {
		if l := s.lockOf(name); !l.Until.Equal(s.now.Add(30 * day)) {
			t.Fatalf("%s: %+v", name, l)
		}
	}
	s.noFaults()
	// What nobody may put right is told, and not booked as locked.
	plant(t, s.mems[0], pack, bad)
	s.wrap = func(i int, tgt targets.Target) targets.Target {
		return &targets.Faulty{Target: tgt, Before: func(op targets.Op, _ string) error {
			if op == targets.OpPut {
				return targets.ErrDenied
			}
			return nil
		}}
	}
	s.now = s.now.Add(20 * day)
	if v := s.renew(4).Targets[0]; v.Extended != v.Objects-1 || v.Doubtful != 1 {
		t.Fatalf("%+v", v)
	}
	if got := s.kinds(); got["t0 altered"] != 1 {
		t.Fatalf("faults %v", got)
	}
}
