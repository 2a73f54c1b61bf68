package embassy_test

import (
	"context"
	"embassy/embassy"
	"embassy/embassy/format"
	"embassy/targets"
	"errors"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A backup that ran, and ended in the spool, while a replication went on: what
// it spooled is still there when the replication tidies up.
func TestTidyKeepsWhatABackupSpooled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 3, 2)
		s.fill(1, 4, 3000)
		s.mustBackup(0)
		var armed, broken atomic.Bool
		armed.Store(true)
		var svc *embassy.Service
		s.wrap = func(i int, tgt targets.Target) targets.Target {
			return &targets.Faulty{Target: tgt, Before: func(op targets.Op, name string) error {
				if op == targets.OpPut && broken.Load() {
					return errors.New("link is down")
				}
				if i == 0 && op == targets.OpStat && strings.Contains(name, "/charter/") && armed.CompareAndSwap(true, false) {
					broken.Store(true)
					s.fill(2, 4, 3000)
					rep, err := svc.Backup(t.Context(), embassy.BackupOptions{})
					if err != nil || rep[0].Exit != 4 {
						t.Errorf("backup into the spool: %+v, %v", rep, err)
					}
					broken.Store(false)
				}
				return nil
			}}
		}
		svc = s.start()
		rep, err := svc.Replicate(t.Context(), embassy.ReplicateOptions{})
		t.Logf("replicate: %+v %v", rep, err)
		s.wrap = nil
		rep, err = s.start().Replicate(t.Context(), embassy.ReplicateOptions{})
		if err != nil || rep.Exit != 0 {
			t.Fatalf("the pending snapshot: %+v, %v, %v", rep, err, s.findings)
		}
		s.restore(0)
	})
}

// A host that takes objects, never shows them, and fails over entries.
type sink struct{ targets.Target }

func (k sink) Stat(ctx context.Context, name string) (targets.Info, error) {
	if strings.Contains(name, "/pack/") || strings.Contains(name, "/index/") {
		return targets.Info{}, targets.ErrNotFound
	}
	return k.Target.Stat(ctx, name)
}

func (k sink) Put(ctx context.Context, o targets.Object) error {
	if strings.Contains(o.Name, "/ledger/") {
		return errors.New("503 slow down")
	}
	return k.Target.Put(ctx, o)
}

func TestReplicateEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 3, 2)
		s.fill(1, 4, 3000)
		s.mustBackup(0)
		s.mems[2] = targets.NewMem()
		r := s.replicator()
		r.wrap = func(i int, tgt targets.Target) targets.Target {
			if i == 2 {
				return sink{tgt}
			}
			return tgt
		}
		ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
		defer cancel()
		rep, err := r.start().Replicate(ctx, embassy.ReplicateOptions{})
		if ctx.Err() != nil {
			t.Fatalf("still at it after a day: %+v, %v", rep, err)
		}
	})
}

// discardsPacks keeps all but packs, and counts who looked.
type discardsPacks struct {
	targets.Target
	looked *atomic.Int32
}

func (d discardsPacks) Put(ctx context.Context, o targets.Object) error {
	if strings.Contains(o.Name, "/pack/") {
		return nil
	}
	return d.Target.Put(ctx, o)
}

func (d discardsPacks) Get(ctx context.Context, name string, from, n int64) (io.ReadCloser, error) {
	if strings.Contains(name, "/pack/") {
		d.looked.Add(1)
	}
	return d.Target.Get(ctx, name, from, n)
}

// Once a sample shows that a host discards, that is told.
func TestDiscardedPackIsTold(t *testing.T) {
	t.Parallel() // it waits
	s := newSite(t, 2, 1)
	var looked atomic.Int32
	s.wrap = func(i int, tgt targets.Target) targets.Target {
		if i == 1 {
			return discardsPacks{tgt, &looked}
		}
		return tgt
	}
	for seed := range uint64(200) {
		s.fill(seed, 1, 3000)
		rep, err := s.backup(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if looked.Load() > 0 {
			if rep.Exit != 5 || s.kinds()["t1 discards"] != 1 {
				t.Fatalf("backup %d: asked %d times for what it discarded, exit %d, faults %v", seed, looked.Load(), rep.Exit, s.kinds())
			}
			return
		}
	}
}

// overwritten is a store on which somebody with an agent's credentials writes
// over whatever arrives below the agent's prefix.
type overwritten struct {
	targets.Target
	mem *targets.Mem
}

func (o overwritten) Put(ctx context.Context, obj targets.Object) error {
	if err := o.Target.Put(ctx, obj); err != nil || !strings.Contains(obj.Name, "/ledger/") {
		return err
	}
	return o.mem.Put(ctx, targets.Object{Name: obj.Name, Data: []byte("junk")})
}

func TestOverwriterDoesNotDiscreditTarget(t *testing.T) {
	r, a := newRepo(t, 2, "pop")
	a.add(format.KindRecord, random(1, 50))
	name := a.entry(format.Entry{})
	r.must(r.mems[1].Delete(t.Context(), name))
	r.through(1, func(tgt targets.Target) targets.Target { return overwritten{tgt, r.mems[1]} })
	cat := newMemCatalog()
	r.service(cat).Replicate(t.Context(), embassy.ReplicateOptions{})
	faults, _ := cat.Faults("")
	for _, f := range faults {
		if f.Kind.Distrusts() {
			t.Errorf("target %s: %s: %s", f.Target, f.Kind, f.Text)
		}
	}
}

// Credentials that may not write one agent's folder still bring another's.
func TestDeniedAgentStopsNoOther(t *testing.T) {
	r, a := newRepo(t, 2, "pop")
	b := r.enrol()
	r.charter.Seq, r.charter.Prev = 2, format.HashOf(r.get(0, r.names(0, "/charter/")[0]))
	r.publish()
	for _, x := range []*agent{a, b} {
		x.add(format.KindRecord, random(uint64(x.scope.Agent[0]), 50))
		r.must(r.mems[1].Delete(t.Context(), x.entry(format.Entry{})))
	}
	r.through(1, func(tgt targets.Target) targets.Target {
		return &targets.Faulty{Target: tgt, Before: func(op targets.Op, name string) error {
			if op == targets.OpPut && strings.Contains(name, "/"+a.scope.Agent.String()+"/") {
				return targets.ErrDenied
			}
			return nil
		}}
	})
	rep, err := r.service(newMemCatalog()).Replicate(t.Context(), embassy.ReplicateOptions{})
	r.must(err)
	if !slices.ContainsFunc(r.names(1, "/ledger/"), func(n string) bool { return strings.Contains(n, b.scope.Agent.String()) }) {
		t.Errorf("%+v; down: %v", rep.Targets[1], r.members[1].Down())
	}
}

// What was forgiven is not held against a target again when the catalog is
// rebuilt.
func TestTrustOutlivesRebuild(t *testing.T) {
	t.Parallel() // it waits most of the time
	s := newSite(t, 3, 2)
	for seed := range uint64(3) {
		s.fill(seed, 4, 3000)
		s.mustBackup(0)
	}
	for name := range s.objects(1) {
		if !strings.Contains(name, "/charter/") {
			if err := s.mems[1].Delete(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.fill(7, 4, 3000)
	s.mustBackup(5)
	if _, err := s.start().Trust(t.Context(), "t1", "a new disk"); err != nil {
		t.Fatal(err)
	}
	if rep, err := s.start().Rebuild(t.Context(), ""); err != nil || rep.Exit != 0 {
		t.Fatalf("%+v, %v, %v", rep, err, s.kinds())
	}
	if len(s.kinds()) > 0 {
		t.Fatal(s.kinds())
	}
}
