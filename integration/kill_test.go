package integration_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestKill ends a backup with kill -9 after shares of what it has to send. A
// snapshot is there already, and is the only one until the next run is through.
//
// What a kill costs, on each store: the packs that were being uploaded there,
// two at most, are lost, and packs are not filled as in one run, so that one
// more may have to be padded.
func TestKill(t *testing.T) {
	const size = 224 * mib
	const lost = (2 + 1) * packMax
	src := t.TempDir()
	d := dataset{name: "data", sources: []string{src}}
	servers := start(t, 3)
	// prepare returns a fresh nation with one small snapshot and much to back up.
	prepare := func(t *testing.T, bucket string) *site {
		for _, st := range servers {
			st.t = t
		}
		s := newSite(t, in(servers, bucket)...)
		small := dataset{name: "data", sources: []string{filepath.Join(src, "small")}}
		s.found(small)
		s.backup(0)
		s.configure(d)
		return s
	}
	write(t, filepath.Join(src, "small", "file"), noise(1, mib))
	for i := range size / (8 * mib) {
		write(t, filepath.Join(src, fmt.Sprintf("part-%d", i)), noise(byte(2+i), 8*mib))
	}

	clean := map[string]int64{}
	var total int64
	s := prepare(t, "clean")
	before := counters(s.stores)
	s.backup(0)
	for name, n := range counters(s.stores) {
		clean[name] = n - before[name]
		total += clean[name]
	}
	t.Logf("a clean run sends %v", clean)

	for i, share := range []int64{10, 50, 90} {
		t.Run(fmt.Sprintf("at %d percent", share), func(t *testing.T) {
			s := prepare(t, fmt.Sprintf("killed-%d", share))
			complete := s.snapshots()
			before, start := counters(s.stores), sent(s.stores)
			p := s.launch(embassyProgram, "backup")
			p.until(func() bool { return sent(s.stores)-start >= total*share/100 })
			p.kill()
			arrived := 0
			for _, st := range s.stores {
				arrived += len(st.keys("pack"))
			}
			t.Logf("killed after %d MiB, %d packs arrived", (sent(s.stores)-start)/mib, arrived)

			if listed := s.snapshots(); len(complete) != 1 || !slices.Equal(listed, complete) {
				t.Errorf("snapshots %q are listed, %q were complete", listed, complete)
			}
			for _, st := range s.stores {
				if r := s.rescue(0, []*store{st}, "--list"); strings.Count(r.stdout, complete[0][:16]) != 1 || strings.Count(r.stdout, "\n") != 2 {
					t.Errorf("%s lists more than snapshot %s:\n%s", st.name, complete[0], r.stdout)
				}
			}

			reports, r := s.backup(0)
			if behind := reports[0].behind(); len(behind) > 0 {
				t.Errorf("behind are %q", behind)
			}
			for name, n := range counters(s.stores) {
				n -= before[name]
				t.Logf("%s: %d MiB in both runs, %d in a clean one", name, n/mib, clean[name]/mib)
				if n > clean[name]+lost {
					t.Errorf("%s: %d bytes in both runs, more than %d", name, n, clean[name]+lost)
				}
			}
			t.Logf("the next run took %v", r.took)
			if listed := s.snapshots(); len(listed) != 2 {
				t.Errorf("snapshots %q are listed", listed)
			}
			out := filepath.Join(t.TempDir(), "out")
			s.rescue(0, s.stores[i:i+1], "--to", out)
			compare(t, out, d)
		})
	}
}

// counters returns what was sent to each store.
func counters(stores []*store) map[string]int64 {
	n := map[string]int64{}
	for _, st := range stores {
		n[st.name] = st.proxy.Sent()
	}
	return n
}
