package embassy_test

import (
	"errors"
	"testing"

	"embassy/embassy"
	"embassy/targets"
)

// The catalog is gone. From any one target it is learned again: nothing is
// stored a second time.
func TestRebuildFromEachTarget(t *testing.T) {
	for i, name := range []string{"t0", "t1", "t2"} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, 3, 2)
			for seed := range uint64(3) {
				s.fill(seed, 4, 3000)
				s.mustBackup(0)
			}
			s.catalog = newMemCatalog()
			s.wrap = func(n int, tgt targets.Target) targets.Target {
				if n == i {
					return tgt
				}
				return unreachable(n)(n, tgt)
			}
			rep, err := s.start().Rebuild(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			if rep.Exit != 0 || rep.Entries != 3 || rep.Packs != 3 || rep.Lost != 0 || rep.Lines != 1 {
				t.Fatalf("%+v", rep)
			}
			s.wrap = nil
			if again := s.mustBackup(0); again.Packs != 0 {
				t.Errorf("%d packs stored again", again.Packs)
			}
			s.same()
		})
	}
}

func TestRebuildSaysWhatIsLost(t *testing.T) {
	s := newSite(t, 2, 1)
	s.fill(1, 4, 3000)
	s.mustBackup(0)
	if err := s.mems[0].Delete(t.Context(), s.one(0, "/index/")); err != nil {
		t.Fatal(err)
	}
	rep, err := s.start().Rebuild(t.Context(), "t0")
	if err != nil {
		t.Fatal(err)
	}
	if rep.Exit != 4 || rep.Lost != 1 || rep.Packs != 0 {
		t.Errorf("%+v", rep)
	}
	if _, err := s.start().Rebuild(t.Context(), "nowhere"); !errors.Is(err, embassy.ErrUnknownTarget) {
		t.Errorf("an unknown target: %v", err)
	}
	s.mustBackup(0)
	s.restore(1)
}
