package embassy

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"embassy/embassy/format"
)

// A steward whose machine was captured may have marked and deleted what is needed.
// Once it is revoked up to an entry before that, who had learned of these orders
// goes by them no more, as who never did: then everything that the ledgers list is
// wanted again on every target.
//
// Packs that such an order condemned stay so: what is in them is stored anew, which
// costs room, and nothing else.

// pardonNote, and the line: how far its orders counted when those after that were
// dropped.
const pardonNote = "pardon"

// pardon is what was done about the orders of a revoked agent's chain.
type pardon struct {
	After uint64 `json:"after"` // the last entry that counts
	Known uint64 `json:"known"` // the last that was known
	// Begun: orders were dropped, and those of others are not booked again yet.
	Begun bool `json:"begun,omitempty"`
}

// pardon drops from the catalog what the entries of a revoked steward's chain ordered
// that do not count. Where there is nothing new to drop, it does nothing.
func (l *line) pardon() error {
	cat := l.r.a.s.catalog
	was, ok, err := readNote[pardon](cat, l.noteKey(pardonNote))
	if err != nil {
		return err
	}
	known, err := l.valid()
	now := pardon{After: l.last, Known: known}
	if err != nil || ok && was == now {
		return err
	}
	now.Begun = ok && (was.Begun || was.After < now.After) // or entries count again whose orders were dropped
	for f, err := range cat.Fates(l.Compartment) {
		if err != nil {
			return err
		}
		if now.Begun = now.Begun || l.voids(f.Marked) || l.voids(f.Deleted); now.Begun {
			break
		}
	}
	if now.Begun {
		l.r.pardons = append(l.r.pardons, l)
	}
	if err := keepNote(cat, l.noteKey(pardonNote), now); err != nil || !now.Begun {
		return err
	}
	return cat.DropOrders(l.Line, l.last)
}

// voids reports whether an entry of the line gave an order, and does not count.
func (l *line) voids(o Order) bool {
	return o.Agent == l.Agent && o.Chain == l.Chain && o.Seq > l.last
}

// uphold books again, after orders were dropped, what the stewards' entries that
// count order: of what two ordered about an object, the catalog had the first only.
// What cannot be read now is tried again by the next run.
func (r *region) uphold(ctx context.Context) error {
	if len(r.pardons) == 0 {
		return nil
	}
	for _, l := range r.lines {
		if !r.steward(l.Agent) {
			continue
		}
		err := l.upholdOrders(ctx)
		if ctx.Err() != nil || err != nil && !errors.Is(err, errNowhere) {
			return errors.Join(err, ctx.Err())
		} else if err != nil {
			r.a.s.warn(Finding{Object: folderOf(r.a.key.Nation, l.Line), Err: fmt.Errorf("what it orders is not known to the end: %w", err)})
			return nil
		}
	}
	for _, l := range r.pardons {
		known, err := l.valid()
		if err == nil {
			err = keepNote(r.a.s.catalog, l.noteKey(pardonNote), pardon{After: l.last, Known: known})
		}
		if err != nil {
			return err
		}
	}
	r.pardons = nil
	return nil
}

// upholdOrders books what the line's entries order. Only those that list a record are
// fetched.
func (l *line) upholdOrders(ctx context.Context) error {
	var seqs []uint64
	for o, err := range l.r.a.s.catalog.KnownObjects(l.Compartment, l.Agent, format.KindRecord, nil) {
		if err != nil {
			return err
		}
		if o.Chain == l.Chain && o.Seq <= l.last {
			seqs = append(seqs, o.Seq)
		}
	}
	slices.Sort(seqs)
	for part := range slices.Chunk(slices.Compact(seqs), smallFetches) {
		entries := make([]format.Entry, len(part))
		g, gctx := errgroup.WithContext(ctx)
		for i, seq := range part {
			g.Go(func() (err error) {
				entries[i], _, err = l.entry(gctx, seq)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		for _, e := range entries {
			if err := l.r.a.s.obey(e, func(a format.Listed) ([]byte, error) { return l.added(ctx, e, a, nil) }); err != nil {
				return err
			}
		}
	}
	return nil
}
