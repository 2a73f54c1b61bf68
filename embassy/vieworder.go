package embassy

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"embassy/embassy/format"
)

// maxAhead is how far ahead of this machine's clock a snapshot may be dated.
const maxAhead = 24 * time.Hour

// placed returns the snapshot's time, corrected by its place in its chain.
func (s SnapshotInfo) placed() time.Time { return time.Unix(0, s.when).UTC() }

// arrange sorts the snapshots, newest first. The order of a chain is evidence,
// and the agent's clock is not: a snapshot whose time contradicts the others
// of its chain is placed by them. What is dated after now comes last.
func (v *View) arrange() {
	type line struct {
		compartment string
		chainKey    // the first of the chains that continue one another
	}
	lines := map[line][]int{} // places in v.snapshots
	hops := make([]int, len(v.snapshots))
	for i := range v.snapshots {
		s := &v.snapshots[i]
		s.when = s.Summary.Time
		l := line{compartment: s.Compartment}
		l.chainKey, hops[i] = v.origin(s)
		lines[l] = append(lines[l], i)
	}
	for _, at := range lines {
		slices.SortFunc(at, func(i, j int) int {
			a, b := &v.snapshots[i], &v.snapshots[j]
			return cmp.Or(cmp.Compare(hops[i], hops[j]), cmp.Compare(a.Seq, b.Seq), cmp.Compare(a.when, b.when))
		})
		v.straighten(at)
	}
	limit := v.now().Add(maxAhead).UnixNano()
	rank := make(map[format.Hash]int, len(v.snapshots))
	for _, at := range lines {
		for n, i := range at {
			rank[v.snapshots[i].Hash] = n
		}
	}
	slices.SortFunc(v.snapshots, func(a, b SnapshotInfo) int {
		if af, bf := a.when > limit, b.when > limit; af != bf {
			if af {
				return 1
			}
			return -1
		}
		return cmp.Or(cmp.Compare(b.when, a.when), cmp.Compare(rank[b.Hash], rank[a.Hash]), slices.Compare(a.Hash[:], b.Hash[:]))
	})
	for i := range v.snapshots {
		if s := &v.snapshots[i]; s.when > limit {
			v.doubt(s, "dated after now, so older ones count as later; one of the clocks is wrong")
		}
	}
}

// origin returns the first of the chains that a snapshot's chain continues,
// and how many chains lie between.
func (v *View) origin(s *SnapshotInfo) (first chainKey, hops int) {
	key := chainKey{s.Agent, s.Chain}
	i := slices.IndexFunc(v.compartments, func(c *compartmentView) bool { return c.Part.Name == s.Compartment })
	seen := map[chainKey]bool{}
	for !seen[key] {
		seen[key] = true
		ch := v.compartments[i].chains[key]
		if ch == nil || len(ch.entries[1]) != 1 || len(ch.entries[1][0].Continues) == 0 {
			break
		}
		key.chain = ch.entries[1][0].Continues[0].Chain
	}
	return key, len(seen)
}

// straighten finds the fewest snapshots of a line, oldest first, that would
// make its times ascend if they were not there, and dates them as the one
// before, or else as the one behind.
func (v *View) straighten(at []int) {
	when := func(i int) int64 { return v.snapshots[at[i]].when }
	var ends []int // ends[n] ends the best ascending run of n+1
	before := make([]int, len(at))
	for i := range at {
		n, _ := slices.BinarySearchFunc(ends, when(i), func(j int, t int64) int {
			if when(j) <= t {
				return -1
			}
			return 1
		})
		before[i] = -1
		if n > 0 {
			before[i] = ends[n-1]
		}
		if n == len(ends) {
			ends = append(ends, i)
		}
		ends[n] = i
	}
	good := make([]bool, len(at))
	for i := ends[len(ends)-1]; i >= 0; i = before[i] {
		good[i] = true
	}
	last := slices.Index(good, true)
	for i := range at {
		if good[i] {
			last = i
			continue
		}
		s := &v.snapshots[at[i]]
		v.doubt(s, "whose time contradicts its place in the chain")
		s.when = when(last)
	}
}

func (v *View) doubt(s *SnapshotInfo, why string) {
	s.Doubt = why
	v.warn(Finding{Object: "snapshot " + s.Hash.String(), Err: fmt.Errorf("of dataset %s, dated %s, %s",
		s.Summary.Dataset, s.Summary.When().Format(time.RFC3339), why)})
}
