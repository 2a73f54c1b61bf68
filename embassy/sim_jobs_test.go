package embassy_test

import (
	"maps"
	"math/rand/v2"
	"slices"

	"embassy/embassy"
	"embassy/embassy/format"
)

// backup backs up what the sources hold now.
func (m *simMachine) backup(r *rand.Rand, alone bool) {
	s, a := m.s, m.agent
	files := maps.Clone(a.files)
	s.mu.Lock()
	a.tried = append(a.tried, files)
	s.mu.Unlock()
	calm, guilty, ahead, less := m.calm() && alone, s.guilty(), m.ahead(), ""
	chain, confirmed := m.chain(), map[string]uint64{}
	if calm {
		less = m.less(chain)
		for _, h := range m.reads() {
			confirmed[h.name] = m.catalog.seen[h.name][chain].Seq
		}
	}
	var rep embassy.BackupReport
	reports, err := m.svc.Backup(m.ctx, embassy.BackupOptions{})
	if len(reports) > 0 {
		rep = reports[0]
	}
	s.note("%s: backup: exit %d, snapshot %.8s, missing %v, err %v, %v", m.name, rep.Exit, rep.Snapshot, rep.Missing, rep.Err, err)
	if err == nil && rep.Err == nil && len(reports) > 0 && len(rep.Missing) == 0 {
		s.count("committed")
		s.commit(m, rep, files)
	}
	if m.died() {
		return
	}
	if len(rep.Missing) > 0 {
		s.count("pending")
	}
	if err != nil || rep.Err != nil {
		s.violate("%s: backup: %v, %v", m.name, err, rep.Err)
	}
	s.blame(m, rep.Exit)
	for _, t := range rep.Targets {
		m.accuse(t.Target, t.Err)
	}
	if !calm {
		return
	}
	if ahead != "" {
		s.count("clone reported by a backup")
		if rep.Exit != 5 {
			s.violate("%s: backup does not report the fork that %s is, exit %d", m.name, ahead, rep.Exit)
		}
	}
	if guilty == nil && !m.forked() && rep.Exit != 0 {
		s.violate("%s: backup: exit %d in the best of worlds: %v", m.name, rep.Exit, rep.Missing)
	}
	honest := slices.DeleteFunc(slices.Clone(m.reads()), func(h *simHost) bool { return !h.honest() })
	if len(rep.Missing) == 0 || len(honest) < simRule {
		m.misses = 0
	} else if m.misses++; m.misses > 1 {
		s.violate("%s: two backups in a row did not commit, though every honest target answers: %v", m.name, rep.Missing)
	}
	m.checkRollback(less)
	for _, h := range m.reads() { // what it knows of them must not be lost with its catalog
		if m.chain() == chain && m.confirmed(h, chain) < confirmed[h.name] {
			s.violate("%s: its newest entry forgets that %s confirmed entry %d", m.name, h.name, confirmed[h.name])
		}
	}
}

// rotate begins a new epoch of the writers or readers of the agent's
// compartment, by somebody who brings the root to the machine.
func (m *simMachine) rotate(r *rand.Rand, alone bool) {
	s, what := m.s, "writer"
	rotate := m.svc.RotateWriter
	if r.IntN(3) == 0 {
		what, rotate = "reader", m.svc.RotateReader
	}
	calm := m.calm() && alone && s.guilty() == nil
	rep, err := rotate(m.ctx, s.nation.root, []string{simPlaces[m.agent.place].compartment})
	s.note("%s: new %s epoch: charter %d, err %v", m.name, what, rep.Seq, err)
	if err == nil {
		s.count("rotated the " + what)
	} else if calm && !m.died() && !m.forked() {
		s.violate("%s: no new %s epoch in the best of worlds: %v", m.name, what, err)
	}
}

// commit books a snapshot that a report calls committed.
func (s *sim) commit(m *simMachine, rep embassy.BackupReport, files map[string]string) {
	s.mu.Lock()
	s.committed = append(s.committed, simCommit{rep.Snapshot, m.agent, files})
	s.mu.Unlock()
	if have := len(s.claiming(rep.Snapshot, func(h *simHost) bool { return !m.distrusts(h) })); have < simRule {
		s.violate("%s: snapshot %s is called committed, and %d targets that it trusts have it", m.name, rep.Snapshot, have)
	}
}

// claiming are the hosts that hold an entry that commits the snapshot, of
// those that count.
func (s *sim) claiming(snapshot format.Hash, counts func(h *simHost) bool) []*simHost {
	s.mu.Lock()
	var names []string
	for name, e := range s.entries {
		if slices.Contains(e.Snapshots, snapshot) {
			names = append(names, name)
		}
	}
	s.mu.Unlock()
	var out []*simHost
	for _, h := range s.placed() {
		if counts(h) && slices.ContainsFunc(names, h.has) {
			out = append(out, h)
		}
	}
	return out
}

// replicate replicates to all targets or to some, all the work or a part.
func (m *simMachine) replicate(r *rand.Rand, alone bool) {
	var o embassy.ReplicateOptions
	switch r.IntN(5) {
	case 0:
		for _, h := range m.reads() {
			if r.IntN(2) == 0 {
				o.Targets = append(o.Targets, h.name)
			}
		}
	case 1:
		o.Shards = 2 + r.IntN(2)
		o.Shard = r.IntN(o.Shards)
	}
	m.replicateWith(o, alone)
}

func (m *simMachine) replicateWith(o embassy.ReplicateOptions, alone bool) {
	s := m.s
	calm, guilty, want, less := m.calm() && alone, s.guilty(), m.union(), ""
	var lost []*simEntry
	if calm {
		lost = m.lost()
		for l := range m.catalog.known {
			less += m.less(l)
		}
		if m.agent != nil {
			less += m.less(m.chain())
		}
	}
	shunned := guilty != nil && m.distrusts(guilty)
	rep, err := m.svc.Replicate(m.ctx, o)
	s.note("%s: replicate %+v: exit %d, %+v, %v", m.name, o, rep.Exit, rep.Targets, err)
	if m.died() {
		return
	}
	for _, t := range rep.Targets {
		m.accuse(t.Target, t.Err)
		if m.agent == nil && t.Objects > 0 {
			s.count("object copied by a replicator")
		}
	}
	s.blame(m, rep.Exit)
	if !calm {
		return
	}
	if err != nil {
		s.violate("%s: replicate: %v", m.name, err)
	}
	m.checkForks()
	m.checkRollback(less)
	m.checkLost(lost)
	for _, t := range rep.Targets {
		if shunned && t.Target == guilty.name && m.distrusts(guilty) && t.Objects+t.Entries > 0 {
			s.violate("%s: replicate copies to %s, which it does not trust: %+v", m.name, guilty, t)
		}
	}
	if len(o.Targets) > 0 || o.Shards > 0 {
		return
	}
	for _, h := range m.reads() {
		for name := range want {
			if h.honest() && slices.Contains(s.at(want[name]), h) && !h.has(name) {
				s.violate("%s: replicate leaves %s behind: it lacks %s", m.name, h.name, name)
			}
		}
	}
	if guilty == nil && !m.forked() && (rep.Exit != 0 || slices.ContainsFunc(rep.Targets, func(t embassy.ReplicatedTarget) bool { return t.Behind > 0 || t.Err != nil })) {
		s.violate("%s: replicate: exit %d in the best of worlds: %+v", m.name, rep.Exit, rep.Targets)
	}
}

// union names the entries, by place, that honest hosts hold together and that
// a replication by the machine must bring to all of them: those below a fork,
// which depend on nothing behind one. Of its own chain, when somebody else wrote on it, it brings nothing.
func (m *simMachine) union() map[string]int {
	s := m.s
	var foreign embassy.Line
	if m.agent != nil && m.ahead() != "" {
		foreign = m.chain()
	}
	forks := s.forks(func(*simEntry) bool { return true })
	out := map[string]int{}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.curb(forks)
	for name, e := range s.entries {
		place := slices.Index(s.nation.places, e.Compartment)
		if m.agent != nil && m.agent.place != place {
			continue
		}
		if !e.before(forks) || lineOf(e) == foreign {
			continue
		}
		if slices.ContainsFunc(s.at(place), func(h *simHost) bool { return h.honest() && h.has(name) }) {
			out[name] = place
		}
	}
	return out
}

func lineOf(e *simEntry) embassy.Line {
	return embassy.Line{Compartment: e.Compartment, Agent: e.Agent, Chain: e.Chain}
}

// forks returns the first number that two entries of a line have, of those
// that count.
func (s *sim) forks(counts func(e *simEntry) bool) map[embassy.Line]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	type place struct {
		embassy.Line
		seq uint64
	}
	seen := map[place]bool{}
	out := map[embassy.Line]uint64{}
	for _, e := range s.entries {
		if !counts(e) {
			continue
		}
		p := place{lineOf(e), e.Seq}
		if seen[p] && (out[p.Line] == 0 || e.Seq < out[p.Line]) {
			out[p.Line] = e.Seq
		}
		seen[p] = true
	}
	return out
}

// curb has forks begin where an entry depends on what lies behind one: it is
// brought nowhere either. s.mu is held.
func (s *sim) curb(forks map[embassy.Line]uint64) {
	for changed := true; changed; {
		changed = false
		for _, e := range s.entries {
			for _, h := range e.Depends {
				for l, f := range forks {
					if l.Chain == h.Chain && l.Compartment == e.Compartment && h.Seq >= f && len(e.Orders) == 0 && e.before(forks) {
						forks[lineOf(e)], changed = e.Seq, true
					}
				}
			}
		}
	}
}

// before reports whether the entry comes before every fork of its line.
func (e *simEntry) before(forks map[embassy.Line]uint64) bool {
	f := forks[lineOf(e)]
	return f == 0 || e.Seq < f
}

// verify compares what targets hold with what the ledgers list, and may mend.
func (m *simMachine) verify(r *rand.Rand, alone bool) {
	s := m.s
	o := embassy.VerifyOptions{Level: embassy.VerifyLevel(r.IntN(4)), Share: 0.3, Repair: r.IntN(2) == 0}
	if !alone {
		o.Level %= embassy.Decrypt
	} else if o.Level == embassy.Decrypt {
		o.Keys = s.newestKeys()
	}
	calm, guilty := m.calm() && alone, s.guilty()
	var seen map[embassy.Line]embassy.SeenHead
	if calm && guilty != nil {
		seen = maps.Clone(m.catalog.seen[guilty.name])
	}
	rep, err := m.svc.Verify(m.ctx, o)
	s.note("%s: verify %s repair=%v: exit %d, %+v, lost %v, %v", m.name, o.Level, o.Repair, rep.Exit, rep.Targets, rep.Lost, err)
	if m.died() {
		return
	}
	s.blame(m, rep.Exit)
	for _, t := range rep.Targets {
		if t.Repaired > 0 {
			s.count("repaired")
		}
		if t.BadTotal > 0 && (guilty == nil || guilty.name != t.Target) {
			s.violate("%s: verify finds fault with honest %s: %+v", m.name, t.Target, t.Bad)
		}
		if t.HarmedTotal > 0 && (guilty == nil || guilty.name != t.Target) {
			s.violate("%s: verify says that honest %s does not restore: %v", m.name, t.Target, t.Harmed)
		}
	}
	if !calm {
		return
	}
	if err != nil {
		s.violate("%s: verify: %v", m.name, err)
	}
	switch {
	case guilty == nil:
		if len(rep.Lost) > 0 || !m.forked() && rep.Exit != 0 {
			s.violate("%s: verify: exit %d in the best of worlds: %+v", m.name, rep.Exit, rep)
		}
	case o.Level >= embassy.Full && !guilty.discards && !guilty.fickle && guilty.hides == 0:
		m.checkVerified(guilty, seen, rep, o.Repair)
	}
}

// rebuild rebuilds the catalog from one target or from all.
func (m *simMachine) rebuild(r *rand.Rand, alone bool) {
	from := ""
	if r.IntN(2) == 0 {
		from = m.reads()[r.IntN(len(m.reads()))].name
	}
	calm := m.calm() && alone && m.s.guilty() == nil && !m.forked()
	rep, err := m.svc.Rebuild(m.ctx, from)
	m.s.note("%s: rebuild from %q: %+v, %v", m.name, from, rep, err)
	if m.died() {
		return
	}
	m.s.blame(m, rep.Exit)
	if calm && (err != nil || from == "" && (rep.Exit != 0 || rep.Lost > 0)) {
		m.s.violate("%s: rebuild in the best of worlds: %+v, %v", m.name, rep, err)
	}
}
