package embassy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"embassy/crypto"
	"embassy/embassy/format"
)

const (
	maxEntryNames   = 1 << 18 // that one target may list of one agent in one compartment
	listsPerTarget  = 4       // at once
	smallFetches    = 16      // entries or snapshots fetched at once
	maxGapsReported = 20      // of one chain
)

// entryName is what a listing says of an entry.
type entryName struct {
	compartment int // in View.compartments
	agent       int // in Charter.Agents
	chain       format.ID
	seq         uint64
	hash        format.Hash
}

// listing is the union of what the members list.
type listing struct {
	mu    sync.Mutex
	names map[entryName]*listed
}

// listed says who shows an entry, and of how many bytes.
type listed struct {
	shown uint64
	sizes []uint32 // by member
}

// readChains lists and reads the chains of every agent in every compartment.
func (v *View) readChains(ctx context.Context) error {
	l := &listing{names: map[entryName]*listed{}}
	v.list(ctx, l)
	if err := ctx.Err(); err != nil {
		return err
	}
	agents := v.keys.Charter.Agents
	verifiers := make([]*crypto.Verifier, len(agents))
	for i := range agents {
		var err error
		if verifiers[i], err = crypto.ParseVerifier(agents[i].Signer); err != nil {
			v.warn(Finding{Object: "agent " + agents[i].ID.String(), Err: err})
		}
	}
	meter := newMeter(v.progress, v.now, "ledgers", "")
	defer meter.end()
	meter.add(func(p *Progress) { p.FilesTotal = uint64(len(l.names)) })
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(smallFetches)
	for n, where := range l.names {
		if verifiers[n.agent] == nil {
			continue
		}
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error {
			c := v.compartments[n.compartment]
			key := chainKey{agents[n.agent].ID, n.chain}
			e, err := v.readEntry(ctx, c, key, n, where, verifiers[n.agent])
			meter.add(func(p *Progress) { p.Files++ })
			if err != nil {
				return nil // reported, copy by copy
			}
			mu.Lock()
			defer mu.Unlock()
			ch := c.chains[key]
			if ch == nil {
				ch = &readChain{chainKey: key, entries: map[uint64][]*readEntry{}}
				c.chains[key] = ch
			}
			ch.entries[n.seq] = append(ch.entries[n.seq], e)
			ch.last = max(ch.last, n.seq)
			return nil
		})
	}
	g.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, c := range v.compartments {
		for i := range agents {
			if agents[i].Status == format.AgentRevoked {
				c.curtail(&agents[i])
			}
		}
		for _, ch := range c.sorted() {
			v.inspect(c, ch)
		}
	}
	return nil
}

// list asks every member for every agent's ledger.
func (v *View) list(ctx context.Context, l *listing) {
	var wg sync.WaitGroup
	for i, m := range v.members {
		if m.Down() != nil {
			continue
		}
		wg.Go(func() {
			var g errgroup.Group
			g.SetLimit(listsPerTarget)
			for c := range v.compartments {
				for a := range v.keys.Charter.Agents {
					g.Go(func() error {
						v.listOne(ctx, l, i, c, a)
						return nil
					})
				}
			}
			g.Wait()
			tellDown([]*Member{m}, v.warn)
		})
	}
	wg.Wait()
}

func (v *View) listOne(ctx context.Context, l *listing, member, compartment, agent int) {
	m := v.members[member]
	ch := v.keys.Charter
	prefix := format.LedgerPrefix(ch.Nation, v.compartments[compartment].ID, ch.Agents[agent].ID)
	odd, names := 0, 0
	err := m.do(ctx, func(ctx context.Context) error {
		odd, names = 0, 0
		for info, err := range m.Target.List(ctx, prefix) {
			if err != nil {
				return err
			}
			if names++; names > maxEntryNames {
				return nil
			}
			chain, seq, hash, err := format.ParseEntryName(strings.TrimPrefix(info.Name, prefix))
			if err != nil {
				odd++
				continue
			}
			size := uint32(min(max(info.Size, 0), format.MaxEntrySize+1))
			l.add(entryName{compartment, agent, chain, seq, hash}, member, len(v.members), size)
		}
		return nil
	})
	// A fault trips the breaker, which tells; what was listed before counts.
	if err != nil && answered(err) {
		v.warn(Finding{Target: m.Name, Object: prefix, Err: err})
	}
	if odd > 0 {
		v.warn(Finding{Target: m.Name, Object: prefix, Err: fmt.Errorf("lists %d names that no ledger has", odd)})
	}
	if names > maxEntryNames {
		v.warn(Finding{Target: m.Name, Object: prefix, Err: fmt.Errorf("lists more than %d entries; the rest is ignored", maxEntryNames)})
	}
}

func (l *listing) add(n entryName, member, members int, size uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.names[n]
	if e == nil {
		e = &listed{sizes: make([]uint32, members)}
		l.names[n] = e
	}
	e.shown |= 1 << member
	e.sizes[member] = size
}

// readEntry reads an entry from the best member that shows a good copy.
func (v *View) readEntry(ctx context.Context, c *compartmentView, key chainKey, n entryName, where *listed, by *crypto.Verifier) (*readEntry, error) {
	want := format.Entry{
		Nation: v.keys.Charter.Nation, Compartment: c.ID, Agent: key.agent, Chain: key.chain, Seq: n.seq,
	}
	q := request{
		name:  format.EntryName(want.Nation, c.ID, key.agent, key.chain, n.seq, n.hash),
		shown: where.shown, only: true, size: 1,
	}
	e := &readEntry{hash: n.hash, shown: where.shown}
	err := c.source.try(ctx, q, func(ctx context.Context, r ranked) error {
		size := where.sizes[bitPlace(r.bit)]
		if size == 0 || size > format.MaxEntrySize {
			return fmt.Errorf("%w: ledger entry of %d bytes", format.ErrMalformed, size)
		}
		object := make([]byte, size)
		if err := r.read(ctx, q.name, 0, object); err != nil {
			return err
		}
		if format.HashOf(object) != n.hash {
			return errBadCopy
		}
		var err error
		if e.Entry, err = format.OpenEntry(object, by, want); errors.Is(err, crypto.ErrAuthentication) {
			return fmt.Errorf("%w: %w", format.ErrMalformed, err)
		}
		return err
	})
	e.Confirmed = nil
	return e, err
}

// curtail keeps of a revoked agent's chains the entries that the charter names
// and their ancestors.
func (c *compartmentView) curtail(a *format.CharterAgent) {
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
