package embassy

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"embassy/embassy/format"
)

const (
	grantRation  = 192 << 20 // bytes of grants that are kept of one agent
	recordRation = 1 << 30   // bytes of records that are read of one agent, to find its grants
)

// readGrants lets partner nations open what was written before they were
// partners.
func (v *View) readGrants(ctx context.Context) error {
	var kept ration
	for _, c := range v.compartments {
		if !c.Past {
			continue
		}
		err := v.eachGrant(ctx, c, func(filed committed, g *format.Grant) error {
			if !kept.take(filed.ch.agent, int(filed.size), grantRation) {
				return fmt.Errorf("left out: the agent's grants hold more than %d MiB", grantRation>>20)
			}
			c.Reader.Grant(g)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// eachGrant calls use, one at a time, with every grant that the entries of a
// compartment list. What cannot be had or used goes to warn.
func (v *View) eachGrant(ctx context.Context, c *compartmentView, use func(filed committed, g *format.Grant) error) error {
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(smallFetches) // most records are small, and no grants
	var read ration
	left := map[format.ID]int{} // records that are not read, by agent
	seen := map[format.Hash]bool{}
	for _, ch := range c.sorted() {
		for _, n := range ch.numbers() {
			for _, e := range ch.entries[n] {
				for _, a := range e.Adds {
					if a.Kind != format.KindRecord || seen[a.Hash] || ctx.Err() != nil {
						continue
					}
					seen[a.Hash] = true
					if !read.take(ch.agent, int(a.Size), recordRation) {
						left[ch.agent]++
						continue
					}
					filed := committed{c: c, ch: ch, object: object{a.Kind, a.Hash, a.Size, ch.agent, e.shown}}
					g.Go(func() error {
						if v.room.Acquire(ctx, int64(filed.size)) != nil {
							return nil
						}
						defer v.room.Release(int64(filed.size))
						data := make([]byte, filed.size)
						err := c.source.whole(ctx, filed.object, data, false, nil)
						mu.Lock()
						defer mu.Unlock()
						if err == nil && format.IsGrant(data) {
							var got *format.Grant
							if got, err = format.OpenGrant(data, v.keys.Charter.Nation, c.ID); err == nil {
								err = use(filed, got)
							}
						}
						if err != nil && ctx.Err() == nil {
							v.warn(Finding{Object: c.source.name(filed.object), Err: fmt.Errorf("record: %w", err)})
						}
						return nil
					})
				}
			}
		}
	}
	g.Wait()
	for agent, n := range left {
		v.warn(Finding{Object: "agent " + agent.String(), Err: fmt.Errorf("%d records left out, which may be grants: it lists more than %d MiB of them in compartment %s", n, recordRation>>20, c.Part.Name)})
	}
	return ctx.Err()
}

// openable returns an error when keys that are for a part of the nation do not
// open one of the snapshots.
func (v *View) openable(ctx context.Context, snapshots []SnapshotInfo) error {
	if v.keys.Limit == "" {
		return nil
	}
	for _, info := range snapshots {
		s, err := v.find(info)
		if err != nil {
			return err
		}
		snap, _, err := v.snapshot(ctx, s, nil)
		if err == nil {
			_, err = snap.Root(s.c.Reader)
		}
		if errors.Is(err, format.ErrSealedToOthers) { // other faults the restore tells
			return fmt.Errorf("dataset %s: snapshot %s: %w", info.Summary.Dataset, info.Hash, s.c.lacks(err))
		}
	}
	return nil
}

// lacks adds to an error about what is sealed to others why that may be.
func (c *Compartment) lacks(err error) error {
	if c.Lacks != "" && errors.Is(err, format.ErrSealedToOthers) {
		return fmt.Errorf("%w; %s", err, c.Lacks)
	}
	return err
}

// sweep adds to a Granter every session of the compartment that the entries
// tell of, from the headers in index objects, in packs that no index tells of,
// and in snapshots, but for what gone says was ordered to be deleted. What cannot
// be read goes to warn, and is counted.
func (v *View) sweep(ctx context.Context, c *compartmentView, into *format.Granter, gone func(format.ID, format.Hash) (bool, error)) (failed int, err error) {
	s := &sweeper{view: v, c: c, into: into, gone: gone}
	var g errgroup.Group
	g.SetLimit(indexesAtOnce)
	for _, ch := range c.sorted() {
		for _, n := range ch.numbers() {
			for _, e := range ch.entries[n] {
				g.Go(func() error {
					if ctx.Err() == nil {
						s.entry(ctx, ch, e)
					}
					return nil
				})
			}
		}
	}
	g.Wait()
	return s.failed, ctx.Err()
}

// sweeper gathers sessions, from several goroutines.
type sweeper struct {
	view *View
	c    *compartmentView
	gone func(compartment format.ID, h format.Hash) (bool, error)

	mu     sync.Mutex
	into   *format.Granter
	failed int
}

func (s *sweeper) tell(ctx context.Context, name string, err error) {
	if err == nil || ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	s.failed++
	s.mu.Unlock()
	s.view.warn(Finding{Object: name, Err: fmt.Errorf("its session key is not granted: %w", err)})
}

func (s *sweeper) entry(ctx context.Context, ch *readChain, e *readEntry) {
	all, err := s.view.fetchEntry(ctx, s.c, ch.chainKey, e.Seq, e, nil, 0)
	if err != nil {
		s.tell(ctx, format.EntryName(e.Nation, s.c.ID, ch.agent, ch.chain, e.Seq, e.hash), err)
		return
	}
	packs := map[format.Hash]bool{} // that an index told of
	for _, kind := range []format.Kind{format.KindIndex, format.KindSnapshot, format.KindPack} {
		for _, a := range all.Adds {
			if a.Kind == kind && !packs[a.Hash] && ctx.Err() == nil {
				o := object{a.Kind, a.Hash, a.Size, ch.agent, e.shown}
				s.tell(ctx, s.c.source.name(o), s.object(ctx, o, packs))
			}
		}
	}
}

// object adds the sessions of one object, and the packs that it tells of.
func (s *sweeper) object(ctx context.Context, o object, packs map[format.Hash]bool) error {
	if gone, err := s.gone(s.c.ID, o.hash); err != nil || gone {
		return err
	}
	data := make([]byte, o.size)
	if err := s.c.source.whole(ctx, o, data, false, nil); err != nil {
		return err
	}
	var found []format.IndexedPack
	var err error
	switch o.kind {
	case format.KindSnapshot:
		snap, err := format.ParseSnapshot(data)
		if err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.into.Snapshot(snap)
	case format.KindIndex:
		found, err = format.ParseIndex(data)
	default:
		found = make([]format.IndexedPack, 1)
		found[0], err = format.ParsePack(data)
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, p := range found {
		packs[p.Hash] = true
		for _, seg := range p.Segments {
			errs = append(errs, s.into.Segment(seg.Head))
		}
	}
	return errors.Join(errs...)
}
