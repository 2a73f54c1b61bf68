package embassy_test

import (
	"context"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"embassy/embassy"
	"embassy/targets"
)

// halting serves half of what is asked of a large pack, and the rest only once
// seen is closed.
type halting struct {
	targets.Target
	seen <-chan struct{}
}

func (h halting) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	r, err := h.Target.Get(ctx, name, offset, length)
	if err != nil || length < 1<<20 || !strings.Contains(name, "/pack/") {
		return r, err
	}
	wait := &waiting{ctx: ctx, seen: h.seen}
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(io.LimitReader(r, length/2), wait, r), r}, nil
}

type waiting struct {
	ctx  context.Context
	seen <-chan struct{}
}

func (w *waiting) Read([]byte) (int, error) {
	select {
	case <-w.seen:
		return 0, io.EOF
	case <-w.ctx.Done():
		return 0, w.ctx.Err()
	}
}

// TestProgressOfArrivingBytes wants bytes to be told before their pack is
// there: the rest of it comes only then.
func TestProgressOfArrivingBytes(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	a.full = 16 << 20
	a.snapshot("pop", dir{"big": random(1, 2<<20)})
	seen := make(chan struct{})
	var once sync.Once
	r.through(0, func(t targets.Target) targets.Target { return halting{t, seen} })
	charter, _, err := embassy.FindCharter(t.Context(), r.members, r.nation, r.root.Signer().Verifier(), nil)
	r.must(err)
	keys, err := embassy.RootKeys(charter, r.root)
	r.must(err)
	var ticks, last atomic.Int64
	v, err := embassy.OpenView(t.Context(), embassy.ViewOptions{
		Keys: keys, Members: r.members,
		Now: func() time.Time { return epoch.Add(time.Duration(ticks.Add(1)) * time.Second) }, // all progress is told
		Progress: func(p embassy.Progress) {
			if p.Phase == "restore" {
				last.Store(int64(p.PerTarget["t0"]))
				if p.PerTarget["t0"] > 512<<10 {
					once.Do(func() { close(seen) })
				}
			}
		},
	})
	r.must(err)
	s, err := v.Pick("pop", "latest", time.Time{})
	r.must(err)
	report, err := v.Restore(t.Context(), embassy.RestoreOptions{Snapshots: []embassy.SnapshotInfo{s}, To: t.TempDir()})
	r.must(err)
	if served := report.Datasets[0].Served; len(served) != 1 || served[0].Bytes != uint64(last.Load()) {
		t.Errorf("%+v served, the progress ended with %d bytes", served, last.Load())
	}
}
