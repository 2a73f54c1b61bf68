package embassy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrNoReason: a target is trusted again only for a reason that later readers
// of the history can understand.
var ErrNoReason = errors.New("no reason was given")

const maxReason = 1 << 10 // bytes

// Trust forgives a target everything that it did, and forgets what it showed
// and what was proved of it: it is looked at as if for the first time. The
// reason goes into the history. It returns the faults that were forgiven;
// ErrUnknownTarget and ErrNoReason are mistakes of the caller. No target is asked.
func (s *Service) Trust(_ context.Context, target, reason string) ([]Fault, error) {
	if s.members[target] == nil {
		return nil, fmt.Errorf("target %q: %w", target, ErrUnknownTarget)
	}
	reason = strings.Join(strings.Fields(reason), " ")
	if reason == "" {
		return nil, fmt.Errorf("target %q: %w", target, ErrNoReason)
	}
	if len(reason) > maxReason {
		return nil, fmt.Errorf("target %q: the reason has %d bytes, at most %d are kept", target, len(reason), maxReason)
	}
	forgiven, err := s.catalog.Faults(target)
	if err != nil {
		return nil, err
	}
	// Older catalogs have a note instead of a fault.
	marks, err := s.catalog.Notes(suspectNotes)
	if err != nil {
		return nil, err
	}
	for key, text := range marks {
		if _, of, ok := strings.Cut(key, "/"); !ok || of != target || len(text) == 0 {
			continue
		}
		if !slices.ContainsFunc(forgiven, func(f Fault) bool { return f.Kind == FaultRollback }) {
			forgiven = append(forgiven, Fault{Target: target, Kind: FaultRollback, Text: string(text)})
		}
		if err := s.catalog.Note(suspectNotes+key, nil); err != nil {
			return nil, err
		}
	}
	started := s.now()
	if err := s.catalog.ForgetTarget(target); err != nil {
		return nil, err
	}
	if err := s.catalog.Note(checkKey(target), nil); err != nil {
		return nil, err
	}
	return forgiven, s.catalog.AddRun(Run{
		Kind: "trust", Started: started, Ended: s.now(),
		Note: fmt.Sprintf("target %s: %s (%s forgiven)", target, reason, countKinds(forgiven)),
	})
}

// suspectNotes begins the keys that ledger.suspectKey makes.
const suspectNotes = "suspect/"

// countKinds names the kinds of faults with their numbers.
func countKinds(faults []Fault) string {
	if len(faults) == 0 {
		return "nothing"
	}
	var kinds []FaultKind
	number := map[FaultKind]int{}
	for _, f := range faults {
		if number[f.Kind]++; number[f.Kind] == 1 {
			kinds = append(kinds, f.Kind)
		}
	}
	var words []string
	for _, k := range kinds {
		words = append(words, fmt.Sprintf("%d %s", number[k], k))
	}
	return strings.Join(words, ", ")
}
