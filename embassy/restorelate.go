package embassy

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"syscall"
	"time"

	"embassy/embassy/format"
)

// late is a name that is made after the files of its window: a symbolic link,
// a special file, or another name of a file.
type late struct {
	dir    *folder
	name   string
	kind   format.NodeType
	target string // of a symbolic link
	rdev   uint64
	meta   meta
	hard   bool   // it has other names in the snapshot
	size   uint64 // of a file
	first  string // source path of the name that it is a hard link to; empty: none
}

func (l *late) src() string { return l.dir.src + "/" + l.name }

// firstName is the name under which a file with several names is restored.
type firstName struct {
	src string
	sum [sha256.Size]byte
}

// firstNames are by the number that the names of one file share.
type firstNames struct {
	by   map[uint64]firstName
	held int // bytes
}

// maxFirstNames bounds firstNames, in bytes. Of more files with several names
// each name is restored as a file of its own, and nothing is lost.
const maxFirstNames = 64 << 20

// another returns the first name of the file that a node is another name of,
// or notes that it is the first. Nodes that only claim to be one file are two.
func (all *firstNames) another(n *format.Node, src string) (first string) {
	if n.Hard == 0 {
		return ""
	}
	sum := identity(n)
	f, ok := all.by[n.Hard]
	switch {
	case ok && f.sum == sum:
		return f.src
	case ok || all.held > maxFirstNames:
		return ""
	case all.by == nil:
		all.by = map[uint64]firstName{}
	}
	all.by[n.Hard] = firstName{src, sum}
	all.held += len(src) + 100
	return ""
}

// identity is the same for two nodes that may be one file.
func identity(n *format.Node) [sha256.Size]byte {
	b := binary.LittleEndian.AppendUint64([]byte{byte(n.Type)}, n.Rdev)
	if n.Content != nil {
		b = binary.LittleEndian.AppendUint64(b, n.Content.Size)
		b = append(append(b, n.Content.Depth), n.Content.Chunks...)
	}
	return sha256.Sum256(append(b, n.Link...))
}

// make makes a late name. It returns what would fail every other name too.
func (h *hand) make(l late) error {
	w, src := h.w, l.src()
	if isDevice(l.kind) && !w.o.Privileged {
		w.leave(leftDevice, src)
		return nil
	}
	there, left, err := w.stands(l)
	if left {
		w.leaveAsIs()
		return nil
	}
	var dir *os.Root
	if err == nil {
		dir, err = h.in(l.dir)
	}
	switch {
	case err != nil || there:
	case l.first != "":
		err = h.join(dir, l)
	default:
		if err = w.vacate(l.dir, src); err == nil && l.kind == format.Symlink {
			err = dir.Symlink(l.target, l.name)
		} else if err == nil {
			err = makeSpecial(dir, l.name, l.kind, l.rdev)
		}
	}
	if err != nil {
		w.missing(src, err.Error())
		return fatalWrite(err)
	}
	w.madeLate(l, there)
	if l.first != "" {
		return nil
	}
	w.dress(dir, l.name, src, l.meta, l.kind, nil)
	if l.kind == format.Symlink {
		err = setLinkTime(dir, l.name, l.meta.time())
	} else {
		err = dir.Chtimes(l.name, time.Time{}, l.meta.time())
	}
	w.note("time", src, err)
	return nil
}

func isDevice(t format.NodeType) bool { return t == format.CharDevice || t == format.Device }

// stands reports whether a late name is there as it should be, or is left as
// it is.
func (w *restorer) stands(l late) (there, left bool, err error) {
	if l.dir.err != nil {
		return false, false, l.dir.err
	}
	if w.fresh || l.dir.made {
		return false, false, nil
	}
	info, err := w.to.Lstat(w.base + l.src())
	if errors.Is(err, fs.ErrNotExist) {
		return false, false, nil
	}
	if err != nil || w.o.Overwrite == OverwriteNever {
		return false, err == nil, err
	}
	if l.first != "" {
		first, err := w.to.Lstat(w.base + l.first)
		return err == nil && os.SameFile(first, info), false, nil
	}
	same := w.alike(l.src(), info, l.kind, l.target, l.rdev)
	return same && (l.hard || oneName(w.to, w.base+l.src(), info)), false, nil
}

// alike reports whether what is there is a link or special file as it should be.
func (w *restorer) alike(src string, info fs.FileInfo, kind format.NodeType, target string, rdev uint64) bool {
	switch kind {
	case format.Symlink:
		to, err := w.to.Readlink(w.base + src)
		return err == nil && to == target
	case format.FIFO:
		return info.Mode().Type() == fs.ModeNamedPipe
	case format.Socket:
		return info.Mode().Type() == fs.ModeSocket
	case format.CharDevice:
		return info.Mode().Type() == fs.ModeDevice|fs.ModeCharDevice && sysStat(info).rdev == rdev
	case format.Device:
		return info.Mode().Type() == fs.ModeDevice && sysStat(info).rdev == rdev
	}
	return false
}

// usable reports whether a name may be the first one of a file, so that others
// are made links to it. It is asked where what is there stays: a file of
// another size or time is another file.
func (w *restorer) usable(n *format.Node, src string) bool {
	info, err := w.to.Lstat(w.base + src)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	if n.Type == format.File {
		return w.untouched(info, n.Content.Size, metaOf(n, nil))
	}
	return w.alike(src, info, n.Type, string(n.Link), n.Rdev)
}

// join makes a name another one of a file that this run restored, or gives it
// a copy where there can be no link.
func (h *hand) join(dir *os.Root, l late) error {
	w := h.w
	w.mu.Lock()
	lost := w.lost[l.first]
	w.mu.Unlock()
	_, err := w.to.Lstat(w.base + l.first)
	if lost || errors.Is(err, fs.ErrNotExist) {
		return errors.New("another name of it, " + l.first + ", is missing")
	}
	if err == nil {
		err = w.vacate(l.dir, l.src())
	}
	if err != nil {
		return err
	}
	err = w.to.Link(w.base+l.first, w.base+l.src())
	unable := errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EXDEV) || errors.Is(err, syscall.EMLINK)
	if l.kind != format.File || !unable {
		return err
	}
	w.note("hard links", l.src(), err)
	if err := w.copyFirst(l); err != nil {
		return err
	}
	w.dress(dir, l.name, l.src(), l.meta, l.kind, nil)
	w.note("time", l.src(), dir.Chtimes(l.name, time.Time{}, l.meta.time()))
	return nil
}

// copyFirst copies the first name of a file to another one, which is not there.
func (w *restorer) copyFirst(l late) error {
	in, err := w.to.Open(w.base + l.first)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := w.to.OpenFile(w.base+l.src(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err = errors.Join(copyHoles(in, out, l.size), syncFile(out), out.Close()); err != nil {
		err = errors.Join(err, w.to.Remove(w.base+l.src()))
	}
	return err
}

// madeLate counts a late name that is right.
func (w *restorer) madeLate(l late, there bool) {
	w.mu.Lock()
	if !there {
		w.d.Written.add(l.src())
	}
	file := l.kind == format.File
	if file {
		w.d.Files++
	}
	w.mu.Unlock()
	if file {
		w.meter.add(func(p *Progress) { p.Files, p.Bytes = p.Files+1, p.Bytes+l.size })
	}
}

// vacate removes what is in the way of a name, unless it is a folder that must
// not be deleted.
func (w *restorer) vacate(dir *folder, src string) error {
	if w.fresh || dir.made {
		return nil
	}
	info, err := w.to.Lstat(w.base + src)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.IsDir() && w.o.DryRun:
		return nil
	case !info.IsDir():
		return w.to.Remove(w.base + src)
	case w.o.Delete && w.erase(src, dir.inside):
		return nil
	}
	return errInTheWay
}

// errInTheWay: a folder stands where another thing belongs.
var errInTheWay = errors.New("a folder of that name is in the way, and is deleted only with --delete")
