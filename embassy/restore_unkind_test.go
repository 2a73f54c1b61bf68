package embassy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"embassy/embassy"
	"embassy/embassy/format"
	"embassy/targets"
)

// unkind is a target whose Get does what a test wants, from when it is told
// to. Time in these tests is that of a bubble.
type unkind struct {
	targets.Target
	on  *atomic.Bool
	get func(ctx context.Context, name string, r io.ReadCloser) (io.ReadCloser, error)
}

func (u unkind) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	r, err := u.Target.Get(ctx, name, offset, length)
	if err != nil || !u.on.Load() {
		return r, err
	}
	return u.get(ctx, name, r)
}

// drip gives a byte and waits, as long as its caller lets it.
type drip struct {
	io.ReadCloser
	ctx context.Context
}

func (d drip) Read(p []byte) (int, error) {
	select {
	case <-time.After(19 * time.Second):
	case <-d.ctx.Done():
		return 0, d.ctx.Err()
	}
	return d.ReadCloser.Read(p[:1])
}

// hang gives nothing, and listens to nobody until release is closed.
type hang struct {
	io.ReadCloser
	release chan struct{}
}

func (h hang) Read(p []byte) (int, error) {
	<-h.release
	n, err := h.ReadCloser.Read(p)
	for i := range p[:n] {
		p[i] ^= 0xff // what it writes late must hurt nobody
	}
	return n, err
}

// unkindRestore restores 3 MiB from two targets, the first of which turns
// unkind after the View was opened, and returns how long that took.
func unkindRestore(t *testing.T, get func(context.Context, string, io.ReadCloser) (io.ReadCloser, error)) time.Duration {
	to := t.TempDir()
	content := random(1, 3<<20)
	var took time.Duration
	synctest.Test(t, func(t *testing.T) {
		r, a := newRepo(t, 2, "pop")
		a.snapshot("pop", dir{"x": content})
		var on atomic.Bool
		r.through(0, func(tgt targets.Target) targets.Target { return unkind{tgt, &on, get} })
		v, err := r.view(&findings{})
		r.must(err)
		s, err := v.Pick("pop", "", time.Time{})
		r.must(err)
		on.Store(true)
		start := time.Now()
		if rep, err := v.Restore(t.Context(), embassy.RestoreOptions{Snapshots: []embassy.SnapshotInfo{s}, To: to}); err != nil {
			t.Errorf("%v; %+v", err, rep)
		}
		took = time.Since(start)
		time.Sleep(48 * time.Hour) // what hangs comes back, late
	})
	compare(t, filepath.Join(to, "pop"), map[string][]byte{"x": content})
	return took
}

func TestRestoreDrippingTarget(t *testing.T) {
	took := unkindRestore(t, func(ctx context.Context, _ string, r io.ReadCloser) (io.ReadCloser, error) {
		return drip{r, ctx}, nil
	})
	if took > 10*time.Minute {
		t.Errorf("a target that drips held a restore for %v", took)
	}
}

func TestRestoreHungTarget(t *testing.T) {
	took := unkindRestore(t, func(_ context.Context, _ string, r io.ReadCloser) (io.ReadCloser, error) {
		release := make(chan struct{})
		time.AfterFunc(24*time.Hour, func() { close(release) })
		return hang{r, release}, nil
	})
	if took > 10*time.Minute {
		t.Errorf("a target that hangs held a restore for %v", took)
	}
}

// A host forges the name of an entry, and never gives its bytes.
func TestViewForgedEntryThatStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, a := newRepo(t, 2, "pop")
		a.snapshot("pop", dir{"x": "y"})
		forged := format.EntryName(r.nation, r.comp, a.scope.Agent, format.ID{1}, 1, format.Hash{1})
		r.putOn(1, forged, []byte("forged"))
		var gets atomic.Int64
		r.through(1, func(tgt targets.Target) targets.Target {
			return &targets.Faulty{Target: tgt, Before: func(op targets.Op, name string) error {
				if op == targets.OpGet && name == forged {
					gets.Add(1)
					time.Sleep(20 * time.Second)
					return os.ErrDeadlineExceeded
				}
				return nil
			}}
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		ch, _, err := embassy.FindCharter(ctx, r.members, r.nation, r.root.Signer().Verifier(), nil)
		r.must(err)
		keys, err := embassy.RootKeys(ch, r.root)
		r.must(err)
		v, err := embassy.OpenView(ctx, embassy.ViewOptions{Keys: keys, Members: r.members})
		if err != nil || len(v.Snapshots("pop")) != 1 {
			t.Fatalf("after %d gets: %v", gets.Load(), err)
		}
	})
}

// The newest snapshot is committed, and no target gives it: the one before is
// restored, and nobody is told that it is the latest.
func TestRestoreNewestUnreadable(t *testing.T) {
	r, a := newRepo(t, 2, "pop")
	a.snapshot("pop", dir{"x": "old"})
	bad := a.snapshot("pop", dir{"x": "new"})
	for i := range 2 {
		damages["flipped"](r, i, format.ObjectName(r.nation, r.comp, a.scope.Agent, format.KindSnapshot, bad))
	}
	to := t.TempDir()
	rep, err := r.restore(&findings{}, embassy.RestoreOptions{To: to}, "pop")
	if !errors.Is(err, embassy.ErrIncomplete) || len(rep.Datasets[0].Missing) != 1 {
		t.Fatalf("%v; %+v", err, rep)
	}
	if why := rep.Datasets[0].Missing[0].Reason; !strings.Contains(why, bad.String()) {
		t.Errorf("the later snapshot is not named: %s", why)
	}
	compare(t, filepath.Join(to, "pop"), map[string][]byte{"x": []byte("old")})

	// Whoever names the older one gets what was asked for.
	v, err := r.view(&findings{})
	r.must(err)
	s, err := v.Pick("pop", v.Snapshots("pop")[0].Hash.String(), time.Time{})
	r.must(err)
	if _, err := v.Restore(t.Context(), embassy.RestoreOptions{Snapshots: []embassy.SnapshotInfo{s}, To: t.TempDir()}); err != nil {
		t.Error(fmt.Errorf("restore of a named snapshot: %w", err))
	}
}
