package embassy

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"embassy/crypto"
	"embassy/embassy/config"
	"embassy/embassy/format"
	"embassy/targets"
)

// atlas is what the ledgers on the answering targets say of a nation, verified
// with its public key and no other: which chains there are, what they list,
// and how far every target has come. What was verified once is kept in the
// catalog: only new entries are fetched.
type atlas struct {
	s        *Service
	key      format.NationKey
	state    *State // nil on a keyless machine
	keys     *Keys  // nil likewise
	charter  *format.Charter
	object   []byte           // of the charter
	regions  []*region        // by rank
	unplaced []string         // compartments of the charter that the configuration does not place
	booked   map[faultID]bool // what the book held when the atlas was opened
	waited   map[string]bool  // members whose lists had time to show what they lag behind with
	only     []format.ID      // agents whose ledgers are read; nil: all
	brief    bool             // what a member showed before is not listed again, while it shows the last of it
}

// region is one compartment, and where it should lie.
type region struct {
	a       *atlas
	id      format.ID
	name    string // as the configuration calls it, or the pseudonym
	rank    int
	members []*Member // in PACE order
	lines   []*line
	beyond  uint64 // entries that are shown, and could not be learned

	revoked map[format.ID]uint64 // of the chains of revoked agents, the last entry that counts
	pardons []*line              // of those, whose orders were dropped by this run

	led    sync.Map // leading: true, of entries that a target has, or need not have
	denied sync.Map // leading without chain: why this machine cannot put what the agent wrote

	sought     bool               // a checkpoint was looked for
	checkpoint *format.Checkpoint // nil: none was found
}

// line is a chain that was learned from targets. It implements trail.
type line struct {
	Line
	r      *region
	signer *crypto.Verifier
	last   uint64 // the last valid entry
	trials trials
	madeUp atomic.Int32 // objects that it lists and nobody ever had

	disputed bool                   // no checkpoint is gone by
	ahead    map[format.Hash][]byte // entries that were fetched, and not opened yet
	aheadTo  uint64                 // up to this number

	mu    sync.Mutex
	heads map[string]uint64   // so many first entries each listed member has
	tops  map[string]uint64   // the last known entry that it shows, whatever is missing before, but for those
	leads map[string][]uint64 // that went ahead of their turn, ascending

	compared sync.Once
	trunk    uint64 // so many first known entries this machine wrote too
	parted   bool   // it wrote another one after them
	failed   error
}

func (l *line) line() Line   { return l.Line }
func (l *line) head() uint64 { return l.last }

// headOn returns how many first entries a target has. Of one that did not
// answer it is what it last showed.
func (l *line) headOn(m *Member) (uint64, error) {
	l.mu.Lock()
	n, ok := l.heads[m.Name]
	l.mu.Unlock()
	if ok {
		return min(n, l.last), nil
	}
	return l.seenOn(m)
}

// seenOn returns the last known entry that a target ever had, by what it showed.
func (l *line) seenOn(m *Member) (uint64, error) {
	seen, ok, err := l.r.a.s.catalog.SeenHead(m.Name, l.Line)
	if err != nil || !ok {
		return 0, err
	}
	n, err := l.heldBy(seen)
	return min(n, l.last), err
}

// heldBy returns up to which number a target that showed that head had the known
// entries. A head beside them is on the branch that this machine wrote: then it
// is where that parts from the known one. Forks that others sign later do not
// move that point.
func (l *line) heldBy(seen SeenHead) (uint64, error) {
	k, ok, err := l.r.a.s.catalog.KnownEntry(l.Line, seen.Seq)
	if err != nil || ok && k.Hash == seen.Hash {
		return seen.Seq, err
	}
	l.compared.Do(func() { l.trunk, l.parted, l.failed = l.compare() })
	if !ok && !l.parted {
		return seen.Seq, l.failed // it is ahead of what is known
	}
	return min(seen.Seq, l.trunk), l.failed
}

// compare returns how many first entries are both known and written by this
// machine, and whether the next ones differ.
func (l *line) compare() (n uint64, parted bool, err error) {
	own, err := l.r.a.state.written(l.Line)
	for _, h := range own {
		k, ok, err := l.r.a.s.catalog.KnownEntry(l.Line, n+1)
		if err != nil || !ok || k.Hash != h {
			return n, ok, err
		}
		n++
	}
	return n, false, err
}

// claim is what a target should hold of a line: the entries up to one, and some
// that went ahead of their turn.
type claim struct {
	l     *line
	to    uint64
	leads []uint64 // ascending
}

// numbers yields the numbers of the entries, ascending.
func (c claim) numbers() iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		for seq := uint64(1); seq <= c.to; seq++ {
			if !yield(seq) {
				return
			}
		}
		for _, seq := range c.leads {
			if seq > c.to && !yield(seq) {
				return
			}
		}
	}
}

func (c claim) has(seq uint64) bool {
	_, leads := slices.BinarySearch(c.leads, seq)
	return seq <= c.to || leads
}

// claimOn returns what a target should hold: up to the last entry that it shows, or
// ever showed, and what it shows that went ahead.
func (l *line) claimOn(m *Member) (claim, error) {
	seen, err := l.seenOn(m)
	l.mu.Lock()
	defer l.mu.Unlock()
	return claim{l, min(max(seen, l.tops[m.Name]), l.last), l.leads[m.Name]}, err
}

// reached books how far a target was brought.
func (l *line) reached(m *Member, seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heads[m.Name] = seq
}

// entry implements trail: from any target, verified.
func (l *line) entry(ctx context.Context, seq uint64) (format.Entry, []byte, error) {
	k, ok, err := l.r.a.s.catalog.KnownEntry(l.Line, seq)
	if err == nil && !ok {
		err = fmt.Errorf("ledger entry %d of %s is not in the catalog", seq, l.Chain)
	}
	if err != nil {
		return format.Entry{}, nil, err
	}
	object, err := l.r.fetch(ctx, l, seq, l.name(seq, k.Hash), k.Size, k.Hash, nil)
	if err != nil {
		return format.Entry{}, nil, err
	}
	e, err := format.OpenEntry(object, l.signer, l.want(seq))
	return e, object, err
}

// added returns an object that an entry of the line adds, from any target but to.
func (l *line) added(ctx context.Context, e format.Entry, a format.Listed, to *Member) ([]byte, error) {
	return l.r.fetch(ctx, l, e.Seq, format.ObjectName(e.Nation, e.Compartment, e.Agent, a.Kind, a.Hash), a.Size, a.Hash, to)
}

// want is what an entry of that number must say of its place.
func (l *line) want(seq uint64) format.Entry {
	return format.Entry{Nation: l.r.a.key.Nation, Compartment: l.Compartment, Agent: l.Agent, Chain: l.Chain, Seq: seq}
}

// fetch returns an object that entry seq of a line adds, or the entry itself,
// from the best target that gives it whole, but not from except. Those that
// show the entry are asked first, and blamed if they have not what it needs.
func (r *region) fetch(ctx context.Context, l *line, seq uint64, name string, size uint64, h format.Hash, except *Member) ([]byte, error) {
	var sure, others []*Member
	for _, m := range r.members {
		if except != nil && m.Name == except.Name || m.Down() != nil {
			continue
		}
		n, err := l.headOn(m)
		if err != nil {
			return nil, err
		}
		if n >= seq {
			sure = append(sure, m)
		} else {
			others = append(others, m)
		}
	}
	errs := []error{errNowhere}
	lost := map[*Member]error{} // who should have it
	var data []byte
	for i, m := range append(sure, others...) {
		var err error
		if data, err = m.fetch(ctx, name, size, h); err == nil {
			break
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if data = nil; i < len(sure) && answered(err) {
			lost[m] = err
		}
		errs = append(errs, err)
	}
	there := data != nil || name == l.name(seq, h)
	if !there {
		var err error
		if there, err = r.confirmed(name, h); err != nil {
			return nil, err
		}
	}
	for m, err := range lost {
		if kind := kindOf(err); kind == FaultMissing && r.news(ctx, m) {
			r.a.s.log.Info("may have been ordered to go meanwhile", "target", m.Name, "object", name, "err", err)
		} else if there || kind != FaultMissing {
			r.a.s.fault(m.Name, kind, name, fmt.Errorf("%w%s", err, remedy))
		} else {
			l.unsound(name)
		}
	}
	if data != nil {
		return data, nil
	}
	return nil, fmt.Errorf("%s: %w", name, errors.Join(errs...))
}

// news reports whether a target shows an entry of a steward that this machine has not
// learned, or does not answer: something may have been ordered to go meanwhile.
func (r *region) news(ctx context.Context, m *Member) bool {
	for _, ln := range r.lines {
		if !r.steward(ln.Agent) {
			continue
		}
		head, err := ln.valid()
		if err != nil {
			return true
		}
		prefix := format.LedgerPrefix(r.a.key.Nation, r.id, ln.Agent)
		tries := 0
		for info, err := range m.names(ctx, prefix) {
			if err != nil {
				return !answered(err)
			}
			chain, seq, h, err := format.ParseEntryName(strings.TrimPrefix(info.Name, prefix))
			if err != nil || chain != ln.Chain || seq <= head || tries >= maxForged {
				continue
			}
			tries++
			if object, err := m.fetchSized(ctx, info.Name, info.Size, format.MaxEntrySize, h); err == nil {
				if _, err := format.OpenEntry(object, ln.signer, ln.want(seq)); err == nil {
					return true
				}
			}
		}
	}
	return false
}

// kindOf says what is wrong with a copy whose reading ended with err.
func kindOf(err error) FaultKind {
	switch {
	case errors.Is(err, targets.ErrNotFound), errors.Is(err, targets.ErrDenied):
		return FaultMissing
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, errUnreadable):
		return FaultCut
	}
	return FaultAltered
}

// Identify returns the nation's public key, and the state of a machine that has
// one; nil on a keyless machine. The error of one that is neither wraps
// ErrNoState.
func Identify(site *config.Config) (format.NationKey, *State, error) {
	state, err := OpenState(site.StateDir)
	switch {
	case err == nil:
		return state.NationKey(), state, nil
	case errors.Is(err, ErrNoState) && site.Keyless():
		return site.NationKey, nil, nil
	}
	return format.NationKey{}, nil, err
}

const charterNote = "charter" // of a keyless machine: the newest charter's object

// notedCharter returns the newest charter that a keyless machine has seen, and
// its object; nil: none.
func (s *Service) notedCharter(key format.NationKey) (*format.Charter, []byte, error) {
	raw, ok, err := s.catalog.Noted(charterNote)
	if err != nil || !ok {
		return nil, nil, err
	}
	ch, err := format.OpenCharter(raw, key.Nation, key.Signer)
	return ch, raw, err
}

// charterOf returns the newest charter that this machine or any answering
// target knows.
func (s *Service) charterOf(ctx context.Context, key format.NationKey, state *State) (*format.Charter, []byte, error) {
	if state != nil {
		return s.newestCharter(ctx, state)
	}
	known, raw, err := s.notedCharter(key)
	if err != nil {
		return nil, nil, err
	}
	found, object, err := findCharter(ctx, s.order, key.Nation, key.Signer, known, s.warn)
	switch {
	case err != nil && known == nil:
		return nil, nil, err
	case errors.Is(err, ErrTwoHeirs): // what was accepted holds
		s.warn(Finding{Object: "charter", Err: err})
	case err == nil && (known == nil || found.Rank().Compare(known.Rank()) >= 0):
		if !bytes.Equal(object, raw) {
			err = s.catalog.Note(charterNote, object)
		}
		return found, object, err
	}
	return known, raw, nil
}

// openAtlas asks every target for its ledgers, learns what is new in them, and
// records what is wrong.
func (s *Service) openAtlas(ctx context.Context) (*atlas, error) {
	key, state, err := Identify(s.site)
	if err != nil {
		return nil, err
	}
	probe(ctx, key.Nation, s.order)
	a, err := s.newAtlas(key, state)
	if err != nil {
		return nil, err
	}
	if a.charter, a.object, err = s.charterOf(ctx, key, state); err != nil {
		return nil, err
	}
	if state != nil {
		if a.keys, err = AgentKeys(a.charter, state.key); err != nil {
			return nil, err
		}
	}
	a.place()
	return a, a.learn(ctx)
}

// openRegion is openAtlas for one compartment that this machine writes, with
// the keys that it opened, and for the ledgers of these agents; nil: of all. It
// lists what is new since the last look, so that a backup begins as fast after a year: what
// a target lost or forged before that, a replication finds.
func (s *Service) openRegion(ctx context.Context, state *State, keys *Keys, compartment format.ID, agents []format.ID) (*region, error) {
	a, err := s.newAtlas(state.NationKey(), state)
	if err != nil {
		return nil, err
	}
	a.keys, a.charter = keys, keys.Charter
	a.place()
	a.regions = slices.DeleteFunc(a.regions, func(r *region) bool { return r.id != compartment })
	if len(a.regions) == 0 {
		return nil, fmt.Errorf("compartment %s: %w", compartment, ErrUnknownName)
	}
	a.only, a.brief = agents, true
	return a.regions[0], a.learn(ctx)
}

func (s *Service) newAtlas(key format.NationKey, state *State) (*atlas, error) {
	a := &atlas{s: s, key: key, state: state, booked: map[faultID]bool{}, waited: map[string]bool{}}
	faults, err := s.catalog.Faults("")
	for _, f := range faults {
		a.booked[f.id()] = true
	}
	return a, err
}

// learn asks every target for the ledgers of all regions.
func (a *atlas) learn(ctx context.Context) error {
	for _, r := range a.regions {
		for i := range a.charter.Agents {
			agent := &a.charter.Agents[i]
			if !slices.Contains(agent.Compartments, r.id) || a.only != nil && !slices.Contains(a.only, agent.ID) {
				continue
			}
			signer, err := crypto.ParseVerifier(agent.Signer)
			if err != nil {
				a.s.warn(Finding{Object: "agent " + agent.ID.String(), Err: err})
				continue
			}
			if err := r.learn(ctx, agent, signer); err != nil {
				return err
			}
		}
		if err := r.uphold(ctx); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// place finds out where each compartment of the charter should lie.
func (a *atlas) place() {
	names := map[format.ID]string{}
	if a.keys != nil {
		for _, c := range a.keys.Compartments {
			names[c.ID] = c.Part.Name
		}
	}
	for _, c := range a.s.site.Compartments {
		if !c.ID.IsZero() {
			names[c.ID] = c.Name
		}
	}
	for _, c := range a.charter.Compartments {
		r := &region{a: a, id: c.ID, name: names[c.ID], rank: config.DefaultPriority, revoked: map[format.ID]uint64{}}
		placed, ok := a.s.site.Compartment(r.name)
		switch {
		case ok:
			r.rank, r.members = placed.Rank, a.s.Ranked(placed.Name)
		case a.keys == nil && len(a.s.site.Compartments) == 0:
			r.name, r.members = c.ID.String(), a.s.order
		case a.keys != nil && r.name == "":
			continue // not this agent's
		default:
			a.unplaced = append(a.unplaced, cmp.Or(r.name, c.ID.String()))
			continue
		}
		a.regions = append(a.regions, r)
	}
	slices.SortStableFunc(a.regions, func(x, y *region) int {
		return cmp.Or(cmp.Compare(x.rank, y.rank), bytes.Compare(x.id[:], y.id[:]))
	})
}
