package embassy

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"embassy/embassy/format"
	"embassy/targets"
)

// A target gets no entry without a pack that is gone, before it has what took the
// place of that: who has the target alone could not restore what it shows. Where the
// entry that says so comes later in its chain, or in another, it goes ahead, with
// all that it adds.

// heir is an entry of a steward that replaces a pack.
type heir struct {
	l   *line
	seq uint64
}

// replacingNote, and the line: the entries of a steward that replace packs.
const replacingNote = "replacing"

// noteReplacing notes an entry of a steward that replaces packs.
func (l *line) noteReplacing(e format.Entry) error {
	if !slices.ContainsFunc(e.Orders, func(o format.Ordered) bool { return o.Kind == format.OrderReplace }) {
		return nil
	}
	all, err := l.replacing()
	if err != nil || slices.Contains(all, e.Seq) {
		return err
	}
	return keepNote(l.r.a.s.catalog, l.noteKey(replacingNote), append(all, e.Seq))
}

// replacing returns the numbers of the entries that replace packs, ascending.
func (l *line) replacing() ([]uint64, error) {
	all, _, err := readNote[[]uint64](l.r.a.s.catalog, l.noteKey(replacingNote))
	return all, err
}

// replaced returns the packs that an entry of a steward replaces. An order that
// nobody can read is left out: nobody goes by it.
func (l *line) replaced(ctx context.Context, e format.Entry) (out []format.Replaced, err error) {
	for _, given := range e.Orders {
		a, ok := e.Listed(given)
		if !ok || given.Kind != format.OrderReplace {
			continue
		}
		object, err := l.added(ctx, e, a, nil)
		if err != nil {
			return nil, err
		}
		if o, err := format.OpenOrder(object, e.Nation, e.Compartment, given.Kind); err == nil {
			out = append(out, o.Replaced...)
		}
	}
	return out, nil
}

// heirs returns, by pack, the entries that replace it. The orders are read when they
// are first asked for.
func (r *region) heirs(ctx context.Context) (map[spot][]heir, error) {
	if err := r.reading.take(ctx); err != nil {
		return nil, err
	}
	defer r.reading.give()
	if r.replaced != nil {
		return r.replaced, nil
	}
	var mu sync.Mutex
	all := map[spot][]heir{}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(smallFetches)
	for _, l := range r.lines {
		if !r.steward(l.Agent) {
			continue
		}
		replacing, err := l.replacing()
		if err != nil {
			return nil, cmp.Or(g.Wait(), err)
		}
		for _, seq := range replacing {
			if seq > l.last {
				break
			}
			g.Go(func() error {
				e, _, err := l.entry(gctx, seq)
				if err != nil {
					return err
				}
				replaced, err := l.replaced(gctx, e)
				mu.Lock()
				defer mu.Unlock()
				for _, p := range replaced {
					at := spot{p.Agent, p.Pack}
					all[at] = append(all[at], heir{l, seq})
				}
				return err
			})
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	r.replaced = all
	return all, nil
}

// heirsOf is courier.heirs of a courier, for what is not among under already.
func (r *region) heirsOf(c *courier, under ...heir) func(context.Context, *Member, format.Entry, []format.Hash, bool) (bool, error) {
	return func(ctx context.Context, m *Member, e format.Entry, gone []format.Hash, copying bool) (bool, error) {
		all, err := r.heirs(ctx)
		if err != nil {
			return false, err
		}
		for _, h := range gone {
			for _, next := range all[spot{e.Agent, h}] {
				if slices.Contains(under, next) { // orders that lead in a circle
					continue
				}
				if ok, err := r.lead(ctx, c, m, append(slices.Clip(under), next), copying); err != nil || !ok {
					return false, err
				}
			}
		}
		return true, nil
	}
}

// lead brings the last of some heirs to a target, ahead of its turn. Credentials
// that may not write in its agent's folder leave it to others.
func (r *region) lead(ctx context.Context, c *courier, m *Member, path []heir, copying bool) (bool, error) {
	l, seq := path[len(path)-1].l, path[len(path)-1].seq
	if n, err := l.headOn(m); err != nil || n >= seq {
		return err == nil, err
	}
	k, ok, err := r.a.s.catalog.KnownEntry(l.Line, seq)
	if err != nil || !ok {
		return false, err
	}
	key := m.Name + " " + l.name(seq, k.Hash)
	if _, ok := r.led.Load(key); ok {
		return true, nil
	}
	info, err := m.stat(ctx, l.name(seq, k.Hash))
	if err != nil && !errors.Is(err, targets.ErrNotFound) {
		return false, err
	}
	if err != nil || info.Size != int64(k.Size) {
		e, object, err := l.entry(ctx, seq)
		if err != nil {
			return false, err
		}
		d := *c
		d.object = l.added
		d.heirs = r.heirsOf(&d, path...)
		ok, err := d.complete(ctx, m, e, copying)
		if err == nil && ok {
			err = d.putEntry(ctx, m, e, object)
		}
		if errors.Is(err, targets.ErrDenied) {
			err = errWaits
		}
		if err != nil || !ok {
			return false, err
		}
	}
	r.led.Store(key, true)
	return true, nil
}

// heirs is courier.heirs for the own chain.
func (l *ledger) heirs(ctx context.Context, m *Member, e format.Entry, gone []format.Hash, copying bool) (bool, error) {
	r, err := l.neighbours(ctx)
	if err != nil {
		return false, err
	}
	return r.heirsOf(l.courier)(ctx, m, e, gone, copying)
}
