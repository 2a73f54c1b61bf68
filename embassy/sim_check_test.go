package embassy_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"embassy/embassy"
	"embassy/embassy/format"
)

// blame checks that integrity is called into question only when somebody did
// something.
func (s *sim) blame(m *simMachine, exit int) {
	if exit == 5 && s.guilty() == nil && !m.forked() {
		s.violate("%s: exit 5, and nothing happened", m.name)
	}
}

var simFaults = map[embassy.FaultKind]string{
	embassy.FaultRollback: "rollback reported", embassy.FaultDiscards: "discarding reported", embassy.FaultForged: "forgery reported",
	embassy.FaultMissing: "loss reported", embassy.FaultAltered: "bad copy reported", embassy.FaultCut: "bad copy reported", embassy.FaultSwapped: "bad copy reported",
}

// checkMachine checks what a machine believes: no honest target is accused,
// no fork is made up, and no head was seen that no target showed.
func (s *sim) checkMachine(m *simMachine) {
	faults, err := m.catalog.Faults("")
	s.must(err)
	for _, f := range faults {
		switch i := slices.IndexFunc(s.hosts, func(h *simHost) bool { return h.name == f.Target }); {
		case f.Target == "" && f.Kind == embassy.FaultFork:
			s.count("fork reported")
			if !m.forked() {
				s.violate("%s: reports a fork that is none: %s", m.name, f.Object)
			}
		case f.Target == "" && f.Kind == embassy.FaultUnsound && strings.HasPrefix(f.Object, "chain ") && s.guilty() != nil:
			s.count("loss reported") // who had the object before, this machine cannot know
		case i < 0:
			s.violate("%s: fault of nobody: %+v", m.name, f)
		case s.hosts[i].honest():
			s.violate("%s: accuses honest %s: %s %s: %s", m.name, f.Target, f.Kind, f.Object, f.Text)
		default:
			s.count(simFaults[f.Kind])
		}
	}
	for _, h := range s.hosts {
		for l, head := range m.catalog.seen[h.name] {
			name := format.EntryName(s.nation.key.Nation, l.Compartment, l.Agent, l.Chain, head.Seq, head.Hash)
			h.mu.Lock()
			shown := h.shown[name]
			h.mu.Unlock()
			if !shown || h.honest() && !h.has(name) {
				s.violate("%s: believes that %s showed %s", m.name, h.name, name)
			}
		}
	}
}

// accuse checks what is said of a target.
func (m *simMachine) accuse(target string, err error) {
	i := slices.IndexFunc(m.s.hosts, func(h *simHost) bool { return h.name == target })
	if i >= 0 && m.s.hosts[i].honest() && (errors.Is(err, embassy.ErrRolledBack) || errors.Is(err, embassy.ErrDiscards)) {
		m.s.violate("%s: accuses honest %s: %v", m.name, target, err)
	}
	if errors.Is(err, embassy.ErrForked) && !m.forked() {
		m.s.violate("%s: reports a fork that is none: %v", m.name, err)
	}
}

// checkVerified checks what a full verification says of a guilty host that
// answers: after a repair, whatever it should hold and an honest host has is
// as it should be; without one, something is bad if anything is. It should hold
// what its entries before a fork list, and those entries as far as it was seen
// with the chain.
func (m *simMachine) checkVerified(h *simHost, seen map[embassy.Line]embassy.SeenHead, rep embassy.VerifyReport, repaired bool) {
	s := m.s
	i := slices.IndexFunc(rep.Targets, func(t embassy.VerifiedTarget) bool { return t.Target == h.name })
	if i < 0 {
		return
	}
	forks := s.forks(func(*simEntry) bool { return true })
	for name, e := range s.entries {
		place := slices.Index(s.nation.places, e.Compartment)
		if !e.before(forks) || m.agent != nil && m.agent.place != place || !slices.Contains(s.at(place), h) {
			continue
		}
		if !h.has(name) && seen[lineOf(e)].Seq < e.Seq || !slices.ContainsFunc(s.at(place), func(o *simHost) bool { return o.honest() && o.has(name) }) {
			continue // what it should hold is another question
		}
		want := map[string]format.Hash{name: e.hash}
		for _, a := range e.Adds {
			if goes, _ := s.goes(a.Hash); len(goes) == 0 {
				want[e.object(a)] = a.Hash
			}
		}
		for object, hash := range want {
			if h.has(object) && format.HashOf(h.data(object)) == hash {
				continue
			}
			if repaired {
				s.violate("%s: verify left %s bad on %s: %+v", m.name, object, h.name, rep.Targets[i])
			} else if rep.Targets[i].BadTotal == 0 || rep.Exit != 5 {
				s.violate("%s: verify did not see that %s is bad on %s: %+v", m.name, object, h.name, rep.Targets[i])
			}
			return
		}
	}
}

// less says that the guilty host shows less of a chain than the machine knows
// that it did; empty: it does not.
func (m *simMachine) less(l embassy.Line) string {
	h := m.s.guilty()
	if h == nil || !slices.Contains(m.reads(), h) {
		return ""
	}
	head := m.catalog.seen[h.name][l].Seq
	if !m.trusts[h] { // what it confirmed before was forgiven
		head = max(head, m.confirmed(h, l))
	}
	for name, e := range m.s.entries {
		if lineOf(e) == l && e.Seq >= head && h.has(name) {
			return ""
		}
	}
	if head == 0 {
		return ""
	}
	return fmt.Sprintf("%s shows less of chain %s than entry %d; ", h.name, l.Chain, head)
}

// lost returns the entries before any fork that the guilty host lacks, though
// the machine saw it with a later one, or with them, of whatever branch.
func (m *simMachine) lost() (lost []*simEntry) {
	h := m.s.guilty()
	if h == nil {
		return nil
	}
	forks := m.s.forks(func(*simEntry) bool { return true })
	for name, e := range m.s.entries {
		if e.before(forks) && e.Seq <= m.catalog.seen[h.name][lineOf(e)].Seq && !h.has(name) {
			lost = append(lost, e)
		}
	}
	return lost
}

// checkLost checks that what was lost is told by now, if it is known.
func (m *simMachine) checkLost(lost []*simEntry) {
	for _, e := range lost {
		h := m.s.guilty()
		faults, err := m.catalog.Faults(h.name)
		m.s.must(err)
		if e.Seq <= uint64(len(m.catalog.known[lineOf(e)])) && !m.distrusts(h) && !slices.ContainsFunc(faults, func(f embassy.Fault) bool {
			return f.Kind == embassy.FaultMissing && filepath.Dir(f.Object) == filepath.Dir(e.name)
		}) {
			m.s.violate("%s: %s lost %s, and nobody says so", m.name, h.name, e.name)
		}
	}
}

// checkRollback checks that what less said is booked by now.
func (m *simMachine) checkRollback(less string) {
	if less != "" && !m.distrusts(m.s.guilty()) {
		m.s.violate("%s: %sand nobody says so", m.name, less)
	}
}

// distrusts reports whether the machine knows that the host's copies do not
// count.
func (m *simMachine) distrusts(h *simHost) bool {
	faults, err := m.catalog.Faults(h.name)
	m.s.must(err)
	return slices.ContainsFunc(faults, func(f embassy.Fault) bool { return f.Kind.Distrusts() })
}

// confirmed is how far a host had come with the machine's own chain when its
// last entry was written: that is known even when the catalog is lost.
func (m *simMachine) confirmed(h *simHost, l embassy.Line) (seq uint64) {
	if m.agent == nil || l != m.chain() {
		return 0
	}
	own := m.entries()
	var names [][8]byte
	for _, w := range m.s.newestKeys().Compartments[m.agent.place].Writers {
		names = append(names, w.TargetName(h.name))
	}
	var last uint64
	for _, e := range m.s.entries {
		if lineOf(e) != l || e.Seq < last || !own[e.file()] {
			continue
		}
		last, seq = e.Seq, 0
		for _, c := range e.Confirmed {
			if slices.Contains(names, c.Target) {
				seq = c.Seq
			}
		}
	}
	return seq
}

// checkForks checks that a machine that just read all ledgers reports every
// fork that honest hosts show.
func (m *simMachine) checkForks() {
	s := m.s
	forks := s.forks(func(e *simEntry) bool {
		return slices.ContainsFunc(m.reads(), func(h *simHost) bool {
			place := slices.Index(s.nation.places, e.Compartment)
			return h.honest() && (m.agent == nil || m.agent.place == place) && slices.Contains(s.at(place), h) && h.has(e.name)
		})
	})
	faults, err := m.catalog.Faults("")
	s.must(err)
	for l := range forks {
		if !slices.ContainsFunc(faults, func(f embassy.Fault) bool {
			return f.Kind == embassy.FaultFork && strings.Contains(f.Object, l.Chain.String())
		}) {
			s.violate("%s: two entries of chain %s have the number %d, and nobody says so", m.name, l.Chain, forks[l])
		}
	}
}

// checkHosts checks every byte on honest hosts: each object is what its name
// says, and each entry has what it needs.
func (s *sim) checkHosts() {
	for _, h := range s.hosts {
		if !h.honest() {
			continue
		}
		for _, name := range h.names() {
			info, err := h.mem.Stat(s.t.Context(), name)
			s.must(err)
			body, err := h.mem.Get(s.t.Context(), name, 0, info.Size)
			s.must(err)
			sum := sha256.New()
			_, err = io.Copy(sum, body)
			s.must(err)
			if want, err := nameHash(name); err != nil || format.Hash(sum.Sum(nil)) != want {
				s.violate("%s holds other bytes than %s says", h.name, name)
			}
			if e := s.entries[name]; e != nil {
				if missing := s.lacks(e, h.mem); missing != "" {
					s.violate("%s holds %s and not %s", h.name, name, missing)
				}
			} else if strings.Contains(name, "/ledger/") {
				s.violate("%s holds %s, which nobody signed", h.name, name)
			}
		}
	}
}

// checkSnapshots restores, from every honest host alone, what it lists: each
// snapshot is whole, and as the sources were. Those that a report called
// committed must be listed where their entry lies; everywhere is where it
// should lie by now, if that is not nil.
func (s *sim) checkSnapshots(everywhere func(c simCommit, h *simHost) bool) {
	for _, h := range s.placed() {
		if !h.honest() || len(h.names()) == 0 { // it was added, and got nothing yet
			continue
		}
		members := []*embassy.Member{embassy.NewMember(h.name, "", "", h.mem, nil, time.Now)}
		ch, _, err := embassy.FindCharter(s.t.Context(), members, s.nation.key.Nation, s.nation.key.Signer, nil)
		s.must(err)
		keys, err := embassy.RootKeys(ch, s.nation.root) // those of the charter that this host has
		s.must(err)
		v, err := embassy.OpenView(s.t.Context(), embassy.ViewOptions{Keys: keys, Members: members, Checkpoint: 3})
		s.must(err)
		listed := map[format.Hash]bool{}
		for _, snap := range v.Snapshots("") {
			listed[snap.Hash] = true
			s.checkSnapshot(h, v, snap)
			if s.violated() {
				return
			}
		}
		for _, c := range s.committed {
			if s.retired[c.hash] {
				s.checkRetired(h, v, c)
				continue
			}
			claims := slices.Contains(s.claiming(c.hash, (*simHost).honest), h)
			if !claims && everywhere != nil && everywhere(c, h) {
				s.violate("%s has no entry that commits snapshot %s, though all was replicated", h.name, c.hash)
			}
			if claims && !listed[c.hash] {
				s.violate("%s holds the entry that commits snapshot %s, and does not list it", h.name, c.hash)
			}
		}
	}
}

// checkSnapshot restores a snapshot and compares it.
func (s *sim) checkSnapshot(h *simHost, v *embassy.View, snap embassy.SnapshotInfo) {
	a := s.agents[slices.Index(s.nation.ids, snap.Agent)]
	to := filepath.Join(s.dir, "out")
	defer os.RemoveAll(to)
	if _, err := v.Restore(s.t.Context(), embassy.RestoreOptions{Snapshots: []embassy.SnapshotInfo{snap}, To: to}); err != nil {
		s.violate("snapshot %s, entry %d of chain %s of agent %s, does not restore from %s alone: %v", snap.Hash, snap.Seq, snap.Chain, snap.Agent, h.name, err)
		return
	}
	s.count("restored")
	got := map[string]string{}
	root := filepath.Join(to, simPlaces[a.place].dataset, a.src)
	s.must(filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		got[strings.TrimPrefix(path, root+"/")] = simFile(info.ModTime(), data)
		return err
	}))
	want := a.tried
	if i := slices.IndexFunc(s.committed, func(c simCommit) bool { return c.hash == snap.Hash }); i >= 0 {
		want = []map[string]string{s.committed[i].files}
	}
	if !slices.ContainsFunc(want, func(w map[string]string) bool { return maps.Equal(w, got) }) {
		s.violate("snapshot %s restores from %s as %s, which the sources never were", snap.Hash, h.name, simNames(got))
	}
}

func simNames(files map[string]string) string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(files)) {
		out = append(out, fmt.Sprintf("%s (%d bytes)", name, len(files[name])))
	}
	return strings.Join(out, ", ")
}

// heal brings every host back, lets each agent bring what only it has, and
// replicates once: no honest host may be behind.
func (s *sim) heal() {
	s.note("all is healed")
	for _, h := range s.hosts {
		h.mode, h.stutter = simUp, simStutter{}
	}
	if s.suspect != nil && s.rng.IntN(2) == 0 {
		s.suspect.discards, s.suspect.fickle, s.suspect.hides = false, false, 0
	}
	s.must(simWait(s.t.Context(), time.Hour))
	if s.rng.IntN(2) == 0 {
		for _, m := range s.machines {
			if m.agent != nil {
				s.complete(m)
			}
		}
	}
	m := s.replicator()
	m.svc = nil
	s.complete(m)
}

// complete replicates everything to all.
func (s *sim) complete(m *simMachine) {
	m.boot(nil)
	m.replicateWith(embassy.ReplicateOptions{}, true)
	m.end()
	s.checkMachine(m)
}

// replicated reports whether a snapshot must lie on a host after everything
// was healed: its entry lies on an honest one, and before any fork.
func (s *sim) replicated() func(c simCommit, h *simHost) bool {
	union := s.replicator().union()
	return func(c simCommit, h *simHost) bool {
		return slices.Contains(s.at(c.agent.place), h) && slices.ContainsFunc(slices.Collect(maps.Keys(union)), func(name string) bool {
			return slices.Contains(s.entries[name].Snapshots, c.hash)
		})
	}
}
