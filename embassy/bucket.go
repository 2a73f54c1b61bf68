package embassy

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"embassy/embassy/config"
	"embassy/embassy/format"
	"embassy/targets"
)

// Bucket is a bucket of others that a dataset is backed up from. See
// targets.Bucket, which is one, for what its methods promise.
type Bucket interface {
	List(ctx context.Context, after string) iter.Seq2[targets.Entry, error]
	Look(ctx context.Context, key string) (targets.Entry, error)
	Open(ctx context.Context, e targets.Entry, offset int64) (*targets.Source, error)
}

// ErrNoObject: a bucket lists nothing where the objects of a dataset should be.
var ErrNoObject = errors.New("it lists no object: correct the bucket or the prefix of the url; a source that has lost everything makes no snapshot")

// openBucket opens what a dataset is backed up from. Nothing is asked of it yet.
func (s *Service) openBucket(b config.Bucket) (Bucket, error) {
	if s.bucket == nil {
		return nil, fmt.Errorf("source %s: this program opens no buckets", b.URL)
	}
	opened, err := s.bucket(b)
	if err != nil {
		return nil, fmt.Errorf("source %s: %w", b.URL, err)
	}
	return opened, nil
}

// objectTree makes the tree of a bucket from its listing. All keys below a
// folder follow one another there, but a folder stands elsewhere among its
// siblings than in a tree, so the nodes of a folder wait for its end.
type objectTree struct {
	*walk
	bucket Bucket
	in     *objectFolder             // that of the last key
	line   []objectItem              // in the order of the listing
	self   format.Node               // what all nodes have in common
	lists  map[string][]format.Xattr // the attributes of many objects; at most maxListings
	listed bool                      // there was an object
	failed int                       // objects in a row that could not be read though the store answered
	lost   error                     // why the first object of all is not in the snapshot; nil: none was lost
}

const maxListings = 1 << 10

// objectFolder is a folder of which not every key has been listed, or not
// every object was read.
type objectFolder struct {
	up     *objectFolder // nil: the root
	key    string        // which the keys in it begin with; it ends with a slash, or is empty
	path   string        // in the snapshot; it ends with a slash
	name   string
	skip   bool // it is excluded, with all below
	nodes  []objectNode
	marker time.Time // of the object that stands for the folder itself; zero: none
	newest time.Time // of what lies below
	known  *dirCursor
	record *dirRecord
}

// objectNode is what a node of a bucket has of its own. There may be a million
// in a folder.
type objectNode struct {
	name    string
	at      int64 // when it was modified, in nanoseconds
	content format.Content
	xattrs  []format.Xattr
	dir     bool
	changed bool
}

// objectItem is an object that may be on its way, or the end of a folder.
type objectItem struct {
	folder *objectFolder
	name   string
	file   *fileContent // nil: the folder ends
}

// objects builds the tree of a bucket. A listing that fails gives no tree.
func (w *walk) objects(b Bucket, url string) (format.Content, error) {
	w.counts.sourcesFound = 1
	t := &objectTree{walk: w, bucket: b, lists: map[string][]format.Xattr{}, self: w.own()}
	t.in = t.enter(&objectFolder{path: "/"})
	root, err := t.build()
	if fault := (bucketError{}); errors.As(err, &fault) {
		err = fmt.Errorf("source %s: %w: no snapshot is made of what it did not give; check that it is up and what its credentials may do, and run this again", url, fault.error)
	} else if errors.Is(err, ErrNoObject) {
		err = fmt.Errorf("source %s: %w", url, err)
	}
	return root, err
}

// bucketError is a fault of a source as a whole, which ends the run.
type bucketError struct{ error }

func (e bucketError) Unwrap() error { return e.error }

func (t *objectTree) build() (format.Content, error) {
	if err := t.list(); err != nil {
		return format.Content{}, err
	}
	if !t.listed {
		return format.Content{}, ErrNoObject
	}
	root := t.in
	for ; root.up != nil; root = root.up {
		t.leave(root)
	}
	if err := t.advance(0); err != nil {
		return format.Content{}, err
	}
	if t.lost != nil && t.counts.files == 0 {
		return format.Content{}, bucketError{fmt.Errorf("not one object could be read, the first because: %w", t.lost)}
	}
	return t.close(root)
}

// list adds everything that the bucket lists. After a fault it goes on behind
// the last key.
func (t *objectTree) list() error {
	last, some := "", false
	for try := 1; ; try++ {
		var fault error
		for e, err := range t.bucket.List(t.ctx, last) {
			if fault = err; err != nil {
				break
			}
			if some && e.Key == "" {
				continue
			}
			if err := t.add(e); err != nil {
				return err
			}
			last, some, try = e.Key, true, 0
		}
		if fault == nil {
			return nil
		}
		if !passing(fault) || try >= bucketAttempts || backOff(t.ctx, max(try, 1)) != nil {
			return bucketError{fault}
		}
	}
}

// add takes the next object of the listing.
func (t *objectTree) add(e targets.Entry) error {
	cut := strings.LastIndexByte(e.Key, '/') + 1
	folder, part := e.Key[:cut], e.Key[cut:]
	for !strings.HasPrefix(folder, t.in.key) {
		t.leave(t.in)
		t.in = t.in.up
	}
	for len(t.in.key) < len(folder) {
		next, _, _ := strings.Cut(folder[len(t.in.key):], "/")
		name := objectName(next)
		t.in = t.enter(&objectFolder{up: t.in, key: t.in.key + next + "/", path: t.in.path + name + "/", name: name})
	}
	if part == "" && e.Size == 0 {
		t.in.marker, t.in.newest = e.Modified, e.Modified
		t.listed = t.listed || e.Key != ""
		return t.advance(filesAhead)
	}
	t.listed = true
	name := objectName(part)
	switch {
	case t.in.skip:
	case t.filter.excluded(t.in.path+name, false):
		t.counts.left.Excluded++
	case t.filter.largest > 0 && e.Size > t.filter.largest:
		t.counts.left.Larger++
		t.counts.left.LargerBytes += uint64(e.Size)
	default:
		f, err := t.recallObject(part, e)
		if err != nil {
			return err
		}
		t.line = append(t.line, objectItem{t.in, name, f})
	}
	return t.advance(filesAhead)
}

// enter begins a folder.
func (t *objectTree) enter(d *objectFolder) *objectFolder {
	if d.up != nil {
		d.skip = d.up.skip || t.filter.excluded(d.path, true)
		if d.skip && !d.up.skip {
			t.counts.left.Excluded++
		}
	}
	if !d.skip {
		path := strings.TrimSuffix(d.path, "/")
		d.known, d.record = t.cache.open(path), t.cache.record(path)
	}
	return d
}

// leave says that no more keys of a folder come.
func (t *objectTree) leave(d *objectFolder) {
	if !d.skip {
		t.line = append(t.line, objectItem{folder: d})
	}
}

// advance completes what came first, until it is on its way and no more than
// so many items wait. So a source that fails is noticed at once, and not when
// everything that was asked for ahead has failed as well.
func (t *objectTree) advance(waiting int) error {
	for len(t.line) > waiting || len(t.line) > 0 && t.line[0].ready() {
		head := t.line[0]
		t.line = t.line[1:]
		keep := t.keepObject
		if head.file == nil {
			keep = t.keepFolder
		}
		if err := keep(head); err != nil {
			return err
		}
	}
	return nil
}

// ready reports whether an item is complete without waiting for the source.
func (i objectItem) ready() bool {
	if i.file == nil || i.file.pending == nil {
		return true
	}
	select {
	case <-i.file.pending.done:
		return true
	default:
		return false
	}
}

// keepObject adds an object to its folder when it has been read.
func (t *objectTree) keepObject(i objectItem) error {
	d, key := i.folder, i.file.object.entry.Key
	n := format.Node{Name: []byte(i.name)}
	if ok, err := t.finish("/"+key, &n, i.file, d.record); err != nil || !ok {
		return err
	}
	kept := objectNode{name: i.name, at: i.file.stat.Mtime, content: *n.Content, xattrs: t.shared(n.Xattrs), changed: n.Changed}
	if d.path+i.name != "/"+key {
		kept.xattrs = withKey(kept.xattrs, key)
	}
	d.nodes = append(d.nodes, kept)
	d.newest = later(d.newest, time.Unix(0, kept.at))
	return nil
}

// keepFolder adds a folder that is complete to the one above. One of which nothing
// is kept, and that has no marker, is none.
func (t *objectTree) keepFolder(i objectItem) error {
	d := i.folder
	c, err := t.close(d)
	if err != nil || len(d.nodes) == 0 && d.marker.IsZero() {
		return err
	}
	at := d.marker
	if at.IsZero() {
		at = d.newest
	}
	t.counts.dirs++
	d.up.nodes = append(d.up.nodes, objectNode{name: d.name, at: at.UnixNano(), content: c, dir: true})
	d.up.newest = later(d.up.newest, d.newest)
	return nil
}

// close builds the node list of a folder. Where an object has the name of a
// folder, the folder keeps it.
func (t *objectTree) close(d *objectFolder) (format.Content, error) {
	byName := func(a, b objectNode) int { return strings.Compare(a.name, b.name) }
	slices.SortFunc(d.nodes, byName)
	both := false
	for i := 1; i < len(d.nodes); i++ {
		a, b := &d.nodes[i-1], &d.nodes[i]
		if a.name != b.name {
			continue
		}
		if both = true; a.dir {
			a = b
		}
		if !slices.ContainsFunc(a.xattrs, func(x format.Xattr) bool { return string(x.Name) == keyAttribute }) {
			a.xattrs = withKey(a.xattrs, d.key+a.name)
		}
		a.name = besideFolder(a.name)
	}
	if both {
		slices.SortFunc(d.nodes, byName)
	}
	b := format.NewTreeBuilder(t.putTree)
	for _, kept := range d.nodes {
		n, at := t.self, time.Unix(0, kept.at)
		n.Type, n.Mode, n.Name, n.Content = format.File, 0o600, []byte(kept.name), &kept.content
		if kept.dir {
			n.Type, n.Mode = format.Dir, 0o700
		}
		n.Sec, n.Nsec, n.Xattrs, n.Changed = at.Unix(), uint32(at.Nanosecond()), kept.xattrs, kept.changed
		if err := b.Add(&n); err != nil {
			return format.Content{}, err
		}
	}
	if !t.dry {
		d.record.close(d.known)
	}
	return b.Finish()
}

// shared returns the same list for objects that have the same attributes: most
// have the type of the others, and nothing else.
func (t *objectTree) shared(list []format.Xattr) []format.Xattr {
	var all strings.Builder
	for _, x := range list {
		fmt.Fprintf(&all, "%q%q", x.Name, x.Value)
	}
	if known, ok := t.lists[all.String()]; ok {
		return known
	}
	if len(t.lists) < maxListings {
		t.lists[all.String()] = list
	}
	return list
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
