package embassy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"embassy/chunk"
	"embassy/embassy/config"
	"embassy/embassy/format"
	"embassy/embassy/policy"
	"embassy/targets"
)

var (
	// ErrRolledBack: a target shows less than it once showed or confirmed.
	ErrRolledBack = errors.New("the target was rolled back or emptied: it no longer shows what it confirmed before, and its copies do not count; if that was done on purpose, give it a new name in the configuration")
	// ErrForked: somebody else writes this chain.
	ErrForked = errors.New("another machine wrote on this chain: this state directory was cloned, or restored from an old copy; move it away and run embassy init with the recovery kit, to go on as a new agent")
)

// The commit order, for every target by itself, and for every entry in turn:
//
//  1. every pack that the entry adds
//  2. every index, snapshot and record that it adds
//  3. the entry
//
// An entry is durable on this machine before its first put (chain.append),
// and so are the objects behind it: packs on one target or in the spool,
// smaller ones in the spool. A restart therefore goes on with the same bytes,
// through the same function: ledger.advance.

// ledger is the write side of one compartment on this machine: its own chain,
// its spool, and the targets that the chain goes to.
type ledger struct {
	s       *Service
	comp    *Compartment
	rule    policy.Rule
	members []*Member // in PACE order
	chain   *chain
	spool   *spool

	committing sync.Mutex // one entry at a time
	background sync.WaitGroup

	mu      sync.Mutex
	outcome map[string]error // of advance, by member
	nudged  map[string]bool  // members that nudge is at work on
}

func (s *Service) openLedger(state *State, comp *Compartment, site config.Compartment) (*ledger, error) {
	c, err := state.openChain(comp.ID)
	if err != nil {
		return nil, err
	}
	sp, err := openSpool(filepath.Join(state.dir, "spool", comp.ID.String()), s.site.Spool.MaxBytes)
	if err != nil {
		return nil, err
	}
	return &ledger{
		s: s, comp: comp, rule: site.Commit, members: s.Ranked(site.Name), chain: c, spool: sp,
		outcome: map[string]error{}, nudged: map[string]bool{},
	}, nil
}

// replay teaches the catalog the entries of the own chain that it does not
// know: after a crash between entry and catalog, or when the catalog is new.
func (l *ledger) replay(ctx context.Context) error {
	head, err := l.s.catalog.ListedHead(l.chain.id())
	if err != nil {
		return err
	}
	for seq := head + 1; seq <= l.chain.head(); seq++ {
		e, _, err := l.chain.entry(seq)
		if err != nil {
			return err
		}
		listed, err := listedPacks(e, func(h format.Hash) (PackNum, error) {
			p, ok, err := l.s.catalog.PackByHash(h)
			if err != nil || ok {
				return p.Num, err
			}
			return l.learn(ctx, e, h)
		})
		if err != nil {
			return fmt.Errorf("replay ledger entry %d: %w", seq, err)
		}
		for _, a := range e.Adds {
			if !slices.Contains(e.Snapshots, a.Hash) {
				continue
			}
			object, err := l.object(ctx, a, l.members)
			if err != nil {
				return fmt.Errorf("replay ledger entry %d: %w", seq, err)
			}
			if err := l.remember(seq, object); err != nil {
				return fmt.Errorf("replay ledger entry %d: %w", seq, err)
			}
		}
		if err := l.s.catalog.SetListed(l.chain.id(), seq, listed); err != nil {
			return err
		}
	}
	return nil
}

// newest is what the catalog remembers of a dataset's newest own snapshot.
type newest struct {
	Hash format.Hash `json:"hash"`
	Seq  uint64      `json:"seq"` // of the entry that commits it
	Time time.Time   `json:"time"`
}

func (l *ledger) newestKey(dataset string) string {
	return "newest/" + l.chain.id().String() + "/" + dataset
}

// remember notes a snapshot of the own chain as the newest of its dataset.
func (l *ledger) remember(seq uint64, object []byte) error {
	snap, err := format.ParseSnapshot(object)
	if err != nil {
		return err
	}
	w, err := l.comp.Writer(snap.Header.Scope.Epoch)
	if err != nil {
		return err
	}
	sum, err := snap.Summary(w)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(newest{Hash: format.HashOf(object), Seq: seq, Time: sum.When()})
	if err != nil {
		return err
	}
	return l.s.catalog.Note(l.newestKey(sum.Dataset), raw)
}

// newestOf returns the newest own snapshot of a dataset; ok is false if there
// is none.
func (l *ledger) newestOf(dataset string) (n newest, ok bool, err error) {
	raw, ok, err := l.s.catalog.Noted(l.newestKey(dataset))
	if err != nil || !ok {
		return n, false, err
	}
	return n, true, json.Unmarshal(raw, &n)
}

// learn reads the entry's index objects for the packs that the catalog lacks.
func (l *ledger) learn(ctx context.Context, e format.Entry, want format.Hash) (PackNum, error) {
	var found PackNum
	for _, a := range e.Adds {
		if a.Kind != format.KindIndex {
			continue
		}
		object, err := l.object(ctx, a, l.members)
		if err != nil {
			return 0, err
		}
		packs, err := format.ParseIndex(object)
		if err != nil {
			return 0, fmt.Errorf("index %s: %w", a.Hash, err)
		}
		for _, p := range packs {
			var ids []chunk.ID
			for _, seg := range p.Segments {
				ids, err = l.directory(ids, seg)
				if err != nil {
					return 0, fmt.Errorf("index %s, pack %s: %w", a.Hash, p.Hash, err)
				}
			}
			n, err := l.s.catalog.AddPack(PackState{Hash: p.Hash, Size: int64(p.Size), Chain: e.Chain}, ids)
			if err != nil {
				return 0, err
			}
			if p.Hash == want {
				found = n
			}
		}
	}
	if found == 0 {
		return 0, fmt.Errorf("pack %s is in no index of its entry", want)
	}
	return found, nil
}

// directory appends the chunk ids of a segment.
func (l *ledger) directory(ids []chunk.ID, seg format.IndexedSegment) ([]chunk.ID, error) {
	var err error
	for _, w := range l.comp.Writers {
		var dir []format.DirEntry
		if _, dir, err = format.OpenDirectory(w, seg.Head, seg.Dir, seg.Length); err == nil {
			for _, d := range dir {
				ids = append(ids, d.ID)
			}
			return ids, nil
		}
	}
	return nil, err
}

// object returns a listed object from the spool or from a target that has it.
func (l *ledger) object(ctx context.Context, a format.Listed, from []*Member) ([]byte, error) {
	data, err := l.spool.get(a.Hash)
	if err == nil {
		return data, nil
	}
	errs := []error{err}
	if errors.Is(err, fs.ErrNotExist) {
		errs = nil
	}
	name := l.chain.objectName(a.Kind, a.Hash)
	for _, m := range from {
		data, err := m.fetch(ctx, name, a.Size, a.Hash)
		if err == nil {
			return data, nil
		}
		if errors.Is(err, errBadCopy) || errors.Is(err, targets.ErrCorrupt) {
			l.s.warn(Finding{Target: m.Name, Object: name, Err: err})
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("%s %s: no copy: %w", a.Kind, a.Hash, errors.Join(errs...))
}

// snapshotMaker makes the snapshot object of an entry, once the places of all
// packs in it are known.
type snapshotMaker func(refs []format.Refs) ([]byte, error)

// commit writes the next entry: it lists every pack that no entry lists yet,
// and the snapshot, if there is one. When commit returns, the entry is durable
// on this machine and the catalog knows it; no target has it yet.
func (l *ledger) commit(used []PackNum, snapshot snapshotMaker) (format.Hash, error) {
	l.committing.Lock()
	defer l.committing.Unlock()
	cat := l.s.catalog
	unlisted, err := cat.UnlistedPacks(l.chain.id())
	if err != nil {
		return format.Hash{}, err
	}
	var e format.Entry
	var heads [][]byte
	var listed []ListedPack
	here := map[PackNum]ListedPack{}
	for i, p := range unlisted {
		e.Adds = append(e.Adds, format.Listed{Kind: format.KindPack, Hash: p.Hash, Size: uint64(p.Size)})
		heads = append(heads, p.Head)
		listed = append(listed, ListedPack{Num: p.Num, Pos: uint32(i)})
		here[p.Num] = listed[i]
	}
	indexes, err := format.BuildIndexes(heads)
	if err != nil {
		return format.Hash{}, err
	}
	add := func(k format.Kind, object []byte) (format.Hash, error) {
		h := format.HashOf(object)
		e.Adds = append(e.Adds, format.Listed{Kind: k, Hash: h, Size: uint64(len(object))})
		return h, l.spool.put(h, object)
	}
	for _, object := range indexes {
		if _, err := add(format.KindIndex, object); err != nil {
			return format.Hash{}, err
		}
	}
	var id format.Hash
	var object []byte
	if snapshot != nil {
		refs, err := l.refs(used, here)
		if err != nil {
			return format.Hash{}, err
		}
		if object, err = snapshot(refs); err != nil {
			return format.Hash{}, err
		}
		if id, err = add(format.KindSnapshot, object); err != nil {
			return format.Hash{}, err
		}
		e.Snapshots = []format.Hash{id}
	}
	if len(e.Adds) == 0 {
		return id, nil
	}
	for _, m := range l.members {
		seen, ok, err := cat.SeenHead(m.Name, l.chain.id())
		if err != nil {
			return format.Hash{}, err
		}
		if ok {
			e.Confirmed = append(e.Confirmed, format.Confirmation{Target: l.comp.Current().TargetName(m.Name), Seq: seen.Seq})
		}
	}
	e.Time = l.s.now().UnixNano()
	if e, err = l.chain.append(e); err != nil {
		return format.Hash{}, err
	}
	if object != nil {
		if err := l.remember(e.Seq, object); err != nil {
			return format.Hash{}, err
		}
	}
	return id, cat.SetListed(l.chain.id(), e.Seq, listed)
}

// refs arranges packs by entry and position. here are those that the next
// entry lists.
func (l *ledger) refs(used []PackNum, here map[PackNum]ListedPack) ([]format.Refs, error) {
	at := map[format.Head][]uint32{}
	var order []format.Head
	for _, n := range used {
		place := format.Head{Chain: l.chain.id(), Seq: l.chain.head() + 1}
		p, ok := here[n]
		if !ok {
			state, found, err := l.s.catalog.Pack(n)
			if err != nil {
				return nil, err
			}
			if !found || state.Entry == 0 {
				return nil, fmt.Errorf("pack %d (%s) is in no ledger entry", n, state.Hash)
			}
			place, p = format.Head{Chain: state.Chain, Seq: state.Entry}, ListedPack{n, state.Pos}
		}
		if at[place] == nil {
			order = append(order, place)
		}
		at[place] = append(at[place], p.Pos)
	}
	var out []format.Refs
	for _, place := range order {
		out = append(out, format.Refs{Chain: place.Chain, Seq: place.Seq, Runs: format.RefRuns(slices.Sorted(slices.Values(at[place])))})
	}
	return out, nil
}

// survey finds out how far a target has come with the own chain, and that it
// is neither rolled back nor ahead.
func (l *ledger) survey(ctx context.Context, m *Member) (uint64, error) {
	seen, ok, err := l.s.catalog.SeenHead(m.Name, l.chain.id())
	if err != nil {
		return 0, err
	}
	folder := format.LedgerPrefix(l.chain.scope.Nation, l.chain.scope.Compartment, l.chain.scope.Agent) + l.chain.id().String() + "/"
	prefix, head := folder, uint64(0)
	if ok {
		// The head it showed must still be there; beyond ours there must be
		// nothing.
		if seen.Seq > l.chain.head() || l.chain.hash(seen.Seq) != seen.Hash {
			return 0, ErrForked
		}
		err := m.do(ctx, func(ctx context.Context) error {
			_, err := m.Target.Stat(ctx, l.chain.name(seen.Seq))
			return err
		})
		if errors.Is(err, targets.ErrNotFound) {
			return 0, ErrRolledBack
		}
		if err != nil {
			return 0, err
		}
		prefix, head = folder+fmt.Sprintf("%016x", l.chain.head()+1), seen.Seq
	}
	err = m.do(ctx, func(ctx context.Context) error {
		for info, err := range m.Target.List(ctx, prefix) {
			if err != nil {
				return err
			}
			seq, h, err := format.ParseNumbered(info.Name[len(folder):])
			if err != nil {
				continue // not an entry: not ours to judge
			}
			if seq > l.chain.head() || l.chain.hash(seq) != h {
				return ErrForked
			}
			if seq == head+1 {
				head = seq
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	if head > 0 && !ok {
		err = l.s.catalog.SetSeenHead(m.Name, l.chain.id(), SeenHead{Seq: head, Hash: l.chain.hash(head), At: l.s.now()})
	}
	return head, err
}

// advance brings one target to the head of the own chain, in the commit
// order. What this run has not put there comes from the spool or from a target
// that has it. copying false stops at the first entry that needs such a copy.
func (l *ledger) advance(ctx context.Context, m *Member, copying bool) error {
	head, err := l.survey(ctx, m)
	if err != nil {
		return err
	}
	for seq := head + 1; seq <= l.chain.head(); seq++ {
		e, object, err := l.chain.entry(seq)
		if err != nil {
			return err
		}
		if ok, err := l.complete(ctx, m, e, copying); err != nil || !ok {
			return err
		}
		h := l.chain.hash(seq)
		if err := m.put(ctx, l.chain.name(seq), object, h); err != nil {
			return fmt.Errorf("put ledger entry %d: %w", seq, err)
		}
		if err := l.s.catalog.SetSeenHead(m.Name, l.chain.id(), SeenHead{Seq: seq, Hash: h, At: l.s.now()}); err != nil {
			return err
		}
	}
	return nil
}

// complete puts what a target lacks of the objects that an entry adds: first
// the packs, then the rest.
func (l *ledger) complete(ctx context.Context, m *Member, e format.Entry, copying bool) (bool, error) {
	for _, packs := range []bool{true, false} {
		var missing []format.Listed
		for _, a := range e.Adds {
			if (a.Kind == format.KindPack) != packs {
				continue
			}
			at, err := l.s.catalog.Placed(m.Name, a.Hash)
			if err != nil {
				return false, err
			}
			if at.IsZero() {
				missing = append(missing, a)
			}
		}
		if packs && len(missing) > 0 && !copying {
			return false, nil
		}
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(2)
		for _, a := range missing {
			g.Go(func() error {
				// A crash may have come between a put and its note: then m has it.
				data, err := l.object(ctx, a, append(l.others(m), m))
				if err != nil {
					return err
				}
				if err := m.put(ctx, l.chain.objectName(a.Kind, a.Hash), data, a.Hash); err != nil {
					return fmt.Errorf("put %s %s: %w", a.Kind, a.Hash, err)
				}
				return l.s.catalog.Place(m.Name, a.Hash, l.s.now())
			})
		}
		if err := g.Wait(); err != nil {
			return false, err
		}
	}
	return true, nil
}

func (l *ledger) others(m *Member) []*Member {
	var out []*Member
	for _, o := range l.members {
		if o.Name != m.Name && o.Down() == nil {
			out = append(out, o)
		}
	}
	return out
}

// nudge lets targets that have everything so far take the newest entries,
// beside a run that goes on.
func (l *ledger) nudge(ctx context.Context) {
	for _, m := range l.members {
		l.mu.Lock()
		busy := l.nudged[m.Name] || m.Down() != nil
		l.nudged[m.Name] = l.nudged[m.Name] || !busy
		l.mu.Unlock()
		if busy {
			continue
		}
		l.background.Go(func() {
			if err := l.advance(ctx, m, false); err != nil && ctx.Err() == nil {
				l.s.log.Warn("interim entry", "target", m.Name, "err", err)
			}
			l.mu.Lock()
			l.nudged[m.Name] = false
			l.mu.Unlock()
		})
	}
}

// settle brings every target to the head of the chain, all at once. As soon
// as the commit rule holds, the rest have patience more to get there: what
// they still lack then, the next run or a replicator brings.
func (l *ledger) settle(ctx context.Context, patience time.Duration) error {
	l.background.Wait()
	run, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{}, len(l.members))
	for _, m := range l.members {
		go func() {
			err := l.advance(run, m, true)
			if err != nil && run.Err() != nil && ctx.Err() == nil {
				err = errLagging
			}
			l.mu.Lock()
			l.outcome[m.Name] = err
			l.mu.Unlock()
			done <- struct{}{}
		}()
	}
	var limit <-chan time.Time
	holds := false
	for left := len(l.members); left > 0; {
		select {
		case <-limit:
			cancel()
			continue
		case <-done:
			left--
		}
		if missing, err := l.missing(l.chain.head()); err == nil && len(missing) == 0 && !holds {
			holds, limit = true, time.After(patience)
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return l.tidy()
}

// missing says what the commit rule lacks for an entry; empty: it holds.
func (l *ledger) missing(seq uint64) ([]string, error) {
	var copies []policy.Copy
	for _, m := range l.members {
		seen, ok, err := l.s.catalog.SeenHead(m.Name, l.chain.id())
		if err != nil {
			return nil, err
		}
		l.mu.Lock()
		suspect := errors.Is(l.outcome[m.Name], ErrRolledBack) || errors.Is(l.outcome[m.Name], ErrForked)
		l.mu.Unlock()
		if ok && seen.Seq >= seq && !suspect {
			copies = append(copies, copyOn(m))
		}
	}
	return l.rule.Missing(copies), nil
}

// tidy removes from the spool what enough targets hold: the objects of every
// entry for which the commit rule holds. Packs that no entry lists stay.
func (l *ledger) tidy() error {
	files, err := os.ReadDir(l.spool.dir)
	if err != nil || len(files) == 0 {
		return err
	}
	needed := map[format.Hash]bool{}
	unlisted, err := l.s.catalog.UnlistedPacks(l.chain.id())
	if err != nil {
		return err
	}
	for _, p := range unlisted {
		needed[p.Hash] = true
	}
	for seq := l.chain.head(); seq > 0; seq-- {
		missing, err := l.missing(seq)
		if err != nil {
			return err
		}
		if len(missing) == 0 {
			break // nor for any entry before it
		}
		e, _, err := l.chain.entry(seq)
		if err != nil {
			return err
		}
		for _, a := range e.Adds {
			needed[a.Hash] = true
		}
	}
	for _, f := range files {
		h, err := format.ParseHash(f.Name())
		if err == nil && needed[h] {
			continue
		}
		if err := os.Remove(filepath.Join(l.spool.dir, f.Name())); err != nil {
			return err
		}
	}
	return nil
}
