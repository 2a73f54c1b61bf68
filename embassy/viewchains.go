package embassy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"math/rand/v2"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"embassy/crypto"
	"embassy/embassy/format"
)

const (
	smallFetches    = 32       // entries or snapshots fetched at once
	maxGapsReported = 20       // of one chain
	smallEntry      = 2 << 10  // bytes kept of an entry that always counts
	entryRation     = 64 << 20 // bytes kept of the greater entries of one agent
)

// ration grants every agent so many bytes of memory.
type ration struct {
	mu   sync.Mutex
	used map[format.ID]int
}

func (r *ration) take(agent format.ID, bytes, of int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.used == nil {
		r.used = map[format.ID]int{}
	}
	if r.used[agent]+bytes > of {
		return false
	}
	r.used[agent] += bytes
	return true
}

// readChains lists and reads the chains of every agent in every compartment:
// first what several members show. It spends little on a list that is mostly
// forged, and then reads of it only what verified entries vouch for.
func (v *View) readChains(ctx context.Context) error {
	agents := v.keys.Charter.Agents
	for i := range agents {
		by, err := crypto.ParseVerifier(agents[i].Signer)
		if err != nil {
			v.warn(Finding{Object: "agent " + agents[i].ID.String(), Err: err})
			continue
		}
		v.signers[agents[i].ID] = by
	}
	l := v.list(ctx)
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := v.readCheckpoints(ctx, l); err != nil {
		return err
	}
	r := &chainReader{view: v, listing: l, aside: map[entryName]bool{}, meter: newMeter(v.progress, v.now, "ledgers", "")}
	defer r.meter.end()
	r.meter.add(func(p *Progress) { p.FilesTotal = uint64(len(l.names)) })
	names := r.restate(slices.Collect(maps.Keys(l.names)))
	rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] }) // no host chooses what comes first
	slices.SortStableFunc(names, func(a, b entryName) int {
		return cmp.Compare(bits.OnesCount64(l.names[b].shown), bits.OnesCount64(l.names[a].shown))
	})
	var g errgroup.Group
	g.SetLimit(smallFetches)
	for _, n := range names {
		g.Go(func() error {
			if ctx.Err() == nil {
				r.read(ctx, n, false)
			}
			return nil
		})
	}
	g.Wait()
	for _, n := range r.vouched() {
		g.Go(func() error {
			for ok := true; ok && ctx.Err() == nil; {
				n, ok = r.read(ctx, n, true)
			}
			return nil
		})
	}
	g.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	for n := range r.aside {
		l.each(n, func(t *trial) { t.unread.Add(1) })
		r.hole(n)
	}
	v.tellForged(l)
	for _, c := range v.compartments {
		for i := range agents {
			if agents[i].Status == format.AgentRevoked {
				v.curtail(c, &agents[i])
			}
		}
		for _, ch := range c.sorted() {
			v.inspect(c, ch)
		}
	}
	return nil
}

// chainReader reads the entries of a listing.
type chainReader struct {
	view    *View
	listing *listing
	meter   *meter
	kept    ration

	mu    sync.Mutex
	aside map[entryName]bool // not read: only lists that are cut off show them
}

// place returns whose entry n is.
func (r *chainReader) place(n entryName) (*compartmentView, chainKey) {
	agents := r.view.keys.Charter.Agents
	return r.view.compartments[n.ledger/len(agents)], chainKey{agents[n.ledger%len(agents)].ID, n.chain}
}

// vouched returns what was put aside and is the Prev of a verified entry.
func (r *chainReader) vouched() []entryName {
	var out []entryName
	for n := range r.aside {
		c, key := r.place(n)
		if ch := c.chains[key]; ch != nil && slices.ContainsFunc(ch.entries[n.seq+1], func(e *readEntry) bool { return e.Prev == n.hash }) {
			out = append(out, n)
		}
	}
	return out
}

// read reads one entry into its chain, or puts it aside. Of one that was put
// aside and is vouched for, it returns the one before, if that was put aside
// too.
func (r *chainReader) read(ctx context.Context, n entryName, vouched bool) (entryName, bool) {
	c, key := r.place(n)
	r.mu.Lock()
	skip := vouched && !r.aside[n] // another trail came here
	if !vouched && r.listing.forged(n) {
		r.aside[n], skip = true, true
	} else {
		delete(r.aside, n)
	}
	r.mu.Unlock()
	if skip {
		return n, false
	}
	where := r.listing.names[n]
	e := &readEntry{hash: n.hash, listed: where}
	room := min(int64(slices.Max(e.sizes)), format.MaxEntrySize) // of those that are opened at once
	err := r.view.room.Acquire(ctx, room)
	if err == nil {
		e.Entry, err = r.view.fetchEntry(ctx, c, key, n.seq, e, r.listing.trials, n.ledger)
		r.view.room.Release(room)
	}
	r.meter.add(func(p *Progress) { p.Files++ })
	if err != nil {
		r.hole(n)
		return n, false // reported, copy by copy
	}
	if !r.keep(e) {
		r.hole(n)
		r.view.warn(Finding{Object: format.EntryName(e.Nation, c.ID, key.agent, key.chain, n.seq, n.hash),
			Err: fmt.Errorf("left out: the agent's entries commit, or depend on, more than %d MiB can name", entryRation>>20)})
		return n, false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.enter(c, key, e)
	before := entryName{n.ledger, n.chain, n.seq - 1, e.Prev}
	return before, r.aside[before]
}

// enter puts an entry into its chain. The caller holds mu, or is alone.
func (r *chainReader) enter(c *compartmentView, key chainKey, e *readEntry) {
	ch := c.chains[key]
	if ch == nil {
		ch = &readChain{chainKey: key, entries: map[uint64][]*readEntry{}}
		c.chains[key] = ch
	}
	ch.entries[e.Seq] = append(ch.entries[e.Seq], e)
	ch.last = max(ch.last, e.Seq)
}

// hole notes that an entry is not read.
func (r *chainReader) hole(n entryName) {
	_, key := r.place(n)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.view.holes[format.Head{Chain: n.chain, Seq: n.seq, Hash: n.hash}] = key.agent
}

// keep drops what a View does not need of an entry, and reports whether there
// is room for the rest.
func (r *chainReader) keep(e *readEntry) bool {
	var small []format.Listed
	for _, a := range e.Adds {
		if a.Kind == format.KindSnapshot || a.Kind == format.KindRecord {
			small = append(small, a)
		}
	}
	e.adds, e.Adds, e.Confirmed = uint32(len(e.Adds)), slices.Clip(small), nil
	bytes := 48*len(e.Adds) + 32*len(e.Snapshots) + 56*(len(e.Depends)+len(e.Continues)+len(e.Steward)+len(e.Orders))
	return bytes <= smallEntry || r.kept.take(e.Agent, bytes, entryRation)
}

// fetchEntry reads all of an entry from the best member that shows a good
// copy. trials, which may be nil, learns of every copy of the ledger.
func (v *View) fetchEntry(ctx context.Context, c *compartmentView, key chainKey, seq uint64, e *readEntry, trials [][]trial, ledger int) (format.Entry, error) {
	by := v.signers[key.agent]
	if by == nil {
		return format.Entry{}, fmt.Errorf("%w: key of agent %s", format.ErrMalformed, key.agent)
	}
	want := format.Entry{Nation: v.keys.Charter.Nation, Compartment: c.ID, Agent: key.agent, Chain: key.chain, Seq: seq}
	q := request{
		name:  format.EntryName(want.Nation, c.ID, key.agent, key.chain, seq, e.hash),
		shown: e.shown, only: true, size: 1,
	}
	var out format.Entry
	get := func(ctx context.Context, r ranked) error {
		object, old, err := r.readSized(ctx, q.name, e.hash, int64(e.sizes[bitPlace(r.bit)]), format.MaxEntrySize)
		if err != nil {
			return err
		}
		if old != nil {
			v.report(r, q, old)
		}
		if out, err = format.OpenEntry(object, by, want); errors.Is(err, crypto.ErrAuthentication) {
			return fmt.Errorf("%w: %w", format.ErrMalformed, err)
		}
		return err
	}
	err := c.source.try(ctx, q, func(ctx context.Context, r ranked) error {
		err := get(ctx, r)
		if trials != nil {
			t := &trials[bitPlace(r.bit)][ledger]
			if err == nil {
				t.good.Add(1)
			} else if final(err) {
				t.bad.Add(1)
			}
		}
		return err
	})
	return out, err
}

// curtail keeps of a revoked agent's chains the entries that the charter names
// and their ancestors.
func (v *View) curtail(c *compartmentView, a *format.CharterAgent) {
	for key, ch := range c.chains {
		if key.agent != a.ID {
			continue
		}
		kept := map[uint64][]*readEntry{}
		var last uint64
		for _, h := range a.After {
			if h.Chain != key.chain {
				continue
			}
			for e := ch.entry(h.Seq, h.Hash); e != nil && !slices.Contains(kept[e.Seq], e); e = ch.entry(e.Seq-1, e.Prev) {
				kept[e.Seq] = append(kept[e.Seq], e)
				last = max(last, e.Seq)
			}
		}
		for n, es := range ch.entries {
			for _, e := range es {
				if !slices.Contains(kept[n], e) {
					v.holes[format.Head{Chain: key.chain, Seq: n, Hash: e.hash}] = a.ID
				}
			}
		}
		if ch.entries, ch.last = kept, last; len(kept) == 0 {
			delete(c.chains, key)
		}
	}
}

// inspect reports gaps and forks.
func (v *View) inspect(c *compartmentView, ch *readChain) {
	where := fmt.Sprintf("compartment %s, agent %s, chain %s", c.Part.Name, ch.agent, ch.chain)
	tell := func(format string, args ...any) {
		v.warn(Finding{Object: where, Err: fmt.Errorf(format, args...)})
	}
	gaps := 0
	var before uint64
	for _, n := range ch.numbers() {
		if n != before+1 {
			if gaps++; gaps <= maxGapsReported {
				tell("entries %d to %d are on no target that answers", before+1, n-1)
			}
		}
		es := ch.entries[n]
		slices.SortFunc(es, func(a, b *readEntry) int { return slices.Compare(a.hash[:], b.hash[:]) })
		if len(es) > 1 {
			if ch.fork == 0 {
				ch.fork = n
			}
			tell("the agent signed %d entries with number %d: a cloned or captured machine", len(es), n)
		}
		for _, e := range es {
			if n == before+1 && n > 1 && ch.entry(n-1, e.Prev) == nil {
				tell("entry %d follows an entry %d that is on no target that answers", n, n-1)
			}
		}
		before = n
	}
	if gaps > maxGapsReported {
		tell("%d more gaps", gaps-maxGapsReported)
	}
}
