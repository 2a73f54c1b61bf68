package embassy

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"embassy/embassy/format"
)

// meta is what is set on a restored name.
type meta struct {
	mode     uint32
	uid, gid uint32
	sec      int64
	nsec     uint32
	xattrs   []format.Xattr
}

// metaOf takes the owners by their names if there are such.
func metaOf(n *format.Node, named *owners) meta {
	m := meta{n.Mode, n.UID, n.GID, n.Sec, n.Nsec, n.Xattrs}
	if named != nil {
		m.uid, m.gid = named.user(n.User, n.UID), named.group(n.Group, n.GID)
	}
	return m
}

// owners finds the numbers that names have on this system. Not for concurrent use.
type owners struct{ users, groups map[string]uint32 }

func (o *owners) user(name string, otherwise uint32) uint32 {
	return o.number(&o.users, name, otherwise, func() (string, error) {
		u, err := user.Lookup(name)
		if err != nil {
			return "", err
		}
		return u.Uid, nil
	})
}

func (o *owners) group(name string, otherwise uint32) uint32 {
	return o.number(&o.groups, name, otherwise, func() (string, error) {
		g, err := user.LookupGroup(name)
		if err != nil {
			return "", err
		}
		return g.Gid, nil
	})
}

// maxOwners bounds the names that are remembered.
const maxOwners = 1 << 16

// unowned stands for a name that the system does not know.
const unowned = math.MaxUint32

func (o *owners) number(known *map[string]uint32, name string, otherwise uint32, look func() (string, error)) uint32 {
	id, ok := (*known)[name]
	if !ok && name != "" {
		id = unowned
		if text, err := look(); err == nil {
			if n, err := strconv.ParseUint(text, 10, 32); err == nil {
				id = uint32(n)
			}
		}
		if *known == nil {
			*known = map[string]uint32{}
		}
		if len(*known) < maxOwners {
			(*known)[name] = id
		}
	}
	if name == "" || id == unowned {
		return otherwise
	}
	return id
}

// size is about how many bytes its attributes take.
func (m meta) size() (n int) {
	for _, x := range m.xattrs {
		n += len(x.Name) + len(x.Value)
	}
	return n
}

func (m meta) time() time.Time { return time.Unix(m.sec, int64(m.nsec)) }

// What lends rights to others is restored on request only.
const (
	setidBits    = 0o6000 // of a file
	leftSetid    = "setuid or setgid bits"
	leftDevice   = "devices"
	leftPowerful = "security.* and trusted.* attributes"
)

// powerful reports whether an attribute may lend rights, as file capabilities
// do. An ACL lends none that a mode could not lend.
func powerful(name string) bool {
	return strings.HasPrefix(name, "security.") || strings.HasPrefix(name, "trusted.")
}

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

// dress sets owner, attributes and mode of a name, in this order: to change an
// owner takes capabilities away. A symbolic link has no mode; open, which may
// be nil, is what the name is open as.
func (w *restorer) dress(dir *os.Root, name, src string, m meta, t format.NodeType, open *os.File) {
	if w.o.Owners != OwnersLeft {
		w.note("owner", src, dir.Lchown(name, int(m.uid), int(m.gid)))
	}
	w.attributes(dir, name, src, m.xattrs, t == format.Dir)
	if t == format.Symlink {
		return
	}
	if t != format.Dir && m.mode&setidBits != 0 && !w.o.Privileged {
		w.leave(leftSetid, src)
	}
	mode := fileMode(m.mode, t == format.Dir || w.o.Privileged)
	if open != nil {
		w.note("mode", src, open.Chmod(mode))
	} else {
		w.note("mode", src, dir.Chmod(name, mode))
	}
}

// dressed reports whether a file has all that dress and the last touch of its
// time would give it.
func (w *restorer) dressed(dir *folder, name string, info fs.FileInfo, m meta) bool {
	st := sysStat(info)
	if info.Mode() != fileMode(m.mode, w.o.Privileged) || !info.ModTime().Equal(m.time()) ||
		w.o.Owners != OwnersLeft && (st.uid != m.uid || st.gid != m.gid) {
		return false
	}
	in, err := w.to.OpenRoot(w.path(dir))
	if err != nil {
		return false
	}
	same := false
	err = withAttributes(in, name, false, func(a attributes) error {
		set, drop, err := w.changes(a, m.xattrs)
		same = err == nil && len(set)+len(drop) == 0
		return err
	})
	if errors.Is(err, errors.ErrUnsupported) {
		same, err = len(m.xattrs) == 0, nil
	}
	return errors.Join(err, in.Close()) == nil && same
}

// changes returns the attributes of a name that have to be set, and the names
// of those that have to go.
func (w *restorer) changes(a attributes, want []format.Xattr) (set []format.Xattr, drop []string, err error) {
	there, err := a.list()
	if err != nil {
		return nil, nil, err
	}
	for _, x := range want {
		if w.withheld(x) {
			continue
		}
		if slices.Contains(there, string(x.Name)) {
			if old, err := a.get(string(x.Name)); err == nil && bytes.Equal(old, x.Value) {
				continue
			}
		}
		set = append(set, x)
	}
	for _, old := range there {
		wanted := slices.ContainsFunc(want, func(x format.Xattr) bool { return string(x.Name) == old })
		if !wanted && !powerful(old) { // such as the label of the system that restores
			drop = append(drop, old)
		}
	}
	return set, drop, nil
}

// withheld reports whether an attribute is not restored, since nobody asked for
// what lends rights.
func (w *restorer) withheld(x format.Xattr) bool {
	return powerful(string(x.Name)) && !w.o.Privileged
}

// attributes sets the extended attributes of a name, and takes others away.
func (w *restorer) attributes(dir *os.Root, name, src string, want []format.Xattr, folder bool) {
	if len(want) == 0 && w.bare {
		return
	}
	err := withAttributes(dir, name, folder, func(a attributes) error {
		set, drop, err := w.changes(a, want)
		if err != nil {
			return err
		}
		for _, x := range want {
			if w.withheld(x) {
				w.leave(leftPowerful, src)
			}
		}
		for _, x := range set {
			err = cmp.Or(err, a.set(string(x.Name), x.Value))
		}
		for _, old := range drop {
			err = cmp.Or(err, a.remove(old))
		}
		return err
	})
	if errors.Is(err, errors.ErrUnsupported) && len(want) == 0 {
		return
	}
	w.note("extended attributes", src, err)
}

// finishDir sets what belongs to a folder; its files are all there.
func (w *restorer) finishDir(f *folder) {
	if f.err != nil {
		return
	}
	w.later(f)
	if f.parent != nil {
		name := w.path(f)
		w.dress(w.to, name, f.src, f.meta, format.Dir, nil)
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

// unset counts names on which something was not set, or which were not made.
type unset struct {
	count int
	path  string // the first
	err   error  // nil: it was not asked for
}

// note counts what could not be set.
func (w *restorer) note(kind, src string, err error) {
	if err != nil {
		w.tallyUnset(kind, src, err)
	}
}

// leave counts what was not asked for.
func (w *restorer) leave(kind, src string) { w.tallyUnset(kind, src, nil) }

func (w *restorer) tallyUnset(kind, src string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	u := w.unset[kind]
	if u == nil {
		u = &unset{path: src, err: err}
		w.unset[kind] = u
	}
	u.count++
}

// tellUnset reports what is not as it was, once per kind.
func (w *restorer) tellUnset() {
	for _, kind := range slices.Sorted(maps.Keys(w.unset)) {
		u := w.unset[kind]
		err := fmt.Errorf("the %s of %d names could not be set, first of %s: %w", kind, u.count, u.path, u.err)
		if u.err == nil {
			err = fmt.Errorf("%s were left out, %d in all, first %s: restore with --privileged to have them", kind, u.count, u.path)
		}
		w.r.view.warn(Finding{Object: "dataset " + w.d.Dataset, Err: err})
	}
}
