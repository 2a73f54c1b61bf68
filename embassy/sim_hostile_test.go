package embassy_test

import (
	"math/rand/v2"
	"slices"

	"embassy/embassy/format"
	"embassy/targets"
)

// trust forgives the suspect, on one machine.
func (s *sim) trust(r *rand.Rand) {
	m := s.any(r)
	h := s.guilty()
	if h == nil || !slices.Contains(m.reads(), h) {
		return
	}
	m.boot(nil)
	_, err := m.svc.Trust(m.ctx, h.name, "simulated")
	s.must(err)
	m.end()
	m.trusts[h] = true
	s.note("%s: trusts %s again", m.name, h)
}

// misbehave lets the suspect do something that no host should.
func (s *sim) misbehave(r *rand.Rand) {
	h := s.suspect
	if h == nil || !slices.Contains(s.placed(), h) {
		return
	}
	var did string
	names := h.names()
	if len(names) == 0 {
		return
	}
	pick := func() string { return names[r.IntN(len(names))] }
	put := func(name string, data []byte) {
		s.must(h.mem.Put(s.t.Context(), targets.Object{Name: name, Data: data}))
	}
	switch r.IntN(10) {
	case 0, 1:
		if len(h.past) == 0 {
			return
		}
		h.mem = clone(s.t, h.past[r.IntN(len(h.past))])
		did = "rolled back"
	case 2:
		for range 1 + r.IntN(3) {
			s.must(h.mem.Delete(s.t.Context(), pick()))
		}
		did = "deletes"
	case 3:
		for range 1 + r.IntN(3) {
			name := pick()
			data := h.data(name)
			if at := r.IntN(len(data) + 1); at == len(data) || r.IntN(3) == 0 {
				data = data[:at]
			} else {
				data[at] ^= 1 << r.IntN(8)
			}
			put(name, data)
		}
		did = "alters"
	case 4:
		a, b := pick(), pick()
		x, y := h.data(a), h.data(b)
		put(a, y)
		put(b, x)
		did = "swaps"
	case 5:
		h.discards = !h.discards
		did = "discards"
	case 6:
		h.hides = uint64(r.IntN(4))
		did = "hides"
	case 7:
		h.fickle = !h.fickle
		did = "is fickle"
	default:
		did = s.forge(h, names, r, put)
	}
	if h.guilty == "" {
		h.guilty = did
	}
	s.note("%s %s", h, did)
	if r.IntN(2) == 0 {
		s.do(r, job{s.any(r), (*simMachine).verify})
	}
}

// forge plants entries that nobody signed, or that belong elsewhere.
func (s *sim) forge(h *simHost, names []string, r *rand.Rand, put func(string, []byte)) string {
	var entries []*simEntry
	for _, name := range names {
		if e := s.entries[name]; e != nil {
			entries = append(entries, e)
		}
	}
	garbage := random(r.Uint64(), 1+r.IntN(500))
	chain := format.HashOf(garbage)
	if len(entries) == 0 || r.IntN(6) == 0 {
		put(format.CharterName(s.nation.key.Nation, 99, format.HashOf(garbage)), garbage)
		return "forges a charter"
	}
	e := entries[r.IntN(len(entries))]
	name := func(agent, chain format.ID, seq uint64, hash format.Hash) string {
		return format.EntryName(e.Nation, e.Compartment, agent, chain, seq, hash)
	}
	switch r.IntN(6) {
	case 0:
		put(name(e.Agent, e.Chain, e.Seq+uint64(r.IntN(3)), format.HashOf(garbage)), garbage)
	case 1:
		put(name(e.Agent, e.Chain, e.Seq+1, e.hash), h.data(e.name))
	case 2:
		put(name(e.Agent, format.ID(chain[:16]), 1, format.HashOf(garbage)), garbage)
	case 3:
		put(name(s.nation.ids[r.IntN(len(s.nation.ids))], e.Chain, e.Seq, e.hash), h.data(e.name))
	case 4:
		put(name(e.Agent, e.Chain, e.Seq+1, format.HashOf(garbage)), garbage[:1])
	default:
		put(name(e.Agent, e.Chain, 1<<60, format.HashOf(garbage)), garbage)
	}
	return "forges"
}
