package embassy_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"embassy/embassy"
	"embassy/targets"
)

// restoresAll fails unless a target alone restores all that it shows.
func (s *site) restoresAll(i int) {
	s.t.Helper()
	v, err := s.view(i)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, snap := range v.Snapshots("") {
		whole(s.t, v, snap)
	}
}

// joinsAll joins, lets every agent read that, and deletes.
func joinsAll(s *site, all ...*site) {
	s.t.Helper()
	for range 3 {
		rep, err := s.start().Prune(s.t.Context(), embassy.PruneOptions{MaxRemove: 1, Join: 4})
		if err != nil || rep.Compartments[0].Err != nil {
			s.t.Fatalf("%+v, %v", rep, err)
		}
		for _, a := range all {
			if _, err := a.backup(s.t.Context()); err != nil {
				s.t.Fatal(err)
			}
		}
	}
}

// entriesPut calls f once a target took a ledger entry.
func entriesPut(which int, f func(name string)) func(int, targets.Target) targets.Target {
	return func(i int, to targets.Target) targets.Target {
		if i != which {
			return to
		}
		return eachPut{to, func(name string) {
			if strings.Contains(name, "/ledger/") {
				f(name)
			}
		}}
	}
}

// While a target is brought up, which takes days, the same machine prunes: what goes
// meanwhile is not left out without what took its place.
func TestReplacedWhileBroughtUp(t *testing.T) {
	s := newSite(t, 3, 2)
	s.runs(0, 2)
	s.wrap = unreachable(2)
	s.runs(2, 10)
	packs := s.count(0, "pack")
	var once sync.Once
	s.wrap = entriesPut(2, func(string) {
		once.Do(func() {
			s.wrap = unreachable(2)
			joinsAll(s)
		})
		s.restoresAll(2)
	})
	rep, err := s.start().Replicate(t.Context(), embassy.ReplicateOptions{})
	if err != nil {
		t.Fatalf("%+v, %v", rep, err)
	}
	if s.count(0, "pack") >= packs {
		t.Fatal("nothing was deleted meanwhile")
	}
	s.restoresAll(2)
	s.wrap = nil
	s.mustBackup(0)
	s.restore(2)
}

// What tells that packs were joined was on one target only, which is gone for good,
// and the steward too: the others have the packs themselves, which will do.
func TestReplacementIsLost(t *testing.T) {
	s := newSite(t, 3, 1)
	n := s.neighbour()
	s.runs(0, 6)
	n.runs(0, 6)
	joinsAll(s, s, n)
	n.runs(6, 6)
	r := s.replicator()
	r.wrap = unreachable(2) // it never saw what was there
	r.replicate(4, embassy.ReplicateOptions{})
	s.wrap = func(i int, to targets.Target) targets.Target {
		return &targets.Faulty{Target: to, Before: func(op targets.Op, _ string) error {
			if i != 0 && op == targets.OpPut {
				return errors.New("connection refused")
			}
			return nil
		}}
	}
	if rep, err := s.start().Prune(t.Context(), embassy.PruneOptions{MaxRemove: 1, Join: 4}); err != nil || rep.Compartments[0].Joined == 0 {
		t.Fatalf("%+v, %v", rep, err)
	}
	r.wrap = onlyTo(0)
	if _, err := r.start().Replicate(t.Context(), embassy.ReplicateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.mems[2] = targets.NewMem()
	r.wrap = unreachable(0)
	if rep, err := r.start().Replicate(t.Context(), embassy.ReplicateOptions{}); err != nil {
		t.Fatalf("%+v, %v", rep, err)
	}
	if has, of := len(s.named(2, "/ledger/")), len(s.named(1, "/ledger/")); has < of {
		t.Errorf("the new target has %d of %d entries", has, of)
	}
	s.restoresAll(2)
}

// Every agent has credentials for its own folder only, there is no replicator, and a
// target was away while packs were joined: the agent waits for the steward, which waits
// for the agent, and brings what it made of the packs all the same.
func TestReplacedByScopedCredentials(t *testing.T) {
	s := newSite(t, 3, 2)
	n := s.neighbour()
	own := func(s *site, reach func(int, targets.Target) targets.Target, got func(name string)) {
		folder := "/" + s.agentID().String() + "/"
		s.wrap = func(i int, to targets.Target) targets.Target {
			return &targets.Faulty{Target: reach(i, to), Before: func(op targets.Op, name string) error {
				if op == targets.OpPut && !strings.Contains(name, folder) {
					return targets.ErrDenied
				}
				if op == targets.OpGet {
					got(name)
				}
				return nil
			}}
		}
	}
	all := func(_ int, to targets.Target) targets.Target { return to }
	nothing := func(string) {}
	s.runs(0, 2)
	n.runs(0, 2)
	own(s, unreachable(2), nothing)
	own(n, unreachable(2), nothing)
	n.runs(10, 5)
	s.write("same", random(14, 5000)) // what the other has: it depends on that entry
	s.mustBackup(0)
	n.runs(15, 3)
	joinsAll(s, s, n)
	var mu sync.Mutex
	packs := 0
	own(s, all, nothing)
	own(n, all, func(name string) {
		mu.Lock()
		defer mu.Unlock()
		if strings.Contains(name, s.agentID().String()+"/pack/") {
			packs++
		}
	})
	if _, err := n.backup(t.Context()); err != nil {
		t.Fatal(err)
	}
	if packs > 0 {
		t.Errorf("%d packs were fetched that may not be put", packs)
	}
	for range 2 {
		for _, a := range []*site{s, n} {
			if _, err := a.backup(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.restoresAll(2)
		}
	}
	if has, of := len(s.named(2, "/ledger/")), len(s.named(1, "/ledger/")); has < of {
		t.Errorf("target 2 has %d of %d entries", has, of)
	}
}

// What went ahead of its turn is lost before that comes: that is told, and mended.
func TestLostLead(t *testing.T) {
	s := newSite(t, 3, 2)
	n := s.neighbour()
	s.wrap, n.wrap = unreachable(2), unreachable(2)
	s.runs(0, 5)
	n.runs(0, 5)
	joinsAll(s, s, n)
	s.mems[2] = targets.NewMem()
	r := s.replicator()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var mu sync.Mutex
	lead, after := "", 0
	r.wrap = entriesPut(2, func(name string) {
		mu.Lock()
		defer mu.Unlock()
		folder := name[:strings.LastIndex(name, "/")+1]
		if lead == "" && !strings.Contains(name, "/0000000000000001-") && len(s.named(2, folder)) == 1 {
			lead = name
		}
		if lead != "" {
			if after++; after == 3 {
				cancel()
			}
		}
	})
	if _, err := r.start().Replicate(ctx, embassy.ReplicateOptions{}); !errors.Is(err, context.Canceled) || lead == "" {
		t.Fatalf("%v, %q", err, lead)
	}
	r.wrap = nil
	if rep, err := r.start().Verify(t.Context(), embassy.VerifyOptions{Level: embassy.Full}); err != nil || rep.Exit != 0 {
		t.Fatalf("%+v, %v", rep, err)
	}
	s.drop(2, lead)
	for range 2 {
		if rep, err := r.start().Verify(t.Context(), embassy.VerifyOptions{Level: embassy.Full}); err != nil || rep.Exit != 5 || r.kinds()["t2 missing"] != 1 {
			t.Fatalf("exit %d, %v, %v, %+v", rep.Exit, err, r.kinds(), rep)
		}
	}
	if rep, err := r.start().Verify(t.Context(), embassy.VerifyOptions{Level: embassy.Full, Repair: true}); err != nil || rep.Targets[2].Repaired != 1 {
		t.Fatalf("%+v, %v", rep, err)
	}
	s.restoresAll(2)
	r.replicate(0, embassy.ReplicateOptions{})
	if faults := r.kinds(); len(faults) > 0 {
		t.Error(faults)
	}
	s.restoresAll(2)
}
