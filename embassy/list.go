package embassy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"embassy/embassy/format"
)

// ErrNoSnapshot: no snapshot is there under that name or of that time.
var ErrNoSnapshot = errors.New("no such snapshot")

// maxCandidates bounds what one error lists.
const maxCandidates = 10

// Snapshots returns the snapshots of a dataset, or of all for "", newest
// first. The caller may keep the slice and not change it.
func (v *View) Snapshots(dataset string) []SnapshotInfo {
	if dataset == "" {
		return v.snapshots
	}
	var out []SnapshotInfo
	for _, s := range v.snapshots {
		if s.Summary.Dataset == dataset {
			out = append(out, s)
		}
	}
	return out
}

// Pick returns the one snapshot of a dataset ("": of any) whose hash begins
// with id, or the newest for "latest" or "". Unless at is zero, newer ones do
// not count. Where the order of a chain contradicts the time that its agent
// claims, the order counts. The error wraps ErrNoSnapshot, or lists the
// candidates.
func (v *View) Pick(dataset, id string, at time.Time) (SnapshotInfo, error) {
	what := "dataset " + dataset
	if dataset == "" {
		what = "any dataset"
	}
	if id == "latest" {
		id = ""
	}
	all := v.Snapshots(dataset)
	var found []SnapshotInfo
	for _, s := range all {
		if (at.IsZero() || !s.placed().After(at)) && strings.HasPrefix(s.Hash.String(), strings.ToLower(id)) {
			found = append(found, s)
		}
	}
	switch {
	case len(found) > 0 && id == "":
		latest := found[0]
		if at.IsZero() {
			latest.Newer = v.Doubt(latest.Summary.Dataset, latest.placed())
		}
		return latest, v.withheld(latest)
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		var b strings.Builder
		for i, s := range found {
			if i == maxCandidates {
				fmt.Fprintf(&b, "\n  and %d more", len(found)-i)
				break
			}
			fmt.Fprintf(&b, "\n  %s  %s  %s", s.Hash, s.Summary.When().Format(time.RFC3339), s.Summary.Dataset)
		}
		return SnapshotInfo{}, fmt.Errorf("%q is the beginning of %d snapshots; name one of them further:%s", id, len(found), b.String())
	case len(all) == 0:
		return SnapshotInfo{}, fmt.Errorf("%w: no snapshot of %s on the targets that answer", ErrNoSnapshot, what)
	case id != "":
		return SnapshotInfo{}, fmt.Errorf("%w: none of %s begins with %q", ErrNoSnapshot, what, id)
	default:
		oldest := slices.MinFunc(all, func(a, b SnapshotInfo) int { return cmp.Compare(a.when, b.when) })
		return SnapshotInfo{}, fmt.Errorf("%w: the oldest of %s is of %s", ErrNoSnapshot, what,
			oldest.placed().Format(time.RFC3339))
	}
}

// Walk calls fn for what lies at an absolute source path in the snapshot: for
// a folder, with each name in it, and recursively with all below, parents
// first; for anything else with itself. The paths begin with a slash. The node
// is fn's to keep. A folder whose list is damaged is passed over and makes the
// error; a tree with more in it than the snapshot says ends the walk. A path
// that is not there is fs.ErrNotExist.
func (v *View) Walk(ctx context.Context, s SnapshotInfo, at string, recursive bool, fn func(path string, n *format.Node) error) error {
	r, err := v.open(ctx, s, nil, false)
	if err != nil {
		return err
	}
	defer r.close()
	at = path.Clean("/" + at)
	n, err := r.seek(ctx, at)
	if err != nil {
		return err
	}
	if n.Type != format.Dir {
		return fn(at, n)
	}
	var damaged harms
	if err := r.walk(ctx, *n.Content, at, recursive, fn, damaged.pass); err != nil {
		return err
	}
	return errors.Join(damaged...)
}

// harms are what a walk passed over, one by one as far as a person reads them.
type harms []error

// pass notes that something is not to be had, and lets all go on.
func (h *harms) pass(at string, err error) error {
	h.add(at, err)
	return nil
}

func (h *harms) add(at string, err error) {
	if len(*h) < maxCandidates {
		*h = append(*h, fmt.Errorf("%q: %w", at, err))
	} else if len(*h) == maxCandidates {
		*h = append(*h, errors.New("and more"))
	}
}

// seek returns what lies at a clean absolute source path, or fs.ErrNotExist.
// For / that is a folder without a name.
func (r *reading) seek(ctx context.Context, at string) (*format.Node, error) {
	n, above := &format.Node{Type: format.Dir, Content: &r.root.Tree}, "/"
	for rest := strings.Trim(at, "/"); rest != ""; {
		if n.Type != format.Dir {
			return nil, fmt.Errorf("%q is no folder: %w", above, fs.ErrNotExist)
		}
		var name string
		var err error
		name, rest, _ = strings.Cut(rest, "/")
		if n, err = r.lookup(ctx, *n.Content, name); err != nil {
			return nil, fmt.Errorf("%q: %w", at, err)
		}
		above = path.Join(above, name)
	}
	return n, nil
}

// walk calls fn with each name in the folder that has the path at, and
// recursively with all below, parents first. What cannot be read goes to harm,
// whose error ends the walk, as that of fn, of ctx, and errTooMuch do.
func (r *reading) walk(ctx context.Context, dir format.Content, at string, recursive bool,
	fn func(path string, n *format.Node) error, harm func(path string, err error) error) error {
	var below func(dir format.Content, at string, depth int) error
	below = func(dir format.Content, at string, depth int) error {
		var wrong error // what ends the walk
		err := r.nodes(ctx, dir, func(n *format.Node) error {
			if wrong = r.count(n); wrong != nil {
				return wrong
			}
			name := path.Join(at, string(n.Name))
			if len(name) > maxSource {
				wrong = harm(at, errTooDeep)
				return wrong
			}
			if wrong = fn(name, n); wrong != nil || n.Type != format.Dir || !recursive {
				return wrong
			}
			if depth == format.MaxTreeDepth {
				wrong = harm(name, errTooDeep)
			} else {
				wrong = below(*n.Content, name, depth+1)
			}
			return wrong
		})
		switch {
		case wrong != nil:
			return wrong
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return harm(at, err)
		}
		return nil
	}
	return below(dir, at, 0)
}

// timeLayouts are the forms that ParseTime reads, with how much time each of
// them names.
var timeLayouts = []struct {
	layout string
	span   time.Duration
}{
	{time.RFC3339Nano, 0},
	{time.RFC3339, time.Second},
	{time.DateTime, time.Second},
	{"2006-01-02 15:04", time.Minute},
	{time.DateOnly, 24 * time.Hour},
}

// ParseTime reads a time as people write it and as listings print it. Without
// a zone it is UTC. It returns the last moment of the second, minute or day
// that is named, so that a time copied from a listing finds its snapshot.
func ParseTime(text string) (time.Time, error) {
	for _, l := range timeLayouts {
		if l.span == 0 && !strings.Contains(text, ".") {
			continue // only a fraction of a second is exact
		}
		if t, err := time.Parse(l.layout, text); err == nil {
			return t.Add(max(0, l.span-1)).UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time; write 2026-11-21, \"2026-11-21 14:00\" (in UTC) or 2026-11-21T14:00:00+02:00", text)
}
