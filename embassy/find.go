package embassy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"

	"embassy/embassy/format"
)

// Found is a name in one state, and the snapshots of one series that have it
// so, one after another.
type Found struct {
	Path        string // absolute
	Node        *format.Node
	First, Last SnapshotInfo
	Snapshots   int // from First to Last
}

// Find returns every name at or below an absolute source path that match
// accepts, in any snapshot of the dataset, in the order of paths and then of
// snapshots. A file that changed is found once for each state in which it
// matches; a folder once for as long as it is there. After the first snapshot
// of an agent only what differs is read, so match is not asked again about the
// rest. What cannot be read is passed over, and makes the error, beside what
// was found. A path that is in none of them is fs.ErrNotExist.
func (v *View) Find(ctx context.Context, dataset, at string, match func(n *format.Node) bool) ([]Found, error) {
	series := map[format.ID][]SnapshotInfo{} // oldest first
	all := v.Snapshots(dataset)
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: no snapshot of dataset %s on the targets that answer", ErrNoSnapshot, dataset)
	}
	for _, s := range slices.Backward(all) {
		series[s.Agent] = append(series[s.Agent], s)
	}
	var out []Found
	var damaged harms
	there := false
	for _, snapshots := range series {
		f := finder{view: v, at: path.Clean("/" + at), match: match, runs: map[string]*run{}, damaged: &damaged}
		err := f.series(ctx, snapshots)
		f.close()
		if err != nil {
			return nil, err
		}
		out, there = append(out, f.found...), there || f.there
	}
	if !there && len(damaged) == 0 {
		return nil, fmt.Errorf("%q: %w", at, fs.ErrNotExist)
	}
	slices.SortFunc(out, func(a, b Found) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.First.Summary.Time, b.First.Summary.Time))
	})
	return out, errors.Join(damaged...)
}

// run is a match that goes on.
type run struct {
	node  *format.Node
	under naming
	first int // in finder.read
}

// finder goes through one series.
type finder struct {
	view    *View
	at      string
	match   func(n *format.Node) bool
	damaged *harms

	read  []SnapshotInfo // that were gone through
	runs  map[string]*run
	found []Found
	there bool         // the path is in one of them
	last  *reading     // that the runs are of; nil: not all of it could be read
	of    SnapshotInfo // that last reads
}

// close ends all runs with the last snapshot.
func (f *finder) close() {
	if f.last != nil {
		f.last.close()
	}
	for at := range f.runs {
		f.end(at, len(f.read))
	}
}

// end ends a run before the snapshot of that number.
func (f *finder) end(at string, before int) {
	r := f.runs[at]
	f.found = append(f.found, Found{at, r.node, f.read[r.first], f.read[before-1], before - r.first})
	delete(f.runs, at)
}

// state takes the state of a name in the newest snapshot, whose reading is
// given; nil: not there.
func (f *finder) state(in *reading, at string, n *format.Node) {
	newest := len(f.read) - 1
	matches := n != nil && f.match(n)
	if matches {
		kept := *n // without those beside it
		n = &kept
	}
	if r := f.runs[at]; r != nil {
		if matches && goesOn(r.node, n, r.under == in.naming) {
			r.node, r.under = n, in.naming
			return
		}
		f.end(at, newest)
	}
	if matches {
		f.runs[at] = &run{n, in.naming, newest}
	}
}

// goesOn reports whether a name is still in what a person takes for one state.
func goesOn(a, b *format.Node, comparable bool) bool {
	if a.Type == format.Dir && b.Type == format.Dir {
		return true
	}
	return differs(a, b, comparable)&(ChangedType|ChangedContent|ChangedTarget|ChangedTime) == 0
}

// series goes through all snapshots. One that cannot be opened might as well
// not be there. The error is of ctx, or for want of a key.
func (f *finder) series(ctx context.Context, snapshots []SnapshotInfo) error {
	for _, s := range snapshots {
		err := f.snapshot(ctx, s)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, ErrNoReader) {
			return err
		}
		if err != nil {
			f.pass(s, "/", err)
		}
	}
	return nil
}

// pass notes what of a snapshot is passed over.
func (f *finder) pass(s SnapshotInfo, at string, err error) {
	f.damaged.add(at, fmt.Errorf("in snapshot %.12s: %w", s.Hash, err))
}

func (f *finder) snapshot(ctx context.Context, s SnapshotInfo) error {
	r, locate, err := f.view.openRoot(ctx, s, nil, false)
	if err != nil {
		return err
	}
	if f.last != nil && sameContent(&f.last.root.Tree, &r.root.Tree) {
		f.read = append(f.read, s)
		r.close()
		return nil
	}
	if err := locate(ctx); err != nil {
		r.close()
		return err
	}
	f.read = append(f.read, s)
	whole := f.last != nil && f.compare(ctx, r)
	if !whole {
		r.left = s.Summary // as if nothing was counted yet
		whole = f.walk(ctx, r, s)
	}
	if f.last != nil {
		f.last.close()
	}
	if f.last, f.of = r, s; !whole {
		r.close()
		f.last = nil
	}
	return nil
}

// compare takes what differs from the last snapshot, and reports whether that
// was all.
func (f *finder) compare(ctx context.Context, r *reading) bool {
	f.last.left = f.of.Summary
	d := &differ{
		old: f.last, new: r, harm: func(_ string, err error) error { return err },
		fn: func(c Change) error {
			f.state(r, c.Path, c.New)
			return nil
		},
	}
	err := d.at(ctx, f.at)
	f.there = f.there || err == nil
	return err == nil || errors.Is(err, fs.ErrNotExist)
}

// walk takes a whole snapshot, notes what is damaged, and reports whether
// nothing is. A run of what it does not meet ends.
func (f *finder) walk(ctx context.Context, r *reading, s SnapshotInfo) bool {
	whole, met := true, map[string]bool{}
	take := func(at string, n *format.Node) error {
		if f.state(r, at, n); f.runs[at] != nil {
			met[at] = true
		}
		return nil
	}
	top, err := r.seek(ctx, f.at)
	if err == nil {
		f.there = true
		if f.at != "/" {
			err = take(f.at, top)
		}
		if err == nil && top.Type == format.Dir {
			err = r.walk(ctx, *top.Content, f.at, true, take, func(at string, err error) error {
				whole = false
				f.pass(s, at, err)
				return nil
			})
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		whole = false
		f.pass(s, f.at, err)
	}
	for at := range f.runs {
		if !met[at] {
			f.end(at, len(f.read)-1)
		}
	}
	return whole
}
