package embassy_test

import (
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"embassy/embassy"
	"embassy/embassy/format"
	"embassy/embassy/policy"
)

// fillUp makes some snapshots, most of which a first forget retires.
func (s *sim) fillUp() {
	r := rand.New(rand.NewPCG(s.seed, 1<<32))
	for range 2 + r.IntN(2) {
		for _, m := range s.machines {
			if m.agent != nil && m.agent.place == 0 {
				s.revert(m.agent, nil) // no two have a pack in common
				s.change(m.agent, r)
				m.boot(nil)
				m.backup(r, true)
				m.end()
			}
		}
	}
	m := s.steward(r)
	m.boot(nil)
	m.forget(r, true)
	m.end()
}

// revert gives an agent's sources the contents that they had before: what was
// stored then may be on its way out.
func (s *sim) revert(a *simAgent, to map[string]string) {
	for name := range a.files {
		if to[name] == "" {
			s.must(os.Remove(filepath.Join(a.src, name)))
			delete(a.files, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(to)) {
		_, data, _ := strings.Cut(to[name], " ")
		if _, has, _ := strings.Cut(a.files[name], " "); has == data {
			continue
		}
		path, now := filepath.Join(a.src, name), time.Now()
		s.must(os.MkdirAll(filepath.Dir(path), 0o755))
		s.must(os.WriteFile(path, []byte(data), 0o644))
		s.must(os.Chtimes(path, now, now))
		a.files[name] = simFile(now, []byte(data))
	}
}

// cutOff lets an agent back up where it reaches no target. What it signs then
// gets there after the steward was at work.
func (s *sim) cutOff(r *rand.Rand) {
	m := s.anyAgent(r)
	if old := m.agent.tried; len(old) > 0 {
		s.revert(m.agent, old[r.IntN(len(old))])
	}
	m.svc = nil
	m.cut.Store(true)
	s.note("%s: is cut off", m.name)
	s.do(r, job{m, (*simMachine).backup})
	m.svc = nil
	if st := s.steward(r); st != m {
		for range 1 + r.IntN(3) {
			s.do(r, job{st, (*simMachine).prune})
			s.must(simWait(s.t.Context(), 10*time.Minute))
		}
	}
	m.cut.Store(false)
	s.note("%s: is back", m.name)
	s.do(r, job{m, (*simMachine).backup})
}

// forget keeps a few of the newest snapshots of each agent.
func (m *simMachine) forget(r *rand.Rand, _ bool) {
	rep, err := m.svc.Forget(m.ctx, embassy.ForgetOptions{Keep: &policy.Retention{Last: 1 + r.IntN(3)}, MinAge: new(time.Duration)})
	m.s.note("%s: forget: exit %d, %d of %d, %v", m.name, rep.Exit, rep.Forgotten, len(rep.Snapshots), err)
	if err == nil && rep.Forgotten > 0 {
		m.s.count("forgotten")
	}
}

// prune marks, orders deletions, and deletes.
func (m *simMachine) prune(r *rand.Rand, alone bool) {
	s := m.s
	calm := m.calm() && alone && s.guilty() == nil && !m.forked()
	o := embassy.PruneOptions{MaxRemove: 1, Join: 2 + r.IntN(4), Checkpoint: 3 + r.IntN(6)}
	if r.IntN(4) == 0 {
		o.Grace = time.Hour
	}
	if r.IntN(2) == 0 {
		o.Readers = s.newestKeys()
	}
	rep, err := m.svc.Prune(m.ctx, o)
	if errors.Is(err, embassy.ErrNotSteward) {
		s.note("%s: prune: %v", m.name, err)
		if calm && m.agent == s.agents[s.rules] {
			s.violate("%s: the steward may not prune: %v", m.name, err)
		}
		return
	}
	s.note("%s: prune: exit %d, %+v, %+v, %v", m.name, rep.Exit, rep.Compartments, rep.Targets, err)
	for _, c := range rep.Compartments {
		if c.Marked > 0 {
			s.count("marked")
		}
		if c.Deletable > 0 {
			s.count("deletion ordered")
		}
		if c.JoinedInto > 0 {
			s.count("joined")
		}
		if c.Repacked > 0 {
			s.count("repacked")
		}
		if calm && !m.died() && c.Err != nil {
			s.violate("%s: prune orders nothing in the best of worlds: %v", m.name, c.Err)
		}
	}
	for _, h := range s.hosts {
		if slices.ContainsFunc(h.names(), func(name string) bool { return strings.Contains(name, "/checkpoint/") }) {
			s.count("checkpoint held")
		}
	}
	for _, t := range rep.Targets {
		if t.Objects > 0 {
			s.count("deleted")
		}
		if calm && !m.died() && t.Err != nil && !errors.Is(t.Err, embassy.ErrLacks) {
			s.violate("%s: prune fails on %s in the best of worlds: %v", m.name, t.Target, t.Err)
		}
	}
	if calm && !m.died() && err != nil {
		s.violate("%s: prune in the best of worlds: %v", m.name, err)
	}
}

// checkRetired checks that a host which hides a retired snapshot shows one that
// is kept of the same agent, but for a new host, on its way: what was ordered to go
// before it came, nobody could bring.
func (s *sim) checkRetired(h *simHost, v *embassy.View, c simCommit) {
	before := func(e *simEntry) bool { return e.When().Before(s.added) }
	if h == s.hosts[len(s.hosts)-1] && slices.ContainsFunc(s.going[c.hash], before) {
		return
	}
	claims := slices.Contains(s.claiming(c.hash, (*simHost).honest), h)
	if claims && !slices.ContainsFunc(v.Snapshots(""), func(o embassy.SnapshotInfo) bool { return o.Agent == s.nation.ids[c.agent.index] }) {
		s.violate("%s shows no snapshot of %s: %s is retired, and what took its place is not there", h.name, c.agent.src, c.hash)
	}
}

// recorded keeps a record if it is an order.
func (s *sim) recorded(object []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for kind := format.OrderRetire; kind <= format.OrderReplace; kind++ {
		for _, place := range s.nation.places {
			if o, err := format.OpenOrder(object, s.nation.key.Nation, place, kind); err == nil {
				s.orders[format.HashOf(object)] = o
			}
		}
	}
}

// ordered books what an entry of the steward orders. s.mu is held.
func (s *sim) ordered(e *simEntry) {
	for _, given := range e.Orders {
		o := s.orders[given.Record]
		if o == nil || !s.obeyed(e.Agent) || e.Compartment != s.nation.places[0] {
			continue
		}
		for _, r := range o.Replaced {
			s.moved[r.Pack] = append(s.moved[r.Pack], e)
		}
		for _, of := range o.Objects {
			for _, h := range of.All() {
				switch o.Kind {
				case format.OrderRetire:
					s.retired[h] = true
				case format.OrderDelete:
					s.going[h] = append(s.going[h], e)
				}
			}
		}
	}
}

// goes returns the entries by which an object is to be deleted, those of two stewards
// among them, and those that replace it.
func (s *sim) goes(h format.Hash) (by, heirs []*simEntry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.going[h], s.moved[h]
}

// deleting checks that the steward ordered what is about to be deleted, in an
// entry that the host has.
func (h *simHost) deleting(name string) {
	if kind := filepath.Base(filepath.Dir(name)); kind != "index" && kind != "snapshot" && !strings.Contains(name, "/pack/") {
		return
	}
	hash, err := nameHash(name)
	if err != nil || !h.honest() {
		return
	}
	if by, _ := h.s.goes(hash); !slices.ContainsFunc(by, func(e *simEntry) bool { return h.has(e.name) }) {
		h.s.violate("%s is deleted on %s, and no entry there orders it", name, h.name)
	}
}
