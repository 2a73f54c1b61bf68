package embassy

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"embassy/embassy/format"
)

// bitPlace returns the place of a member from its bit.
func bitPlace(bit uint64) int { return bits.TrailingZeros64(bit) }

// textRation bounds what is kept of the tags and target hints of one agent's
// snapshots, in bytes.
const textRation = 16 << 20

// committed is a snapshot that an entry commits. An agent may commit it again,
// and lie about its size then.
type committed struct {
	c     *compartmentView
	ch    *readChain
	seq   uint64       // of the first entry that does
	by    []*readEntry // all that do
	sizes []uint64     // that they list
	err   error        // why it is not to be had; of the View's unread
	object
}

// readSnapshots opens the summary of every snapshot that an entry commits.
func (v *View) readSnapshots(ctx context.Context) error {
	var all []committed
	for _, c := range v.compartments {
		for _, ch := range c.sorted() {
			for _, s := range v.committed(c, ch) {
				if !c.orders.retired[snapshotKey{ch.agent, s.hash}] {
					all = append(all, s)
				}
			}
		}
	}
	meter := newMeter(v.progress, v.now, "snapshots", "")
	defer meter.end()
	meter.add(func(p *Progress) { p.FilesTotal = uint64(len(all)) })
	closed := map[*compartmentView]int{} // snapshots of epochs that the keys do not have
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(smallFetches)
	for _, s := range all {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error {
			info, err := v.summary(ctx, s)
			meter.add(func(p *Progress) { p.Files++ })
			mu.Lock()
			defer mu.Unlock()
			if s.c.Lacks != "" && errors.Is(err, errNoEpoch) {
				closed[s.c]++
				s.err = err
				v.unread = append(v.unread, s)
				return nil
			}
			if err != nil {
				v.warn(Finding{Object: s.c.source.name(s.object), Err: fmt.Errorf("snapshot left out: %w", err)})
				if !errors.Is(err, errNotItsDataset) && !errors.Is(err, errNotCommitted) {
					s.err = err
					v.unread = append(v.unread, s)
				}
				return nil
			}
			v.snapshots = append(v.snapshots, info)
			return nil
		})
	}
	g.Wait()
	for c, n := range closed {
		v.warn(Finding{Object: "compartment " + c.Part.Name, Err: fmt.Errorf("%d snapshots are not shown: %s", n, c.Lacks)})
	}
	v.arrange()
	for i := 1; i < len(v.snapshots); i++ { // ten thousand summaries share one list
		if a, b := &v.snapshots[i-1].Summary, &v.snapshots[i].Summary; slices.Equal(a.Targets, b.Targets) {
			b.Targets = a.Targets
		}
	}
	return ctx.Err()
}

// committed returns what the entries of a chain commit and list, once each.
func (v *View) committed(c *compartmentView, ch *readChain) []committed {
	var out []committed
	at := map[format.Hash]int{} // in out
	for _, n := range ch.numbers() {
		for _, e := range ch.entries[n] {
			sizes := map[format.Hash]uint64{}
			for _, a := range e.Adds {
				if a.Kind == format.KindSnapshot {
					sizes[a.Hash] = a.Size
				}
			}
			for _, h := range e.Snapshots {
				size, ok := sizes[h]
				if !ok {
					v.warn(Finding{
						Object: format.EntryName(e.Nation, c.ID, ch.agent, ch.chain, n, e.hash),
						Err:    fmt.Errorf("commits snapshot %s, which it does not list", h),
					})
					continue
				}
				i, ok := at[h]
				if !ok {
					i = len(out)
					at[h] = i
					out = append(out, committed{c: c, ch: ch, seq: n, object: object{format.KindSnapshot, h, size, ch.agent, 0}})
				}
				s := &out[i]
				s.by = append(s.by, e)
				s.shown |= e.shown
				if !slices.Contains(s.sizes, size) {
					s.sizes = append(s.sizes, size)
				}
			}
		}
	}
	return out
}

// snapshot fetches and parses a snapshot object, and checks that it is of the
// chain that lists it.
func (v *View) snapshot(ctx context.Context, s committed, t *tally) (*format.Snapshot, format.Summary, error) {
	var data []byte
	var err error
	for _, s.size = range s.sizes {
		data = make([]byte, s.size)
		if err = s.c.source.whole(ctx, s.object, data, false, t); err == nil || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return nil, format.Summary{}, err
	}
	snap, err := format.ParseSnapshot(data)
	if err != nil {
		return nil, format.Summary{}, err
	}
	scope := snap.Header.Scope
	want := format.Scope{
		Nation: v.keys.Charter.Nation, Compartment: s.c.ID, Agent: s.ch.agent, Chain: s.ch.chain, Epoch: scope.Epoch,
	}
	if scope != want {
		return nil, format.Summary{}, fmt.Errorf("%w: snapshot of another agent, chain or compartment", format.ErrMalformed)
	}
	w, err := s.c.Writer(scope.Epoch)
	if err != nil {
		return nil, format.Summary{}, err
	}
	summary, err := snap.Summary(w)
	return snap, summary, err
}

// errNotItsDataset: the charter does not let the agent write the dataset.
var errNotItsDataset = errors.New("may not write the dataset")

// Doubt returns the snapshots that valid entries commit, that no target gives
// whole, and that may be of the dataset: its agents made them, in entries after
// the given time. Which dataset they are of is sealed in them.
func (v *View) Doubt(dataset string, after time.Time) []format.Hash {
	var out []format.Hash
	for _, s := range v.unread {
		may := slices.ContainsFunc(s.c.Part.Datasets, func(d format.Dataset) bool {
			return d.Name == dataset && slices.Contains(d.Agents, s.ch.agent)
		})
		if may && s.made().After(after) {
			out = append(out, s.hash)
		}
	}
	return out
}

// withheld returns an error when later states of the dataset may be what the
// keys do not open.
func (v *View) withheld(latest SnapshotInfo) error {
	for _, s := range v.unread {
		if errors.Is(s.err, errNoEpoch) && slices.Contains(latest.Newer, s.hash) {
			return fmt.Errorf("dataset %s: snapshot %s may be a later state: %w: %s; to read the latest before it, name snapshot %s, or give --at %s",
				latest.Summary.Dataset, s.hash, ErrNotGranted, s.c.Lacks, latest.Hash, latest.placed().Add(time.Second).Format(time.RFC3339))
		}
	}
	return nil
}

// made returns the time of the entry that commits the snapshot.
func (s committed) made() time.Time {
	for _, e := range s.ch.entries[s.seq] {
		if slices.Contains(e.Snapshots, s.hash) {
			return e.When()
		}
	}
	return time.Time{}
}

// summary returns what a list shows of a snapshot, if the agent may write its
// dataset.
func (v *View) summary(ctx context.Context, s committed) (SnapshotInfo, error) {
	room := int64(slices.Max(s.sizes))
	if err := v.room.Acquire(ctx, room); err != nil {
		return SnapshotInfo{}, err
	}
	defer v.room.Release(room)
	if err := v.vouch(ctx, s); err != nil {
		return SnapshotInfo{}, err
	}
	_, summary, err := v.snapshot(ctx, s, nil)
	if err != nil {
		return SnapshotInfo{}, err
	}
	if v.uses != nil {
		v.uses(s, summary.Refs)
	}
	i := slices.IndexFunc(s.c.Part.Datasets, func(d format.Dataset) bool { return d.Name == summary.Dataset })
	if i < 0 || !slices.Contains(s.c.Part.Datasets[i].Agents, s.ch.agent) {
		return SnapshotInfo{}, fmt.Errorf("agent %s: %w: %q in compartment %s", s.ch.agent, errNotItsDataset, summary.Dataset, s.c.Part.Name)
	}
	return v.info(s, summary), nil
}

// info is what a list shows of a snapshot.
func (v *View) info(s committed, summary format.Summary) SnapshotInfo {
	summary.Refs = nil
	texts := 0
	for _, tag := range summary.Tags {
		texts += 16 + len(tag)
	}
	for _, h := range summary.Targets {
		texts += 64 + len(h.Name) + len(h.URL) + len(h.Jurisdiction)
	}
	if !v.texts.take(s.ch.agent, texts, textRation) {
		summary.Tags, summary.Targets = nil, nil
	}
	return SnapshotInfo{
		Compartment: s.c.Part.Name, Agent: s.ch.agent, Chain: s.ch.chain, Seq: s.seq, Hash: s.hash, Summary: summary,
		Pinned: s.c.orders.pinned[snapshotKey{s.ch.agent, s.hash}], Held: s.c.held(summary.Dataset), since: s.ch.since(s.seq),
	}
}

// find returns the snapshot that info describes.
func (v *View) find(info SnapshotInfo) (committed, error) {
	for _, c := range v.compartments {
		if c.bare != nil && c.Part.Name == info.Compartment {
			if s, ok := c.bare.snapshots[info.Hash]; ok {
				return s, nil
			}
		}
		ch := c.chains[chainKey{info.Agent, info.Chain}]
		if c.Part.Name != info.Compartment || ch == nil {
			continue
		}
		for _, s := range v.committed(c, ch) {
			if s.hash == info.Hash {
				return s, nil
			}
		}
	}
	return committed{}, fmt.Errorf("snapshot %s: %w", info.Hash, ErrNoSnapshot)
}
