package embassy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"embassy/embassy/format"
)

// ErrNotSteward: only the steward of a compartment orders.
var ErrNotSteward = errors.New("this machine is not the steward, and only the steward may: embassy charter show names it")

// stewardship is a compartment that this machine is the steward of, opened to
// order something about it.
type stewardship struct {
	s     *Service
	state *State
	keys  *Keys // of this compartment
	comp  *Compartment
	l     *ledger
}

// stewarding opens every compartment that this machine is the steward of, or
// those of the names, and has do order something. It waits for a backup that
// runs: what that goes by, no order may be newer than.
func (s *Service) stewarding(ctx context.Context, names []string, do func([]*stewardship) error) error {
	if err := s.shared.own.Acquire(ctx, 1); err != nil {
		return err
	}
	defer s.shared.own.Release(1)
	state, err := s.state()
	if errors.Is(err, ErrKeyless) {
		return fmt.Errorf("here is no agent's key, only nation_key: %w", ErrNotSteward)
	}
	if err != nil {
		return err
	}
	keys, err := s.presented(ctx, state)
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, err := keys.Named(name); err != nil {
			return err
		}
	}
	var open []*stewardship
	for _, c := range keys.Compartments {
		mine := keys.Charter.Compartment(c.ID).Steward() == state.Agent()
		named := slices.Contains(names, c.Part.Name)
		if _, placed := s.site.Compartment(c.Part.Name); !placed {
			mine = false
		}
		if named && !mine {
			return fmt.Errorf("compartment %s: %w", c.Part.Name, ErrNotSteward)
		}
		if !mine || len(names) > 0 && !named {
			continue
		}
		l, err := s.openLedger(state, keys, c)
		if err != nil {
			return err
		}
		if err := l.prepare(ctx); err != nil {
			return fmt.Errorf("compartment %s: %w", c.Part.Name, err)
		}
		open = append(open, &stewardship{s: s, state: state, comp: c, l: l,
			keys: &Keys{Charter: keys.Charter, Compartments: []*Compartment{c}}})
	}
	if len(open) == 0 {
		return fmt.Errorf("no compartment: %w", ErrNotSteward)
	}
	return do(open)
}

// view reads what the targets show of the compartment, once they have what this
// machine wrote. o may name keys, a checkpoint and what is told of snapshots.
func (st *stewardship) view(ctx context.Context, o ViewOptions) (*View, *compartmentView, error) {
	st.l.bring(ctx, st.l.members, patienceMin)
	return st.look(ctx, o)
}

// look reads what the targets show of the compartment. It is an error when they do
// not show all that stewards are known to have ordered.
func (st *stewardship) look(ctx context.Context, o ViewOptions) (*View, *compartmentView, error) {
	o.Keys = cmp.Or(o.Keys, st.keys)
	o.Members, o.Order, o.Log, o.Warn, o.Progress, o.Now = st.s.order, st.s.Ranked, st.s.log, st.s.warn, st.s.progress, st.s.now
	v, err := OpenView(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	c := v.compartments[0]
	if err := st.wholeChains(c); err != nil {
		return nil, nil, err
	}
	if c.orders.unread > 0 {
		return nil, nil, fmt.Errorf("%d earlier orders of the steward cannot be read on any target that answers, and may pin or hold a snapshot: bring back the targets that hold them", c.orders.unread)
	}
	return v, c, nil
}

// wholeChains returns an error when not all that stewards are known to have ordered is
// shown: a pin or a hold may be missing.
func (st *stewardship) wholeChains(c *compartmentView) error {
	shown := func(l Line, head uint64) error {
		if ch := c.chains[chainKey{l.Agent, l.Chain}]; ch != nil && ch.last >= head {
			return nil
		}
		return fmt.Errorf("%w: of chain %s, in which a steward orders, no target that answers shows entry %d: embassy replicate brings what this machine wrote; else bring back the targets that hold it", ErrBlind, l.Chain, head)
	}
	if own := st.l.chain; own.head() > 0 {
		if err := shown(own.line(), own.head()); err != nil {
			return err
		}
	}
	lines, err := st.s.catalog.KnownLines()
	if err != nil {
		return err
	}
	ch := st.keys.Charter
	for _, l := range lines {
		a := ch.Agent(l.Agent)
		if l.Compartment != st.comp.ID || a == nil || a.Status == format.AgentRevoked || !slices.Contains(ch.Compartment(l.Compartment).Stewards, l.Agent) {
			continue
		}
		k, _, err := st.s.catalog.KnownHead(l)
		if err != nil {
			return err
		}
		if err := shown(l, k.Seq); err != nil {
			return err
		}
	}
	return nil
}

// onlyStewards returns an error if somebody orders who is no steward by the charter
// that this machine knows: a newer one may be somewhere, and that one may pin and hold.
func (st *stewardship) onlyStewards(c *compartmentView) error {
	ch := st.keys.Charter
	for _, chain := range c.sorted() {
		a := ch.Agent(chain.agent)
		if slices.Contains(ch.Compartment(c.ID).Stewards, chain.agent) || a != nil && a.Status == format.AgentRevoked {
			continue
		}
		for _, all := range chain.entries {
			if slices.ContainsFunc(all, func(e *readEntry) bool { return len(e.Orders) > 0 }) {
				return fmt.Errorf("%w: agent %s orders, and is no steward by the charter that this machine knows: bring back the targets that have a newer one; if there is none: embassy agent revoke", ErrBlind, st.name(chain.agent))
			}
		}
	}
	return nil
}

// name is an agent's name for people.
func (st *stewardship) name(agent format.ID) string { return st.keys.Names().Of(agent) }

// opened returns the keys of readers for this compartment alone; nil for nil.
func (st *stewardship) opened(readers *Keys) (*Keys, error) {
	if readers == nil {
		return nil, nil
	}
	mine := *readers
	mine.Compartments = slices.DeleteFunc(slices.Clone(mine.Compartments), func(c *Compartment) bool { return c.ID != st.comp.ID || c.Reader == nil })
	if len(mine.Compartments) == 0 {
		return nil, fmt.Errorf("repack of compartment %s: %w", st.comp.Part.Name, ErrNotGranted)
	}
	return &mine, nil
}

// region returns the compartment as an atlas has it.
func (st *stewardship) region(a *atlas) (*region, error) {
	for _, r := range a.regions {
		if r.id == st.comp.ID {
			return r, nil
		}
	}
	return nil, fmt.Errorf("compartment %s: %w", st.comp.ID, ErrUnknownName)
}

// order files orders in the next entry, after these heads, and brings it to the
// targets. It reports whether the commit rule holds for it.
func (st *stewardship) order(ctx context.Context, after []format.Head, orders ...filing) (safe bool, err error) {
	if _, err := st.l.commitAfter(after, nil, nil, orders...); err != nil {
		return false, err
	}
	if err := st.l.settle(ctx, patienceMin, nil); err != nil {
		return false, err
	}
	missing, err := st.l.missing(st.l.chain.head())
	return len(missing) == 0, err
}

// orders makes the records of an order about objects.
func (st *stewardship) orders(kind format.OrderKind, objects map[format.OrderedKey][]format.Hash) ([]filing, error) {
	return fileOrders(format.Order{Nation: st.keys.Charter.Nation, Compartment: st.comp.ID, Kind: kind}, objects)
}

func fileOrders(o format.Order, objects map[format.OrderedKey][]format.Hash) ([]filing, error) {
	records, err := format.SealOrders(o, objects)
	var out []filing
	for _, r := range records {
		out = append(out, filing{object: r, order: o.Kind})
	}
	return out, err
}
