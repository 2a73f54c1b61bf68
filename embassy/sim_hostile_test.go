package embassy_test

import (
	"cmp"
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
		if e := s.entryOn(h, r); e != nil && r.IntN(2) == 0 {
			did = s.forget(h, e)
			break
		}
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
		did = s.forge(h, r, put)
	}
	if h.guilty == "" {
		h.guilty = did
	}
	s.note("%s %s", h, did)
	switch r.IntN(6) {
	case 0, 1, 2, 3:
		s.do(r, job{s.any(r), (*simMachine).verify})
	case 4:
		s.do(r, job{s.any(r), (*simMachine).replicate})
	}
}

// entryOn returns an entry that a host holds, or nil.
func (s *sim) entryOn(h *simHost, r *rand.Rand) *simEntry {
	var on []*simEntry
	for _, name := range h.names() {
		if e := s.entries[name]; e != nil {
			on = append(on, e)
		}
	}
	if len(on) == 0 {
		return nil
	}
	return on[r.IntN(len(on))]
}

// keepHead lets a host keep, of the chain that a machine writes, only the entry
// that the machine last saw there.
func (s *sim) keepHead(h *simHost, m *simMachine, r *rand.Rand) {
	l := m.chain()
	head := m.catalog.seen[h.name][l]
	e := s.entries[format.EntryName(s.nation.key.Nation, l.Compartment, l.Agent, l.Chain, head.Seq, head.Hash)]
	if e == nil {
		return
	}
	h.guilty = cmp.Or(h.guilty, s.forget(h, e))
	s.note("%s keeps only the head that %s saw", h, m.name)
	s.do(r, job{m, (*simMachine).verify})
	s.do(r, job{m, (*simMachine).replicate})
}

// forget drops all that a host has of a chain, but one entry and what it adds.
func (s *sim) forget(h *simHost, but *simEntry) string {
	for _, name := range h.names() {
		e := s.entries[name]
		if e == nil || e == but || lineOf(e) != lineOf(but) {
			continue
		}
		s.must(h.mem.Delete(s.t.Context(), name))
		for _, a := range e.Adds {
			s.must(h.mem.Delete(s.t.Context(), e.object(a)))
		}
	}
	return "forgets the rest of a chain"
}

// forge plants entries that nobody signed, or that belong elsewhere.
func (s *sim) forge(h *simHost, r *rand.Rand, put func(string, []byte)) string {
	garbage := random(r.Uint64(), 1+r.IntN(500))
	chain := format.HashOf(garbage)
	e := s.entryOn(h, r)
	if e == nil || r.IntN(6) == 0 {
		put(format.CharterName(s.nation.key.Nation, 99, format.HashOf(garbage)), garbage)
		return "forges a charter"
	}
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
