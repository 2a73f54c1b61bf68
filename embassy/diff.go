package embassy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path"
	"slices"

	"embassy/embassy/format"
)

// Changed says in what two states of a name differ.
type Changed uint

// What can differ.
const (
	ChangedType Changed = 1 << iota
	ChangedContent
	ChangedTarget // of a symbolic link, or the number of a device
	ChangedMode
	ChangedOwner
	ChangedTime
	ChangedXattrs
)

var changedNames = []string{"type", "content", "target", "mode", "owner", "time", "xattrs"}

// Names are the words for what differs.
func (c Changed) Names() []string {
	var out []string
	for i, name := range changedNames {
		if c&(1<<i) != 0 {
			out = append(out, name)
		}
	}
	return out
}

// Change is a name that is not the same in two snapshots. Old is nil if it was
// added, New if it was removed.
type Change struct {
	Path     string // absolute
	Old, New *format.Node
	What     Changed // of a name that is in both
}

// Diff calls fn with every name that differs between two snapshots at an
// absolute source path and below, in the order of the tree. Folders with the
// same content id are not read. Where a rotation of the writer secret, or another
// compartment, lies between the two, a file of the same size and time is taken for
// the same. The content of a folder is what its names are,
// so a folder differs by its own attributes only. A folder whose list is
// damaged in one of them is passed over, with all below, and makes the error. A
// path that is in neither is fs.ErrNotExist.
func (v *View) Diff(ctx context.Context, old, new SnapshotInfo, at string, fn func(Change) error) error {
	a, err := v.open(ctx, old, nil, false)
	if err != nil {
		return fmt.Errorf("snapshot %s: %w", old.Hash, err)
	}
	defer a.close()
	b, err := v.open(ctx, new, nil, false)
	if err != nil {
		return fmt.Errorf("snapshot %s: %w", new.Hash, err)
	}
	defer b.close()
	var damaged harms
	d := &differ{old: a, new: b, fn: fn, harm: damaged.pass}
	if err := d.at(ctx, path.Clean("/"+at)); err != nil {
		return err
	}
	return errors.Join(damaged...)
}

// differ compares two snapshots.
type differ struct {
	old, new *reading
	fn       func(Change) error
	harm     func(path string, err error) error
}

// at compares what lies at a clean path.
func (d *differ) at(ctx context.Context, at string) error {
	o, err := d.old.seek(ctx, at)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	n, err2 := d.new.seek(ctx, at)
	if err2 != nil && (!errors.Is(err2, fs.ErrNotExist) || err != nil) {
		return err2
	}
	return d.node(ctx, at, o, n, 0)
}

// node compares two nodes, of which one may be nil, and all below.
func (d *differ) node(ctx context.Context, at string, o, n *format.Node, depth int) error {
	what := Changed(0)
	if o != nil && n != nil {
		what = differs(o, n, d.old.naming == d.new.naming)
	}
	if (what != 0 || o == nil || n == nil) && at != "/" {
		if err := d.fn(Change{at, o, n, what}); err != nil {
			return err
		}
	}
	o, n = folderOnly(o), folderOnly(n)
	switch {
	case o != nil && n != nil:
		if sameContent(o.Content, n.Content) {
			return nil
		}
		if depth > format.MaxTreeDepth {
			return d.harm(at, errTooDeep)
		}
		return d.folders(ctx, at, *o.Content, *n.Content, depth)
	case o != nil:
		return d.old.walk(ctx, *o.Content, at, true, func(p string, o *format.Node) error { return d.fn(Change{Path: p, Old: o}) }, d.harm)
	case n != nil:
		return d.new.walk(ctx, *n.Content, at, true, func(p string, n *format.Node) error { return d.fn(Change{Path: p, New: n}) }, d.harm)
	}
	return nil
}

func folderOnly(n *format.Node) *format.Node {
	if n == nil || n.Type != format.Dir {
		return nil
	}
	return n
}

func sameContent(a, b *format.Content) bool {
	return a.Size == b.Size && a.Depth == b.Depth && bytes.Equal(a.Chunks, b.Chunks)
}

// folders compares the names in two folders, which come in the same order.
func (d *differ) folders(ctx context.Context, at string, old, new format.Content, depth int) error {
	a, b := d.old.pull(ctx, old), d.new.pull(ctx, new)
	defer a.stop()
	defer b.stop()
	for o, n := a.next(), b.next(); ; {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		for _, err := range []error{a.err, b.err} {
			if errors.Is(err, errTooMuch) {
				return err
			}
			if err != nil {
				return d.harm(at, err)
			}
		}
		if o == nil && n == nil {
			return nil
		}
		order := 0
		switch {
		case o == nil:
			order = 1
		case n == nil:
			order = -1
		default:
			order = bytes.Compare(o.Name, n.Name)
		}
		left, right := o, n
		if order < 0 {
			right = nil
		} else if order > 0 {
			left = nil
		}
		name := n
		if left != nil {
			name = left
		}
		if len(at)+len(name.Name) >= maxSource {
			return d.harm(at, errTooDeep)
		}
		if err := d.node(ctx, path.Join(at, string(name.Name)), left, right, depth+1); err != nil {
			return err
		}
		if left != nil {
			o = a.next()
		}
		if right != nil {
			n = b.next()
		}
	}
}

// pulled are the nodes of a folder, one when it is asked for.
type pulled struct {
	pull func() (*format.Node, bool)
	stop func()
	err  error // after next returned nil
}

// next returns the next node, or nil.
func (p *pulled) next() *format.Node {
	n, _ := p.pull()
	return n
}

// pull begins to go through a folder. The caller stops it at last.
func (r *reading) pull(ctx context.Context, dir format.Content) *pulled {
	p := &pulled{}
	p.pull, p.stop = iter.Pull(func(yield func(*format.Node) bool) {
		err := r.nodes(ctx, dir, func(n *format.Node) error {
			if err := r.count(n); err != nil {
				return err
			}
			if !yield(n) {
				return errFound
			}
			return nil
		})
		if !errors.Is(err, errFound) {
			p.err = err
		}
	})
	return p
}

// differs says in what two nodes of one name differ. Hard links and holes are
// no difference: numbers and blocks change without anybody's doing. comparable
// says that the ids of their contents can be compared.
func differs(a, b *format.Node, comparable bool) Changed {
	if a.Type != b.Type {
		return ChangedType
	}
	var c Changed
	note := func(what Changed, is bool) {
		if is {
			c |= what
		}
	}
	moved := a.Sec != b.Sec || a.Nsec != b.Nsec
	if a.Type == format.File {
		note(ChangedContent, comparable && !sameContent(a.Content, b.Content) || !comparable && (moved || a.Content.Size != b.Content.Size))
	}
	note(ChangedTarget, !bytes.Equal(a.Link, b.Link) || a.Rdev != b.Rdev)
	note(ChangedMode, a.Mode != b.Mode)
	note(ChangedOwner, a.UID != b.UID || a.GID != b.GID || a.User != b.User || a.Group != b.Group)
	note(ChangedTime, moved)
	note(ChangedXattrs, !slices.EqualFunc(a.Xattrs, b.Xattrs, func(x, y format.Xattr) bool {
		return bytes.Equal(x.Name, y.Name) && bytes.Equal(x.Value, y.Value)
	}))
	return c
}
