package embassy_test

import (
	"fmt"
	"strings"
	"testing"

	"embassy/embassy"
	"embassy/embassy/format"
)

// runs makes snapshots, each of which stores one short pack more.
func (s *site) runs(from, n int) (last embassy.BackupReport) {
	s.t.Helper()
	for i := range n {
		s.write(fmt.Sprintf("run%d", from+i), random(uint64(from+i), 5000))
		last = s.mustBackup(0)
	}
	return last
}

// fetched returns an object of a target.
func (s *site) fetched(i int, name string) []byte {
	s.t.Helper()
	return s.read(s.mems[i], name)
}

// apart is a site on copies of the targets, with a copy of the state.
func (s *site) apart(t *testing.T) *site {
	c := s.clone(t)
	c.mems = nil
	for _, m := range s.mems {
		c.mems = append(c.mems, clone(t, m))
	}
	return c
}

// A prune dies once it has stored a joined pack. The next one makes another, which
// the entry lists that gives the order.
func TestJoinAfterKill(t *testing.T) {
	for _, how := range []string{"killed", "marked"} {
		t.Run(how, func(t *testing.T) {
			s := newSite(t, 2, 1)
			last := s.runs(0, 12)
			twin := s.apart(t)
			twin.joins(0, 4)
			var joined []string
			for name := range twin.objects(0) {
				if strings.Contains(name, "/pack/") && s.objects(0)[name] == 0 {
					joined = append(joined, name)
				}
			}
			if len(joined) == 0 {
				t.Fatal("nothing was joined")
			}
			chain := s.heads(s.agentID())[0].Chain
			for _, name := range joined {
				pack, err := format.Join(nil, twin.fetched(0, name))
				if err != nil || !strings.HasSuffix(name, pack.Hash.String()) {
					t.Fatal(err, name, pack.Hash)
				}
				for i := range s.mems {
					copyObject(t, twin.mems[i], s.mems[i], name)
				}
				if how == "killed" { // before the entry
					if _, err := s.catalog.AddPack(embassy.PackState{Hash: pack.Hash, Size: int64(len(pack.Data)), Chain: chain, Head: pack.Head}, nil); err != nil {
						t.Fatal(err)
					}
				}
			}
			if how == "killed" { // something else is listed first
				if _, err := s.start().Pin(t.Context(), last.Snapshot.String(), true); err != nil {
					t.Fatal(err)
				}
			} else { // nobody lists it, and it is old
				s.prune(0)
			}
			packs := s.count(0, "pack")
			for range 4 {
				s.joins(0, 4)
			}
			if n := s.count(0, "pack"); n >= packs-4 {
				t.Errorf("%d packs, were %d: what was joined is still there", n, packs)
			}
			for i := range s.mems {
				s.restore(i)
			}
			s.verified()
			s.catalog = newMemCatalog()
			if b := s.mustBackup(0); b.Packs != 0 {
				t.Errorf("with a new catalog %d packs are stored", b.Packs)
			}
		})
	}
}
