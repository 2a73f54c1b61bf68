package embassy

import (
	"io/fs"
	"log/slog"
	"slices"
	"strconv"

	"github.com/fxamacker/cbor/v2"

	"embassy/chunk"
	"embassy/embassy/format"
)

const (
	cachePart    = 1024    // weight of one record
	cacheBatch   = 256     // records written to the catalog at once
	cachePress   = 1 << 15 // weight of new files after which waiting ones have their packs sent, full or not
	cacheWaiting = 1 << 18 // weight of the files that may wait for their chunks to become durable
	cacheWeight  = 512     // bytes of attributes and holes that weigh as much as a file without
)

// cachedFile is what the file cache remembers of one file.
type cachedFile struct {
	Name    cbor.ByteString `cbor:"1,keyasint"` // any bytes
	Size    int64           `cbor:"2,keyasint"`
	Mtime   int64           `cbor:"3,keyasint"` // nanoseconds
	Ctime   int64           `cbor:"4,keyasint"`
	Inode   uint64          `cbor:"5,keyasint"`
	Content format.Content  `cbor:"6,keyasint"`
	Packs   []PackNum       `cbor:"7,keyasint"` // that hold all of its chunks
	Xattrs  []format.Xattr  `cbor:"8,keyasint,omitempty"`
	Holes   []uint64        `cbor:"9,keyasint,omitempty"`

	wants []chunk.ID  // chunks whose packs are not known yet
	from  *remembered // nil: it was not remembered
}

// remembered is the record that a file was found in.
type remembered struct {
	part, files int
	last        bool
}

func statOf(fi fs.FileInfo) cachedFile {
	st := sysStat(fi)
	return cachedFile{Name: cbor.ByteString(fi.Name()), Size: fi.Size(), Mtime: fi.ModTime().UnixNano(), Ctime: st.ctime, Inode: st.file.inode}
}

func (f *cachedFile) sameStat(o cachedFile) bool {
	return f.Size == o.Size && f.Mtime == o.Mtime && f.Ctime == o.Ctime && f.Inode == o.Inode
}

// weight is how much of a record a file takes; 1 if it has nothing special.
func (f *cachedFile) weight() int {
	bytes := 8 * len(f.Holes)
	for _, x := range f.Xattrs {
		bytes += len(x.Name) + len(x.Value)
	}
	return 1 + bytes/cacheWeight
}

// cachedPart is one record of the file cache: some files of a folder, in
// ascending order of names. A folder has one part after another; Last ends it.
type cachedPart struct {
	Files []cachedFile `cbor:"1,keyasint"`
	Last  bool         `cbor:"2,keyasint"`
	Shape int          `cbor:"3,keyasint"` // of the record; one of another shape is no record
}

const cacheShape = 1

func partKey(path string, part int) string {
	if part == 0 {
		return path
	}
	return path + "\x00" + strconv.Itoa(part)
}

// fileCache tells which files are unchanged since they were last stored. A
// record is written only when every chunk it names lies in a pack that the
// catalog knows, so a hit needs no look-up of chunks. What cannot be written
// or read costs reading files again, and nothing else.
type fileCache struct {
	catalog Catalog
	series  string // names a chain, a writer epoch and a dataset
	used    *packSet
	log     *slog.Logger
	packs   map[PackNum]bool // asked for in this run; which may be referred to
	press   func()           // sends the packs that are open

	waiting []waitingPart // oldest first
	weight  int           // of waiting
	added   int           // weight of what came since the last press
	left    int           // of waiting, after the last settle
	ready   map[string][]byte
}

// waitingPart is a part, some chunks of which were not durable when last
// looked.
type waitingPart struct {
	key    string
	part   cachedPart
	weight int
}

func newFileCache(cat Catalog, series string, used *packSet, press func(), log *slog.Logger) *fileCache {
	return &fileCache{
		catalog: cat, series: series, used: used, press: press, log: log,
		packs: map[PackNum]bool{}, ready: map[string][]byte{},
	}
}

// dirCursor reads what is remembered of a folder, in step with a walk over its
// names in ascending order.
type dirCursor struct {
	cache *fileCache
	path  string
	next  int // part to be read
	part  cachedPart
	from  *remembered
	at    int
}

func (c *fileCache) open(path string) *dirCursor {
	d := &dirCursor{cache: c, path: path}
	d.load()
	return d
}

func (d *dirCursor) load() {
	d.part, d.at = cachedPart{Last: true}, 0
	raw, ok, err := d.cache.catalog.CachedDir(d.cache.series, partKey(d.path, d.next))
	if err != nil {
		d.cache.log.Warn("read file cache", "err", err)
	}
	d.next++
	if !ok || cbor.Unmarshal(raw, &d.part) != nil || d.part.Shape != cacheShape {
		d.part = cachedPart{Last: true}
	}
	d.from = &remembered{d.next - 1, len(d.part.Files), d.part.Last}
}

// find returns what is remembered of a name, or nil. Names ascend.
func (d *dirCursor) find(name string) *cachedFile {
	for {
		for d.at < len(d.part.Files) {
			f := &d.part.Files[d.at]
			if string(f.Name) > name {
				return nil
			}
			d.at++
			if string(f.Name) == name {
				f.from = d.from
				return f
			}
		}
		if d.part.Last {
			return nil
		}
		d.load()
	}
}

// alive reports whether all of a file lies in packs that may be referred to. When
// some were replaced since, and all of its chunks are elsewhere, it names those.
func (c *fileCache) alive(f *cachedFile) bool {
	if !slices.ContainsFunc(f.Packs, func(n PackNum) bool { return !c.known(n) }) {
		return true
	}
	ids, err := f.Content.IDs()
	if err != nil || f.Content.Depth > 0 || len(ids) == 0 { // the chunks are named in others, which an agent cannot read
		return false
	}
	moved := cachedFile{wants: ids}
	if !c.find(&moved) || slices.ContainsFunc(moved.Packs, func(n PackNum) bool { return !c.known(n) }) {
		return false
	}
	f.Packs, f.from = moved.Packs, &remembered{part: -1} // its record is to be written anew
	return true
}

// known reports whether the catalog still has a pack, and it may be referred to.
func (c *fileCache) known(n PackNum) bool {
	ok, asked := c.packs[n]
	if !asked {
		p, found, err := c.catalog.Pack(n)
		ok = found && err == nil && !p.Condemned
		c.packs[n] = ok
	}
	return ok
}

// use notes that the snapshot uses these packs.
func (c *fileCache) use(packs []PackNum) { c.used.add(packs...) }

// dirRecord gathers what shall be remembered of a folder.
type dirRecord struct {
	cache *fileCache
	path  string
	next  int
	part  cachedPart
	heavy int  // weight of part
	fresh bool // something in part is not as it was remembered, or was in another one
}

func (c *fileCache) record(path string) *dirRecord { return &dirRecord{cache: c, path: path} }

// add appends a file; same says that it is as it was remembered.
func (r *dirRecord) add(f cachedFile, same bool) {
	r.part.Files = append(r.part.Files, f)
	r.fresh = r.fresh || !same || f.from != r.part.Files[0].from
	if r.heavy += f.weight(); r.heavy >= cachePart {
		r.flush(false)
	}
}

// close ends the folder; was has gone through what is remembered of it.
func (r *dirRecord) close(was *dirCursor) {
	if len(r.part.Files)+len(was.part.Files) > 0 || was.next != r.next+1 {
		r.flush(true)
	}
}

// flush ends a part. One that is remembered just so is not written again.
func (r *dirRecord) flush(last bool) {
	c := r.cache
	if n := len(r.part.Files); n > 0 && !r.fresh && *r.part.Files[0].from == (remembered{r.next, n, last}) {
		r.next, r.part.Files, r.heavy = r.next+1, r.part.Files[:0], 0
		return
	}
	r.part.Last, r.part.Shape = last, cacheShape
	c.waiting = append(c.waiting, waitingPart{partKey(r.path, r.next), r.part, r.heavy})
	c.weight += r.heavy
	c.added += r.heavy
	r.next, r.part, r.heavy, r.fresh = r.next+1, cachedPart{}, 0, false
	if len(c.waiting) >= max(cacheBatch, 2*c.left) || c.added > cachePress {
		c.settle()
	}
	if c.added > cachePress { // a pack that is never full holds up very many tiny files
		c.added = 0
		if c.weight > cachePress {
			c.press()
		}
	}
}

// settle writes the parts whose chunks are all durable by now. When too many
// files still wait, the oldest are forgotten: they are read again next time.
func (c *fileCache) settle() {
	keep := c.waiting[:0]
	c.weight = 0
	for _, w := range c.waiting {
		if !c.resolve(&w.part) {
			keep = append(keep, w)
			c.weight += w.weight
			continue
		}
		raw, err := cbor.Marshal(w.part)
		if err != nil {
			c.log.Warn("encode file cache", "err", err)
			continue
		}
		c.ready[w.key] = raw
		if len(c.ready) >= cacheBatch {
			c.write()
		}
	}
	c.write()
	drop := 0
	for ; c.weight > cacheWaiting/2; drop++ {
		c.weight -= keep[drop].weight
	}
	c.waiting = slices.Delete(keep, 0, drop)
	c.left = len(c.waiting)
}

func (c *fileCache) write() {
	if len(c.ready) == 0 {
		return
	}
	if err := c.catalog.PutCachedDirs(c.series, c.ready); err != nil {
		c.log.Warn("write file cache", "err", err)
	}
	clear(c.ready)
}

// resolve finds the packs of new chunks; false: some are not durable yet.
func (c *fileCache) resolve(p *cachedPart) bool {
	for i := range p.Files {
		if f := &p.Files[i]; len(f.wants) > 0 && !c.find(f) {
			return false
		}
	}
	return true
}

// find sets the packs of a file to those that hold the chunks that it wants;
// false: some are in none.
func (c *fileCache) find(f *cachedFile) bool {
	packs := make([]PackNum, len(f.wants))
	if err := c.catalog.FindChunks(f.wants, packs); err != nil || slices.Contains(packs, 0) {
		return false
	}
	slices.Sort(packs)
	f.Packs, f.wants = slices.Compact(packs), nil
	return true
}
