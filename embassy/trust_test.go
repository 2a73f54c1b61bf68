package embassy_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"embassy/embassy"
)

// TestTrust empties a target, and forgives it.
func TestTrust(t *testing.T) {
	t.Parallel() // it waits
	s := newSite(t, 2, 2)
	s.fill(1, 3, 1000)
	s.mustBackup(0)
	if _, err := s.start().CheckTargets(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	for name := range s.objects(1) {
		if err := s.mems[1].Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	s.fill(2, 3, 1000)
	s.mustBackup(5)
	if faults, err := s.catalog.Faults("t1"); err != nil || len(faults) == 0 {
		t.Fatalf("the rollback is in no book: %v", err)
	}
	day := time.Now().Add(-24 * time.Hour)
	for _, f := range []embassy.Fault{
		{Target: "t0", Kind: embassy.FaultMissing, Object: "a", First: day, Last: day},
		{Target: "t1", Kind: embassy.FaultMissing, Object: "b", First: day, Last: day},
	} {
		if err := s.catalog.AddFault(f); err != nil {
			t.Fatal(err)
		}
	}
	for _, bad := range []struct {
		target, reason string
		want           error
	}{{"t1", "", embassy.ErrNoReason}, {"t1", " \n", embassy.ErrNoReason}, {"t9", "why not", embassy.ErrUnknownTarget}} {
		if _, err := s.start().Trust(t.Context(), bad.target, bad.reason); !errors.Is(err, bad.want) {
			t.Errorf("trust %q %q: %v", bad.target, bad.reason, err)
		}
	}
	forgiven, err := s.start().Trust(t.Context(), "t1", "the disk\nwas replaced")
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[embassy.FaultKind]embassy.Fault{}
	for _, f := range forgiven {
		if f.Target != "t1" {
			t.Errorf("forgave %+v", f)
		}
		kinds[f.Kind] = f
	}
	if kinds[embassy.FaultRollback].First.IsZero() || !kinds[embassy.FaultMissing].First.Equal(day) {
		t.Errorf("forgave %+v", forgiven)
	}
	if left, err := s.catalog.Faults(""); err != nil || len(left) != 1 || left[0].Target != "t0" {
		t.Errorf("left: %+v, %v", left, err)
	}
	if a := s.start().Guarded("t1"); a != embassy.Unknown {
		t.Errorf("guarded: %s, after all was forgotten", a)
	}
	if a := s.start().Guarded("t0"); a != embassy.No {
		t.Errorf("the other target is guarded: %s", a)
	}
	runs, err := s.catalog.Runs("", 100)
	if err != nil {
		t.Fatal(err)
	}
	if r := runs[0]; r.Kind != "trust" || r.Dataset != "" || !strings.Contains(r.Note, "t1: the disk was replaced") {
		t.Errorf("in the history: %+v", r)
	}
	s.mustBackup(0)
	s.same()
}
