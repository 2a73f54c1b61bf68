package embassy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"embassy/crypto"
	"embassy/embassy/format"
)

const (
	maxBareNames     = 1 << 20 // packs and snapshots that are kept of one target's list
	maxBareSnapshots = 1 << 16 // snapshots among them
	maxBareListed    = 1 << 23 // names that one target may list in all
	maxBareFolders   = 1 << 12 // agents' folders of packs or of snapshots on one target
)

// bareView is what a compartment of a View without a charter has beside it.
type bareView struct {
	keys      *bareKeys
	snapshots map[format.Hash]committed
	packs     []bareName // not yet read; nil once table is there

	making sync.Mutex
	table  *table      // of all packs; nil until a snapshot is opened
	owners []format.ID // by segment: its agent, if it lies in that agent's folder
	agent  format.ID   // whose places come first in the table
}

// bareFolder is where an agent's objects of one kind lie.
type bareFolder struct {
	compartment, agent format.ID
	kind               format.Kind
}

// bareObject is an object as a target lists it. What another target says of
// its size, true or not, makes another one.
type bareObject struct {
	hash format.Hash
	size uint32
}

// bareName is an object as the targets together list it.
type bareName struct {
	bareFolder
	bareObject
	shown uint64
}

func (n bareName) object() object {
	return object{n.kind, n.hash, uint64(n.size), n.agent, n.shown}
}

// OpenBareView is OpenView of a nation of which no charter is left: it takes
// compartments, agents, snapshots and packs from what the members list, keys
// from the root and those before it, and names of datasets from the summaries.
// Members and the rest of o are as in OpenView; Keys and Order do not matter.
//
// Nobody vouches for which agent wrote what, or for what is newest: a snapshot
// counts because its summary opens, so that somebody who had the compartment's
// writer secret made it, and its chunks because of their keyed ids. A revoked
// agent counts like any other. What is listed and is no such thing goes to Warn.
//
// The Keys have the id of a compartment for its name, and priorities as the
// newest summary of a dataset has them. They know no agents.
func OpenBareView(ctx context.Context, o ViewOptions, nation format.ID, root *crypto.Root) (*View, *Keys, error) {
	o.Keys, o.Order = &Keys{Charter: &format.Charter{Nation: nation}}, nil
	v, err := newView(o)
	if err != nil {
		return nil, nil, err
	}
	live, err := v.reach(ctx)
	if err != nil {
		return nil, nil, err
	}
	l := v.listBare(ctx)
	if err := ctx.Err(); err != nil {
		return nil, nil, fmt.Errorf("list the targets: %w", err)
	}
	if err := v.readBare(ctx, l, root); err != nil {
		return nil, nil, fmt.Errorf("read the snapshots: %w", err)
	}
	v.log.Debug("targets listed", "targets", len(live), "snapshots", len(v.snapshots))
	return v, v.keys, nil
}

// bareShelf holds what one member lists. When it is full the longest folder
// loses its end: who floods a folder harms that one.
type bareShelf struct {
	folders map[bareFolder][]bareObject
	cut     map[bareFolder]bool
	total   map[format.Kind]int
	over    int // names in folders beyond the bound
}

func newBareShelf() *bareShelf {
	return &bareShelf{folders: map[bareFolder][]bareObject{}, cut: map[bareFolder]bool{}, total: map[format.Kind]int{}}
}

func (s *bareShelf) add(f bareFolder, o bareObject) {
	if s.folders[f] == nil && len(s.folders) == maxBareFolders {
		s.over++
		return
	}
	if s.cut[f] {
		return
	}
	s.folders[f] = append(s.folders[f], o)
	most := maxBareNames
	if f.kind == format.KindSnapshot {
		most = maxBareSnapshots
	}
	if s.total[f.kind]++; s.total[f.kind] <= most {
		return
	}
	longest := f
	for other, list := range s.folders {
		if other.kind == f.kind && len(list) > len(s.folders[longest]) {
			longest = other
		}
	}
	list := s.folders[longest]
	s.folders[longest], s.cut[longest] = slices.Clone(list[:len(list)/2]), true
	s.total[f.kind] -= len(list) - len(list)/2
}

// parseBare reads what follows the nation in the name of a pack or snapshot.
// mine is false for every other name.
func parseBare(rest string) (f bareFolder, h format.Hash, mine bool, err error) {
	parts := strings.Split(rest, "/")
	if len(parts) < 3 {
		return f, h, false, nil
	}
	switch {
	case parts[2] == "pack" && len(parts) == 5:
		f.kind = format.KindPack
	case parts[2] == "snapshot" && len(parts) == 4:
		f.kind = format.KindSnapshot
	default:
		return f, h, false, nil
	}
	last := parts[len(parts)-1]
	if f.compartment, err = format.ParseID(parts[0]); err == nil {
		if f.agent, err = format.ParseID(parts[1]); err == nil {
			h, err = format.ParseHash(last)
		}
	}
	if err == nil && f.kind == format.KindPack && parts[3] != last[:2] {
		err = fmt.Errorf("%w: pack in another folder", format.ErrMalformed)
	}
	return f, h, true, err
}

// listBare asks every member for everything that it has of the nation. It
// returns the union, what most members show first.
func (v *View) listBare(ctx context.Context) []bareName {
	type key struct {
		bareFolder
		bareObject
	}
	shown := map[key]uint64{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i, m := range v.members {
		if m.Down() != nil {
			continue
		}
		wg.Go(func() {
			s := v.listOneBare(ctx, m)
			mu.Lock()
			defer mu.Unlock()
			for f, list := range s.folders {
				for _, o := range list {
					shown[key{f, o}] |= 1 << i
				}
			}
		})
	}
	wg.Wait()
	out := make([]bareName, 0, len(shown))
	for k, by := range shown {
		out = append(out, bareName{k.bareFolder, k.bareObject, by})
	}
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] }) // no host chooses what comes first
	slices.SortStableFunc(out, func(a, b bareName) int {
		return cmp.Compare(bits.OnesCount64(b.shown), bits.OnesCount64(a.shown))
	})
	return out
}

func (v *View) listOneBare(ctx context.Context, m *Member) *bareShelf {
	var s *bareShelf
	var names, odd int
	prefix := v.keys.Charter.Nation.String() + "/"
	err := m.do(ctx, func(ctx context.Context) error {
		s, names, odd = newBareShelf(), 0, 0
		for info, err := range m.names(ctx, prefix) {
			if err != nil {
				return err
			}
			if names++; names > maxBareListed {
				return nil
			}
			f, h, mine, err := parseBare(strings.TrimPrefix(info.Name, prefix))
			switch {
			case !mine:
			case err != nil, info.Size < 1, uint64(info.Size) > f.kind.MaxSize():
				odd++
			default:
				s.add(f, bareObject{h, uint32(info.Size)})
			}
		}
		return nil
	})
	tell := func(object, format string, args ...any) {
		v.warn(Finding{Target: m.Name, Object: object, Err: fmt.Errorf(format, args...)})
	}
	// A fault trips the breaker, which tells; what was listed before counts.
	if err != nil && answered(err) {
		v.warn(Finding{Target: m.Name, Object: prefix, Err: err})
	}
	if names > maxBareListed {
		tell(prefix, "lists more than %d names; the rest is ignored", maxBareListed)
	}
	if s.over > 0 {
		tell(prefix, "lists %d names in more than %d folders of agents, which are ignored", s.over, maxBareFolders)
	}
	if odd > 0 {
		tell(prefix, "lists %d names or sizes that no pack or snapshot has", odd)
	}
	for f := range s.cut {
		tell(fmt.Sprintf("%s%s/%s/%s/", prefix, f.compartment, f.agent, f.kind), "lists more than can be read; what comes after the first %d is ignored", len(s.folders[f]))
	}
	tellDown([]*Member{m}, v.warn)
	return s
}

// bareTrials counts, by member, what its names turned out to be worth. Once a
// member has shown too many that are nothing, what only such members show is
// not read.
type bareTrials []trial

// forged reports whether an object is not to be read, and counts that.
func (ts bareTrials) forged(shown uint64) bool {
	all := true
	ts.each(shown, func(t *trial) { all = all && t.lost() })
	if all {
		ts.each(shown, func(t *trial) { t.unread.Add(1) })
	}
	return all
}

// book counts how an object turned out. Silence is no proof of anything.
func (ts bareTrials) book(shown uint64, err error) {
	ts.each(shown, func(t *trial) {
		if err == nil {
			t.good.Add(1)
		} else if final(err) {
			t.bad.Add(1)
		}
	})
}

func (ts bareTrials) each(shown uint64, fn func(t *trial)) {
	for i := range ts {
		if shown&(1<<i) != 0 {
			fn(&ts[i])
		}
	}
}

// tell tells of what was not read.
func (ts bareTrials) tell(v *View, what string) {
	for i := range ts {
		if unread := ts[i].unread.Load(); unread > 0 {
			v.warn(Finding{Target: v.members[i].Name, Err: fmt.Errorf("lists %d %ss that are none; %d more, which no target shows that lists fewer such, were not read",
				ts[i].bad.Load(), what, unread)})
		}
	}
}

// readBare opens the summary of every snapshot, and keeps of the compartments
// those that have one.
func (v *View) readBare(ctx context.Context, l []bareName, root *crypto.Root) error {
	all := map[format.ID]*compartmentView{}
	var snapshots int
	for _, n := range l {
		if n.kind != format.KindSnapshot {
			continue
		}
		snapshots++
		if all[n.compartment] == nil {
			c := &Compartment{ID: n.compartment, Part: format.CompartmentPart{Name: n.compartment.String()}}
			all[c.ID] = v.compartment(c, nil)
			all[c.ID].bare = &bareView{snapshots: map[format.Hash]committed{}, keys: &bareKeys{
				nation: v.keys.Charter.Nation, id: c.ID, roots: derivable(root, c.ID),
				writers: map[uint32]*format.Writer{}, readers: map[uint32][]*crypto.Identity{},
			}}
		}
	}
	meter := newMeter(v.progress, v.now, "snapshots", "")
	defer meter.end()
	meter.add(func(p *Progress) { p.FilesTotal = uint64(snapshots) })
	trials := make(bareTrials, len(v.members))
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(smallFetches)
	for _, n := range l {
		if n.kind != format.KindSnapshot || ctx.Err() != nil {
			continue
		}
		g.Go(func() error {
			defer meter.add(func(p *Progress) { p.Files++ })
			if ctx.Err() != nil || trials.forged(n.shown) {
				return nil
			}
			c := all[n.compartment]
			s, info, err := v.bareSnapshot(ctx, c, n)
			trials.book(n.shown, err)
			if errors.Is(err, errNoName) { // the copies are good
				v.warn(Finding{Object: c.source.name(n.object()), Err: fmt.Errorf("snapshot left out: %w", err)})
			}
			if err != nil {
				return nil // reported, copy by copy
			}
			mu.Lock()
			defer mu.Unlock()
			if _, ok := c.bare.snapshots[s.hash]; !ok {
				c.bare.snapshots[s.hash] = s
				v.snapshots = append(v.snapshots, info)
			}
			return nil
		})
	}
	g.Wait()
	trials.tell(v, "snapshot")
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, c := range all {
		if len(c.bare.snapshots) > 0 {
			c.bare.keys.install(c)
			v.compartments = append(v.compartments, c)
			v.keys.Compartments = append(v.keys.Compartments, c.Compartment)
		}
	}
	slices.SortFunc(v.compartments, func(a, b *compartmentView) int { return slices.Compare(a.ID[:], b.ID[:]) })
	slices.SortFunc(v.keys.Compartments, func(a, b *Compartment) int { return slices.Compare(a.ID[:], b.ID[:]) })
	for _, n := range l {
		if c := all[n.compartment]; n.kind == format.KindPack && c != nil && len(c.bare.snapshots) > 0 {
			c.bare.packs = append(c.bare.packs, n)
		}
	}
	v.arrange()
	v.nameDatasets()
	return nil
}

// errNoName: a dataset has a name that no configuration takes.
var errNoName = errors.New("not a name for a dataset")

// bareSnapshot reads a snapshot and opens its summary.
func (v *View) bareSnapshot(ctx context.Context, c *compartmentView, n bareName) (committed, SnapshotInfo, error) {
	s := committed{c: c, object: n.object(), sizes: []uint64{uint64(n.size)}}
	room := int64(n.size)
	if err := v.room.Acquire(ctx, room); err != nil {
		return s, SnapshotInfo{}, err
	}
	defer v.room.Release(room)
	q := request{name: c.source.name(s.object), shown: n.shown, only: true, size: room}
	var summary format.Summary
	err := c.source.try(ctx, q, func(ctx context.Context, r ranked) error {
		data, old, err := r.readSized(ctx, q.name, n.hash, room, format.MaxSnapshotSize)
		if err != nil {
			return err
		}
		if old != nil {
			v.report(r, q, old)
		}
		snap, err := format.ParseSnapshot(data)
		if err != nil {
			return err
		}
		scope := snap.Header.Scope
		want := format.Scope{Nation: v.keys.Charter.Nation, Compartment: c.ID, Agent: n.agent, Chain: scope.Chain, Epoch: scope.Epoch}
		if scope != want {
			return fmt.Errorf("%w: snapshot of another nation, compartment or agent", format.ErrMalformed)
		}
		err = c.bare.keys.open(scope.Epoch, func(w *format.Writer) (err error) {
			summary, err = snap.Summary(w)
			return err
		})
		if err == nil {
			c.bare.keys.read(snap.Header.Keys)
			s.ch = &readChain{chainKey: chainKey{n.agent, scope.Chain}}
		}
		return err
	})
	if err == nil && !datasetFolder(summary.Dataset) {
		err = fmt.Errorf("%w: %q", errNoName, summary.Dataset)
	}
	if err != nil {
		return s, SnapshotInfo{}, err
	}
	return s, v.info(s, summary), nil
}

// nameDatasets takes the datasets from the summaries: v.snapshots are there,
// newest first.
func (v *View) nameDatasets() {
	for _, c := range v.compartments {
		seen := map[string]*format.Dataset{}
		for _, s := range v.snapshots {
			if s.Compartment != c.Part.Name {
				continue
			}
			d := seen[s.Summary.Dataset]
			if d == nil {
				d = &format.Dataset{Name: s.Summary.Dataset, Priority: s.Summary.Priority}
				seen[d.Name] = d
			}
			if !slices.Contains(d.Agents, s.Agent) {
				d.Agents = append(d.Agents, s.Agent)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(seen)) {
			c.Part.Datasets = append(c.Part.Datasets, *seen[name])
		}
	}
}
