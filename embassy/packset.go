package embassy

import (
	"slices"
	"sync"
)

// packSet is the set of packs that a snapshot uses.
type packSet struct {
	mu  sync.Mutex
	set map[PackNum]struct{}
}

func newPackSet() *packSet { return &packSet{set: map[PackNum]struct{}{}} }

func (s *packSet) add(packs ...PackNum) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range packs {
		s.set[n] = struct{}{}
	}
}

// sorted returns the packs in ascending order.
func (s *packSet) sorted() []PackNum {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]PackNum, 0, len(s.set))
	for n := range s.set {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}
