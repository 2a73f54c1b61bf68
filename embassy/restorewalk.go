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
	windowItems = 50_000   // files, links, folders and chunks
	windowBytes = 4 << 30  // of content
	maxHeld     = 64 << 20 // bytes of the attributes of a folder and all above
	longPath    = 256      // bytes of a path, or of attributes, that count as one more item
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
	inside bool            // an include pattern matches it, or something above
	early  bool            // it comes before all else, with all in it
	placed bool            // in a window
	made   bool            // by this run: nothing was there
	err    error           // why it could not be made
	names  map[string]bool // folded, of what is in it; while it is walked
	has    nameSet         // of what is in it; empty unless names are to be deleted
	whole  bool            // all of its list was read
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
	for i, p := range s.paths {
		if src == p {
			s.found[i] = true
		}
	}
	return s.weigh(src, dir, inside)
}

// weigh is judge of a name that need not be in the snapshot. Safe for
// concurrent use.
func (s *selection) weigh(src string, dir, inside bool) (take, enter, nowInside bool) {
	var parts []string
	if s.include != nil || s.exclude != nil {
		parts = strings.Split(src[1:], "/")
	}
	if s.exclude != nil && s.exclude.Match(parts, dir) {
		return false, false, false
	}
	below, above := len(s.paths) == 0, false
	for _, p := range s.paths {
		below = below || p == "/" || src == p || strings.HasPrefix(src, p+"/")
		above = above || strings.HasPrefix(p, src+"/")
	}
	inside = inside || s.include == nil || s.include.Match(parts, dir)
	return below && inside, dir && (below || above), inside
}

// covers reports whether all of a folder is asked for, patterns aside.
func (s *selection) covers(src string) bool {
	return len(s.paths) == 0 || slices.ContainsFunc(s.paths, func(p string) bool {
		return p == "/" || src == p || strings.HasPrefix(src, p+"/")
	})
}

// ordering reads the patterns of what comes first. Those that do not begin with
// a slash match at any depth.
func ordering(patterns []string) gitignore.Matcher {
	var any []string
	for _, p := range patterns {
		if p = strings.TrimSpace(p); !strings.HasPrefix(p, "/") && strings.Contains(strings.TrimSuffix(p, "/"), "/") {
			p = "**/" + p
		}
		any = append(any, p)
	}
	return matcher(any)
}

// walker turns a tree into windows. What comes first is walked first; then the
// tree is walked again for the rest.
type walker struct {
	r      *reading
	choice *selection
	order  gitignore.Matcher                    // of what comes first; nil: nothing
	emit   func(context.Context, *window) error // owns the window
	lost   func(src, reason string)
	fold   func(string) string                   // see destination
	usable func(n *format.Node, src string) bool // what is there may be the first name of a file; nil: always
	spare  func(name string) bool                // no name to restore; nil: none
	names  bool                                  // note which names a folder has
	first  firstNames
	named  *owners // nil: owners are numbers
	early  bool    // only what comes first
	absent int     // paths that were chosen and are not in the snapshot
	held   int     // bytes of the attributes of the open folders
	w      *window
	err    error // of emit, or errTooMuch
}

// walk goes through the tree. It returns the error of emit; what cannot be
// read is reported as lost, and the rest is walked, unless the tree holds more
// than its snapshot says.
func (k *walker) walk(ctx context.Context) error {
	k.w = &window{}
	if k.order != nil {
		all := k.r.left
		k.early = true
		err := k.top(ctx)
		if err == nil {
			err = k.flush(ctx)
		}
		if err != nil {
			return err
		}
		k.early, k.r.left = false, all
	}
	if err := k.top(ctx); err != nil {
		return err
	}
	for i, p := range k.choice.paths {
		if !k.choice.found[i] && p != "/" {
			k.absent++
			k.lost(p, "not in this snapshot")
		}
	}
	return k.emit(ctx, k.w)
}

// top walks the whole tree. The error is that of emit or ctx.
func (k *walker) top(ctx context.Context) error {
	top := &folder{inside: k.choice.include == nil}
	if len(k.choice.paths) == 0 && top.inside {
		k.place(top)
	}
	err := k.folder(ctx, k.r.root.Tree, top, 0)
	if errors.Is(err, errTooMuch) {
		k.refuse("/", "given up: "+errTooMuch.Error())
		err = nil
	}
	k.close(top)
	return err
}

// refuse reports what the tree says and cannot be had, once in two walks.
func (k *walker) refuse(src, reason string) {
	if !k.early {
		k.lost(src, reason)
	}
}

// close says that nothing more comes into a folder.
func (k *walker) close(f *folder) {
	if f.placed && !k.early {
		k.w.closed = append(k.w.closed, f)
	}
}

// folder walks one folder; the error is of emit or ctx, or errTooMuch.
func (k *walker) folder(ctx context.Context, list format.Content, dir *folder, depth int) error {
	if depth > format.MaxTreeDepth {
		k.refuse(dir.src, errTooDeep.Error())
		return nil
	}
	err := k.r.nodes(ctx, list, func(n *format.Node) error {
		if k.err = k.node(ctx, n, dir, depth); k.err != nil {
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
		k.lost(cmp.Or(dir.src, "/"), "folder list: "+err.Error())
	}
	dir.whole = err == nil
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
	k.w.items += 1 + (len(f.src)+f.meta.size())/longPath
}

func (k *walker) node(ctx context.Context, n *format.Node, dir *folder, depth int) error {
	if err := k.r.count(n); err != nil {
		return err
	}
	name := string(n.Name)
	src := dir.src + "/" + name
	if k.names && !k.early {
		dir.has.add(k.folded(name))
	}
	if len(src) > maxSource {
		k.refuse(src, errTooDeep.Error())
		return nil
	}
	take, enter, inside := k.choice.judge(src, n.Type == format.Dir, dir.inside)
	if !take && !enter {
		return nil
	}
	if !localName(name) || k.spare != nil && k.spare(name) {
		k.refuse(src, "no file can be restored under that name here")
		return nil
	}
	if k.fold != nil && !dir.claim(k.fold(name)) {
		k.refuse(src, "this system takes its name for that of another one beside it")
		return nil
	}
	early := dir.early || k.order != nil && k.order.Match(strings.Split(src[1:], "/"), n.Type == format.Dir)
	if n.Type == format.Dir {
		below := &folder{parent: dir, src: src, meta: metaOf(n, k.named), inside: inside, early: early}
		if k.held += below.meta.size(); k.held > maxHeld {
			k.refuse(src+"/", "the attributes of it and of the folders above take too much memory")
			k.held -= below.meta.size()
			below.meta.xattrs = nil
		}
		defer func() { k.held -= below.meta.size() }()
		if take {
			k.place(below)
		}
		var err error
		if enter {
			err = k.folder(ctx, *n.Content, below, depth+1)
		}
		k.close(below)
		return err
	}
	if !take || k.early && !early {
		return nil
	}
	k.place(dir)
	if early && !k.early {
		return nil // it was restored in the first walk
	}
	meta := metaOf(n, k.named)
	k.w.items += 1 + (len(src)+len(n.Link)+8*len(n.Holes)+meta.size())/longPath
	first := ""
	if k.usable == nil || n.Hard == 0 || k.usable(n, src) {
		first = k.first.another(n, src)
	}
	if n.Type == format.File && first == "" {
		return k.file(ctx, n, dir, src)
	}
	k.w.lates = append(k.w.lates, late{
		dir: dir, name: name, kind: n.Type, target: string(n.Link), rdev: n.Rdev, meta: meta, hard: n.Hard != 0, first: first,
		size: sizeOf(n),
	})
	return nil
}

// sizeOf returns the size of a file; 0 of anything else.
func sizeOf(n *format.Node) uint64 {
	if n.Type != format.File {
		return 0
	}
	return n.Content.Size
}

// folded is what a name of a folder is compared by.
func (k *walker) folded(name string) string {
	if k.fold == nil {
		return name
	}
	return k.fold(name)
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
	f := newRestoredFile(dir, n, src, k.named)
	if k.spare != nil {
		f.work = workName(f.name)
	}
	part := filePart{file: f}
	var at uint64
	err := k.r.each(ctx, *n.Content, func(id chunk.ID) error {
		_, raw, err := k.r.table.piece(id, f.size-at)
		if err != nil {
			return err
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
