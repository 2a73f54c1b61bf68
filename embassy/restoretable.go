package embassy

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"sync"

	"golang.org/x/sync/errgroup"

	"embassy/chunk"
	"embassy/embassy/format"
)

const (
	indexesAtOnce = 3
	packsAtOnce   = 2 // whole packs read for their directories
)

// table says where the chunks lie that a snapshot may use: 24 bytes for every
// place of a chunk.
type table struct {
	packs    []packRef
	segments []segmentRef
	places   []place // ascending by key
	moved    bool    // some of it took the place of packs that were replaced
}

// packRef is a pack, and how many of its bytes are tree chunks.
type packRef struct {
	object
	tree uint64
}

// segmentRef is a segment with its header.
type segmentRef struct {
	pack   uint32
	offset uint32 // in the pack
	head   uint32 // bytes of preamble and header
	epoch  uint32 // of the writer secret that names its chunks
}

// place is one place of a chunk. The key is the beginning of its id; should
// two ids share it, the id that is recomputed on every read tells them apart.
type place struct {
	key     uint64
	segment uint32
	offset  uint32 // in the segment
	length  uint32 // sealed
	raw     uint32 // plaintext, as the directory claims
}

func placeKey(id chunk.ID) uint64 { return binary.BigEndian.Uint64(id[:8]) }

// find returns where the places of a chunk begin and end in t.places.
func (t *table) find(id chunk.ID) (from, to int) {
	key := placeKey(id)
	from = sort.Search(len(t.places), func(i int) bool { return t.places[i].key >= key })
	for to = from; to < len(t.places) && t.places[to].key == key; to++ {
	}
	return from, to
}

// piece returns the first place of a chunk that a file has next, and the bytes of
// the file that it is, of which so many are left.
func (t *table) piece(id chunk.ID, left uint64) (p place, raw uint64, err error) {
	from, to := t.find(id)
	if from == to {
		return p, 0, errNoPlace(id)
	}
	p = t.places[from]
	if raw = uint64(p.raw); raw == 0 || raw > chunk.MaxSize || raw > left {
		return p, 0, fmt.Errorf("%w: chunk %s of %d bytes does not fit into the file", format.ErrMalformed, id, raw)
	}
	return p, raw, nil
}

// spans are the bytes of the pack that opening a chunk needs.
func (t *table) spans(p place) []span {
	s := t.segments[p.segment]
	from := int64(s.offset) + int64(p.offset)
	return []span{{int64(s.offset), int64(s.offset) + int64(s.head)}, {from, from + int64(p.length)}}
}

// tableBuilder fills a table from several goroutines.
type tableBuilder struct {
	view    *View
	c       *compartmentView
	about   string          // what the table is for
	moves   map[spot][]move // by the pack that was replaced
	fastest bool
	tally   *tally
	refs    []reference

	mu      sync.Mutex
	table   *table
	entries map[*readEntry]format.Entry // that were fetched
	due     map[*readEntry]map[format.Hash]bool
	packs   map[picked]bool            // that are or were due: whether they are placed
	was     map[picked]map[picked]bool // by pack that took the place of others: which
	want    map[wanted]uint32          // packs not yet placed
	unclear error                      // something that was told
}

// reference is what a snapshot refers to in an entry.
type reference struct {
	s    committed
	by   *readEntry
	runs []uint32
}

// picked is a pack that an entry lists.
type picked struct {
	by   *readEntry
	hash format.Hash
}

// wanted is a pack as one entry lists it. What another entry says of the same
// pack, true or not, is another place.
type wanted struct {
	by   *readEntry
	hash format.Hash
	size uint64
}

// locate finds the chunks of the packs that refs name, in chains that the
// agent's snapshots may use, or of those that took their place. What cannot be
// found is reported here, and missed when a chunk is wanted.
func (v *View) locate(ctx context.Context, s committed, refs []format.Refs, fastest bool, t *tally) (*table, error) {
	if s.c.bare != nil {
		return v.locateBare(ctx, s, fastest)
	}
	b, err := v.newTable(ctx, s.c, s.c.source.name(s.object), fastest, t)
	if err != nil {
		return nil, err
	}
	b.refer(s, refs)
	return b.build(ctx)
}

// newTable returns what makes a table. about is what it is for.
func (v *View) newTable(ctx context.Context, c *compartmentView, about string, fastest bool, t *tally) (*tableBuilder, error) {
	moves, err := v.moves(ctx, c)
	return &tableBuilder{
		view: v, c: c, about: about, moves: moves, fastest: fastest, tally: t, table: &table{}, entries: map[*readEntry]format.Entry{},
		due: map[*readEntry]map[format.Hash]bool{}, packs: map[picked]bool{}, was: map[picked]map[picked]bool{}, want: map[wanted]uint32{},
	}, err
}

// refer wants what a snapshot refers to.
func (b *tableBuilder) refer(s committed, refs []format.Refs) {
	kin := s.kin()
	for _, ref := range refs {
		entries := b.view.resolve(s.c, kin, ref)
		if len(entries) == 0 {
			b.tell(fmt.Errorf("needs entry %d of chain %s, which no target shows or which this agent may not use", ref.Seq, ref.Chain))
		}
		for _, e := range entries {
			b.refs = append(b.refs, reference{s, e, ref.Runs})
		}
	}
}

func (b *tableBuilder) tell(err error) {
	b.view.warn(Finding{Object: b.about, Err: err})
	b.mu.Lock()
	defer b.mu.Unlock()
	b.unclear = err
}

// build places what is wanted. What took the place of a pack, and is not to be had,
// leaves the pack itself, should it still be there.
func (b *tableBuilder) build(ctx context.Context) (*table, error) {
	b.resolve(ctx)
	tried := map[picked]bool{}
	for len(b.due) > 0 && ctx.Err() == nil {
		due := slices.Collect(maps.Keys(b.due))
		b.each(ctx, len(due), func(i int) error { return b.entry(ctx, due[i]) })
		clear(b.due)
		b.directly(ctx)
		for n, olds := range b.was {
			if placed, wanted := b.packs[n]; placed || !wanted || tried[n] {
				continue
			}
			tried[n] = true
			for old := range olds {
				b.wants(old)
			}
		}
	}
	slices.SortFunc(b.table.places, func(x, y place) int {
		return cmp.Or(cmp.Compare(x.key, y.key), cmp.Compare(x.segment, y.segment))
	})
	return b.table, ctx.Err()
}

// each calls fn for 0 to n-1, some at once, and tells its errors.
func (b *tableBuilder) each(ctx context.Context, n int, fn func(i int) error) {
	var g errgroup.Group
	g.SetLimit(indexesAtOnce)
	for i := range n {
		g.Go(func() error {
			if ctx.Err() != nil {
				return nil
			}
			if err := fn(i); err != nil && ctx.Err() == nil {
				b.tell(err)
			}
			return nil
		})
	}
	g.Wait()
}

// fetch reads an entry, once.
func (b *tableBuilder) fetch(ctx context.Context, e *readEntry) (format.Entry, error) {
	b.mu.Lock()
	all, ok := b.entries[e]
	b.mu.Unlock()
	if ok {
		return all, nil
	}
	all, err := b.view.fetchEntry(ctx, b.c, chainKey{e.Agent, e.Chain}, e.Seq, e, nil, 0)
	if err == nil {
		b.mu.Lock()
		b.entries[e] = all
		b.mu.Unlock()
	}
	return all, err
}

// resolve finds out which packs the references mean.
func (b *tableBuilder) resolve(ctx context.Context) {
	by := map[*readEntry]bool{}
	for _, r := range b.refs {
		by[r.by] = true
	}
	entries := slices.Collect(maps.Keys(by))
	b.each(ctx, len(entries), func(i int) error {
		_, err := b.fetch(ctx, entries[i])
		return err
	})
	met := map[picked]bool{} // for one snapshot
	for i, r := range b.refs {
		if i > 0 && r.s.hash != b.refs[i-1].s.hash {
			clear(met)
		}
		all, ok := b.entries[r.by]
		if !ok {
			continue // told
		}
		positions, err := format.Positions(r.runs, uint32(len(all.Adds)))
		if err != nil {
			b.tell(err)
		}
		for _, at := range positions {
			if a := all.Adds[at]; a.Kind == format.KindPack {
				b.follow(r.s, picked{r.by, a.Hash}, met)
			}
		}
	}
	b.refs = nil
}

// meant returns the packs that the references mean, and those that these took the
// place of. It is an error when not all is known.
func (b *tableBuilder) meant(ctx context.Context) ([]picked, error) {
	b.resolve(ctx)
	packs := slices.Collect(maps.Keys(b.packs))
	for _, olds := range b.was {
		packs = slices.AppendSeq(packs, maps.Keys(olds))
	}
	return packs, cmp.Or(ctx.Err(), b.unclear)
}

// follow wants a pack, or what took its place for a snapshot; both, where nobody can
// tell.
func (b *tableBuilder) follow(s committed, p picked, met map[picked]bool) {
	if met[p] {
		return
	}
	met[p] = true
	m, yes, sure := moved(b.moves, s, spot{p.by.Agent, p.hash})
	if !yes || !sure {
		b.wants(p)
	}
	if !yes {
		return
	}
	b.table.moved = true
	for _, h := range m.packs {
		n := picked{m.by, h}
		if b.was[n] == nil {
			b.was[n] = map[picked]bool{}
		}
		b.was[n][p] = true
		b.follow(s, n, met)
	}
}

// wants has a pack placed.
func (b *tableBuilder) wants(p picked) {
	if _, ok := b.packs[p]; ok {
		return
	}
	b.packs[p] = false
	if b.due[p.by] == nil {
		b.due[p.by] = map[format.Hash]bool{}
	}
	b.due[p.by][p.hash] = true
}

// directly places what no index was good for.
func (b *tableBuilder) directly(ctx context.Context) {
	var g errgroup.Group
	g.SetLimit(packsAtOnce)
	left := maps.Clone(b.want)
	for _, w := range slices.SortedFunc(maps.Keys(left), func(x, y wanted) int { return cmp.Compare(left[x], left[y]) }) {
		o := b.table.packs[left[w]].object
		g.Go(func() error {
			if ctx.Err() == nil {
				b.direct(ctx, w.by, o)
			}
			return nil
		})
	}
	g.Wait()
	clear(b.want)
}

// entry places the packs of an entry that are due.
func (b *tableBuilder) entry(ctx context.Context, e *readEntry) error {
	all, err := b.fetch(ctx, e)
	if err != nil {
		return err
	}
	b.mu.Lock()
	for _, a := range all.Adds {
		key := wanted{e, a.Hash, a.Size}
		if _, ok := b.want[key]; a.Kind == format.KindPack && b.due[e][a.Hash] && !ok {
			b.want[key] = uint32(len(b.table.packs))
			b.table.packs = append(b.table.packs, packRef{object: object{a.Kind, a.Hash, a.Size, e.Agent, e.shown}})
		}
	}
	b.mu.Unlock()
	for _, a := range all.Adds {
		if a.Kind == format.KindIndex && ctx.Err() == nil {
			b.index(ctx, e, object{a.Kind, a.Hash, a.Size, e.Agent, e.shown})
		}
	}
	return nil
}

// index places the packs of an index object that an entry lists.
func (b *tableBuilder) index(ctx context.Context, by *readEntry, o object) {
	data := make([]byte, o.size)
	if err := b.c.source.whole(ctx, o, data, b.fastest, b.tally); err != nil {
		b.illegible(o, err)
		return
	}
	packs, err := format.ParseIndex(data)
	if err != nil {
		b.illegible(o, err)
		return
	}
	for _, p := range packs {
		if err := b.place(by, p); err != nil {
			b.illegible(o, err)
		}
	}
}

// direct places a pack by its own bytes.
func (b *tableBuilder) direct(ctx context.Context, by *readEntry, o object) {
	data := make([]byte, o.size)
	err := b.c.source.whole(ctx, o, data, b.fastest, b.tally)
	if err == nil {
		var p format.IndexedPack
		if p, err = format.ParsePack(data); err == nil {
			err = b.place(by, p)
		}
	}
	if err != nil {
		b.illegible(o, err)
	}
}

func (b *tableBuilder) illegible(o object, err error) {
	b.view.warn(Finding{Object: b.c.source.name(o), Err: fmt.Errorf("read chunk directory: %w", err)})
}

// place adds the chunks of a pack, if the pack is still wanted as that entry
// lists it.
func (b *tableBuilder) place(by *readEntry, p format.IndexedPack) error {
	key := wanted{by, p.Hash, p.Size}
	b.mu.Lock()
	n, ok := b.want[key]
	var o object
	if ok {
		o = b.table.packs[n].object
	}
	b.mu.Unlock()
	if !ok {
		return nil
	}
	var segments []segmentRef
	var places [][]format.DirEntry
	for _, s := range p.Segments {
		h, dir, err := b.c.directory(s)
		if err == nil && uint64(len(s.Head)) > s.Length {
			err = fmt.Errorf("%w: header beyond its segment", format.ErrMalformed)
		}
		if err != nil {
			return fmt.Errorf("pack %s: %w", p.Hash, err)
		}
		if !b.view.belongs(b.c, o.agent, h.Scope) {
			return fmt.Errorf("%w: pack %s holds a segment from elsewhere", format.ErrMalformed, p.Hash)
		}
		segments = append(segments, segmentRef{pack: n, offset: uint32(s.Offset), head: uint32(len(s.Head)), epoch: h.Scope.Epoch})
		places = append(places, dir)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.want[key]; !ok {
		return nil // another index has it too
	}
	delete(b.want, key)
	b.packs[picked{by, p.Hash}] = true
	for i, dir := range places {
		segment := uint32(len(b.table.segments))
		b.table.segments = append(b.table.segments, segments[i])
		for _, e := range dir {
			b.table.places = append(b.table.places, place{placeKey(e.ID), segment, e.Offset, e.Length, e.Raw})
			if e.Kind == format.TreeChunk {
				b.table.packs[n].tree += uint64(e.Length)
			}
		}
	}
	return nil
}

// belongs reports whether a segment of that scope may lie in an agent's folder. A
// steward joins what others sealed.
func (v *View) belongs(c *compartmentView, agent format.ID, s format.Scope) bool {
	return s.Nation == v.keys.Charter.Nation && s.Compartment == c.ID && (s.Agent == agent || v.steward(c, agent))
}

// directory opens a sealed directory with the writer secret of its epoch,
// which stands in the header.
func (c *compartmentView) directory(s format.IndexedSegment) (format.Header, []format.DirEntry, error) {
	w := c.Current()
	h, dir, err := format.OpenDirectory(w, s.Head, s.Dir, s.Length)
	if err != nil && h.Scope.Epoch != w.Epoch && !errors.Is(err, format.ErrMalformed) {
		if w, err = c.Writer(h.Scope.Epoch); err == nil {
			h, dir, err = format.OpenDirectory(w, s.Head, s.Dir, s.Length)
		}
	}
	return h, dir, err
}
