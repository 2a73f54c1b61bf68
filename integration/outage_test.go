package integration_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"
)

// TestPrimaryDead loses the Primary to a refused connection and to a black
// hole, before a backup and a restore and in the middle of each. Both finish,
// and how late they were is logged. The next backup brings the Primary all.
func TestPrimaryDead(t *testing.T) {
	t.Parallel()
	const size = 64 * mib
	const early = 8 * mib // bytes that are through when the Primary dies midway
	const late = time.Minute
	stores := start(t, 3)
	primary := stores[0].proxy
	src := t.TempDir()
	d := dataset{name: "data", sources: []string{src}}
	s := newSite(t, stores...)
	s.found(d)
	seed := byte(0)
	more := func() {
		seed++
		write(t, filepath.Join(src, "data"), noise(seed, size))
	}
	more()
	_, healthy := s.backup(0)
	healthyRestore := s.restore(d)
	t.Logf("healthy: backup in %v, restore in %v", healthy.took, healthyRestore.took)

	faults := []struct {
		name   string
		midway bool
		strike func()
	}{
		{"refused", false, primary.Cut},
		{"black hole", false, primary.BlackHole},
		{"refused midway", true, primary.Cut},
		{"black hole midway", true, primary.BlackHole},
	}
	for _, fault := range faults {
		t.Run(fault.name, func(t *testing.T) {
			// run runs one command; count is what has passed the Primary's proxy.
			run := func(count func() int64, args ...string) result {
				if !fault.midway {
					fault.strike()
				}
				before := count()
				p := s.launch(embassyProgram, args...)
				if fault.midway {
					p.until(func() bool { return count()-before > early })
					fault.strike()
				}
				r := p.result()
				primary.Heal()
				return r.wants(t, 0)
			}
			check := func(what string, r, healthy result) {
				t.Logf("%s in %v, %v later than with a healthy Primary", what, r.took, r.took-healthy.took)
				if r.took > healthy.took+late {
					t.Errorf("%s took %v, and %v with a healthy Primary", what, r.took, healthy.took)
				}
			}
			more()
			r := run(primary.Sent, "--json", "backup")
			check("backup", r, healthy)
			if report := parseBackup(t, r)[0]; fmt.Sprint(report.behind()) != "["+stores[0].name+"]" {
				t.Errorf("behind are %q", report.behind())
			}
			if !fault.midway {
				r.warns(t, stores[0].name)
			}

			reports, caughtUp := s.backup(0)
			t.Logf("caught up in %v", caughtUp.took)
			if behind := reports[0].behind(); len(behind) > 0 {
				t.Errorf("behind are %q after the Primary came back", behind)
			}
			out := filepath.Join(t.TempDir(), "out")
			r = run(primary.Received, "restore", "--all", "--to", out)
			check("restore", r, healthyRestore)
			r.says(t, "target "+stores[0].name)
			compare(t, out, d)
		})
	}
	s.backup(0) // what the restores recorded goes everywhere
	sameStores(t, stores)
}
