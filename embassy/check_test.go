package embassy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"embassy/embassy"
	"embassy/embassy/config"
	"embassy/embassy/format"
	"embassy/targets"
)

// check checks the first target of a site, which a test has replaced.
func (s *site) check(t targets.Target) embassy.TargetCheck {
	s.t.Helper()
	s.wrap = func(i int, other targets.Target) targets.Target {
		if i == 0 {
			return t
		}
		return other
	}
	checks, err := s.start().CheckTargets(s.t.Context(), []string{"t0"})
	if err != nil {
		s.t.Fatal(err)
	}
	if len(checks) != 1 || checks[0].Target != "t0" {
		s.t.Fatalf("asked for t0, got %+v", checks)
	}
	return checks[0]
}

// answers are some verdicts.
type answers map[embassy.Capability]embassy.Answer

func (want answers) of(t *testing.T, c embassy.TargetCheck) {
	t.Helper()
	if c.Err != nil {
		t.Fatal(c.Err)
	}
	for capability, answer := range want {
		if v := c.Verdict(capability); v.Answer != answer {
			t.Errorf("%s: %s (%s), want %s", capability, v.Answer, v.Reason, answer)
		}
	}
}

// strange is a Mem that does some things otherwise. A nil hook does nothing.
type strange struct {
	*targets.Mem
	put     func(o targets.Object) error
	get     func(name string, data []byte) []byte
	old     func(data []byte) []byte // of GetVersion
	keeps   bool                     // DeleteVersion says yes, and does nothing
	hides   bool                     // List yields nothing
	allWin  bool                     // PutNew always creates
	refuses bool                     // Delete
}

func (s *strange) Put(ctx context.Context, o targets.Object) error {
	if s.put != nil {
		if err := s.put(o); err != nil {
			return err
		}
	}
	return s.Mem.Put(ctx, o)
}

func (s *strange) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	r, err := s.Mem.Get(ctx, name, offset, length)
	if err != nil || s.get == nil {
		return r, err
	}
	data, err := io.ReadAll(r)
	return io.NopCloser(strings.NewReader(string(s.get(name, data)))), err
}

func (s *strange) List(ctx context.Context, prefix string) iter.Seq2[targets.Info, error] {
	if s.hides {
		return func(func(targets.Info, error) bool) {}
	}
	return s.Mem.List(ctx, prefix)
}

func (s *strange) Delete(ctx context.Context, name string) error {
	if s.refuses {
		return targets.ErrDenied
	}
	return s.Mem.Delete(ctx, name)
}

func (s *strange) GetVersion(ctx context.Context, name, id string, offset, length int64) (io.ReadCloser, error) {
	r, err := s.Mem.GetVersion(ctx, name, id, offset, length)
	if err != nil || s.old == nil {
		return r, err
	}
	data, err := io.ReadAll(r)
	return io.NopCloser(strings.NewReader(string(s.old(data)))), err
}

func (s *strange) DeleteVersion(ctx context.Context, name, id string) error {
	if s.keeps {
		return nil
	}
	return s.Mem.DeleteVersion(ctx, name, id)
}

func (s *strange) PutNew(ctx context.Context, o targets.Object) (bool, error) {
	if s.allWin {
		return true, s.Mem.Put(ctx, o)
	}
	return s.Mem.PutNew(ctx, o)
}

func flipped(data []byte) []byte {
	data[len(data)/2] ^= 1
	return data
}

func TestCheckTarget(t *testing.T) {
	const yes, no, unknown = embassy.Yes, embassy.No, embassy.Unknown
	type options = targets.MemOptions
	tests := map[string]struct {
		mem  options
		make func(m *targets.Mem) targets.Target // nil: m itself
		lock config.Lock                         // that the configuration asks for
		want answers
		exit int
	}{
		"plain": {
			want: answers{
				embassy.CanPut: yes, embassy.CanReadBack: yes, embassy.CanList: yes, embassy.ClockAgrees: yes, embassy.KeepsVersions: no,
				embassy.CanLock: no, embassy.LocksByItself: no, embassy.PutsIfAbsent: yes, embassy.ChecksHash: no, embassy.MayOverwrite: yes,
				embassy.MayDelete: yes, embassy.MayShortenLock: no, embassy.MayWriteOther: yes, embassy.IsGuarded: no,
			},
		},
		"versions that may be deleted": {
			mem:  options{Versioning: true},
			want: answers{embassy.KeepsVersions: yes, embassy.MayDeleteOld: yes, embassy.IsGuarded: no},
		},
		"versions that may not be deleted": {
			mem:  options{Versioning: true, NoDelete: true},
			want: answers{embassy.KeepsVersions: yes, embassy.MayDelete: no, embassy.MayDeleteOld: no, embassy.IsGuarded: yes},
		},
		"a deletion that is said and not done": {
			mem:  options{Versioning: true},
			make: func(m *targets.Mem) targets.Target { return &strange{Mem: m, keeps: true} },
			want: answers{embassy.MayDeleteOld: yes, embassy.IsGuarded: no},
		},
		"governance lock that may be passed": {
			mem:  options{LockMode: "governance", LockFor: 24 * time.Hour},
			want: answers{embassy.CanLock: yes, embassy.LocksByItself: yes, embassy.MayDeleteOld: no, embassy.MayShortenLock: yes, embassy.IsGuarded: no},
		},
		"governance lock": {
			mem:  options{LockMode: "governance", LockFor: 24 * time.Hour, NoBypass: true},
			want: answers{embassy.MayDelete: yes, embassy.MayDeleteOld: no, embassy.MayShortenLock: no, embassy.IsGuarded: yes},
		},
		"compliance lock": {
			mem:  options{LockMode: "compliance", LockFor: 24 * time.Hour},
			want: answers{embassy.MayDeleteOld: no, embassy.MayShortenLock: no, embassy.IsGuarded: yes},
		},
		"locks, and none by default": {
			mem:  options{Locks: true, NoDelete: true, NoBypass: true},
			want: answers{embassy.LocksByItself: no, embassy.MayShortenLock: no, embassy.IsGuarded: yes},
		},
		"neither overwritten nor deleted": {
			make: func(m *targets.Mem) targets.Target {
				return &strange{Mem: m, refuses: true, put: func(o targets.Object) error {
					if _, err := m.Stat(context.Background(), o.Name); err == nil {
						return targets.ErrDenied
					}
					return nil
				}}
			},
			want: answers{embassy.MayOverwrite: no, embassy.MayDelete: no, embassy.KeepsVersions: unknown, embassy.IsGuarded: yes},
		},
		"old versions with other bytes": {
			mem:  options{Versioning: true, NoDelete: true},
			make: func(m *targets.Mem) targets.Target { return &strange{Mem: m, old: flipped} },
			want: answers{embassy.CanReadBack: yes, embassy.KeepsVersions: no, embassy.IsGuarded: no},
		},
		"other bytes": {
			mem: options{Versioning: true, NoDelete: true},
			make: func(m *targets.Mem) targets.Target {
				return &strange{Mem: m, get: func(_ string, data []byte) []byte { return flipped(data) }}
			},
			want: answers{embassy.CanReadBack: no, embassy.IsGuarded: no},
			exit: 5,
		},
		"hashes are checked": {
			make: func(m *targets.Mem) targets.Target {
				return &strange{Mem: m, put: func(o targets.Object) error {
					if format.HashOf(o.Data) != o.SHA256 {
						return targets.ErrCorrupt
					}
					return nil
				}}
			},
			want: answers{embassy.ChecksHash: yes},
		},
		"everybody wins": {
			make: func(m *targets.Mem) targets.Target { return &strange{Mem: m, allWin: true} },
			want: answers{embassy.PutsIfAbsent: no},
		},
		"clock half a minute off": {
			mem:  options{Now: func() time.Time { return time.Now().Add(-30 * time.Second) }},
			want: answers{embassy.ClockAgrees: yes},
		},
		"clock two minutes off": {
			mem:  options{Now: func() time.Time { return time.Now().Add(2 * time.Minute) }},
			want: answers{embassy.ClockAgrees: no},
		},
		"late listing": {
			make: func(m *targets.Mem) targets.Target { return &strange{Mem: m, hides: true} },
			want: answers{embassy.CanPut: yes, embassy.CanList: no},
		},
		"no right to put": {
			mem: options{Versioning: true, NoDelete: true},
			make: func(m *targets.Mem) targets.Target {
				return &strange{Mem: m, put: func(targets.Object) error { return targets.ErrDenied }}
			},
			want: answers{embassy.CanPut: no, embassy.IsGuarded: unknown},
			exit: 4,
		},
		"own prefix only": {
			make: func(m *targets.Mem) targets.Target {
				return &strange{Mem: m, put: func(o targets.Object) error {
					if !strings.Contains(o.Name, ownAgent) {
						return targets.ErrDenied
					}
					return nil
				}}
			},
			want: answers{embassy.CanPut: yes, embassy.MayWriteOther: no},
		},
		"lock as configured": {
			mem:  options{LockMode: "compliance", LockFor: 30 * 24 * time.Hour},
			lock: config.Lock{Mode: "governance", Days: 30},
			want: answers{embassy.LocksAsAsked: yes},
		},
		"lock shorter than configured": {
			mem:  options{LockMode: "governance", LockFor: 7 * 24 * time.Hour},
			lock: config.Lock{Mode: "governance", Days: 30},
			want: answers{embassy.LocksAsAsked: no},
			exit: 4,
		},
		"lock weaker than configured": {
			mem:  options{LockMode: "governance", LockFor: 30 * 24 * time.Hour},
			lock: config.Lock{Mode: "compliance", Days: 30},
			want: answers{embassy.LocksAsAsked: no},
			exit: 4,
		},
		"no lock where one is configured": {
			mem:  options{Versioning: true},
			lock: config.Lock{Mode: "governance", Days: 1},
			want: answers{embassy.LocksAsAsked: no},
			exit: 4,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, 1, 1)
			s.config.Targets[0].Lock = tt.lock
			mem := targets.NewMemWith(tt.mem)
			var target targets.Target = mem
			if tt.make != nil {
				target = tt.make(mem)
			}
			ownAgent = s.agent()
			c := s.check(target)
			tt.want.of(t, c)
			if c.Exit() != tt.exit {
				t.Errorf("exit code %d, want %d: %+v", c.Exit(), tt.exit, c)
			}
			if c.Verdict(embassy.CanPut).Answer == yes && (c.Upload <= 0 || c.Download <= 0 || c.Latency <= 0) {
				t.Errorf("not measured: %+v", c)
			}
			for _, v := range c.Verdicts {
				if v.Answer == unknown && v.Reason == "" {
					t.Errorf("%s is unknown without a reason", v.Capability)
				}
			}
		})
	}
}

// ownAgent is the agent of the site at hand.
var ownAgent string

func (s *site) agent() string {
	s.t.Helper()
	state, err := embassy.OpenState(s.config.StateDir)
	if err != nil {
		s.t.Fatal(err)
	}
	return state.Agent().String()
}

// TestCheckTouchesProbesOnly looks at all that is put, and at what is left.
func TestCheckTouchesProbesOnly(t *testing.T) {
	s := newSite(t, 1, 1)
	s.fill(1, 3, 1000)
	s.mustBackup(0)
	before := s.objects(0)
	nation := strings.SplitN(anyKey(before), "/", 2)[0]
	var mu sync.Mutex
	own, other := 0, 0
	c := s.check(&targets.Faulty{Target: s.mems[0], Before: func(op targets.Op, name string) error {
		if op != targets.OpPut && op != targets.OpDelete {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		parts := strings.Split(name, "/")
		if len(parts) != 5 || parts[0] != nation || parts[3] != "probe" || len(parts[4]) != 32 {
			t.Errorf("%s %s", op, name)
		} else if parts[2] == s.agent() {
			own++
		} else {
			other++
		}
		return nil
	}})
	if c.Err != nil || c.Left != 0 {
		t.Errorf("%d probes left, %v", c.Left, c.Err)
	}
	if own == 0 || other != 1 { // versions are deleted past the hook
		t.Errorf("%d operations below the own prefix, %d below another", own, other)
	}
	if after := s.objects(0); !maps.Equal(before, after) {
		t.Errorf("before %v\nafter %v", before, after)
	}
	versioned := targets.NewMemWith(targets.MemOptions{Versioning: true})
	if c := s.check(versioned); c.Err != nil || c.Left != 0 {
		t.Errorf("%d probes left, %v", c.Left, c.Err)
	}
	for v, err := range versioned.Versions(t.Context(), "") {
		t.Errorf("left: %+v, %v", v, err)
	}
	if c := s.check(targets.NewMemWith(targets.MemOptions{NoDelete: true})); c.Left == 0 {
		t.Error("nothing may be deleted, and nothing is said to be left")
	}
}

func anyKey(m map[string]int64) string {
	for k := range m {
		return k
	}
	return ""
}

// TestGuardedCounts asks the commit rule for a guarded copy: it holds from the
// check that proves one until the proof is too old, or of another store.
func TestGuardedCounts(t *testing.T) {
	s := newSite(t, 1, 1)
	s.config.Compartments[0].Commit.Guarded = 1
	s.fill(1, 3, 1000)
	store := targets.NewMemWith(targets.MemOptions{Versioning: true, NoDelete: true})
	dead := false
	s.wrap = func(int, targets.Target) targets.Target {
		return &targets.Faulty{Target: store, Before: func(targets.Op, string) error {
			if dead {
				return targets.ErrNoStore
			}
			return nil
		}}
	}
	want := func(guarded embassy.Answer, copies int) {
		t.Helper()
		st, err := s.start().Status(t.Context(), false)
		if err != nil {
			t.Fatal(err)
		}
		if st.Targets[0].Guarded != guarded || st.Datasets[0].Guarded != copies {
			t.Errorf("target guarded: %s, want %s; guarded copies %d, want %d", st.Targets[0].Guarded, guarded, st.Datasets[0].Guarded, copies)
		}
	}
	s.mustBackup(4)
	want(embassy.Unknown, 0)
	check := func() embassy.TargetCheck {
		t.Helper()
		checks, err := s.start().CheckTargets(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		return checks[0]
	}
	if c := check(); c.Verdict(embassy.IsGuarded).Answer != embassy.Yes {
		t.Fatalf("%+v", c)
	}
	s.mustBackup(0)
	want(embassy.Yes, 1)

	dead = true
	if c := check(); c.Err == nil || c.Exit() != 4 || len(c.Verdicts) > 0 {
		t.Errorf("a dead target: %+v", c)
	}
	want(embassy.Yes, 1) // an outage disproves nothing
	dead = false

	at := func(later time.Duration) embassy.Answer {
		t.Helper()
		svc, err := embassy.New(embassy.Options{Site: s.config, Members: s.members(), Catalog: s.catalog,
			Now: func() time.Time { return time.Now().Add(later) }})
		if err != nil {
			t.Fatal(err)
		}
		return svc.Guarded("t0")
	}
	if a := at(34 * 24 * time.Hour); a != embassy.Yes {
		t.Errorf("after 34 days: %s", a)
	}
	if a := at(36 * 24 * time.Hour); a != embassy.Unknown {
		t.Errorf("after 36 days: %s", a)
	}
	if a := at(-time.Hour); a != embassy.Unknown {
		t.Errorf("a check of the future counts: %s", a)
	}

	store = targets.NewMem() // and the newest check counts, not the best
	if c := check(); c.Err != nil {
		t.Fatal(c.Err)
	}
	want(embassy.No, 0)
	store = targets.NewMemWith(targets.MemOptions{Versioning: true, NoDelete: true})
	check()
	want(embassy.Yes, 1)
	s.config.Targets[0].URL = "dir:/elsewhere"
	want(embassy.Unknown, 0)
	runs, err := s.catalog.Runs("", 10)
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]int{}
	for _, r := range runs {
		kinds[fmt.Sprint(r.Kind, r.Exit)]++
	}
	if kinds["check0"] != 3 || kinds["check4"] != 1 {
		t.Errorf("runs: %v", kinds)
	}
}

// hanging stops answering after some operations, and does not heed its
// context.
type hanging struct {
	*targets.Mem
	mu    sync.Mutex
	after int
	free  chan struct{}
}

func (h *hanging) wait() {
	h.mu.Lock()
	h.after--
	stuck := h.after < 0
	h.mu.Unlock()
	if stuck {
		<-h.free
	}
}

func (h *hanging) Put(ctx context.Context, o targets.Object) error {
	h.wait()
	return h.Mem.Put(ctx, o)
}

func (h *hanging) Stat(ctx context.Context, name string) (targets.Info, error) {
	h.wait()
	return h.Mem.Stat(ctx, name)
}

func (h *hanging) List(ctx context.Context, prefix string) iter.Seq2[targets.Info, error] {
	h.wait()
	return h.Mem.List(ctx, prefix)
}

func (h *hanging) Delete(ctx context.Context, name string) error {
	h.wait()
	return h.Mem.Delete(ctx, name)
}

// TestCheckHangingTarget lets one target hang, from its first operation or a
// later one on: it costs bounded time, and the other target is checked.
func TestCheckHangingTarget(t *testing.T) {
	for _, after := range []int{0, 1, 4, 8, 9, 12} {
		t.Run(fmt.Sprint("after ", after), func(t *testing.T) {
			s := newSite(t, 2, 1)
			synctest.Test(t, func(t *testing.T) {
				h := &hanging{Mem: s.mems[0], after: after, free: make(chan struct{})}
				defer close(h.free)
				s.wrap = func(i int, other targets.Target) targets.Target {
					if i == 0 {
						return h
					}
					return other
				}
				start := time.Now()
				checks, err := s.start().CheckTargets(t.Context(), nil)
				if err != nil {
					t.Fatal(err)
				}
				if took := time.Since(start); took > 2*time.Minute {
					t.Errorf("took %s", took)
				}
				if c := checks[0]; c.Err == nil || c.Exit() != 4 || len(c.Verdicts) > 0 {
					t.Errorf("the hanging target: %+v", c)
				}
				if c := checks[1]; c.Err != nil || c.Verdict(embassy.CanPut).Answer != embassy.Yes {
					t.Errorf("the other target: %+v", c)
				}
			})
		})
	}
}

func TestCheckMistakes(t *testing.T) {
	s := newSite(t, 1, 1)
	if _, err := s.start().CheckTargets(t.Context(), []string{"t0", "nowhere"}); !errors.Is(err, embassy.ErrUnknownTarget) {
		t.Errorf("an unknown name: %v", err)
	}
	s.config.StateDir = t.TempDir()
	if _, err := s.start().CheckTargets(t.Context(), nil); !errors.Is(err, embassy.ErrNoState) {
		t.Errorf("before init: %v", err)
	}
}

// TestCheckFeedsEstimate replicates to a target that missed a backup: a dry
// run knows how long that takes once the target was checked.
func TestCheckFeedsEstimate(t *testing.T) {
	s := newSite(t, 2, 1)
	s.fill(1, 3, 100_000)
	s.wrap = func(i int, other targets.Target) targets.Target {
		return &targets.Faulty{Target: other, Before: func(targets.Op, string) error {
			if i == 1 {
				return targets.ErrNoStore
			}
			return nil
		}}
	}
	s.mustBackup(0)
	s.wrap = nil
	estimate := func() time.Duration {
		t.Helper()
		r, err := s.start().Replicate(t.Context(), embassy.ReplicateOptions{DryRun: true})
		if err != nil {
			t.Fatal(err)
		}
		if r.Targets[1].Bytes == 0 {
			t.Fatalf("nothing to copy: %+v", r)
		}
		return r.Targets[1].Estimate
	}
	if e := estimate(); e != 0 {
		t.Errorf("before any measurement: %s", e)
	}
	if _, err := s.start().CheckTargets(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if e := estimate(); e <= 0 {
		t.Errorf("after the check: %s", e)
	}
}
