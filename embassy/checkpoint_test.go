package embassy_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"embassy/embassy"
	"embassy/embassy/format"
	"embassy/targets"
)

// longPast returns a steward and another agent that backed up so often that a
// prune wrote a checkpoint, and what they forgot is deleted.
func longPast(t *testing.T) (s, n *site) {
	t.Helper()
	s = newSite(t, 2, 2)
	n = s.neighbour()
	for i := range 128 {
		s.write("day", fmt.Append(nil, "of the steward ", i/32))
		n.write("day", fmt.Append(nil, "of the other ", i/32))
		s.mustBackup(0)
		n.mustBackup(0)
	}
	return s, n
}

func TestCheckpoint(t *testing.T) {
	began := time.Now()
	s, n := longPast(t)
	t.Log(time.Since(began))
	s.forget(2, 252)
	s.prune(0)
	n.mustBackup(0)
	s.prune(0)
	t.Log(time.Since(began), s.count(0, "checkpoint"))
}

var _ = maps.Keys[map[int]int]
var _ = slices.Sorted[int]
var _ = strings.Cut
var _ atomic.Int64
var _ embassy.View
var _ format.Hash
var _ targets.Mem
