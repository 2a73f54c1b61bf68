package embassy

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"embassy/embassy/format"
)

// uses gathers which packs the kept snapshots refer to, as positions in what
// entries add, and which orders to replace packs do not say so much as to cover all
// of these snapshots.
type uses struct {
	moves []*moveOrder // in their order

	mu   sync.Mutex
	byID map[format.ID][]*readChain
	at   map[*readEntry][]int32 // by position: 1 + orders from the first that do not cover all users; 0: no user
	all  map[*readEntry]bool    // somebody refers to it in a way that nobody understands
}

// add is ViewOptions.uses. What a reference may mean is used, in all chains of
// that id.
func (u *uses) add(s committed, refs []format.Refs) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.byID == nil { // all chains are read by now
		u.byID, u.moves = s.c.byID(), s.c.moveOrders
		u.at, u.all = map[*readEntry][]int32{}, map[*readEntry]bool{}
	}
	late := int32(1 + u.uncovered(s))
	for _, ref := range refs {
		for _, ch := range u.byID[ref.Chain] {
			for _, e := range ch.entries[ref.Seq] {
				at, err := format.Positions(ref.Runs, e.adds)
				if err != nil {
					u.all[e] = true
					continue
				}
				if u.at[e] == nil {
					u.at[e] = make([]int32, e.adds)
				}
				for _, i := range at {
					u.at[e][i] = max(u.at[e][i], late)
				}
			}
		}
	}
}

// uncovered returns how many orders there are up to the last one that does not
// cover a snapshot.
func (u *uses) uncovered(s committed) int {
	for n := len(u.moves); n > 0; n-- {
		if yes, _ := u.moves[n-1].covers(s); !yes {
			return n
		}
	}
	return 0
}

// of returns what is known of the users of an object that an entry adds, as in at.
func (u *uses) of(e *readEntry, i int) int32 {
	if u.all[e] {
		return int32(1 + len(u.moves))
	}
	if i < len(u.at[e]) {
		return u.at[e][i]
	}
	return 0
}

// survey finds out what entries list, and what of it is used.
func (p *prunePlan) survey(ctx context.Context, a *atlas) error {
	var err error
	if p.r, err = p.region(a); err != nil {
		return err
	}
	p.heeds, p.tops, p.forked = map[Line]map[string]heed{}, map[Line]uint64{}, map[Line]bool{}
	for _, l := range p.r.lines { // before anything is read
		if p.heeds[l.Line], err = l.heeds(); err != nil {
			return err
		}
		if p.forked[l.Line], err = l.everForked(); err != nil {
			return err
		}
		p.tops[l.Line] = l.last
		if head, ok, err := p.s.catalog.KnownHead(l.Line); err != nil {
			return err
		} else if _, revoked := p.r.revoked[l.Chain]; ok && !revoked {
			p.tops[l.Line] = head.Seq // a replication may have learned more
		}
	}
	u := new(uses)
	keys, err := p.opened(p.o.Readers)
	if err != nil {
		return err
	}
	v, c, err := p.view(ctx, ViewOptions{Keys: keys, Checkpoint: p.o.Checkpoint, uses: u.add, gone: p.s.deleted})
	if err != nil {
		return err
	}
	p.rests, p.c, p.u, p.full = c.orders.rests, c, u, map[*readEntry][]format.Listed{}
	if err := p.complete(v, c); err != nil {
		return err
	}
	p.ended = map[chainKey]uint64{}
	p.v = v
	p.listed, p.used = map[spot]*stock{}, map[format.Hash]bool{}
	p.replaced, p.taken, p.done, p.brought = map[*stock][]move{}, map[*stock]bool{}, map[*stock]bool{}, map[picked]bool{}
	whole := p.restatedWhole()
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(smallFetches)
	for _, ch := range c.sorted() {
		open := p.underWay(ch)
		for _, n := range ch.numbers() {
			for _, e := range ch.entries[n] {
				for _, h := range e.Continues {
					key := chainKey{ch.agent, h.Chain}
					p.ended[key] = max(p.ended[key], h.Seq)
				}
				g.Go(func() error {
					all, err := p.adds(gctx, e, whole)
					if err != nil {
						return fmt.Errorf("%w: entry %d of chain %s: %w", ErrBlind, n, ch.chain, err)
					}
					mu.Lock()
					defer mu.Unlock()
					p.enter(c, e, all, u, n > open)
					p.full[e] = all.Adds
					return nil
				})
			}
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	p.sparePoints()
	if err := p.follow(c); err != nil {
		return err
	}
	lost := 0
	for at, h := range p.listed {
		if h.kind == format.KindPack && h.used {
			p.out.Live++
		}
		if h.used {
			p.used[at.hash] = true
			if h.lost, err = p.s.deleted(p.comp.ID, at.hash); err != nil {
				return err
			}
		}
		if h.lost {
			lost++
		}
	}
	if lost > 0 { // a cloned agent, or one whose host showed it an old ledger of the steward
		p.s.warn(Finding{Object: "compartment " + p.comp.Part.Name, Err: fmt.Errorf(
			"%d objects that snapshots use were ordered to go before anybody used them: where they still are they stay; embassy verify --level decrypt names the snapshots, and the next backup stores anew what they lack", lost)})
	}
	return nil
}

// enter notes what an entry lists. A pack and its index are used by whom follow
// finds, a snapshot until it is retired, a checkpoint while it is one of the newest,
// a record always.
func (p *prunePlan) enter(c *compartmentView, e *readEntry, all format.Entry, u *uses, early bool) {
	var packs []*stock
	var indexes []spot
	replaces := slices.ContainsFunc(all.Orders, func(o format.Ordered) bool { return o.Kind == format.OrderReplace })
	for i, a := range all.Adds {
		if a.Kind == 0 {
			continue // it was deleted
		}
		at := spot{all.Agent, a.Hash}
		h := p.listed[at]
		if h == nil {
			h = &stock{kind: a.Kind, size: a.Size, by: e, pos: i, owner: all.Agent}
			p.listed[at] = h
		}
		h.early = h.early || early && a.Kind != format.KindCheckpoint
		switch a.Kind {
		case format.KindCheckpoint:
			if p.r.steward(all.Agent) {
				p.points = append(p.points, listedPoint{all.Time, at})
			}
		case format.KindPack:
			h.late = max(h.late, u.of(e, i))
			if replaces {
				p.brought[picked{e, a.Hash}] = true
			}
			packs = append(packs, h)
		case format.KindIndex:
			indexes = append(indexes, at)
		case format.KindSnapshot:
			h.used = h.used || slices.Contains(all.Snapshots, a.Hash) && !c.orders.retired[snapshotKey{all.Agent, a.Hash}]
		default:
			h.used = true
		}
	}
	if len(indexes) > 0 {
		p.indexed = append(p.indexed, indexedEntry{packs, indexes})
	}
}

// follow finds out which packs are used: those that snapshots refer to, or that took
// the place of such; and their indexes.
func (p *prunePlan) follow(c *compartmentView) error {
	type step struct {
		old *stock
		move
		by    []*stock // that took its place
		apart bool     // it is behind a fork, where replicators do not follow: while the pack is there, it stays
	}
	var steps []step
	for at, moves := range c.moves {
		o := p.listed[at]
		for _, m := range moves {
			if o == nil {
				break
			}
			st := step{old: o, move: m}
			if ch := c.chains[chainKey{m.by.Agent, m.by.Chain}]; ch.splits(m.by.Seq) {
				gone, err := p.s.deleted(p.comp.ID, at.hash)
				if err != nil {
					return err
				}
				st.apart = !gone
			}
			for _, h := range m.packs {
				if n := p.listed[spot{m.by.Agent, h}]; n != nil && p.brought[picked{m.by, h}] { // readers seek it in that entry
					st.by = append(st.by, n)
				}
			}
			steps = append(steps, st)
		}
	}
	for more := true; more; { // what took the place of a pack has its users, whichever order they go by
		more = false
		for _, st := range steps {
			for _, n := range st.by {
				if n.late < st.old.late {
					n.late, more = st.old.late, true
				}
				if n.owner == n.by.Agent && st.old.owner != n.owner {
					n.owner, more = st.old.owner, true
				}
			}
		}
	}
	short := map[*stock]bool{} // a target may have any of the orders, and no other: each is to be for all users
	for _, st := range steps {
		p.replaced[st.old] = append(p.replaced[st.old], st.move)
		short[st.old] = short[st.old] || st.apart || len(st.by) < len(st.packs) || st.heads != nil && int(st.old.late) > 1+st.place
	}
	maps.DeleteFunc(p.replaced, func(o *stock, _ []move) bool { return short[o] })
	for o := range p.replaced {
		o.meant = o.meant || o.late > 0
		o.late = 0
	}
	for _, h := range p.listed {
		if h.kind == format.KindPack {
			h.used = h.late > 0
		}
	}
	for _, e := range p.indexed {
		used := slices.ContainsFunc(e.packs, func(h *stock) bool { return h.used })
		for _, at := range e.indexes {
			p.listed[at].used = p.listed[at].used || used
		}
	}
	return nil
}

// underWay returns the last entry of a chain that belongs to a finished backup:
// what comes after it a backup may still refer to, if it goes on.
func (p *prunePlan) underWay(ch *readChain) uint64 {
	last := uint64(0)
	for _, n := range slices.Backward(ch.numbers()) {
		for _, e := range ch.entries[n] {
			if last == 0 && p.s.now().Sub(e.When()) > underWay {
				return ch.last // it was given up
			}
			if len(e.Snapshots) > 0 {
				return n
			}
		}
		last = n
	}
	return 0
}

// complete returns why not all that was written is known: what nobody can read
// may use anything.
func (p *prunePlan) complete(v *View, c *compartmentView) error {
	if p.r.beyond > 0 {
		return fmt.Errorf("%w: %d ledger entries are shown, and given by no target that answers: bring back the targets that hold them", ErrBlind, p.r.beyond)
	}
	for _, ch := range c.sorted() {
		for n := uint64(1); n <= ch.last; n++ {
			if !slices.ContainsFunc(ch.entries[n], func(e *readEntry) bool { return n == 1 || ch.entry(n-1, e.Prev) != nil }) {
				return fmt.Errorf("%w: entry %d of chain %s of agent %s is on no target that answers", ErrBlind, n, ch.chain, p.name(ch.agent))
			}
		}
	}
	if err := p.onlyStewards(c); err != nil {
		return err
	}
	for _, l := range p.r.lines {
		ch := c.chains[chainKey{l.Agent, l.Chain}]
		if top := p.tops[l.Line]; ch == nil || ch.last < top {
			return fmt.Errorf("%w: chain %s of agent %s is known up to entry %d, and no target that answers shows so much", ErrBlind, l.Chain, p.name(l.Agent), top)
		}
	}
	if c.unmoved > 0 {
		return fmt.Errorf("%w: %d orders that replaced packs are given by no target that answers: bring back the targets that hold them", ErrBlind, c.unmoved)
	}
	if len(v.unread) > 0 {
		return fmt.Errorf("%w: %d snapshots, such as %s: %w; embassy verify says more, and embassy forget cannot retire what it cannot read", ErrBlind, len(v.unread), v.unread[0].hash, v.unread[0].err)
	}
	return nil
}

// unused returns what is to be marked: what is listed and not used, and what
// lies on targets, for longer than the grace period, and no entry lists.
func (p *prunePlan) unused(ctx context.Context) (map[format.OrderedKey][]format.Hash, error) {
	out := map[format.OrderedKey][]format.Hash{}
	mark := func(at spot, kind format.Kind, size uint64) error {
		fate, err := p.s.catalog.Fate(p.comp.ID, at.hash)
		if err != nil || fate.Marked.Given() {
			return err
		}
		folder := format.OrderedKey{Agent: at.agent, Kind: kind}
		out[folder] = append(out[folder], at.hash)
		p.out.Marked++
		p.out.MarkedBytes += size
		return nil
	}
	for at, h := range p.listed {
		if !p.used[at.hash] && !h.early {
			if err := mark(at, h.kind, h.size); err != nil {
				return nil, err
			}
		}
	}
	strays, err := p.strays(ctx)
	if err != nil {
		return nil, err
	}
	for at, h := range strays {
		if err := mark(at, h.kind, h.size); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// strays are what lies in the compartment on targets that answer, and is in no
// list: of backups that died, and of agents of which it does not count. A target
// whose list ends with an error is left to another run.
func (p *prunePlan) strays(ctx context.Context) (map[spot]stock, error) {
	out := map[spot]stock{}
	var mu sync.Mutex
	var failed error
	before := p.s.now().Add(-p.o.Grace)
	each(p.l.members, func(_ int, m *Member) {
		if m.Down() != nil {
			return
		}
		err := p.each(ctx, m, func() {}, func(o lying) error {
			if !p.enrolled(o.agent) {
				if _, _, ok := strings.Cut(o.name, "/ledger/"); ok {
					mu.Lock()
					defer mu.Unlock()
					failed = fmt.Errorf("%w: target %s has ledgers of agent %s, whom the charter that this machine knows does not have in the compartment: bring back the targets that have a newer one; what nobody enrolled somebody planted: delete it there", ErrBlind, m.Name, o.agent)
				}
				return nil
			}
			if o.kind == 0 || p.listed[o.spot] != nil || p.used[o.hash] || o.kind == format.KindRecord || !o.modified.Before(before) {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			if len(out) >= maxStray {
				return nil // the next run goes on
			}
			out[o.spot] = stock{kind: o.kind, size: o.size}
			return nil
		})
		if err != nil && m.Down() == nil && ctx.Err() == nil {
			mu.Lock()
			failed = err
			mu.Unlock()
		}
	})
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return out, failed
}

// enrolled reports whether the charter has an agent in the compartment.
func (p *prunePlan) enrolled(agent format.ID) bool {
	a := p.keys.Charter.Agent(agent)
	return a != nil && slices.Contains(a.Compartments, p.comp.ID)
}

// lying is an object that a target lists.
type lying struct {
	spot
	name     string
	kind     format.Kind // 0: it is none that entries list
	size     uint64
	modified time.Time
	moved    bool  // others took its place
	by       Order // that it goes; zero: none yet
	agreed   bool  // an earlier run was to delete it, and that was not too much
}

// orderedIn is the line that orders its deletion.
func (o lying) orderedIn(compartment format.ID) Line {
	return Line{compartment, o.by.Agent, o.by.Chain}
}

// each calls f for everything that a target lists in the compartment. begin is
// called before: again, when the list breaks off and is asked for anew.
func (p *prunePlan) each(ctx context.Context, m *Member, begin func(), f func(lying) error) error {
	prefix := fmt.Sprintf("%s/%s/", p.keys.Charter.Nation, p.comp.ID)
	return m.do(ctx, func(ctx context.Context) error {
		begin()
		for info, err := range m.Target.List(ctx, prefix) {
			if err != nil {
				return err
			}
			o := lying{name: info.Name, size: uint64(info.Size), modified: info.Modified}
			o.agent, o.kind, o.hash, _ = parseObject(strings.TrimPrefix(info.Name, prefix))
			if err := f(o); err != nil {
				return err
			}
		}
		return nil
	})
}

// parseObject reads what follows the compartment in the name of an object that
// entries list; ok is false for every other name.
func parseObject(rest string) (agent format.ID, kind format.Kind, h format.Hash, ok bool) {
	parts := strings.Split(rest, "/")
	if len(parts) < 3 {
		return agent, 0, h, false
	}
	for _, k := range listedKinds {
		if k.String() == parts[1] {
			kind = k
		}
	}
	agent, err := format.ParseID(parts[0])
	if err != nil || kind == 0 {
		return agent, 0, h, false
	}
	if h, err = format.ParseHash(parts[len(parts)-1]); err != nil {
		return agent, 0, h, false
	}
	var none format.ID
	if want := format.ObjectName(none, none, agent, kind, h); !strings.HasSuffix(want, "/"+rest) {
		return agent, 0, h, false
	}
	return agent, kind, h, true
}
