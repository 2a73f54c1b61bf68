package embassy

import (
	"cmp"
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

// A checkpoint saves fetching entries, and nothing rests on it alone: an entry that
// a checkpoint restates counts only while a target lists it, a checkpoint only
// while targets list the head of every chain in it, and a snapshot only once its
// agent's own entry was seen to commit it.

const (
	worthCheckpoint    = 64     // entries to be fetched, from which on a checkpoint is looked for
	maxCheckpointNames = 10_000 // that one target may list of one steward
	checkpointTries    = 3      // of one target and steward
)

// checkpointFinder looks for the newest checkpoint of a compartment.
type checkpointFinder struct {
	charter     *format.Charter
	compartment format.ID
	members     []*Member
	tell        func(Finding)
	// usable reports whether what is shown agrees with a checkpoint.
	usable func(*format.Checkpoint) bool
}

// checkpointName is what targets list of a checkpoint. When they stored it is a
// hint, and no more.
type checkpointName struct {
	steward  format.ID
	hash     format.Hash
	by       []shownBy
	modified int64
	rank     int // among those that a member shows of the steward, newest first
}

// find returns nil when there is none that can be used. The error is about the
// context.
func (f *checkpointFinder) find(ctx context.Context) (*format.Checkpoint, error) {
	comp := f.charter.Compartment(f.compartment)
	if comp == nil {
		return nil, nil
	}
	var shown []*checkpointName
	for _, id := range comp.Stewards {
		if a := f.charter.Agent(id); a == nil || a.Status == format.AgentRevoked {
			continue
		}
		names, err := f.list(ctx, id)
		if err != nil {
			return nil, err
		}
		shown = append(shown, names...)
	}
	// A host that makes names up comes first once in a round, and no more.
	slices.SortStableFunc(shown, func(a, b *checkpointName) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(b.modified, a.modified), slices.Compare(a.hash[:], b.hash[:]))
	})
	for _, n := range shown {
		c, err := f.open(ctx, n)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			f.tell(Finding{Object: f.name(n), Err: fmt.Errorf("checkpoint left out: %w", err)})
		} else if f.usable(c) {
			return c, nil
		}
	}
	return nil, nil
}

func (f *checkpointFinder) name(n *checkpointName) string {
	return format.ObjectName(f.charter.Nation, f.compartment, n.steward, format.KindCheckpoint, n.hash)
}

// list returns the newest names of every member.
func (f *checkpointFinder) list(ctx context.Context, steward format.ID) ([]*checkpointName, error) {
	prefix := strings.TrimSuffix(f.name(&checkpointName{steward: steward}), format.Hash{}.String())
	byHash := map[format.Hash]*checkpointName{}
	var mu sync.Mutex
	each(f.members, func(_ int, m *Member) {
		if m.Down() != nil {
			return
		}
		var own []*checkpointName
		seen := 0
		err := m.do(ctx, func(ctx context.Context) error {
			own, seen = nil, 0
			for info, err := range m.Target.List(ctx, prefix) {
				if err != nil {
					return err
				}
				if seen++; seen > maxCheckpointNames {
					return nil
				}
				if h, err := format.ParseHash(strings.TrimPrefix(info.Name, prefix)); err == nil {
					own = append(own, &checkpointName{steward: steward, hash: h, by: []shownBy{{m: m, size: info.Size}}, modified: info.Modified.UnixNano()})
				}
			}
			return nil
		})
		if err != nil && answered(err) {
			f.tell(Finding{Target: m.Name, Object: prefix, Err: err})
		}
		if seen > maxCheckpointNames {
			f.tell(Finding{Target: m.Name, Object: prefix, Err: fmt.Errorf("lists more than %d checkpoints: the host, or somebody with the steward's credentials, makes them up", maxCheckpointNames)})
		}
		slices.SortFunc(own, func(a, b *checkpointName) int { return cmp.Compare(b.modified, a.modified) })
		mu.Lock()
		defer mu.Unlock()
		for rank, n := range own[:min(len(own), checkpointTries)] {
			if old := byHash[n.hash]; old != nil {
				old.by, old.rank, old.modified = append(old.by, n.by...), min(old.rank, rank), max(old.modified, n.modified)
			} else {
				n.rank = rank
				byHash[n.hash] = n
			}
		}
	})
	var out []*checkpointName
	for _, n := range byHash {
		out = append(out, n)
	}
	return out, ctx.Err()
}

// open fetches and verifies a checkpoint from the first member that gives it.
func (f *checkpointFinder) open(ctx context.Context, n *checkpointName) (*format.Checkpoint, error) {
	by, err := crypto.ParseVerifier(f.charter.Agent(n.steward).Signer)
	if err != nil {
		return nil, err
	}
	errs := []error{errNowhere}
	for _, s := range n.by {
		object, err := s.m.fetchSized(ctx, f.name(n), s.size, format.MaxCheckpointSize, n.hash)
		if err == nil { // its bytes are those of the name, whoever gives them
			return format.OpenCheckpoint(object, by, f.charter.Nation, f.compartment, n.steward)
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// readCheckpoints finds the checkpoints that save fetching what is listed.
func (v *View) readCheckpoints(ctx context.Context, l *listing) error {
	agents := v.keys.Charter.Agents
	listed := make([]int, len(v.compartments))
	for n := range l.names {
		listed[n.ledger/len(agents)]++
	}
	for i, c := range v.compartments {
		if v.known != nil || listed[i] < cmp.Or(v.pays, worthCheckpoint) {
			continue
		}
		f := &checkpointFinder{charter: v.keys.Charter, compartment: c.ID, members: v.members, tell: v.warn, usable: func(cp *format.Checkpoint) bool {
			for k := range cp.Chains {
				ch := &cp.Chains[k]
				at := slices.IndexFunc(agents, func(a format.CharterAgent) bool { return a.ID == ch.Agent })
				if at < 0 || agents[at].Status == format.AgentRevoked {
					continue // not read by it
				}
				if l.names[entryName{i*len(agents) + at, ch.Chain, ch.Len(), ch.Head().Hash}] == nil {
					return false
				}
			}
			return true
		}}
		var err error
		if c.checkpoint, err = f.find(ctx); err != nil {
			return err
		}
	}
	return nil
}

// restate enters what checkpoints restate of a listing, and returns the names of
// the rest. Of a revoked agent only what is read from its chain counts.
func (r *chainReader) restate(names []entryName) (rest []entryName) {
	rest = names[:0]
	agents := r.view.keys.Charter.Agents
	for _, n := range names {
		c, key := r.place(n)
		if c.checkpoint == nil || agents[n.ledger%len(agents)].Status == format.AgentRevoked {
			rest = append(rest, n)
			continue
		}
		ch := restates(c.checkpoint, key, n.seq, n.hash)
		e := &readEntry{hash: n.hash, listed: r.listing.names[n], restated: true}
		var err error
		if ch != nil {
			e.Entry, err = c.checkpoint.Entry(ch, n.seq)
		}
		if ch == nil || err != nil || !r.keep(e) {
			rest = append(rest, n)
			continue
		}
		r.listing.each(n, func(t *trial) { t.good.Add(1) })
		r.meter.add(func(p *Progress) { p.Files++ })
		r.enter(c, key, e)
	}
	return rest
}

// restates returns the chain in which a checkpoint restates an entry; nil: it
// does not.
func restates(cp *format.Checkpoint, key chainKey, seq uint64, h format.Hash) *format.RestatedChain {
	if cp == nil || seq == 0 {
		return nil
	}
	ch := cp.Chain(key.agent, key.chain)
	if ch == nil || seq > ch.Len() || ch.Hash(seq) != h {
		return nil
	}
	return ch
}

// errNotCommitted: a checkpoint says of an entry what the agent did not sign.
var errNotCommitted = errors.New("does not commit it, though a checkpoint of the steward says so")

// vouch makes sure that the agent's own word commits a snapshot, of which only a
// checkpoint says so yet.
func (v *View) vouch(ctx context.Context, s committed) error {
	if slices.ContainsFunc(s.by, func(e *readEntry) bool { return !e.restated }) {
		return nil
	}
	var errs []error
	for _, e := range s.by {
		all, err := v.fetchEntry(ctx, s.c, s.ch.chainKey, e.Seq, e, nil, 0)
		if err == nil && slices.Contains(all.Snapshots, s.hash) && slices.ContainsFunc(all.Adds, func(a format.Listed) bool {
			return a.Kind == format.KindSnapshot && a.Hash == s.hash && slices.Contains(s.sizes, a.Size)
		}) {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("entry %d of chain %s %w", e.Seq, s.ch.chain, errNotCommitted)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// witness reads what a checkpoint restates of some chains after all, for what must
// not rest on a steward's word. What no member gives is left out, as if no checkpoint
// restated it.
func (v *View) witness(ctx context.Context, of func(*readChain) bool) error {
	r := &chainReader{view: v}
	type unsaid struct {
		c  *compartmentView
		ch *readChain
		e  *readEntry
	}
	var lost []unsaid
	var g errgroup.Group
	g.SetLimit(smallFetches)
	for _, c := range v.compartments {
		for _, ch := range c.sorted() {
			if !of(ch) {
				continue
			}
			for _, n := range ch.numbers() {
				for _, e := range ch.entries[n] {
					if !e.restated || ctx.Err() != nil {
						continue
					}
					g.Go(func() error {
						all, err := v.fetchEntry(ctx, c, ch.chainKey, n, e, nil, 0)
						if err == nil {
							e.Entry, e.restated = all, false
							if r.keep(e) {
								return nil
							}
						}
						r.mu.Lock()
						defer r.mu.Unlock()
						lost = append(lost, unsaid{c, ch, e})
						return nil
					})
				}
			}
		}
	}
	g.Wait()
	for _, o := range lost {
		seq := o.e.Seq
		v.holes[format.Head{Chain: o.ch.chain, Seq: seq, Hash: o.e.hash}] = o.ch.agent
		if o.ch.entries[seq] = slices.DeleteFunc(o.ch.entries[seq], func(e *readEntry) bool { return e == o.e }); len(o.ch.entries[seq]) > 0 {
			continue
		}
		if delete(o.ch.entries, seq); len(o.ch.entries) == 0 {
			delete(o.c.chains, o.ch.chainKey)
		} else {
			o.ch.last = slices.Max(o.ch.numbers())
		}
	}
	return ctx.Err()
}

// outcome enters what came of the first orders, and returns how many these are,
// when a checkpoint tells just that: 0, when they have to be read. last is the
// last retirement that counts.
func (v *View) outcome(c *compartmentView, all []givenOrder, last int) int {
	cp := c.checkpoint
	if cp == nil {
		return 0
	}
	covered := func(o givenOrder) bool {
		return restates(cp, chainKey{o.e.Agent, o.e.Chain}, o.e.Seq, o.e.hash) != nil
	}
	n := 0
	for n < len(all) && covered(all[n]) {
		n++
	}
	for i, o := range all {
		if i < n && i > last && o.Kind == format.OrderRetire || i >= n && covered(o) {
			return 0
		}
	}
	for i := range cp.Chains { // else it goes by orders that do not count any more
		ch := &cp.Chains[i]
		if !v.steward(c, ch.Agent) {
			continue
		}
		if got := c.chains[chainKey{ch.Agent, ch.Chain}]; got == nil || got.entry(ch.Len(), ch.Head().Hash) == nil {
			return 0
		}
	}
	enter := func(objects []format.OrderedObject, into map[snapshotKey]bool) {
		for _, of := range objects {
			for _, h := range of.All() {
				into[snapshotKey{of.Agent, h}] = true
			}
		}
	}
	enter(cp.Retired, c.orders.retired)
	enter(cp.Pinned, c.orders.pinned)
	for name := range slices.Chunk(cp.Held, 8) {
		c.orders.held[[8]byte(name)] = true
	}
	return n
}
