package embassy

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"embassy/embassy/format"
)

// measure finds out how far a member has come, and whether it shows less than
// it showed.
func (l *line) measure(ctx context.Context, m *Member, shown sightings, hashes []format.Hash) error {
	replacing, err := l.r.a.s.replacing(l.Line) // these may go ahead of their turn
	if err != nil {
		return err
	}
	var leads []uint64
	var first, last, top uint64 // the end of the first entries without a gap; the greatest number; hidden ones too, but for those that went ahead
	for i, h := range hashes {
		seq := uint64(i) + 1
		if shown.shows(m, seq, h, true) {
			if _, may := slices.BinarySearch(replacing, seq); may && first < seq-1 {
				leads = append(leads, seq)
			} else {
				top = seq
			}
		}
		if shown.shows(m, seq, h, false) {
			if last = seq; first == seq-1 {
				first = seq
			}
		}
	}
	l.heads[m.Name], l.tops[m.Name], l.leads[m.Name] = first, top, leads
	a := l.r.a
	s := a.s
	seen, ok, err := s.catalog.SeenHead(m.Name, l.Line)
	if err != nil {
		return err
	}
	booked := a.booked[faultID{m.Name, FaultRollback, l.title()}]
	if ok && last < seen.Seq && !shown.shows(m, seen.Seq, seen.Hash, false) {
		gone, err := booked, error(nil)
		if !booked {
			gone, err = l.gone(ctx, m, seen.Seq, seen.Hash)
		}
		if gone {
			s.book(m, l.Line, ErrRolledBack)
		}
		return err
	}
	if booked {
		s.book(m, l.Line, nil)
	}
	held := min(seen.Seq, uint64(len(hashes)))
	if first < held {
		if held, err = l.heldBy(seen); err != nil {
			return err
		}
	}
	if first < min(held, uint64(len(hashes))) {
		if _, err := l.lost(ctx, m, first+1, hashes[first], l.gone); err != nil {
			return err
		}
	}
	for _, seq := range replacing { // what went ahead is to stay too
		if seq <= max(first, held) || seq > uint64(len(hashes)) {
			continue
		}
		placed, err := s.catalog.Placed(m.Name, hashes[seq-1])
		if err != nil {
			return err
		}
		if shown.shows(m, seq, hashes[seq-1], false) {
			if placed.IsZero() {
				err = s.catalog.Place(m.Name, hashes[seq-1], s.now())
			}
		} else if !placed.IsZero() || a.booked[faultID{m.Name, FaultMissing, l.name(seq, hashes[seq-1])}] {
			var lost bool
			if lost, err = l.lost(ctx, m, seq, hashes[seq-1], l.unshown); lost {
				leads = append(leads, seq)
			}
		}
		if err != nil {
			return err
		}
	}
	slices.Sort(leads)
	l.leads[m.Name] = slices.Compact(leads)
	if first == 0 {
		return nil
	}
	return s.saw(m, l.Line, SeenHead{Seq: first, Hash: hashes[first-1], At: s.now()})
}

// lost books that a member does not show an entry any more which it should hold, if
// it is known already or gone finds it so.
func (l *line) lost(ctx context.Context, m *Member, seq uint64, h format.Hash, gone func(context.Context, *Member, uint64, format.Hash) (bool, error)) (bool, error) {
	a, name := l.r.a, l.name(seq, h)
	if !a.booked[faultID{m.Name, FaultMissing, name}] {
		if lost, err := gone(ctx, m, seq, h); err != nil || !lost {
			return false, err
		}
	}
	a.s.fault(m.Name, FaultMissing, name, errors.New("is not there any more"+remedy))
	return true, nil
}

// name is an entry's name on every target.
func (l *line) name(seq uint64, h format.Hash) string {
	return format.EntryName(l.r.a.key.Nation, l.Compartment, l.Agent, l.Chain, seq, h)
}

// gone asks a member again for an entry that it showed once and did not list:
// the list may lag, or be older than what was seen. Having waited for a member
// once is enough. It reports whether the entry is not there, and whoever runs
// this machine has not forgiven it meanwhile.
func (l *line) gone(ctx context.Context, m *Member, seq uint64, h format.Hash) (bool, error) {
	gone, err := l.unshown(ctx, m, seq, h)
	if err != nil || !gone {
		return false, err
	}
	_, ok, err := l.r.a.s.catalog.SeenHead(m.Name, l.Line)
	return ok, err
}

// unshown is gone, whatever was forgiven.
func (l *line) unshown(ctx context.Context, m *Member, seq uint64, h format.Hash) (bool, error) {
	a := l.r.a
	name := l.name(seq, h)
	for try := 0; ; try++ {
		there := false
		err := m.do(ctx, func(ctx context.Context) error {
			for info, err := range m.Target.List(ctx, name) {
				if err != nil {
					return err
				}
				there = there || info.Name == name
			}
			return nil
		})
		if err != nil || there {
			return false, ctx.Err() // a target that fails proves nothing
		}
		if try == attempts-1 || a.waited[m.Name] {
			break
		}
		if err := sleep(ctx, time.Duration(try+1)*readBackPause); err != nil {
			return false, err
		}
	}
	a.waited[m.Name] = true
	return true, nil
}

// forgive clears what the book holds against names in an agent's ledger that
// are not shown any more, and against known entries that are back.
func (r *region) forgive(ctx context.Context, agent format.ID, prefix string, all *ledgers) error {
	cat := r.a.s.catalog
	for f := range r.a.booked {
		rest, ours := strings.CutPrefix(f.object, prefix)
		i := slices.IndexFunc(all.whole, func(m *Member) bool { return m.Name == f.target })
		if !ours || i < 0 {
			continue
		}
		m, clear := all.whole[i], false
		chain, seq, h, err := format.ParseEntryName(rest)
		switch {
		case err != nil:
			clear = rest == "" && f.kind == FaultForged
		case f.kind == FaultForged:
			clear = !all.chains[chain].shows(m, seq, h, false)
		case slices.Contains(contentFaults, f.kind):
			k, known, err := cat.KnownEntry(Line{Compartment: r.id, Agent: agent, Chain: chain}, seq)
			if err != nil {
				return err
			}
			shown := all.chains[chain].shows(m, seq, h, false)
			if clear = !shown; known && k.Hash == h {
				clear = false
				if shown && f.kind == FaultMissing {
					sum, err := m.digest(ctx, f.object, int64(k.Size), func(int) {})
					clear = err == nil && sum == h
				}
			}
		}
		if clear {
			if err := r.a.s.clearFault(f.target, f.kind, f.object); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}
