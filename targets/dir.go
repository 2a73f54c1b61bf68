package targets

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	tempFolder = ".tmp"         // no valid name contains a dot
	tempAge    = 24 * time.Hour // older temporary files belong to no living Put
	writeStep  = 1 << 20        // bytes written between two looks at the context
)

// Dir is a target in a directory: a disk, or a removable medium. An object is
// the file of its name. Put writes a file below .tmp, syncs it, renames it and
// syncs every folder whose entries changed, so a crash leaves whole objects
// and, at most, files below .tmp. Files have mode 0600 and folders 0700.
// Nothing outside the directory is ever reached. Once the directory is no longer
// at its path, every method fails with ErrNoStore.
//
// On Windows, and on file systems that cannot sync a folder, a power cut may
// undo the newest renames.
type Dir struct {
	path string // absolute
	root *os.Root
	// entered holds the folders whose entry in their parent is known to be
	// durable. A folder that merely exists may still be lost with a power
	// cut, together with all in it.
	entered sync.Map // of string
}

// OpenDir opens the directory and removes temporary files older than a day.
// It never makes the directory, because a path whose disk is not mounted must
// not be filled silently: that is ErrNoStore.
func OpenDir(path string) (*Dir, error) {
	d, err := openDir(path)
	if err != nil {
		return nil, failed("open", (&Dir{path: path}).explain(err))
	}
	d.removeStale()
	return d, nil
}

// CreateDir makes the directory, with mode 0700, unless it exists, and opens
// it. Its parent must exist: if it does not, a disk may not be mounted, and
// the error is ErrNoStore.
func CreateDir(path string) (*Dir, error) {
	err := os.Mkdir(path, 0o700)
	switch {
	case errors.Is(err, fs.ErrExist):
	case errors.Is(err, fs.ErrNotExist):
		return nil, faulty(ErrNoStore, "cannot make %s: the folder that it lies in does not exist; is the disk mounted?", path)
	case err != nil:
		return nil, fmt.Errorf("create directory: %w", dirError(err))
	default:
		parent, err := os.Open(filepath.Dir(path))
		if err != nil {
			return nil, fmt.Errorf("create directory %s: %w", path, err)
		}
		if err := errors.Join(syncFolder(parent), parent.Close()); err != nil {
			return nil, fmt.Errorf("create directory %s: %w", path, err)
		}
	}
	return OpenDir(path)
}

func openDir(path string) (*Dir, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(abs)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, faulty(ErrNoStore, "there is no directory %s", abs)
	}
	if err != nil {
		return nil, dirError(err)
	}
	return &Dir{path: abs, root: root}, nil
}

// Close releases the directory, so that its disk can be unmounted. Open
// readers stay valid.
func (d *Dir) Close() error { return d.root.Close() }

// Put implements Target. It does not check SHA256. A full disk is
// syscall.ENOSPC.
func (d *Dir) Put(ctx context.Context, o Object) error {
	err := firstErr(CheckName(o.Name), d.begin(ctx))
	if err == nil {
		err = d.put(ctx, o, d.root.Rename)
	}
	if err != nil {
		return failed("put", d.explain(err))
	}
	return nil
}

// PutNew implements Inspected. On a file system without hard links, of two that
// race to create an object both may be told that they did.
func (d *Dir) PutNew(ctx context.Context, o Object) (created bool, err error) {
	err = firstErr(CheckName(o.Name), d.begin(ctx))
	if err == nil {
		err = d.put(ctx, o, d.link)
	}
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	if err != nil {
		return false, failed("put new", d.explain(err))
	}
	return true, nil
}

// link gives a file below .tmp its name, unless there is one of that name.
func (d *Dir) link(temp, name string) error {
	err := d.root.Link(temp, name)
	if err == nil {
		return d.root.Remove(temp)
	}
	if errors.Is(err, fs.ErrExist) {
		return err
	}
	if _, err := d.root.Lstat(name); err == nil {
		return fs.ErrExist
	}
	return d.root.Rename(temp, name)
}

// Features implements Inspected. A directory has no features but a clock, which
// is that of its file system, if it can be written to.
func (d *Dir) Features(ctx context.Context) (Features, error) {
	if err := d.begin(ctx); err != nil {
		return Features{}, failed("inspect", d.explain(err))
	}
	clock, err := d.clock()
	if err != nil {
		return Features{}, nil
	}
	return Features{Clock: clock.Truncate(time.Second)}, nil
}

func (d *Dir) clock() (time.Time, error) {
	if err := d.enter(tempFolder); err != nil {
		return time.Time{}, err
	}
	temp := tempFolder + "/" + rand.Text()
	f, err := d.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return time.Time{}, err
	}
	fi, err := f.Stat()
	if err := errors.Join(err, f.Close(), d.root.Remove(temp)); err != nil {
		return time.Time{}, err
	}
	return fi.ModTime(), nil
}

// Get implements Target.
func (d *Dir) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	err := firstErr(checkRange(name, offset, length), d.begin(ctx))
	if err == nil {
		_, err = d.lstat(name)
	}
	var f *os.File
	if err == nil {
		f, err = d.root.Open(name)
		err = missing(err)
	}
	if err != nil {
		return nil, failed("get", d.explain(err))
	}
	part := struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(sectors{f}, offset, length), f}
	return &exactReader{ctx: ctx, body: part, left: length}, nil
}

// sectors is a file whose disk may fail over a part of it.
type sectors struct{ f *os.File }

func (s sectors) ReadAt(p []byte, off int64) (int, error) {
	n, err := s.f.ReadAt(p, off)
	if errors.Is(err, syscall.EIO) {
		err = fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	return n, err
}

// Stat implements Target.
func (d *Dir) Stat(ctx context.Context, name string) (Info, error) {
	err := firstErr(CheckName(name), d.begin(ctx))
	var fi fs.FileInfo
	if err == nil {
		fi, err = d.lstat(name)
	}
	if err != nil {
		return Info{}, failed("stat", d.explain(err))
	}
	return Info{Name: name, Size: fi.Size(), Modified: fi.ModTime()}, nil
}

// List implements Target. Files that are no objects, such as lost+found, are
// skipped.
func (d *Dir) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return d.ListAfter(ctx, prefix, "")
}

// ListAfter implements Sought.
func (d *Dir) ListAfter(ctx context.Context, prefix, after string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		w := dirWalk{dir: d, prefix: prefix, after: after, yield: yield}
		err := firstErr(checkPrefix(prefix), d.begin(ctx))
		if err == nil {
			err = w.folder(ctx, "")
		}
		if err == nil { // a disk that went away meanwhile looks empty
			err = d.begin(ctx)
		}
		if err != nil && err != errListStopped {
			yield(Info{}, failed("list", d.explain(err)))
		}
	}
}

// Delete implements Target. Folders that become empty stay.
func (d *Dir) Delete(ctx context.Context, name string) error {
	err := firstErr(CheckName(name), d.begin(ctx))
	if err == nil {
		_, err = d.lstat(name)
	}
	if err == nil {
		err = missing(d.root.Remove(name))
	}
	if err == nil {
		err = d.syncFolder(path.Dir(name))
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return failed("delete", d.explain(err))
	}
	return nil
}

// begin fails when ctx is done or when the directory that was opened is no
// longer the one at its path.
func (d *Dir) begin(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	there, err := os.Stat(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		return faulty(ErrNoStore, "there is no directory %s", d.path)
	}
	if err != nil {
		return dirError(err)
	}
	held, err := d.root.Stat(".")
	if err != nil {
		return dirError(err)
	}
	if !os.SameFile(there, held) {
		return faulty(ErrNoStore, "%s is another directory than the one that was opened", d.path)
	}
	return nil
}

// put writes a file below .tmp and lets name give it its name.
func (d *Dir) put(ctx context.Context, o Object, name func(temp, name string) error) error {
	folder := path.Dir(o.Name)
	err := firstErr(d.enter(folder), d.enter(tempFolder))
	if err == nil {
		temp := tempFolder + "/" + rand.Text()
		err = d.writeTemp(ctx, temp, o)
		if err == nil {
			err = name(temp, o.Name)
		}
		if err != nil {
			if gone := d.root.Remove(temp); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
				err = errors.Join(err, gone)
			}
		}
	}
	if err == nil {
		err = d.syncFolder(folder)
	}
	if errors.Is(err, fs.ErrNotExist) {
		d.entered.Clear() // somebody removed folders under our hands; make them again next time
	}
	return dirError(err)
}

// writeTemp writes and syncs a new file.
func (d *Dir) writeTemp(ctx context.Context, name string, o Object) error {
	f, err := d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	for step := range slices.Chunk(o.Data, o.pace.piece(writeStep)) {
		if err = firstErr(ctx.Err(), o.pace.wait(ctx, len(step))); err != nil {
			break
		}
		if _, err = f.Write(step); err != nil {
			break
		}
	}
	if err == nil {
		err = f.Sync()
	}
	return firstErr(err, f.Close(), ctx.Err())
}

// enter makes the folder and those above it, and returns when their entries
// are durable.
func (d *Dir) enter(folder string) error {
	if folder == "." {
		return nil
	}
	if _, ok := d.entered.Load(folder); ok {
		return nil
	}
	parent := path.Dir(folder)
	if err := d.enter(parent); err != nil {
		return err
	}
	if err := d.root.Mkdir(folder, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := d.syncFolder(parent); err != nil {
		return err
	}
	d.entered.Store(folder, nil)
	return nil
}

func (d *Dir) syncFolder(folder string) error {
	f, err := d.root.Open(folder)
	if err != nil {
		return err
	}
	return errors.Join(syncFolder(f), f.Close())
}

// lstat returns what is known of an object. Everything that is no regular
// file is no object: opening a pipe would block, and a symlink lies.
func (d *Dir) lstat(name string) (fs.FileInfo, error) {
	fi, err := d.root.Lstat(name)
	if err != nil {
		return nil, missing(err)
	}
	if !fi.Mode().IsRegular() {
		return nil, ErrNotFound
	}
	return fi, nil
}

// removeStale removes what crashed Puts left. It is best effort: a disk that
// cannot be cleaned, because it is read-only or failing, can still be read,
// and the next OpenDir tries again.
func (d *Dir) removeStale() {
	entries, err := fs.ReadDir(d.root.FS(), tempFolder)
	if err != nil {
		return
	}
	for _, e := range entries {
		fi, err := e.Info()
		if err == nil && fi.Mode().IsRegular() && time.Since(fi.ModTime()) > tempAge {
			_ = d.root.Remove(tempFolder + "/" + e.Name())
		}
	}
}

var errListStopped = errors.New("the caller stopped the listing")

type dirWalk struct {
	dir    *Dir
	prefix string
	after  string
	yield  func(Info, error) bool
}

// folder yields the objects in and below a folder, "" being the root. A folder
// sorts by its name with a slash, as its objects do: "a-b" < "a/b" < "a0".
func (w dirWalk) folder(ctx context.Context, folder string) error {
	f, err := w.dir.root.Open(cmp.Or(folder, "."))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed since its parent was read
	}
	if err != nil {
		return dirError(err)
	}
	entries, err := f.ReadDir(-1)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int {
		return strings.Compare(sortName(a), sortName(b))
	})
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		name := path.Join(folder, e.Name())
		if CheckName(name) != nil {
			continue
		}
		switch {
		case e.IsDir():
			below := name + "/"
			late := below > w.after || strings.HasPrefix(w.after, below)
			if late && (strings.HasPrefix(below, w.prefix) || strings.HasPrefix(w.prefix, below)) {
				err = w.folder(ctx, name)
			}
		case e.Type().IsRegular() && strings.HasPrefix(name, w.prefix) && name > w.after:
			err = w.file(name, e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (w dirWalk) file(name string, e fs.DirEntry) error {
	fi, err := e.Info()
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed since its folder was read
	}
	if err != nil {
		return dirError(err)
	}
	if !w.yield(Info{Name: name, Size: fi.Size(), Modified: fi.ModTime()}, nil) {
		return errListStopped
	}
	return nil
}

func sortName(e fs.DirEntry) string {
	if e.IsDir() {
		return e.Name() + "/"
	}
	return e.Name()
}

// syncFolder makes the entries of an open folder durable, where the system can.
func syncFolder(f *os.File) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	err := f.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return err
}

// missing maps the errors of reaching one object.
func missing(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return ErrNotFound
	}
	return dirError(err)
}

// dirError adds the sentinel to a refusal, and passes everything else.
func dirError(err error) error {
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("%w: %w", ErrDenied, err)
	}
	return err
}
