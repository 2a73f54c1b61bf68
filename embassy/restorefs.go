package embassy

import (
	"bytes"
	"errors"
	"io/fs"
	"iter"
	"os"
	"path"
	"runtime"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/text/unicode/norm"

	"embassy/chunk"
	"embassy/embassy/format"
)

// maxHandles bounds the files that stay open between two writes.
const maxHandles = 200

// restoredFile is a regular file on its way.
type restoredFile struct {
	dir  *folder
	name string
	work string // its name while it is on its way
	src  string
	size uint64
	meta meta
	// holes are where zeros need not be written.
	holes []uint64
	hard  bool         // it has other names in the snapshot
	jobs  atomic.Int64 // not done, and one until its last part is planned

	mu       sync.Mutex
	seen     bool // looked at
	left     bool // something was there, and stays as it is
	trusted  bool // it was there, by its size and time
	existing bool // a file of the right size was there, and is mended in place
	replaces bool // what is there goes when it is opened
	worn     bool // shared, and with all its attributes: nothing is set
	shared   bool // with a name that may be outside To
	touched  bool // made or written by this run
	handle   *os.File
	err      error
}

func newRestoredFile(dir *folder, n *format.Node, src string, named *owners) *restoredFile {
	name := string(n.Name)
	f := &restoredFile{dir: dir, name: name, work: name, src: src, size: n.Content.Size, meta: metaOf(n, named), holes: n.Holes, hard: n.Hard != 0}
	f.jobs.Store(1)
	return f
}

// fail notes the first reason why the file cannot be restored.
func (f *restoredFile) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
}

func (f *restoredFile) failed() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// path returns where a folder goes. os.Root takes slashes everywhere.
func (w *restorer) path(f *folder) string { return w.base + f.src }

// folding returns what names must differ in to be two in the folder, or nil if
// any two are. Without a marker in it, only its system tells.
func folding(to *os.Root, always bool) func(string) string {
	// Of names that only this takes for the same, one is reported as lost.
	fold := func(s string) string { return norm.NFC.String(strings.ToLower(strings.ToUpper(norm.NFC.String(s)))) }
	if always {
		return fold
	}
	if to == nil {
		return nil
	}
	one, err := to.Lstat(markerName)
	if err != nil {
		return nil
	}
	other, err := to.Lstat(strings.ToUpper(markerName))
	switch {
	case err == nil && os.SameFile(one, other):
		return fold
	case runtime.GOOS == "darwin":
		return norm.NFC.String
	}
	return nil
}

// hand is what one goroutine writes with: it keeps the folder of its last file
// open. Not for concurrent use.
type hand struct {
	w      *restorer
	opener *opener
	dir    *folder
	root   *os.Root
}

func (w *restorer) newHand() *hand { return &hand{w: w, opener: w.takeOpener()} }

func (h *hand) close() {
	if h.root != nil {
		h.root.Close()
	}
	h.w.giveOpener(h.opener)
}

// in returns the open folder.
func (h *hand) in(dir *folder) (*os.Root, error) {
	if h.dir == dir {
		return h.root, nil
	}
	root, err := h.w.to.OpenRoot(h.w.path(dir))
	if err != nil {
		return nil, err
	}
	if h.root != nil {
		h.root.Close()
	}
	h.dir, h.root = dir, root
	return root, nil
}

// write puts data into the file at its final place. What goes wrong fails the
// file; only what would fail every other too is returned.
func (h *hand) write(f *restoredFile, data []byte, at uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return nil
	}
	err := h.open(f)
	if err == nil {
		for from, piece := range f.solid(data, at) {
			if _, err = f.handle.WriteAt(piece, int64(from)); err != nil {
				break
			}
		}
	}
	if err == nil && f.jobs.Load() > 1 {
		h.w.mu.Lock()
		many := h.w.handles > maxHandles
		h.w.mu.Unlock()
		if many {
			err = h.shut(f)
		}
	}
	f.err = err
	h.w.wrote.Add(uint64(len(data)))
	h.w.meter.add(func(p *Progress) { p.Bytes += uint64(len(data)) })
	return fatalWrite(err)
}

// open opens the file for writing; it is made in its full size. f.mu is held.
func (h *hand) open(f *restoredFile) error {
	if f.handle != nil {
		return nil
	}
	dir, err := h.in(f.dir)
	if err != nil {
		return err
	}
	flags := os.O_WRONLY
	if f.existing && len(f.holes) > 0 {
		flags = os.O_RDWR // a hole that is there stays one
	}
	fresh := !f.existing && !f.touched
	if fresh {
		if err := h.w.clear(f); err != nil {
			return err
		}
		flags |= os.O_CREATE | os.O_EXCL
	}
	file, err := dir.OpenFile(f.work, flags, 0o600)
	if err != nil {
		return err
	}
	f.handle, f.touched = file, true
	h.w.mu.Lock()
	h.w.handles++
	h.w.mu.Unlock()
	if fresh && (f.size > chunk.MinSize || len(f.holes) > 0) {
		return file.Truncate(int64(f.size))
	}
	return nil
}

// shut closes the file. f.mu is held.
func (h *hand) shut(f *restoredFile) error {
	if f.handle == nil {
		return nil
	}
	err := errors.Join(syncFile(f.handle), f.handle.Close())
	f.handle = nil
	h.w.mu.Lock()
	h.w.handles--
	h.w.mu.Unlock()
	return err
}

// done counts a job of the file, or its last planning. After the last one the
// file gets its attributes, or goes if it is not right. It returns what would
// fail every other file too.
func (h *hand) done(f *restoredFile) error {
	if f.jobs.Add(-1) > 0 {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left && f.err == nil {
		h.w.leaveAsIs()
		return nil
	}
	if f.err == nil && f.size == 0 && !f.existing && !f.trusted {
		f.err = h.open(f)
	}
	if f.err == nil && !f.worn {
		var dir *os.Root
		if dir, f.err = h.in(f.dir); f.err == nil {
			h.w.dress(dir, f.work, f.src, f.meta, format.File, f.handle)
		}
	}
	if err := h.shut(f); f.err == nil {
		f.err = err
	}
	w := h.w
	if f.err == nil {
		// Closing may move the time on some systems, so it is set at last.
		dir, err := h.in(f.dir)
		if err == nil && !f.worn {
			err = dir.Chtimes(f.work, time.Time{}, f.meta.time())
		}
		w.note("time", f.src, err)
		w.mu.Lock()
		w.finished = append(w.finished, f)
		w.mu.Unlock()
		w.meter.add(func(p *Progress) { p.Files++ })
		return nil
	}
	w.drop(f)
	return fatalWrite(f.err)
}

// drop reports a file that is not right, and removes what was written of it.
// f.mu is held.
func (w *restorer) drop(f *restoredFile) {
	reason := f.err.Error()
	if f.touched {
		if err := w.to.Remove(path.Join(w.path(f.dir), f.work)); err != nil {
			reason += "; an unfinished file was left: " + err.Error()
		}
	}
	w.missing(f.src, reason)
	if f.hard {
		w.mu.Lock()
		w.lost[f.src] = true
		w.mu.Unlock()
	}
}

// finish gives the files of a window their names, and counts them. Those that
// keep what is there come under another name until they are durable, so that
// none is kept that was written in part.
func (w *restorer) finish(durable bool) {
	for _, f := range w.finished {
		f.mu.Lock()
		if f.work != f.name && f.err == nil && durable {
			f.err = w.settle(f)
		}
		switch {
		case f.err != nil:
			w.drop(f)
		case f.work == f.name || durable:
			w.count(f)
		}
		f.mu.Unlock()
	}
	w.finished = nil
}

// settle gives a file its name, unless something came there meanwhile.
func (w *restorer) settle(f *restoredFile) error {
	name := path.Join(w.path(f.dir), f.name)
	if _, err := w.to.Lstat(name); err == nil {
		return errors.New("something has come there since the restore began")
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return w.to.Rename(path.Join(w.path(f.dir), f.work), name)
}

// count counts a file that is right, or will be. f.mu is held.
func (w *restorer) count(f *restoredFile) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.d.Files++
	w.d.Bytes += f.size
	switch {
	case f.touched:
		w.d.Written.add(f.src)
	case f.trusted:
		w.d.Trusted++
		fallthrough
	default:
		w.d.Skipped++
	}
}

// leaveAsIs counts a name that stays as it is.
func (w *restorer) leaveAsIs() {
	w.mu.Lock()
	w.d.Left++
	w.mu.Unlock()
}

// solid gives the pieces of data, which belongs at an offset, that must be
// written, and their offsets: all but the zeros of holes, which a new file has
// by itself, and another one if it reads as zeros there. The file is open.
func (f *restoredFile) solid(data []byte, at uint64) iter.Seq2[uint64, []byte] {
	return func(yield func(uint64, []byte) bool) {
		holes, from, end := f.holes, at, at+uint64(len(data))
		first := sort.Search(len(holes)/2, func(i int) bool { return holes[2*i]+holes[2*i+1] > at })
		for i := 2 * first; i < len(holes) && holes[i] < end; i += 2 {
			a, b := max(holes[i], at), min(holes[i]+holes[i+1], end)
			if len(bytes.TrimLeft(data[a-at:b-at], "\x00")) > 0 {
				continue // no hole, whatever the node says
			}
			if f.existing && !zeros(f.handle, a, b) {
				continue
			}
			if a > from && !yield(from, data[from-at:a-at]) {
				return
			}
			from = b
		}
		if from < end {
			yield(from, data[from-at:])
		}
	}
}

// zeros reports whether a file surely reads as zeros from a to b.
func zeros(file *os.File, a, b uint64) bool {
	buf := make([]byte, min(b-a, 1<<20))
	for ; a < b; a += uint64(len(buf)) {
		buf = buf[:min(b-a, uint64(len(buf)))]
		if _, err := file.ReadAt(buf, int64(a)); err != nil || len(bytes.TrimLeft(buf, "\x00")) > 0 {
			return false
		}
	}
	return true
}
