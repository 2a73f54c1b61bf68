package embassy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/format/gitignore"

	"embassy/chunk"
	"embassy/embassy/format"
)

const (
	windowItems = 50_000  // files, links, folders and chunks
	windowBytes = 4 << 30 // of content
	longPath    = 256     // bytes of a path that count as one more item
)

// window is a piece of a restore: what is planned, fetched and written
// together. Its size bounds the memory of a restore.
type window struct {
	dirs   []*folder  // to be made, parents first
	parts  []filePart // in the order of the tree
	lates  []late
	closed []*folder // in which nothing more comes after this window, children first
	items  int
	bytes  uint64
}

// folder is a folder to be restored.
type folder struct {
	parent *folder
	src    string // source path; empty: the dataset's own folder
	meta   meta
	placed bool            // in a window
	err    error           // why it could not be made
	names  map[string]bool // folded, of what is in it; while it is walked
}

// filePart is what one window holds of a file.
type filePart struct {
	file *restoredFile
	at   uint64 // offset of the first chunk
	ids  []chunk.ID
	last bool
}

// selection says what of a snapshot is asked for.
type selection struct {
	paths            []string
	found            []bool // by path
	include, exclude gitignore.Matcher
}

func newSelection(paths, include, exclude []string) (*selection, error) {
	s := &selection{}
	for _, p := range paths {
		if !strings.HasPrefix(p, "/") {
			return nil, fmt.Errorf("path %q: name the absolute path that the source had", p)
		}
		s.paths = append(s.paths, path.Clean(p))
	}
	s.found = make([]bool, len(s.paths))
	s.include, s.exclude = matcher(include), matcher(exclude)
	return s, nil
}

// judge says whether a name is to be restored, and whether something below it
// may be. inside says that an include pattern matches something above.
func (s *selection) judge(src string, dir, inside bool) (take, enter, nowInside bool) {
	var parts []string
	if s.include != nil || s.exclude != nil {
		parts = strings.Split(src[1:], "/")
	}
	if s.exclude != nil && s.exclude.Match(parts, dir) {
		return false, false, false
	}
	below, above := len(s.paths) == 0, false
	for i, p := range s.paths {
		if src == p {
			s.found[i] = true
		}
		below = below || p == "/" || src == p || strings.HasPrefix(src, p+"/")
		above = above || strings.HasPrefix(p, src+"/")
	}
	inside = inside || s.include == nil || s.include.Match(parts, dir)
	return below && inside, dir && (below || above), inside
}

// walker turns a tree into windows.
type walker struct {
	r      *reading
	choice *selection
	emit   func(context.Context, *window) error // owns the window
	lost   func(src, reason string)
	fold   func(string) string // see destination
	first  firstNames
	w      *window
	err    error // of emit, or errTooMuch
}

// walk goes through the tree. It returns the error of emit; what cannot be
// read is reported as lost, and the rest is walked, unless the tree holds more
// than its snapshot says.
func (k *walker) walk(ctx context.Context) error {
	k.w = &window{}
	top := &folder{}
	inside := k.choice.include == nil
	if len(k.choice.paths) == 0 && inside {
		k.place(top)
	}
	if err := k.folder(ctx, k.r.root.Tree, top, "", inside, 0); errors.Is(err, errTooMuch) {
		k.lost("/", "given up: "+errTooMuch.Error())
	} else if err != nil {
		return err
	}
	if top.placed {
		k.w.closed = append(k.w.closed, top)
	}
	for i, p := range k.choice.paths {
		if !k.choice.found[i] && p != "/" {
			k.lost(p, "not in this snapshot")
		}
	}
	return k.emit(ctx, k.w)
}

// folder walks one folder; the error is of emit or ctx, or errTooMuch.
func (k *walker) folder(ctx context.Context, list format.Content, dir *folder, src string, inside bool, depth int) error {
	if depth > format.MaxTreeDepth {
		k.lost(src, errTooDeep.Error())
		return nil
	}
	err := k.r.nodes(ctx, list, func(n *format.Node) error {
		if k.err = k.node(ctx, n, dir, src+"/"+string(n.Name), inside, depth); k.err != nil {
			return k.err
		}
		if k.w.items >= windowItems || k.w.bytes >= windowBytes {
			k.err = k.flush(ctx)
		}
		return k.err
	})
	dir.names = nil
	if k.err != nil {
		return k.err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		k.lost(cmp.Or(src, "/"), "folder list: "+err.Error())
	}
	return nil
}

func (k *walker) flush(ctx context.Context) error {
	w := k.w
	k.w = &window{}
	return k.emit(ctx, w)
}

// place puts a folder and those above it into the window, unless they were in
// one before.
func (k *walker) place(f *folder) {
	if f.placed {
		return
	}
	f.placed = true
	if f.parent != nil {
		k.place(f.parent)
	}
	k.w.dirs = append(k.w.dirs, f)
	k.w.items += 1 + len(f.src)/longPath
}

func (k *walker) node(ctx context.Context, n *format.Node, dir *folder, src string, inside bool, depth int) error {
	if err := k.r.count(n); err != nil {
		return err
	}
	if len(src) > maxSource {
		k.lost(src, errTooDeep.Error())
		return nil
	}
	take, enter, inside := k.choice.judge(src, n.Type == format.Dir, inside)
	if !take && !enter {
		return nil
	}
	if !localName(string(n.Name)) {
		k.lost(src, "this system cannot have a file of that name")
		return nil
	}
	if k.fold != nil && !dir.claim(k.fold(string(n.Name))) {
		k.lost(src, "this system takes its name for that of another one beside it")
		return nil
	}
	if n.Type == format.Dir {
		below := &folder{parent: dir, src: src, meta: metaOf(n)}
		if take {
			k.place(below)
		}
		var err error
		if enter {
			err = k.folder(ctx, *n.Content, below, src, inside, depth+1)
		}
		if below.placed {
			k.w.closed = append(k.w.closed, below)
		}
		return err
	}
	if !take {
		return nil
	}
	k.place(dir)
	k.w.items += 1 + (len(src)+len(n.Link))/longPath
	first := k.first.another(n, src)
	if n.Type == format.File && first == "" {
		return k.file(ctx, n, dir, src)
	}
	k.w.lates = append(k.w.lates, late{dir, string(n.Name), n.Type, string(n.Link), n.Rdev, metaOf(n), first})
	return nil
}

// claim reports whether no other name in the folder folded to the same.
func (f *folder) claim(folded string) bool {
	if f.names[folded] {
		return false
	}
	if f.names == nil {
		f.names = map[string]bool{}
	}
	f.names[folded] = true
	return true
}

// file puts the parts of a file into windows.
func (k *walker) file(ctx context.Context, n *format.Node, dir *folder, src string) error {
	f := newRestoredFile(dir, n, src)
	part := filePart{file: f}
	var at uint64
	err := k.r.each(ctx, *n.Content, func(id chunk.ID) error {
		from, to := k.r.table.find(id)
		if from == to {
			return errNoPlace(id)
		}
		raw := uint64(k.r.table.places[from].raw)
		if raw == 0 || raw > chunk.MaxSize || raw > f.size-at {
			return fmt.Errorf("%w: chunk %s of %d bytes does not fit into the file", format.ErrMalformed, id, raw)
		}
		part.ids = append(part.ids, id)
		at += raw
		k.w.items++
		k.w.bytes += raw
		if k.w.items >= windowItems || k.w.bytes >= windowBytes {
			k.w.parts = append(k.w.parts, part)
			part = filePart{file: f, at: at}
			k.err = k.flush(ctx)
		}
		return k.err
	})
	if k.err != nil || ctx.Err() != nil {
		return errors.Join(k.err, ctx.Err())
	}
	if err == nil && at != f.size {
		err = fmt.Errorf("%w: content of %d bytes, should be %d", format.ErrMalformed, at, f.size)
	}
	if err != nil {
		f.fail(err)
	}
	part.last = true
	part.ids = slices.Clip(part.ids)
	k.w.parts = append(k.w.parts, part)
	return nil
}
