package embassy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"embassy/embassy/format"
)

var (
	// ErrForkedCharter: two charters with one number are signed.
	ErrForkedCharter = errors.New("two charters with one number are signed: two machines signed at once, or a root or a quorum of administrators is in wrong hands")
	// ErrBrokenPast: a charter follows another one than that which lies on the targets.
	ErrBrokenPast = errors.New("the charter before it, which it names, is on no target that answers")
	// ErrStale: a charter, or a proposal of one, does not follow the newest one.
	ErrStale = errors.New("another charter came in between: look at embassy charter history, and run it again; a proposal has to be made anew")
)

// PastCharter is a charter of the nation, and who holds it.
type PastCharter struct {
	*format.Charter
	Hash format.Hash
	On   []string // targets with a good copy
}

// CharterOf returns the newest charter that this machine or any answering
// target knows, and its object, and what this machine's agent can open of it;
// nil keys: nothing.
func (s *Service) CharterOf(ctx context.Context) (*format.Charter, []byte, *Keys, error) {
	key, state, err := Identify(s.site)
	if err != nil {
		return nil, nil, nil, err
	}
	if state == nil {
		ch, object, err := FindCharter(ctx, s.order, key.Nation, key.Signer, s.warn)
		return ch, object, nil, err
	}
	ch, object, err := s.newestCharter(ctx, state)
	if err != nil {
		return nil, nil, nil, err
	}
	keys, err := AgentKeys(ch, state.key)
	if errors.Is(err, ErrNotEnrolled) {
		return ch, object, nil, nil
	}
	return ch, object, keys, err
}

// Past reads every charter on every answering target, and verifies it: its
// hash, its signatures, its number, and that it follows the one before. It
// returns those that are signed, oldest first, and what is wrong.
func (s *Service) Past(ctx context.Context) ([]PastCharter, []Finding, error) {
	newest, _, _, err := s.CharterOf(ctx)
	if err != nil {
		return nil, nil, err
	}
	var wrong []Finding
	warn := func(f Finding) { wrong = append(wrong, f) }
	copies := listCharters(ctx, tellDown(s.order, s.warn), newest.Nation, maxCharterNames, s.warn)
	found := map[format.Hash]*PastCharter{}
	for _, c := range copies {
		ch, old, err := c.openPast(ctx, newest)
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		if old != nil {
			warn(Finding{Target: c.member.Name, Object: c.name, Err: old})
		}
		if err != nil {
			warn(Finding{Target: c.member.Name, Object: c.name, Err: err})
			continue
		}
		if found[c.hash] == nil {
			found[c.hash] = &PastCharter{Charter: ch, Hash: c.hash}
		}
		found[c.hash].On = append(found[c.hash].On, c.member.Name)
	}
	var past []PastCharter
	for _, p := range found {
		past = append(past, *p)
	}
	slices.SortFunc(past, func(a, b PastCharter) int {
		return cmp.Or(cmp.Compare(a.Seq, b.Seq), cmp.Compare(a.Time, b.Time), slices.Compare(a.Hash[:], b.Hash[:]))
	})
	for i, p := range past {
		name := format.CharterName(p.Nation, p.Seq, p.Hash)
		if i > 0 && past[i-1].Seq == p.Seq {
			warn(Finding{Object: name, Err: ErrForkedCharter})
		}
		before := found[p.Prev]
		if p.Seq > 1 && (before == nil || before.Seq != p.Seq-1) {
			warn(Finding{Object: name, Err: ErrBrokenPast})
		}
	}
	return past, wrong, nil
}

// openPast reads a charter that may be older than the newest one.
func (c numberedCopy) openPast(ctx context.Context, newest *format.Charter) (ch *format.Charter, old, err error) {
	data, old, err := c.member.readSized(ctx, c.name, c.hash, c.size, format.MaxCharterSize)
	if err != nil {
		return nil, nil, err
	}
	ch, err = newest.OpenPast(data)
	if err == nil && ch.Seq != c.seq {
		err = fmt.Errorf("%w: charter %d under the number %d", format.ErrMalformed, ch.Seq, c.seq)
	}
	return ch, old, err
}

// Proposed is what a proposal is about.
type Proposed struct {
	*format.Charter
	Changes []string // in words and fingerprints
	Since   uint64   // number of the charter that they are told against
	// Sealed says of compartments whose names and secrets the proposal seals
	// anew that this machine cannot look into them.
	Sealed []string
}

// Review verifies a proposal as any reader would, and tells what it changes.
func (s *Service) Review(ctx context.Context, p *format.Proposal) (out Proposed, err error) {
	key, state, err := Identify(s.site)
	if err != nil {
		return out, err
	}
	if out.Charter, err = p.Open(key.Nation, key.Signer); err != nil {
		return out, err
	}
	before, object, keys, err := s.CharterOf(ctx)
	if err != nil && !errors.Is(err, ErrDown) && !errors.Is(err, ErrNoCharter) {
		return out, err
	}
	// Changes are told against what is known to be in force, and not against what
	// the proposal picks: that would hide what it undoes.
	follows := err == nil && format.HashOf(object) == out.Prev
	if err == nil && (out.Rank().Compare(before.Rank()) <= 0 || !follows && out.Seq <= before.Seq+1) {
		return out, fmt.Errorf("proposal of charter %d, and charter %d is in force: %w", out.Seq, before.Seq, ErrStale)
	}
	if err != nil || before.Rank().Compare(out.Rooted().Rank()) < 0 {
		before = out.Rooted()
	}
	out.Since = before.Seq
	var after *Keys
	if state != nil {
		if after, err = AgentKeys(out.Charter, state.key); err != nil && !errors.Is(err, ErrNotEnrolled) {
			return out, err
		}
		if after != nil && after.Doubt != nil {
			return out, after.Doubt
		}
		if keys != nil && after != nil {
			if err := after.within(keys); err != nil {
				return out, err
			}
		}
	}
	out.Changes = differences(before, out.Charter, after)
	if keys != nil && after != nil {
		out.Changes = append(out.Changes, sealedDifferences(keys, after)...)
	}
	for _, k := range out.Compartments {
		if changedParts(before, out.Charter, k.ID) && (after == nil || !slices.ContainsFunc(after.Compartments, func(c *Compartment) bool { return c.ID == k.ID })) {
			out.Sealed = append(out.Sealed, k.ID.String())
		}
	}
	return out, nil
}

// changedParts reports whether a charter seals parts of a compartment that the
// one before did not.
func changedParts(before, after *format.Charter, compartment format.ID) bool {
	return slices.ContainsFunc(after.Parts, func(p format.Part) bool {
		return p.Compartment == compartment && !slices.ContainsFunc(before.Parts, func(o format.Part) bool { return slices.Equal(o.Box, p.Box) })
	})
}

// Publish puts a charter of administrators into force, when enough of them
// have signed: format.ErrTooFew, ErrStale.
func (s *Service) Publish(ctx context.Context, p *format.Proposal) (CharterReport, error) {
	state, err := OpenState(s.site.StateDir)
	if err != nil {
		return CharterReport{}, err
	}
	proposed, err := p.Open(state.nation, state.verifier)
	if err != nil {
		return CharterReport{}, err
	}
	object, err := p.Object()
	if err != nil {
		return CharterReport{}, err
	}
	ch, newest, err := s.newestCharter(ctx, state)
	if err != nil {
		return CharterReport{}, err
	}
	h := format.HashOf(newest)
	again := h == format.HashOf(object)
	if h != proposed.Prev && !again {
		return CharterReport{}, fmt.Errorf("proposal of charter %d, and charter %d is in force: %w", proposed.Seq, ch.Seq, ErrStale)
	}
	if !again {
		if ch, err = s.enact(ctx, state, ch, newest, object, "by", "administrators "+strings.Join(p.Signers(), ", ")); err != nil {
			return CharterReport{}, err
		}
	}
	return CharterReport{Seq: ch.Seq, Targets: s.publish(ctx, ch, object)}, nil
}
