package embassy

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/pkg/xattr"

	"embassy/chunk"
	"embassy/embassy/format"
)

const (
	rereads       = 2        // of a file that changes while it is read
	maxAttributes = 64 << 10 // bytes of one name's extended attributes
	maxHoles      = 4 << 10  // of one file; of more, the largest
	maxLinked     = 1 << 17  // files whose other names are waited for

	fineTick   = 20 * time.Millisecond // of the clock that files get their times from, at the most
	coarseTick = 2 * time.Second       // of that of file systems which know no parts of a second
)

// fileContent is the content of a file: remembered, or on its way.
type fileContent struct {
	at      string      // where it is opened
	fi      fs.FileInfo // of the reading; nil: as it is remembered
	then    fs.FileInfo // of the same file when it was read; nil: that is not known
	stat    cachedFile
	gaps    []error // of the reading: attributes that were not to be had
	known   bool    // the last backup has a file of that name
	same    bool
	built   bool // stat is complete
	changed error
	failed  error // why there is none
	pending *pendingFile
	twin    *fileContent  // the same file, which is read under another name; nil: it is not
	wants   []chunk.ID    // of a file that was read
	object  *bucketObject // of a bucket; nil: a file
}

// recall returns the content of a file that was stored under another name of
// its own, or is unchanged since the last backup, and reads every other one.
func (w *walk) recall(at, path string, fi fs.FileInfo, known *dirCursor) (*fileContent, error) {
	now := statOf(fi)
	k := known.find(fi.Name())
	if k != nil && k.sameStat(now) && w.cache.alive(k) {
		return &fileContent{stat: *k, same: true, built: true}, nil
	}
	st := sysStat(fi)
	if f := w.links.content(st); f != nil && f.stat.sameStat(now) {
		twin := &fileContent{at: at, fi: fi, stat: now, twin: f, known: k != nil}
		if w.dry {
			twin.failed = f.failed
		}
		return twin, nil
	}
	f, err := w.content(at, fi)
	if err == nil {
		w.links.keep(st, f)
	}
	f.known = k != nil
	return f, err
}

// content starts to read a file, which is opened as at.
func (w *walk) content(at string, fi fs.FileInfo) (*fileContent, error) {
	c := &fileContent{at: at}
	return c, w.read(c, fi)
}

// read starts to read the content of a file that was looked at as fi.
func (w *walk) read(c *fileContent, fi fs.FileInfo) error {
	c.fi, c.then, c.stat = fi, nil, statOf(fi)
	if w.dry { // which finds what cannot be opened
		f, err := openFile(c.at)
		if err != nil {
			c.failed = sourceError{err}
			return nil
		}
		return f.Close()
	}
	c.pending = &pendingFile{hint: c.stat.Size, firm: true, open: func() (io.ReadCloser, error) {
		c.stat.outlast(w.ctx)
		f, err := c.open()
		if err != nil {
			return nil, sourceError{err}
		}
		c.stat.Xattrs, c.gaps = readAttributes(openAttributes{f})
		return sourceReader{&sourceFile{f, c}, &w.seen.bytes}, nil
	}}
	return w.store.submit(w.ctx, c.pending)
}

// outlast waits until a file that was changed a moment ago gets another time when
// it is changed again: two changes within a tick look like one. The clock is
// that of the system; files of a time to come are not waited for.
func (f *cachedFile) outlast(ctx context.Context) {
	changed := cmp.Or(f.Ctime, f.Mtime)
	length := fineTick
	if changed%int64(time.Second) == 0 {
		length = coarseTick
	}
	ago := time.Since(time.Unix(0, changed))
	if ago < -length || ago > length {
		return
	}
	over := time.NewTimer(length - max(ago, 0))
	defer over.Stop()
	select {
	case <-over.C:
	case <-ctx.Done():
	}
}

// openSource opens a folder that was looked at as the file id: a link is not
// followed, and another folder is refused. The zero id is any, links included.
// found is what was opened, and what lies in it is reached as inside/name until
// it is closed.
func openSource(at string, id fileID) (d *os.File, found fileID, inside string, err error) {
	flags := os.O_RDONLY | asFolder
	if id != (fileID{}) {
		flags |= noFollow
	}
	if d, err = os.OpenFile(at, flags, 0); err != nil {
		return nil, found, "", err
	}
	fi, err := d.Stat()
	if err == nil {
		found = sysStat(fi).file
	}
	if err == nil && id != (fileID{}) && found != id {
		err = errSwapped
	}
	if err != nil {
		d.Close()
		return nil, found, "", err
	}
	return d, found, reach(d, at), nil
}

// errSwapped: a name leads to something else than a moment ago.
var errSwapped = errors.New("was replaced by something else while it was backed up")

// open opens the file that was looked at, finds its holes, and is at its start.
func (c *fileContent) open() (f *os.File, err error) {
	if f, err = openFile(c.at); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	now, err := f.Stat()
	if err != nil {
		return nil, err
	}
	was := sysStat(c.fi)
	if !now.Mode().IsRegular() || sysStat(now).file != was.file {
		return nil, errSwapped
	}
	if was.held < c.stat.Size {
		c.stat.Holes = findHoles(f, c.stat.Size)
		_, err = f.Seek(0, io.SeekStart)
	}
	return f, err
}

// finish completes the node of a file; false: the file gave no content, and
// is named as a gap.
func (w *walk) finish(path string, n *format.Node, f *fileContent, record *dirRecord) (bool, error) {
	switch {
	case f.same:
		w.cache.use(f.stat.Packs)
	case w.dry && f.failed == nil:
		f.stat.Content.Size = uint64(f.stat.Size)
		w.counts.read += f.stat.Content.Size
	case !f.built:
		err := w.build(f)
		var se sourceError
		if errors.As(err, &se) {
			w.gap(path, se.error)
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("store %s: %w", path, err)
		}
	}
	w.counts.files++
	switch {
	case f.same:
		w.counts.same++
	case f.known:
		w.counts.changed++
	default:
		w.counts.fresh++
	}
	if f.fi != nil { // which may be a later look than that of the walk
		*n = w.node(string(n.Name), f.fi)
	}
	content := f.stat.Content // another name of it may be in another list
	n.Content, n.Holes, n.Xattrs = &content, f.stat.Holes, f.stat.Xattrs
	for _, err := range f.gaps {
		w.gap(path, err)
		record = nil // it is to be told again, or had
	}
	if f.changed != nil {
		n.Changed = true
		w.gap(path, f.changed)
		record = nil
	}
	w.counts.bytes += content.Size
	if record != nil && !w.dry {
		line := f.stat
		if line.wants = f.wants; f.object == nil { // whose name is that of its key
			line.Name = cbor.ByteString(n.Name)
		}
		record.add(line, f.same)
	}
	w.seen.files.Add(1)
	if f.same || w.dry || f.twin != nil { // or it was counted as it was read
		w.seen.bytes.Add(content.Size)
	}
	return true, nil
}

// build waits for the content of a file, which is read again if it changed
// meanwhile.
func (w *walk) build(f *fileContent) (err error) {
	if f.failed != nil {
		return f.failed
	}
	if f.object != nil {
		return f.object.build(f)
	}
	defer func() { f.failed = err }() // for its other names
	if f.twin != nil {
		if done, err := w.share(f); done || err != nil {
			return err
		}
	}
	for again := 0; ; again++ {
		<-f.pending.done
		failed := f.pending.err
		if failed != nil && (!errors.Is(failed, errSwapped) || again == rereads) {
			return failed
		}
		w.counts.read += f.pending.size
		if failed == nil && f.then != nil && f.stat.sameStat(statOf(f.then)) && f.pending.size == uint64(f.stat.Size) {
			break
		}
		fi, err := os.Lstat(f.at)
		if err != nil || !fi.Mode().IsRegular() || again == rereads {
			if failed != nil {
				return failed
			}
			f.changed = errChanged
			break
		}
		if err := w.read(f, fi); err != nil {
			return err
		}
	}
	return w.assemble(f)
}

// share takes the content that the file has under its other name. When that led
// to another file in the end, or to none, the file is read under its own.
func (w *walk) share(f *fileContent) (done bool, err error) {
	t := f.twin
	if !t.built {
		if err := w.build(t); err != nil && !errors.As(err, new(sourceError)) {
			return false, err
		}
	}
	if t.built && sysStat(t.fi).file == sysStat(f.fi).file {
		f.fi, f.stat, f.gaps, f.changed, f.wants, f.built = t.fi, t.stat, t.gaps, t.changed, t.wants, true
		return true, nil
	}
	fi, err := os.Lstat(f.at)
	if err == nil && !fi.Mode().IsRegular() {
		err = errSwapped
	}
	if err != nil {
		return false, sourceError{err}
	}
	f.twin = nil
	return false, w.read(f, fi)
}

// assemble makes the content of a file of what was read of it.
func (w *walk) assemble(f *fileContent) error {
	f.wants = f.pending.ids
	c, err := format.BuildContent(f.pending.size, f.pending.ids, func(list []byte) (chunk.ID, error) {
		id, err := w.putTree(list)
		f.wants = append(f.wants, id)
		return id, err
	})
	if err != nil {
		return err
	}
	if f.pending.size != uint64(f.stat.Size) {
		f.stat.Holes = nil
	}
	f.stat.Content, f.built, f.pending = c, true, nil
	return nil
}

var errChanged = errors.New("changed while it was read: the snapshot may hold a mixture")

// sourceFile looks once more at a file that was read.
type sourceFile struct {
	*os.File
	of *fileContent
}

func (f *sourceFile) Close() error {
	if fi, err := f.Stat(); err == nil {
		f.of.then = fi
	}
	return f.File.Close()
}

// attributeSource is what has extended attributes.
type attributeSource interface {
	list() ([]string, error)
	get(name string) ([]byte, error)
}

// namedAttributes are those of a name, of a symbolic link its own.
type namedAttributes string

func (n namedAttributes) list() ([]string, error)         { return xattr.LList(string(n)) }
func (n namedAttributes) get(name string) ([]byte, error) { return xattr.LGet(string(n), name) }

// openAttributes are those of an open file.
type openAttributes struct{ *os.File }

func (o openAttributes) list() ([]string, error)         { return xattr.FList(o.File) }
func (o openAttributes) get(name string) ([]byte, error) { return xattr.FGet(o.File, name) }

// attributes reads the extended attributes of a name, and names what it cannot.
func (w *walk) attributes(at, path string) []format.Xattr {
	list, gaps := readAttributes(namedAttributes(at))
	for _, err := range gaps {
		w.gap(path, err)
	}
	return list
}

// readAttributes reads extended attributes, which ACLs and capabilities are,
// and says which could not be had.
func readAttributes(of attributeSource) (list []format.Xattr, gaps []error) {
	names, err := of.list()
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		gaps = append(gaps, fmt.Errorf("extended attributes: %w", bare(err)))
	}
	slices.Sort(names)
	sum := 0
	for _, name := range names {
		value, err := of.get(name)
		if errors.Is(err, xattr.ENOATTR) {
			continue // gone since
		}
		if err == nil && sum+len(name)+len(value) > maxAttributes {
			err = fmt.Errorf("more than %d bytes of attributes", maxAttributes)
		}
		if err != nil {
			gaps = append(gaps, fmt.Errorf("extended attribute %q: %w", name, bare(err)))
			continue
		}
		sum += len(name) + len(value)
		list = append(list, format.Xattr{Name: []byte(name), Value: value})
	}
	return list, gaps
}

// bare is the cause alone.
func bare(err error) error {
	if e := (*xattr.Error)(nil); errors.As(err, &e) {
		return e.Err
	}
	return err
}

// findHoles returns where a file of that size has no blocks: offset, length,
// offset, length, …, ascending. What it does not find is stored as zeros.
func findHoles(f *os.File, size int64) []uint64 {
	var holes []uint64
	for at := int64(0); at < size; {
		from, err := f.Seek(at, seekHole)
		if err != nil || from >= size || from < at || len(holes) > 0 && from == at {
			break
		}
		to, err := f.Seek(from, seekData)
		if err != nil || to > size { // none up to the end
			to = size
		}
		if to <= from {
			break
		}
		holes = append(holes, uint64(from), uint64(to-from))
		at = to
	}
	return largest(holes)
}

// largest returns at most maxHoles of the holes, in their order.
func largest(holes []uint64) []uint64 {
	if len(holes) <= 2*maxHoles {
		return holes
	}
	var lengths []uint64
	for i := 1; i < len(holes); i += 2 {
		lengths = append(lengths, holes[i])
	}
	slices.Sort(lengths)
	floor := lengths[len(lengths)-maxHoles]
	var out []uint64
	for i := 0; i < len(holes) && len(out) < 2*maxHoles; i += 2 {
		if holes[i+1] >= floor {
			out = append(out, holes[i], holes[i+1])
		}
	}
	return out
}

// links knows the files of a snapshot that have several names.
type links struct {
	numbers map[uint64]fileID
	read    map[fileID]*linked
}

// linked is a file that was read under one of its names.
type linked struct {
	file *fileContent
	left uint64 // names that did not come yet
}

// number returns the same number for all names of a file, and another one for
// every other file. It stays from one snapshot to the next.
func (l *links) number(id fileID) uint64 {
	if l.numbers == nil {
		l.numbers, l.read = map[uint64]fileID{}, map[fileID]*linked{}
	}
	h := fnv.New64a()
	h.Write(binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, id.dev), id.inode))
	for n := h.Sum64(); ; n++ {
		if other, taken := l.numbers[n]; n != 0 && (!taken || other == id) {
			l.numbers[n] = id
			return n
		}
	}
}

// content returns what was read of the file under another name, or nil.
func (l *links) content(st sysInfo) *fileContent {
	r := l.read[st.file]
	if st.names < 2 || r == nil {
		return nil
	}
	if r.left--; r.left == 0 {
		delete(l.read, st.file)
	}
	return r.file
}

// keep remembers a file that has other names. Beyond a bound it does not, and
// the file is read once more under each.
func (l *links) keep(st sysInfo, f *fileContent) {
	if st.names > 1 && len(l.read) < maxLinked {
		l.read[st.file] = &linked{f, st.names - 1}
	}
}

// sourceError is a fault of the source, not of storing.
type sourceError struct{ error }

func (e sourceError) Unwrap() error { return e.error }

// sourceReader counts what is read, and marks errors as faults of the source.
type sourceReader struct {
	io.ReadCloser
	read *atomic.Uint64
}

func (r sourceReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.read.Add(uint64(n))
	if err != nil && err != io.EOF {
		err = sourceError{err}
	}
	return n, err
}
