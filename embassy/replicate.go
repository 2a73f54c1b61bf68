package embassy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"embassy/embassy/format"
	"embassy/embassy/policy"
	"embassy/targets"
)

// idleRounds is how often a target that was alive may fail without anything
// arriving, before a replication gives up on it.
const idleRounds = 3

// linkSilence is how long a link may be silent in the middle of an upload before
// a replication gives the upload up. On a thin link what was sent is worth the
// wait, and nobody else waits.
const linkSilence = time.Minute

// ReplicateOptions say what to copy.
type ReplicateOptions struct {
	Targets []string // to which; none: all
	// Shard is the zero-based part of the work that this machine does, of
	// Shards; 0 or 1 Shards: all of it. Objects are dealt by their hash.
	Shard, Shards int
	DryRun        bool // say what would be copied, and copy nothing
}

// ReplicatedTarget is the outcome on one target.
type ReplicatedTarget struct {
	Target  string
	Objects uint64 // copied; of a dry run: to be copied
	Bytes   uint64 // of them
	Entries uint64 // ledger entries put
	Behind  uint64 // entries that it lacks, over all chains, and those that no target gives
	// Estimate is how long a dry run's copying would take at the speed last
	// measured; 0: unknown.
	Estimate time.Duration
	Err      error // nil: it has everything that it should
}

// ReplicateReport is the outcome of a replication.
type ReplicateReport struct {
	Started time.Time
	Elapsed time.Duration
	Targets []ReplicatedTarget // in the order of the configuration
	DryRun  bool
	// Unplaced are compartments of the charter that the configuration gives no
	// place. They are not copied.
	Unplaced []string
	Exit     int // 5: somebody lies, or a bad copy was met; 4: something is left behind; else 0
}

// Replicate brings every target to the head of every chain that any of them,
// or this machine, holds: compartments by rank, each chain in the commit order.
// It needs no key. A target that is dead, slow or denies holds up no other.
// Stopped anywhere, it goes on where it was.
func (s *Service) Replicate(ctx context.Context, o ReplicateOptions) (ReplicateReport, error) {
	rep := ReplicateReport{Started: s.now(), DryRun: o.DryRun}
	members, err := s.named(o.Targets)
	if err != nil {
		return rep, err
	}
	book := s.watchFaults(o.Targets...)
	a, err := s.openAtlas(ctx)
	if err != nil {
		return rep, err
	}
	r := &replication{s: s, a: a, o: o, members: members, since: s.now(), done: map[string]*ReplicatedTarget{}, own: map[string]*ledger{},
		weights: map[format.ID]weights{},
		meter:   newMeter(s.progress, s.now, "replicate", "")}
	defer r.meter.end()
	if !o.DryRun && s.shared.own.TryAcquire(1) { // a backup that runs brings its own
		err := r.openOwn(ctx)
		s.shared.own.Release(1)
		if err != nil {
			return rep, err
		}
	}
	for _, m := range members {
		r.done[m.Name] = &ReplicatedTarget{Target: m.Name}
	}
	each(r.members, func(_ int, m *Member) { r.done[m.Name].Err = r.bring(targets.Patiently(ctx, linkSilence), m) })
	if err := ctx.Err(); err != nil {
		return rep, err
	}
	if err := r.closeOwn(ctx); err != nil {
		return rep, err
	}
	codes := []int{book.exit()}
	if r.forked {
		codes = append(codes, exitLie)
	}
	for _, m := range r.members {
		t := r.done[m.Name]
		if t.Behind, err = r.behind(m); err != nil {
			return rep, err
		}
		if o.DryRun {
			t.Estimate = s.timeFor(m, t.Bytes)
		}
		if (t.Behind > 0 || t.Err != nil) && !o.DryRun {
			codes = append(codes, exitDegraded)
		}
		rep.Targets = append(rep.Targets, *t)
	}
	if rep.Unplaced = a.unplaced; len(rep.Unplaced) > 0 {
		codes = append(codes, exitDegraded)
	}
	rep.Exit, rep.Elapsed = policy.ExitCode(codes...), s.now().Sub(rep.Started)
	if o.DryRun {
		return rep, nil
	}
	return rep, s.catalog.AddRun(Run{Kind: "replicate", Started: rep.Started, Ended: s.now(), Exit: rep.Exit, Note: rep.note()})
}

func (r *ReplicateReport) note() string {
	var bytes, objects, behind uint64
	for _, t := range r.Targets {
		bytes, objects, behind = bytes+t.Bytes, objects+t.Objects, behind+t.Behind
	}
	return fmt.Sprintf("copied %d objects, %d bytes; %d entries behind", objects, bytes, behind)
}

// replication is one run of Replicate.
type replication struct {
	s       *Service
	a       *atlas
	o       ReplicateOptions
	members []*Member
	since   time.Time          // what is placed from then on is there
	own     map[string]*ledger // by compartment; empty on a machine without own chains
	forked  bool               // another machine wrote on an own chain
	meter   *meter

	mu      sync.Mutex
	done    map[string]*ReplicatedTarget
	weights map[format.ID]weights // by agent with a quota
}

// openOwn opens the chains that this machine writes: what it could not bring
// to any target, nobody else can.
func (r *replication) openOwn(ctx context.Context) error {
	if r.a.state == nil {
		return nil
	}
	for _, region := range r.a.regions {
		l, err := r.openLedger(region)
		if err != nil {
			return err
		}
		// What is lost, a backup stores again; a fork is left behind at once.
		if l.look(ctx); l.forkedBy() != nil {
			r.forked = true
			err = l.prepare(ctx)
		} else {
			err = l.replay(ctx)
		}
		if err != nil {
			return err
		}
		l.courier.looks, l.courier.sent, l.courier.ready = true, r.sent, region.ready
		l.courier.lead, l.courier.void = region.leads(l.courier), region.void
		r.own[region.name] = l
	}
	return nil
}

func (r *replication) openLedger(region *region) (*ledger, error) {
	comp, err := r.a.keys.Named(region.name)
	if err != nil {
		return nil, err
	}
	return r.s.openLedger(r.a.state, r.a.keys, comp)
}

// closeOwn books what the commit rule now holds for. A backup may have gone on,
// or begun another chain, since openOwn: the ledgers are opened anew.
func (r *replication) closeOwn(ctx context.Context) error {
	if len(r.own) == 0 || !r.s.shared.own.TryAcquire(1) {
		return nil // a backup that runs by now books it
	}
	defer r.s.shared.own.Release(1)
	for _, region := range r.a.regions {
		if r.own[region.name] == nil {
			continue
		}
		l, err := r.openLedger(region)
		if err != nil {
			return err
		}
		for _, d := range r.s.site.Datasets {
			if d.Compartment == region.name {
				if err := l.vouch(d.Name); err != nil {
					return err
				}
			}
		}
		if err := l.tidy(ctx); err != nil {
			return err
		}
		r.own[region.name] = l
	}
	return nil
}

// bring brings one target as far as it can be brought. A target that was alive
// and fails is asked again when its breaker closes, as long as something
// arrives in between.
func (r *replication) bring(ctx context.Context, m *Member) error {
	if why, err := r.s.distrusted(m); err != nil || why != nil {
		return errors.Join(err, why)
	}
	if cause := m.Down(); cause != nil {
		return fmt.Errorf("target %s: %w: %w", m.Name, ErrDown, cause)
	}
	for idle := 0; ; {
		before := r.progress(m)
		err := r.pass(ctx, m)
		if err == nil || ctx.Err() != nil || m.Banned() || m.Down() == nil || final(err) && !answered(err) {
			return err
		}
		if idle++; r.progress(m) > before {
			idle = 0
		}
		if idle == idleRounds {
			return err
		}
		for m.Down() != nil && !m.Banned() {
			if err := sleep(ctx, waitStep); err != nil {
				return err
			}
		}
		probe(ctx, r.a.key.Nation, []*Member{m})
	}
}

func (r *replication) progress(m *Member) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.done[m.Name]
	return t.Objects + t.Entries
}

func (r *replication) sent(m *Member, bytes uint64, entry bool) {
	r.mu.Lock()
	t := r.done[m.Name]
	if entry {
		t.Entries++
	} else {
		t.Objects++
		t.Bytes += bytes
	}
	r.mu.Unlock()
	r.meter.add(func(p *Progress) {
		p.Files++
		p.Bytes += bytes
		p.PerTarget[m.Name] += bytes
	})
}

// pass goes once through everything that one target should hold. What is wrong
// with one chain stops no other; a fault of the target stops all.
func (r *replication) pass(ctx context.Context, m *Member) error {
	var errs []error
	if err := r.charters(ctx, m); err != nil {
		errs = append(errs, err)
	}
	for _, region := range r.a.regions {
		at, ok := region.member(m)
		if !ok {
			continue
		}
		own := r.own[region.name]
		waits := false // the own chain, for others
		bringOwn := func() {
			err := own.advance(ctx, at, true)
			if waits = errors.Is(err, errWaits); !waits {
				errs = append(errs, err)
			}
			own.judge(at, err)
		}
		if own != nil && m.Down() == nil {
			bringOwn()
		}
		for moved, rest := true, region.lines; moved && len(rest) > 0; { // chains wait for one another in turn
			before := r.progress(m)
			var later []*line
			for _, l := range rest {
				if ctx.Err() != nil || m.Down() != nil {
					break
				}
				if own != nil && l.Line == own.chain.line() {
					if waits {
						bringOwn()
					}
					if waits {
						later = append(later, l)
					}
					if err := r.follow(l, at); err != nil {
						return err
					}
					continue
				}
				if err := r.line(ctx, region, l, at); errors.Is(err, errWaits) {
					later = append(later, l)
				} else if err != nil {
					errs = append(errs, fmt.Errorf("chain %s: %w", l.Chain, err))
				}
			}
			moved, rest = r.progress(m) > before, later
		}
		if waits && m.Down() == nil {
			bringOwn()
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if cause := m.Down(); cause != nil {
		errs = append(errs, fmt.Errorf("target %s: %w: %w", m.Name, ErrDown, cause))
	}
	return errors.Join(errs...)
}

// member returns a target as the region ranks it.
func (r *region) member(m *Member) (*Member, bool) {
	i := slices.IndexFunc(r.members, func(o *Member) bool { return o.Name == m.Name })
	if i < 0 {
		return nil, false
	}
	return r.members[i], true
}

// follow books on the line what the own ledger did.
func (r *replication) follow(l *line, m *Member) error {
	seen, err := l.seenOn(m)
	if err == nil {
		l.reached(m, seen)
	}
	return err
}

// line brings one chain to one target.
func (r *replication) line(ctx context.Context, region *region, l *line, m *Member) error {
	at, err := l.headOn(m)
	if err != nil || at >= l.last {
		return err
	}
	to, full, err := r.room(l, m, at)
	if err != nil {
		return err
	}
	part := upTo{l, to}
	c := &courier{s: r.s, since: r.since, looks: true, ready: region.ready, sent: r.sent, object: l.added}
	c.lead, c.void = region.leads(c), region.void
	if r.o.Shards > 1 {
		c.share = func(h format.Hash) bool {
			return int(binary.BigEndian.Uint64(h[:8])%uint64(r.o.Shards)) == r.o.Shard
		}
	}
	if r.o.DryRun {
		return errors.Join(r.count(ctx, c, part, m, at), full)
	}
	if c.share != nil {
		if err := c.ahead(ctx, part, m, at); err != nil {
			return err
		}
	}
	reached, err := c.advance(ctx, part, m, at, true)
	l.reached(m, reached)
	if errors.Is(err, ErrDiscards) {
		r.s.book(m, l.Line, err)
	}
	if err == nil {
		err = full
	}
	return err
}

// ready reports whether the target has what an entry depends on. What a revoked
// agent wrote after the last entry that counts, nobody waits for: no reader
// uses it.
func (r *region) ready(_ context.Context, m *Member, e format.Entry) (bool, error) {
	for _, d := range e.Depends {
		last, revoked := r.revoked[d.Chain]
		ready := revoked && d.Seq > last && !slices.ContainsFunc(r.lines, func(l *line) bool { return l.Chain == d.Chain && d.Seq <= l.last })
		for _, l := range r.lines {
			if l.Chain != d.Chain || d.Seq > l.last {
				continue
			}
			k, ok, err := r.a.s.catalog.KnownEntry(l.Line, d.Seq)
			if err != nil {
				return false, err
			}
			n, err := l.headOn(m)
			if err != nil {
				return false, err
			}
			ready = ready || ok && k.Hash == d.Hash && n >= d.Seq
		}
		if !ready {
			return false, nil
		}
	}
	return true, nil
}

// count adds up what a dry run would copy.
func (r *replication) count(ctx context.Context, c *courier, l upTo, m *Member, at uint64) error {
	for seq := at + 1; seq <= l.to; seq++ {
		e, _, err := l.entry(ctx, seq)
		if err != nil {
			return err
		}
		left, err := r.s.left(e)
		if err != nil {
			return err
		}
		missing, _, err := c.missing(ctx, m, e, left)
		if err != nil {
			return err
		}
		r.mu.Lock()
		for _, a := range missing {
			r.done[m.Name].Objects++
			r.done[m.Name].Bytes += a.Size
		}
		r.mu.Unlock()
	}
	return nil
}

// charters puts the newest charter on a target that lacks it. Credentials that
// may not write charters leave it to others.
func (r *replication) charters(ctx context.Context, m *Member) error {
	if r.o.DryRun {
		return nil
	}
	h := format.HashOf(r.a.object)
	name := format.CharterName(r.a.key.Nation, r.a.charter.Seq, h)
	_, err := m.stat(ctx, name)
	if !errors.Is(err, targets.ErrNotFound) {
		return err
	}
	if err := m.Foreign(ctx, r.a.key.Nation); err != nil {
		m.ban(err)
		return err
	}
	if err = m.putKept(ctx, name, r.a.object, h); errors.Is(err, targets.ErrDenied) {
		return nil
	}
	return err
}

// behind counts the entries that a target lacks.
func (r *replication) behind(m *Member) (uint64, error) {
	var n uint64
	for _, region := range r.a.regions {
		if _, ok := region.member(m); !ok {
			continue
		}
		own := r.own[region.name]
		n += region.beyond
		for _, l := range region.lines {
			if own != nil && l.Line == own.chain.line() {
				continue
			}
			at, err := l.headOn(m)
			if err != nil {
				return 0, err
			}
			n += l.last - at
		}
		if own != nil {
			seen, _, err := own.seenOn(m)
			if err != nil {
				return 0, err
			}
			n += own.chain.head() - min(seen.Seq, own.chain.head())
		}
	}
	return n, nil
}
