package embassy_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"embassy/embassy"
	"embassy/embassy/format"
	"embassy/targets"
)

// simOp is something that can happen. It takes what it leaves to chance from
// its own generator, so that one operation shifts no other.
type simOp struct {
	weight int
	do     func(s *sim, r *rand.Rand)
}

var simOps = []simOp{
	{40, func(s *sim, r *rand.Rand) {
		m := s.anyAgent(r)
		s.change(m.agent, r)
		s.do(r, job{m, (*simMachine).backup})
	}},
	{6, func(s *sim, r *rand.Rand) { s.do(r, job{s.anyAgent(r), (*simMachine).backup}) }},
	{16, func(s *sim, r *rand.Rand) { s.do(r, job{s.replicator(), (*simMachine).replicate}) }},
	{6, func(s *sim, r *rand.Rand) { s.do(r, job{s.anyAgent(r), (*simMachine).replicate}) }},
	{10, func(s *sim, r *rand.Rand) { s.do(r, job{s.any(r), (*simMachine).verify}) }},
	{10, (*sim).atOnce},
	{6, func(s *sim, r *rand.Rand) { // a daemon's jobs
		m := s.anyAgent(r)
		s.change(m.agent, r)
		jobs := []job{{m, (*simMachine).backup}, {m, (*simMachine).replicate}, {m, (*simMachine).verify}, {s.replicator(), (*simMachine).replicate}}
		s.do(r, jobs[:2+r.IntN(3)]...)
	}},
	{2, func(s *sim, r *rand.Rand) { s.do(r, job{s.any(r), (*simMachine).rebuild}) }},
	{3, func(s *sim, r *rand.Rand) {
		m := s.any(r)
		m.svc = nil
		s.note("%s: restarted", m.name)
	}},
	{5, func(s *sim, r *rand.Rand) {
		m := s.any(r)
		m.svc, m.catalog = nil, newMemCatalog()
		s.note("%s: lost its catalog", m.name)
	}},
	{10, (*sim).putBack},
	{8, (*sim).cloneAgent},
	{16, (*sim).reach},
	{3, (*sim).addLate},
	{24, (*sim).misbehave},
	{3, (*sim).trust},
}

// step does the next thing.
func (s *sim) step(n int) {
	total := 0
	for _, op := range simOps {
		total += op.weight
	}
	pick := s.rng.IntN(total)
	r := rand.New(rand.NewPCG(s.seed, uint64(n)+1))
	// Longer than any breaker stays open.
	s.must(simWait(s.t.Context(), time.Duration(10+r.IntN(120))*time.Minute))
	if m := s.any(r); r.IntN(2) == 0 && len(m.copies) < 3 && (m.agent == nil || len(m.entries()) > 0) {
		m.keep()
	}
	if h := s.suspect; h != nil && r.IntN(3) == 0 && len(h.past) < 3 {
		h.past = append(h.past, clone(s.t, h.mem))
	}
	for _, op := range simOps {
		if pick -= op.weight; pick < 0 {
			op.do(s, r)
			return
		}
	}
}

func (s *sim) any(r *rand.Rand) *simMachine { return s.machines[r.IntN(len(s.machines))] }

// anyAgent returns a machine that backs up.
func (s *sim) anyAgent(r *rand.Rand) *simMachine {
	for {
		if m := s.any(r); m.agent != nil {
			return m
		}
	}
}

// change changes an agent's sources.
func (s *sim) change(a *simAgent, r *rand.Rand) {
	for range 1 + r.IntN(3) {
		name := fmt.Sprintf("f%d", r.IntN(5))
		if r.IntN(4) == 0 {
			name = "sub/" + name
		}
		path := filepath.Join(a.src, name)
		if a.files[name] != "" && r.IntN(4) == 0 {
			s.must(os.Remove(path))
			delete(a.files, name)
			continue
		}
		data := make([]byte, 1+r.IntN(2000))
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		s.must(os.MkdirAll(filepath.Dir(path), 0o755))
		s.must(os.WriteFile(path, data, 0o644))
		now := time.Now().Add(time.Duration(r.IntN(1e9)))
		s.must(os.Chtimes(path, now, now))
		a.files[name] = simFile(now, data)
	}
}

func simFile(modified time.Time, data []byte) string {
	return fmt.Sprint(modified.UnixNano(), " ", string(data))
}

// job is an operation on one machine.
type job struct {
	m  *simMachine
	do func(m *simMachine, r *rand.Rand, alone bool)
}

// do runs jobs beside each other. Each may die at any step, and hosts may
// vanish for a while.
func (s *sim) do(r *rand.Rand, jobs ...job) {
	for _, h := range s.placed() {
		if h.calm() && r.IntN(12) == 0 {
			h.from = time.Now().Add(time.Duration(r.IntN(600)) * time.Millisecond)
			h.to = h.from.Add(time.Duration(1+r.IntN(90_000)) * time.Millisecond)
			s.note("%s will be away from %s to %s", h.name, h.from.Format("05.000"), h.to.Format("05.000"))
		}
	}
	for _, j := range jobs {
		j.m.boot(r)
	}
	var wg sync.WaitGroup
	for i, j := range jobs {
		own := rand.New(rand.NewPCG(s.seed, r.Uint64()))
		wg.Go(func() {
			if i > 0 {
				s.must(simWait(s.t.Context(), time.Duration(own.IntN(1+own.IntN(300)))*time.Millisecond))
			}
			j.do(j.m, own, len(jobs) == 1)
		})
	}
	wg.Wait()
	for _, j := range jobs {
		j.m.end()
		s.checkMachine(j.m)
	}
}

// boot readies the machine for operations, in the midst of which its process
// may die; never does when r is nil.
func (m *simMachine) boot(r *rand.Rand) {
	var cancel context.CancelFunc
	m.ctx, cancel = context.WithCancel(m.s.t.Context())
	f := &fuse{left: 1 << 30, cancel: cancel}
	if r != nil && r.IntN(4) == 0 {
		f.left, f.after = r.IntN(1+r.IntN(250)), r.IntN(2) == 0
	}
	m.fuse.Store(f)
	m.service()
}

// died reports whether the process is dead.
func (m *simMachine) died() bool {
	f := m.fuse.Load()
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.blown
}

// end ends the operations.
func (m *simMachine) end() {
	f := m.fuse.Load()
	f.cancel()
	if m.svc != nil && m.died() {
		m.svc = nil
		m.s.count(map[bool]string{false: "killed", true: "killed after the fact"}[f.after])
		m.s.note("%s: was killed (after=%v)", m.name, f.after)
	}
}

// backup backs up what the sources hold now.
func (m *simMachine) backup(r *rand.Rand, alone bool) {
	s, a := m.s, m.agent
	files := maps.Clone(a.files)
	s.mu.Lock()
	a.tried = append(a.tried, files)
	s.mu.Unlock()
	calm, guilty, ahead := m.calm() && alone, s.guilty(), m.ahead()
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
	m.checkRollback(m.chain())
}

// commit books a snapshot that a report calls committed.
func (s *sim) commit(m *simMachine, rep embassy.BackupReport, files map[string]string) {
	s.mu.Lock()
	s.committed = append(s.committed, simCommit{rep.Snapshot, m.agent, files})
	s.mu.Unlock()
	if have := len(s.claiming(rep.Snapshot, func(*simHost) bool { return true })); have < simRule {
		s.violate("%s: snapshot %s is called committed, and %d targets have it", m.name, rep.Snapshot, have)
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
	calm, guilty, want := m.calm() && alone, s.guilty(), m.union()
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
	for l := range m.catalog.known {
		m.checkRollback(l)
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
// a replication by the machine must bring to all of them: those below a fork.
func (m *simMachine) union() map[string]int {
	s := m.s
	forks := s.forks(func(*simEntry) bool { return true })
	out := map[string]int{}
	for name, e := range s.entries {
		place := slices.Index(s.nation.places, e.Compartment)
		if m.agent != nil && m.agent.place != place {
			continue
		}
		if f := forks[lineOf(e)]; f > 0 && e.Seq >= f {
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

// verify compares what targets hold with what the ledgers list, and may mend.
func (m *simMachine) verify(r *rand.Rand, alone bool) {
	s := m.s
	o := embassy.VerifyOptions{Level: embassy.VerifyLevel(r.IntN(4)), Share: 0.3, Repair: r.IntN(2) == 0}
	if !alone {
		o.Level %= embassy.Decrypt
	} else if o.Level == embassy.Decrypt {
		o.Keys = s.keys
	}
	calm, guilty := m.calm() && alone, s.guilty()
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
	case o.Level >= embassy.Full && !guilty.discards && guilty.hides == 0:
		m.checkVerified(guilty, rep, o.Repair)
	}
}

// rebuild rebuilds the catalog from one target or from all.
func (m *simMachine) rebuild(r *rand.Rand, alone bool) {
	from := ""
	if r.IntN(2) == 0 {
		from = m.reads()[r.IntN(len(m.reads()))].name
	}
	rep, err := m.svc.Rebuild(m.ctx, from)
	m.s.note("%s: rebuild from %q: %+v, %v", m.name, from, rep, err)
	if !m.died() {
		m.s.blame(m, rep.Exit)
	}
}

// atOnce lets several processes work at once: those of different machines, or
// a daemon's own.
func (s *sim) atOnce(r *rand.Rand) {
	m := s.anyAgent(r)
	s.change(m.agent, r)
	jobs := []job{{m, (*simMachine).backup}}
	for _, o := range s.machines {
		switch {
		case o == m || r.IntN(2) == 0:
		case o.agent == nil || r.IntN(3) == 0:
			jobs = append(jobs, job{o, (*simMachine).replicate})
		case o.agent != m.agent:
			jobs = append(jobs, job{o, (*simMachine).backup})
		}
	}
	s.note("%d at once", len(jobs))
	s.do(r, jobs...)
}

// keep takes a copy of a machine, which somebody may put back.
func (m *simMachine) keep() {
	c := simCopy{dir: fmt.Sprintf("%s.copy%d", m.dir, len(m.copies)), catalog: m.catalog.clone()}
	if m.agent != nil {
		m.s.must(os.CopyFS(c.dir, os.DirFS(m.dir)))
		m.s.must(simPrivate(c.dir))
	}
	m.copies = append(m.copies, c)
	m.s.note("%s: copied", m.name)
}

// simPrivate gives keys back the mode that a copy loses.
func simPrivate(dir string) error { return os.Chmod(filepath.Join(dir, "agent.key"), 0o600) }

// putBack restores a machine that has an old copy, and lets it go on.
func (s *sim) putBack(r *rand.Rand) {
	for _, i := range r.Perm(len(s.machines)) {
		m := s.machines[i]
		if len(m.copies) == 0 {
			continue
		}
		m.restore(r)
		if m.agent == nil {
			return
		}
		if r.IntN(2) == 0 { // nobody tells it
			for _, h := range s.hosts {
				if m.aheadOn(func(o *simHost) bool { return o == h }) != "" {
					h.from, h.to = time.Now(), time.Now().Add(5*time.Minute)
				}
			}
		}
		s.change(m.agent, r)
		s.do(r, job{m, (*simMachine).backup})
		return
	}
}

// restore puts an old copy of a machine back.
func (m *simMachine) restore(r *rand.Rand) {
	c := m.copies[r.IntN(len(m.copies))]
	m.svc, m.catalog = nil, c.catalog.clone()
	if r.IntN(3) == 0 {
		m.catalog = newMemCatalog()
	}
	if m.agent != nil {
		before := m.entries()
		m.s.must(os.RemoveAll(m.dir))
		m.s.must(os.CopyFS(m.dir, os.DirFS(c.dir)))
		m.s.must(simPrivate(m.dir))
		if !maps.Equal(before, m.entries()) {
			m.agent.forked = true
		}
	}
	m.s.note("%s: restored from an old copy", m.name)
}

// cloneAgent makes a second machine of an agent's.
func (s *sim) cloneAgent(r *rand.Rand) {
	if s.machines[len(s.machines)-1].agent != nil {
		return // one is enough
	}
	m := s.anyAgent(r)
	if len(m.entries()) == 0 {
		return
	}
	m.agent.forked = true
	twin := s.machine("twin", m.agent)
	s.must(os.CopyFS(twin.dir, os.DirFS(m.dir)))
	s.must(simPrivate(twin.dir))
	if r.IntN(2) == 0 {
		twin.catalog = m.catalog.clone()
	}
	s.note("%s: cloned", m.name)
	s.change(m.agent, r)
	jobs := []job{{m, (*simMachine).backup}, {twin, (*simMachine).backup}}
	half := s.hosts
	switch r.IntN(3) {
	case 0: // neither can see what the other does
		half = slices.Clone(s.at(m.agent.place))
		r.Shuffle(len(half), func(i, j int) { half[i], half[j] = half[j], half[i] })
		half = half[:2]
	case 1:
		s.do(r, jobs...)
		return
	}
	for i, j := range jobs {
		for _, h := range s.hosts {
			if slices.Contains(half, h) != (i == 0) && len(half) == 2 {
				h.from, h.to = time.Now(), time.Now().Add(5*time.Minute)
			}
		}
		s.change(m.agent, r)
		s.do(r, j)
		s.must(simWait(s.t.Context(), 10*time.Minute))
	}
}

// entries are the names of the files of all chains that the machine wrote.
func (m *simMachine) entries() map[string]bool {
	out := map[string]bool{}
	paths, err := filepath.Glob(filepath.Join(m.dir, "chains", "*", "*", "*-*"))
	m.s.must(err)
	for _, p := range paths {
		out[strings.TrimPrefix(p, m.dir)] = true
	}
	return out
}

// chain is the line that the machine writes; zero before its first backup.
func (m *simMachine) chain() (l embassy.Line) {
	l.Compartment, l.Agent = m.s.nation.places[m.agent.place], m.s.nation.ids[m.agent.index]
	raw, err := os.ReadFile(filepath.Join(m.dir, "chains", l.Compartment.String(), "current"))
	if errors.Is(err, os.ErrNotExist) {
		return embassy.Line{}
	}
	m.s.must(err)
	l.Chain, err = format.ParseID(strings.TrimSpace(string(raw)))
	m.s.must(err)
	return l
}

// ahead names an entry of the machine's chain that an honest host shows and
// the machine did not write; empty: there is none.
func (m *simMachine) ahead() string {
	return m.aheadOn(func(h *simHost) bool { return h.honest() && slices.Contains(m.reads(), h) })
}

// aheadOn is ahead on other hosts.
func (m *simMachine) aheadOn(counts func(h *simHost) bool) string {
	l, own := m.chain(), m.entries()
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	for name, e := range m.s.entries {
		if lineOf(e) == l && !own[e.file()] && slices.ContainsFunc(m.s.hosts, func(h *simHost) bool { return counts(h) && h.has(name) }) {
			return name
		}
	}
	return ""
}

// reach makes a host vanish, or come back.
func (s *sim) reach(r *rand.Rand) {
	h := s.hosts[r.IntN(len(s.hosts))]
	if h.mode == simUp {
		h.mode = simMode(1 + r.IntN(3))
	} else {
		h.mode = simUp
	}
	s.note("%s", h)
}

// addLate adds the last host to every configuration.
func (s *sim) addLate(*rand.Rand) {
	if !s.late {
		return
	}
	s.late = false
	for _, m := range s.machines {
		m.svc = nil
	}
	s.note("%s is added", s.hosts[len(s.hosts)-1])
}

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
	switch r.IntN(9) {
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
	default:
		did = s.forge(h, names, r, put)
	}
	if h.guilty == "" {
		h.guilty = did
	}
	s.note("%s %s", h, did)
	if r.IntN(3) == 0 {
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
