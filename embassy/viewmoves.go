package embassy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"embassy/embassy/format"
)

// A steward replaces packs: short ones by one in which they are joined, and those
// of which little is used by others that have just that. What refers to a pack that
// was replaced means those that took its place.

// move is what an order says of a pack that was replaced.
type move struct {
	by    *readEntry    // that gives the order, and lists the packs
	packs []format.Hash // that took the place
	*moveOrder
}

// moveOrder is one order to replace packs.
type moveOrder struct {
	place int                  // among the orders of the compartment, the first one's is 0
	heads map[format.ID]uint64 // it is for snapshots of entries up to these, by chain; nil: for all
}

// covers reports whether what a snapshot needs of a replaced pack lies in those
// that took its place. Where a chain forks nobody can tell, and it is not said.
func (o *moveOrder) covers(s committed) bool {
	return o.heads == nil || s.seq <= o.heads[s.ch.chain] && !s.ch.forked
}

// moves returns what was replaced in a compartment, by pack. They are read when
// they are first asked for. An order that cannot be read is told: then what it
// replaced is sought where it was.
func (v *View) moves(ctx context.Context, c *compartmentView) (map[spot][]move, error) {
	if err := c.moving.take(ctx); err != nil {
		return nil, err
	}
	defer c.moving.give()
	if c.moves != nil {
		return c.moves, nil
	}
	all := slices.DeleteFunc(v.orders(c), func(o givenOrder) bool { return o.Kind != format.OrderReplace })
	read := make([]*format.Order, len(all))
	var unread atomic.Int64
	var g errgroup.Group
	g.SetLimit(smallFetches)
	for i, o := range all {
		g.Go(func() (err error) {
			if read[i], err = v.openOrder(ctx, c, o); err != nil && ctx.Err() == nil {
				if !errors.Is(err, format.ErrMalformed) { // what nobody can read orders nothing
					unread.Add(1)
				}
				v.warn(Finding{Object: format.ObjectName(o.e.Nation, c.ID, o.e.Agent, format.KindRecord, o.Record),
					Err: fmt.Errorf("what this order of the steward replaced is sought where it was: %w", err)})
			}
			return nil
		})
	}
	g.Wait()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c.moves, c.unmoved = map[spot][]move{}, int(unread.Load())
	for i, o := range read {
		if o == nil {
			continue
		}
		m := &moveOrder{place: len(c.moveOrders)}
		c.moveOrders = append(c.moveOrders, m)
		for _, h := range o.Heads {
			if m.heads == nil {
				m.heads = map[format.ID]uint64{}
			}
			m.heads[h.Chain] = max(m.heads[h.Chain], h.Seq)
		}
		for _, r := range o.Replaced {
			at := spot{r.Agent, r.Pack}
			c.moves[at] = append(c.moves[at], move{all[i].e, r.Packs(), m})
		}
	}
	return c.moves, nil
}

// moved returns what took the place of a pack for a snapshot: the last order that
// covers it says so.
func moved(moves map[spot][]move, s committed, at spot) (move, bool) {
	for _, m := range slices.Backward(moves[at]) {
		if m.covers(s) {
			return m, true
		}
	}
	return move{}, false
}

// meant adds to packs what a reference of a snapshot to a pack means.
func meant(moves map[spot][]move, s committed, at spot, packs map[format.Hash]bool) {
	m, ok := moved(moves, s, at)
	if !ok {
		packs[at.hash] = true
		return
	}
	for _, h := range m.packs {
		if !packs[h] { // an order that leads in a circle ends here
			packs[h] = true
			meant(moves, s, spot{m.by.Agent, h}, packs)
		}
	}
}

// givenOrder is an order with the entry that gives it.
type givenOrder struct {
	e *readEntry
	format.Ordered
	when int64 // no earlier than what is before it in its chain, whatever the clock said
}

// orders returns what the stewards of a compartment ordered, the first first: over
// all chains, the last one counts.
func (v *View) orders(c *compartmentView) []givenOrder {
	var all []givenOrder
	for _, ch := range c.sorted() {
		if !v.steward(c, ch.agent) {
			continue
		}
		var when int64
		for _, n := range ch.numbers() {
			for _, e := range ch.entries[n] {
				when = max(when, e.Time)
				for _, o := range e.Orders {
					all = append(all, givenOrder{e, o, when})
				}
			}
		}
	}
	slices.SortStableFunc(all, func(a, b givenOrder) int {
		return cmp.Or(cmp.Compare(a.when, b.when), cmp.Compare(a.e.Seq, b.e.Seq))
	})
	return all
}
