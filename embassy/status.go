package embassy

import (
	"cmp"
	"context"
	"errors"
	"slices"
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
	Live                    bool      // it was asked just now
	Guarded                 Answer    // proven by the last check; Unknown: not proven
	Err                     error     // why it does not answer, or must not be trusted
}

// Status is the state of the nation as this machine sees it.
type Status struct {
	Datasets []DatasetStatus
	Targets  []TargetStatus
}

// Exit is 5 when a target shows less than it confirmed, 4 when a dataset is
// late or below its commit rule, else 0.
func (s Status) Exit() int {
	code := exitDone
	for _, d := range s.Datasets {
		if d.Late || d.Pending != nil {
			code = exitDegraded
		}
	}
	for _, t := range s.Targets {
		if suspect(t.Err) {
			code = exitLie
		}
	}
	return code
}

// Status reports from the catalog, and asks the targets as well when live.
func (s *Service) Status(ctx context.Context, live bool) (Status, error) {
	state, err := OpenState(s.site.StateDir)
	if err != nil {
		return Status{}, err
	}
	ch, _, err := state.charter()
	if err != nil {
		return Status{}, err
	}
	keys, err := AgentKeys(ch, state.key)
	if err != nil {
		return Status{}, err
	}
	if live {
		probe(ctx, state.Nation(), s.order)
	}
	said := &verdicts{err: map[string]error{}}
	if live {
		each(s.order, func(_ int, m *Member) {
			if m.Down() == nil {
				said.set(m.Name, m.Foreign(ctx, state.Nation()))
			}
		})
	}
	asOf := map[string]time.Time{}
	ledgers := map[string]*ledger{}
	var st Status
	for _, d := range s.site.Datasets {
		l := ledgers[d.Compartment]
		if l == nil {
			comp, err := keys.Named(d.Compartment)
			if err != nil {
				return Status{}, errors.Join(err, ErrNotInCharter)
			}
			site, _ := s.site.Compartment(d.Compartment)
			if l, err = s.openLedger(state, comp, site); err != nil {
				return Status{}, err
			}
			ledgers[d.Compartment] = l
			if err := l.replay(ctx); err != nil {
				return Status{}, err
			}
			each(l.members, func(_ int, m *Member) {
				if live && m.Down() == nil {
					_, err := l.survey(ctx, m)
					l.judge(m, err)
				}
				said.set(m.Name, l.found(m))
			})
			for _, m := range l.members {
				seen, ok, err := s.catalog.SeenHead(m.Name, l.chain.line())
				if err != nil {
					return Status{}, err
				}
				if ok && seen.At.After(asOf[m.Name]) {
					asOf[m.Name] = seen.At
				}
			}
		}
		ds, err := l.status(d)
		if err != nil {
			return Status{}, err
		}
		st.Datasets = append(st.Datasets, ds)
	}
	slices.SortStableFunc(st.Datasets, func(a, b DatasetStatus) int { return cmp.Compare(a.Priority, b.Priority) })
	for _, m := range s.order {
		t := TargetStatus{Name: m.Name, URL: m.URL, Jurisdiction: m.Jurisdiction, AsOf: asOf[m.Name], Live: live, Guarded: s.Guarded(m.Name), Err: said.err[m.Name]}
		if t.Err == nil && (live || m.Target == nil) {
			t.Err = m.Down()
		}
		st.Targets = append(st.Targets, t)
	}
	return st, nil
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
		seen, ok, err := l.s.catalog.SeenHead(m.Name, l.chain.line())
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
		if t.Has && protected {
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
