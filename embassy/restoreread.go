package embassy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"embassy/chunk"
	"embassy/embassy/format"
)

var (
	// ErrNoReader: contents were asked for with keys that open no contents.
	ErrNoReader = errors.New("an agent cannot read what it stored: name the recovery kit with --kit FILE")

	errTooDeep = fmt.Errorf("%w: folders nested too deep", format.ErrMalformed)
	errTooMuch = fmt.Errorf("%w: the tree holds more than its snapshot says", format.ErrMalformed)
	errFound   = errors.New("found")
)

// treeCache bounds the packs that are kept to read trees from, in bytes.
const treeCache = 48 << 20

const (
	maxLive   = 32 << 20 // bytes of the node lists of a folder and those above it
	maxSource = 64 << 10 // bytes of a source path
)

// reading is an open snapshot: its root, and its chunks by id. Tree chunks are
// read through it by one goroutine.
type reading struct {
	view    *View
	c       *compartmentView
	s       committed
	refs    []format.Refs // until the places of its chunks are found
	table   *table
	root    format.Root
	naming  naming
	tally   *tally
	fastest bool

	opener *opener
	ahead  map[uint32][]span // by pack, what will be read next: fetched together with the rest
	room   int               // bytes of the packs in cache
	cache  []*cachedPack     // least recently used first
	live   int               // bytes of the node lists that are being gone through
	left   format.Summary    // what of its numbers is not yet counted
	doubts int64             // of the view, when the snapshot itself was read
}

// naming is what the ids of a snapshot depend on: only under the same one have
// equal contents equal ids.
type naming struct {
	compartment format.ID
	epoch       uint32 // of the writer secret
}

// cachedPack is a pack of which some blocks are there.
type cachedPack struct {
	pack     uint32
	buf      []byte
	have     []bool // by block of rangeAlign bytes
	segments map[uint32]*format.Segment
}

// open fetches a snapshot and finds the places of its chunks.
func (v *View) open(ctx context.Context, info SnapshotInfo, t *tally, fastest bool) (*reading, error) {
	r, locate, err := v.openRoot(ctx, info, t, fastest)
	if err != nil {
		return nil, err
	}
	if err := locate(ctx); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// openRoot fetches a snapshot. Nothing but its root may be read until locate
// has found the places of its chunks.
func (v *View) openRoot(ctx context.Context, info SnapshotInfo, t *tally, fastest bool) (r *reading, locate func(context.Context) error, err error) {
	s, err := v.find(info)
	if err != nil {
		return nil, nil, err
	}
	if s.c.Reader == nil {
		return nil, nil, ErrNoReader
	}
	snap, summary, err := v.snapshot(ctx, s, t)
	if err != nil {
		return nil, nil, err
	}
	root, err := snap.Root(s.c.Reader)
	if err != nil {
		return nil, nil, s.c.lacks(err)
	}
	seen := map[format.Head]bool{}
	for _, ref := range summary.Refs {
		at := format.Head{Chain: ref.Chain, Seq: ref.Seq}
		if seen[at] {
			return nil, nil, fmt.Errorf("%w: entry %d of chain %s is referred to twice", format.ErrMalformed, ref.Seq, ref.Chain)
		}
		seen[at] = true
	}
	r = &reading{view: v, c: s.c, s: s, refs: summary.Refs, root: root, naming: naming{s.c.ID, snap.Header.Scope.Epoch}, tally: t, fastest: fastest, opener: newOpener(s.c), room: treeCache, left: summary, doubts: v.doubts.Load()}
	r.left.Refs = nil
	return r, func(ctx context.Context) (err error) {
		r.table, err = v.locate(ctx, s, r.refs, fastest, t)
		r.refs = nil
		return err
	}, nil
}

// contents returns a second reading of the same snapshot, whose cache of room
// bytes holds nothing yet: for the contents of files, beside the trees. Its
// caller closes it, and then r.
func (r *reading) contents(room int) *reading {
	return &reading{view: r.view, c: r.c, table: r.table, tally: r.tally, fastest: r.fastest, opener: newOpener(r.c), room: room}
}

// count takes a node off the numbers of the snapshot's summary. A walk of an
// honest tree meets no more than these, however many chunks it shares; the
// error, errTooMuch, ends one of a tree that only shares them to exhaust us.
func (r *reading) count(n *format.Node) error {
	left, size := &r.left.Others, uint64(0)
	switch n.Type {
	case format.File:
		left, size = &r.left.Files, n.Content.Size
	case format.Dir:
		left = &r.left.Dirs
	}
	if *left == 0 || size > r.left.Bytes {
		return errTooMuch
	}
	*left--
	r.left.Bytes -= size
	return nil
}

// close releases what the reading holds.
func (r *reading) close() { r.opener.close() }

// each calls fn with the chunks of a content, in order.
func (r *reading) each(ctx context.Context, c format.Content, fn func(id chunk.ID) error) error {
	ids, err := c.IDs()
	if err != nil {
		return err
	}
	return eachChunk(ctx, ids, c.Depth, func(ctx context.Context, id chunk.ID) ([]byte, error) {
		return r.chunk(ctx, id, format.MaxTreeChunk)
	}, fn)
}

// eachChunk calls fn with the chunks that so many levels of lists lead to. list
// returns a list, valid until its next call.
func eachChunk(ctx context.Context, ids []chunk.ID, depth uint8, list func(context.Context, chunk.ID) ([]byte, error), fn func(id chunk.ID) error) error {
	for _, id := range ids {
		if err := ctx.Err(); err != nil { // a list that is kept asks nobody
			return err
		}
		if depth == 0 {
			if err := fn(id); err != nil {
				return err
			}
			continue
		}
		data, err := list(ctx, id)
		if err != nil {
			return err
		}
		below, err := parseList(data)
		if err == nil {
			err = eachChunk(ctx, below, depth-1, list, fn)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// parseList reads a list of chunks, of which there is at least one.
func parseList(data []byte) ([]chunk.ID, error) {
	ids, err := format.ParseIDList(data)
	if err == nil && len(ids) == 0 {
		err = fmt.Errorf("%w: empty list of chunks", format.ErrMalformed)
	}
	return ids, err
}

// nodes calls fn with every node of a folder, in order. fn may keep them.
func (r *reading) nodes(ctx context.Context, dir format.Content, fn func(n *format.Node) error) error {
	var after []byte
	var size uint64
	err := r.each(ctx, dir, func(id chunk.ID) error {
		list, err := r.chunk(ctx, id, format.MaxTreeChunk)
		if err != nil {
			return err
		}
		n := len(list)
		size += uint64(n)
		r.live += n
		defer func() { r.live -= n }()
		if r.live > maxLive {
			return errTooDeep
		}
		nodes, err := format.ParseNodes(list, after)
		if err != nil {
			return err
		}
		if len(nodes) == 0 {
			return fmt.Errorf("%w: empty list of nodes", format.ErrMalformed)
		}
		after = nodes[len(nodes)-1].Name
		for i := range nodes {
			if err := fn(&nodes[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && size != dir.Size {
		err = fmt.Errorf("%w: folder list of %d bytes, should be %d", format.ErrMalformed, size, dir.Size)
	}
	return err
}

// lookup returns the node of that name in a folder, or fs.ErrNotExist.
func (r *reading) lookup(ctx context.Context, dir format.Content, name string) (*format.Node, error) {
	var found *format.Node
	err := r.nodes(ctx, dir, func(n *format.Node) error {
		if string(n.Name) == name {
			found = n
			return errFound
		}
		return nil
	})
	if found != nil {
		return found, nil
	}
	if err == nil {
		err = fs.ErrNotExist
	}
	return nil, err
}

// chunk returns a tree chunk of at most max bytes, from any of its places. It
// is valid until the next call.
func (r *reading) chunk(ctx context.Context, id chunk.ID, max int) ([]byte, error) {
	from, to := r.table.find(id)
	err := errNoPlace(id)
	for i := from; i < to; i++ {
		data, one := r.fetch(ctx, r.table.places[i], id, max)
		if one == nil {
			return data, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		err = one
	}
	return nil, err
}

func errNoPlace(id chunk.ID) error {
	return fmt.Errorf("chunk %s is in no pack that its snapshot may use", id)
}

// fetch opens one chunk, from the cache if it is there. Of a pack full of tree
// chunks all is fetched at once, of another the blocks that hold the chunk and
// what is ahead, or all if that is half of it. If
// they do not open, the hash of the whole pack tells whether a copy is bad or
// its agent wrote it so; only where no copy is whole is each tried for itself.
func (r *reading) fetch(ctx context.Context, p place, id chunk.ID, max int) (data []byte, err error) {
	ref := r.table.segments[p.segment]
	pack := r.table.packs[ref.pack]
	blocks, covered := align(r.table.spans(p), int64(pack.size))
	cp := r.cached(ref.pack, int(pack.size))
	open := func() error {
		s := cp.segments[p.segment]
		if s == nil {
			if s, err = r.c.openSegment(cp.buf, ref); err != nil {
				return err
			}
			cp.segments[p.segment] = s
		}
		data, err = r.opener.chunk(s, ref, p, cp.buf, id, max)
		return err
	}
	if cp.has(blocks) {
		if open() == nil {
			return data, nil
		}
	} else if next := r.ahead[ref.pack]; next != nil {
		blocks, covered = align(append(r.table.spans(p), cp.lacking(next)...), int64(pack.size))
	}
	clear(cp.segments)
	again := func() error {
		delete(cp.segments, p.segment) // the header was read again
		return open()
	}
	if pack.tree < pack.size/2 && (r.ahead == nil || covered < int64(pack.size)/2) {
		var unfit error
		err = r.c.source.ranges(ctx, pack.object, cp.buf, cp.missing(blocks), r.fastest, r.tally, func() error {
			unfit = again()
			return nil
		})
		cp.mark(blocks, err == nil && unfit == nil)
		if err == nil && unfit == nil || err != nil && !r.c.source.older(ctx) {
			return data, err
		}
	}
	err = r.c.source.whole(ctx, pack.object, cp.buf, r.fastest, r.tally)
	if err == nil {
		cp.mark([]span{{0, int64(pack.size)}}, true)
		if err = again(); err != nil {
			return nil, fmt.Errorf("pack %s: %v", pack.hash, err) // no copy is bad
		}
		return data, nil
	}
	if ctx.Err() != nil {
		return nil, err
	}
	clear(cp.have)
	err = r.c.source.ranges(ctx, pack.object, cp.buf, blocks, r.fastest, r.tally, again)
	cp.mark(blocks, err == nil)
	return data, err
}

// cached returns the cache's record of a pack, and makes room for it.
func (r *reading) cached(pack uint32, size int) *cachedPack {
	if i := slices.IndexFunc(r.cache, func(c *cachedPack) bool { return c.pack == pack }); i >= 0 {
		c := r.cache[i]
		r.cache = append(slices.Delete(r.cache, i, i+1), c)
		return c
	}
	sum := size
	for _, c := range r.cache {
		sum += len(c.buf)
	}
	var buf []byte
	for sum > r.room && len(r.cache) > 0 {
		old := r.cache[0].buf
		if r.cache = slices.Delete(r.cache, 0, 1); cap(old) >= size {
			buf = old[:size]
		}
		sum -= len(old)
	}
	if buf == nil {
		buf = make([]byte, size)
	}
	c := &cachedPack{pack, buf, make([]bool, (size+rangeAlign-1)/rangeAlign), map[uint32]*format.Segment{}}
	r.cache = append(r.cache, c)
	return c
}

func (c *cachedPack) has(spans []span) bool {
	for _, s := range spans {
		for at := s.from; at < s.to; at += rangeAlign {
			if !c.have[at/rangeAlign] {
				return false
			}
		}
	}
	return true
}

// missing returns what of aligned spans is not there, or all of them if nothing
// is missing: then what is there is bad.
func (c *cachedPack) missing(spans []span) []span {
	var out []span
	for _, s := range spans {
		for at := s.from; at < s.to; at += rangeAlign {
			end := min(at+rangeAlign, s.to)
			if n := len(out); c.have[at/rangeAlign] {
			} else if n > 0 && out[n-1].to == at {
				out[n-1].to = end
			} else {
				out = append(out, span{at, end})
			}
		}
	}
	if len(out) == 0 {
		return spans
	}
	return out
}

// lacking returns the spans that are not all there.
func (c *cachedPack) lacking(spans []span) []span {
	var out []span
	for _, s := range spans {
		if aligned, _ := align([]span{s}, int64(len(c.buf))); !c.has(aligned) {
			out = append(out, s)
		}
	}
	return out
}

func (c *cachedPack) mark(spans []span, have bool) {
	for _, s := range spans {
		for at := s.from; at < s.to; at += rangeAlign {
			c.have[at/rangeAlign] = have
		}
	}
}

// openSegment derives the key of a segment from its header in the pack.
func (c *compartmentView) openSegment(pack []byte, ref segmentRef) (*format.Segment, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	s, err := format.OpenSegment(c.Reader, pack[ref.offset:ref.offset+ref.head])
	if err == nil && (s.Header.Scope.Compartment != c.ID || s.Header.Scope.Epoch != ref.epoch) {
		err = format.ErrMalformed
	}
	if err != nil {
		return nil, fmt.Errorf("%w: segment header: %w", errBadCopy, err)
	}
	return s, nil
}

// opener opens, decodes and identifies chunks. Not for concurrent use.
type opener struct {
	c       *compartmentView
	decoder *chunk.Decoder
	hashers map[uint32]*chunk.Hasher // by writer epoch
	encoded []byte
	raw     []byte
}

func newOpener(c *compartmentView) *opener {
	return &opener{c: c, decoder: chunk.NewDecoder(), hashers: map[uint32]*chunk.Hasher{}}
}

func (o *opener) close() { o.decoder.Close() }

// chunk returns the plaintext of the chunk at p in the pack, of at most max
// bytes, if it has that id. It is valid until the next call.
func (o *opener) chunk(s *format.Segment, ref segmentRef, p place, pack []byte, id chunk.ID, max int) ([]byte, error) {
	at := ref.offset + p.offset
	var err error
	if o.encoded, err = s.Open(o.encoded[:0], p.offset, pack[at:at+p.length]); err != nil {
		return nil, fmt.Errorf("%w: chunk %s: %w", errBadCopy, id, err)
	}
	if o.raw, err = o.decoder.Decode(o.raw[:0], o.encoded, max); err != nil {
		return nil, fmt.Errorf("%w: chunk %s: %w", errBadCopy, id, err)
	}
	h, err := o.hasher(ref.epoch)
	if err != nil {
		return nil, err
	}
	if uint32(len(o.raw)) != p.raw || h.ID(o.raw) != id {
		return nil, fmt.Errorf("%w: chunk %s is another one", errBadCopy, id)
	}
	return o.raw, nil
}

func (o *opener) hasher(epoch uint32) (*chunk.Hasher, error) {
	if h := o.hashers[epoch]; h != nil {
		return h, nil
	}
	w, err := o.c.Writer(epoch)
	if err != nil {
		return nil, err
	}
	o.hashers[epoch] = w.Hasher()
	return o.hashers[epoch], nil
}
