package embassy_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"embassy/embassy"
	"embassy/targets"
)

// onlyTo makes every target but some unreachable.
func onlyTo(some ...int) func(int, targets.Target) targets.Target {
	return func(i int, t targets.Target) targets.Target {
		for _, n := range some {
			if i == n {
				return t
			}
		}
		return unreachable(i)(i, t)
	}
}

// partedSite is a site on three targets whose chain forks at entry 3: its own
// branch, of that length, is on t0 and t1, that of a clone on t2. It reaches the first
// two, and knows nothing of the clone.
func partedSite(t *testing.T, length uint64) *site {
	t.Helper()
	s := newSite(t, 3, 1)
	for seed := range uint64(2) {
		s.fill(seed, 3, 2000)
		s.mustBackup(0)
	}
	twin := s.clone(t)
	twin.wrap = onlyTo(2)
	twin.fill(9, 3, 2000)
	twin.mustBackup(0)
	s.wrap = onlyTo(0, 1)
	for seed := uint64(2); seed < length; seed++ {
		s.fill(seed, 3, 2000)
		s.mustBackup(0)
	}
	return s
}

// forkedSite is a partedSite that learned the branch of the clone first.
func forkedSite(t *testing.T, length uint64) *site {
	t.Helper()
	s := partedSite(t, length)
	s.wrap = onlyTo(2)
	s.verify(4, embassy.VerifyOptions{})
	s.noFaults()
	s.wrap = nil
	return s
}

// The machine that wrote one branch of a fork learned the other one first. Who
// showed its branch is held to what was before the fork, which is all but the
// charter here, and to nothing of the other branch.
func TestForkLeavesTheTrunkClaimed(t *testing.T) {
	for _, length := range []uint64{3, 4} { // 4: longer than what is known
		t.Run(fmt.Sprint(length), func(t *testing.T) {
			s := forkedSite(t, length)
			head := s.one(0, "/ledger/", fmt.Sprintf("/%016x-", length))
			for name := range s.objects(0) {
				if name != head && !strings.Contains(name, "/charter/") {
					if err := s.mems[0].Delete(t.Context(), name); err != nil {
						t.Fatal(err)
					}
				}
			}
			rep := s.verify(5, embassy.VerifyOptions{Level: embassy.Full})
			if lost, honest := rep.Targets[0], rep.Targets[1]; lost.Listed < 9 || lost.BadTotal != lost.Listed-1 || honest.BadTotal > 0 || honest.Listed != lost.Listed {
				t.Errorf("lost: %d of %d bad; honest: %d of %d bad: %+v", lost.BadTotal, lost.Listed, honest.BadTotal, honest.Listed, honest.Bad)
			}
			faults := s.kinds()
			if faults["t0 missing"] == 0 || faults[" fork"] != 1 || len(faults) != 2 {
				t.Errorf("faults %v", faults)
			}
		})
	}
}

// What another machine wrote on the own chain is neither a copy nor confirmed,
// also when the catalog is learned again.
func TestForkedBranchIsNoCopy(t *testing.T) {
	s := forkedSite(t, 3)
	st, err := s.start().Status(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	d := st.Datasets[0]
	if d.Copies != 2 || !d.Tiers[0].Has || !d.Tiers[1].Has || d.Tiers[2].Has || d.Tiers[2].Behind == 0 || st.Targets[2].Behind == 0 {
		t.Errorf("%d copies, tiers %+v, targets %+v", d.Copies, d.Tiers, st.Targets)
	}
	s.wrap = onlyTo(0, 1)
	s.fill(5, 3, 2000)
	if rep := s.mustBackup(5); rep.Targets[2].Head != 0 {
		t.Errorf("the report says that t2 has entry %d", rep.Targets[2].Head)
	}
	s.wrap, s.catalog = nil, newMemCatalog()
	s.fill(6, 3, 2000)
	rep := s.mustBackup(5)
	if err := rep.Targets[2].Err; err != nil || s.kinds()["t2 rollback"] > 0 || s.kinds()[" fork"] != 1 {
		t.Errorf("faults %v, t2: %v", s.kinds(), err)
	}
}

// A target confirmed an entry of which nothing else is known. It is still held
// to what is known before.
func TestReplicateTellsOfLossBelowAnUnknownHead(t *testing.T) {
	s := newSite(t, 2, 1)
	for seed := range uint64(2) {
		s.fill(seed, 3, 2000)
		s.mustBackup(0)
	}
	s.replicate(0, embassy.ReplicateOptions{})
	s.wrap = onlyTo(0)
	s.fill(2, 3, 2000)
	s.mustBackup(0)
	lost := s.one(0, "/ledger/", "/0000000000000001-")
	if err := s.mems[0].Delete(t.Context(), lost); err != nil {
		t.Fatal(err)
	}
	s.wrap = func(i int, tgt targets.Target) targets.Target {
		return &targets.Faulty{Target: tgt, Before: func(op targets.Op, name string) error {
			if i == 0 && op == targets.OpGet && strings.Contains(name, "/0000000000000003-") {
				return targets.ErrNotFound
			}
			return nil
		}}
	}
	if _, err := s.start().Replicate(t.Context(), embassy.ReplicateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := s.catalog.Fault("t0", embassy.FaultMissing, lost); err != nil || !ok {
		t.Errorf("faults %v, %v", s.kinds(), err)
	}
}

// late lets something happen when a status has opened its chains.
type late struct {
	embassy.Catalog
	once sync.Once
	do   func()
}

func (l *late) Runs(dataset string, n int) ([]embassy.Run, error) {
	l.once.Do(l.do)
	return l.Catalog.Runs(dataset, n)
}

// A status whose chain was opened before a backup appended to it knows the new
// entry for an own one.
func TestStatusBesideABackup(t *testing.T) {
	s := newSite(t, 2, 2)
	s.fill(1, 3, 2000)
	s.mustBackup(0)
	svc, err := embassy.New(embassy.Options{Site: s.config, Members: s.members(), Catalog: &late{Catalog: s.catalog, do: func() {
		s.fill(2, 3, 2000)
		s.mustBackup(0)
	}}})
	if err != nil {
		t.Fatal(err)
	}
	st, err := svc.Status(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	if d := st.Datasets[0]; d.Copies != 2 || d.Pending != nil || d.Tiers[0].Behind+d.Tiers[1].Behind > 0 {
		t.Errorf("%+v", d)
	}
}
