package embassy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"embassy/embassy/format"
	"embassy/embassy/policy"
)

// A prune goes in two runs, and what makes it safe is the order of entries, not
// a clock:
//
//  1. It marks what no snapshot uses. Every agent that reads the mark gives up
//     what is marked, and names the mark in its next entry (orders.go).
//  2. It orders the deletion of what every agent that may write has given up, by
//     its own word, and no snapshot uses after all.
//  3. On each target by itself, it deletes, once the target has that entry, the
//     heads of all chains that the plan was made from, and every object that the
//     kept snapshots use.
//
// It dies anywhere: what was ordered is an entry, and what was not deleted yet
// is still listed by the target.

// underWay is how long what an unfinished backup listed is left alone.
const underWay = 14 * 24 * time.Hour

var (
	// ErrBlind: not all that was written is known, so nobody can tell what is used.
	ErrBlind = errors.New("not everything that the agents wrote can be read, so nothing is forgotten, marked or deleted")
	// ErrTooMuch: a prune would remove a large part of a target.
	ErrTooMuch = errors.New("nothing is deleted there: look at what is to go with --dry-run, and if it is right, raise --max-remove")
	// ErrLacks: a target lacks what the kept snapshots use.
	ErrLacks = errors.New("nothing is deleted there: bring it up to date with embassy replicate, and embassy verify --repair")
)

// PruneOptions say how to prune.
type PruneOptions struct {
	Compartments []string      // none: all that this machine is the steward of
	Grace        time.Duration // between the mark and the deletion
	MaxRemove    float64       // share of the bytes on a target, above which nothing is deleted there; what moved does not count
	DryRun       bool          // order and delete nothing
	JoinAfter    time.Duration // only packs of such an age are joined: younger ones mostly go with the snapshots that are forgotten
	Join         int           // as many short packs of about one size are joined; 0: 16
	Checkpoint   int           // a checkpoint is written when the last one lacks as many entries, and looked for; 0: 256, and 64
	Readers      *Keys         // of readers: packs of which much is not used any more are rewritten; nil: none is
	MaxRepack    uint64        // bytes that are copied at most; 0: no bound
}

func (o PruneOptions) checkpointEvery() uint64 { return uint64(cmp.Or(o.Checkpoint, 256)) }

func (o PruneOptions) joinAt() int { return max(2, cmp.Or(o.Join, 16)) }

// opens returns an error that wraps ErrNotGranted when packs of a compartment shall
// be rewritten, and the keys do not open all of it.
func (o PruneOptions) opens(c *Compartment) error {
	if o.Readers == nil {
		return nil
	}
	for _, r := range o.Readers.Compartments {
		if r.ID == c.ID && r.Reader != nil && r.Lacks != "" {
			return fmt.Errorf("repack of compartment %s: %w: %s", c.Part.Name, ErrNotGranted, r.Lacks)
		}
		if r.ID == c.ID && r.Reader != nil {
			return nil
		}
	}
	return fmt.Errorf("repack of compartment %s: %w: %s", c.Part.Name, ErrNotGranted, cmp.Or(o.Readers.Limit, "name the compartments that they do open"))
}

// PrunedCompartment is what was ordered about a compartment.
type PrunedCompartment struct {
	Compartment   string
	Live          uint64   // packs that snapshots use
	Marked        uint64   // objects that are marked now, for the first time
	MarkedBytes   uint64   // of them; of what nobody lists, as the targets say
	Waiting       uint64   // objects that were marked before, and are not yet to be deleted
	Deletable     uint64   // objects of which the deletion is ordered now
	Joined        uint64   // short packs that were joined; of a dry run: would be
	JoinedInto    uint64   // the packs that took their place
	Repacked      uint64   // packs that were rewritten; of a dry run: would be
	RepackedBytes uint64   // of them
	RepackedLive  uint64   // bytes of what is used in them, which is copied; the rest goes with the old packs
	Waits         []string // for what those that wait do, in words for a person
	Err           error    // why nothing, or not all, could be ordered
}

// PrunedTarget is what was done on a target.
type PrunedTarget struct {
	Target  string
	Objects uint64    // deleted; of a dry run: to be deleted
	Bytes   uint64    // of them
	Before  uint64    // bytes that were there before
	Locked  uint64    // objects that a lock still keeps
	Until   time.Time // when the last of these locks ends; zero: none does, or nobody says
	Err     error     // why nothing, or not all, was deleted
}

// PruneReport is the outcome of a Prune.
type PruneReport struct {
	Started      time.Time
	Elapsed      time.Duration
	Compartments []PrunedCompartment
	Targets      []PrunedTarget // in the order of the configuration
	DryRun       bool
	Exit         int // 4: something is in the way; else 0
}

// Prune marks what no snapshot uses, orders the deletion of what an earlier run
// marked and every agent has given up, and deletes on every target what was
// ordered to go, be it by this run or an earlier one. It also joins short packs, and,
// with keys of readers, rewrites packs with much waste; these must open every
// compartment that is pruned, else nothing is done and the error wraps ErrNotGranted.
func (s *Service) Prune(ctx context.Context, o PruneOptions) (PruneReport, error) {
	rep := PruneReport{Started: s.now(), DryRun: o.DryRun}
	err := s.stewarding(ctx, o.Compartments, func(all []*stewardship) error {
		for _, st := range all {
			if err := o.opens(st.comp); err != nil {
				return err
			}
		}
		a, err := s.openAtlas(ctx)
		if err != nil {
			return err
		}
		var plans []*prunePlan
		for _, st := range all {
			p := &prunePlan{stewardship: st, o: o, out: PrunedCompartment{Compartment: st.comp.Part.Name}}
			err := p.run(ctx, a)
			if err == nil {
				plans = append(plans, p)
				if err = p.repack(ctx); err == nil {
					err = p.consolidate(ctx)
				}
				if err == nil {
					err = cmp.Or(p.checkpoint(ctx), p.unread)
				}
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				p.out.Err, rep.Exit = err, exitDegraded
			}
			rep.Compartments = append(rep.Compartments, p.out)
		}
		if len(plans) == 0 {
			return nil
		}
		if a, err = s.openAtlas(ctx); err != nil { // what the targets have by now
			return err
		}
		rep.Targets = make([]PrunedTarget, len(s.order))
		each(s.order, func(i int, m *Member) {
			c := &clearing{s: s, a: a, m: m, plans: plans, o: o, out: PrunedTarget{Target: m.Name}}
			c.out.Err = c.run(ctx)
			rep.Targets[i] = c.out
		})
		return ctx.Err()
	})
	if err != nil {
		return rep, err
	}
	var objects, bytes uint64
	for _, t := range rep.Targets {
		if t.Err != nil {
			rep.Exit = policy.ExitCode(rep.Exit, exitDegraded)
		}
		objects, bytes = objects+t.Objects, bytes+t.Bytes
	}
	rep.Elapsed = s.now().Sub(rep.Started)
	if o.DryRun {
		return rep, nil
	}
	return rep, s.catalog.AddRun(Run{Kind: "prune", Started: rep.Started, Ended: s.now(), Exit: rep.Exit,
		Note: fmt.Sprintf("%d objects of %d bytes deleted, over all targets", objects, bytes)})
}

// spot is where an object lies, whatever its kind.
type spot struct {
	agent format.ID
	hash  format.Hash
}

// stock is an object that entries list.
type stock struct {
	kind  format.Kind
	size  uint64 // bytes
	used  bool   // a kept snapshot, or the order of things, needs it
	early bool   // it may be of a backup that is not finished
	lost  bool   // it is used, and its deletion was ordered

	by    *readEntry // that lists it
	pos   int        // there
	owner format.ID  // the agent that wrote what is in it
	late  int32      // of a pack: who uses it, as uses.at says
	meant bool       // others took the place of a pack that snapshots refer to
	live  uint64     // of a pack, for repack: bytes of chunks that a tree names
}

// indexedEntry is what an entry lists of packs and indexes.
type indexedEntry struct {
	packs   []*stock
	indexes []spot
}

// prunePlan is what is known, and to be ordered, of one compartment.
type prunePlan struct {
	*stewardship
	o   PruneOptions
	r   *region
	out PrunedCompartment

	v *View
	c *compartmentView

	listed map[spot]*stock
	used   map[format.Hash]bool     // wherever they lie: what somebody has a copy of is not marked by its hash
	heeds  map[Line]map[string]heed // what each line said before the plan was made
	forked map[Line]bool            // that ever were, whatever targets show now
	tops   map[Line]uint64          // the last known entries of all chains, by then
	rests  []format.Head            // what retirements rest on
	ended  map[chainKey]uint64      // the last entry of a chain that another one continues
	gone   map[format.Hash]bool     // that are, or shall be, deleted
	u      *uses
	full   map[*readEntry][]format.Listed // what entries add, with gaps where a checkpoint leaves out
	points []listedPoint

	indexed  []indexedEntry
	taken    map[*stock]bool   // packs that this run repacks, or that repack leaves as they are
	unread   error             // why repack leaves some as they are, for one of them
	done     map[*stock]bool   // packs that this run has replaced, and their indexes
	replaced map[*stock][]move // packs that others took the place of, for all that use them
	brought  map[picked]bool   // packs in entries that order to replace others
}

// run makes the plan, and orders what follows from it.
func (p *prunePlan) run(ctx context.Context, a *atlas) error {
	if err := p.survey(ctx, a); err != nil {
		return err
	}
	marks, err := p.unused(ctx)
	if err != nil {
		return err
	}
	deletes, err := p.due()
	if err != nil || p.o.DryRun {
		return err
	}
	orders, err := p.orders(format.OrderDelete, deletes)
	if err != nil {
		return err
	}
	more, err := p.orders(format.OrderMark, marks)
	if err != nil {
		return err
	}
	return p.give(ctx, append(orders, more...))
}

// give writes an entry that gives orders, if there are any.
func (p *prunePlan) give(ctx context.Context, orders []filing) error {
	if len(orders) == 0 {
		return nil
	}
	safe, err := p.order(ctx, nil, orders...)
	if waits := "the orders to be on as many targets as the commit rule wants"; err == nil && !safe && !slices.Contains(p.out.Waits, waits) {
		p.out.Waits = append(p.out.Waits, waits)
	}
	return err
}

// due returns the objects whose deletion is to be ordered: marked long enough
// ago, given up by all who write, and unused.
func (p *prunePlan) due() (map[format.OrderedKey][]format.Hash, error) {
	now := p.s.now()
	type about struct {
		mark  Order
		owner format.ID
	}
	fenced := map[about][]string{}
	fence := func(mark Order, owner format.ID) (waits []string, err error) { // p.fence, once for each
		waits, ok := fenced[about{mark, owner}]
		if !ok {
			waits, err = p.fence(mark, owner)
			fenced[about{mark, owner}] = waits
		}
		return waits, err
	}
	told := map[string]bool{}
	before := p.ancestors()
	due := map[format.OrderedKey][]format.Hash{}
	p.gone = map[format.Hash]bool{}
	if p.c.orders.unmet {
		p.out.Waits = append(p.out.Waits, "a newer backup, and embassy forget after it: not every target can come to show what took the place of snapshots that were forgotten")
	}
	for k, err := range p.s.catalog.Fates(p.comp.ID) {
		if err != nil {
			return nil, err
		}
		if k.Deleted.Given() {
			p.gone[k.Hash] = true
			continue
		}
		if !k.Marked.Given() || p.used[k.Hash] {
			continue
		}
		why, err := fence(k.Marked, k.Agent)
		if err != nil {
			return nil, err
		}
		if end := k.Marked.At.Add(p.o.Grace); end.After(now) {
			why = append(slices.Clip(why), fmt.Sprintf("the end of the grace period, %s", end.UTC().Format("2006-01-02 15:04 UTC")))
		}
		if len(why) == 0 {
			if why, err = p.relied(spot{k.Agent, k.Hash}, before, map[spot]bool{}, fence); err != nil {
				return nil, err
			}
		}
		if len(why) > 0 {
			p.out.Waiting++
			for _, w := range why {
				if !told[w] {
					told[w] = true
					p.out.Waits = append(p.out.Waits, w)
				}
			}
			continue
		}
		folder := format.OrderedKey{Agent: k.Agent, Kind: k.Kind}
		due[folder] = append(due[folder], k.Hash)
		p.gone[k.Hash] = true
		p.out.Deletable++
	}
	return due, nil
}

// fence returns who may still rely on what an order marked: every agent that may
// write, and has not said in an entry that it read the order. owner is the agent
// in whose folder the object lies. It goes by what was known before the plan was
// made: what a line said later, the plan does not know of.
func (p *prunePlan) fence(mark Order, owner format.ID) (waits []string, err error) {
	ch := p.keys.Charter
	shared := ch.Compartment(p.comp.ID).Shared
	for i := range ch.Agents {
		agent := &ch.Agents[i]
		if agent.Status != format.AgentActive || !slices.Contains(agent.Compartments, p.comp.ID) {
			continue
		}
		wrote := false
		for _, l := range p.r.lines {
			if l.Agent != agent.ID {
				continue
			}
			wrote = true
			if l.Line == p.l.chain.line() {
				continue // this machine goes by its own orders: no backup runs beside a prune
			}
			key := chainKey{l.Agent, l.Chain}
			if at, ok := p.ended[key]; ok && l.last <= at && !p.forked[l.Line] && p.c.chains[key].fork == 0 {
				continue // another chain took its place, and nobody goes on with it
			}
			h := p.heeds[l.Line][mark.Chain.String()]
			k, known, err := p.s.catalog.KnownEntry(Line{p.comp.ID, mark.Agent, mark.Chain}, h.Seq)
			if err != nil {
				return nil, err
			}
			switch {
			case h.Seq >= mark.Seq && known && k.Hash == h.Hash:
			case h.Seq >= mark.Seq && known:
				waits = append(waits, fmt.Sprintf("agent %s, which names another entry %d of the steward's chain than is known: somebody else signed it; if that cannot be explained: embassy agent revoke", p.name(agent.ID), h.Seq))
			case p.ended[key] > 0:
				waits = append(waits, fmt.Sprintf("chain %s of agent %s, on which a clone of its machine went on: only embassy agent revoke ends it", l.Chain, p.name(agent.ID)))
			default:
				waits = append(waits, fmt.Sprintf("agent %s to back up, and so to say that it has read the mark; if it is lost: embassy agent suspend or revoke", p.name(agent.ID)))
			}
		}
		if !wrote && (shared || agent.ID == owner) && agent.ID != p.state.Agent() {
			waits = append(waits, fmt.Sprintf("agent %s, which has not written yet as far as is known, to back up for the first time; if it will not: embassy agent suspend", p.name(agent.ID)))
		}
	}
	return waits, nil
}

// ancestor is a pack that another took the place of, by an entry that marks it.
type ancestor struct {
	spot
	mark Order
}

// ancestors returns, by pack, those that it took the place of.
func (p *prunePlan) ancestors() map[spot][]ancestor {
	out := map[spot][]ancestor{}
	for at, moves := range p.c.moves {
		for _, m := range moves {
			for _, h := range m.packs {
				n := spot{m.by.Agent, h}
				out[n] = append(out[n], ancestor{at, Order{Agent: m.by.Agent, Chain: m.by.Chain, Seq: m.by.Seq}})
			}
		}
	}
	return out
}

// relied returns who may still refer to a pack by the name of one whose place it
// took: who has read that the pack is marked, in the chain of one steward, need not
// have read that those are, in the chain of another. fence is that of the plan.
func (p *prunePlan) relied(at spot, before map[spot][]ancestor, met map[spot]bool, fence func(Order, format.ID) ([]string, error)) (waits []string, err error) {
	for _, a := range before[at] {
		gone, err := p.s.deleted(p.comp.ID, a.hash)
		if err != nil {
			return nil, err
		}
		if met[a.spot] || gone { // then all have given it up
			continue
		}
		met[a.spot] = true
		if waits, err = fence(a.mark, a.agent); err != nil || len(waits) > 0 {
			return waits, err
		}
		if waits, err = p.relied(a.spot, before, met, fence); err != nil || len(waits) > 0 {
			return waits, err
		}
	}
	return nil, nil
}
