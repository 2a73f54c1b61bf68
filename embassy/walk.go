package embassy

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"embassy/chunk"
	"embassy/embassy/format"
)

// filesAhead bounds the files of one folder that wait for their content.
const filesAhead = 256

// sysInfo is what a file system says of a file beyond fs.FileInfo.
type sysInfo struct {
	uid, gid uint32
	file     fileID
	names    uint64 // hard links
	held     int64  // bytes that it takes on its disk
	rdev     uint64
	ctime    int64 // nanoseconds
}

// fileID tells files of one machine apart.
type fileID struct{ dev, inode uint64 }

// counts is what a walk saw.
type counts struct {
	files, dirs, others  uint64
	fresh, changed, same uint64 // of files
	bytes, read          uint64 // of content: in all, and read from the source
	gaps                 []format.Gap
	hiddenGaps           uint64 // beyond maxGaps
	sourcesFound         uint64
	left                 LeftOut
}

// maxGaps bounds the gaps that a snapshot names one by one.
const maxGaps = 20000

// walk reads the sources of one dataset and builds its tree. It is one
// goroutine; contents are stored beside it.
type walk struct {
	ctx    context.Context
	store  *store
	cache  *fileCache
	filter filter
	keeper *keeper // for tree chunks
	names  *names
	counts counts
	seen   seen
	links  links
	dry    bool // read nothing, store nothing
}

// branch is a folder that is in the tree because sources lie below it.
type branch struct {
	source bool
	below  map[string]*branch
}

// sourceTree arranges absolute, clean source paths; a source below another
// one is part of it.
func sourceTree(sources []string) *branch {
	root := &branch{below: map[string]*branch{}}
	for _, s := range sources {
		at := root
		for part := range strings.SplitSeq(strings.Trim(filepath.ToSlash(s), "/"), "/") {
			if part == "" {
				break // the source is the root of the file system
			}
			if at.below[part] == nil {
				at.below[part] = &branch{below: map[string]*branch{}}
			}
			at = at.below[part]
		}
		at.source = true
	}
	return root
}

// gap records something that the source did not give.
func (w *walk) gap(path string, err error) {
	if len(w.counts.gaps) >= maxGaps {
		w.counts.hiddenGaps++
		return
	}
	w.counts.gaps = append(w.counts.gaps, gapOf(path, err))
}

// gapOf names the path and the bare reason.
func gapOf(path string, err error) format.Gap {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return format.Gap{Path: []byte(path), Reason: err.Error()}
}

// tree builds the node list of the folder path, in which lie the sources of b.
func (w *walk) tree(path string, b *branch) (format.Content, error) {
	if b.source {
		w.counts.sourcesFound++
		return w.dir(path, path, fileID{})
	}
	t := format.NewTreeBuilder(w.putTree)
	for _, name := range sortedKeys(b.below) {
		child, sub := filepath.Join(path, name), b.below[name]
		// A source, and what leads to it, is followed when it is a link: its
		// name was configured, and its content is meant.
		fi, err := os.Stat(child)
		if err != nil {
			for _, s := range sub.sources(child) {
				w.gap(s, err)
			}
			continue
		}
		real, err := filepath.EvalSymlinks(child)
		if err != nil && !fi.IsDir() {
			w.gap(child, err)
			continue
		}
		n := w.node(name, fi)
		switch {
		case fi.IsDir():
			n.Xattrs = w.attributes(cmp.Or(real, child), child)
			c, err := w.tree(child, sub)
			if err != nil {
				return format.Content{}, err
			}
			w.counts.dirs++
			n.Content = &c
			if !sub.source {
				// It only leads to sources. Its own time moves with whatever
				// else lies in it, and would make an unchanged tree look new.
				n.Sec, n.Nsec = sub.newest(child)
			}
		case sub.source && fi.Mode().IsRegular():
			w.counts.sourcesFound++
			f, err := w.content(real, fi)
			if err != nil {
				return format.Content{}, err
			}
			if ok, err := w.finish(child, &n, f, nil); err != nil {
				return format.Content{}, err
			} else if !ok {
				continue
			}
		default:
			w.gap(child, errors.New("a source must be a folder or a regular file"))
			continue
		}
		if err := t.Add(&n); err != nil {
			return format.Content{}, err
		}
	}
	return t.Finish()
}

// newest returns the newest modification time among the sources below b.
func (b *branch) newest(path string) (sec int64, nsec uint32) {
	var newest time.Time
	for _, s := range b.sources(path) {
		if fi, err := os.Stat(s); err == nil && fi.ModTime().After(newest) {
			newest = fi.ModTime()
		}
	}
	return newest.Unix(), uint32(newest.Nanosecond())
}

// sources lists the source paths at and below b.
func (b *branch) sources(path string) []string {
	var out []string
	if b.source {
		out = append(out, path)
	}
	for _, name := range sortedKeys(b.below) {
		out = append(out, b.below[name].sources(filepath.Join(path, name))...)
	}
	return out
}

func sortedKeys(m map[string]*branch) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// waitingNode is a node whose content may still be on its way.
type waitingNode struct {
	path string
	node format.Node
	file *fileContent // nil: the node is complete
}

// dir builds the node list of the source folder path, which is opened as at, and
// was looked at as the file id (zero: a source itself).
func (w *walk) dir(path, at string, id fileID) (format.Content, error) {
	if err := w.ctx.Err(); err != nil {
		return format.Content{}, err
	}
	t := format.NewTreeBuilder(w.putTree)
	d, here, at, err := openSource(at, id)
	if err != nil {
		w.gap(path, err)
		return t.Finish()
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		w.gap(path, err)
	}
	slices.Sort(names)
	if w.filter.cache(path, at, names) {
		w.counts.left.Caches++
		names = []string{cacheTag}
	}
	known, record := w.cache.open(path), w.cache.record(path)
	var line []waitingNode
	advance := func(keep int) error {
		for len(line) > keep {
			head := line[0]
			line = line[1:]
			if head.file != nil {
				if ok, err := w.finish(head.path, &head.node, head.file, record); err != nil {
					return err
				} else if !ok {
					continue
				}
			}
			if err := t.Add(&head.node); err != nil {
				return err
			}
		}
		return nil
	}
	for _, name := range names {
		child, real := below(path, name), below(at, name)
		fi, err := lstatAt(d, real, name)
		if w.filter.excluded(child, err == nil && fi.IsDir()) {
			w.counts.left.Excluded++
			continue
		}
		if err != nil {
			w.gap(child, err)
			continue
		}
		if w.filter.tooLarge(fi) {
			w.counts.left.Larger++
			w.counts.left.LargerBytes += uint64(fi.Size())
			continue
		}
		wn := waitingNode{path: child, node: w.node(name, fi)}
		if wn.node.Type == format.File {
			if wn.file, err = w.recall(real, child, fi, known); err != nil {
				return format.Content{}, err
			}
		} else {
			wn.node.Xattrs = w.attributes(real, child)
		}
		switch wn.node.Type {
		case format.File:
		case format.Dir:
			c, err := w.folder(child, real, fi, here.dev)
			if err != nil {
				return format.Content{}, err
			}
			w.counts.dirs++
			wn.node.Content = &c
		case format.Symlink:
			link, err := os.Readlink(real)
			if err != nil {
				w.gap(child, err)
				continue
			}
			wn.node.Link = []byte(link)
			w.counts.others++
		default:
			w.counts.others++
		}
		line = append(line, wn)
		if err := advance(filesAhead); err != nil {
			return format.Content{}, err
		}
	}
	if err := advance(0); err != nil {
		return format.Content{}, err
	}
	if !w.dry {
		record.close(known)
	}
	return t.Finish()
}

// putTree stores a tree chunk.
func (w *walk) putTree(list []byte) (chunk.ID, error) {
	if w.dry {
		return chunk.ID{}, nil
	}
	return w.keeper.keep(w.ctx, format.TreeChunk, list)
}

// below is the path of a name in a folder.
func below(folder, name string) string {
	if strings.HasSuffix(folder, string(filepath.Separator)) {
		return folder + name
	}
	return folder + string(filepath.Separator) + name
}

// specialBits are those of a mode beyond the permissions, in fs and in a node.
var specialBits = [...]struct {
	mode fs.FileMode
	node uint32
}{{fs.ModeSetuid, 0o4000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSticky, 0o1000}}

// node describes a file without its content.
func (w *walk) node(name string, fi fs.FileInfo) format.Node {
	st := sysStat(fi)
	n := format.Node{
		Name: []byte(name), Mode: uint32(fi.Mode().Perm()), UID: st.uid, GID: st.gid,
		User: w.names.user(st.uid), Group: w.names.group(st.gid),
		Sec: fi.ModTime().Unix(), Nsec: uint32(fi.ModTime().Nanosecond()),
	}
	if st.names > 1 && !fi.IsDir() {
		n.Hard = w.links.number(st.file)
	}
	for _, bit := range specialBits {
		if fi.Mode()&bit.mode != 0 {
			n.Mode |= bit.node
		}
	}
	switch m := fi.Mode(); {
	case m.IsRegular():
		n.Type = format.File
	case m.IsDir():
		n.Type = format.Dir
	case m&fs.ModeSymlink != 0:
		n.Type = format.Symlink
	case m&fs.ModeNamedPipe != 0:
		n.Type = format.FIFO
	case m&fs.ModeSocket != 0:
		n.Type = format.Socket
	case m&fs.ModeCharDevice != 0:
		n.Type, n.Rdev = format.CharDevice, st.rdev
	default:
		n.Type, n.Rdev = format.Device, st.rdev
	}
	return n
}

// own is what a node has of the user who backs up: that of what no file system
// says the owner of.
func (w *walk) own() format.Node {
	uid, gid := uint32(max(0, os.Getuid())), uint32(max(0, os.Getgid())) // -1 where there are none
	return format.Node{UID: uid, GID: gid, User: w.names.user(uid), Group: w.names.group(gid)}
}

// names remembers the names of users and groups.
type names struct{ users, groups map[uint32]string }

func newNames() *names { return &names{map[uint32]string{}, map[uint32]string{}} }

func (n *names) user(id uint32) string {
	s, ok := n.users[id]
	if !ok {
		if u, err := user.LookupId(strconv.Itoa(int(id))); err == nil {
			s = u.Username
		}
		n.users[id] = s
	}
	return s
}

func (n *names) group(id uint32) string {
	s, ok := n.groups[id]
	if !ok {
		if g, err := user.LookupGroupId(strconv.Itoa(int(id))); err == nil {
			s = g.Name
		}
		n.groups[id] = s
	}
	return s
}
