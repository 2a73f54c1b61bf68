package embassy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io/fs"
	"math"
	"sort"

	"embassy/chunk"
	"embassy/embassy/format"
)

const (
	browseTables = 256 << 20 // bytes of the places of chunks of open snapshots
	browsePacks  = 128 << 20 // bytes of the packs that are read from
	browseChunks = 24 << 20  // bytes of opened chunks
	browseNodes  = 16 << 20  // bytes of the nodes of folders
	openSnapshot = 1 << 20   // bytes that an open snapshot takes beside its places
	placeSize    = 24        // bytes of a place
	nodeSize     = 512       // bytes that a node takes beside what is in it

	browseOpeners = 4 // of about 12 MB

	maxLists  = 1 << 16 // pieces that the list of chunks of one content is in: more than 64 TB, or 4 GB of nodes
	aheadMin  = 512 << 10
	aheadMost = 8 << 20 // bytes that are fetched at once beyond what is wanted
	nearby    = 1 << 20 // bytes between two reads that are taken to be in order
)

// Browser reads snapshots piece by piece, as somebody asks. All that it gives
// was authenticated; a bad copy is told to Warn of its View, and another one is
// read. It keeps what was read lately, in bounded memory. It is safe for
// concurrent use: readers wait for one another only where they need the same
// pack. While it is used, nothing else may be asked of the View.
type Browser struct {
	view    *View
	opening turn                         // to ask the View for a snapshot
	trees   *pool[format.Hash, *reading] // by snapshot
	packs   *pool[packKey, *packReader]
	chunks  *recent[chunkKey, []byte]
	pages   *recent[chunkKey, page]
	spare   chan []byte  // of packs that made way
	openers chan *opener // that nobody uses; each keeps what the largest chunk took
}

// packKey names a pack of an open snapshot, by its number in the table.
type packKey struct {
	snapshot format.Hash
	pack     uint32
}

// chunkKey names a chunk as one snapshot finds it: none is served to another
// one, which might not be allowed to use it.
type chunkKey struct {
	snapshot format.Hash
	id       chunk.ID
}

// Browse returns what reads the snapshots of the View on demand. Its caller
// closes it.
func (v *View) Browse() *Browser {
	b := &Browser{
		view: v, opening: newTurn(),
		chunks: newRecent[chunkKey, []byte](browseChunks), pages: newRecent[chunkKey, page](browseNodes),
		spare: make(chan []byte, 1), openers: make(chan *opener, browseOpeners),
	}
	b.packs = newPool(browsePacks, func(_ packKey, l *packReader) {
		if l == nil || len(l.r.cache) == 0 {
			return
		}
		select {
		case b.spare <- l.r.cache[0].buf:
		default:
		}
	})
	b.trees = newPool(browseTables, func(h format.Hash, r *reading) {
		b.packs.forget(func(k packKey) bool { return k.snapshot == h })
		if r != nil {
			r.close()
		}
	})
	return b
}

// Close releases what the Browser holds. Nobody may use it any more.
func (b *Browser) Close() {
	b.trees.forget(func(format.Hash) bool { return true })
	for {
		select {
		case o := <-b.openers:
			o.close()
		default:
			return
		}
	}
}

// opener lends what opens the chunks of a compartment until done is called.
func (b *Browser) opener(c *compartmentView) (o *opener, done func()) {
	select {
	case o = <-b.openers:
	default:
	}
	if o == nil || o.c != c {
		if o != nil {
			o.close()
		}
		o = newOpener(c)
	}
	return o, func() {
		select {
		case b.openers <- o:
		default:
			o.close()
		}
	}
}

// Tree is a snapshot that is opened when something in it is wanted.
type Tree struct {
	b    *Browser
	info SnapshotInfo
}

// Tree returns the tree of a snapshot of the View. It reads nothing yet.
func (b *Browser) Tree(info SnapshotInfo) *Tree { return &Tree{b, info} }

// open lends the open snapshot until done is called.
func (t *Tree) open(ctx context.Context) (r *reading, done func(), err error) {
	b := t.b
	e, err := b.trees.take(ctx, t.info.Hash, openSnapshot)
	if err != nil {
		return nil, nil, err
	}
	if err := t.fill(ctx, e); err != nil {
		b.trees.give(e)
		return nil, nil, err
	}
	return e.value, func() { b.trees.give(e) }, nil
}

func (t *Tree) fill(ctx context.Context, e *pooled[format.Hash, *reading]) error {
	if err := e.take(ctx); err != nil {
		return err
	}
	defer e.give()
	if e.value != nil {
		return nil
	}
	if err := t.b.opening.take(ctx); err != nil {
		return err
	}
	defer t.b.opening.give()
	r, err := t.b.view.open(ctx, t.info, nil, false)
	if err != nil {
		return fmt.Errorf("snapshot %.12s: %w", t.info.Hash, err)
	}
	e.value = r
	t.b.trees.grow(e, placeSize*int64(len(r.table.places)))
	return nil
}

// chunk returns a chunk of at most max bytes, which the caller must not
// change. So many bytes that follow in its pack may be fetched with it.
func (t *Tree) chunk(ctx context.Context, id chunk.ID, max int, ahead int64) ([]byte, error) {
	data, ok := t.b.chunks.get(chunkKey{t.info.Hash, id})
	if !ok {
		r, done, err := t.open(ctx)
		if err != nil {
			return nil, err
		}
		defer done()
		if data, err = t.fetch(ctx, r, id, max, ahead); err != nil {
			return nil, err
		}
	}
	if len(data) > max {
		return nil, fmt.Errorf("%w: chunk %s of %d bytes", format.ErrMalformed, id, len(data))
	}
	return data, nil
}

// packReader reads one pack.
type packReader struct {
	r      *reading
	next   int64 // offset behind what was fetched last
	window int64 // bytes that were fetched ahead then
}

func (t *Tree) fetch(ctx context.Context, r *reading, id chunk.ID, max int, ahead int64) ([]byte, error) {
	from, to := r.table.find(id)
	if from == to {
		return nil, errNoPlace(id)
	}
	p, key := r.table.places[from], chunkKey{t.info.Hash, id}
	pack := r.table.segments[p.segment].pack
	size := r.table.packs[pack].size
	e, err := t.b.packs.take(ctx, packKey{t.info.Hash, pack}, int64(size))
	if err != nil {
		return nil, err
	}
	defer t.b.packs.give(e)
	if err := e.take(ctx); err != nil {
		return nil, err
	}
	defer e.turn.give()
	if data, ok := t.b.chunks.get(key); ok {
		return data, nil // another one fetched it meanwhile
	}
	if e.value == nil {
		e.value = &packReader{r: &reading{view: r.view, c: r.c, table: r.table, room: int(size)}}
		select {
		case buf := <-t.b.spare: // makes way for the pack, which takes its memory
			if fits(buf, int(size)) {
				e.value.r.cache = []*cachedPack{{pack: math.MaxUint32, buf: buf}}
			}
		default:
		}
	}
	l := e.value.r
	opener, back := t.b.opener(r.c)
	l.opener = opener
	defer func() {
		l.opener = nil
		back()
		if len(l.cache) > 0 && (l.cache[0].pack != pack || !fits(l.cache[0].buf, int(size))) {
			l.cache = nil // another place of the chunk was tried, in a pack that has no room here
		}
	}()
	e.value.aim(p, ahead)
	data, err := l.chunk(ctx, id, max)
	if err != nil {
		return nil, err
	}
	data = bytes.Clone(data)
	t.b.chunks.add(key, data, len(data))
	return data, nil
}

// fits reports whether memory is of about the size that a pack is counted with.
func fits(buf []byte, size int) bool { return cap(buf) >= size && cap(buf)-size <= size/8 }

// aim sets what is fetched with a chunk that is not there yet: what the reader
// of a long file asks for, and the more, the longer the pack was read in order.
func (l *packReader) aim(p place, ahead int64) {
	t := l.r.table
	pack := t.segments[p.segment].pack
	size := int64(t.packs[pack].size)
	spans := t.spans(p)
	own := spans[1]
	blocks, _ := align(spans, size)
	l.r.ahead = nil
	if l.r.cached(pack, int(size)).has(blocks) {
		return
	}
	if own.from >= l.next-nearby && own.from <= l.next+nearby {
		l.window = min(max(2*l.window, aheadMin), aheadMost)
	} else {
		l.window = 0
	}
	if l.window = max(l.window, min(ahead, aheadMost)); l.window > 0 {
		l.r.ahead = map[uint32][]span{pack: {{own.to, min(own.to+l.window, size)}}}
	}
	l.next = own.to + l.window
}

// Root returns the folder that all source paths begin in.
func (t *Tree) Root(ctx context.Context) (*Folder, error) {
	r, done, err := t.open(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	return t.folder(r.root.Tree), nil
}

// Folder returns the folder that a node of the tree describes.
func (t *Tree) Folder(n *format.Node) *Folder { return t.folder(*n.Content) }

func (t *Tree) folder(c format.Content) *Folder { return &Folder{tree: t, content: c, turn: newTurn()} }

// File returns the file that a node of the tree describes.
func (t *Tree) File(n *format.Node) *File {
	return &File{tree: t, content: *n.Content, turn: newTurn()}
}

// Same is equal for two nodes of the tree that are names of one file, which
// Hard says, and of which everything else is the same too.
func (t *Tree) Same(n *format.Node) [sha256.Size]byte {
	id := identity(n)
	b := append(id[:], t.info.Hash[:]...)
	for _, v := range []uint64{n.Hard, uint64(n.Mode), uint64(n.UID), uint64(n.GID), uint64(n.Sec), uint64(n.Nsec)} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	for _, x := range n.Xattrs {
		for _, part := range [][]byte{x.Name, x.Value} {
			b = append(binary.LittleEndian.AppendUint64(b, uint64(len(part))), part...)
		}
	}
	return sha256.Sum256(b)
}

// Folder is a folder of a snapshot. Safe for concurrent use.
type Folder struct {
	tree    *Tree
	content format.Content

	turn
	found bool       // ids
	ids   []chunk.ID // of its pages
	lasts [][]byte   // the last name of each page that was gone through
	size  uint64     // bytes of these pages
}

// page is a part of a folder.
type page struct {
	nodes []format.Node
	size  int // bytes
}

// Page returns a part of the folder, whose names ascend from the first part to
// the last; nil behind the last. The caller must not change it.
func (f *Folder) Page(ctx context.Context, i int) ([]format.Node, error) {
	if err := f.turn.take(ctx); err != nil {
		return nil, err
	}
	defer f.turn.give()
	for {
		nodes, err := f.page(ctx, min(i, len(f.lasts)))
		if err != nil || nodes == nil || i < len(f.lasts) {
			return nodes, err
		}
	}
}

// Lookup returns the node of that name, or bare fs.ErrNotExist. The caller must
// not change it.
func (f *Folder) Lookup(ctx context.Context, name string) (*format.Node, error) {
	if err := f.turn.take(ctx); err != nil {
		return nil, err
	}
	defer f.turn.give()
	for {
		i := sort.Search(len(f.lasts), func(i int) bool { return string(f.lasts[i]) >= name })
		through := i == len(f.lasts) // and what comes next may have it
		nodes, err := f.page(ctx, i)
		if err != nil {
			return nil, err
		}
		if nodes == nil {
			return nil, fs.ErrNotExist
		}
		if through && string(f.lasts[i]) < name {
			continue
		}
		at := sort.Search(len(nodes), func(i int) bool { return string(nodes[i].Name) >= name })
		if at == len(nodes) || string(nodes[at].Name) != name {
			return nil, fs.ErrNotExist
		}
		return &nodes[at], nil
	}
}

// page returns a page that was gone through, or the one behind these. The
// caller has the turn.
func (f *Folder) page(ctx context.Context, i int) ([]format.Node, error) {
	if !f.found {
		ids, err := f.content.IDs()
		if err == nil {
			err = eachChunk(ctx, ids, f.content.Depth, f.tree.list, func(id chunk.ID) error {
				if f.ids = append(f.ids, id); len(f.ids) > maxLists {
					return fmt.Errorf("%w: a folder of too many parts", format.ErrMalformed)
				}
				return nil
			})
		}
		if err != nil {
			f.ids = nil
			return nil, err
		}
		f.found = true
	}
	if i == len(f.ids) {
		if f.size != f.content.Size {
			return nil, fmt.Errorf("%w: folder list of %d bytes, should be %d", format.ErrMalformed, f.size, f.content.Size)
		}
		return nil, nil
	}
	p, err := f.tree.page(ctx, f.ids[i])
	if err != nil {
		return nil, err
	}
	if i > 0 && bytes.Compare(f.lasts[i-1], p.nodes[0].Name) >= 0 {
		return nil, fmt.Errorf("%w: node %q after %q", format.ErrMalformed, p.nodes[0].Name, f.lasts[i-1])
	}
	if i == len(f.lasts) {
		f.lasts, f.size = append(f.lasts, p.nodes[len(p.nodes)-1].Name), f.size+uint64(p.size)
	}
	return p.nodes, nil
}

// list returns a list of chunks.
func (t *Tree) list(ctx context.Context, id chunk.ID) ([]byte, error) {
	return t.chunk(ctx, id, format.MaxTreeChunk, 0)
}

// page returns the nodes of a tree chunk.
func (t *Tree) page(ctx context.Context, id chunk.ID) (page, error) {
	key := chunkKey{t.info.Hash, id}
	if p, ok := t.b.pages.get(key); ok {
		return p, nil
	}
	data, err := t.list(ctx, id)
	if err != nil {
		return page{}, err
	}
	nodes, err := format.ParseNodes(data, nil)
	if err == nil && len(nodes) == 0 {
		err = fmt.Errorf("%w: empty list of nodes", format.ErrMalformed)
	}
	if err != nil {
		return page{}, err
	}
	p := page{nodes, len(data)}
	t.b.pages.add(key, p, len(data)+nodeSize*len(nodes))
	return p, nil
}
