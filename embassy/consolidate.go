package embassy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"embassy/chunk"
	"embassy/embassy/format"
)

// joinAtOnce bounds the packs that one entry replaces: what was joined before a
// crash is then not joined again.
const joinAtOnce = 1 << 12

// consolidate joins short packs, segment by segment: it needs no key of a reader,
// and opens no chunk. Packs of about one size are joined when there are enough of
// them, or when they fill a pack, so that each byte is moved a few times only, ever.
func (p *prunePlan) consolidate(ctx context.Context) error {
	groups, err := p.shorts()
	if err != nil {
		return err
	}
	for _, g := range groups {
		p.out.Joined += uint64(len(g))
		p.out.JoinedInto++
	}
	if p.o.DryRun {
		return nil
	}
	var errs []error
	for len(groups) > 0 {
		n, packs := 0, 0
		for n < len(groups) && packs < joinAtOnce {
			packs += len(groups[n])
			n++
		}
		if err := p.join(ctx, groups[:n]); err != nil {
			errs = append(errs, fmt.Errorf("join packs: %w", err))
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		groups = groups[n:]
	}
	return errors.Join(errs...)
}

// short is a pack that is to be joined with others.
type short struct {
	spot
	*stock
}

func (s short) object() object { return object{s.kind, s.hash, s.size, s.agent, s.by.shown} }

// compare is for the order of age.
func (s short) compare(o short) int {
	return cmp.Or(cmp.Compare(s.by.Time, o.by.Time), slices.Compare(s.hash[:], o.hash[:]))
}

// shorts returns the packs that are to be joined, oldest first: of one agent each,
// and no more than fit into one pack.
func (p *prunePlan) shorts() ([][]short, error) {
	full, before := uint64(p.s.packSize()), p.s.now().Add(-p.o.JoinAfter)
	type tier struct {
		owner format.ID
		size  int // about log4 of it
	}
	tiers := map[tier][]short{}
	for at, h := range p.listed {
		if h.kind != format.KindPack || p.taken[h] || h.size >= full/2 || h.by.When().After(before) {
			continue
		}
		if ok, err := p.movable(at, h); err != nil || !ok {
			if err != nil {
				return nil, err
			}
			continue
		}
		t := tier{h.owner, bits.Len64(h.size) / 2}
		tiers[t] = append(tiers[t], short{at, h})
	}
	var out [][]short
	for _, all := range tiers {
		slices.SortFunc(all, short.compare)
		for len(all) > 0 {
			n, size := 0, uint64(0)
			for n < len(all) && size+all[n].size <= full {
				size += all[n].size
				n++
			}
			if n >= p.o.joinAt() || n > 1 && size > full*3/4 {
				out = append(out, all[:n])
			}
			all = all[n:]
		}
	}
	slices.SortFunc(out, func(a, b []short) int { return slices.Compare(a[0].hash[:], b[0].hash[:]) })
	return out, nil
}

// movable reports whether others may take a pack's place: not, if it is marked.
func (p *prunePlan) movable(at spot, h *stock) (bool, error) {
	if !h.used || h.lost || h.early {
		return false, nil
	}
	fate, err := p.s.catalog.Fate(p.comp.ID, at.hash)
	return !fate.Marked.Given(), err
}

// join joins groups of packs, and orders that the results take their place.
func (p *prunePlan) join(ctx context.Context, groups [][]short) error {
	w := p.rewrite(ctx)
	var g errgroup.Group
	g.SetLimit(2)
	var replaced []format.Replaced
	made, bad := make([]format.Hash, len(groups)), make([]error, len(groups))
	for i, group := range groups {
		g.Go(func() error {
			group, pack, err := p.joined(ctx, group)
			if groups[i] = group; err != nil && ctx.Err() == nil {
				groups[i], bad[i] = nil, err // the others are joined
				return nil
			}
			if err != nil || len(group) == 0 {
				return err
			}
			made[i] = pack.Hash
			ids, err := p.reusable(pack)
			if err != nil {
				return err
			}
			return w.offer(pack, ids)
		})
	}
	if err := w.end(g.Wait()); err != nil {
		return err
	}
	for i, group := range groups {
		for _, s := range group {
			replaced = append(replaced, format.NewReplaced(s.agent, s.hash, made[i:i+1]))
		}
	}
	var err error
	if len(replaced) > 0 {
		err = w.replace(ctx, replaced, nil)
	}
	return errors.Join(append(bad, err)...)
}

// joined fetches packs, and joins those that it returns: all that readers go by where
// they lie. What an agent signed in the name of another is not joined: in a steward's
// folder nobody could tell. The pack is a new one: what a run that died has stored, or
// listed, or what was marked since, takes nothing's place.
func (p *prunePlan) joined(ctx context.Context, group []short) ([]short, format.Pack, error) {
	objects := make([][]byte, len(group))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(smallFetches / 2)
	for i, s := range group {
		g.Go(func() error {
			objects[i] = make([]byte, s.size)
			return p.c.source.whole(gctx, s.object(), objects[i], false, nil)
		})
	}
	if err := g.Wait(); err != nil {
		return nil, format.Pack{}, err
	}
	var good []short
	var data [][]byte
	for i, s := range group {
		if err := p.joinable(s, objects[i]); err != nil {
			p.s.warn(Finding{Object: p.c.source.name(s.object()), Err: fmt.Errorf("not joined with others: %w", err)})
			continue
		}
		good, data = append(good, s), append(data, objects[i])
	}
	if len(good) < 2 {
		return nil, format.Pack{}, nil
	}
	for range data {
		pack, err := format.Join(p.comp.Writers, data...)
		if err != nil {
			return nil, pack, err
		}
		_, known, err := p.s.catalog.PackByHash(pack.Hash)
		if err != nil {
			return nil, pack, err
		}
		fate, err := p.s.catalog.Fate(p.comp.ID, pack.Hash)
		if err != nil || !known && !fate.Marked.Given() && !fate.Deleted.Given() {
			return good, pack, err
		}
		data = append(data[1:], data[0]) // in another order it is another pack
	}
	return nil, format.Pack{}, nil
}

// joinable returns an error if readers do not go by a pack where it lies.
func (p *prunePlan) joinable(s short, data []byte) error {
	parsed, err := format.ParsePack(data)
	if err != nil {
		return err
	}
	for _, seg := range parsed.Segments {
		h, _, err := p.c.directory(seg)
		if err != nil {
			return err
		}
		if !p.v.belongs(p.c, s.agent, h.Scope) {
			return fmt.Errorf("%w: a segment of agent %s is from elsewhere", format.ErrMalformed, h.Scope.Agent)
		}
	}
	return nil
}

// reusable returns the ids of the chunks in a new pack that this machine may reuse.
func (p *prunePlan) reusable(pack format.Pack) ([]chunk.ID, error) {
	parsed, err := format.ParsePack(pack.Data)
	if err != nil {
		return nil, err
	}
	var ids []chunk.ID
	for _, s := range parsed.Segments {
		if ids, err = p.l.directory(ids, s); err != nil {
			return nil, fmt.Errorf("pack %s: %w", pack.Hash, err)
		}
	}
	return ids, nil
}

// rewriting brings packs to the targets that take the place of others.
type rewriting struct {
	p       *prunePlan
	ctx     context.Context
	cancel  context.CancelFunc
	out     *fanout
	sending errgroup.Group
	check   func(data []byte) error // of a pack, before it counts as made; nil: none

	mu   sync.Mutex
	made []madePack
}

// madePack is a new pack, and the chunks in it that this machine may reuse.
type madePack struct {
	PackState
	ids []chunk.ID
}

func (p *prunePlan) rewrite(ctx context.Context) *rewriting {
	w := &rewriting{p: p}
	w.ctx, w.cancel = context.WithCancel(ctx)
	buffers := packBuffers + (openPacks+1)*(len(p.c.Writers)-1) // repack fills packs of several epochs at once
	w.out = p.l.newFanout(buffers, func(sent *parcel) error {
		state := p.l.packState(sent.pack)
		if w.check != nil {
			if err := w.check(sent.pack.Data); err != nil {
				return fmt.Errorf("new pack %s: %w", sent.pack.Hash, err)
			}
		}
		var err error
		if state.Num, err = p.s.catalog.AddPack(state, nil); err != nil { // its chunks are elsewhere until the order is given
			return err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.made = append(w.made, madePack{state, sent.ids})
		return nil
	})
	w.sending.Go(func() error { return w.out.run(w.ctx) })
	return w
}

// offer sends a pack that is not in a buffer of the fanout.
func (w *rewriting) offer(pack format.Pack, ids []chunk.ID) error {
	if _, err := w.out.buffer(w.ctx); err != nil { // its memory takes the place of this
		return err
	}
	w.out.offer(pack, ids)
	return nil
}

// end waits until every pack is durable; failed is why not all were offered: then no
// entry will list those that are.
func (w *rewriting) end(failed error) error {
	if failed == nil {
		failed = w.out.drain(w.ctx)
	}
	if failed != nil {
		w.cancel()
	}
	w.out.close()
	failed = cmp.Or(failed, w.sending.Wait())
	w.cancel()
	if failed != nil {
		return errors.Join(failed, w.abandon())
	}
	return nil
}

// abandon gives up the packs that were made: no entry will list them.
func (w *rewriting) abandon() error {
	for _, m := range w.made {
		if err := w.p.s.catalog.Abandon(m.Num); err != nil {
			return err
		}
	}
	return nil
}

// replace orders that the packs that were made take the place of others, and that
// nobody refers to these any more. heads are as in format.Order.
func (w *rewriting) replace(ctx context.Context, replaced []format.Replaced, heads []format.Head) error {
	p := w.p
	o := format.Order{Nation: p.keys.Charter.Nation, Compartment: p.comp.ID, Heads: heads}
	records, err := format.SealReplaced(o, replaced)
	if err != nil {
		return err
	}
	olds := map[format.OrderedKey][]format.Hash{}
	for _, r := range replaced {
		folder := format.OrderedKey{Agent: r.Agent, Kind: format.KindPack}
		olds[folder] = append(olds[folder], r.Pack)
		p.done[p.listed[spot{r.Agent, r.Pack}]] = true
	}
	needed := func(h *stock) bool { return h.used && !p.done[h] }
	for _, e := range p.indexed { // nor is an index needed, of which no pack is
		for _, at := range e.indexes {
			if !needed(p.listed[at]) || slices.ContainsFunc(e.packs, needed) {
				continue
			}
			p.done[p.listed[at]] = true
			folder := format.OrderedKey{Agent: at.agent, Kind: format.KindIndex}
			olds[folder] = append(olds[folder], at.hash)
		}
	}
	orders, err := p.orders(format.OrderMark, olds)
	if err != nil {
		return err
	}
	for _, r := range records {
		orders = append(orders, filing{object: r, order: format.OrderReplace})
	}
	if err := p.give(ctx, orders); err != nil {
		return err
	}
	for _, m := range w.made { // now they are reused from here
		if len(m.ids) == 0 {
			continue
		}
		if _, err := p.s.catalog.AddPack(m.PackState, m.ids); err != nil {
			return err
		}
	}
	return nil
}
