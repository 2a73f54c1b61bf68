package embassy_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"embassy/embassy"
	"embassy/targets"
)

// fuse kills a process at its n-th operation on any target: from then on every
// operation of that process fails, whatever the target.
type fuse struct {
	mu     sync.Mutex
	left   int
	blown  bool
	after  bool // the last operation happens before the process dies
	cancel context.CancelFunc
}

var errKilled = errors.New("killed")

func (f *fuse) burn(last bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.blown {
		return errKilled
	}
	if last != f.after {
		return nil
	}
	if f.left--; f.left < 0 {
		f.blown = true
		f.cancel()
		return errKilled
	}
	return nil
}

func (f *fuse) wrap(_ int, t targets.Target) targets.Target {
	return &targets.Faulty{Target: t,
		Before: func(targets.Op, string) error { return f.burn(false) },
		After:  func(targets.Op, string) error { return f.burn(true) },
	}
}

// A backup dies at every operation on a target, once before it happens and
// once right after. Then: no partial snapshot is visible anywhere, what was
// committed before restores from every target that claims it, and the next
// run completes on all of them.
func TestBackupCrashAtEveryStep(t *testing.T) {
	if testing.Short() {
		t.Skip("crashes at every step: left out with -short")
	}
	for _, after := range []bool{false, true} {
		steps := 0
		for done := false; !done; steps++ {
			t.Run(fmt.Sprintf("after=%v step=%d", after, steps), func(t *testing.T) {
				s := newSite(t, 3, 2)
				s.fill(1, 6, 3000)
				s.mustBackup(0)
				old, err := s.view(0)
				if err != nil {
					t.Fatal(err)
				}
				first := old.Snapshots("")[0].Hash

				s.fill(2, 6, 3000)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				f := &fuse{left: steps, after: after, cancel: cancel}
				s.wrap = f.wrap
				_, err = s.backup(ctx)
				done = !f.blown
				if f.blown && err == nil {
					t.Fatal("a killed run reports success")
				}
				s.wrap = nil
				for i := range s.mems {
					v, err := s.view(i)
					if err != nil {
						t.Fatal(err)
					}
					for _, snap := range v.Snapshots("") {
						whole(t, v, snap)
					}
					if _, err := v.Pick("population", first.String(), time.Time{}); err != nil {
						t.Fatalf("target %d: the first snapshot is gone: %v", i, err)
					}
				}
				s.mustBackup(0)
				for i := range s.mems {
					s.restore(i)
				}
			})
			if t.Failed() {
				return
			}
		}
		if steps < 15 {
			t.Fatalf("only %d steps: the fuse does not burn", steps)
		}
		t.Logf("after=%v: %d steps", after, steps-1)
	}
}

// whole restores a snapshot into a fresh folder: what is listed is complete.
func whole(t testing.TB, v *embassy.View, snap embassy.SnapshotInfo) {
	t.Helper()
	if _, err := v.Restore(t.Context(), embassy.RestoreOptions{
		Snapshots: []embassy.SnapshotInfo{snap}, To: t.TempDir(),
	}); err != nil {
		t.Fatalf("snapshot %s is listed and does not restore: %v", snap.Hash, err)
	}
}
