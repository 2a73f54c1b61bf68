package embassy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
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
	place int                         // among the orders to replace packs in the compartment, the first one's is 0
	given int                         // among all orders
	heads map[format.ID][]format.Head // it is for snapshots of these entries and their ancestors, by chain; nil: for all
	blind bool                        // some of heads are not shown, and may retire snapshots

	mu   sync.Mutex
	down map[*readChain]descent
}

// descent are entries and their ancestors, down to what is not shown.
type descent struct {
	entries map[*readEntry]bool
	gap     uint64 // the greatest number of that; 0: all are shown
}

// covers reports whether what a snapshot needs of a replaced pack lies in those
// that took its place: not, if it was retired by then. sure is false where nobody
// can tell for want of entries.
func (o *moveOrder) covers(s committed) (yes, sure bool) {
	if o.heads == nil {
		return true, true
	}
	heads := o.heads[s.ch.chain]
	last := uint64(0)
	for _, h := range heads {
		last = max(last, h.Seq)
	}
	if retired, ok := s.c.orders.when[snapshotKey{s.ch.agent, s.hash}]; s.seq > last || ok && retired < o.given {
		return false, true
	}
	if s.ch.fork == 0 && s.ch.entry(heads[0].Seq, heads[0].Hash) != nil {
		return true, !o.blind
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	d, ok := o.down[s.ch]
	if !ok {
		d = descent{entries: map[*readEntry]bool{}}
		for _, h := range heads {
			gap := h.Seq
			for e := s.ch.entry(h.Seq, h.Hash); e != nil; e = s.ch.entry(e.Seq-1, e.Prev) {
				d.entries[e], gap = true, e.Seq-1
			}
			d.gap = max(d.gap, gap)
		}
		if o.down == nil {
			o.down = map[*readChain]descent{}
		}
		o.down[s.ch] = d
	}
	yes = slices.ContainsFunc(s.by, func(e *readEntry) bool { return d.entries[e] })
	return yes, !o.blind && (yes || s.seq > d.gap)
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
	all := c.orders.all
	read := make([]*format.Order, len(all))
	var unread atomic.Int64
	var g errgroup.Group
	g.SetLimit(smallFetches)
	for i, o := range all {
		if o.Kind != format.OrderReplace {
			continue
		}
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
		m := &moveOrder{place: len(c.moveOrders), given: i}
		c.moveOrders = append(c.moveOrders, m)
		for _, h := range o.Heads {
			if m.heads == nil {
				m.heads = map[format.ID][]format.Head{}
			}
			m.heads[h.Chain] = append(m.heads[h.Chain], h)
		}
		m.blind = !v.sees(c, o.Heads)
		for _, r := range o.Replaced {
			at := spot{r.Agent, r.Pack}
			c.moves[at] = append(c.moves[at], move{all[i].e, r.Packs(), m})
		}
	}
	return c.moves, nil
}

// moved returns what took the place of a pack for a snapshot: the last order that
// covers it says so, or may cover it.
func moved(moves map[spot][]move, s committed, at spot) (m move, yes, sure bool) {
	for _, m := range slices.Backward(moves[at]) {
		if yes, sure := m.covers(s); yes || !sure {
			return m, true, sure
		}
	}
	return m, false, true
}

// meant adds to packs what a reference of a snapshot to a pack means.
func meant(moves map[spot][]move, s committed, at spot, packs map[format.Hash]bool) {
	m, yes, sure := moved(moves, s, at)
	if !yes || !sure {
		packs[at.hash] = true
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
