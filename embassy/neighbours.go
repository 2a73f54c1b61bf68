package embassy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"embassy/chunk"
	"embassy/embassy/format"
	"embassy/embassy/policy"
)

// In a shared compartment an agent reuses what the chains of the others list,
// as far as enough targets hold it. Chunks of both lie in one catalog; when a
// chain, or the end of one, counts no more, the catalog forgets all, and learns
// the rest again: then what relied on it is stored anew.

// neighboursNote, and the compartment: which chains of others the catalog has
// learned, and whose they are.
const neighboursNote = "neighbours/"

// neighbours opens the region of the compartment, once a run: the ledgers of the
// stewards, and in a shared compartment of all others.
func (l *ledger) neighbours(ctx context.Context) (*region, error) {
	if err := l.meeting.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer l.meeting.Release(1)
	if l.region == nil {
		c := l.keys.Charter.Compartment(l.comp.ID)
		agents := c.Stewards
		if c.Shared {
			agents = nil
		}
		r, err := l.s.openRegion(ctx, l.state, l.keys, l.comp.ID, agents)
		if err != nil {
			return nil, fmt.Errorf("the ledgers of the other agents: %w", err)
		}
		l.region = r
	}
	return l.region, nil
}

// ready reports whether a target has what an own entry depends on.
func (l *ledger) ready(ctx context.Context, m *Member, e format.Entry) (bool, error) {
	if len(e.Depends) == 0 {
		return true, nil
	}
	r, err := l.neighbours(ctx)
	if err != nil {
		return false, err
	}
	return r.ready(ctx, m, e)
}

// neighbour is a chain of another agent of which the catalog has learned.
type neighbour struct {
	Agent string `json:"agent"`
	Seq   uint64 `json:"seq"` // of the last entry of which it may have
	// Own: it has learned of nothing but what a steward made of this agent's packs.
	Own bool `json:"own,omitempty"`
}

func (n neighbour) line(compartment format.ID, chain string) (Line, error) {
	agent, err1 := format.ParseID(n.Agent)
	id, err2 := format.ParseID(chain)
	return Line{compartment, agent, id}, errors.Join(err1, err2)
}

// learned are the neighbours, by chain.
func (l *ledger) learned() (map[string]neighbour, error) {
	chains, ok, err := readNote[map[string]neighbour](l.s.catalog, neighboursNote+l.comp.ID.String())
	if !ok {
		chains = map[string]neighbour{}
	}
	return chains, err
}

func (l *ledger) noteLearned(chains map[string]neighbour) error {
	return keepNote(l.s.catalog, neighboursNote+l.comp.ID.String(), chains)
}

// part makes the catalog forget when it has learned of others what does not
// count any more.
func (l *ledger) part(ctx context.Context) error {
	chains, err := l.learned()
	if err != nil || len(chains) == 0 {
		return err
	}
	r, err := l.neighbours(ctx)
	if err != nil {
		return err
	}
	for chain, n := range chains {
		of, err := n.line(l.comp.ID, chain)
		if err != nil {
			return err
		}
		if n.Seq <= l.counts(r, of, n.Own) {
			continue
		}
		l.s.warn(Finding{Object: "agent " + n.Agent, Err: errors.New("its chunks are reused no more: what relied on them is stored again")})
		if err := l.s.catalog.Forget(); err != nil {
			return err
		}
		return l.noteLearned(map[string]neighbour{})
	}
	return nil
}

// counts returns the last entry of a chain of another agent whose chunks may be
// used; own, what a steward made of this agent's packs.
func (l *ledger) counts(r *region, of Line, own bool) uint64 {
	a := l.keys.Charter.Agent(of.Agent)
	if c := l.keys.Charter.Compartment(l.comp.ID); a == nil || !c.Shared && !(own && r.steward(of.Agent)) {
		return 0
	}
	for _, ln := range r.lines {
		if ln.Line == of {
			return ln.last
		}
	}
	return 0
}

// meet learns from the chains of the other agents what may be reused. It comes
// after the own chain was replayed: what this agent has itself comes first.
func (l *ledger) meet(ctx context.Context) error {
	if !l.meets {
		return nil
	}
	r, err := l.neighbours(ctx)
	if err != nil {
		return err
	}
	chains, err := l.learned()
	if err != nil {
		return err
	}
	owners := map[format.ID]int{}
	for _, ln := range r.lines {
		owners[ln.Chain]++
	}
	for _, ln := range r.lines {
		agent := l.keys.Charter.Agent(ln.Agent)
		if ln.Agent == l.chain.scope.Agent || agent.Status == format.AgentSuspended || owners[ln.Chain] > 1 {
			continue // an id that two claim tells nobody what is meant
		}
		if mine, err := l.state.hasChain(ln.Chain); err != nil || mine {
			if err != nil {
				return err
			}
			continue
		}
		if n, ok := chains[ln.Chain.String()]; ok && n.Agent != ln.Agent.String() {
			continue
		}
		if err := l.meetLine(ctx, r, ln, chains); err != nil {
			return err
		}
	}
	return nil
}

// hasChain reports whether this machine writes, or wrote, a chain of that id in
// any compartment.
func (s *State) hasChain(id format.ID) (bool, error) {
	found, err := filepath.Glob(filepath.Join(s.dir, "chains", "*", id.String()))
	return len(found) > 0, err
}

// meetLine learns the entries of one chain that are new and safe. Where one
// cannot be learned, those after it wait for another run.
func (l *ledger) meetLine(ctx context.Context, r *region, ln *line, chains map[string]neighbour) error {
	head, err := l.s.catalog.ListedHead(ln.Chain)
	if err != nil {
		return err
	}
	for seq := head + 1; seq <= ln.last; seq++ {
		e, _, err := ln.entry(ctx, seq)
		var safe bool
		if err == nil {
			safe, err = l.safe(ctx, ln, e)
		}
		if err == nil && safe {
			chain := ln.Chain.String()
			chains[chain] = neighbour{Agent: ln.Agent.String(), Seq: max(seq, chains[chain].Seq)}
			if err := l.noteLearned(chains); err != nil { // before the catalog learns of it
				return err
			}
			err = l.meetEntry(ctx, r, ln, e, nil)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			l.s.log.Warn("entry of another agent", "agent", ln.Agent, "chain", ln.Chain, "seq", seq, "err", err)
		}
		if err != nil || !safe {
			return nil
		}
		if err := l.s.catalog.SetListed(ln.Chain, seq, nil); err != nil {
			return err
		}
	}
	return nil
}

// safe reports whether so many targets hold an entry of another agent, with all
// that it adds, that the commit rule holds for it. A listing, or a look at each
// object, says so.
func (l *ledger) safe(ctx context.Context, ln *line, e format.Entry) (bool, error) {
	c := &courier{s: l.s, looks: true}
	left, err := l.s.left(e)
	if err != nil {
		return false, err
	}
	var copies []policy.Copy
	for _, m := range l.members {
		if suspect(l.found(m)) {
			continue
		}
		n, err := ln.headOn(m)
		if err != nil {
			return false, err
		}
		if n < e.Seq {
			continue
		}
		missing, _, err := c.missing(ctx, m, e, left)
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		if err == nil && len(missing) == 0 {
			copies = append(copies, copyOn(m))
		}
	}
	return len(l.rule.Missing(copies)) == 0, nil
}

// meetEntry adds to the catalog the packs that an entry of another agent lists,
// of the writer epoch that is in use; only, if it is not nil, names those that
// count.
func (l *ledger) meetEntry(ctx context.Context, r *region, ln *line, e format.Entry, only map[format.Hash]bool) error {
	at := map[format.Hash]int{}
	for i, a := range e.Adds {
		if a.Kind == format.KindPack && (only == nil || only[a.Hash]) {
			at[a.Hash] = i
		}
	}
	for _, a := range e.Adds {
		gone, err := l.s.deleted(l.comp.ID, a.Hash)
		if err != nil {
			return err
		}
		if a.Kind != format.KindIndex || gone {
			continue
		}
		object, err := ln.added(ctx, e, a, nil)
		if err != nil {
			return err
		}
		packs, err := format.ParseIndex(object)
		if err != nil {
			return fmt.Errorf("index %s: %w", a.Hash, err)
		}
		for _, p := range packs {
			i, ok := at[p.Hash]
			if !ok || e.Adds[i].Size != p.Size {
				continue // the entry does not list it
			}
			delete(at, p.Hash)
			if fate, err := l.s.catalog.Fate(l.comp.ID, p.Hash); err != nil || fate.Marked.Given() {
				if err != nil {
					return err
				}
				continue
			}
			from := []format.ID{e.Agent}
			if only != nil {
				from = append(from, l.chain.scope.Agent)
			} else if r.steward(ln.Agent) {
				from = nil
			}
			ids, err := l.foreign(e, p, from)
			if err != nil {
				return fmt.Errorf("index %s, pack %s: %w", a.Hash, p.Hash, err)
			}
			if len(ids) == 0 {
				continue
			}
			if _, err := l.s.catalog.AddPack(PackState{Hash: p.Hash, Size: int64(p.Size), Chain: e.Chain, Entry: e.Seq, Pos: uint32(i)}, ids); err != nil {
				return err
			}
			if err := l.recheck(p.Hash); err != nil {
				return err
			}
		}
	}
	return nil
}

// foreign returns the ids of the chunks in a pack of another agent. Of another
// writer epoch there are none that this run could look for. from are the agents that
// may have sealed what is in it; nil: all.
func (l *ledger) foreign(e format.Entry, p format.IndexedPack, from []format.ID) (ids []chunk.ID, err error) {
	w := l.comp.Current()
	for _, s := range p.Segments {
		h, dir, err := format.OpenDirectory(w, s.Head, s.Dir, s.Length)
		if err != nil && h.Scope.Epoch != w.Epoch && !errors.Is(err, format.ErrMalformed) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if h.Scope.Nation != e.Nation || h.Scope.Compartment != e.Compartment || from != nil && !slices.Contains(from, h.Scope.Agent) {
			return nil, fmt.Errorf("%w: a segment from elsewhere", format.ErrMalformed)
		}
		for _, d := range dir {
			ids = append(ids, d.ID)
		}
	}
	return ids, nil
}

// inherit learns of the packs in which a steward put what this agent wrote: it is
// reused from there. In a shared compartment meet does that.
func (l *ledger) inherit(ctx context.Context, r *region) error {
	for _, ln := range r.lines {
		if l.meets || ln.Agent == l.chain.scope.Agent || !r.steward(ln.Agent) {
			continue
		}
		replacing, err := l.s.replacing(ln.Line)
		if err != nil {
			return err
		}
		head, err := l.s.catalog.ListedHead(ln.Chain)
		if err != nil {
			return err
		}
		last := uint64(0)
		if n := len(replacing); n > 0 {
			last = replacing[n-1]
		}
		for seq := head + 1; seq <= last; seq++ {
			if slices.Contains(replacing, seq) {
				err = l.inheritEntry(ctx, r, ln, seq)
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				l.s.log.Warn("packs that a steward made of this agent's", "chain", ln.Chain, "seq", seq, "err", err)
				break // another run goes on
			}
			if err := l.s.catalog.SetListed(ln.Chain, seq, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// inheritEntry learns of one entry that replaces packs.
func (l *ledger) inheritEntry(ctx context.Context, r *region, ln *line, seq uint64) error {
	e, _, err := ln.entry(ctx, seq)
	if err != nil {
		return err
	}
	if safe, err := l.safe(ctx, ln, e); err != nil || !safe {
		return cmp.Or(err, errors.New("too few targets have them yet"))
	}
	replaced, err := ln.replaced(ctx, e)
	if err != nil {
		return err
	}
	mine := map[format.Hash]bool{}
	for _, p := range replaced {
		_, known, err := l.s.catalog.PackByHash(p.Pack) // it was made of this agent's before
		if err != nil {
			return err
		}
		for _, h := range p.Packs() {
			if known && r.steward(p.Agent) || p.Agent == l.chain.scope.Agent {
				mine[h] = true
			}
		}
	}
	chains, err := l.learned()
	if err != nil {
		return err
	}
	chain := ln.Chain.String()
	chains[chain] = neighbour{Agent: ln.Agent.String(), Seq: max(seq, chains[chain].Seq), Own: chains[chain].Agent == "" || chains[chain].Own}
	if err := l.noteLearned(chains); err != nil { // before the catalog learns of it
		return err
	}
	return l.meetEntry(ctx, r, ln, e, mine)
}

// depends returns what an entry with these references depends on: of every
// chain of another agent the last entry that it needs.
func (l *ledger) depends(refs []format.Refs) ([]format.Head, error) {
	last := map[format.ID]uint64{}
	var order []format.ID // as the references come
	for _, ref := range refs {
		if ref.Chain == l.chain.id() {
			continue
		}
		if last[ref.Chain] == 0 {
			order = append(order, ref.Chain)
		}
		last[ref.Chain] = max(last[ref.Chain], ref.Seq)
	}
	if len(order) == 0 {
		return nil, nil
	}
	chains, err := l.learned()
	if err != nil {
		return nil, err
	}
	var out []format.Head
	for _, chain := range order {
		of, err := chains[chain.String()].line(l.comp.ID, chain.String())
		if err != nil {
			return nil, fmt.Errorf("chain %s is none whose chunks may be used: %w", chain, err)
		}
		k, ok, err := l.s.catalog.KnownEntry(of, last[chain])
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, fmt.Errorf("entry %d of chain %s is not in the catalog", last[chain], chain)
		}
		out = append(out, format.Head{Chain: chain, Seq: k.Seq, Hash: k.Hash})
	}
	return out, nil
}
