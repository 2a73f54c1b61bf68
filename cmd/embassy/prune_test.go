package main

import (
	"strings"
	"testing"

	"embassy/embassy"
)

// What a lock keeps waits, too.
func TestPruneVerdictOfLocked(t *testing.T) {
	r := embassy.PruneReport{Targets: []embassy.PrunedTarget{{Target: "a", Locked: 8}, {Target: "b"}}}
	if got := pruneVerdict(r); !strings.HasPrefix(got, "done; 8 copies wait for the end of a lock") {
		t.Errorf("the verdict is %q", got)
	}
	if got := pruneVerdict(embassy.PruneReport{}); got != "done; nothing waits" {
		t.Errorf("the verdict is %q", got)
	}
}
