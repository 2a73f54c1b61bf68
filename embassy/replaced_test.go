package embassy_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"embassy/embassy"
	"embassy/embassy/format"
	"embassy/targets"
)

// eachPut calls after once a target took an object.
type eachPut struct {
	targets.Target
	after func(name string)
}

func (p eachPut) Put(ctx context.Context, o targets.Object) error {
	err := p.Target.Put(ctx, o)
	if err == nil {
		p.after(o.Name)
	}
	return err
}

// A target that was behind is brought up after packs were joined, rewritten and
// deleted on the others, or a new one is filled: whatever it shows on the way, it can
// restore alone, and nobody blames it.
func TestBroughtUpAfterReplacement(t *testing.T) {
	for _, how := range []string{"joined", "joined, two agents", "rewritten", "rewritten, two agents"} {
		for _, fresh := range []bool{false, true} {
			for _, by := range []string{"steward", "replicator", "shards"} {
				if fresh && by == "steward" { // for whom it was rolled back
					continue
				}
				t.Run(fmt.Sprintf("%s/fresh=%v/%s", how, fresh, by), func(t *testing.T) { broughtUp(t, how, fresh, by) })
			}
		}
	}
}

func broughtUp(t *testing.T, how string, fresh bool, by string) {
	s := newSite(t, 3, 2)
	s.config.PackSize = 1 << 20
	all := []*site{s}
	if strings.Contains(how, "two agents") {
		all = append(all, s.neighbour())
	}
	run, kept := 0, 0
	more := func(n int) {
		for range n {
			for i, a := range all { // what both have, one stores
				a.write(fmt.Sprintf("run%d", run), random(uint64(run), 5000))
				a.write("own", random(uint64(1000+10*run+i), 60_000))
				a.mustBackup(0)
				kept++
			}
			run++
		}
	}
	away := func(yes bool) {
		for _, a := range all {
			a.wrap = nil
			if yes {
				a.wrap = unreachable(2)
			}
		}
	}
	more(2)
	away(true)
	o := embassy.PruneOptions{MaxRemove: 1, Join: 4}
	if strings.Contains(how, "rewritten") {
		keys, err := s.keys(0, s.root)
		if err != nil {
			t.Fatal(err)
		}
		o.Readers = keys
	}
	packs, deleted := 0, 0
	for range 2 { // what was made of packs is replaced in turn
		more(4)
		if o.Readers != nil {
			s.forget(3, kept-3*len(all))
			kept = 3 * len(all)
		}
		for range 3 {
			packs = s.count(0, "pack")
			rep, err := s.start().Prune(t.Context(), o)
			if err != nil || rep.Exit != 4 {
				t.Fatalf("%+v, %v\n%v", rep, err, s.findings)
			}
			if n := s.count(0, "pack"); n < packs {
				deleted += packs - n
			}
			for _, a := range all {
				a.mustBackup(0)
				kept++
			}
		}
	}
	if deleted < 10 {
		t.Fatalf("%d packs were deleted", deleted)
	}
	away(false)
	if fresh {
		s.mems[2] = targets.NewMem()
		for _, a := range all {
			a.mems = s.mems
		}
	}
	entries, ahead := 0, 0
	restored := map[format.Hash]bool{}
	check := func(name string) {
		if !strings.Contains(name, "/ledger/") || t.Failed() {
			return
		}
		entries++
		v, err := s.view(2)
		if err != nil {
			t.Errorf("after %s: %v", name, err)
			return
		}
		var seq int
		folder := name[:strings.LastIndex(name, "/")+1] // of the chain
		fmt.Sscanf(name[len(folder):], "%x-", &seq)
		if len(s.named(2, folder)) < seq {
			ahead++
		}
		for _, snap := range v.Snapshots("") {
			if restored[snap.Hash] {
				continue
			}
			restored[snap.Hash] = true
			if _, err := v.Restore(t.Context(), embassy.RestoreOptions{Snapshots: []embassy.SnapshotInfo{snap}, To: t.TempDir()}); err != nil {
				t.Errorf("after %d entries, the last of them %s: entry %d of %s: %v", entries, name, snap.Seq, snap.Summary.Dataset, err)
			}
		}
	}
	watch := func(i int, to targets.Target) targets.Target {
		if i != 2 {
			return to
		}
		return eachPut{to, check}
	}
	r := s
	if by != "steward" {
		r = s.replicator()
	}
	r.wrap = watch
	for n := range 2 {
		o := embassy.ReplicateOptions{}
		if by == "shards" {
			r = s.replicator()
			r.wrap, o.Shards, o.Shard = watch, 2, n
		}
		rep, err := r.start().Replicate(t.Context(), o)
		if err != nil || rep.Exit != 0 && (by != "shards" || n == 1) {
			t.Fatalf("%+v, %v\n%v", rep, err, r.findings)
		}
		if faults := r.kinds(); len(faults) > 0 {
			t.Errorf("faults: %v", faults)
		}
	}
	t.Logf("%d entries went up, and %d of them while others before them were missing", entries, ahead)
	clear(restored)
	if check("/ledger/"); len(restored) < 5 {
		t.Errorf("%d snapshots were looked at", len(restored))
	}
	for _, a := range all {
		a.wrap = nil
		a.mustBackup(0)
	}
	s.restore(2)
	if !fresh { // what was deleted elsewhere goes here too
		s.prune(0)
		s.same()
	}
	s.verified()
}

// A steward's machine was cloned, and its chain forks before the entry in which it
// joined the packs of another agent. Who learns no more of that chain never learns of
// it: so the old packs stay, and a target that was behind is brought up with them.
func TestJoinedBehindFork(t *testing.T) {
	s := newSite(t, 3, 1)
	n := s.neighbour()
	s.runs(0, 1)
	twin := s.clone(t)
	n.wrap = onlyTo(0, 1)
	n.runs(0, 8)
	s.wrap = onlyTo(0, 1)
	prune := func(join int) embassy.PrunedCompartment {
		t.Helper()
		rep, err := s.start().Prune(t.Context(), embassy.PruneOptions{MaxRemove: 1, Join: join})
		if err != nil || len(rep.Compartments) != 1 || rep.Compartments[0].Err != nil {
			t.Fatalf("%+v, %v\n%v", rep, err, s.findings)
		}
		return rep.Compartments[0]
	}
	if c := prune(4); c.Joined < 8 {
		t.Fatalf("%+v", c)
	}
	n.mustBackup(0) // says that it has read the mark, and refers to what was joined: it waits for that
	twin.wrap = onlyTo(2)
	twin.runs(20, 1)
	s.wrap, n.wrap = nil, nil
	s.write("after", random(99, 5000))
	s.mustBackup(5)
	for range 3 {
		if c := prune(1000); c.Deletable > 0 {
			t.Errorf("what was joined behind a fork goes: %+v", c)
		}
	}
	if _, err := s.replicator().start().Replicate(t.Context(), embassy.ReplicateOptions{}); err != nil {
		t.Fatal(err)
	}
	for i := range s.mems {
		v, err := s.view(i)
		if err != nil || len(v.Snapshots("land")) < 8 {
			t.Fatalf("target %d alone shows %d snapshots: %v", i, len(v.Snapshots("land")), err)
		}
		for _, snap := range v.Snapshots("") {
			whole(t, v, snap)
		}
	}
}
