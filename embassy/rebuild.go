package embassy

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// RebuildReport says what a catalog learned again.
type RebuildReport struct {
	Target  string // that it was learned from; empty: from all
	Elapsed time.Duration
	Entries uint64 // of the own chains
	Packs   uint64 // that those list, and whose chunks are known again
	Lost    uint64 // packs whose chunks could not be learned: their data will be stored again
	Lines   int    // chains of anybody that were verified
	Exit    int    // 5: somebody lies; 4: something could not be learned; else 0
}

// Rebuild makes the catalog forget what it can learn from the ledgers, and
// learns it from one target, or from all when from is empty. What no ledger
// tells stays: how far targets had come, faults, history.
func (s *Service) Rebuild(ctx context.Context, from string) (RebuildReport, error) {
	rep := RebuildReport{Target: from}
	started := s.now()
	if from != "" {
		m := s.members[from]
		if m == nil {
			return rep, s.unknownTarget(from)
		}
		alone := *s
		alone.order, alone.members = []*Member{m}, map[string]*Member{from: m}
		s = &alone
	}
	if !s.shared.own.TryAcquire(1) {
		return rep, errors.New("a backup is running: rebuild the catalog when it has ended")
	}
	defer s.shared.own.Release(1)
	book := s.watchFaults()
	key, state, err := Identify(s.site)
	if err != nil {
		return rep, err
	}
	probe(ctx, key.Nation, s.order)
	if from != "" {
		if cause := s.order[0].Down(); cause != nil {
			return rep, fmt.Errorf("target %s: %w: %w", from, ErrDown, cause)
		}
	}
	if err := s.catalog.Forget(); err != nil {
		return rep, err
	}
	if state != nil {
		keys, err := state.Keys()
		if err != nil {
			return rep, err
		}
		for _, site := range s.site.Compartments {
			comp, err := keys.Named(site.Name)
			if err != nil {
				return rep, err
			}
			l, err := s.openLedger(state, keys, comp)
			if err != nil {
				return rep, err
			}
			if err := l.replay(ctx); err != nil {
				return rep, err
			}
			rep.Entries += l.chain.head()
			rep.Packs, rep.Lost = rep.Packs+l.packs, rep.Lost+l.lost
		}
	}
	a, err := s.openAtlas(ctx)
	if err != nil {
		return rep, err
	}
	for _, r := range a.regions {
		rep.Lines += len(r.lines)
	}
	if rep.Exit = book.exit(); rep.Exit == exitDone && rep.Lost > 0 {
		rep.Exit = exitDegraded
	}
	rep.Elapsed = s.now().Sub(started)
	return rep, s.catalog.AddRun(Run{Kind: "rebuild", Started: started, Ended: s.now(), Exit: rep.Exit,
		Note: fmt.Sprintf("learned %d entries and %d packs, %d packs lost", rep.Entries, rep.Packs, rep.Lost)})
}
