package embassy

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"embassy/embassy/format"
)

// ErrNoReason: a target is trusted again only for a reason that later readers
// of the history can understand.
var ErrNoReason = errors.New("no reason was given")

const maxReason = 1 << 10 // bytes

// Trust forgives a target everything that it did, and forgets what it showed
// and what was proved of it: it is looked at as if for the first time. The
// reason goes into the history. It returns the faults that were forgiven;
// ErrUnknownTarget and ErrNoReason are mistakes of the caller. No target is
// asked: the audit record of it waits for the next backup.
func (s *Service) Trust(_ context.Context, target, reason string) ([]Fault, error) {
	if s.members[target] == nil {
		return nil, s.unknownTarget(target)
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
	if err := s.audit(DidTrust, "", "target", target, "reason", reason, "forgiven", countKinds(forgiven)); err != nil {
		return nil, err
	}
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
	s.faults.mu.Lock()
	clear(s.faults.n) // counted again when it matters
	s.faults.mu.Unlock()
	for _, key := range []string{checkKey(target), verifiedNote + target, sampleNote + target, locksNote + target} {
		if err := s.catalog.Note(key, nil); err != nil {
			return nil, err
		}
	}
	return forgiven, s.catalog.AddRun(Run{
		Kind: "trust", Started: started, Ended: s.now(),
		Note: fmt.Sprintf("target %s: %s (%s forgiven)", target, reason, countKinds(forgiven)),
	})
}

// TrustChain acknowledges what is no target's fault: that a chain forked, or
// that its writer put into objects what cannot be read. chain is the beginning
// of a chain's id, or the whole object of one fault as the book has it. It is not
// booked again; a chain that forked stays frozen, and what is unsound stays
// reported by verifications. ErrUnknownName: the book has nothing of it.
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
		if f.Target != "" || chain == "" {
			continue
		}
		of := f.Object == chain || strings.HasPrefix(f.Object, "chain "+chain)
		if !of && f.Kind == FaultUnsound {
			if of, err = s.lists(chain, f.Object); err != nil {
				return nil, err
			}
		}
		if !of {
			continue
		}
		if len(forgiven) == 0 {
			if err := s.audit(DidTrust, "", "chain", chain, "reason", reason); err != nil {
				return nil, err
			}
		}
		if f.Object != untold { // which stands for what nobody has seen yet
			if err := s.catalog.Note(acknowledgedNote+string(f.Kind)+"/"+f.Object, []byte(reason)); err != nil {
				return nil, err
			}
		}
		if err := s.clearFault("", f.Kind, f.Object); err != nil {
			return nil, err
		}
		forgiven = append(forgiven, f)
	}
	if len(forgiven) == 0 {
		return nil, fmt.Errorf("chain %q: %w: no fork of it is in the book, nor anything else that is no target's fault; see embassy status", chain, ErrUnknownName)
	}
	return forgiven, s.catalog.AddRun(Run{
		Kind: "trust", Started: started, Ended: s.now(), Note: fmt.Sprintf("chain %s: %s (%s forgiven)", chain, reason, countKinds(forgiven)),
	})
}

// lists reports whether a chain whose id begins so lists the object of that
// name.
func (s *Service) lists(chain, object string) (bool, error) {
	parts := strings.Split(object, "/") // nation, compartment, agent, kind, ..., hash
	if len(parts) < 5 {
		return false, nil
	}
	compartment, err1 := format.ParseID(parts[1])
	agent, err2 := format.ParseID(parts[2])
	h, err3 := format.ParseHash(parts[len(parts)-1])
	if errors.Join(err1, err2, err3) != nil {
		return false, nil
	}
	for _, kind := range listedKinds {
		for k, err := range s.catalog.KnownObjects(compartment, agent, kind, h[:]) {
			if err != nil || strings.HasPrefix(k.Chain.String(), chain) {
				return err == nil, err
			}
		}
	}
	return false, nil
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
