package embassy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"embassy/crypto"
	"embassy/embassy/format"
	"embassy/targets"
)

// sighting is a ledger entry's name as targets list it.
type sighting struct {
	hash format.Hash
	by   []shownBy
	err  error // why it could not be opened
}

type shownBy struct {
	m      *Member
	size   int64
	hidden bool // by a deletion: it can be read, and is not there
}

// sightings are the names below one chain's folder, by number.
type sightings map[uint64][]*sighting

func (s sightings) add(n ledgerName) {
	if old := s.find(n.seq, n.hash); old != nil {
		old.by = append(old.by, n.shownBy)
	} else {
		s[n.seq] = append(s[n.seq], &sighting{hash: n.hash, by: []shownBy{n.shownBy}})
	}
}

// find returns an entry's sighting; nil: nobody shows it.
func (s sightings) find(seq uint64, h format.Hash) *sighting {
	for _, one := range s[seq] {
		if one.hash == h {
			return one
		}
	}
	return nil
}

// shows reports whether a member shows an entry; orHid: or a deletion hides it
// there.
func (s sightings) shows(m *Member, seq uint64, h format.Hash, orHid bool) bool {
	one := s.find(seq, h)
	return one != nil && slices.ContainsFunc(one.by, func(by shownBy) bool { return by.m == m && (orHid || !by.hidden) })
}

// ledgers are what the members list of one agent in one compartment.
type ledgers struct {
	chains map[format.ID]sightings
	whole  []*Member // whose list was read to its end
	cut    bool      // somebody's was not: it never ends
}

// list asks every member that answers for an agent's ledger: of lines of which
// entries are given, for what is new.
func (r *region) list(ctx context.Context, prefix string, known map[Line][]Known) (*ledgers, error) {
	all := &ledgers{chains: map[format.ID]sightings{}}
	var mu sync.Mutex
	var failed error
	each(r.members, func(_ int, m *Member) {
		if m.Down() != nil {
			return
		}
		past, err := r.past(m, prefix, known)
		if err != nil {
			mu.Lock()
			defer mu.Unlock()
			failed = err
			return
		}
		names, cut, err := m.entries(ctx, prefix, past)
		if err != nil {
			if answered(err) {
				r.a.s.warn(Finding{Target: m.Name, Object: prefix, Err: err})
			}
			return
		}
		mu.Lock()
		defer mu.Unlock()
		for _, n := range names {
			if all.chains[n.chain] == nil {
				all.chains[n.chain] = sightings{}
			}
			all.chains[n.chain].add(n)
		}
		if !cut {
			all.whole = append(all.whole, m)
			return
		}
		all.cut = true
		r.a.s.fault(m.Name, FaultForged, prefix, errEndless)
	})
	return all, failed
}

// past returns, of the known lines, those whose list may begin at the last entry that
// a member showed, with the entries up to that one. What the book holds against
// the member in the ledger needs a whole list.
func (r *region) past(m *Member, prefix string, known map[Line][]Known) (map[format.ID][]Known, error) {
	past := map[format.ID][]Known{}
	for f := range r.a.booked {
		if f.target == m.Name && strings.HasPrefix(f.object, prefix) {
			return past, nil
		}
	}
	for l, entries := range known {
		seen, ok, err := r.a.s.catalog.SeenHead(m.Name, l)
		if err != nil {
			return nil, err
		}
		back := r.a.booked[faultID{m.Name, FaultRollback, l.title()}]
		if n := seen.Seq; ok && !back && n > 0 && n <= uint64(len(entries)) && entries[n-1].Hash == seen.Hash {
			past[l.Chain] = entries[:n]
		}
	}
	return past, nil
}

// known returns the known entries of a line, from number 1; none if the catalog
// lost one.
func (r *region) known(l Line) ([]Known, error) {
	entries, err := r.a.s.catalog.KnownEntries(l)
	for i, k := range entries {
		if k.Seq != uint64(i)+1 {
			return nil, nil
		}
	}
	return entries, err
}

// errEndless: a ledger holds more names than can be read.
var errEndless = fmt.Errorf("lists more than %d names: the host, or somebody with the agent's credentials, makes them up; what comes after them is not read", maxEntryNames)

// ledgerName is what a listing says of an entry.
type ledgerName struct {
	shownBy
	chain format.ID
	seq   uint64
	hash  format.Hash
}

// entries lists an agent's ledger, and what of it a deletion hides. cut reports
// that there are more names than are read. Of a chain with a past the list begins
// at its last entry: while the member shows that, it is taken to hold those before,
// and nothing is looked for that a deletion hides. Else all is listed.
func (m *Member) entries(ctx context.Context, prefix string, past map[format.ID][]Known) (out []ledgerName, cut bool, err error) {
	err = m.do(ctx, func(ctx context.Context) error {
		out, cut = nil, false
		names := 0
		add := func(info targets.Info, hidden bool) (more bool) {
			n := ledgerName{shownBy: shownBy{m, info.Size, hidden}}
			var err error
			if n.chain, n.seq, n.hash, err = format.ParseEntryName(strings.TrimPrefix(info.Name, prefix)); err == nil && n.seq > 0 {
				out = append(out, n)
			}
			names++
			return names <= maxEntryNames
		}
		for after := prefix; after != ""; {
			from := after
			after = ""
			for info, err := range targets.ListAfter(ctx, m.Target, prefix, from) {
				if err != nil {
					return err
				}
				if after = begins(prefix, info.Name, past); after > info.Name {
					break
				}
				if after = ""; !add(info, false) {
					cut = true
					return nil
				}
			}
		}
		if len(past) > 0 {
			return nil
		}
		for info := range m.hidden(ctx, prefix) {
			if !add(info, true) {
				return nil
			}
		}
		return nil
	})
	if err != nil || cut {
		return out, cut, err
	}
	for chain, entries := range past {
		last := entries[len(entries)-1]
		if !slices.ContainsFunc(out, func(n ledgerName) bool { return n.chain == chain && n.seq == last.Seq && n.hash == last.Hash }) {
			return m.entries(ctx, prefix, nil)
		}
		for _, k := range entries[:len(entries)-1] {
			out = append(out, ledgerName{shownBy{m, int64(k.Size), false}, chain, k.Seq, k.Hash})
		}
	}
	return out, false, nil
}

// begins returns after which name the list of a name's chain begins, if the chain
// has a past; else "".
func begins(prefix, name string, past map[format.ID][]Known) string {
	folder, _, _ := strings.Cut(strings.TrimPrefix(name, prefix), "/")
	if len(past) == 0 {
		return ""
	}
	chain, err := format.ParseID(folder)
	if err != nil || len(past[chain]) == 0 {
		return ""
	}
	return fmt.Sprintf("%s%s/%016x", prefix, folder, len(past[chain]))
}

// trials say what the members' lists turned out to be worth.
type trials map[string]*trial

func (t trials) of(m *Member) *trial {
	if t[m.Name] == nil {
		t[m.Name] = new(trial)
	}
	return t[m.Name]
}

// learn reads all chains of one agent: first those that are known, so that no
// made-up chain uses up what is spent on them.
func (r *region) learn(ctx context.Context, agent *format.CharterAgent, signer *crypto.Verifier) error {
	prefix := format.LedgerPrefix(r.a.key.Nation, r.id, agent.ID)
	lines, err := r.a.s.catalog.KnownLines()
	if err != nil {
		return err
	}
	lines = slices.DeleteFunc(lines, func(l Line) bool { return l.Compartment != r.id || l.Agent != agent.ID })
	entries := map[Line][]Known{}
	for _, l := range lines {
		if !r.a.brief {
			break
		}
		if entries[l], err = r.known(l); err != nil {
			return err
		}
	}
	all, err := r.list(ctx, prefix, entries)
	if err = errors.Join(err, ctx.Err()); err != nil {
		return err
	}
	learn := func(id format.ID, t trials) error {
		l := &line{Line: Line{Compartment: r.id, Agent: agent.ID, Chain: id}, r: r, signer: signer, trials: t,
			heads: map[string]uint64{}, tops: map[string]uint64{}, leads: map[string][]uint64{}}
		heeds, err := l.heedsAll()
		if err != nil {
			return err
		}
		if err := l.learn(ctx, agent, all); err != nil {
			return err
		}
		if agent.Status == format.AgentRevoked {
			r.revoked[id] = l.last
			if r.steward(agent.ID) {
				if err := l.pardon(); err != nil {
					return err
				}
			}
		}
		if !heeds {
			if ok, err := l.heedPast(ctx); err != nil || !ok {
				return err
			}
		}
		if l.last > 0 {
			r.lines = append(r.lines, l)
		}
		return nil
	}
	known := map[format.ID]bool{}
	for _, l := range lines {
		known[l.Chain] = true
		if err := learn(l.Chain, trials{}); err != nil {
			return err
		}
	}
	fresh := slices.Collect(maps.Keys(all.chains))
	rand.Shuffle(len(fresh), func(i, j int) { fresh[i], fresh[j] = fresh[j], fresh[i] }) // no host chooses what comes first
	shared := trials{}
	for _, id := range fresh {
		if !known[id] {
			if err := learn(id, shared); err != nil {
				return err
			}
		}
	}
	if all.cut {
		r.beyond++
	}
	return r.forgive(ctx, agent.ID, prefix, all)
}
