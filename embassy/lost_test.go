package embassy_test

import (
	"strings"
	"testing"

	"embassy/embassy"
)

// A pack is gone from every target. Nobody says that all is well, and the next
// backup stores again what is still in the sources.
func TestLostPackIsStoredAgain(t *testing.T) {
	s := newSite(t, 2, 2)
	s.fill(1, 6, 3000)
	s.mustBackup(0)
	pack := s.one(0, "/pack/")
	for _, m := range s.mems {
		if err := m.Delete(t.Context(), pack); err != nil {
			t.Fatal(err)
		}
	}
	rep, err := s.start().Verify(t.Context(), embassy.VerifyOptions{Level: embassy.Full, Repair: true})
	if err != nil || rep.Exit != 5 || len(rep.Lost) != 1 {
		t.Fatalf("%+v, %v", rep, err)
	}
	status := func() embassy.Status {
		st, err := s.start().Status(t.Context(), false)
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	if st := status(); !st.Datasets[0].Lost || st.Exit() != 5 {
		t.Errorf("status: %+v", st)
	}
	if again := s.mustBackup(0); again.Packs == 0 {
		t.Error("nothing was stored again")
	}
	if st := status(); st.Datasets[0].Lost {
		t.Error("still lost")
	}
	for i := range s.mems {
		s.restore(i)
	}
	told := false
	for _, f := range s.findings {
		told = told || strings.Contains(f.String(), "stored again") && strings.Contains(f.Object, "/pack/")
	}
	if !told {
		t.Error("nobody was told")
	}
}

// A new catalog knows nothing of the targets: status asks them, and does not
// say that nothing is safe.
func TestStatusWithNewCatalogAsks(t *testing.T) {
	s := newSite(t, 3, 2)
	s.fill(1, 6, 3000)
	s.mustBackup(0)
	s.catalog = newMemCatalog()
	st, err := s.start().Status(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	if d := st.Datasets[0]; st.Exit() != 0 || d.Copies != 3 || d.Pending != nil {
		t.Errorf("%+v", st)
	}
}
