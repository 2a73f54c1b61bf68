package integration_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestShards shares the same work among one, two and four replicators, each of
// which may send no more than a little. Every object is put once.
func TestShards(t *testing.T) {
	const files, size = 32, mib/2 - 64<<10 // each its own dataset, and so its own pack of half a MiB
	stores := borrow(t, 2)
	source := stores[:1]
	s := newSite(t, source...)
	src := t.TempDir()
	var datasets []dataset
	for i := range files {
		dir := filepath.Join(src, fmt.Sprint(i))
		write(t, filepath.Join(dir, "file"), noise(byte(i), size))
		datasets = append(datasets, dataset{name: fmt.Sprintf("part-%d", i), sources: []string{dir}})
	}
	s.found(datasets...)
	s.backup(0)

	var alone time.Duration
	for _, shards := range []int{1, 2, 4} {
		t.Run(fmt.Sprintf("%d", shards), func(t *testing.T) {
			stores[1].t = t
			fresh := stores[1].in(fmt.Sprintf("shards-%d", shards))
			front := fresh.inFront()
			s.stores = []*store{source[0], fresh}
			began := time.Now()
			var runs []*running
			for i := range shards {
				r := s.replicator(false)
				write(t, r.path("embassy.yaml"), append(read(t, r.path("embassy.yaml")), "limits: {upload: 3MiB}\n"...))
				args := []string{"--json", "replicate"}
				if shards > 1 {
					args = append(args, "--shard", fmt.Sprintf("%d/%d", i, shards))
				}
				runs = append(runs, r.launch(embassyProgram, args...))
			}
			for i, run := range runs {
				r := run.result()
				if r.code != 0 && r.code != 4 { // 4: another shard was not done yet
					t.Errorf("shard %d of %d: exit code %d\n%s%s", i, shards, r.code, r.stdout, r.stderr)
				}
				t.Logf("shard %d of %d: exit code %d in %v", i, shards, r.code, r.took)
			}
			took := time.Since(began)
			if shards == 1 {
				alone = took
			}
			t.Logf("%d replicators need %v: speed-up %.2f", shards, took, float64(alone)/float64(took))
			if shards > 1 && took >= alone {
				t.Errorf("%d replicators are no faster than one: %v, %v", shards, took, alone)
			}

			s.replicator(false).replicate(0) // whoever was last may have left entries
			for key, n := range front.stored() {
				if n != 1 && !strings.Contains(key, "/ledger/") && !strings.Contains(key, "/charter/") {
					t.Errorf("%s was put %d times", key, n)
				}
			}
			sameStores(t, s.stores)
		})
	}
	s.stores = stores[:1]
}
