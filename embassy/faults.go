package embassy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

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

// title is what a chain is called where a target, or this machine, is to blame.
func (l Line) title() string { return "chain " + l.Chain.String() }

// showsAgain begins the text of a rollback that is over, and not forgiven.
const showsAgain = "shows all again since "

// book records what an operation on a chain found out about a target; nil
// means that the target shows all that it ever showed of the chain. A rollback
// stays in the book all the same: a host that hides something for a while has
// to be asked why, and only people can tell that it is explained.
func (s *Service) book(m *Member, l Line, err error) {
	object := l.title()
	switch {
	case err == nil:
		if err := s.shownAgain(m.Name, object); err != nil {
			s.log.Error("record fault", "target", m.Name, "err", err)
		}
	case errors.Is(err, ErrRolledBack):
		s.fault(m.Name, FaultRollback, object, err)
	case errors.Is(err, ErrDiscards):
		s.fault(m.Name, FaultDiscards, "", err)
	case errors.Is(err, ErrForked): // who looked tells it
		now := s.now()
		if _, err := s.enter(Fault{Kind: FaultFork, Object: l.object(), Text: oneLine(err), First: now, Last: now}); err != nil {
			s.log.Error("record fault", "chain", l.Chain, "err", err)
		}
	}
}

// shownAgain says in the book that what a target hid is there again.
func (s *Service) shownAgain(target, object string) error {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	f, ok, err := s.catalog.Fault(target, FaultRollback, object)
	if err != nil || !ok || strings.HasPrefix(f.Text, showsAgain) {
		return err
	}
	f.Text = fmt.Sprintf("%s%s: its copies do not count all the same; if that is explained, run embassy target trust --reason TEXT %s",
		showsAgain, s.now().UTC().Format("2006-01-02 15:04"), target)
	return s.catalog.AddFault(f)
}

const (
	// maxBooked is how many faults of one target and kind are booked; one more
	// stands for the rest.
	maxBooked = 1_000
	// untold is the object of that one.
	untold = "and more"
	// untoldEvery is how often its date is brought up to date.
	untoldEvery = time.Minute
)

// bookings keep the book of faults within bounds.
type bookings struct {
	mu sync.Mutex     // held while a fault is looked up and written
	n  map[string]int // in the book, by group; absent: not counted yet
}

func group(target string, kind FaultKind) string { return target + "\x00" + string(kind) }

// fault records a lie or a loss in the book that status reads, and tells of
// one that is new. target may be empty: no one target's fault.
func (s *Service) fault(target string, kind FaultKind, object string, cause error) {
	now := s.now()
	fresh, err := s.enter(Fault{Target: target, Kind: kind, Object: object, Text: oneLine(cause), First: now, Last: now})
	if err != nil {
		s.log.Error("record fault", "target", target, "kind", kind, "object", object, "err", err)
	}
	if fresh || err != nil {
		s.warn(Finding{Target: target, Object: object, Err: cause})
	}
}

// enter writes a fault into the book; fresh says that nothing told of it there.
// What was acknowledged is not written again.
func (s *Service) enter(f Fault) (fresh bool, err error) {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	if known, err := s.acknowledged(f); known || err != nil {
		return false, err
	}
	before, known, err := s.catalog.Fault(f.Target, f.Kind, f.Object)
	if err != nil {
		return false, err
	}
	unmended := strings.HasSuffix(before.Text, lostText) || strings.HasSuffix(before.Text, nowhereText)
	if unmended && strings.HasSuffix(f.Text, remedy) {
		f.Text = before.Text // who read one copy knows less than who looked at all
	}
	if known {
		return false, s.catalog.AddFault(f)
	}
	n, err := s.booked(f.Target, f.Kind)
	if err != nil {
		return false, err
	}
	if n >= maxBooked {
		rest, known, err := s.catalog.Fault(f.Target, f.Kind, untold)
		if age := f.Last.Sub(rest.Last); err != nil || known && age >= 0 && age < untoldEvery {
			return false, err
		}
		f.Object, f.Text = untold, fmt.Sprintf("more than %d are %s: the book names no more of them", maxBooked, f.Kind)
		if known {
			return false, s.catalog.AddFault(f)
		}
	}
	if err := s.catalog.AddFault(f); err != nil {
		return false, err
	}
	s.faults.n[group(f.Target, f.Kind)]++
	return true, nil
}

// booked counts the faults of a target and kind. s.faults.mu is held.
func (s *Service) booked(target string, kind FaultKind) (int, error) {
	if n, ok := s.faults.n[group(target, kind)]; ok {
		return n, nil
	}
	all, err := s.catalog.Faults(target)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, f := range all {
		if f.Target == target && f.Kind == kind {
			n++
		}
	}
	if s.faults.n == nil {
		s.faults.n = map[string]int{}
	}
	s.faults.n[group(target, kind)] = n
	return n, nil
}

// clearFault drops a fault from the book, if it is there.
func (s *Service) clearFault(target string, kind FaultKind, object string) error {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	_, ok, err := s.catalog.Fault(target, kind, object)
	if err != nil || !ok {
		return err
	}
	if err := s.catalog.ClearFault(target, kind, object); err != nil {
		return err
	}
	if key := group(target, kind); s.faults.n[key] > 0 {
		s.faults.n[key]--
	}
	return nil
}

// acknowledgedNote, kind and object: people know of what is no target's fault.
const acknowledgedNote = "acknowledged/"

// acknowledged reports whether people said that they know of a fault that is
// no target's.
func (s *Service) acknowledged(f Fault) (bool, error) {
	if f.Target != "" {
		return false, nil
	}
	_, ok, err := s.catalog.Noted(acknowledgedNote + string(f.Kind) + "/" + f.Object)
	return ok, err
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
	about  []string              // targets
	before map[faultID]time.Time // Fault.Last
	err    error
}

// watchFaults begins a watch over the faults of these targets, or of all, and
// over those that are no one target's.
func (s *Service) watchFaults(names ...string) *faultWatch {
	w := &faultWatch{s: s, about: append([]string{""}, names...), before: map[faultID]time.Time{}}
	if len(names) == 0 {
		for _, m := range s.order {
			w.about = append(w.about, m.Name)
		}
	}
	faults, err := s.catalog.Faults("")
	w.err = err
	for _, f := range faults {
		w.before[f.id()] = f.Last
	}
	return w
}

// faultID names a fault in the book.
type faultID struct {
	target string
	kind   FaultKind
	object string
}

func (f Fault) id() faultID { return faultID{f.Target, f.Kind, f.Object} }

// exit is 5 when a fault was met since the watch began, be it a known one, and
// is still there, or a target must not be trusted, else 0.
func (w *faultWatch) exit() int {
	faults, err := w.s.catalog.Faults("")
	if w.err != nil || err != nil {
		return exitFailed
	}
	for _, f := range faults {
		last, known := w.before[f.id()]
		met := !known || !f.Last.Equal(last) || f.Kind.Distrusts()
		if met && slices.Contains(w.about, f.Target) {
			return exitLie
		}
	}
	return exitDone
}
