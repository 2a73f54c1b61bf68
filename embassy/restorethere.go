package embassy

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// workPrefix begins the names of files on their way, where what is there stays.
const workPrefix = ".embassy-part-"

// workName is the name of a file on its way: the same for the same name.
func workName(name string) string {
	sum := sha256.Sum256([]byte(name))
	return workPrefix + hex.EncodeToString(sum[:16])
}

func isWorkName(name string) bool { return strings.HasPrefix(strings.ToLower(name), workPrefix) }

// mkdir makes a folder, or takes the one that is there. Anything else of that
// name, a symbolic link included, is replaced and never followed.
func (w *restorer) mkdir(f *folder) {
	if f.parent != nil && f.parent.err != nil {
		f.err = f.parent.err
		return
	}
	var err error
	if w.o.DryRun {
		err = w.foresee(f)
	} else {
		err = w.enter(f)
	}
	if f.err = err; err != nil {
		w.missing(cmp.Or(f.src, "/"), err.Error())
	}
}

func (w *restorer) enter(f *folder) error {
	name := w.path(f)
	err := w.to.Mkdir(name, 0o700)
	if f.made = err == nil; !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := w.to.Lstat(name)
	switch {
	case err != nil:
		return err
	case info.IsDir() && info.Mode().Perm()&0o700 != 0o700:
		return w.to.Chmod(name, info.Mode().Perm()|0o700)
	case info.IsDir():
		return nil
	case w.fresh:
		return fmt.Errorf("%s: %w under a name that this system takes for the same", f.src, fs.ErrExist)
	case w.o.Overwrite == OverwriteNever:
		return errKept
	}
	if err := w.to.Remove(name); err != nil {
		return err
	}
	f.made = true
	return w.to.Mkdir(name, 0o700)
}

// errKept: what is no folder stands where one belongs, and stays.
var errKept = errors.New("what is there is no folder, and stays as it is with --overwrite never")

// foresee says what enter would do.
func (w *restorer) foresee(f *folder) error {
	if w.to == nil || f.parent != nil && f.parent.made {
		f.made = true
		return nil
	}
	info, err := w.to.Lstat(w.path(f))
	if err != nil {
		f.made = errors.Is(err, fs.ErrNotExist)
		if f.made {
			err = nil
		}
		return err
	}
	if f.made = !info.IsDir(); f.made && w.o.Overwrite == OverwriteNever {
		return errKept
	}
	return nil
}

// untouched reports whether a file has the size and the time that it should.
func (w *restorer) untouched(info fs.FileInfo, size uint64, m meta) bool {
	return info.Mode().IsRegular() && uint64(info.Size()) == size && info.ModTime().Equal(m.time())
}

// look decides what becomes of what is there under the name of a file. What has another hard link may be
// outside To: neither its bytes nor its attributes are changed, and it stays
// only as one of several names of a file. f.mu is held.
func (w *restorer) look(f *restoredFile) error {
	f.seen = true
	if w.fresh || f.dir.made {
		return nil
	}
	name := path.Join(w.path(f.dir), f.name)
	info, err := w.to.Lstat(name)
	if err == nil && w.o.Overwrite == OverwriteNever {
		f.left = true
		return nil
	}
	if f.work != f.name && errors.Is(err, fs.ErrNotExist) {
		name = path.Join(w.path(f.dir), f.work)
		info, err = w.to.Lstat(name)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	alone := oneName(w.to, name, info)
	own := alone || w.dressed(f.dir, path.Base(name), info, f.meta) // nothing of it need be set
	switch {
	case !info.Mode().IsRegular() || uint64(info.Size()) != f.size || !alone && !f.hard:
	case w.o.Overwrite == OverwriteIfChanged && !w.torn && own && w.untouched(info, f.size, f.meta):
		f.trusted, f.worn = true, !alone
		return nil
	default:
		f.existing, f.shared, f.worn = true, !alone, !alone && own
		if f.shared || w.o.DryRun {
			return nil
		}
		return w.to.Chmod(name, 0o600)
	}
	if info.IsDir() && !w.o.Delete {
		return errInTheWay
	}
	f.replaces = true // when its first bytes are at hand
	return nil
}

// clear removes what is in the way of a file that is about to be written, or
// says in a dry run what would go. f.mu is held.
func (w *restorer) clear(f *restoredFile) error {
	if !f.replaces {
		return nil
	}
	f.replaces = false
	name := path.Join(w.path(f.dir), f.work)
	info, err := w.to.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.IsDir() && !w.erase(f.src, f.dir.inside):
		return errInTheWay
	case info.IsDir() || w.o.DryRun:
		return nil
	}
	return w.to.Remove(name)
}

// examine looks at what is there under the name of a part's file and returns
// the jobs that are still to be done: none of a chunk that is there and right.
func (w *restorer) examine(ctx context.Context, p filePart, jobs []job, o *opener) []job {
	f := p.file
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil || f.dir.err != nil {
		return nil
	}
	if !f.seen {
		f.err = w.look(f)
	}
	if f.err != nil || f.left {
		return nil
	}
	if f.trusted {
		w.passOver(jobs)
		return nil
	}
	if !f.existing {
		return jobs
	}
	name := path.Join(w.path(f.dir), f.work)
	in, err := w.to.Open(name)
	if err != nil {
		f.err = err
		return nil
	}
	wrong := w.wrong(ctx, in, jobs, o, w.meter)
	if f.shared && (len(wrong) > 0 || !f.worn) && !w.o.DryRun && ctx.Err() == nil {
		f.err = w.detach(f, in, name)
	}
	if err := in.Close(); err != nil && f.err == nil {
		f.err = err
	}
	return wrong
}

// passOver counts what is there as done.
func (w *restorer) passOver(jobs []job) {
	var n uint64
	for _, j := range jobs {
		n += uint64(w.r.table.places[j.place].raw)
	}
	w.meter.add(func(p *Progress) { p.Bytes += n })
}

// detach gives a file that has other names bytes of its own: a copy of what is
// there, which is then mended, so that nothing is fetched twice. f.mu is held.
func (w *restorer) detach(f *restoredFile, in *os.File, name string) error {
	if err := w.to.Remove(name); err != nil {
		return err
	}
	out, err := w.to.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	f.shared, f.worn, f.touched = false, false, true
	return errors.Join(copyHoles(in, out, f.size), out.Close())
}

// copyHoles copies a file of that size, but for its holes.
func copyHoles(in, out *os.File, size uint64) error {
	err := out.Truncate(int64(size))
	var at uint64
	copyTo := func(end uint64) {
		if err == nil && at < end {
			_, err = io.Copy(io.NewOffsetWriter(out, int64(at)), io.NewSectionReader(in, int64(at), int64(end-at)))
		}
	}
	holes := findHoles(in, int64(size))
	for i := 0; i < len(holes); i += 2 {
		copyTo(holes[i])
		at = holes[i] + holes[i+1]
	}
	copyTo(size)
	return err
}

// wrong returns the jobs whose chunk is not in the file where it belongs. Bytes
// of the others are counted.
func (w *restorer) wrong(ctx context.Context, in *os.File, jobs []job, o *opener, m *meter) []job {
	var wrong []job
	var buf []byte
	for _, j := range jobs {
		pl := w.r.table.places[j.place]
		if len(buf) < int(pl.raw) {
			buf = make([]byte, pl.raw)
		}
		data := buf[:pl.raw]
		h, err := o.hasher(w.r.table.segments[pl.segment].epoch)
		if err == nil && ctx.Err() == nil {
			_, err = in.ReadAt(data, int64(j.at))
		}
		if err != nil || ctx.Err() != nil || h.ID(data) != j.id {
			wrong = append(wrong, j)
			continue
		}
		m.add(func(p *Progress) { p.Bytes += uint64(pl.raw) })
	}
	return wrong
}
