package embassy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"runtime"
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

// unset counts what may not be set on restored names, by kind.
type unset struct {
	count int
	path  string // the first
	err   error
}

// restoredFile is a regular file on its way.
type restoredFile struct {
	dir  *folder
	name string
	src  string
	size uint64
	meta meta
	left atomic.Int64 // jobs not done, and one until its last part is planned

	mu       sync.Mutex
	seen     bool // examined
	existing bool // a file of the right size was there, and is mended in place
	touched  bool // made or written by this run
	handle   *os.File
	err      error
}

func newRestoredFile(dir *folder, n *format.Node, src string) *restoredFile {
	f := &restoredFile{dir: dir, name: string(n.Name), src: src, size: n.Content.Size, meta: metaOf(n)}
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

// finishDir sets what belongs to a folder; its files are all there.
func (w *restorer) finishDir(f *folder) {
	if f.err != nil {
		return
	}
	if f.parent != nil {
		name := w.path(f)
		m := fileMode(f.meta.mode, true)
		if w.o.Owners {
			w.note("owner", f.src, w.to.Lchown(name, int(f.meta.uid), int(f.meta.gid)))
		}
		w.note("mode", f.src, w.to.Chmod(name, m))
		w.note("time", f.src, w.to.Chtimes(name, time.Time{}, f.meta.time()))
	}
	if err := syncFolder(w.to, w.path(f)); err != nil {
		w.missing(cmp.Or(f.src, "/"), "may not be durable: "+err.Error())
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if f.parent != nil {
		w.d.Dirs++
	}
}

func (m meta) time() time.Time { return time.Unix(m.sec, int64(m.nsec)) }

// fileMode translates the mode of a node. Setgid on a folder lends no one's
// rights to anybody, so it stays; on files setuid and setgid are kept on
// request.
func fileMode(mode uint32, setid bool) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	if mode&0o1000 != 0 {
		m |= fs.ModeSticky
	}
	if setid && mode&0o4000 != 0 {
		m |= fs.ModeSetuid
	}
	if setid && mode&0o2000 != 0 {
		m |= fs.ModeSetgid
	}
	return m
}

// note counts what could not be set.
func (w *restorer) note(kind, src string, err error) {
	if err == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	u := w.unset[kind]
	if u == nil {
		u = &unset{path: src, err: err}
		w.unset[kind] = u
	}
	u.count++
}

// tellUnset reports what could not be set, once per kind.
func (w *restorer) tellUnset() {
	for _, kind := range []string{"owner", "mode", "time"} {
		if u := w.unset[kind]; u != nil {
			w.r.view.warn(Finding{Object: "dataset " + w.d.Dataset,
				Err: fmt.Errorf("the %s of %d names could not be set, first of %s: %w", kind, u.count, u.path, u.err)})
		}
	}
}

// examine looks at what is there under the name of a part's file and returns
// the jobs that are still to be done: none of a chunk that is there and right.
// What cannot become the file is removed, unless it is a folder; so is what has
// another hard link, for that may be outside To.
func (w *restorer) examine(ctx context.Context, p filePart, jobs []job, o *opener) []job {
	f := p.file
	f.mu.Lock()
	defer f.mu.Unlock()
	name := path.Join(w.path(f.dir), f.name)
	if f.err != nil || f.dir.err != nil {
		return nil
	}
	if !f.seen {
		f.seen = true
		info, err := w.to.Lstat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			f.err = err
		case info.IsDir():
			f.err = errors.New("a folder of that name is in the way")
		case info.Mode().IsRegular() && uint64(info.Size()) == f.size && oneName(w.to, name, info):
			f.existing = true
			f.err = w.to.Chmod(name, 0o600)
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
	if err == nil {
		_, err = f.handle.WriteAt(data, int64(at))
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
	if fresh && f.size > chunk.MinSize {
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
		f.err = h.finish(f)
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

// finish sets owner and mode. f.mu is held.
func (h *hand) finish(f *restoredFile) error {
	dir, err := h.in(f.dir)
	if err != nil {
		return err
	}
	if h.w.o.Owners {
		h.w.note("owner", f.src, dir.Lchown(f.name, int(f.meta.uid), int(f.meta.gid)))
	}
	mode := fileMode(f.meta.mode, h.w.o.Setuid)
	if f.handle != nil {
		err = f.handle.Chmod(mode)
	} else {
		err = dir.Chmod(f.name, mode)
	}
	h.w.note("mode", f.src, err)
	return nil
}

// symlink makes a symbolic link, as the last of its window. It returns what
// would fail every other name too.
func (h *hand) symlink(l link) error {
	src := l.dir.src + "/" + l.name
	err := l.dir.err
	var dir *os.Root
	if err == nil {
		dir, err = h.in(l.dir)
	}
	if err == nil {
		err = h.w.vacate(dir, l.name)
	}
	if err == nil {
		err = dir.Symlink(l.target, l.name)
	}
	if err != nil {
		h.w.missing(src, err.Error())
		return fatalWrite(err)
	}
	if h.w.o.Owners {
		h.w.note("owner", src, dir.Lchown(l.name, int(l.meta.uid), int(l.meta.gid)))
	}
	h.w.note("time", src, setLinkTime(dir, l.name, l.meta.time()))
	return nil
}

// vacate removes what is in the way of a link, unless it is a folder.
func (w *restorer) vacate(dir *os.Root, name string) error {
	if w.fresh {
		return nil
	}
	info, err := dir.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && info.IsDir() {
		return errors.New("a folder of that name is in the way")
	}
	if err == nil {
		err = dir.Remove(name)
	}
	return err
}
