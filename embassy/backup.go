package embassy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"embassy/embassy/config"
	"embassy/embassy/format"
	"embassy/embassy/policy"
	"embassy/targets"
)

const (
	// packBuffers bounds the packs in memory: open, being sealed, and on their
	// way to targets.
	packBuffers = 5
	// interimPacks is after how many packs a long run writes an entry, so that
	// what arrived is known to everybody, not only to this machine's catalog.
	interimPacks = 64
	// patienceMin is how long a run that holds its commit rule waits for the
	// targets that are behind; longer runs wait half as long as they took.
	patienceMin = 15 * time.Second
	// clockSlack is how far clocks may differ before it is said.
	clockSlack = 5 * time.Minute
)

// Exit codes of section 9 that a dataset's outcome maps to.
const (
	exitDone     = 0
	exitFailed   = 1
	exitUsage    = 2
	exitGaps     = 3
	exitDegraded = 4
	exitLie      = 5
)

var (
	// ErrNotInCharter: the configuration names what the charter does not know.
	ErrNotInCharter = errors.New("the charter does not know it: run embassy charter apply with the recovery kit")
	// ErrNoSource: no source of a dataset exists.
	ErrNoSource = errors.New("no source exists")
	// ErrForeignTarget: a target holds another nation's data and none of ours.
	ErrForeignTarget = errors.New("holds another nation")
)

// BackupOptions say what to back up.
type BackupOptions struct {
	Datasets []string  // none: all but those of an input, in order of priority
	DryRun   bool      // look at the sources only: run no command and no hook, store and send nothing
	Stdin    io.Reader // what a dataset with stdin holds, read to its end; nil: none
}

// TargetProgress is where one target stands after a run.
type TargetProgress struct {
	Target       string
	Tier         policy.Tier
	Jurisdiction string
	Head         uint64 // entries of this agent's chain that it confirmed
	Behind       uint64 // entries that it lacks
	Sent         uint64 // bytes of packs put there during the run
	Err          error  // nil: it has everything
}

// BackupReport is the outcome of one dataset.
type BackupReport struct {
	Dataset             string
	Snapshot            format.Hash // zero: none was made
	Started             time.Time
	Elapsed             time.Duration
	Files, Dirs, Others uint64
	New, Changed, Same  uint64 // of files
	Bytes               uint64 // of content
	Read                uint64 // bytes read from the sources
	Added               uint64 // bytes of new packs, once, not per target
	Packs               int    // new packs
	Gaps                []format.Gap
	Left                LeftOut // what the configuration keeps out
	Targets             []TargetProgress
	Missing             []string // what the commit rule lacks; empty: it holds
	Exit                int
	Err                 error // why there is no snapshot
	PostErr             error // why the post hook failed, which undoes no snapshot
	Quota               error // ErrQuota: the agent is above it; what it wrote stays
	DryRun              bool
}

// Backup backs up datasets with the agent key alone. Every dataset reports by
// itself; the error is for what stops the whole run.
func (s *Service) Backup(ctx context.Context, o BackupOptions) ([]BackupReport, error) {
	if err := s.shared.own.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer s.shared.own.Release(1)
	state, err := OpenState(s.site.StateDir)
	if err != nil {
		return nil, err
	}
	datasets, err := s.chosen(o.Datasets)
	if err != nil {
		return nil, err
	}
	keys, err := s.presented(ctx, state)
	if err != nil {
		return nil, err
	}
	ledgers := map[string]*ledger{}
	var reports []BackupReport
	for _, d := range datasets {
		rep := BackupReport{Dataset: d.Name, Started: s.now(), DryRun: o.DryRun}
		l, err := s.ledgerFor(ctx, state, keys, d, ledgers)
		backup := func() (BackupReport, error) { return l.backup(ctx, d, o) }
		switch {
		case err != nil:
		case o.DryRun:
			rep, err = backup()
		default:
			rep, err = s.withHooks(ctx, d, backup)
		}
		if ctx.Err() != nil {
			if !rep.Snapshot.IsZero() {
				s.warn(Finding{Object: "dataset " + d.Name, Err: fmt.Errorf("its snapshot %s was made before the interruption: the next backup, or embassy replicate on this machine, brings the targets what they lack of it", rep.Snapshot.String()[:12])})
			}
			return reports, ctx.Err()
		}
		if err != nil {
			rep.Err, rep.Exit = err, exitFailed
			if errors.Is(err, ErrNotInCharter) || errors.Is(err, ErrDestroyed) {
				rep.Exit = exitUsage
			}
		}
		if !o.DryRun {
			if rep.Quota, err = s.quota(state, keys.Charter); err != nil {
				return reports, err
			}
			if rep.Quota != nil {
				rep.Exit = policy.ExitCode(rep.Exit, exitDegraded)
			}
			if err := s.catalog.AddRun(Run{
				Kind: "backup", Dataset: d.Name, Started: rep.Started, Ended: s.now(), Exit: rep.Exit,
				Snapshot: rep.Snapshot, Note: rep.note(),
			}); err != nil {
				return reports, err
			}
		}
		reports = append(reports, rep)
	}
	return reports, nil
}

// note is the report in one line.
func (r *BackupReport) note() string {
	switch {
	case r.Err != nil:
		return r.Err.Error()
	case r.PostErr != nil:
		return r.PostErr.Error()
	case r.Quota != nil:
		return r.Quota.Error()
	case len(r.Missing) > 0:
		return "commit rule not met: " + strings.Join(r.Missing, ", ") + " missing"
	case len(r.Gaps) > 0:
		noun := "items"
		if len(r.Gaps) == 1 {
			noun = "item"
		}
		return fmt.Sprintf("%d %s of the source not read", len(r.Gaps), noun)
	}
	return "done"
}

// chosen returns the named datasets, or all that need no input, by priority.
func (s *Service) chosen(names []string) ([]config.Dataset, error) {
	var out []config.Dataset
	for _, d := range s.site.Datasets {
		if len(names) == 0 && !d.Stdin || slices.Contains(names, d.Name) {
			out = append(out, d)
		}
	}
	for _, n := range names {
		if !slices.ContainsFunc(out, func(d config.Dataset) bool { return d.Name == n }) {
			return nil, fmt.Errorf("dataset %q: %w", n, ErrUnknownName)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s names no dataset that is backed up without an input: %w", s.site.File, ErrUnknownName)
	}
	slices.SortStableFunc(out, func(a, b config.Dataset) int { return a.Priority - b.Priority })
	return out, nil
}

// presented opens the newest charter with the agent key, for who is about to
// write, and presents it to every target.
func (s *Service) presented(ctx context.Context, state *State) (*Keys, error) {
	ch, object, err := s.newestCharter(ctx, state)
	if err != nil {
		return nil, err
	}
	keys, err := AgentKeys(ch, state.key)
	if err != nil {
		return nil, err
	}
	if keys.Doubt != nil {
		s.warn(Finding{Object: "charter", Err: keys.Doubt})
	}
	s.present(ctx, ch, object)
	return keys, nil
}

// present makes sure that every answering target shows the charter, and that
// it is not some other nation's. It returns how many do.
func (s *Service) present(ctx context.Context, ch *format.Charter, object []byte) int {
	var have atomic.Int64
	h := format.HashOf(object)
	name := format.CharterName(ch.Nation, ch.Seq, h)
	each(s.order, func(_ int, m *Member) {
		if m.Down() != nil {
			return
		}
		_, err := m.stat(ctx, name)
		if err == nil {
			have.Add(1)
		}
		if !errors.Is(err, targets.ErrNotFound) {
			return // there, or down: the breaker knows
		}
		if err := m.Foreign(ctx, ch.Nation); err != nil {
			m.ban(err)
			return
		}
		// An agent that may not write charters leaves it to others.
		err = m.do(ctx, func(ctx context.Context) error {
			err := m.bounded(ctx, 0, func(ctx context.Context) error {
				return m.Target.Put(ctx, targets.Object{Name: name, Data: object, SHA256: h})
			})
			if errors.Is(err, targets.ErrDenied) {
				return nil
			}
			if err == nil {
				have.Add(1)
			}
			return err
		})
		if err != nil {
			s.log.Warn("put charter", "target", m.Name, "err", err)
		}
	})
	return int(have.Load())
}

// Foreign returns an ErrForeignTarget that names the other nation, when the
// target holds one and nothing of this one, else nil.
func (m *Member) Foreign(ctx context.Context, nation format.ID) error {
	for range m.Target.List(ctx, nation.String()+"/") {
		return nil // ours, or no answer
	}
	for info, err := range m.Target.List(ctx, "") {
		first, _, ok := strings.Cut(info.Name, "/")
		_, bad := format.ParseID(first)
		if err != nil || !ok || bad != nil {
			return nil
		}
		return fmt.Errorf("%w (%s…): correct the url or add a prefix", ErrForeignTarget, first[:8])
	}
	return nil
}

// ledgerFor opens a dataset's compartment once per run.
func (s *Service) ledgerFor(ctx context.Context, state *State, keys *Keys, d config.Dataset, open map[string]*ledger) (*ledger, error) {
	comp, err := keys.Named(d.Compartment)
	if err != nil {
		return nil, notInCharter(d.Compartment, err)
	}
	if !slices.ContainsFunc(comp.Part.Datasets, func(k format.Dataset) bool {
		return k.Name == d.Name && slices.Contains(k.Agents, state.Agent())
	}) {
		return nil, ErrNotInCharter
	}
	if l := open[d.Compartment]; l != nil {
		return l, nil
	}
	l, err := s.openLedger(state, keys, comp)
	if err != nil {
		return nil, err
	}
	if err := l.prepare(ctx); err != nil {
		return nil, err
	}
	open[d.Compartment] = l
	return l, nil
}

// backup makes one snapshot of one dataset.
func (l *ledger) backup(ctx context.Context, d config.Dataset, o BackupOptions) (rep BackupReport, err error) {
	rep = BackupReport{Dataset: d.Name, Started: l.s.now(), DryRun: o.DryRun}
	defer func() { rep.Elapsed = l.s.now().Sub(rep.Started) }()
	if rep.Gaps = missingSources(d.Sources); len(rep.Gaps) > 0 && len(rep.Gaps) == len(d.Sources) {
		return rep, fmt.Errorf("%s: %w", strings.Join(d.Sources, ", "), ErrNoSource)
	}
	last, ok, err := l.newestOf(d.Name)
	if err != nil {
		return rep, err
	}
	if ok && last.Time.After(rep.Started.Add(clockSlack)) {
		l.s.warn(Finding{Object: "clock", Err: fmt.Errorf("the newest snapshot of %s is dated %s, which is later than now: one of the two clocks was wrong", d.Name, last.Time.Format(time.RFC3339))})
	}
	// Another compartment may have made the catalog forget, or the last commit
	// may not have reached it.
	if err := l.replay(ctx); err != nil {
		return rep, err
	}
	r, err := l.newRun(ctx, d, o.DryRun)
	if err != nil {
		return rep, err
	}
	defer r.session.Wipe()
	var source Bucket
	if !d.S3.IsZero() {
		if source, err = l.s.openBucket(d.S3); err != nil {
			return rep, err
		}
		r.store.readers = objectReaders
	}
	watch := r.watch(ctx, d, last)
	defer watch.end()
	root, err := r.execute(ctx, d, o.Stdin, source)
	c := &r.walk.counts
	rep.Files, rep.Dirs, rep.Others, rep.New, rep.Changed, rep.Same = c.files, c.dirs, c.others, c.fresh, c.changed, c.same
	rep.Bytes, rep.Read, rep.Gaps = c.bytes, c.read, c.gaps
	rep.Left = c.left
	if c.hiddenGaps > 0 {
		rep.Gaps = append(rep.Gaps, format.Gap{Path: []byte("…"), Reason: fmt.Sprintf("%d more are not named", c.hiddenGaps)})
	}
	rep.Added, rep.Packs = r.packer.stored, r.packer.packs
	if err != nil {
		return rep, err
	}
	if c.sourcesFound == 0 { // they vanished since they were looked at
		return rep, fmt.Errorf("%s: %w", strings.Join(d.Sources, ", "), ErrNoSource)
	}
	if len(c.gaps) > 0 {
		rep.Exit = exitGaps
	}
	if o.DryRun {
		return rep, nil
	}
	watch.phase.Store("confirm")
	if err := l.vouch(d.Name); err != nil { // for the one before
		return rep, err
	}
	if rep.Snapshot, err = l.commit(r.used.sorted(), r.snapshot(d, root, rep)); err != nil {
		return rep, fmt.Errorf("commit: %w", err)
	}
	var alive []*Member
	for _, lane := range r.out.lanes {
		if lane.alive {
			alive = append(alive, lane.m)
		}
	}
	if err := l.settle(ctx, max(patienceMin, l.s.now().Sub(rep.Started)/2), alive); err != nil {
		return rep, err
	}
	if rep.Missing, err = l.missing(l.chain.head()); err != nil {
		return rep, err
	}
	if err := l.vouch(d.Name); err != nil {
		return rep, err
	}
	codes := []int{rep.Exit}
	if l.alarm != nil {
		codes = append(codes, exitLie)
	}
	if len(rep.Missing) > 0 {
		codes = append(codes, exitDegraded)
	}
	for _, lane := range r.out.lanes {
		p := TargetProgress{Target: lane.m.Name, Tier: lane.m.Tier, Jurisdiction: lane.m.Jurisdiction, Sent: lane.sent, Err: l.found(lane.m)}
		if seen, ok, err := l.seenOn(lane.m); err == nil && ok {
			p.Head = seen.Seq
		}
		p.Behind = l.chain.head() - min(p.Head, l.chain.head())
		if suspect(p.Err) || errors.Is(p.Err, errOverwritten) {
			codes = append(codes, exitLie)
		}
		rep.Targets = append(rep.Targets, p)
	}
	rep.Exit = policy.ExitCode(codes...)
	return rep, nil
}

// missingSources names the sources that are not there.
func missingSources(sources []string) []format.Gap {
	var gaps []format.Gap
	for _, s := range sources {
		if _, err := os.Stat(s); err != nil {
			gaps = append(gaps, gapOf(s, err))
		}
	}
	return gaps
}

// backupRun is the machinery of one dataset's run.
type backupRun struct {
	l       *ledger
	session *format.Session
	used    *packSet
	out     *fanout
	packer  *packer
	store   *store
	cache   *fileCache
	walk    *walk
	sealing *errgroup.Group
	durable atomic.Uint64 // packs of this run that a crash does not lose
}

func (l *ledger) newRun(ctx context.Context, d config.Dataset, dry bool) (*backupRun, error) {
	w := l.comp.Current()
	session, err := format.NewSession(l.scope(w.Epoch), l.comp.Recipients)
	if err != nil {
		return nil, err
	}
	r := &backupRun{l: l, session: session, used: newPackSet(), sealing: new(errgroup.Group)}
	cat := l.s.catalog
	r.out = l.newFanout(packBuffers, func(p *parcel) error {
		n, err := cat.AddPack(l.packState(p.pack), p.ids)
		if err != nil {
			return err
		}
		r.used.add(n)
		r.packer.settle(p.ids)
		if r.durable.Add(1)%interimPacks != 0 {
			return nil
		}
		if _, err := l.commit(nil, nil); err != nil {
			return fmt.Errorf("interim entry: %w", err)
		}
		l.nudge(ctx)
		return nil
	})
	r.packer = newPacker(session, w, l.s.packSize(), r.out, r.sealing)
	r.store = newStore(cat, r.packer, w, r.used)
	series := fmt.Sprintf("%s/%d/%s", l.chain.id(), w.Epoch, d.Name) // contents are named anew in every epoch
	if !d.S3.IsZero() {
		series += "/" + d.S3.URL // another bucket may have the same keys
	}
	r.cache = newFileCache(cat, series, r.used, r.packer.flush, l.s.log)
	r.walk = &walk{
		store: r.store, cache: r.cache, filter: newFilter(d), keeper: r.store.newKeeper(),
		names: newNames(), dry: dry,
	}
	return r, nil
}

// scope is that of what this machine seals in a writer epoch.
func (l *ledger) scope(epoch uint32) format.Scope {
	return format.Scope{
		Nation: l.chain.scope.Nation, Compartment: l.comp.ID, Agent: l.chain.scope.Agent, Chain: l.chain.id(), Epoch: epoch,
	}
}

// newFanout returns what brings new packs to the targets.
func (l *ledger) newFanout(buffers int, durable func(*parcel) error) *fanout {
	return newFanout(l.members, buffers, fanoutConfig{
		rule: l.rule, now: l.s.now, spool: l.spool, durable: durable,
		name: func(h format.Hash) string { return l.chain.objectName(format.KindPack, h) },
		distrusted: func(m *Member) error {
			if err := l.found(m); suspect(err) {
				return err
			}
			return nil
		},
		placed: func(m *Member, h format.Hash) error { return l.s.catalog.Place(m.Name, h, l.s.now()) },
	})
}

// packState is a new pack of the own chain.
func (l *ledger) packState(p format.Pack) PackState {
	return PackState{Hash: p.Hash, Size: int64(len(p.Data)), Chain: l.chain.id(), Head: p.Head}
}

// packSize is that of a full pack, in bytes.
func (s *Service) packSize() int { return int(cmp.Or(s.site.PackSize, config.DefaultPackSize)) }

// execute reads the sources, or the bucket that is the source, and returns when
// everything they hold is durable on at least one target or in the spool.
func (r *backupRun) execute(ctx context.Context, d config.Dataset, stdin io.Reader, source Bucket) (format.Content, error) {
	started := r.l.s.now()
	var root format.Content
	g, gctx := errgroup.WithContext(ctx)
	r.walk.ctx = gctx
	sctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sending := new(errgroup.Group)
	sending.Go(func() error { return r.out.run(sctx) })
	g.Go(func() error { return r.store.run(gctx) })
	g.Go(func() error {
		defer r.store.close()
		var err error
		if source != nil {
			root, err = r.walk.objects(source, d.S3.URL)
		} else if open := inputOf(gctx, d, stdin); open != nil {
			root, err = r.walk.stream(d.Filename, started, open)
		} else {
			root, err = r.walk.tree("/", sourceTree(d.Sources))
		}
		return err
	})
	err := g.Wait()
	if err == nil {
		r.packer.flush()
	}
	if e := r.sealing.Wait(); err == nil {
		err = e
	}
	if err == nil {
		err = r.out.drain(ctx)
	}
	if err != nil {
		cancel()
	}
	r.out.close()
	if e := sending.Wait(); err == nil {
		err = e
	}
	r.out.free = nil // the buffers are not needed for what follows
	if err == nil && !r.walk.dry {
		r.cache.settle()
	}
	return root, err
}

// snapshot returns the maker of the snapshot object.
func (r *backupRun) snapshot(d config.Dataset, root format.Content, rep BackupReport) snapshotMaker {
	return func(refs []format.Refs) ([]byte, error) {
		host, err := os.Hostname()
		if err != nil {
			return nil, err
		}
		summary := format.Summary{
			Dataset: d.Name, Time: rep.Started.UnixNano(), Priority: d.Priority, Files: rep.Files,
			Dirs: rep.Dirs, Others: rep.Others, Bytes: rep.Bytes, Added: rep.Added,
			Errors: uint64(len(r.walk.counts.gaps)) + r.walk.counts.hiddenGaps, Label: d.Label, Tags: d.Tags,
			Targets: r.l.s.hints(d.Compartment), Refs: refs,
		}
		inner := format.Root{Tree: root, Errors: rep.Gaps, Host: host, Program: "embassy"}
		for _, s := range d.Sources {
			inner.Sources = append(inner.Sources, []byte(s))
		}
		if !d.S3.IsZero() {
			inner.Sources = append(inner.Sources, []byte(d.S3.URL))
		}
		return format.SealSnapshot(r.session, r.l.comp.Current(), summary, inner)
	}
}
