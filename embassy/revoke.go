package embassy

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"embassy/embassy/format"
)

// AgentChain is a chain of one agent as the answering targets show it.
type AgentChain struct {
	Compartment string
	Chain       format.ID
	Newest      []AgentEntry // newest first, at most shownEntries of them

	entries []AgentEntry
}

// AgentEntry is a verified entry of a chain.
type AgentEntry struct {
	Seq  uint64
	Hash format.Hash
	Time time.Time // by the agent's clock
}

const shownEntries = 5

// chainsOf reads the chains of an agent, of a revoked one too what does not
// count any more.
func (s *Service) chainsOf(ctx context.Context, by Authority, who string) (id format.ID, chains []AgentChain, err error) {
	state, err := OpenState(s.site.StateDir)
	if err != nil {
		return id, nil, err
	}
	ch, object, err := s.newestCharter(ctx, state)
	if err != nil {
		return id, nil, err
	}
	open := func() (*Keys, error) { return AgentKeys(ch, state.key) }
	if by.Root != nil {
		open = func() (*Keys, error) { return RootKeys(ch, by.Root) }
	}
	keys, err := open()
	if err != nil {
		return id, nil, err
	}
	a := following(ch, object, keys, nil)
	g, _, err := a.find(who)
	if err != nil {
		return id, nil, err
	}
	if slices.ContainsFunc(g.Compartments, func(c format.ID) bool { return a.parts[c] == nil }) {
		return id, nil, fmt.Errorf("agent %s writes a compartment that is not open to this machine, so its chains there cannot be told: revoke it on a machine of an agent of all its compartments, or with the root: %w", who, ErrNotEnrolled)
	}
	g.Status = format.AgentActive // so that nothing is left out
	v, err := OpenView(ctx, ViewOptions{
		Keys: &Keys{Charter: a.Charter, Compartments: keys.Compartments}, Members: s.order, Order: s.Ranked,
		Log: s.log, Warn: s.warn, Now: s.now,
	})
	if err != nil {
		return id, nil, err
	}
	if err := v.witness(ctx, func(ch *readChain) bool { return ch.agent == g.ID }); err != nil { // what people choose from is signed
		return id, nil, err
	}
	for _, c := range v.compartments {
		for _, chain := range c.sorted() {
			if chain.agent != g.ID {
				continue
			}
			out := AgentChain{Compartment: c.Part.Name, Chain: chain.chain}
			for _, n := range slices.Backward(chain.numbers()) {
				for _, e := range chain.entries[n] {
					out.entries = append(out.entries, AgentEntry{Seq: n, Hash: e.hash, Time: e.When()})
				}
			}
			out.Newest = out.entries[:min(len(out.entries), shownEntries)]
			chains = append(chains, out)
		}
	}
	return g.ID, chains, nil
}

// afterNone says that of chains which are not named nothing counts.
const afterNone = "none"

// Revoke ends an agent for good. Of each of its chains, the entry whose hash
// begins with one of after is the last that counts; "none" stands for chains
// that are not named. ErrAfter, with the chains for people to choose from, when
// a chain is left open.
func (s *Service) Revoke(ctx context.Context, by Authority, who string, after []string) (ChangeReport, error) {
	id, chains, err := s.chainsOf(ctx, by, who)
	if err != nil {
		return ChangeReport{}, err
	}
	heads, err := choose(chains, after)
	if err != nil {
		return ChangeReport{}, fmt.Errorf("agent %s: %w", who, err)
	}
	return s.change(ctx, by, func(a *amendment) error {
		g, name, err := a.find(id.String())
		if err != nil {
			return err
		}
		if g.Status == format.AgentRevoked && slices.Equal(g.After, heads) {
			return nil
		}
		g.Status, g.After = format.AgentRevoked, heads
		a.say("agent %s is revoked for good", name)
		for _, c := range chains {
			i := slices.IndexFunc(heads, func(h format.Head) bool { return h.Chain == c.Chain })
			if i < 0 {
				a.say("of its chain %s in compartment %s nothing counts", c.Chain, c.Compartment)
			} else {
				a.say("of its chain %s in compartment %s, entries 1 to %d count, and those after do not", c.Chain, c.Compartment, heads[i].Seq)
			}
		}
		for _, k := range g.Compartments {
			if a.parts[k] == nil {
				continue
			}
			for _, d := range a.parts[k].Datasets {
				if slices.Contains(d.Agents, g.ID) && !writable(a.Charter, d) {
					a.say("dataset %s has no agent any more: give it to another one, with embassy charter apply on its machine", d.Name)
				}
			}
		}
		a.bereaved(g)
		return nil
	})
}

// writable reports whether an active agent may write a dataset.
func writable(ch *format.Charter, d format.Dataset) bool {
	return slices.ContainsFunc(d.Agents, func(id format.ID) bool {
		g := ch.Agent(id)
		return g != nil && g.Status == format.AgentActive
	})
}

// choose returns the last entry of each chain that counts.
func choose(chains []AgentChain, after []string) ([]format.Head, error) {
	heads := map[format.ID]format.Head{}
	for _, prefix := range after {
		if prefix == afterNone {
			continue
		}
		var found []format.Head
		for _, c := range chains {
			for _, e := range c.entries {
				h := format.Head{Chain: c.Chain, Seq: e.Seq, Hash: e.Hash}
				if len(prefix) >= minPrefix && strings.HasPrefix(e.Hash.String(), prefix) && !slices.Contains(found, h) {
					found = append(found, h)
				}
			}
		}
		if len(found) != 1 {
			return nil, &chainsError{chains, fmt.Errorf("--after %s names %d entries of its chains: %w", prefix, len(found), ErrAfter)}
		}
		if _, twice := heads[found[0].Chain]; twice {
			return nil, &chainsError{chains, fmt.Errorf("--after names two entries of chain %s: %w", found[0].Chain, ErrAfter)}
		}
		heads[found[0].Chain] = found[0]
	}
	var out []format.Head
	for _, c := range chains {
		h, ok := heads[c.Chain]
		if !ok && !slices.Contains(after, afterNone) {
			return nil, &chainsError{chains, fmt.Errorf("nothing is said of chain %s: %w", c.Chain, ErrAfter)}
		}
		if ok && !slices.Contains(out, h) {
			out = append(out, h)
		}
	}
	if len(after) == 0 {
		return nil, fmt.Errorf("no chain of it is on a target that answers: %w", ErrAfter)
	}
	slices.SortFunc(out, func(a, b format.Head) int {
		return cmp.Or(slices.Compare(a.Chain[:], b.Chain[:]), cmp.Compare(a.Seq, b.Seq))
	})
	return out, nil
}

// chainsError lists chains behind what is wrong.
type chainsError struct {
	chains []AgentChain
	cause  error
}

func (e *chainsError) Unwrap() error { return e.cause }

func (e *chainsError) Error() string {
	var b strings.Builder
	b.WriteString(e.cause.Error())
	for _, c := range e.chains {
		fmt.Fprintf(&b, "\nchain %s in compartment %s, newest entries first:", c.Chain, c.Compartment)
		for _, n := range c.Newest {
			fmt.Fprintf(&b, "\n  %6d  %s  %s", n.Seq, n.Time.UTC().Format(time.RFC3339), n.Hash)
		}
		if more := len(c.entries) - len(c.Newest); more > 0 {
			fmt.Fprintf(&b, "\n  and %d before", more)
		}
	}
	return b.String()
}
