package embassy

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"embassy/embassy/format"
)

const (
	bareHead      = 4 << 10 // bytes read of a segment at first: most headers are shorter
	bareSegment   = 1 << 20 // bytes; a pack of several segments is read whole if one is shorter
	maxBarePlaces = 1 << 25 // of chunks, in one compartment
)

// locateBare finds the chunks of all packs of the snapshot's compartment: which
// of them it refers to, only the ledgers tell. Places in the folder of the
// snapshot's agent come first, so that no other agent puts wrong ones before
// them. What cannot be read is reported here, and missed when a chunk is wanted.
func (v *View) locateBare(ctx context.Context, s committed, fastest bool) (*table, error) {
	b := s.c.bare
	b.making.Lock()
	defer b.making.Unlock()
	if b.table == nil {
		r := newBareReader(v, s.c, fastest)
		if err := r.readAll(ctx, b.packs); err != nil {
			return nil, err
		}
		b.keys.install(s.c)
		b.table, b.owners, b.packs = r.table, r.owners, nil
		b.prefer(s.agent)
	} else if b.agent != s.agent { // others may be using it
		again := *b.table
		again.places = slices.Clone(again.places)
		b.table = &again
		b.prefer(s.agent)
	}
	return b.table, nil
}

// prefer sorts the table so that of the places of a chunk the agent's own come
// first.
func (b *bareView) prefer(agent format.ID) {
	b.agent = agent
	rank := func(p place) int {
		if b.owners[p.segment] == agent {
			return 0
		}
		return 1
	}
	slices.SortFunc(b.table.places, func(x, y place) int {
		return cmp.Or(cmp.Compare(x.key, y.key), cmp.Compare(rank(x), rank(y)), cmp.Compare(x.segment, y.segment))
	})
}

// bareReader reads the directories of packs from the packs themselves. Index
// objects would say the same in fewer reads, but without a ledger anybody can
// say in them that a true directory is that of another pack.
type bareReader struct {
	view    *View
	c       *compartmentView
	fastest bool
	trials  bareTrials
	wide    *semaphore.Weighted // whole packs read at once

	mu     sync.Mutex
	table  *table
	owners []format.ID
	own    map[bareObject]bool   // placed, from the folder of the agent that sealed them
	joined map[bareObject]uint64 // members that showed them in the folder of another one
	over   int                   // packs for which there was no room
}

func newBareReader(v *View, c *compartmentView, fastest bool) *bareReader {
	return &bareReader{
		view: v, c: c, fastest: fastest, trials: make(bareTrials, len(v.members)), table: &table{},
		wide: semaphore.NewWeighted(packsAtOnce), own: map[bareObject]bool{}, joined: map[bareObject]uint64{},
	}
}

func (r *bareReader) readAll(ctx context.Context, packs []bareName) error {
	meter := newMeter(r.view.progress, r.view.now, "packs", "")
	defer meter.end()
	meter.add(func(p *Progress) { p.FilesTotal = uint64(len(packs)) })
	var g errgroup.Group
	g.SetLimit(smallFetches)
	for _, n := range packs {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error {
			defer meter.add(func(p *Progress) { p.Files++ })
			if ctx.Err() != nil || r.known(n) || r.trials.forged(n.shown) {
				return nil
			}
			found, err := r.read(ctx, n)
			r.trials.book(n.shown, err)
			if err == nil { // else reported, copy by copy
				r.add(n, found)
			}
			return nil
		})
	}
	g.Wait()
	r.trials.tell(r.view, "pack")
	if r.over > 0 {
		r.view.warn(Finding{Object: "compartment " + r.c.ID.String(),
			Err: fmt.Errorf("%d packs left out: the others hold %d chunks, and no more can be kept in memory", r.over, len(r.table.places))})
	}
	return ctx.Err()
}

// known reports whether the same pack was placed from another folder, and this
// one would tell nothing new. A pack is in one folder only, but a host may
// list it in many.
func (r *bareReader) known(n bareName) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.own[n.bareObject] || n.shown&^r.joined[n.bareObject] == 0
}

// bareSegmentRef is a segment whose directory opened.
type bareSegmentRef struct {
	segmentRef
	agent   format.ID
	entries []format.DirEntry
}

func (r *bareReader) add(n bareName, found []bareSegmentRef) {
	own, chunks := true, 0
	for _, s := range found {
		own = own && s.agent == n.agent
		chunks += len(s.entries)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.own[n.bareObject] || !own && n.shown&^r.joined[n.bareObject] == 0 {
		return // meanwhile
	}
	if len(r.table.places)+len(r.table.segments)+chunks+len(found) > maxBarePlaces {
		r.over++
		return
	}
	if own {
		r.own[n.bareObject] = true
	} else {
		r.joined[n.bareObject] |= n.shown
	}
	pack := packRef{object: n.object()}
	for _, s := range found {
		s.pack = uint32(len(r.table.packs))
		segment := uint32(len(r.table.segments))
		r.table.segments = append(r.table.segments, s.segmentRef)
		owner := s.agent
		if !own {
			owner = format.ID{}
		}
		r.owners = append(r.owners, owner)
		for _, e := range s.entries {
			r.table.places = append(r.table.places, place{placeKey(e.ID), segment, e.Offset, e.Length, e.Raw})
			if e.Kind == format.TreeChunk {
				pack.tree += uint64(e.Length)
			}
		}
	}
	r.table.packs = append(r.table.packs, pack)
}

// read opens the directories of a pack: from ranges, or else, where older
// versions are kept, from the whole.
func (r *bareReader) read(ctx context.Context, n bareName) (found []bareSegmentRef, err error) {
	q := request{name: r.c.source.name(n.object()), shown: n.shown, only: true, size: bareHead, fastest: r.fastest}
	err = r.c.source.try(ctx, q, func(ctx context.Context, m ranked) (err error) {
		found, err = r.walk(ctx, m.Member, q.name, uint64(n.size))
		if err == nil && found == nil {
			found, err = r.whole(ctx, n, m)
		}
		return err
	})
	if err != nil && r.c.source.older(ctx) {
		return r.whole(ctx, n, ranked{})
	}
	return found, err
}

// walk goes from segment to segment, and reads what it needs of each. It
// returns nothing if there are many, so that the whole is cheaper.
func (r *bareReader) walk(ctx context.Context, m *Member, name string, size uint64) (found []bareSegmentRef, err error) {
	for at := uint64(0); at < size; {
		head := make([]byte, min(bareHead, size-at))
		if err := m.read(ctx, name, int64(at), head); err != nil {
			return nil, err
		}
		n, err := format.SegmentHead(head)
		if err != nil {
			return nil, err
		}
		if uint64(n) > size-at {
			return nil, fmt.Errorf("%w: header of %d bytes beyond its pack", format.ErrMalformed, n)
		}
		if rest := n - len(head); rest > 0 {
			head = append(head, make([]byte, rest)...)
			if err := m.read(ctx, name, int64(at)+int64(n-rest), head[n-rest:]); err != nil {
				return nil, err
			}
		}
		f, err := format.ParseSegmentFrame(head[:n], size-at)
		if err != nil {
			return nil, err
		}
		if f.Length < bareSegment && f.Length < size {
			return nil, nil
		}
		s, err := r.directory(ctx, at, head[:n], f, func(dst []byte) error {
			return m.read(ctx, name, int64(at+f.Length)-int64(f.Dir), dst)
		})
		if err != nil {
			return nil, err
		}
		found = append(found, s)
		at += f.Length
	}
	return found, nil
}

// directory opens the directory of the segment at an offset of its pack.
func (r *bareReader) directory(ctx context.Context, at uint64, head []byte, f format.SegmentFrame, read func(dst []byte) error) (bareSegmentRef, error) {
	s := bareSegmentRef{agent: f.Scope.Agent, segmentRef: segmentRef{offset: uint32(at), head: uint32(f.Head), epoch: f.Scope.Epoch}}
	if f.Scope.Nation != r.view.keys.Charter.Nation || f.Scope.Compartment != r.c.ID {
		return s, fmt.Errorf("%w: a segment from elsewhere", format.ErrMalformed)
	}
	if err := r.view.room.Acquire(ctx, int64(f.Dir)); err != nil {
		return s, err
	}
	defer r.view.room.Release(int64(f.Dir))
	dir := make([]byte, f.Dir)
	if err := read(dir); err != nil {
		return s, err
	}
	err := r.c.bare.keys.open(f.Scope.Epoch, func(w *format.Writer) (err error) {
		_, s.entries, err = format.OpenDirectory(w, head, dir, f.Length)
		return err
	})
	if err == nil {
		r.c.bare.keys.read(f.Keys)
	}
	return s, err
}

// whole reads all of a pack: from one member, or from any.
func (r *bareReader) whole(ctx context.Context, n bareName, from ranked) ([]bareSegmentRef, error) {
	if err := r.wide.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer r.wide.Release(1)
	data := make([]byte, n.size)
	var err error
	if from.Member == nil {
		err = r.c.source.whole(ctx, n.object(), data, r.fastest, nil)
	} else {
		_, err = from.readWhole(ctx, r.c.source.name(n.object()), n.hash, data, func(int) {})
	}
	if err != nil {
		return nil, err
	}
	p, err := format.ParsePack(data)
	if err != nil {
		return nil, err
	}
	found := make([]bareSegmentRef, len(p.Segments))
	for i, s := range p.Segments {
		f, err := format.ParseSegmentFrame(s.Head, s.Length)
		if err != nil {
			return nil, err
		}
		found[i], err = r.directory(ctx, s.Offset, s.Head, f, func(dst []byte) error {
			copy(dst, s.Dir)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}
