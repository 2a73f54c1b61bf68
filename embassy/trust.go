package embassy

import (
	"context"
	"errors"
	"fmt"
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
	reason, err := checkReason(reason)
	if err != nil {
		return nil, fmt.Errorf("target %q: %w", target, err)
	}
	forgiven, err := s.catalog.Faults(target)
	if err != nil {
		return nil, err
	}
	started := s.now()
	if state, err := OpenState(s.site.StateDir); err == nil {
		if err := state.forgive(target); err != nil {
			return nil, err
		}
	} else if !errors.Is(err, ErrNoState) {
		return nil, err
	}
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

// TrustChain acknowledges that a chain forked, or whatever else is no one
// target's fault: chain is the beginning of its object in the book. The chain
// stays frozen.
func (s *Service) TrustChain(chain, reason string) ([]Fault, error) {
	reason, err := checkReason(reason)
	if err != nil {
		return nil, fmt.Errorf("chain %s: %w", chain, err)
	}
	started := s.now()
	all, err := s.catalog.Faults("")
	if err != nil {
		return nil, err
	}
	var forgiven []Fault
	for _, f := range all {
		if f.Target != "" || f.Kind != FaultFork || !strings.HasPrefix(f.Object, "chain "+chain) {
			continue
		}
		if err := s.catalog.ClearFault("", f.Kind, f.Object); err != nil {
			return nil, err
		}
		forgiven = append(forgiven, f)
	}
	if len(forgiven) == 0 {
		return nil, fmt.Errorf("chain %q: %w: no fork of it is in the book, see embassy status", chain, ErrUnknownName)
	}
	return forgiven, s.catalog.AddRun(Run{
		Kind: "trust", Started: started, Ended: s.now(), Note: fmt.Sprintf("chain %s: %s (%s forgiven)", chain, reason, countKinds(forgiven)),
	})
}

// checkReason returns a reason in one line.
func checkReason(reason string) (string, error) {
	reason = strings.Join(strings.Fields(reason), " ")
	if reason == "" {
		return "", ErrNoReason
	}
	if len(reason) > maxReason {
		return "", fmt.Errorf("the reason has %d bytes, at most %d are kept", len(reason), maxReason)
	}
	return reason, nil
}

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
