package embassy

import (
	"io/fs"
	"slices"

	"github.com/fxamacker/cbor/v2"

	"embassy/chunk"
	"embassy/embassy/format"
)

const (
	cacheBatch   = 256     // folders written to the catalog at once
	cacheWaiting = 1 << 16 // chunk ids that may wait to become durable
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

	wants []chunk.ID // chunks whose packs are not known yet
}

func statOf(fi fs.FileInfo) cachedFile {
	st := sysStat(fi)
	return cachedFile{Name: cbor.ByteString(fi.Name()), Size: fi.Size(), Mtime: fi.ModTime().UnixNano(), Ctime: st.ctime, Inode: st.inode}
}

func (f *cachedFile) sameStat(o cachedFile) bool {
	return f.Size == o.Size && f.Mtime == o.Mtime && f.Ctime == o.Ctime && f.Inode == o.Inode
}

// dirRecord is the cache's record of one folder, to be.
type dirRecord struct {
	path  string
	files []cachedFile
}

// fileCache tells which files are unchanged since they were last stored. A
// record is written only when every chunk it names lies in a pack that the
// catalog knows, so a hit needs no look-up of chunks.
type fileCache struct {
	catalog Catalog
	series  string
	used    *packSet
	known   map[PackNum]bool // packs asked for in this run

	waiting []*dirRecord // in order of the walk
	wants   int          // chunk ids in waiting
	ready   map[string][]byte
}

func newFileCache(cat Catalog, series string, used *packSet) *fileCache {
	return &fileCache{catalog: cat, series: series, used: used, known: map[PackNum]bool{}, ready: map[string][]byte{}}
}

// open returns the folder's files by name.
func (c *fileCache) open(path string) (map[string]*cachedFile, error) {
	raw, ok, err := c.catalog.CachedDir(c.series, path)
	if err != nil || !ok {
		return nil, err
	}
	var files []cachedFile
	if err := cbor.Unmarshal(raw, &files); err != nil {
		return nil, nil // a record of another shape is no record
	}
	byName := make(map[string]*cachedFile, len(files))
	for i := range files {
		byName[string(files[i].Name)] = &files[i]
	}
	return byName, nil
}

// alive reports whether the catalog still has all of these packs.
func (c *fileCache) alive(packs []PackNum) bool {
	for _, n := range packs {
		ok, asked := c.known[n]
		if !asked {
			_, found, err := c.catalog.Pack(n)
			ok = found && err == nil
			c.known[n] = ok
		}
		if !ok {
			return false
		}
	}
	return true
}

// use notes that the snapshot uses these packs.
func (c *fileCache) use(packs []PackNum) { c.used.add(packs...) }

// put queues the record of a folder.
func (c *fileCache) put(r *dirRecord) error {
	c.waiting = append(c.waiting, r)
	for i := range r.files {
		c.wants += len(r.files[i].wants)
	}
	if c.wants > cacheWaiting || len(c.waiting) > cacheBatch {
		return c.settle()
	}
	return nil
}

// settle writes the records whose chunks are durable by now, oldest first.
func (c *fileCache) settle() error {
	for len(c.waiting) > 0 {
		r := c.waiting[0]
		ok, err := c.resolve(r)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		c.waiting = c.waiting[1:]
		raw, err := cbor.Marshal(r.files)
		if err != nil {
			return err
		}
		c.ready[r.path] = raw
	}
	if len(c.ready) == 0 {
		return nil
	}
	err := c.catalog.PutCachedDirs(c.series, c.ready)
	clear(c.ready)
	return err
}

// resolve finds the packs of the record's new chunks; false: some are not
// durable yet.
func (c *fileCache) resolve(r *dirRecord) (bool, error) {
	for i := range r.files {
		f := &r.files[i]
		if len(f.wants) == 0 {
			continue
		}
		packs := make([]PackNum, len(f.wants))
		if err := c.catalog.FindChunks(f.wants, packs); err != nil {
			return false, err
		}
		if slices.Contains(packs, 0) {
			return false, nil
		}
		slices.Sort(packs)
		f.Packs = slices.Compact(packs)
		c.wants -= len(f.wants)
		f.wants = nil
	}
	return true, nil
}
