package embassy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"embassy/embassy/format"
)

// checkpointsKept are the newest ones, which stay; a prune deletes the others.
const checkpointsKept = 2

// listedPoint is a checkpoint that an entry of a steward lists.
type listedPoint struct {
	when int64 // of the entry
	at   spot
}

// sparePoints says that the newest checkpoints are used. The others help nobody.
func (p *prunePlan) sparePoints() {
	slices.SortFunc(p.points, func(a, b listedPoint) int {
		return cmp.Or(cmp.Compare(b.when, a.when), slices.Compare(a.at.hash[:], b.at.hash[:]))
	})
	for _, point := range p.points[:min(len(p.points), checkpointsKept)] {
		p.listed[point.at].used = true
	}
}

// restatedWhole reports whether a checkpoint restates all that the kept snapshots
// refer to. If not, somebody refers to what was deleted before, and the entries tell
// what took its place.
func (p *prunePlan) restatedWhole() bool {
	for _, ch := range p.c.sorted() {
		for _, es := range ch.entries {
			for _, e := range es {
				if !e.restated {
					continue
				}
				if p.u.all[e] {
					return false
				}
				all, err := p.restatement(e)
				if err != nil {
					return false
				}
				for i, a := range all.Adds {
					if a.Kind == 0 && p.u.of(e, i) != 0 {
						return false
					}
				}
			}
		}
	}
	return true
}

// restatement is an entry as far as the checkpoint restates it.
func (p *prunePlan) restatement(e *readEntry) (format.Entry, error) {
	return p.c.checkpoint.Entry(restates(p.c.checkpoint, chainKey{e.Agent, e.Chain}, e.Seq, e.hash), e.Seq)
}

// adds returns what an entry adds; whole: with gaps of kind 0 where a checkpoint
// leaves out what was deleted.
func (p *prunePlan) adds(ctx context.Context, e *readEntry, whole bool) (format.Entry, error) {
	if e.restated && whole {
		return p.restatement(e)
	}
	return p.v.fetchEntry(ctx, p.c, chainKey{e.Agent, e.Chain}, e.Seq, e, nil, 0)
}

// checkpoint writes a checkpoint of what the plan was made from, if the last one
// lacks so much that it pays.
func (p *prunePlan) checkpoint(ctx context.Context) error {
	if p.o.DryRun || p.c.orders.unmet {
		return nil
	}
	cp := format.Checkpoint{
		Nation: p.keys.Charter.Nation, Compartment: p.comp.ID, Agent: p.state.Agent(), Time: p.s.now().UnixNano(),
	}
	lacks := uint64(0)
	for _, ch := range p.c.sorted() {
		restated, err := p.restated(ch)
		if err != nil {
			return err
		}
		n := restated.Len()
		if n == 0 {
			continue
		}
		cp.Chains = append(cp.Chains, restated)
		lacks += n
		if old := p.c.checkpoint; old != nil {
			if was := old.Chain(ch.agent, ch.chain); was != nil && was.Len() <= n && restated.Hash(was.Len()) == was.Head().Hash {
				lacks -= was.Len()
			}
		}
	}
	if lacks < p.o.checkpointEvery() {
		return nil
	}
	if err := p.restateObjects(&cp); err != nil {
		return err
	}
	object, err := format.SealCheckpoint(cp, p.state.key.Signer)
	if errors.Is(err, format.ErrTooLarge) {
		p.s.warn(Finding{Object: "compartment " + p.comp.Part.Name, Err: fmt.Errorf("no new checkpoint: %w: readers read what came after the last one entry by entry", err)})
		return nil
	}
	if err != nil {
		return err
	}
	_, err = p.order(ctx, nil, filing{object: object, kind: format.KindCheckpoint}) // which target lacks it reads the entries
	return err
}

// restated names the entries of a chain, up to where it forks or this machine
// knows another one.
func (p *prunePlan) restated(ch *readChain) (format.RestatedChain, error) {
	out := format.RestatedChain{Agent: ch.agent, Chain: ch.chain}
	for n := uint64(1); n <= ch.last && len(ch.entries[n]) == 1; n++ {
		e := ch.entries[n][0]
		k, ok, err := p.s.catalog.KnownEntry(Line{p.comp.ID, ch.agent, ch.chain}, n)
		if err != nil {
			return out, err
		}
		if !ok || k.Hash != e.hash || n > 1 && ch.entry(n-1, e.Prev) == nil {
			break
		}
		out.Add(format.Entry{Time: e.Time}, e.hash, k.Size)
	}
	return out, nil
}

// restateObjects says what the entries that a checkpoint names still list: all
// but what its own entries order to be deleted, and no kept snapshot refers to.
func (p *prunePlan) restateObjects(cp *format.Checkpoint) error {
	within := map[Line]uint64{}
	for i := range cp.Chains {
		ch := &cp.Chains[i]
		within[Line{p.comp.ID, ch.Agent, ch.Chain}] = ch.Len()
	}
	gone := map[snapshotKey]bool{} // not listed any more
	for i := range cp.Chains {
		named := cp.Chains[i]
		said := format.RestatedChain{Agent: named.Agent, Chain: named.Chain}
		for n := uint64(1); n <= named.Len(); n++ {
			e := p.c.chains[chainKey{named.Agent, named.Chain}].entry(n, named.Hash(n))
			all := e.Entry
			all.Adds = slices.Clone(p.full[e])
			for i, a := range all.Adds {
				if a.Kind == 0 {
					continue
				}
				fate, err := p.s.catalog.Fate(p.comp.ID, a.Hash)
				if err != nil {
					return err
				}
				by := fate.Deleted
				if by.Given() && by.Seq <= within[Line{p.comp.ID, by.Agent, by.Chain}] && !p.used[a.Hash] && !p.meant(e, i, a.Hash) {
					all.Adds[i] = format.Listed{}
					gone[snapshotKey{e.Agent, a.Hash}] = true
				}
			}
			said.Add(all, e.hash, named.Size(n))
		}
		cp.Chains[i] = said
	}
	for _, ch := range p.c.sorted() { // what is read entry by entry, beyond a fork or the end, lists some too
		for n, es := range ch.entries {
			for _, e := range es {
				for _, h := range e.Snapshots {
					if n > within[Line{p.comp.ID, ch.agent, ch.chain}] {
						delete(gone, snapshotKey{ch.agent, h})
					}
				}
			}
		}
	}
	still := func(which map[snapshotKey]bool) []format.OrderedObject {
		snapshots := map[format.ID][]format.Hash{}
		for s := range which {
			if !gone[s] { // what no target that answers lists, such as a clone's, may be shown by another
				snapshots[s.agent] = append(snapshots[s.agent], s.hash)
			}
		}
		return format.OrderedSnapshots(snapshots)
	}
	cp.Retired, cp.Pinned = still(p.c.orders.retired), still(p.c.orders.pinned)
	held := slices.SortedFunc(maps.Keys(p.c.orders.held), func(a, b [8]byte) int { return slices.Compare(a[:], b[:]) })
	for _, name := range held {
		cp.Held = append(cp.Held, name[:]...)
	}
	return nil
}

// meant reports whether a snapshot refers to an object that an entry adds, or to a
// pack that it took the place of: then it tells what took its own.
func (p *prunePlan) meant(e *readEntry, i int, h format.Hash) bool {
	at := p.listed[spot{e.Agent, h}]
	return p.u.of(e, i) != 0 || at != nil && at.meant
}
