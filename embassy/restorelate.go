package embassy

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
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
	first  string // source path of the name that it is a hard link to; empty: none
}

func (l *late) src() string { return l.dir.src + "/" + l.name }

// firstName is the name under which a file with several names is restored.
type firstName struct {
	src string
	sum [sha256.Size]byte
}

// firstNames are by the number that the names of one file share.
type firstNames map[uint64]firstName

// another returns the first name of the file that a node is another name of,
// or notes that it is the first. Nodes that only claim to be one file are two.
func (all *firstNames) another(n *format.Node, src string) (first string) {
	if n.Hard == 0 {
		return ""
	}
	sum := identity(n)
	if f, ok := (*all)[n.Hard]; ok {
		if f.sum == sum {
			return f.src
		}
		return ""
	}
	if *all == nil {
		*all = firstNames{}
	}
	(*all)[n.Hard] = firstName{src, sum}
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
	err := l.dir.err
	var dir *os.Root
	if err == nil {
		dir, err = h.in(l.dir)
	}
	if err == nil && l.first != "" {
		err = w.join(dir, l)
		if err == nil {
			w.joined(l)
			return nil
		}
	} else if err == nil {
		err = w.vacate(dir, l.name)
		switch {
		case err != nil:
		case l.kind == format.Symlink:
			err = dir.Symlink(l.target, l.name)
		case isDevice(l.kind) && !w.o.Privileged:
			w.leave(leftDevice, src)
			return nil
		default:
			err = makeSpecial(dir, l.name, l.kind, l.rdev)
		}
	}
	if err != nil {
		w.missing(src, err.Error())
		return fatalWrite(err)
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

// join makes a name another one of a file that this run restored.
func (w *restorer) join(dir *os.Root, l late) error {
	first, err := w.to.Lstat(w.base + l.first)
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("another name of it, " + l.first + ", is missing")
	}
	if err != nil {
		return err
	}
	if there, err := dir.Lstat(l.name); err == nil && os.SameFile(first, there) {
		return nil
	}
	if err := w.vacate(dir, l.name); err != nil {
		return err
	}
	return w.to.Link(w.base+l.first, w.base+l.src())
}

// joined counts a name of a file that was restored.
func (w *restorer) joined(l late) {
	if l.kind != format.File {
		return
	}
	w.mu.Lock()
	w.d.Files++
	w.mu.Unlock()
	w.meter.add(func(p *Progress) { p.Files++ })
}

// vacate removes what is in the way of a name, unless it is a folder.
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
