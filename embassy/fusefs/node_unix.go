//go:build linux || darwin

package fusefs

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	iofs "io/fs"
	"math"
	"os"
	"path"
	"strings"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"embassy/embassy"
	"embassy/embassy/format"
)

const (
	blockSize = 512  // bytes, of st_blocks
	maxName   = 1024 // bytes; a longer name would hide its whole folder from older kernels
	pageBits  = 20   // of an offset in a folder, that count the names of one page
	latest    = "latest"
)

// types are the file types of the kernel.
var types = map[format.NodeType]uint32{
	format.File: unix.S_IFREG, format.Dir: unix.S_IFDIR, format.Symlink: unix.S_IFLNK, format.FIFO: unix.S_IFIFO,
	format.Socket: unix.S_IFSOCK, format.CharDevice: unix.S_IFCHR, format.Device: unix.S_IFBLK,
}

// top is the root: the datasets.
type top struct {
	shelf
	o     Options
	names [][]string // of the folders of the snapshots, by dataset
	gate  *gate
}

// OnAdd makes the folders that are there before anything is read.
func (t *top) OnAdd(ctx context.Context) {
	folder := fs.StableAttr{Mode: unix.S_IFDIR}
	for i, d := range t.o.Datasets {
		dataset := t.NewPersistentInode(ctx, &shelf{}, folder)
		t.AddChild(d.Name, dataset, true)
		for j, s := range d.Snapshots {
			e := &entry{top: t, tree: t.o.Browser.Tree(s), node: &format.Node{Type: format.Dir, Mode: 0o755, UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}}
			e.node.Sec, e.node.Nsec = s.Summary.When().Unix(), uint32(s.Summary.When().Nanosecond())
			e.id = sha256.Sum256(s.Hash[:])
			dataset.AddChild(t.names[i][j], dataset.NewPersistentInode(ctx, e, e.stable()), true)
		}
		if len(d.Snapshots) > 0 {
			link := &fs.MemSymlink{Data: []byte(t.names[i][0])}
			link.Attr.Mode, link.Attr.Nlink, link.Attr.Size = 0o777, 1, uint64(len(link.Data))
			dataset.AddChild(latest, dataset.NewPersistentInode(ctx, link, fs.StableAttr{Mode: unix.S_IFLNK}), true)
		}
	}
}

// shelf is a folder that is in no snapshot: the root, or that of a dataset.
type shelf struct{ fs.Inode }

// Getattr implements fs.NodeGetattrer.
func (s *shelf) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode, out.Nlink = 0o755, 2
	out.Uid, out.Gid = uint32(os.Getuid()), uint32(os.Getgid())
	return 0
}

// Access implements fs.NodeAccesser: the kernel refuses what is to be refused.
func (s *shelf) Access(context.Context, uint32) syscall.Errno { return 0 }

// entry is a name in a snapshot, or its root.
type entry struct {
	fs.Inode
	top  *top
	tree *embassy.Tree
	node *format.Node // shared with other entries of its folder
	id   [sha256.Size]byte

	mu     sync.Mutex
	folder *embassy.Folder // of a folder; nil: not yet asked for
}

// stable is the same for the names of one file, and for nothing else.
func (e *entry) stable() fs.StableAttr {
	return fs.StableAttr{
		Mode: types[e.node.Type],
		Ino:  max(2, binary.LittleEndian.Uint64(e.id[:])>>1), // the other half is of the folders above
		Gen:  binary.LittleEndian.Uint64(e.id[8:]),
	}
}

// child returns the entry of a node of the folder.
func (e *entry) child(n *format.Node) *entry {
	kept := *n // the others of its page may be forgotten
	c := &entry{top: e.top, tree: e.tree, node: &kept}
	if n.Hard != 0 && n.Type != format.Dir {
		c.id = e.tree.Same(n)
	} else {
		c.id = sha256.Sum256(append(e.id[:], n.Name...))
	}
	return c
}

// request runs what asks targets, and answers for its error.
func (e *entry) request(ctx context.Context, do func(ctx context.Context) error) syscall.Errno {
	ctx, leave, ok := e.top.gate.enter(ctx)
	if !ok {
		return syscall.ENODEV
	}
	defer leave()
	err := do(ctx)
	switch {
	case err == nil:
		return 0
	case err == iofs.ErrNotExist: // of Lookup itself: the kernel keeps it for long
		return syscall.ENOENT
	case ctx.Err() != nil:
		return syscall.EINTR
	}
	e.warn("", err)
	return syscall.EIO
}

func (e *entry) warn(below string, err error) {
	if e.top.o.Warn != nil {
		e.top.o.Warn(path.Join(e.Path(e.Root()), below), err)
	}
}

// list returns the folder that the entry is.
func (e *entry) list(ctx context.Context) (*embassy.Folder, error) {
	e.mu.Lock()
	if e.folder == nil && e.node.Content != nil {
		e.folder = e.tree.Folder(e.node)
	}
	f := e.folder
	e.mu.Unlock()
	if f != nil {
		return f, nil
	}
	f, err := e.tree.Root(ctx) // others do not wait for it
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.folder == nil {
		e.folder = f
	}
	return e.folder, nil
}

// Access implements fs.NodeAccesser.
func (e *entry) Access(context.Context, uint32) syscall.Errno { return 0 }

// Lookup implements fs.NodeLookuper.
func (e *entry) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	var n *format.Node
	errno := e.request(ctx, func(ctx context.Context) error {
		f, err := e.list(ctx)
		if err == nil {
			n, err = f.Lookup(ctx, name)
		}
		return err
	})
	if errno != 0 {
		return nil, errno
	}
	return e.inode(ctx, n, out), 0
}

func (e *entry) inode(ctx context.Context, n *format.Node, out *fuse.EntryOut) *fs.Inode {
	c := e.child(n)
	c.attr(&out.Attr)
	return e.NewInode(ctx, c, c.stable())
}

// Getattr implements fs.NodeGetattrer.
func (e *entry) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	e.attr(&out.Attr)
	return 0
}

func (e *entry) attr(out *fuse.Attr) {
	n := e.node
	out.Mode, out.Uid, out.Gid, out.Rdev = types[n.Type]|n.Mode, n.UID, n.GID, uint32(n.Rdev)
	out.Mtime, out.Mtimensec = uint64(n.Sec), n.Nsec
	out.Ctime, out.Ctimensec, out.Atime, out.Atimensec = out.Mtime, n.Nsec, out.Mtime, n.Nsec
	out.Nlink, out.Blksize = 1, 4096
	switch n.Type {
	case format.File:
		out.Size = min(n.Content.Size, math.MaxInt64)
		data := out.Size
		for i := 1; i < len(n.Holes); i += 2 {
			data -= min(n.Holes[i], data)
		}
		out.Blocks = (data + blockSize - 1) / blockSize
	case format.Dir:
		out.Nlink = 2
	case format.Symlink:
		out.Size = uint64(len(n.Link))
	}
	if n.Hard != 0 {
		out.Nlink = 2
	}
}

// Statfs implements fs.NodeStatfser.
func (e *entry) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	out.NameLen, out.Bsize, out.Frsize = 255, 4096, 4096
	return 0
}

// Readlink implements fs.NodeReadlinker.
func (e *entry) Readlink(context.Context) ([]byte, syscall.Errno) { return e.node.Link, 0 }

// Getxattr implements fs.NodeGetxattrer.
func (e *entry) Getxattr(_ context.Context, name string, dest []byte) (uint32, syscall.Errno) {
	for _, x := range e.node.Xattrs {
		if string(x.Name) == name {
			return answer(dest, x.Value)
		}
	}
	return 0, fs.ENOATTR
}

// Listxattr implements fs.NodeListxattrer. Names that the kernel shows to root
// alone are not listed to others.
func (e *entry) Listxattr(ctx context.Context, dest []byte) (uint32, syscall.Errno) {
	caller, ok := fuse.FromContext(ctx)
	root := ok && caller.Uid == 0
	var list []byte
	for _, x := range e.node.Xattrs {
		if root || !strings.HasPrefix(string(x.Name), "trusted.") {
			list = append(append(list, x.Name...), 0)
		}
	}
	return answer(dest, list)
}

func answer(dest, value []byte) (uint32, syscall.Errno) {
	if len(dest) < len(value) {
		return uint32(len(value)), syscall.ERANGE
	}
	return uint32(copy(dest, value)), 0
}

// Open implements fs.NodeOpener.
func (e *entry) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if flags&(unix.O_WRONLY|unix.O_RDWR|unix.O_TRUNC) != 0 {
		return nil, 0, syscall.EROFS
	}
	return &file{e, e.tree.File(e.node)}, fuse.FOPEN_KEEP_CACHE, 0
}

// file is a file that is open.
type file struct {
	entry *entry
	file  *embassy.File
}

// Read implements fs.FileReader.
func (f *file) Read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	n := 0
	errno := f.entry.request(ctx, func(ctx context.Context) (err error) {
		if n, err = f.file.ReadAt(ctx, dest, off); err == io.EOF {
			err = nil
		}
		return err
	})
	if errno != 0 {
		return nil, errno
	}
	return fuse.ReadResultData(dest[:n]), 0
}

// OpendirHandle implements fs.NodeOpendirHandler.
func (e *entry) OpendirHandle(ctx context.Context, _ uint32) (fs.FileHandle, uint32, syscall.Errno) {
	d := &opened{entry: e}
	errno := e.request(ctx, func(ctx context.Context) (err error) {
		d.folder, err = e.list(ctx)
		return err
	})
	return d, fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_CACHE_DIR, errno
}

// opened is a folder that is open. Its methods are called one at a time.
type opened struct {
	entry  *entry
	folder *embassy.Folder
	page   int
	at     int           // of the next name in nodes
	nodes  []format.Node // of the page; nil: not yet read
}

// Readdirent implements fs.FileReaddirenter.
func (d *opened) Readdirent(ctx context.Context) (*fuse.DirEntry, syscall.Errno) {
	for {
		if d.nodes == nil {
			if errno := d.entry.request(ctx, func(ctx context.Context) (err error) {
				d.nodes, err = d.folder.Page(ctx, d.page)
				return err
			}); errno != 0 {
				return nil, errno
			}
			if d.nodes == nil {
				return nil, 0
			}
		}
		if d.at >= len(d.nodes) {
			d.page, d.at, d.nodes = d.page+1, 0, nil
			continue
		}
		n := &d.nodes[d.at]
		d.at++
		if len(n.Name) > maxName {
			d.entry.warn("", fmt.Errorf("a name of %d bytes is left out: use embassy restore, or embassy dump", len(n.Name)))
			continue
		}
		return &fuse.DirEntry{
			Name: string(n.Name), Mode: types[n.Type], Ino: d.entry.child(n).stable().Ino,
			Off: uint64(d.page)<<pageBits | uint64(d.at),
		}, 0
	}
}

// Seekdir implements fs.FileSeekdirer.
func (d *opened) Seekdir(_ context.Context, off uint64) syscall.Errno {
	d.page, d.at, d.nodes = int(off>>pageBits), int(off&(1<<pageBits-1)), nil
	return 0
}

// Lookup implements fs.FileLookuper: the name is the last that was read.
func (d *opened) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if d.at > 0 && d.at <= len(d.nodes) && string(d.nodes[d.at-1].Name) == name {
		return d.entry.inode(ctx, &d.nodes[d.at-1], out), 0
	}
	return d.entry.Lookup(ctx, name, out)
}
