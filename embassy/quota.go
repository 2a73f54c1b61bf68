package embassy

import (
	"context"
	"errors"
	"fmt"

	"embassy/embassy/format"
)

// ErrQuota: an agent takes as much of a target as the charter allows it.
var ErrQuota = errors.New("the agent is at its quota: it wrote more than it was expected to, or needs more; embassy agent quota raises it, embassy agent suspend stops it")

// quotaWarn is the share of a quota, in percent, from which an agent is told.
const quotaWarn = 90

// weights are the bytes that the first entries of chains, and what these list,
// take on a target: at index n those of the first n.
type weights map[Line][]uint64

// upTo returns the bytes of the first n entries of a line.
func (w weights) upTo(l Line, n uint64) uint64 {
	sums := w[l]
	if len(sums) == 0 {
		return 0
	}
	return sums[min(n, uint64(len(sums)-1))]
}

// weigh adds up, from the catalog alone, what the known entries of an agent's
// lines list. What two entries list counts twice.
func (a *atlas) weigh(agent format.ID) (weights, error) {
	w := weights{}
	for _, r := range a.regions {
		for _, l := range r.lines {
			if l.Agent != agent {
				continue
			}
			sums := make([]uint64, l.last+1)
			for seq := uint64(1); seq <= l.last; seq++ {
				k, _, err := a.s.catalog.KnownEntry(l.Line, seq)
				if err != nil {
					return nil, err
				}
				sums[seq] = k.Size
			}
			w[l.Line] = sums
		}
		for _, kind := range listedKinds {
			for o, err := range r.wanted(agent, kind) {
				if err != nil {
					return nil, err
				}
				if sums := w[Line{Compartment: r.id, Agent: agent, Chain: o.Chain}]; o.Seq < uint64(len(sums)) {
					sums[o.Seq] += o.Size
				}
			}
		}
	}
	for _, sums := range w {
		for n := 1; n < len(sums); n++ {
			sums[n] += sums[n-1]
		}
	}
	return w, nil
}

// weighed is weigh, once in a replication for each agent.
func (r *replication) weighed(agent format.ID) (weights, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w, ok := r.weights[agent]; ok {
		return w, nil
	}
	w, err := r.a.weigh(agent)
	if err == nil {
		r.weights[agent] = w
	}
	return w, err
}

// room returns up to which entry a line, of which a target has the first at,
// may be brought there within the quota of its agent. Its error, where that is
// not the last, tells of it.
func (r *replication) room(l *line, m *Member, at uint64) (to uint64, full, err error) {
	g := r.a.charter.Agent(l.Agent)
	if g == nil || g.Quota == 0 {
		return l.last, nil, nil
	}
	w, err := r.weighed(l.Agent)
	if err != nil {
		return at, nil, err
	}
	var used uint64
	for _, region := range r.a.regions {
		for _, o := range region.lines {
			if o.Agent != l.Agent {
				continue
			}
			n, err := o.headOn(m)
			if err != nil {
				return at, nil, err
			}
			used += w.upTo(o.Line, n)
		}
	}
	before := w.upTo(l.Line, at)
	for to = at; to < l.last && used+w.upTo(l.Line, to+1)-before <= g.Quota; {
		to++
	}
	if to < l.last {
		full = fmt.Errorf("agent %s has %d of %d bytes there, and entry %d with what it lists takes %d: %w", l.Agent,
			used+w.upTo(l.Line, to)-before, g.Quota, to+1, w.upTo(l.Line, to+1)-w.upTo(l.Line, to), ErrQuota)
	}
	return to, full, nil
}

// upTo is a line of which only the first entries are brought.
type upTo struct {
	l  *line
	to uint64
}

func (u upTo) line() Line   { return u.l.Line }
func (u upTo) head() uint64 { return u.to }
func (u upTo) entry(ctx context.Context, seq uint64) (format.Entry, []byte, error) {
	return u.l.entry(ctx, seq)
}

// AgentStatus is what is noteworthy of an agent: that it may not write, or
// that its quota is nearly used.
type AgentStatus struct {
	ID      format.ID
	Name    string // empty: not open to this machine
	Status  format.AgentStatus
	Used    uint64 // bytes on a target that has all of its known entries
	Quota   uint64 // bytes; 0: none
	Entries uint64 // of its chains that are known
	Counted uint64 // of them, those that count
	// Orphans are datasets that no active agent writes any more.
	Orphans []string
}

// Full reports whether the agent is above its quota.
func (a AgentStatus) Full() bool { return a.Quota > 0 && a.Used > a.Quota }

// agentStatus tells of agents that something is to be said about.
func (a *atlas) agentStatus() ([]AgentStatus, error) {
	if a == nil {
		return nil, nil
	}
	names := a.keys.Names()
	var out []AgentStatus
	for _, g := range a.charter.Agents {
		st := AgentStatus{ID: g.ID, Name: names[g.ID], Status: g.Status, Quota: g.Quota}
		if g.Status == format.AgentActive && g.Quota == 0 {
			continue
		}
		w, err := a.weigh(g.ID)
		if err != nil {
			return nil, err
		}
		for l, sums := range w {
			n := uint64(len(sums) - 1)
			st.Used += sums[n]
			st.Entries += n
			if g.Status != format.AgentRevoked {
				st.Counted += n
				continue
			}
			good, err := a.countedOf(l, g.After)
			if err != nil {
				return nil, err
			}
			st.Counted += min(good, n)
		}
		if g.Status == format.AgentActive && st.Used < st.Quota/100*quotaWarn {
			continue
		}
		if st.Orphans = a.orphans(g); len(w) == 0 && len(st.Orphans) == 0 {
			continue
		}
		out = append(out, st)
	}
	return out, nil
}

// countedOf returns how many known entries of a revoked agent's line count.
func (a *atlas) countedOf(l Line, after []format.Head) (n uint64, err error) {
	for _, h := range after {
		if h.Chain != l.Chain {
			continue
		}
		k, ok, err := a.s.catalog.KnownEntry(l, h.Seq)
		if err != nil {
			return 0, err
		}
		if ok && k.Hash == h.Hash {
			n = max(n, h.Seq)
		}
	}
	return n, nil
}

// orphans returns the datasets of an agent that no active one writes.
func (a *atlas) orphans(g format.CharterAgent) (names []string) {
	if a.keys == nil || g.Status == format.AgentActive {
		return nil
	}
	for _, c := range a.keys.Compartments {
		for _, d := range c.Part.Datasets {
			for _, id := range d.Agents {
				if id == g.ID && !writable(a.charter, d) {
					names = append(names, d.Name)
				}
			}
		}
	}
	return names
}

// ownWeight returns the bytes that all own chains take on a target that has
// them. What was added up before is noted.
func (s *Service) ownWeight(state *State) (sum uint64, err error) {
	err = state.eachChain(format.ID{}, func(c *chain) error {
		n, err := s.weighChain(c)
		sum += n
		return err
	})
	return sum, err
}

type chainWeight struct {
	Seq   uint64 `json:"seq"`
	Bytes uint64 `json:"bytes"`
}

func (s *Service) weighChain(c *chain) (uint64, error) {
	key := "weight/" + c.id().String()
	w, _, err := readNote[chainWeight](s.catalog, key)
	if err != nil || w.Seq >= c.head() {
		return w.Bytes, err
	}
	for seq := w.Seq + 1; seq <= c.head(); seq++ {
		e, object, err := c.read(seq)
		if err != nil {
			return 0, err
		}
		w.Bytes += uint64(len(object))
		for _, a := range e.Adds {
			w.Bytes += a.Size
		}
		w.Seq = seq
	}
	return w.Bytes, keepNote(s.catalog, key, w)
}

// quota tells this machine's agent how near it is to its quota. The error is
// ErrQuota when it is above.
func (s *Service) quota(state *State, ch *format.Charter) (over, err error) {
	g := ch.Agent(state.Agent())
	if g == nil || g.Quota == 0 {
		return nil, nil
	}
	used, err := s.ownWeight(state)
	if err != nil {
		return nil, err
	}
	switch {
	case used > g.Quota:
		over = fmt.Errorf("this agent's chains take %d of %d bytes on a target, and replicators carry no more of them: %w", used, g.Quota, ErrQuota)
	case used >= g.Quota/100*quotaWarn:
		s.warn(Finding{Object: "quota", Err: fmt.Errorf("this agent's chains take %d of %d bytes on a target: soon replicators carry no more of them; embassy agent quota raises it", used, g.Quota)})
	}
	return over, nil
}
