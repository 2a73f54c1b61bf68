package embassy_test

import (
	"testing"

	"embassy/embassy"
	"embassy/embassy/format"
	"embassy/targets"
)

// locks notes what the first targets hold. put gives them back what was deleted since,
// as if locks had kept it.
func (s *site) locks(count int) (put func()) {
	s.t.Helper()
	var held []*targets.Mem
	for _, m := range s.mems[:count] {
		held = append(held, clone(s.t, m))
	}
	return func() {
		s.t.Helper()
		packs := s.count(0, "pack")
		for i, m := range held {
			for info, err := range m.List(s.t.Context(), "") {
				if err != nil {
					s.t.Fatal(err)
				}
				if _, err := s.mems[i].Stat(s.t.Context(), info.Name); err != nil {
					copyObject(s.t, m, s.mems[i], info.Name)
				}
			}
		}
		if n := s.count(0, "pack"); n < packs+4 {
			s.t.Fatalf("%d packs were deleted: the test tests nothing", n-packs)
		}
	}
}

// joinsAway joins, marks and deletes packs.
func (s *site) joinsAway() {
	s.t.Helper()
	for range 2 {
		rep, err := s.start().Prune(s.t.Context(), embassy.PruneOptions{MaxRemove: 1, Join: 4})
		if err != nil || len(rep.Compartments) != 1 || rep.Compartments[0].Err != nil {
			s.t.Fatalf("%+v, %v\n%v", rep, err, s.findings)
		}
	}
}

// fills brings everything to target 2, which is new, and restores all from there.
func (s *site) fills(snapshots int) {
	s.t.Helper()
	s.mems[2], s.wrap = targets.NewMem(), nil
	s.replicate(0, embassy.ReplicateOptions{})
	v, err := s.view(2)
	if err != nil || len(v.Snapshots("")) != snapshots {
		s.t.Fatalf("the new target shows %d snapshots: %v", len(v.Snapshots("")), err)
	}
	for _, snap := range v.Snapshots("") {
		if _, err := v.Restore(s.t.Context(), embassy.RestoreOptions{Snapshots: []embassy.SnapshotInfo{snap}, To: s.t.TempDir()}); err != nil {
			s.t.Errorf("entry %d of %s: %v", snap.Seq, snap.Summary.Dataset, err)
		}
	}
	if faults := s.kinds(); len(faults) > 0 {
		s.t.Errorf("faults: %v", faults)
	}
}

// orders counts what the catalog of a site's machine knows to be ordered.
func (s *site) orders() (count int) {
	s.t.Helper()
	for _, fates := range s.catalog.fates {
		count += len(fates)
	}
	return count
}

// A steward's machine was captured, and ordered that what it joined goes; locks on
// the targets kept that. The charter revokes it up to the entry before: a new target
// is filled with everything, also by a machine that had learned of the orders.
func TestRevokedStewardsOrdersAreDropped(t *testing.T) {
	s := newSite(t, 3, 1)
	s.wrap = unreachable(2)
	s.runs(0, 6)
	heads := s.heads(s.agentID())
	put := s.locks(2)
	s.joinsAway()
	old := s.replicator()
	old.wrap = s.wrap
	old.replicate(4, embassy.ReplicateOptions{})
	put()
	s.judge(s.agentID(), format.AgentRevoked, heads...)
	s.replicator().fills(6)
	old.fills(6)
	if n := old.orders(); n != 0 {
		t.Errorf("orders about %d objects are left", n)
	}
}

// What the entries ordered that count still counts: the packs that are gone by then
// are not missed. A charter may say later that more entries count.
func TestRevokedStewardsOrdersThatCount(t *testing.T) {
	s := newSite(t, 3, 1)
	s.wrap = unreachable(2)
	s.runs(0, 6)
	s.joinsAway()
	s.runs(6, 6)
	old := s.replicator()
	old.wrap = s.wrap
	old.replicate(4, embassy.ReplicateOptions{})
	first := old.orders()
	put := s.locks(2)
	s.joinsAway()
	s.runs(12, 1)
	old.replicate(4, embassy.ReplicateOptions{})
	all := old.orders()
	put()
	heads := s.heads(s.agentID())
	s.judge(s.agentID(), format.AgentRevoked, heads[11])
	old.fills(12)
	if n := old.orders(); n != first || first == 0 || all == first {
		t.Errorf("orders about %d objects; %d were given by then, and %d in all", n, first, all)
	}
	s.judge(s.agentID(), format.AgentRevoked, heads[12])
	old.replicate(0, embassy.ReplicateOptions{})
	if n := old.orders(); n != all {
		t.Errorf("orders about %d objects, want all %d again", n, all)
	}
}

// Another steward ordered the same as the one that is revoked, when that counted no
// more: a machine that learns of both at once goes by those orders.
func TestRevokedStewardsOrdersGivenAgain(t *testing.T) {
	s := newSite(t, 3, 1)
	s.wrap = unreachable(2)
	n := s.neighbour()
	n.wrap = s.wrap
	n.runs(0, 1)
	s.runs(0, 6)
	becomes := func(steward *site) {
		s.amend(func(ch *format.Charter) {
			ch.Compartments[0].Stewards = append(ch.Compartments[0].Stewards, steward.agentID())
		})
	}
	becomes(n)
	s.judge(s.agentID(), format.AgentSuspended) // nobody waits for it
	heads := s.heads(n.agentID())
	put := s.locks(2)
	n.joinsAway()
	old := s.replicator()
	old.wrap = s.wrap
	old.replicate(4, embassy.ReplicateOptions{})
	put()
	s.judge(n.agentID(), format.AgentRevoked, heads...)
	s.judge(s.agentID(), format.AgentActive)
	becomes(s)
	s.mustBackup(0)
	s.joinsAway()
	s.replicator().fills(8)
	old.fills(8)
}

// A steward that is revoked marked what another one deleted before that: nothing took
// the place of that, and a new target is filled without it.
func TestRevokedStewardsMarksThatAreGone(t *testing.T) {
	s := newSite(t, 3, 1)
	s.wrap = unreachable(2)
	n := s.neighbour()
	n.wrap = s.wrap
	n.runs(20, 1)
	for i := range 6 {
		s.write("changes", random(uint64(i), 60_000))
		s.mustBackup(0)
	}
	s.becomes(n)
	s.forget2(n, 1)
	heads := s.heads(s.agentID())
	s.becomes(s)
	if c := s.gives(1000, false); c.Marked == 0 {
		t.Fatalf("%+v", c)
	}
	s.becomes(n)
	s.mustBackup(0)
	n.mustBackup(0)
	if c := n.gives(1000, false); c.Deletable == 0 {
		t.Fatalf("%+v", c)
	}
	old := s.replicator()
	old.wrap = s.wrap
	old.replicate(4, embassy.ReplicateOptions{})
	s.judge(s.agentID(), format.AgentRevoked, heads...)
	for _, r := range []*site{s.replicator(), old} {
		s.mems[2], r.wrap = targets.NewMem(), nil
		rep, err := r.start().Replicate(t.Context(), embassy.ReplicateOptions{})
		if err != nil || rep.Exit != 0 {
			t.Errorf("%+v, %v", rep, err)
		}
		if has, of := len(s.named(2, "/ledger/")), len(s.named(1, "/ledger/")); has < of-2 {
			t.Errorf("%d of %d entries", has, of)
		}
	}
	n.wrap = nil
	n.mustBackup(0)
	s.restoresAll(0)
	s.restoresAll(2)
}
