package embassy

import (
	"context"
	"embassy/chunk"
	"embassy/embassy/format"
	"embassy/embassy/policy"
	"embassy/targets"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

var (
	// ErrRolledBack: a target shows less than it once showed or confirmed.
	ErrRolledBack = errors.New("the target was rolled back or emptied: it did not show what it had confirmed before, and its copies do not count until that is explained, and people run: embassy target trust --reason TEXT TARGET")
	// ErrForked: somebody else writes this chain.
	ErrForked = errors.New("another machine wrote on this chain: this state directory was cloned, or restored from an old copy; this run goes on with a new chain, and stores again what only the old one listed")
	// ErrLost: an object that this machine has to bring to a target is nowhere
	// any more.
	ErrLost = errors.New("no copy is left on any target or on this machine; the next run starts a new chain and stores again what is lost")
	// errStoredAgain tells why a backup reads and sends everything.
	errStoredAgain = errors.New("is nowhere any more: a new chain begins, and what is still in the sources is stored again")
	// errForged marks an object in a chain's folder that is no entry of it.
	errForged = errors.New("lies among the ledger entries and is none: the host or somebody with its credentials put it there; it is ignored")
)

// ledger is the write side of one compartment on this machine: its own chain,
// its spool, and the targets that the chain goes to.
type ledger struct {
	s       *Service
	comp    *Compartment
	rule    policy.Rule
	members []*Member // in PACE order
	chain   *chain
	spool   *spool
	audits  *logbook
	courier *courier

	alarm error // a fork that was found and left behind

	// For the chains of the other agents.
	state   *State
	keys    *Keys
	meets   bool                // they may be reused
	meeting *semaphore.Weighted // of 1: held while region is opened
	region  *region             // nil: not opened yet

	heeds []format.Head // of the stewards' chains: what the run goes by

	packs, lost uint64 // that replay learned again, and that it could not

	committing sync.Mutex // one entry at a time
	background sync.WaitGroup

	mu      sync.Mutex
	outcome map[string]error // of advance, by member
	nudged  map[string]bool  // members that nudge is at work on
	forged  map[string]bool  // forgeries that were told
}

func (s *Service) openLedger(state *State, keys *Keys, comp *Compartment) (*ledger, error) {
	site, _ := s.site.Compartment(comp.Part.Name)
	s.opening.Lock()
	c, err := state.openChain(comp.ID)
	s.opening.Unlock()
	if err != nil {
		return nil, err
	}
	dir, err := state.makeDirs("spool", comp.ID.String())
	if err != nil {
		return nil, err
	}
	l := &ledger{
		s: s, state: state, keys: keys, comp: comp, rule: site.Commit, members: s.Ranked(site.Name), chain: c,
		spool: &spool{dir: dir, max: s.site.Spool.MaxBytes}, audits: state.logbook(),
		outcome: map[string]error{}, nudged: map[string]bool{}, forged: map[string]bool{}, meeting: semaphore.NewWeighted(1),
	}
	l.courier = &courier{s: s, since: s.now(), ready: l.ready, lead: l.lead, void: l.void, object: func(ctx context.Context, _ format.Entry, a format.Listed, to *Member) ([]byte, error) {
		// A crash may have come between a put and its note: then the target
		// itself has it.
		return l.object(ctx, a, append(l.others(to), to))
	}}
	if err := l.recall(state); err != nil {
		return nil, err
	}
	return l, l.distrust()
}

// distrust takes from the book what was found out about the targets before.
func (l *ledger) distrust() error {
	clear(l.outcome)
	for _, m := range l.members {
		why, err := l.s.distrusted(m)
		if err != nil {
			return err
		}
		l.outcome[m.Name] = why
	}
	return nil
}

// prepare looks at every target before a run writes anything: a chain that
// somebody else wrote on, or that cannot be completed any more, is left as it
// is, and a new one begins. Then the catalog learns what it lacks.
func (l *ledger) prepare(ctx context.Context) error {
	l.look(ctx)
	lost, _, err := l.s.catalog.Noted(lostKey(l.chain.id()))
	if err != nil {
		return err
	}
	l.alarm = l.forkedBy()
	if l.alarm != nil || len(lost) > 0 {
		if l.alarm != nil {
			l.s.warn(Finding{Object: l.chain.line().title(), Err: l.alarm})
		} else {
			l.s.warn(Finding{Object: string(lost), Err: errStoredAgain})
		}
		// Forget first: a crash in between only makes the next run find the
		// same and do the same.
		if err := l.s.catalog.Forget(); err != nil {
			return err
		}
		last := l.chain.head()
		if l.alarm != nil { // what no target has is the other one's to write
			if last, err = l.shownUpTo(); err != nil {
				return err
			}
		}
		if l.chain, err = l.state.newChain(l.comp.ID, l.chain, last); err != nil {
			return err
		}
		if err := l.distrust(); err != nil {
			return err
		}
	}
	if err := l.part(ctx); err != nil {
		return err
	}
	l.meets = l.keys.Charter.Compartment(l.comp.ID).Shared
	if err := l.replay(ctx); err != nil {
		return err
	}
	return l.heed(ctx)
}

// look surveys every target.
func (l *ledger) look(ctx context.Context) {
	each(l.members, func(_ int, m *Member) {
		if m.Down() == nil {
			_, err := l.survey(ctx, m)
			l.judge(m, err)
		}
	})
}

// forkedBy returns ErrForked when look found another machine on the own chain.
func (l *ledger) forkedBy() error {
	for _, m := range l.members {
		if err := l.found(m); errors.Is(err, ErrForked) {
			return err
		}
	}
	return nil
}

// lostKey is where it is noted that an object which a chain lists is nowhere any
// more.
func lostKey(chain format.ID) string { return lostNote + chain.String() }

const lostNote = "lost/" // and the chain: an object that is nowhere

// judge books what was found out about a target.
func (l *ledger) judge(m *Member, err error) {
	if errors.Is(err, ErrLost) {
		if err := l.s.catalog.Note(lostKey(l.chain.id()), []byte(err.Error())); err != nil {
			l.s.log.Error("note lost object", "target", m.Name, "err", err)
		}
	}
	l.s.book(m, l.chain.line(), err)
	if distrust, e := l.s.distrusted(m); e != nil {
		l.s.log.Error("read faults", "target", m.Name, "err", e)
	} else if distrust != nil {
		err = distrust
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.outcome[m.Name] = err
}

// seenOn returns the head of the own chain that a target showed; ok is false if
// it showed none. What another machine wrote on the chain is none.
func (l *ledger) seenOn(m *Member) (seen SeenHead, ok bool, err error) {
	if seen, ok, err = l.s.catalog.SeenHead(m.Name, l.chain.line()); err == nil && ok {
		ok, err = l.chain.wrote(seen)
	}
	if err != nil || !ok {
		return SeenHead{}, false, err
	}
	return seen, true, nil
}

// shownUpTo returns the last entry of the own chain that any target showed, as far as
// the catalog, or the chain itself, tells.
func (l *ledger) shownUpTo() (last uint64, err error) {
	if n := l.chain.head(); n > 0 {
		e, _, err := l.chain.read(n)
		if err != nil {
			return 0, err
		}
		for _, c := range e.Confirmed {
			last = max(last, min(c.Seq, n))
		}
	}
	for _, m := range l.members {
		seen, _, err := l.seenOn(m)
		if err != nil {
			return 0, err
		}
		last = max(last, seen.Seq)
	}
	return last, nil
}

// found is what judge last booked.
func (l *ledger) found(m *Member) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.outcome[m.Name]
}

// replay teaches the catalog the entries of the own chain that it does not
// know: after a crash between entry and catalog, or when the catalog is new.
// What cannot be learned, because no target gives it, costs deduplication and
// nothing else.
func (l *ledger) replay(ctx context.Context) error {
	head, err := l.s.catalog.ListedHead(l.chain.id())
	if err != nil {
		return err
	}
	if head == 0 && l.chain.head() > 0 {
		if err := l.ordered(ctx); err != nil {
			return err
		}
	}
	for seq := head + 1; seq <= l.chain.head(); seq++ {
		e, _, err := l.chain.entry(ctx, seq)
		if err != nil {
			return err
		}
		if err := l.learn(ctx, e); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			l.s.warn(Finding{Object: fmt.Sprintf("ledger entry %d", seq), Err: fmt.Errorf("cannot be learned again, so its data will be stored a second time: %w", err)})
		}
		var listed []ListedPack
		all := uint64(0)
		for i, a := range e.Adds {
			if a.Kind != format.KindPack {
				continue
			}
			p, ok, err := l.s.catalog.PackByHash(a.Hash)
			if err != nil {
				return err
			}
			if ok {
				listed = append(listed, ListedPack{Num: p.Num, Pos: uint32(i)})
			}
			gone, err := l.s.deleted(l.comp.ID, a.Hash)
			if err != nil {
				return err
			}
			if ok || !gone {
				all++
			}
		}
		if err := l.s.catalog.SetListed(l.chain.id(), seq, listed); err != nil {
			return err
		}
		l.packs += uint64(len(listed))
		l.lost += all - uint64(len(listed))
	}
	return l.meet(ctx)
}

// ordered teaches a new catalog what the stewards ordered, before it looks for
// what the own entries add: what was ordered to go is not lost. What cannot be
// had, the next look at the ledgers learns.
func (l *ledger) ordered(ctx context.Context) error {
	me := l.chain.scope.Agent
	stewards := l.keys.Charter.Compartment(l.comp.ID).Stewards
	var failed []error
	if slices.Contains(stewards, me) {
		err := l.state.eachChain(l.comp.ID, func(c *chain) error {
			for seq := uint64(1); seq <= c.head(); seq++ {
				e, _, err := c.entry(ctx, seq)
				if err == nil && len(e.Orders) > 0 {
					err = l.s.obey(e, func(a format.Listed) ([]byte, error) { return l.object(ctx, a, l.members) })
				}
				if ctx.Err() != nil {
					return ctx.Err()
				}
				failed = append(failed, err)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if slices.ContainsFunc(stewards, func(id format.ID) bool { return id != me }) {
		_, err := l.neighbours(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		failed = append(failed, err)
	}
	if err := errors.Join(failed...); err != nil {
		l.s.log.Warn("orders of the stewards", "compartment", l.comp.ID, "err", err)
	}
	return nil
}

// recall teaches a new catalog how far each target had come when the chain was
// last written: what a target showed once, it must go on to show.
func (l *ledger) recall(state *State) error {
	listed, err := l.s.catalog.ListedHead(l.chain.id())
	if err != nil || listed > 0 || l.chain.head() == 0 {
		return err
	}
	e, _, err := l.chain.read(l.chain.head())
	if err != nil {
		return err
	}
	forgiven, err := state.forgiven()
	if err != nil {
		return err
	}
	for _, m := range l.members {
		if forgiven[m.Name][l.chain.id().String()] >= e.Seq {
			continue
		}
		for _, w := range l.comp.Writers {
			for _, c := range e.Confirmed {
				if c.Target != w.TargetName(m.Name) || c.Seq == 0 || c.Seq > l.chain.head() {
					continue
				}
				if err := l.s.saw(m, l.chain.line(), SeenHead{Seq: c.Seq, Hash: l.chain.hash(c.Seq), At: e.When()}); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// learn adds to the catalog the packs of an entry that it lacks, from their
// index objects, and the entry's snapshots.
func (l *ledger) learn(ctx context.Context, e format.Entry) error {
	if len(e.Orders) > 0 && slices.Contains(l.keys.Charter.Compartment(l.comp.ID).Stewards, e.Agent) {
		if err := l.s.obey(e, func(a format.Listed) ([]byte, error) { return l.object(ctx, a, l.members) }); err != nil {
			return err
		}
	}
	var failed []error
	for _, a := range e.Adds {
		gone, err := l.s.deleted(l.comp.ID, a.Hash)
		switch {
		case err != nil || gone:
		case a.Kind == format.KindIndex:
			var known bool
			if known, err = l.knows(e); err == nil && !known {
				err = l.learnIndex(ctx, e.Chain, a)
			}
		case slices.Contains(e.Snapshots, a.Hash):
			var object []byte
			if object, err = l.object(ctx, a, l.members); err == nil {
				err = l.remember(e.Seq, object)
			}
		}
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// knows reports whether the catalog has every pack of the entry.
func (l *ledger) knows(e format.Entry) (bool, error) {
	for _, a := range e.Adds {
		if a.Kind == format.KindPack {
			if _, ok, err := l.s.catalog.PackByHash(a.Hash); err != nil || !ok {
				return false, err
			}
		}
	}
	return true, nil
}

func (l *ledger) learnIndex(ctx context.Context, chain format.ID, a format.Listed) error {
	object, err := l.object(ctx, a, l.members)
	if err != nil {
		return err
	}
	packs, err := format.ParseIndex(object)
	if err != nil {
		return fmt.Errorf("index %s: %w", a.Hash, err)
	}
	for _, p := range packs {
		fate, err := l.s.catalog.Fate(l.comp.ID, p.Hash)
		if err != nil {
			return err
		}
		if fate.Deleted.Given() {
			continue
		}
		var ids []chunk.ID // none of a marked pack: they are stored anew
		for _, seg := range p.Segments {
			if fate.Marked.Given() {
				break
			}
			if ids, err = l.directory(ids, seg); err != nil {
				return fmt.Errorf("index %s, pack %s: %w", a.Hash, p.Hash, err)
			}
		}
		if _, err := l.s.catalog.AddPack(PackState{Hash: p.Hash, Size: int64(p.Size), Chain: chain}, ids); err != nil {
			return err
		}
		if err := l.recheck(p.Hash); err != nil {
			return err
		}
	}
	return nil
}

// newest is what the catalog remembers of a dataset's newest own snapshot.
type newest struct {
	Hash  format.Hash `json:"hash"`
	Seq   uint64      `json:"seq"` // of the entry that commits it
	Time  time.Time   `json:"time"`
	Files uint64      `json:"files,omitempty"`
	Bytes uint64      `json:"bytes,omitempty"` // of content
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
	return keepNote(l.s.catalog, l.newestKey(sum.Dataset), newest{
		Hash: format.HashOf(object), Seq: seq, Time: sum.When(), Files: sum.Files, Bytes: sum.Bytes,
	})
}

// newestOf returns the newest own snapshot of a dataset; ok is false if there
// is none.
func (l *ledger) newestOf(dataset string) (n newest, ok bool, err error) {
	return readNote[newest](l.s.catalog, l.newestKey(dataset))
}

// safeKey is where vouch notes a snapshot.
func (l *ledger) safeKey(dataset string) string {
	return "safe/" + l.chain.id().String() + "/" + dataset
}

// vouch notes the newest snapshot of a dataset as safe, if the commit rule
// holds for it. So the last safe one is known when a newer one is not safe.
func (l *ledger) vouch(dataset string) error {
	n, ok, err := l.newestOf(dataset)
	if err != nil || !ok {
		return err
	}
	if missing, err := l.missing(n.Seq); err != nil || len(missing) > 0 {
		return err
	}
	return keepNote(l.s.catalog, l.safeKey(dataset), n)
}

// safeOf returns the newest snapshot of a dataset that the commit rule holds
// for, as far as it was noted; ok is false if there is none.
func (l *ledger) safeOf(dataset string) (n newest, ok bool, err error) {
	for _, key := range []string{l.newestKey(dataset), l.safeKey(dataset)} {
		if n, ok, err = readNote[newest](l.s.catalog, key); err != nil {
			return n, false, err
		}
		if !ok {
			continue
		}
		if missing, err := l.missing(n.Seq); err != nil || len(missing) == 0 {
			return n, err == nil, err
		}
	}
	return newest{}, false, nil
}

// directory appends the ids of the chunks in a segment that this machine may reuse.
// A steward also has what others sealed: that, only if all of the compartment trust
// one another.
func (l *ledger) directory(ids []chunk.ID, seg format.IndexedSegment) ([]chunk.ID, error) {
	var err error
	for _, w := range l.comp.Writers {
		var h format.Header
		var dir []format.DirEntry
		if h, dir, err = format.OpenDirectory(w, seg.Head, seg.Dir, seg.Length); err != nil {
			continue
		}
		if h.Scope.Agent == l.chain.scope.Agent || l.keys.Charter.Compartment(l.comp.ID).Shared {
			for _, d := range dir {
				ids = append(ids, d.ID)
			}
		}
		return ids, nil
	}
	return nil, err
}

// object returns a listed object from the spool or from a target that has it.
func (l *ledger) object(ctx context.Context, a format.Listed, from []*Member) ([]byte, error) {
	data, err := l.spool.get(a.Hash)
	if err == nil {
		return data, nil
	}
	var errs []error
	lost := len(from) == len(l.members) // every target is asked
	if !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	name := l.chain.objectName(a.Kind, a.Hash)
	for _, m := range from {
		data, err := m.fetch(ctx, name, a.Size, a.Hash)
		if err == nil {
			return data, nil
		}
		if answered(err) && !errors.Is(err, targets.ErrNotFound) {
			l.s.fault(m.Name, kindOf(err), name, fmt.Errorf("%w: embassy verify --repair mends it from another target", err))
		}
		lost = lost && answered(err)
		errs = append(errs, err)
	}
	if lost {
		errs = append(errs, ErrLost)
	}
	return nil, fmt.Errorf("%s %s: no copy: %w", a.Kind, a.Hash, errors.Join(errs...))
}
