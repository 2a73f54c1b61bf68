package embassy

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"embassy/embassy/config"
	"embassy/embassy/format"
	"embassy/embassy/policy"
)

// TierStatus is one target of a dataset's compartment.
type TierStatus struct {
	Tier   policy.Tier
	Target string
	Has    bool   // the newest safe snapshot, complete; without one, the pending
	Behind uint64 // entries of this agent's chain that it lacks
	// Damaged says that it lost or spoilt something of the compartment, which
	// is not mended: what it has counts as no copy.
	Damaged bool
}

// DatasetStatus is what this machine knows of one dataset. A snapshot is safe
// when the commit rule holds for it.
type DatasetStatus struct {
	Name          string
	Compartment   string
	Priority      int
	Newest        format.Hash // the newest safe snapshot; zero: none
	Time          time.Time   // of Newest
	Age           time.Duration
	Copies        int // targets that confirmed Newest
	Guarded       int // of them, guarded ones
	Jurisdictions []string
	Pending       *Pending // newer than Newest, and not safe; nil: none
	RPO           time.Duration
	Late          bool // Newest is older than the RPO, or there is none
	Tiers         []TierStatus
	LastRun       *Run // nil: none
	// Lost: an object that this machine stored is nowhere any more, and
	// snapshots may need it.
	Lost bool
}

// Pending is a snapshot that the commit rule does not hold for yet.
type Pending struct {
	Snapshot format.Hash
	Time     time.Time
	Copies   int      // targets that confirmed it
	Missing  []string // what the commit rule lacks
}

// TargetStatus is what this machine knows of one target.
type TargetStatus struct {
	Name, URL, Jurisdiction string
	AsOf                    time.Time // newest confirmation; zero: none
	Behind                  uint64    // entries that it lacks, over all chains that this machine knows
	Guarded                 Answer    // proven by the last check; Unknown: not proven
	Live                    bool      // it was asked just now
	Err                     error     // why it does not answer, or must not be trusted

	Verified *Verified // the last verification; nil: none
	Locked   *Locked   // the last renewal of its locks; nil: none
	// LockDue: the last renewal of the locks that the configuration asks for did
	// not reach all of them, or the first ends before a quarter of the period is
	// over.
	LockDue bool
}

// Status is the state of the nation as this machine sees it. A keyless machine
// knows of no dataset.
type Status struct {
	Datasets []DatasetStatus
	Targets  []TargetStatus
	Agents   []AgentStatus // that may not write, or nearly use their quota
	Faults   []Fault       // that are neither mended nor forgiven
	Blind    bool          // this machine has never read a ledger, and knows nothing
}

// Exit is 5 when there is a fault, 4 when a dataset is late or below its commit
// rule, a lock is about to end, an agent is above its quota, or no agent writes a
// dataset any more, else 0.
func (s Status) Exit() int {
	code := exitDone
	for _, d := range s.Datasets {
		if d.Late || d.Lost || d.Pending != nil {
			code = exitDegraded
		}
	}
	for _, t := range s.Targets {
		if t.LockDue {
			code = policy.ExitCode(code, exitDegraded)
		}
		if suspect(t.Err) || t.Verified != nil && t.Verified.Harmed > 0 {
			code = exitLie
		}
	}
	for _, a := range s.Agents {
		if a.Full() || len(a.Orphans) > 0 {
			code = policy.ExitCode(code, exitDegraded)
		}
	}
	if s.Blind {
		code = policy.ExitCode(code, exitDegraded)
	}
	if len(s.Faults) > 0 {
		code = exitLie
	}
	return code
}

// Status reports from the catalog, and asks the targets as well when live.
func (s *Service) Status(ctx context.Context, live bool) (Status, error) {
	key, state, err := Identify(s.site)
	if err != nil {
		return Status{}, err
	}
	said := &verdicts{err: map[string]error{}}
	if live {
		probe(ctx, key.Nation, s.order)
		each(s.order, func(_ int, m *Member) {
			if m.Down() == nil {
				said.set(m.Name, m.Foreign(ctx, key.Nation))
			}
		})
	}
	var st Status
	var ledgers []*ledger
	var keys *Keys
	if state != nil {
		if keys, err = state.Keys(); err != nil {
			return Status{}, err
		}
		if st.Datasets, ledgers, err = s.datasetStatus(ctx, state, keys, said, live); err != nil {
			return Status{}, err
		}
	}
	a, err := s.knownAtlas(ctx, key, state, keys, live)
	if err != nil {
		return Status{}, err
	}
	for _, m := range s.order {
		t := TargetStatus{Name: m.Name, URL: m.URL, Jurisdiction: m.Jurisdiction, Guarded: s.Guarded(m.Name), Live: live}
		if t.Behind, t.AsOf, err = s.lag(a, ledgers, m); err != nil {
			return Status{}, err
		}
		why, err := s.distrusted(m)
		if err != nil {
			return Status{}, err
		}
		if err := s.inspected(&t); err != nil {
			return Status{}, err
		}
		said.set(m.Name, why)
		t.Err = said.err[m.Name]
		if t.Err == nil {
			t.Err = m.Down()
		}
		st.Targets = append(st.Targets, t)
	}
	if st.Agents, err = a.agentStatus(); err != nil {
		return Status{}, err
	}
	st.Blind = a == nil
	st.Faults, err = s.catalog.Faults("")
	return st, err
}

// inspected adds what verifications and renewals found.
func (s *Service) inspected(t *TargetStatus) error {
	v, ok, err := s.LastVerified(t.Name)
	if err != nil {
		return err
	}
	if ok {
		t.Verified = &v
	}
	l, ok, err := s.LastLocked(t.Name)
	if err != nil {
		return err
	}
	if ok {
		t.Locked = &l
	}
	site, _ := s.site.Target(t.Name)
	if period := site.Lock.Period(); period > 0 {
		switch {
		case !ok: // another machine does it, or none: this one has not looked
		case l.Error != "", l.Denied > 0, l.Doubtful > 0:
			t.LockDue = true
		case l.Earliest == nil:
			t.LockDue = l.Objects > 0
		default:
			t.LockDue = l.Earliest.Before(s.now().Add(period / 4))
		}
	}
	return nil
}

// datasetStatus reports on the datasets of an agent's machine, and returns the
// ledgers that it opened for them.
func (s *Service) datasetStatus(ctx context.Context, state *State, keys *Keys, said *verdicts, live bool) ([]DatasetStatus, []*ledger, error) {
	free := s.shared.own.TryAcquire(1) // else a run that goes on teaches the catalog by itself
	if free {
		defer s.shared.own.Release(1)
	}
	open := map[string]*ledger{}
	var ledgers []*ledger
	var out []DatasetStatus
	for _, d := range s.site.Datasets {
		l := open[d.Compartment]
		if l == nil {
			comp, err := keys.Named(d.Compartment)
			if err != nil {
				return nil, nil, notInCharter(d.Compartment, err)
			}
			if l, err = s.openLedger(state, keys, comp); err != nil {
				return nil, nil, err
			}
			open[d.Compartment], ledgers = l, append(ledgers, l)
			ask := live && free
			if free {
				listed, err := s.catalog.ListedHead(l.chain.id())
				if err != nil {
					return nil, nil, err
				}
				if listed == 0 && l.chain.head() > 0 && !live {
					// The catalog is new: what it says of the targets would be
					// worse than they are.
					ask = true
					probe(ctx, l.chain.scope.Nation, l.members)
				}
				if err := l.replay(ctx); err != nil {
					return nil, nil, err
				}
			}
			if ask {
				l.look(ctx)
			}
			for _, m := range l.members {
				said.set(m.Name, l.found(m))
			}
		}
		ds, err := l.status(d)
		if err != nil {
			return nil, nil, err
		}
		out = append(out, ds)
	}
	slices.SortStableFunc(out, func(a, b DatasetStatus) int { return cmp.Compare(a.Priority, b.Priority) })
	return out, ledgers, nil
}

// knownAtlas is the atlas of what this machine knows, or of what the targets
// say now. It is nil when this machine has never seen a charter.
func (s *Service) knownAtlas(ctx context.Context, key format.NationKey, state *State, keys *Keys, live bool) (*atlas, error) {
	a := &atlas{s: s, key: key, state: state, keys: keys}
	var err error
	switch {
	case keys != nil:
		a.charter = keys.Charter
	case live:
		return s.openAtlas(ctx)
	default:
		if a.charter, _, err = s.notedCharter(key); err != nil || a.charter == nil {
			return nil, err
		}
	}
	a.place()
	lines, err := s.catalog.KnownLines()
	if err != nil {
		return nil, err
	}
	for _, k := range lines {
		for _, r := range a.regions {
			if r.id != k.Compartment {
				continue
			}
			l := &line{Line: k, r: r, heads: map[string]uint64{}}
			if l.last, err = l.valid(); err != nil {
				return nil, err
			}
			r.lines = append(r.lines, l)
		}
	}
	return a, nil
}

// lag counts the entries that a target lacks, and says when it last confirmed
// one.
func (s *Service) lag(a *atlas, ledgers []*ledger, m *Member) (behind uint64, asOf time.Time, err error) {
	own := map[Line]bool{}
	count := func(seen SeenHead, head uint64) {
		if seen.At.After(asOf) {
			asOf = seen.At
		}
		behind += head - min(seen.Seq, head)
	}
	for _, l := range ledgers {
		own[l.chain.line()] = true
		if slices.ContainsFunc(l.members, func(o *Member) bool { return o.Name == m.Name }) {
			seen, _, err := l.seenOn(m)
			if err != nil {
				return 0, asOf, err
			}
			count(seen, l.chain.head())
		}
	}
	if a == nil {
		return behind, asOf, nil
	}
	for _, r := range a.regions {
		if _, ok := r.member(m); !ok {
			continue
		}
		for _, l := range r.lines {
			if own[l.Line] {
				continue
			}
			seen, ok, err := s.catalog.SeenHead(m.Name, l.Line)
			if err == nil && ok {
				seen.Seq, err = l.heldBy(seen)
			}
			if err != nil {
				return 0, asOf, err
			}
			count(seen, l.last)
		}
	}
	return behind, asOf, nil
}

// verdicts collects what was found wrong with targets.
type verdicts struct {
	mu  sync.Mutex
	err map[string]error
}

func (v *verdicts) set(target string, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err != nil && !errors.Is(v.err[target], ErrForeignTarget) { // which explains the rest
		v.err[target] = err
	}
}

// status tells of one dataset from the own chain and the catalog.
func (l *ledger) status(d config.Dataset) (DatasetStatus, error) {
	ds := DatasetStatus{Name: d.Name, Compartment: d.Compartment, Priority: d.Priority, RPO: d.RPO}
	runs, err := l.s.catalog.Runs(d.Name, 1)
	if err != nil {
		return ds, err
	}
	if len(runs) > 0 {
		ds.LastRun = &runs[0]
	}
	lost, _, err := l.s.catalog.Noted(lostKey(l.chain.id()))
	if err != nil {
		return ds, err
	}
	ds.Lost = len(lost) > 0
	last, ok, err := l.newestOf(d.Name)
	if err != nil {
		return ds, err
	}
	safe, protected, err := l.safeOf(d.Name)
	if err != nil {
		return ds, err
	}
	ds.Late = !protected
	if !ok {
		return ds, nil
	}
	shown := last
	if protected {
		shown = safe
		ds.Newest, ds.Time = safe.Hash, safe.Time
		ds.Age = l.s.now().Sub(ds.Time)
		ds.Late = d.RPO > 0 && (ds.Age > d.RPO || ds.Age < -clockSlack) // a snapshot of the future proves nothing
	}
	if !protected || safe.Hash != last.Hash {
		ds.Pending = &Pending{Snapshot: last.Hash, Time: last.Time}
		if ds.Pending.Missing, err = l.missing(last.Seq); err != nil {
			return ds, err
		}
	}
	for _, m := range l.members {
		t := TierStatus{Tier: m.Tier, Target: m.Name, Behind: l.chain.head()}
		seen, ok, err := l.seenOn(m)
		if err != nil {
			return ds, err
		}
		trusted := ok && !suspect(l.found(m))
		if ok {
			t.Behind = l.chain.head() - min(seen.Seq, l.chain.head())
			t.Has = seen.Seq >= shown.Seq && trusted
		}
		if ds.Pending != nil && trusted && seen.Seq >= last.Seq {
			ds.Pending.Copies++
		}
		if t.Damaged, err = l.damagedOn(m); err != nil {
			return ds, err
		}
		if t.Has && protected && !t.Damaged {
			ds.Copies++
			if m.Guarded {
				ds.Guarded++
			}
			if m.Jurisdiction != "" && !slices.Contains(ds.Jurisdictions, m.Jurisdiction) {
				ds.Jurisdictions = append(ds.Jurisdictions, m.Jurisdiction)
			}
		}
		ds.Tiers = append(ds.Tiers, t)
	}
	return ds, nil
}

// damagedOn reports whether the book names an object of the compartment that
// the target lost or spoilt.
func (l *ledger) damagedOn(m *Member) (bool, error) {
	faults, err := l.s.catalog.Faults(m.Name)
	if err != nil {
		return false, err
	}
	prefix := l.chain.scope.Nation.String() + "/" + l.chain.scope.Compartment.String() + "/"
	return slices.ContainsFunc(faults, func(f Fault) bool {
		return f.Kind.Damages() && (strings.HasPrefix(f.Object, prefix) || f.Object == untold)
	}), nil
}
