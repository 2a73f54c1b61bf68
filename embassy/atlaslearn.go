package embassy

import (
	"bytes"
	"cmp"
	"context"
	"embassy/crypto"
	"embassy/embassy/format"
	"embassy/targets"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// sighting is a ledger entry's name as targets list it.
type sighting struct {
	hash format.Hash
	by   []shownBy
}

type shownBy struct {
	m      *Member
	size   int64
	hidden bool // by a deletion: it can be read, and is not there
}

// sightings are the names below one chain's folder, by number.
type sightings map[uint64][]sighting

// learn reads all chains of one agent.
func (r *region) learn(ctx context.Context, agent *format.CharterAgent, signer *crypto.Verifier) error {
	prefix := format.LedgerPrefix(r.a.key.Nation, r.id, agent.ID)
	shown := map[format.ID]sightings{}
	listed := map[*Member]time.Time{} // since when
	var mu sync.Mutex
	each(r.members, func(_ int, m *Member) {
		if m.Down() != nil {
			return
		}
		asked := r.a.s.now()
		names, err := m.entries(ctx, prefix)
		if err != nil {
			if answered(err) {
				r.a.s.warn(Finding{Target: m.Name, Object: prefix, Err: err})
			}
			return
		}
		mu.Lock()
		defer mu.Unlock()
		listed[m] = asked
		for _, n := range names {
			if shown[n.chain] == nil {
				shown[n.chain] = sightings{}
			}
			shown[n.chain].add(n)
		}
	})
	if err := ctx.Err(); err != nil {
		return err
	}
	known, err := r.a.s.catalog.KnownLines()
	if err != nil {
		return err
	}
	for _, l := range known {
		if l.Compartment == r.id && l.Agent == agent.ID && shown[l.Chain] == nil {
			shown[l.Chain] = sightings{} // nobody shows it any more
		}
	}
	distrust := map[string]int{} // by member: names that turned out to be no entries
	for _, id := range slices.SortedFunc(maps.Keys(shown), func(a, b format.ID) int { return bytes.Compare(a[:], b[:]) }) {
		l := &line{Line: Line{Compartment: r.id, Agent: agent.ID, Chain: id}, r: r, signer: signer, heads: map[string]uint64{}, tops: map[string]uint64{}}
		if err := l.learn(ctx, agent, shown[id], listed, distrust); err != nil {
			return err
		}
		if l.last > 0 {
			r.lines = append(r.lines, l)
		}
	}
	return nil
}

// ledgerName is what a listing says of an entry.
type ledgerName struct {
	shownBy
	chain format.ID
	seq   uint64
	hash  format.Hash
}

// entries lists an agent's ledger, up to a bound, and what of it a deletion
// hides.
func (m *Member) entries(ctx context.Context, prefix string) ([]ledgerName, error) {
	var out []ledgerName
	err := m.do(ctx, func(ctx context.Context) error {
		out = nil
		names := 0
		add := func(info targets.Info, hidden bool) {
			n := ledgerName{shownBy: shownBy{m, info.Size, hidden}}
			var err error
			if n.chain, n.seq, n.hash, err = format.ParseEntryName(strings.TrimPrefix(info.Name, prefix)); err == nil && n.seq > 0 {
				out = append(out, n)
			}
		}
		for info, err := range m.Target.List(ctx, prefix) {
			if err != nil {
				return err
			}
			if names++; names > maxEntryNames {
				return fmt.Errorf("%s: more than %d names: the host, or somebody with its credentials, makes them up", prefix, maxEntryNames)
			}
			add(info, false)
		}
		for info := range m.hidden(ctx, prefix) {
			if names++; names > maxEntryNames {
				return nil
			}
			add(info, true)
		}
		return nil
	})
	return out, err
}

func (s sightings) add(n ledgerName) {
	list := s[n.seq]
	for i := range list {
		if list[i].hash == n.hash {
			list[i].by = append(list[i].by, n.shownBy)
			return
		}
	}
	s[n.seq] = append(list, sighting{n.hash, []shownBy{n.shownBy}})
}

// errUnsigned marks a name in a ledger whose bytes the agent did not sign.
var errUnsigned = errors.New("is no entry that the agent signed")

// open fetches and verifies one entry that somebody shows. Once one target
// gives it, the others that do not are blamed for damage; when nobody gives
// what the agent signed, all that give something else are blamed for forgery,
// and the error is errUnsigned. Another error says that nobody gave anything.
func (l *line) open(ctx context.Context, seq uint64, s sighting, distrust map[string]int) (format.Entry, Known, error) {
	name := format.EntryName(l.r.a.key.Nation, l.Compartment, l.Agent, l.Chain, seq, s.hash)
	type badCopy struct {
		shownBy
		err error
	}
	var bad []badCopy
	var failed []error
	for _, by := range s.by {
		if distrust[by.m.Name] >= maxForged {
			continue
		}
		object, err := by.m.fetchSized(ctx, name, by.size, format.MaxEntrySize, s.hash)
		if err != nil {
			if failed = append(failed, err); answered(err) || errors.Is(err, format.ErrMalformed) {
				bad = append(bad, badCopy{by, err})
			}
			continue
		}
		e, err := format.OpenEntry(object, l.signer, l.want(seq))
		if err != nil { // these bytes are the same everywhere
			for _, by := range s.by {
				l.forged(by, name, distrust)
			}
			return e, Known{}, errUnsigned
		}
		for _, b := range bad {
			l.r.a.s.fault(b.m.Name, kindOf(b.err), name, fmt.Errorf("%w: embassy verify --repair mends it from another target", b.err))
		}
		return e, Known{Seq: seq, Hash: s.hash, Size: uint64(len(object))}, nil
	}
	for _, b := range bad {
		if !errors.Is(b.err, targets.ErrNotFound) {
			l.forged(b.shownBy, name, distrust)
		}
	}
	if len(bad) > 0 && len(bad) >= len(failed) {
		return format.Entry{}, Known{}, errUnsigned
	}
	return format.Entry{}, Known{}, fmt.Errorf("%s: %w", name, errors.Join(append([]error{errNowhere}, failed...)...))
}

func (l *line) forged(by shownBy, name string, distrust map[string]int) {
	m := by.m
	if distrust[m.Name]++; distrust[m.Name] == maxForged {
		l.r.a.s.warn(Finding{Target: m.Name, Object: folderOf(l.r.a.key.Nation, l.Line),
			Err: fmt.Errorf("lists more than %d entries that are none; what only it shows is not read", maxForged)})
	}
	if !by.hidden { // else somebody has put it away
		l.r.a.s.fault(m.Name, FaultForged, name, errForged)
	}
}

// forkKey notes the first contested number of a line.
func (l *line) forkKey() string { return fmt.Sprintf("fork/%s/%s/%s", l.Compartment, l.Agent, l.Chain) }

// fork returns the first contested number of the line; 0: none is.
func (l *line) fork() (seq uint64, err error) {
	raw, ok, err := l.r.a.s.catalog.Noted(l.forkKey())
	if err != nil || !ok {
		return 0, err
	}
	if _, err := fmt.Sscan(string(raw), &seq); err != nil {
		return 0, fmt.Errorf("catalog: %s: %w", l.forkKey(), err)
	}
	return seq, nil
}

// valid returns the last known entry that counts.
func (l *line) valid() (uint64, error) {
	k, _, err := l.r.a.s.catalog.KnownHead(l.Line)
	if err != nil {
		return 0, err
	}
	fork, err := l.fork()
	if err != nil || fork == 0 {
		return k.Seq, err
	}
	return min(k.Seq, fork-1), nil
}

// forked freezes the line below seq.
func (l *line) forked(seq uint64) error {
	l.r.a.s.fault("", FaultFork, fmt.Sprintf("chain %s of agent %s", l.Chain, l.Agent),
		fmt.Errorf("two entries with number %d are signed by the agent's key: its machine was cloned or captured, or restored from an old copy; both branches are kept, nothing from there on is copied", seq))
	return l.r.a.s.catalog.Note(l.forkKey(), fmt.Appendf(nil, "%d", seq))
}

// learn verifies what is new of one chain, finds contradictions in it, and how
// far each listed member has come.
func (l *line) learn(ctx context.Context, agent *format.CharterAgent, shown sightings, listed map[*Member]time.Time, distrust map[string]int) error {
	cat := l.r.a.s.catalog
	known, _, err := cat.KnownHead(l.Line)
	if err != nil {
		return err
	}
	limit := uint64(1<<64 - 1)
	if agent.Status == format.AgentRevoked {
		limit = 0
		for _, h := range agent.After {
			if h.Chain == l.Chain {
				limit = h.Seq
			}
		}
	}
	fork, err := l.fork()
	if err != nil {
		return err
	}
	contested := fork > 0
	if contested {
		limit = min(limit, fork-1)
	}
	hashes := make([]format.Hash, known.Seq, known.Seq+64) // of the known entries, from number 1
	for seq := uint64(1); seq <= known.Seq; seq++ {
		k, _, err := cat.KnownEntry(l.Line, seq)
		if err != nil {
			return err
		}
		hashes[seq-1] = k.Hash
		for _, s := range shown[seq] {
			if s.hash == k.Hash || contested {
				continue
			}
			if _, _, err := l.open(ctx, seq, s, distrust); err == nil {
				if err := l.forked(seq); err != nil {
					return err
				}
				limit, contested = min(limit, seq-1), true
			}
		}
	}
	for seq := known.Seq + 1; seq <= limit && !contested; seq++ {
		var found []Known
		var entry format.Entry
		list := shown[seq]
		slices.SortStableFunc(list, func(a, b sighting) int { return cmp.Compare(len(b.by), len(a.by)) }) // honest ones first
		for _, s := range list {
			e, k, err := l.open(ctx, seq, s, distrust)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err == nil {
				entry, found = e, append(found, k)
			}
		}
		if len(found) == 0 {
			break
		}
		if len(found) > 1 || seq > 1 && entry.Prev != hashes[seq-2] {
			if err := l.forked(seq); err != nil {
				return err
			}
			break
		}
		if err := cat.Learn(l.Line, found[0], entry.Adds); err != nil {
			return err
		}
		hashes = append(hashes, found[0].Hash)
	}
	l.last = min(uint64(len(hashes)), limit)
	for m, asked := range listed {
		if err := l.measure(m, asked, shown, hashes); err != nil {
			return err
		}
	}
	return nil
}

// measure finds out how far a member has come, and whether it shows less than
// it showed before it was asked.
func (l *line) measure(m *Member, asked time.Time, shown sightings, hashes []format.Hash) error {
	shows := func(seq uint64, h format.Hash, orHid bool) bool {
		i := slices.IndexFunc(shown[seq], func(s sighting) bool { return s.hash == h })
		return i >= 0 && slices.ContainsFunc(shown[seq][i].by, func(by shownBy) bool { return by.m == m && (orHid || !by.hidden) })
	}
	var first, last, top uint64 // the end of the first entries without a gap; the greatest number; hidden ones too
	for i, h := range hashes {
		seq := uint64(i) + 1
		if shows(seq, h, true) {
			top = seq
		}
		if shows(seq, h, false) {
			if last = seq; first == seq-1 {
				first = seq
			}
		}
	}
	l.heads[m.Name], l.tops[m.Name] = first, top
	s := l.r.a.s
	seen, ok, err := s.catalog.SeenHead(m.Name, l.Line)
	if err != nil {
		return err
	}
	if ok && last < seen.Seq && !shows(seen.Seq, seen.Hash, false) && seen.At.Before(asked) {
		s.book(m, l.Line, ErrRolledBack)
		return nil
	}
	s.book(m, l.Line, nil)
	if first == 0 {
		return nil
	}
	return s.saw(m, l.Line, SeenHead{Seq: first, Hash: hashes[first-1], At: s.now()})
}
