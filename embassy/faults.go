package embassy

import (
	"errors"
	"fmt"
	"strings"

	"embassy/embassy/format"
)

// suspect reports whether a target's copies must not be counted.
func suspect(err error) bool {
	return errors.Is(err, ErrRolledBack) || errors.Is(err, ErrForked) || errors.Is(err, ErrDiscards)
}

// folderOf is the folder of a chain on every target.
func folderOf(nation format.ID, l Line) string {
	return format.LedgerPrefix(nation, l.Compartment, l.Agent) + l.Chain.String() + "/"
}

// book records what an operation on a chain found out about a target; nil
// means that the target shows all that it ever showed of the chain.
func (s *Service) book(m *Member, l Line, err error) {
	object := "chain " + l.Chain.String()
	switch {
	case err == nil:
		if err := s.catalog.ClearFault(m.Name, FaultRollback, object); err != nil {
			s.log.Error("clear fault", "target", m.Name, "err", err)
		}
	case errors.Is(err, ErrRolledBack):
		s.fault(m.Name, FaultRollback, object, err)
	case errors.Is(err, ErrDiscards):
		s.fault(m.Name, FaultDiscards, "", err)
	}
}

// fault records a lie or a loss in the book that status reads, and tells of
// one that is new. target may be empty: no one target's fault.
func (s *Service) fault(target string, kind FaultKind, object string, cause error) {
	now := s.now()
	known, err := s.knownFault(target, kind, object)
	if err == nil {
		err = s.catalog.AddFault(Fault{Target: target, Kind: kind, Object: object, Text: oneLine(cause), First: now, Last: now})
	}
	if err != nil {
		s.log.Error("record fault", "target", target, "kind", kind, "object", object, "err", err)
	}
	if !known {
		s.warn(Finding{Target: target, Object: object, Err: cause})
	}
}

func (s *Service) knownFault(target string, kind FaultKind, object string) (bool, error) {
	faults, err := s.catalog.Faults(target)
	if err != nil {
		return false, err
	}
	for _, f := range faults {
		if f.Target == target && f.Kind == kind && f.Object == object {
			return true, nil
		}
	}
	return false, nil
}

// distrusted returns why copies on a target must not be counted, or nil. The
// second error is the catalog's.
func (s *Service) distrusted(m *Member) (why, failed error) {
	faults, err := s.catalog.Faults(m.Name)
	if err != nil {
		return nil, err
	}
	for _, f := range faults {
		switch f.Kind {
		case FaultRollback:
			return ErrRolledBack, nil
		case FaultDiscards:
			return ErrDiscards, nil
		}
	}
	return nil, nil
}

// saw records how far a target has come with a chain, unless it is known to
// have come as far.
func (s *Service) saw(m *Member, l Line, h SeenHead) error {
	s.heads.Lock()
	defer s.heads.Unlock()
	seen, ok, err := s.catalog.SeenHead(m.Name, l)
	if err != nil || ok && seen.Seq >= h.Seq {
		return err
	}
	return s.catalog.SetSeenHead(m.Name, l, h)
}

// oneLine is the text of an error without line breaks.
func oneLine(err error) string { return strings.Join(strings.Fields(fmt.Sprintf("%.1000s", err)), " ") }

// faultWatch tells what became worse during a run.
type faultWatch struct {
	s      *Service
	before map[string]bool
	err    error
}

// watchFaults begins a watch.
func (s *Service) watchFaults() *faultWatch {
	w := &faultWatch{s: s, before: map[string]bool{}}
	faults, err := s.catalog.Faults("")
	w.err = err
	for _, f := range faults {
		w.before[f.key()] = true
	}
	return w
}

func (f Fault) key() string { return f.Target + "\x00" + string(f.Kind) + "\x00" + f.Object }

// exit is 5 when a fault is new since the watch began, or a target must not be
// trusted, else 0.
func (w *faultWatch) exit() int {
	faults, err := w.s.catalog.Faults("")
	if w.err != nil || err != nil {
		return exitFailed
	}
	for _, f := range faults {
		if !w.before[f.key()] || f.Kind.Distrusts() {
			return exitLie
		}
	}
	return exitDone
}
