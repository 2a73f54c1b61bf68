package embassy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"embassy/embassy/format"
	"embassy/targets"
)

// A target gets no entry without a pack that is gone, before it has what took the
// place of that: who has the target alone could not restore what it shows. Where the
// entry that says so comes later in its chain, or in another, it goes ahead, with
// all that it adds. It is the one that marked the pack: what is marked is not
// replaced again (prunePlan.movable).

// replacingNote, and the line: the entries of a steward that replace packs.
const replacingNote = "replacing"

// noteReplacing notes an entry of a steward that replaces packs.
func (s *Service) noteReplacing(e format.Entry) error {
	if !slices.ContainsFunc(e.Orders, func(o format.Ordered) bool { return o.Kind == format.OrderReplace }) {
		return nil
	}
	l := Line{e.Compartment, e.Agent, e.Chain}
	all, err := s.replacing(l)
	if err != nil || slices.Contains(all, e.Seq) {
		return err
	}
	return keepNote(s.catalog, l.noteKey(replacingNote), append(all, e.Seq))
}

// replacing returns the numbers of the entries of a line that replace packs, ascending.
func (s *Service) replacing(l Line) ([]uint64, error) {
	all, _, err := readNote[[]uint64](s.catalog, l.noteKey(replacingNote))
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

// leading names an entry of a steward on its way to a target, or all of an agent's.
type leading struct {
	member string
	agent  format.ID
	chain  format.ID
	seq    uint64
}

// leads is courier.lead for a courier. path are the entries on whose account it is
// asked: orders that lead in a circle end there.
func (r *region) leads(c *courier, path ...leading) func(context.Context, *Member, Order, bool) (bool, error) {
	return func(ctx context.Context, m *Member, mark Order, copying bool) (bool, error) {
		key := leading{m.Name, mark.Agent, mark.Chain, mark.Seq}
		if slices.Contains(path, key) {
			return true, nil
		}
		if _, ok := r.led.Load(key); ok {
			return true, nil
		}
		ok, err := r.lead(ctx, c, m, mark, copying, append(slices.Clip(path), key))
		if err == nil && ok {
			r.led.Store(key, true)
		}
		return ok, err
	}
}

// lead brings to a target the entry that marked something, ahead of its turn, if it
// replaces packs. Credentials that may not write in its agent's folder leave it to
// others.
func (r *region) lead(ctx context.Context, c *courier, m *Member, mark Order, copying bool, path []leading) (bool, error) {
	if last, revoked := r.revoked[mark.Chain]; revoked && mark.Seq > last {
		return true, nil // nobody goes by it
	}
	replacing, err := r.a.s.replacing(Line{r.id, mark.Agent, mark.Chain})
	if err != nil || !slices.Contains(replacing, mark.Seq) {
		return err == nil, err
	}
	i := slices.IndexFunc(r.lines, func(l *line) bool { return l.Agent == mark.Agent && l.Chain == mark.Chain })
	if i < 0 {
		return false, errWaits
	}
	l := r.lines[i]
	if n, err := l.headOn(m); err != nil || n >= mark.Seq {
		return err == nil, err
	}
	k, ok, err := r.a.s.catalog.KnownEntry(l.Line, mark.Seq)
	if err != nil || !ok {
		return false, cmp.Or(err, errWaits)
	}
	if why, ok := r.denied.Load(leading{member: m.Name, agent: l.Agent}); ok {
		return false, why.(error)
	}
	info, err := m.stat(ctx, l.name(k.Seq, k.Hash))
	if err != nil && !errors.Is(err, targets.ErrNotFound) {
		return false, err
	}
	if err != nil || info.Size != int64(k.Size) {
		if ok, err := r.bringAhead(ctx, c, l, m, mark, copying, path); err != nil || !ok {
			return false, err
		}
	}
	return true, r.a.s.catalog.Place(m.Name, k.Hash, r.a.s.now())
}

// void reports whether what an order deletes was marked by nothing that counts: all
// is known that the steward had read and that counts, and none of that marks it. A
// revoked one did, whose orders nobody goes by.
func (r *region) void(_ context.Context, deleted Order) (bool, error) {
	i := slices.IndexFunc(r.lines, func(l *line) bool { return l.Agent == deleted.Agent && l.Chain == deleted.Chain })
	if i < 0 {
		return false, nil
	}
	heeds, err := r.lines[i].heeds()
	if err != nil {
		return false, err
	}
	known, counts := map[string]uint64{}, map[string]uint64{}
	for _, l := range r.lines {
		known[l.Chain.String()] = l.last
	}
	for chain := range r.revoked {
		counts[chain.String()] = 0
	}
	for i := range r.a.charter.Agents {
		for _, h := range r.a.charter.Agents[i].After {
			counts[h.Chain.String()] = max(counts[h.Chain.String()], h.Seq)
		}
	}
	for chain, h := range heeds {
		need := h.Seq
		if last, revoked := counts[chain]; revoked {
			need = min(need, last)
		}
		if known[chain] < need {
			return false, nil
		}
	}
	return true, nil
}

// bringAhead brings an entry with all that it adds: what is small comes first, and
// tells whether the credentials suffice.
func (r *region) bringAhead(ctx context.Context, c *courier, l *line, m *Member, mark Order, copying bool, path []leading) (bool, error) {
	e, object, err := l.entry(ctx, mark.Seq)
	if err != nil {
		return false, err
	}
	d := *c
	d.object = l.added
	d.lead = r.leads(&d, path...)
	records := slices.DeleteFunc(slices.Clone(e.Adds), func(a format.Listed) bool { return a.Kind != format.KindRecord })
	missing, _, err := d.missing(ctx, m, e, records)
	if err == nil {
		err = d.copy(ctx, m, e, missing)
	}
	ok := false
	if err == nil {
		ok, err = d.complete(ctx, m, e, copying)
	}
	if err == nil && ok {
		err = d.putEntry(ctx, m, e, object)
	}
	if errors.Is(err, targets.ErrDenied) && !errors.Is(err, errNowhere) {
		err = fmt.Errorf("%w: %w", errWaits, err)
		r.denied.Store(leading{member: m.Name, agent: l.Agent}, err)
	}
	return ok && err == nil, err
}

// lead is courier.lead for the own chain.
func (l *ledger) lead(ctx context.Context, m *Member, mark Order, copying bool) (bool, error) {
	r, err := l.neighbours(ctx)
	if err != nil {
		return false, err
	}
	return r.leads(l.courier)(ctx, m, mark, copying)
}

// void is courier.void for the own chain.
func (l *ledger) void(ctx context.Context, deleted Order) (bool, error) {
	r, err := l.neighbours(ctx)
	if err != nil {
		return false, err
	}
	return r.void(ctx, deleted)
}

// leadAll brings to a target all that this agent, a steward, replaced: the chain for
// which the own one waits may wait for that.
func (l *ledger) leadAll(ctx context.Context, m *Member) error {
	r, err := l.neighbours(ctx)
	if err != nil {
		return err
	}
	for _, own := range r.lines {
		if own.Line != l.chain.line() {
			continue
		}
		replacing, err := l.s.replacing(own.Line)
		if err != nil {
			return err
		}
		for _, seq := range replacing {
			if _, err := l.lead(ctx, m, Order{Agent: own.Agent, Chain: own.Chain, Seq: seq}, true); err != nil {
				return err
			}
		}
	}
	return nil
}
