package embassy_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"embassy/chunk"
	"embassy/crypto"
	"embassy/embassy"
	"embassy/embassy/config"
	"embassy/embassy/format"
	"embassy/embassy/policy"
	"embassy/targets"
)

// simPlace says where a compartment lies, and what its agents back up.
type simPlace struct {
	compartment, dataset string
	hosts                []int // in PACE order
	rank                 int
}

// Of the three agents two share a compartment, and one has its own.
var (
	simPlaces = []simPlace{
		{"official", "population", []int{0, 1, 2, 3}, 1},
		{"secret", "archive", []int{3, 2, 1}, 2},
	}
	simAgents = []int{0, 0, 1} // places
)

const simRule = 2 // targets that a commit needs

// simNation is what all episodes share: keys are slow to make.
type simNation struct {
	root    *crypto.Root
	key     format.NationKey
	charter targets.Object
	states  []map[string][]byte // files of every agent's state directory
	ids     []format.ID         // of every agent
	places  []format.ID         // of every compartment
	signers simSigners
}

// newSimNation enrols two more agents in a settled nation, as charter apply
// does.
func newSimNation(t *testing.T) *simNation {
	t.Helper()
	base := newSite(t, 4, simRule)
	n := &simNation{root: base.root, signers: simSigners{}}
	n.key = format.NationKey{Signer: n.root.Signer().Verifier()}
	n.key.Nation = format.NationID(n.key.Signer, n.root.Identity().Recipient())
	var object []byte
	for i, place := range simAgents {
		dir := base.config.StateDir
		files := map[string][]byte{}
		read := func(name string) {
			data, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			files[name] = data
		}
		if read("nation.json"); i == 0 {
			read("agent.key")
		} else {
			key, err := crypto.NewAgentKey()
			if err != nil {
				t.Fatal(err)
			}
			files["agent.key"] = key.Marshal()
			dir = t.TempDir()
			for name, data := range files {
				if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			svc, err := embassy.New(embassy.Options{Site: simConfig(dir, []int{0}, place, "/src"), Members: base.members()[:1]})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := svc.ApplyCharter(t.Context(), n.root); err != nil {
				t.Fatal(err)
			}
		}
		key, err := crypto.ParseAgentKey(files["agent.key"])
		if err != nil {
			t.Fatal(err)
		}
		id := format.ID(key.ID())
		n.ids, n.states, n.signers[id] = append(n.ids, id), append(n.states, files), key.Signer.Verifier()
		read("charter")
		object = files["charter"]
	}
	ch, err := format.OpenCharter(object, n.key.Nation, n.key.Signer)
	if err != nil {
		t.Fatal(err)
	}
	hash := format.HashOf(object)
	n.charter = targets.Object{Name: format.CharterName(n.key.Nation, ch.Seq, hash), Data: object, SHA256: hash}
	for i := range n.states {
		n.states[i]["charter"] = object
	}
	for _, p := range simPlaces {
		n.places = append(n.places, n.root.CompartmentID(p.compartment))
	}
	return n
}

// simConfig is the configuration of an agent, or of a keyless machine when src
// is empty. hosts are those that exist.
func simConfig(state string, hosts []int, place int, src string) *config.Config {
	c := &config.Config{File: "embassy.yaml", Nation: "testland", StateDir: state, PackSize: 256 << 10}
	for _, h := range hosts {
		c.Targets = append(c.Targets, config.Target{Name: fmt.Sprintf("t%d", h), URL: fmt.Sprintf("dir:/t%d", h), Jurisdiction: fmt.Sprintf("J%d", h)})
	}
	for i, p := range simPlaces {
		if src != "" && i != place {
			continue
		}
		comp := config.Compartment{Name: p.compartment, Rank: p.rank, Commit: policy.Rule{Targets: simRule, Jurisdictions: 2}}
		tiers := []*[]string{&comp.PACE.Primary, &comp.PACE.Alternate, &comp.PACE.Contingency, &comp.PACE.Emergency}
		for _, h := range p.hosts {
			if slices.Contains(hosts, h) {
				*tiers[0] = append(*tiers[0], fmt.Sprintf("t%d", h))
				tiers = tiers[1:]
			}
		}
		c.Compartments = append(c.Compartments, comp)
		if src != "" {
			c.Datasets = append(c.Datasets, config.Dataset{Name: p.dataset, Compartment: p.compartment, Priority: 1, Sources: []string{src}})
		}
	}
	return c
}

// sim is one episode: a small world, and what is true in it.
type sim struct {
	t       *testing.T
	seed    uint64
	nation  *simNation
	opening sync.Mutex
	keys    *embassy.Keys // of the root; not shared with another episode that runs
	dir     string
	rng     *rand.Rand
	hosts   []*simHost
	late    bool      // the last host is not there yet
	added   time.Time // when it came
	retains bool      // it is about forgetting and pruning
	suspect *simHost
	agents  []*simAgent
	// machines are the agents', one each, then the replicator, then a clone.
	machines []*simMachine
	sabotage func(targets.Target) targets.Target // of the production code, as seen at host bugged
	bugged   *simHost

	mu        sync.Mutex
	entries   map[string]*simEntry // all that were ever signed, by name
	committed []simCommit
	orders    map[format.Hash]*format.Order // records of the steward that any host ever got
	rules     int                           // the agent that is the steward of the first compartment
	ruled     [2]bool                       // agents that are, or were
	retired   map[format.Hash]bool          // snapshots, by entries that were signed
	going     map[format.Hash][]*simEntry   // what is to be deleted, and the entries that say so
	moved     map[format.Hash][]*simEntry   // packs, and the entries that replace them
	log       []string
	violation string
	tally     map[string]int // what happened
}

// simAgent is an agent's identity and its sources. A clone shares both.
type simAgent struct {
	index  int
	place  int
	src    string
	files  map[string]string   // as they are: content and time, by name
	tried  []map[string]string // as they were at every backup
	forked bool                // two machines may have written one chain
}

// simCommit is a snapshot that a report called committed.
type simCommit struct {
	hash  format.Hash
	agent *simAgent
	files map[string]string
}

// simMachine is one computer: what is left of it when its process dies is a
// state directory and a catalog.
type simMachine struct {
	s       *sim
	name    string
	agent   *simAgent // nil: it is the keyless replicator
	dir     string
	catalog *memCatalog
	copies  []simCopy
	svc     *embassy.Service // of the process that runs; nil: none does
	ctx     context.Context
	fuse    atomic.Pointer[fuse]
	trusts  map[*simHost]bool
	cut     atomic.Bool // it reaches no target
	misses  int         // backups in a row that could commit and did not
}

// simCopy is an old copy of a machine.
type simCopy struct {
	dir     string
	catalog *memCatalog
}

func (s *sim) must(err error) {
	if err != nil {
		s.t.Fatalf("seed %d: the simulation itself: %v", s.seed, err)
	}
}

// violate notes that something happened that must not. The first one counts.
func (s *sim) violate(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.violation == "" {
		s.violation = fmt.Sprintf(format, args...)
		s.log = append(s.log, "VIOLATION: "+s.violation)
	}
}

func (s *sim) violated() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.violation != ""
}

// count counts what happened.
func (s *sim) count(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tally[what]++
}

func (s *sim) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

// newSim makes the world of an episode.
func newSim(t *testing.T, n *simNation, keys *embassy.Keys, seed uint64, dir string, sabotage func(targets.Target) targets.Target) *sim {
	s := &sim{t: t, seed: seed, nation: n, keys: keys, dir: dir, sabotage: sabotage,
		rng: rand.New(rand.NewPCG(seed, 0)), entries: map[string]*simEntry{}, tally: map[string]int{},
		orders: map[format.Hash]*format.Order{}, retired: map[format.Hash]bool{}, going: map[format.Hash][]*simEntry{}, moved: map[format.Hash][]*simEntry{}}
	s.ruled[0] = true
	for i := range 4 {
		s.hosts = append(s.hosts, newSimHost(s, fmt.Sprintf("t%d", i)))
	}
	s.late = s.rng.IntN(4) == 0
	s.retains = s.rng.IntN(3) == 0
	if s.rng.IntN(2) == 0 {
		s.suspect = s.hosts[s.rng.IntN(4)]
	}
	s.bugged = s.hosts[1]
	if s.suspect == s.bugged {
		s.bugged = s.hosts[2]
	}
	for _, h := range s.placed() {
		s.must(h.mem.Put(t.Context(), n.charter))
	}
	for i := range 2 + s.rng.IntN(2) {
		a := &simAgent{index: i, place: simAgents[i], src: filepath.Join(dir, fmt.Sprintf("src%d", i)), files: map[string]string{}}
		s.must(os.Mkdir(a.src, 0o755))
		s.agents = append(s.agents, a)
		m := s.machine(fmt.Sprintf("a%d", i), a)
		s.must(os.Mkdir(m.dir, 0o700))
		for name, data := range n.states[i] {
			s.must(os.WriteFile(filepath.Join(m.dir, name), data, 0o600))
		}
	}
	s.machine("replicator", nil)
	return s
}

// machine adds a computer.
func (s *sim) machine(name string, a *simAgent) *simMachine {
	m := &simMachine{s: s, name: name, agent: a, dir: filepath.Join(s.dir, name), catalog: newMemCatalog(), trusts: map[*simHost]bool{}}
	s.machines = append(s.machines, m)
	return m
}

// newestKeys opens the charter that counts, of all that lie on honest hosts and
// on machines.
func (s *sim) newestKeys() *embassy.Keys {
	s.opening.Lock()
	defer s.opening.Unlock()
	best := s.keys.Charter
	consider := func(object []byte) {
		ch, err := format.OpenCharter(object, s.nation.key.Nation, s.nation.key.Signer)
		if err == nil && (ch.Rank().Compare(best.Rank()) > 0 || ch.Rank() == best.Rank() && ch.Time > best.Time) {
			best = ch
		}
	}
	for _, m := range s.machines {
		if object, err := os.ReadFile(filepath.Join(m.dir, "charter")); err == nil {
			consider(object)
		}
	}
	for _, h := range s.hosts {
		for _, name := range h.names() {
			if h.honest() && strings.Contains(name, "/charter/") {
				info, err := h.mem.Stat(s.t.Context(), name)
				s.must(err)
				body, err := h.mem.Get(s.t.Context(), name, 0, info.Size)
				s.must(err)
				object, err := io.ReadAll(body)
				s.must(err)
				consider(object)
			}
		}
	}
	if best != s.keys.Charter {
		keys, err := embassy.RootKeys(best, s.nation.root)
		s.must(err)
		s.keys = keys
	}
	return s.keys
}

// replicator is the keyless machine.
func (s *sim) replicator() *simMachine {
	i := slices.IndexFunc(s.machines, func(m *simMachine) bool { return m.agent == nil })
	return s.machines[i]
}

// placed are the hosts that are in the configurations by now.
func (s *sim) placed() []*simHost {
	if s.late {
		return s.hosts[:len(s.hosts)-1]
	}
	return s.hosts
}

// at are the hosts where a compartment should lie.
func (s *sim) at(place int) []*simHost {
	var out []*simHost
	for _, i := range simPlaces[place].hosts {
		if slices.Contains(s.placed(), s.hosts[i]) {
			out = append(out, s.hosts[i])
		}
	}
	return out
}

// reads are the hosts that a machine looks at.
func (m *simMachine) reads() []*simHost {
	if m.agent == nil {
		return m.s.placed()
	}
	return m.s.at(m.agent.place)
}

// calm reports whether every host that a machine needs answers.
func (m *simMachine) calm() bool {
	return !m.cut.Load() && !slices.ContainsFunc(m.reads(), func(h *simHost) bool { return !h.calm() })
}

// guilty returns a host that did something wrong, or nil.
func (s *sim) guilty() *simHost {
	if s.suspect != nil && !s.suspect.honest() {
		return s.suspect
	}
	return nil
}

// forked reports whether the chains that a machine reads may have forked.
func (m *simMachine) forked() bool {
	return slices.ContainsFunc(m.s.agents, func(a *simAgent) bool {
		return a.forked && (m.agent == nil || m.agent.place == a.place)
	})
}

// service is the process that runs on the machine, started if none does.
func (m *simMachine) service() *embassy.Service {
	if m.svc != nil {
		return m.svc
	}
	var hosts []int
	var members []*embassy.Member
	for _, h := range m.reads() {
		i := slices.Index(m.s.hosts, h)
		hosts = append(hosts, i)
		var t targets.Target = h
		if h.keeps {
			t = simVersioned{h}
		}
		if m.s.sabotage != nil && h == m.s.bugged {
			t = m.s.sabotage(t)
		}
		port := &targets.Faulty{Target: t,
			Before: func(targets.Op, string) error {
				if m.cut.Load() {
					return errRefused
				}
				return m.fuse.Load().burn(false)
			},
			After: func(targets.Op, string) error { return m.fuse.Load().burn(true) },
		}
		members = append(members, embassy.NewMember(h.name, "dir:/"+h.name, fmt.Sprintf("J%d", i), port, nil, time.Now))
	}
	var site *config.Config
	if m.agent != nil {
		site = simConfig(m.dir, hosts, m.agent.place, m.agent.src)
	} else {
		site = simConfig(m.dir, hosts, 0, "")
		site.NationKey = m.s.nation.key
		for i := range site.Compartments {
			site.Compartments[i].ID = m.s.nation.places[i]
		}
	}
	var err error
	m.svc, err = embassy.New(embassy.Options{
		Site: site, Members: members, Catalog: simCatalog{m.catalog, m},
		Warn: func(f embassy.Finding) {
			m.s.note("%s: finding: %s", m.name, f)
			m.accuse(f.Target, f.Err)
		},
	})
	m.s.must(err)
	return m.svc
}

// simCatalog is a machine's catalog, which dies with the process.
type simCatalog struct {
	*memCatalog
	m *simMachine
}

func (c simCatalog) write(do func() error) error {
	if err := c.m.fuse.Load().burn(false); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	return c.m.fuse.Load().burn(true)
}

func (c simCatalog) AddPack(p embassy.PackState, ids []chunk.ID) (n embassy.PackNum, err error) {
	err = c.write(func() error {
		n, err = c.memCatalog.AddPack(p, ids)
		return err
	})
	return n, err
}

func (c simCatalog) SetListed(chain format.ID, seq uint64, packs []embassy.ListedPack) error {
	return c.write(func() error { return c.memCatalog.SetListed(chain, seq, packs) })
}

func (c simCatalog) Condemn(packs []format.Hash) error {
	return c.write(func() error { return c.memCatalog.Condemn(packs) })
}

func (c simCatalog) Abandon(n embassy.PackNum) error {
	return c.write(func() error { return c.memCatalog.Abandon(n) })
}

func (c simCatalog) SetFates(compartment format.ID, fates []embassy.KnownFate) error {
	return c.write(func() error { return c.memCatalog.SetFates(compartment, fates) })
}

func (c simCatalog) DropOrders(l embassy.Line, after uint64) error {
	return c.write(func() error { return c.memCatalog.DropOrders(l, after) })
}

func (c simCatalog) Forget() error { return c.write(c.memCatalog.Forget) }

func (c simCatalog) Place(target string, h format.Hash, at time.Time) error {
	return c.write(func() error { return c.memCatalog.Place(target, h, at) })
}

func (c simCatalog) SetEvidence(target string, found map[format.Hash]embassy.Evidence) error {
	return c.write(func() error { return c.memCatalog.SetEvidence(target, found) })
}

func (c simCatalog) DropEvidence(target string, h format.Hash) error {
	return c.write(func() error { return c.memCatalog.DropEvidence(target, h) })
}

func (c simCatalog) Learn(l embassy.Line, e embassy.Known, adds []format.Listed) error {
	return c.write(func() error { return c.memCatalog.Learn(l, e, adds) })
}

func (c simCatalog) AddFault(f embassy.Fault) error {
	return c.write(func() error { return c.memCatalog.AddFault(f) })
}

func (c simCatalog) ClearFault(target string, kind embassy.FaultKind, object string) error {
	return c.write(func() error { return c.memCatalog.ClearFault(target, kind, object) })
}

func (c simCatalog) SetSeenHead(target string, l embassy.Line, h embassy.SeenHead) error {
	return c.write(func() error { return c.memCatalog.SetSeenHead(target, l, h) })
}

func (c simCatalog) ForgetTarget(target string) error {
	return c.write(func() error { return c.memCatalog.ForgetTarget(target) })
}

func (c simCatalog) PutCachedDirs(series string, dirs map[string][]byte) error {
	return c.write(func() error { return c.memCatalog.PutCachedDirs(series, dirs) })
}

func (c simCatalog) AddRun(r embassy.Run) error {
	return c.write(func() error { return c.memCatalog.AddRun(r) })
}

func (c simCatalog) Note(key string, value []byte) error {
	return c.write(func() error { return c.memCatalog.Note(key, value) })
}

// clone copies a catalog.
func (c *memCatalog) clone() *memCatalog {
	c.mu.Lock()
	defer c.mu.Unlock()
	to := newMemCatalog()
	to.packs, to.runs = slices.Clone(c.packs), slices.Clone(c.runs)
	maps.Copy(to.chunks, c.chunks)
	maps.Copy(to.heads, c.heads)
	maps.Copy(to.faults, c.faults)
	maps.Copy(to.dirs, c.dirs)
	maps.Copy(to.notes, c.notes)
	maps.Copy(to.abandoned, c.abandoned)
	for comp, f := range c.fates {
		to.fates[comp] = maps.Clone(f)
	}
	for l, k := range c.known {
		to.known[l] = slices.Clone(k)
	}
	for t, p := range c.placed {
		to.placed[t] = maps.Clone(p)
	}
	for t, h := range c.seen {
		to.seen[t] = maps.Clone(h)
	}
	return to
}
