package embassy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"embassy/embassy/format"
	"embassy/targets"
)

const (
	removesAtOnce = 8 // on one target
	provesAtOnce  = 4 // whole packs, of one target
	// refusedEnough is how many refusals, and nothing else, end a clearing.
	refusedEnough = 100
)

// agreedNote, and the target: up to which orders its clearings were not too much for
// it. What a lock kept then is not weighed again.
const agreedNote = "agreed"

// clearing deletes on one target what was ordered to go.
type clearing struct {
	s     *Service
	a     *atlas
	m     *Member
	plans []*prunePlan
	o     PruneOptions

	waste uint64 // bytes of packs that were rewritten, but for what took their place

	agreed map[string]uint64 // by line: the last order to delete that was not too much for the target

	mu      sync.Mutex
	out     PrunedTarget
	refused int // and no lock says why
}

func (c *clearing) run(ctx context.Context) error {
	if c.m.Down() != nil {
		return fmt.Errorf("%w: %w", ErrDown, c.m.Down())
	}
	if why, err := c.s.distrusted(c.m); err != nil || why != nil {
		return errors.Join(err, why)
	}
	agreed, _, err := readNote[map[string]uint64](c.s.catalog, agreedNote+"/"+c.m.Name)
	if err != nil {
		return err
	}
	c.agreed = agreed
	orders := map[string]uint64{} // to agree to now
	maps.Copy(orders, agreed)
	var all []lying
	var errs []error
	for _, p := range c.plans {
		found, err := c.look(ctx, p)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("compartment %s: %w", p.comp.Part.Name, err))
			continue
		}
		all = append(all, found...)
		for _, o := range found {
			key := o.orderedIn(p.comp.ID).noteKey(agreedNote)
			orders[key] = max(orders[key], o.by.Seq)
		}
	}
	bytes, lost := uint64(0), c.waste
	for _, o := range all {
		bytes += o.size
		if !o.moved && !o.agreed {
			lost += o.size
		}
	}
	if c.o.DryRun {
		c.out.Objects, c.out.Bytes = uint64(len(all)), bytes
	}
	if share := float64(lost) / float64(max(c.out.Before, 1)); share > c.o.MaxRemove {
		return errors.Join(append(errs, fmt.Errorf("%d bytes, %.1f %% of what it has, would go for good, which is more than %.0f %%: %w", lost, 100*share, 100*c.o.MaxRemove, ErrTooMuch))...)
	}
	if c.o.DryRun {
		return errors.Join(errs...)
	}
	if err := keepNote(c.s.catalog, agreedNote+"/"+c.m.Name, orders); err != nil {
		return errors.Join(append(errs, err)...)
	}
	return errors.Join(append(errs, c.removeAll(ctx, all))...)
}

// removeAll deletes objects, but for what a lock keeps, with all their versions.
func (c *clearing) removeAll(ctx context.Context, all []lying) error {
	if len(all) == 0 {
		return nil
	}
	// Who reads a snapshot or an index then finds what it names, or nothing.
	order := []format.Kind{format.KindSnapshot, format.KindIndex, format.KindPack}
	slices.SortStableFunc(all, func(x, y lying) int { return slices.Index(order, x.kind) - slices.Index(order, y.kind) })
	pen := c.m.pen()
	store, err := c.versions(ctx, pen, all[0].name) // decided once: no fault that passes turns a deletion into a hiding
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(removesAtOnce)
	for _, o := range all {
		g.Go(func() error { return c.remove(gctx, pen, store, o) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if c.refused > 0 {
		return fmt.Errorf("%d objects: %w: give the steward's credentials the right to delete, as embassy target check --print-policy steward has it", c.refused, targets.ErrDenied)
	}
	return nil
}

// look returns what is to go on the target in one compartment, if all is there
// that the plan rests on.
func (c *clearing) look(ctx context.Context, p *prunePlan) ([]lying, error) {
	r, err := p.region(c.a)
	if err != nil {
		return nil, err
	}
	at, ok := r.member(c.m)
	if !ok {
		return nil, nil // not one of its targets
	}
	held, err := c.heads(r, at)
	if err != nil {
		return nil, err
	}
	tops := maps.Clone(p.tops)
	tops[p.l.chain.line()] = p.l.chain.head()
	for l, top := range tops {
		if held[l] < top {
			return nil, fmt.Errorf("it has %d of %d entries of chain %s of agent %s: %w", held[l], top, l.Chain, p.name(l.Agent), ErrLacks)
		}
	}
	wanted, there := 0, map[spot]bool{}
	before := c.out.Before
	for _, h := range p.listed {
		if h.used && !h.lost {
			wanted++
		}
	}
	var found []lying
	shown := map[format.Head]bool{}
	err = p.each(ctx, c.m, func() {
		clear(there)
		clear(shown)
		found, c.out.Before = nil, before
	}, func(o lying) error {
		c.out.Before += o.size
		h := p.listed[o.spot]
		switch {
		case o.kind == 0:
			if _, rest, ok := strings.Cut(o.name, "/ledger/"); ok {
				if chain, seq, h, err := format.ParseEntryName(rest); err == nil {
					shown[format.Head{Chain: chain, Seq: seq, Hash: h}] = true
				}
			}
		case p.used[o.hash]:
			if h != nil && h.used && !h.lost && h.size == o.size && h.kind == o.kind {
				there[o.spot] = true
			}
		case c.o.DryRun && p.gone[o.hash]:
			found = append(found, o)
		default:
			fate, err := c.s.catalog.Fate(p.comp.ID, o.hash)
			if err != nil {
				return err
			}
			o.by = fate.Deleted
			if l := o.orderedIn(p.comp.ID); o.by.Given() && held[l] >= o.by.Seq {
				o.agreed = o.by.Seq <= c.agreed[l.noteKey(agreedNote)]
				found = append(found, o)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, h := range p.rests { // else who has this target alone sees what was retired
		if !shown[h] {
			return nil, fmt.Errorf("it has not entry %d of chain %s, on which a retirement rests: %w", h.Seq, h.Chain, ErrLacks)
		}
	}
	if len(there) < wanted {
		for at, h := range p.listed {
			if h.used && !h.lost && !there[at] {
				return nil, fmt.Errorf("%d of %d objects that are kept are not there, such as %s %s of agent %s: %w", wanted-len(there), wanted, h.kind, at.hash, p.name(at.agent), ErrLacks)
			}
		}
	}
	return found, c.prove(ctx, p, found, shown)
}

// prove reads, once, all that took the place on the target of what is to go, before
// any of that does. shown are the entries that the target lists.
func (c *clearing) prove(ctx context.Context, p *prunePlan, found []lying, shown map[format.Head]bool) error {
	heirs, told := map[spot]*stock{}, map[*readEntry]bool{}
	var rewritten uint64
	for i := range found {
		h := p.listed[found[i].spot]
		if h == nil {
			continue
		}
		p.heirs(h, heirs, told)
		whole := slices.ContainsFunc(p.replaced[h], func(m move) bool { return m.heads == nil && len(m.packs) > 0 }) // joined: all is there
		if found[i].moved = len(p.replaced[h]) > 0; found[i].moved && !whole && !found[i].agreed {
			rewritten += h.size
		}
	}
	for _, h := range heirs { // of what was rewritten, the rest goes
		rewritten -= min(rewritten, h.size)
	}
	c.waste += rewritten
	for by := range told {
		if !shown[format.Head{Chain: by.Chain, Seq: by.Seq, Hash: by.hash}] { // behind a fork
			return fmt.Errorf("it has not entry %d of chain %s, which tells what took the place of what is to go: %w", by.Seq, by.Chain, ErrLacks)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(provesAtOnce)
	for at, h := range heirs {
		if c.o.DryRun || !h.used {
			continue
		}
		g.Go(func() error {
			known, err := c.s.catalog.Evidence(c.m.Name, at.hash)
			if err != nil || !known.Verified.IsZero() {
				return err
			}
			name := format.ObjectName(p.keys.Charter.Nation, p.comp.ID, at.agent, h.kind, at.hash)
			if _, err := c.m.fetch(ctx, name, h.size, at.hash); err != nil {
				if answered(err) {
					c.s.fault(c.m.Name, kindOf(err), name, fmt.Errorf("%w%s", err, remedy))
				}
				return fmt.Errorf("%s took the place of what is to go, and is not given whole: %w: %w", name, err, ErrLacks)
			}
			now := c.s.now()
			return c.s.catalog.SetEvidence(c.m.Name, map[format.Hash]Evidence{at.hash: {Stored: now, Verified: now}})
		})
	}
	return g.Wait()
}

// heirs adds what took the place of a pack, and of that in turn, and to told the
// entries that say so.
func (p *prunePlan) heirs(h *stock, heirs map[spot]*stock, told map[*readEntry]bool) {
	for _, m := range p.replaced[h] {
		told[m.by] = true
		for _, hash := range m.packs {
			at := spot{m.by.Agent, hash}
			if n := p.listed[at]; n != nil && heirs[at] == nil {
				heirs[at] = n
				p.heirs(n, heirs, told)
			}
		}
	}
}

// heads returns how many first entries of each chain the target has.
func (c *clearing) heads(r *region, m *Member) (map[Line]uint64, error) {
	held := map[Line]uint64{}
	for _, l := range r.lines {
		n, err := l.headOn(m)
		if err != nil {
			return nil, err
		}
		held[l.Line] = n
	}
	return held, nil
}

// versions returns the store, if it keeps versions: then a deletion of just the
// name would only hide an object. An error when these credentials cannot list
// them.
func (c *clearing) versions(ctx context.Context, pen *Member, name string) (targets.Versioned, error) {
	store := pen.versioned(ctx, name)
	power, ok := targets.As[targets.Inspected](c.m.Target)
	if !ok || store != nil {
		return store, ctx.Err()
	}
	var f targets.Features
	err := pen.bounded(ctx, probeTimeout, func(ctx context.Context) (err error) {
		f, err = power.Features(ctx)
		return err
	})
	if err == nil && (f.Versioning || f.Locks) {
		err = fmt.Errorf("it keeps versions, and these credentials may not list them: %w: embassy target check --print-policy steward has what is needed", targets.ErrDenied)
	}
	return nil, err
}

// remove deletes one object, unless a lock keeps it.
func (c *clearing) remove(ctx context.Context, pen *Member, store targets.Versioned, o lying) error {
	err := pen.remove(ctx, store, o.name)
	if errors.Is(err, targets.ErrDenied) {
		until := c.locked(ctx, pen, o.name)
		c.mu.Lock()
		defer c.mu.Unlock()
		if !until.IsZero() {
			c.out.Locked++
			c.out.Until = later(c.out.Until, until)
			return nil
		}
		if c.refused++; c.refused >= refusedEnough && c.out.Objects == 0 {
			return fmt.Errorf("%d refusals in a row: %w", c.refused, err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	if err := c.s.catalog.DropEvidence(c.m.Name, o.hash); err != nil {
		return err
	}
	for _, kind := range contentFaults {
		if err := c.s.clearFault(c.m.Name, kind, o.name); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out.Objects++
	c.out.Bytes += o.size
	return nil
}

// locked returns until when a lock keeps an object; zero: none does, as far as
// the store says.
func (c *clearing) locked(ctx context.Context, pen *Member, name string) time.Time {
	locker, ok := targets.As[targets.Locker](c.m.Target)
	if !ok {
		return time.Time{}
	}
	var lock targets.Lock
	err := pen.bounded(ctx, transferTime(0), func(ctx context.Context) error {
		got, err := locker.LockOf(ctx, name)
		if err == nil {
			lock = got
		}
		return err
	})
	if err != nil || !lock.Until.After(c.s.now()) {
		return time.Time{}
	}
	return lock.Until
}
