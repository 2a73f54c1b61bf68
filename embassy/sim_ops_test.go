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
)

// simOp is something that can happen. It takes what it leaves to chance from
// its own generator, so that one operation shifts no other.
type simOp struct {
	weight int // of an episode about retention: whole, if it is one
	whole  int // 0: weight
	do     func(s *sim, r *rand.Rand)
}

func (op simOp) weighs(s *sim) int {
	if s.retains && op.whole > 0 {
		return op.whole
	}
	return op.weight
}

var simOps = []simOp{
	{40, 0, func(s *sim, r *rand.Rand) {
		m := s.anyAgent(r)
		s.change(m.agent, r)
		s.do(r, job{m, (*simMachine).backup})
	}},
	{6, 0, func(s *sim, r *rand.Rand) { s.do(r, job{s.anyAgent(r), (*simMachine).backup}) }},
	{16, 0, func(s *sim, r *rand.Rand) { s.do(r, job{s.replicator(), (*simMachine).replicate}) }},
	{6, 0, func(s *sim, r *rand.Rand) { s.do(r, job{s.anyAgent(r), (*simMachine).replicate}) }},
	{20, 0, func(s *sim, r *rand.Rand) { s.do(r, job{s.any(r), (*simMachine).verify}) }},
	{10, 0, (*sim).atOnce},
	{6, 0, func(s *sim, r *rand.Rand) { // a daemon's jobs
		m := s.anyAgent(r)
		s.change(m.agent, r)
		jobs := []job{{m, (*simMachine).replicate}, {m, (*simMachine).verify}, {m, (*simMachine).backup}, {m, (*simMachine).rebuild}, {s.replicator(), (*simMachine).replicate}}
		r.Shuffle(len(jobs), func(i, j int) { jobs[i], jobs[j] = jobs[j], jobs[i] })
		s.do(r, append([]job{{m, (*simMachine).backup}}, jobs[:1+r.IntN(3)]...)...)
	}},
	{2, 0, func(s *sim, r *rand.Rand) { s.do(r, job{s.any(r), (*simMachine).rebuild}) }},
	{4, 0, func(s *sim, r *rand.Rand) { // new epochs, beside others who write
		m := s.anyAgent(r)
		jobs := []job{{m, (*simMachine).rotate}}
		if o := s.anyAgent(r); o.agent != m.agent && r.IntN(2) == 0 {
			s.change(o.agent, r)
			jobs = append(jobs, job{o, (*simMachine).backup})
		}
		s.do(r, jobs...)
	}},
	{4, 24, func(s *sim, r *rand.Rand) { s.do(r, job{s.steward(r), (*simMachine).forget}) }},
	{1, 60, func(s *sim, r *rand.Rand) { // what is on its way out is wanted again just now
		m := s.anyAgent(r)
		if old := m.agent.tried; len(old) > 0 {
			s.revert(m.agent, old[r.IntN(len(old))])
		}
		s.do(r, job{m, (*simMachine).backup}, job{s.steward(r), func(m *simMachine, r *rand.Rand, alone bool) {
			for range 1 + r.IntN(3) {
				m.prune(r, alone)
			}
		}})
	}},
	{1, 40, (*sim).cutOff},
	{2, 50, (*sim).handOver},
	{8, 60, func(s *sim, r *rand.Rand) { // alone, beside a backup of somebody else, or of the same agent
		jobs := []job{{s.steward(r), (*simMachine).prune}}
		if o := s.any(r); r.IntN(2) == 0 {
			do := (*simMachine).replicate
			if o.agent != nil && r.IntN(3) > 0 {
				s.change(o.agent, r)
				do = (*simMachine).backup
			}
			jobs = append(jobs, job{o, do})
		}
		r.Shuffle(len(jobs), func(i, j int) { jobs[i], jobs[j] = jobs[j], jobs[i] })
		s.do(r, jobs...)
	}},
	{3, 0, func(s *sim, r *rand.Rand) {
		m := s.any(r)
		m.svc = nil
		s.note("%s: restarted", m.name)
	}},
	{5, 0, func(s *sim, r *rand.Rand) {
		m := s.any(r)
		m.svc, m.catalog = nil, newMemCatalog()
		s.note("%s: lost its catalog", m.name)
	}},
	{10, 0, (*sim).putBack},
	{8, 0, (*sim).cloneAgent},
	{16, 0, (*sim).reach},
	{3, 0, (*sim).addLate},
	{24, 0, (*sim).misbehave},
	{3, 0, (*sim).trust},
}

// step does the next thing.
func (s *sim) step(n int) {
	total := 0
	for _, op := range simOps {
		total += op.weighs(s)
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
		if pick -= op.weighs(s); pick < 0 {
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
	if s.retains && len(a.tried) > 0 && r.IntN(3) == 0 {
		s.revert(a, a.tried[r.IntN(len(a.tried))])
		return
	}
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
	dark := r.IntN(16) == 0 // the link of this site is down for a while
	from := time.Now().Add(time.Duration(r.IntN(400)-100) * time.Millisecond)
	to := from.Add(time.Duration(1+r.IntN(120)) * time.Second)
	for _, h := range s.placed() {
		h.stutter = simStutter{}
		if names := h.names(); r.IntN(10) == 0 && len(names) > 0 {
			h.stutter = simStutter{names[r.IntN(len(names))], r.IntN(4), 1 + r.IntN(12)}
		}
		if dark {
			h.from, h.to = from, to
		} else if h.calm() && r.IntN(12) == 0 {
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
	apart := r.IntN(2) == 0 // neither can see what the other does
	if !apart && r.IntN(2) == 0 {
		s.do(r, jobs...)
		return
	}
	half := slices.Clone(s.at(m.agent.place))
	r.Shuffle(len(half), func(i, j int) { half[i], half[j] = half[j], half[i] })
	half = half[:2]
	for i, j := range jobs {
		if apart && i == 1 && r.IntN(2) == 0 { // it learns the other branch first
			s.do(r, job{twin, (*simMachine).verify})
		}
		for _, h := range s.hosts {
			if apart && slices.Contains(half, h) != (i == 0) {
				h.from, h.to = time.Now(), time.Now().Add(5*time.Minute)
			}
		}
		s.change(m.agent, r)
		s.do(r, j)
		s.must(simWait(s.t.Context(), 10*time.Minute))
	}
	if h := s.suspect; apart && h != nil {
		s.keepHead(h, twin, r)
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
	s.late, s.added = false, time.Now()
	for _, m := range s.machines {
		m.svc = nil
	}
	s.note("%s is added", s.hosts[len(s.hosts)-1])
}
