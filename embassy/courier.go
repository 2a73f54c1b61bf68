package embassy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"embassy/embassy/format"
	"embassy/targets"
)

// The commit order, for every target by itself, and for every entry in turn:
//
//  1. every pack that the entry adds
//  2. every index, snapshot and record that it adds
//  3. the entry
//
// An own entry is durable on this machine before its first put (chain.append),
// and so are the objects behind it: packs on one target or in the spool,
// smaller ones in the spool. A restart therefore goes on with the same bytes,
// through the same function, and so does a replicator that has only what other
// targets give: courier.advance.

const (
	copiesAtOnce = 4        // large objects on their way to one target that is fast
	smallAtOnce  = 8        // small ones
	largeObject  = 1 << 20  // bytes
	fastTarget   = 8 << 20  // bytes a second, from which large objects go up beside each other
	copyRoom     = 96 << 20 // bytes of objects that are copied at once, over all targets
)

// trail is a chain that can be brought to targets: an own one, or one that was
// learned from targets.
type trail interface {
	line() Line
	// head is the number of the last entry; 0: none.
	head() uint64
	// entry returns a verified entry and its object.
	entry(ctx context.Context, seq uint64) (format.Entry, []byte, error)
}

// courier brings chains to targets.
type courier struct {
	s *Service
	// object returns an object that the entry adds, verified, from anywhere.
	object func(ctx context.Context, e format.Entry, a format.Listed, to *Member) ([]byte, error)
	// since is from when on a placement needs no second look: what an earlier
	// process put there, no entry vouches for yet.
	since time.Time
	// looks says that a target may well have what this machine did not put
	// there: it is asked before anything is sent.
	looks bool
	// share, if not nil, tells which objects this machine copies; somebody else
	// brings the others.
	share func(h format.Hash) bool
	// ready, if not nil, reports whether a target has the entries of other
	// chains that the entry depends on.
	ready func(ctx context.Context, m *Member, e format.Entry) (bool, error)
	// lead, if not nil, sees to it that a target has the entry that marked what is
	// gone, if that tells what took its place. It reports false as complete does.
	lead func(ctx context.Context, m *Member, mark Order, copying bool) (bool, error)
	// void reports whether what an order deletes was marked by nothing that counts.
	void func(ctx context.Context, deleted Order) (bool, error)
	// sent is told of every object that was put; may be nil.
	sent func(m *Member, bytes uint64, entry bool)
}

// advance brings a target that has the first at entries to the head of the
// chain, in the commit order, and returns how many entries it has then.
// copying false stops at the first entry that needs a pack from elsewhere.
// errWaits: another chain has to be brought first.
func (c *courier) advance(ctx context.Context, t trail, m *Member, at uint64, copying bool) (uint64, error) {
	for ; at < t.head(); at++ {
		e, object, err := t.entry(ctx, at+1)
		if err != nil {
			return at, err
		}
		if c.ready != nil && len(e.Orders) == 0 { // who goes by orders looks for the heads itself
			if ready, err := c.ready(ctx, m, e); err != nil {
				return at, err
			} else if !ready {
				return at, errWaits
			}
		}
		if ok, err := c.complete(ctx, m, e, copying); err != nil || !ok {
			return at, err
		}
		if err := c.putEntry(ctx, m, e, object); err != nil {
			return at, fmt.Errorf("put ledger entry %d: %w", e.Seq, err)
		}
		if err := c.s.saw(m, t.line(), SeenHead{Seq: e.Seq, Hash: format.HashOf(object), At: c.s.now()}); err != nil {
			return at, err
		}
	}
	return at, nil
}

// errWaits: a chain needs another one first.
var errWaits = errors.New("waits for the chain of another agent: embassy replicate brings both")

// stages are the objects that an entry adds, in the commit order.
func stages(adds []format.Listed) [2][]format.Listed {
	var packs, rest []format.Listed
	for _, a := range adds {
		if a.Kind == format.KindPack {
			packs = append(packs, a)
		} else {
			rest = append(rest, a)
		}
	}
	return [2][]format.Listed{packs, rest}
}

// ahead copies this machine's share of every object that the target lacks, and
// no entry.
func (c *courier) ahead(ctx context.Context, t trail, m *Member, at uint64) error {
	for seq := at + 1; seq <= t.head(); seq++ {
		e, _, err := t.entry(ctx, seq)
		if err != nil {
			return err
		}
		left, err := c.s.left(e)
		if err != nil {
			return err
		}
		for _, objects := range stages(left) {
			missing, _, err := c.missing(ctx, m, e, objects)
			if err != nil {
				return err
			}
			if err := c.copy(ctx, m, e, missing); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *courier) putEntry(ctx context.Context, m *Member, e format.Entry, object []byte) error {
	h := format.HashOf(object)
	name := format.EntryName(e.Nation, e.Compartment, e.Agent, e.Chain, e.Seq, h)
	if c.share != nil { // others put it too
		if info, err := m.stat(ctx, name); err == nil && info.Size == int64(len(object)) {
			return nil
		} else if err != nil && !errors.Is(err, targets.ErrNotFound) {
			return err
		}
	}
	if err := m.putKept(ctx, name, object, h); err != nil {
		return err
	}
	c.tell(m, uint64(len(object)), true)
	return nil
}

func (c *courier) tell(m *Member, bytes uint64, entry bool) {
	if c.sent != nil {
		c.sent(m, bytes, entry)
	}
}

// complete puts what a target lacks of the objects that an entry adds, and what
// took the place of those that are gone. It reports whether the target has all of
// that.
func (c *courier) complete(ctx context.Context, m *Member, e format.Entry, copying bool) (bool, error) {
	needed, ok, err := c.needed(ctx, m, e, copying)
	if err != nil || !ok {
		return false, err
	}
	for _, objects := range stages(needed) {
		missing, others, err := c.missing(ctx, m, e, objects)
		if err != nil || others {
			return false, err
		}
		if !copying && slices.ContainsFunc(missing, func(a format.Listed) bool { return a.Kind == format.KindPack }) {
			return false, nil
		}
		if err := c.copy(ctx, m, e, missing); err != nil {
			return false, err
		}
	}
	return true, nil
}

// needed returns what a target needs of the objects that an entry adds: not what was
// ordered to go, once the target has what took its place. Where nobody gives that,
// rather the object itself than nothing.
func (c *courier) needed(ctx context.Context, m *Member, e format.Entry, copying bool) (needed []format.Listed, ok bool, err error) {
	for _, a := range e.Adds {
		fate, err := c.s.catalog.Fate(e.Compartment, a.Hash)
		if err != nil {
			return nil, false, err
		}
		gone := fate.Deleted.Given()
		if gone && !fate.Marked.Given() { // what took its place may not be known yet
			if gone, err = c.void(ctx, fate.Deleted); err != nil {
				return nil, false, err
			}
		} else if gone && c.lead != nil {
			marks, err := c.s.marks(e.Compartment, a.Hash, fate)
			if err != nil {
				return nil, false, err
			}
			for _, mark := range marks {
				ok, err := c.lead(ctx, m, mark, copying)
				if lost := errors.Is(err, errNowhere); lost {
					gone = false
				} else if err != nil || !ok {
					return nil, false, err
				}
			}
		}
		if !gone {
			needed = append(needed, a)
		}
	}
	return needed, true, nil
}

// missing returns what a target lacks of some objects that an entry adds.
// others reports that something is missing which is not of this machine's
// share.
func (c *courier) missing(ctx context.Context, m *Member, e format.Entry, objects []format.Listed) (mine []format.Listed, others bool, err error) {
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(smallAtOnce)
	for _, a := range objects {
		g.Go(func() error {
			there, err := c.there(ctx, m, e, a)
			if err != nil || there {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if c.share == nil || c.share(a.Hash) {
				mine = append(mine, a)
			} else {
				others = true
			}
			return nil
		})
	}
	err = g.Wait()
	return mine, others, err
}

// there reports whether a target has an object, as far as can be told without
// reading it.
func (c *courier) there(ctx context.Context, m *Member, e format.Entry, a format.Listed) (bool, error) {
	at, err := c.s.catalog.Placed(m.Name, a.Hash)
	// Two stewards may order the same, or join the same packs: then both folders have an
	// object of that hash, and a placement does not say which.
	alike := a.Kind == format.KindRecord || len(e.Orders) > 0
	if err != nil || !alike && !at.IsZero() && !at.Before(c.since) && !at.After(c.s.now()) { // a clock may have been wrong
		return err == nil, err
	}
	if at.IsZero() && !c.looks {
		return false, nil
	}
	info, err := m.stat(ctx, format.ObjectName(e.Nation, e.Compartment, e.Agent, a.Kind, a.Hash))
	if err != nil && !errors.Is(err, targets.ErrNotFound) {
		return false, err
	}
	if err != nil || info.Size != int64(a.Size) {
		return false, nil
	}
	return true, c.s.catalog.Place(m.Name, a.Hash, c.s.now())
}

// copy brings objects to a target. On a slow one large objects go up one after
// the other: side by side none would arrive earlier, and all would be lost
// when the link drops.
func (c *courier) copy(ctx context.Context, m *Member, e format.Entry, objects []format.Listed) error {
	g, gctx := errgroup.WithContext(ctx)
	lanes := newLanes(m)
	for _, a := range objects {
		if err := lanes.enter(gctx, a.Size); err != nil {
			break // g knows why, or ctx has ended
		}
		g.Go(func() error {
			defer lanes.leave(a.Size)
			if err := c.s.room.Acquire(gctx, int64(a.Size)); err != nil {
				return err
			}
			defer c.s.room.Release(int64(a.Size))
			data, err := c.object(gctx, e, a, m)
			if err != nil {
				return err
			}
			if err := m.put(gctx, format.ObjectName(e.Nation, e.Compartment, e.Agent, a.Kind, a.Hash), data, a.Hash); err != nil {
				return fmt.Errorf("put %s %.12s: %w", a.Kind, a.Hash.String(), err)
			}
			c.tell(m, a.Size, false)
			return c.s.catalog.Place(m.Name, a.Hash, c.s.now())
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// lanes bounds what is on its way to one target.
type lanes struct {
	m *Member

	mu           sync.Mutex
	change       chan struct{} // closed and replaced at every change
	small, large int
}

func newLanes(m *Member) *lanes { return &lanes{m: m, change: make(chan struct{})} }

// enter waits for a place for an object of that size.
func (l *lanes) enter(ctx context.Context, size uint64) error {
	for {
		l.mu.Lock()
		change := l.change
		count, limit := &l.small, smallAtOnce
		if size >= largeObject {
			count, limit = &l.large, 1
			if l.m.speed() >= fastTarget {
				limit = copiesAtOnce
			}
		}
		if *count < limit {
			*count++
			l.mu.Unlock()
			return nil
		}
		l.mu.Unlock()
		select {
		case <-change:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (l *lanes) leave(size uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if size >= largeObject {
		l.large--
	} else {
		l.small--
	}
	close(l.change)
	l.change = make(chan struct{})
}
