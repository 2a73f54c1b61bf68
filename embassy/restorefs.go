package embassy

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
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
	src  string
	size uint64
	meta meta
	// holes are where zeros need not be written.
	holes []uint64
	hard  bool         // it has other names in the snapshot
	left  atomic.Int64 // jobs not done, and one until its last part is planned

	mu       sync.Mutex
	seen     bool // examined
	existing bool // a file of the right size was there, and is mended in place
	touched  bool // made or written by this run
	handle   *os.File
	err      error
}

func newRestoredFile(dir *folder, n *format.Node, src string) *restoredFile {
	f := &restoredFile{dir: dir, name: string(n.Name), src: src, size: n.Content.Size, meta: metaOf(n), holes: n.Holes, hard: n.Hard != 0}
	f.left.Store(1)
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

// mkdir makes a folder, or takes the one that is there. Anything else of that
// name, a symbolic link included, is replaced and never followed.
func (w *restorer) mkdir(f *folder) {
	if f.parent != nil && f.parent.err != nil {
		f.err = f.parent.err
		return
	}
	name := w.path(f)
	err := w.to.Mkdir(name, 0o700)
	if errors.Is(err, fs.ErrExist) {
		var info fs.FileInfo
		if info, err = w.to.Lstat(name); err == nil {
			switch {
			case info.IsDir():
				if info.Mode().Perm()&0o700 != 0o700 {
					err = w.to.Chmod(name, info.Mode().Perm()|0o700)
				}
			case w.fresh:
				err = fmt.Errorf("%s: %w under a name that this system takes for the same", f.src, fs.ErrExist)
			default:
				if err = w.to.Remove(name); err == nil {
					err = w.to.Mkdir(name, 0o700)
				}
			}
		}
	}
	if f.err = err; err != nil {
		w.missing(cmp.Or(f.src, "/"), err.Error())
	}
}

// examine looks at what is there under the name of a part's file and returns
// the jobs that are still to be done: none of a chunk that is there and right.
// What cannot become the file is removed, unless it is a folder; so is what has
// another hard link, for that may be outside To, unless it is all there.
func (w *restorer) examine(ctx context.Context, p filePart, jobs []job, o *opener) []job {
	f := p.file
	f.mu.Lock()
	defer f.mu.Unlock()
	name := path.Join(w.path(f.dir), f.name)
	if f.err != nil || f.dir.err != nil {
		return nil
	}
	shared := false // with a name that may be outside To
	if !f.seen {
		f.seen = true
		info, err := w.to.Lstat(name)
		fits := err == nil && info.Mode().IsRegular() && uint64(info.Size()) == f.size
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			f.err = err
		case info.IsDir():
			f.err = errors.New("a folder of that name is in the way")
		case fits && oneName(w.to, name, info):
			f.existing = true
			f.err = w.to.Chmod(name, 0o600)
		case fits && f.hard && p.last: // it is whole in this part
			f.existing, shared = true, true
		default:
			f.err = w.to.Remove(name)
		}
	}
	if !f.existing || f.err != nil {
		return jobs
	}
	in, err := w.to.Open(name)
	if err != nil {
		f.err = err
		return nil
	}
	wrong := w.wrong(ctx, in, jobs, o)
	if err := in.Close(); err != nil {
		f.err = err
	}
	if shared && len(wrong) > 0 && f.err == nil {
		f.existing = false
		if f.err = w.to.Remove(name); ctx.Err() == nil {
			return jobs
		}
	}
	return wrong
}

// wrong returns the jobs whose chunk is not in the file where it belongs.
func (w *restorer) wrong(ctx context.Context, in *os.File, jobs []job, o *opener) []job {
	var wrong []job
	buf := make([]byte, chunk.MaxSize)
	for _, j := range jobs {
		pl := w.r.table.places[j.place]
		data := buf[:pl.raw]
		h, err := o.hasher(w.r.table.segments[pl.segment].epoch)
		if err == nil && ctx.Err() == nil {
			_, err = in.ReadAt(data, int64(j.at))
		}
		if err != nil || ctx.Err() != nil || h.ID(data) != j.id {
			wrong = append(wrong, j)
			continue
		}
		w.meter.add(func(p *Progress) { p.Bytes += uint64(pl.raw) })
	}
	return wrong
}

// folding returns what names must differ in to be two in the folder, which
// holds the marker, or nil if any two are.
func folding(to *os.Root, always bool) func(string) string {
	// Of names that only this takes for the same, one is reported as lost.
	fold := func(s string) string { return norm.NFC.String(strings.ToLower(strings.ToUpper(norm.NFC.String(s)))) }
	if always {
		return fold
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
	for from, piece := range f.solid(data, at) {
		if err == nil {
			_, err = f.handle.WriteAt(piece, int64(from))
		}
	}
	if err == nil && f.left.Load() > 1 {
		h.w.mu.Lock()
		many := h.w.handles > maxHandles
		h.w.mu.Unlock()
		if many {
			err = h.shut(f)
		}
	}
	f.err = err
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
	fresh := !f.existing && !f.touched
	if fresh {
		flags |= os.O_CREATE | os.O_EXCL
	}
	file, err := dir.OpenFile(f.name, flags, 0o600)
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
	err := f.handle.Close()
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
	if f.left.Add(-1) > 0 {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil && f.size == 0 && !f.existing {
		f.err = h.open(f)
	}
	if f.err == nil {
		var dir *os.Root
		if dir, f.err = h.in(f.dir); f.err == nil {
			h.w.dress(dir, f.name, f.src, f.meta, format.File, f.handle)
		}
	}
	if f.err == nil && f.handle != nil {
		f.err = syncFile(f.handle)
	}
	if err := h.shut(f); f.err == nil {
		f.err = err
	}
	w := h.w
	if f.err == nil {
		// Closing may move the time on some systems, so it is set at last.
		dir, err := h.in(f.dir)
		if err == nil {
			err = dir.Chtimes(f.name, time.Time{}, f.meta.time())
		}
		w.note("time", f.src, err)
		w.mu.Lock()
		w.d.Files++
		w.d.Bytes += f.size
		if !f.touched {
			w.d.Skipped++
		}
		w.mu.Unlock()
		w.meter.add(func(p *Progress) { p.Files++ })
		return nil
	}
	reason := f.err.Error()
	if f.touched {
		if dir, err := h.in(f.dir); err != nil {
			reason += "; an unfinished file was left: " + err.Error()
		} else if err := dir.Remove(f.name); err != nil {
			reason += "; an unfinished file was left: " + err.Error()
		}
	}
	w.missing(f.src, reason)
	return fatalWrite(f.err)
}

// solid gives the pieces of data, which belongs at an offset, that must be
// written, and their offsets: all but the zeros of holes, in a file that this
// run made.
func (f *restoredFile) solid(data []byte, at uint64) iter.Seq2[uint64, []byte] {
	return func(yield func(uint64, []byte) bool) {
		holes, from, end := f.holes, at, at+uint64(len(data))
		if f.existing {
			holes = nil
		}
		first := sort.Search(len(holes)/2, func(i int) bool { return holes[2*i]+holes[2*i+1] > at })
		for i := 2 * first; i < len(holes) && holes[i] < end; i += 2 {
			a, b := max(holes[i], at), min(holes[i]+holes[i+1], end)
			if len(bytes.TrimLeft(data[a-at:b-at], "\x00")) > 0 {
				continue // no hole, whatever the node says
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
