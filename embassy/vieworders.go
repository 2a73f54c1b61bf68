package embassy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"embassy/embassy/format"
)

// viewOrders are what the stewards of a compartment ordered about snapshots.
type viewOrders struct {
	retired, pinned map[snapshotKey]bool
	held            map[[8]byte]bool // by Writer.DatasetName
	unread          int              // orders that no member gives
	unmet           bool             // some retirements do not count
	rests           []format.Head    // on what the last retirement rests of which all of that is seen

	all  []givenOrder        // the first first
	when map[snapshotKey]int // the first of all that retires a snapshot, whether it counts or not
}

type snapshotKey struct {
	agent format.ID
	hash  format.Hash
}

// readOrders reads what the stewards ordered about snapshots. A retirement counts
// where the entry of one, or of a later one, sees what it rests on: what took the
// place of the retired snapshots. Where that is not, the old ones are better than
// none. An order that no member gives is told: what it retires is shown then, and
// what it pins is not known to be pinned. What a checkpoint tells the outcome of is
// not read.
func (v *View) readOrders(ctx context.Context) error {
	for _, c := range v.compartments {
		for _, ch := range c.sorted() {
			ch.heard = v.heard(c, ch)
		}
		all := v.orders(c)
		c.orders = viewOrders{retired: map[snapshotKey]bool{}, pinned: map[snapshotKey]bool{}, held: map[[8]byte]bool{}, all: all, when: map[snapshotKey]int{}}
		last := -1 // the last retirement that counts
		for i, o := range all {
			if o.Kind == format.OrderRetire && v.sees(c, o.e.Depends) {
				c.orders.rests = slices.DeleteFunc(slices.Clone(o.e.Depends), v.void)
				if v.gone == nil || !c.behindFork(o.e.Depends) { // else some targets may always list what it retires
					last = i
				}
			}
		}
		done := v.outcome(c, all, last)
		for i, o := range all {
			if i < done {
				continue
			}
			if o.Kind == format.OrderMark || o.Kind == format.OrderDelete || o.Kind >= format.OrderReplace {
				continue // large, and not about which snapshots a reader sees; or of a later version
			}
			c.orders.unmet = c.orders.unmet || o.Kind == format.OrderRetire && i > last
			if err := v.readOrder(ctx, c, o, i, i <= last); ctx.Err() != nil {
				return ctx.Err()
			} else if err != nil {
				v.warn(Finding{Object: format.ObjectName(o.e.Nation, c.ID, o.e.Agent, format.KindRecord, o.Record), Err: fmt.Errorf("an order of the steward is left out: %w", err)})
				if !errors.Is(err, format.ErrMalformed) { // what nobody can read orders nothing
					c.orders.unread++
				}
			}
		}
	}
	return nil
}

// sees reports whether all of these entries are shown, but for those of revoked
// agents.
func (v *View) sees(c *compartmentView, heads []format.Head) bool {
	for _, h := range heads {
		shown := v.void(h)
		for _, ch := range c.chains {
			shown = shown || ch.chain == h.Chain && ch.entry(h.Seq, h.Hash) != nil
		}
		if !shown {
			return false
		}
	}
	return true
}

// behindFork reports whether one of these entries is where replicators do not follow
// its chain.
func (c *compartmentView) behindFork(heads []format.Head) bool {
	for _, h := range heads {
		for _, ch := range c.chains {
			if ch.chain == h.Chain && ch.splits(h.Seq) && ch.entry(h.Seq, h.Hash) != nil {
				return true
			}
		}
	}
	return false
}

// void reports whether an entry is one of a revoked agent, and does not count.
func (v *View) void(h format.Head) bool {
	a := v.keys.Charter.Agent(v.holes[h])
	return a != nil && a.Status == format.AgentRevoked
}

// openOrder reads the record of an order.
func (v *View) openOrder(ctx context.Context, c *compartmentView, o givenOrder) (*format.Order, error) {
	a, ok := o.e.Entry.Listed(o.Ordered)
	if !ok {
		return nil, fmt.Errorf("%w: entry %d does not list it", format.ErrMalformed, o.e.Seq)
	}
	if err := v.room.Acquire(ctx, int64(a.Size)); err != nil {
		return nil, err
	}
	defer v.room.Release(int64(a.Size))
	data := make([]byte, a.Size)
	if err := c.source.whole(ctx, object{a.Kind, a.Hash, a.Size, o.e.Agent, o.e.shown}, data, false, nil); err != nil {
		return nil, err
	}
	return format.OpenOrder(data, o.e.Nation, c.ID, o.Kind)
}

// readOrder reads the order at that place among all, and goes by it. A retirement may
// not count.
func (v *View) readOrder(ctx context.Context, c *compartmentView, given givenOrder, place int, counts bool) error {
	o, err := v.openOrder(ctx, c, given)
	if err != nil {
		return err
	}
	switch o.Kind {
	case format.OrderHold:
		c.orders.held[[8]byte(o.Dataset)] = true
	case format.OrderRelease:
		delete(c.orders.held, [8]byte(o.Dataset))
	}
	for _, of := range o.Objects {
		for _, h := range of.All() {
			key := snapshotKey{of.Agent, h}
			switch o.Kind {
			case format.OrderRetire:
				if _, ok := c.orders.when[key]; !ok {
					c.orders.when[key] = place
				}
				retired := counts
				if !retired && v.gone != nil {
					if retired, err = v.gone(c.ID, h); err != nil {
						return err
					}
				}
				if retired {
					c.orders.retired[key] = true
				}
			case format.OrderPin:
				c.orders.pinned[key] = true
			case format.OrderUnpin:
				delete(c.orders.pinned, key)
			}
		}
	}
	return nil
}

// held reports whether a dataset is under a hold.
func (c *compartmentView) held(dataset string) bool {
	return len(c.orders.held) > 0 && slices.ContainsFunc(c.Writers, func(w *format.Writer) bool { return c.orders.held[w.DatasetName(dataset)] })
}

// heard is a place in a chain from which on its writer had read an entry of a
// steward of that time.
type heard struct {
	seq   uint64
	since time.Time
}

// heard follows what the entries of a chain say that their writer had read; a
// steward has read its own.
func (v *View) heard(c *compartmentView, ch *readChain) (out []heard) {
	var since time.Time
	own := v.steward(c, ch.agent)
	for _, n := range ch.numbers() {
		was := since
		for _, e := range ch.entries[n] {
			if own && e.When().After(since) {
				since = e.When()
			}
			for _, h := range e.Steward {
				for _, named := range c.stewards(v, h) {
					if named.When().After(since) {
						since = named.When()
					}
				}
			}
		}
		if since.After(was) {
			out = append(out, heard{n, since})
		}
	}
	return out
}

// stewards are the entries that a head of a steward's chain may mean.
func (c *compartmentView) stewards(v *View, h format.Head) (out []*readEntry) {
	for _, agent := range v.keys.Charter.Compartment(c.ID).Stewards {
		if ch := c.chains[chainKey{agent, h.Chain}]; ch != nil {
			if e := ch.entry(h.Seq, h.Hash); e != nil {
				out = append(out, e)
			}
		}
	}
	return out
}

// since returns a time by the steward's clock that what entry seq of the chain
// commits is no older than; zero: not known.
func (ch *readChain) since(seq uint64) time.Time {
	n, ok := slices.BinarySearchFunc(ch.heard, seq, func(s heard, seq uint64) int { return cmp.Compare(s.seq, seq) })
	switch {
	case ok:
		return ch.heard[n].since
	case n > 0:
		return ch.heard[n-1].since
	}
	return time.Time{}
}
