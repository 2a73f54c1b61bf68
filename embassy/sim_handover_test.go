package embassy_test

import (
	"math/rand/v2"
	"slices"
	"time"

	"embassy/embassy"
	"embassy/embassy/format"
	"embassy/targets"
)

// steward returns the machine, or one of the two, of the agent that is the steward of
// the first compartment, and now and then one of the agent that was it before.
func (s *sim) steward(r *rand.Rand) *simMachine {
	at := s.rules
	if s.ruled[1-at] && r.IntN(5) == 0 {
		at = 1 - at
	}
	if twin := s.machines[len(s.machines)-1]; twin.agent == s.agents[at] && r.IntN(2) == 0 {
		return twin
	}
	return s.machines[at]
}

// handOver makes another agent the steward, at once with what the old one does, or
// while neither sees what the other writes.
func (s *sim) handOver(r *rand.Rand) {
	old, next := s.machines[s.rules], s.machines[1-s.rules]
	work := func() func(m *simMachine, r *rand.Rand, alone bool) {
		if r.IntN(6) == 0 {
			return (*simMachine).forget
		}
		return (*simMachine).prune
	}
	first, last := job{old, work()}, job{next, work()}
	begin := func() { s.name(1 - s.rules) }
	if r.IntN(2) == 0 { // the old one may still go by the charter that it read
		do := last.do
		last.do = func(m *simMachine, r *rand.Rand, alone bool) {
			begin()
			do(m, r, alone)
		}
		s.do(r, first, last)
		return
	}
	half := slices.Clone(s.at(0))
	r.Shuffle(len(half), func(i, j int) { half[i], half[j] = half[j], half[i] })
	half = half[:2]
	for i, j := range []job{first, last} {
		if i == 1 {
			begin()
		}
		apart := func(j job) {
			for _, h := range s.hosts {
				if slices.Contains(half, h) != (i == 0) {
					h.from, h.to = time.Now(), time.Now().Add(5*time.Minute)
				}
			}
			s.do(r, j)
			s.must(simWait(s.t.Context(), 20*time.Minute))
		}
		if r.IntN(2) == 0 { // what the other one does not know of
			s.change(j.m.agent, r)
			apart(job{j.m, (*simMachine).backup})
		}
		apart(j)
	}
	if r.IntN(2) == 0 {
		s.do(r, job{s.replicator(), (*simMachine).replicate})
	}
}

// name signs a charter by which an agent is the steward of the first compartment, and
// puts it on every host.
func (s *sim) name(agent int) {
	newest := s.newestKeys().Charter.Rank()
	var members []*embassy.Member
	for _, h := range s.placed() {
		if h.honest() {
			members = append(members, embassy.NewMember(h.name, "", "", h.mem, nil, time.Now))
		}
	}
	ch, was, err := embassy.FindCharter(s.t.Context(), members, s.nation.key.Nation, s.nation.key.Signer, nil)
	s.must(err)
	if ch.Rank() != newest {
		return // one was signed that is on no host yet
	}
	ch.Seq, ch.Prev, ch.Time = ch.Seq+1, format.HashOf(was), time.Now().UnixNano()
	c := ch.Compartment(s.nation.places[0])
	c.Stewards = append(slices.Clone(c.Stewards), s.nation.ids[agent])
	object, err := format.SealCharter(*ch, s.nation.root.Signer())
	s.must(err)
	h := format.HashOf(object)
	s.mu.Lock()
	s.rules, s.ruled[agent] = agent, true
	s.mu.Unlock()
	for _, to := range s.placed() {
		s.must(to.mem.Put(s.t.Context(), targets.Object{Name: format.CharterName(ch.Nation, ch.Seq, h), Data: object, SHA256: h}))
	}
	s.count("handed over")
	s.note("a%d is the steward by charter %d", agent, ch.Seq)
}

// obeyed reports whether the agent is or was the steward of the first compartment.
// s.mu is held.
func (s *sim) obeyed(agent format.ID) bool {
	for i, yes := range s.ruled {
		if yes && s.nation.ids[i] == agent {
			return true
		}
	}
	return false
}
