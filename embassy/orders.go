package embassy

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"embassy/embassy/format"
)

// What the steward of a compartment orders, and how every machine goes by it.
//
//   - An order is booked (Catalog.SetFates), and marked packs are condemned, before
//     the entry that gives it is known. So who names an entry of a steward has
//     condemned everything that was marked up to there.
//   - A run names the heads that it knew when it began (ledger.heed), and takes
//     chunks from no condemned pack. So an entry references nothing that was
//     marked at or before the head that it names.

// steward reports whether an agent is, or was, the steward of the compartment.
func (r *region) steward(agent format.ID) bool {
	c := r.a.charter.Compartment(r.id)
	return c != nil && slices.Contains(c.Stewards, agent)
}

// obey books what an entry orders, before it becomes known, and what it says
// that its writer has read.
func (l *line) obey(ctx context.Context, e format.Entry) error {
	if l.r.steward(l.Agent) {
		err := l.r.a.s.obey(e, func(a format.Listed) ([]byte, error) { return l.added(ctx, e, a, nil) })
		if err != nil {
			return err
		}
	}
	if len(e.Steward) == 0 {
		return nil
	}
	heeds, err := l.heeds()
	if err != nil {
		return err
	}
	for _, h := range e.Steward {
		was, ok := heeds[h.Chain.String()]
		if !ok && len(heeds) >= maxHeeds { // it makes them up
			continue
		}
		if h.Seq > was.Seq {
			heeds[h.Chain.String()] = heed{h.Seq, h.Hash}
		}
	}
	return keepNote(l.r.a.s.catalog, l.noteKey(heedNote), heeds)
}

// heededNote, and the line: this machine has known its writer for a steward ever since
// it learned of its first entry, or went by all of them later.
const heededNote = "heeded"

// heedsAll reports whether what the line orders is booked, as far as it is known.
func (l *line) heedsAll() (bool, error) {
	if !l.r.steward(l.Agent) {
		return true, nil
	}
	cat := l.r.a.s.catalog
	if _, ok, err := cat.Noted(l.noteKey(heededNote)); err != nil || ok {
		return ok, err
	}
	if known, err := l.valid(); err != nil || known > 0 {
		return false, err
	}
	return true, cat.Note(l.noteKey(heededNote), []byte("1"))
}

// heedPast books what the line orders in entries that were learned before this
// machine knew that their writer is a steward. It reports false where that cannot be
// read: then this run does without the line, for who names an entry has gone by it.
func (l *line) heedPast(ctx context.Context) (bool, error) {
	err := l.upholdOrders(ctx)
	if ctx.Err() != nil || err != nil && !errors.Is(err, errNowhere) {
		return false, errors.Join(err, ctx.Err())
	} else if err != nil {
		l.lacks(l.last, fmt.Errorf("what a new steward ordered before is not known: %w", err))
		return false, nil
	}
	return true, l.r.a.s.catalog.Note(l.noteKey(heededNote), []byte("1"))
}

// heedNote, and the line: the last entry of each chain of a steward that the
// line's writer says that it has read.
const heedNote = "heeds"

// maxHeeds bounds the chains of stewards that a line may name.
const maxHeeds = 256

// heed is an entry that a line's writer says that it has read.
type heed struct {
	Seq  uint64      `json:"seq"`
	Hash format.Hash `json:"hash"`
}

func (l *line) heeds() (map[string]heed, error) {
	heeds, ok, err := readNote[map[string]heed](l.r.a.s.catalog, l.noteKey(heedNote))
	if !ok {
		heeds = map[string]heed{}
	}
	return heeds, err
}

// obey books the orders of a steward's entry. object gives the records. A record
// that is no order is left out, and told; one that cannot be had is an error.
func (s *Service) obey(e format.Entry, object func(a format.Listed) ([]byte, error)) error {
	if err := s.noteReplacing(e); err != nil {
		return err
	}
	for _, given := range e.Orders {
		if given.Kind != format.OrderMark && given.Kind != format.OrderDelete {
			continue // for readers, or of a later version
		}
		a, ok := e.Listed(given)
		if !ok {
			s.warn(Finding{Object: "chain " + e.Chain.String(), Err: fmt.Errorf("entry %d orders what it does not list: left out", e.Seq)})
			continue
		}
		data, err := object(a)
		if err != nil {
			return fmt.Errorf("an order of the steward: %w", err)
		}
		o, err := format.OpenOrder(data, e.Nation, e.Compartment, given.Kind)
		if err != nil {
			s.warn(Finding{Object: format.ObjectName(e.Nation, e.Compartment, e.Agent, format.KindRecord, given.Record), Err: fmt.Errorf("left out: %w", err)})
			continue
		}
		if err := s.enterOrder(e, o); err != nil {
			return err
		}
	}
	return nil
}

// enterOrder books one order of an entry.
func (s *Service) enterOrder(e format.Entry, o *format.Order) error {
	by := Order{Agent: e.Agent, Chain: e.Chain, Seq: e.Seq, At: e.When()}
	var fate Fate
	switch o.Kind {
	case format.OrderMark:
		fate.Marked = by
	case format.OrderDelete:
		fate.Deleted = by
	}
	for _, objects := range o.Objects {
		all := objects.All()
		fates := make([]KnownFate, len(all))
		for i, h := range all {
			if objects.Kind == format.KindPack && o.Kind == format.OrderMark {
				if err := s.noteMark(e.Compartment, h, by); err != nil {
					return err
				}
			}
			fates[i] = KnownFate{Agent: objects.Agent, Kind: objects.Kind, Hash: h, Fate: fate}
		}
		// Who adds a pack looks at its fate after that: one of the two sees the other.
		if err := s.catalog.SetFates(e.Compartment, fates); err != nil {
			return err
		}
		if objects.Kind == format.KindPack {
			if err := s.catalog.Condemn(all); err != nil {
				return err
			}
		}
	}
	return nil
}

// markedNote, the compartment and the pack: those that marked it after the one that the
// catalog learned of first. Stewards that did not know of each other may each have
// replaced it.
const markedNote = "marked"

func markedKey(compartment format.ID, pack format.Hash) string {
	return fmt.Sprintf("%s/%s/%s", markedNote, compartment, pack)
}

// noteMark notes an order that marks a pack, if another entry marked it before.
func (s *Service) noteMark(compartment format.ID, pack format.Hash, by Order) error {
	fate, err := s.catalog.Fate(compartment, pack)
	if err != nil || !fate.Marked.Given() {
		return err
	}
	marks, err := s.marks(compartment, pack, fate)
	same := func(o Order) bool { return o.Agent == by.Agent && o.Chain == by.Chain && o.Seq == by.Seq }
	if err != nil || slices.ContainsFunc(marks, same) {
		return err
	}
	return keepNote(s.catalog, markedKey(compartment, pack), append(marks[1:], by))
}

// marks returns all that are known to have marked an object that has this fate.
func (s *Service) marks(compartment format.ID, h format.Hash, fate Fate) ([]Order, error) {
	more, _, err := readNote[[]Order](s.catalog, markedKey(compartment, h))
	return append([]Order{fate.Marked}, more...), err
}

// deleted reports whether a steward ordered that an object goes: no target needs
// to have it.
func (s *Service) deleted(compartment format.ID, h format.Hash) (bool, error) {
	f, err := s.catalog.Fate(compartment, h)
	return f.Deleted.Given(), err
}

// left returns what an entry adds, but for what was ordered to go.
func (s *Service) left(e format.Entry) (left []format.Listed, err error) {
	for _, a := range e.Adds {
		gone, err := s.deleted(e.Compartment, a.Hash)
		if err != nil {
			return nil, err
		}
		if !gone {
			left = append(left, a)
		}
	}
	return left, nil
}

// wanted yields what the known entries of an agent's chains list, as
// Catalog.KnownObjects does, but for what was ordered to go.
func (r *region) wanted(agent format.ID, kind format.Kind) iter.Seq2[KnownObject, error] {
	return func(yield func(KnownObject, error) bool) {
		for o, err := range r.a.s.catalog.KnownObjects(r.id, agent, kind, nil) {
			gone := false
			if err == nil {
				gone, err = r.a.s.deleted(r.id, o.Hash)
			}
			if !gone && !yield(o, err) || err != nil {
				return
			}
		}
	}
}

// recheck condemns a pack that was added just now, if it was marked while the
// catalog did not know it.
func (l *ledger) recheck(pack format.Hash) error {
	fate, err := l.s.catalog.Fate(l.comp.ID, pack)
	if err != nil || !fate.Marked.Given() {
		return err
	}
	return l.s.catalog.Condemn([]format.Hash{pack})
}

// heed learns what the stewards ordered, for a run that is about to begin, and
// gives up the packs that no entry lists yet and that were marked meanwhile.
func (l *ledger) heed(ctx context.Context) error {
	l.heeds = nil
	me := l.chain.scope.Agent
	stewards := l.keys.Charter.Compartment(l.comp.ID).Stewards
	if slices.Contains(stewards, me) {
		err := l.state.eachChain(l.comp.ID, func(c *chain) error {
			if n := c.head(); n > 0 {
				l.heeds = append(l.heeds, format.Head{Chain: c.id(), Seq: n, Hash: c.hash(n)})
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if slices.ContainsFunc(stewards, func(id format.ID) bool { return id != me }) {
		r, err := l.neighbours(ctx)
		if err != nil {
			return err
		}
		if err := l.inherit(ctx, r); err != nil {
			return err
		}
		for _, ln := range r.lines {
			if ln.Agent == me || !r.steward(ln.Agent) {
				continue
			}
			k, ok, err := l.s.catalog.KnownEntry(ln.Line, ln.last)
			if err != nil {
				return err
			}
			if ok {
				l.heeds = append(l.heeds, format.Head{Chain: ln.Chain, Seq: k.Seq, Hash: k.Hash})
			}
		}
	}
	unlisted, err := l.s.catalog.UnlistedPacks(l.chain.id())
	if err != nil {
		return err
	}
	for _, p := range unlisted {
		if p.Condemned {
			if err := l.s.catalog.Abandon(p.Num); err != nil {
				return err
			}
		}
	}
	return nil
}

// namedNote, and the chain: what its last entry that named heads of stewards named.
const namedNote = "named/"

// naming returns the heads of stewards that the next entry names: those that the
// run goes by, if the chain has not named them all yet.
func (l *ledger) naming() ([]format.Head, error) {
	named, _, err := readNote[[]format.Head](l.s.catalog, namedNote+l.chain.id().String())
	if err != nil || len(l.heeds) == 0 {
		return nil, err
	}
	for _, h := range l.heeds {
		if !slices.Contains(named, h) {
			return l.heeds, nil
		}
	}
	return nil, nil
}

// named notes what an entry named.
func (l *ledger) named(heads []format.Head) error {
	if len(heads) == 0 {
		return nil
	}
	return keepNote(l.s.catalog, namedNote+l.chain.id().String(), heads)
}
