package embassy_test

import (
	"context"
	"fmt"
	"io"
	"iter"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"embassy/crypto"
	"embassy/embassy"
	"embassy/embassy/format"
	"embassy/targets"
)

// longPast returns a steward and another agent that wrote so many entries that a
// prune writes a checkpoint. What they forgot is deleted; of the rest one snapshot is
// retired, one is pinned, and a dataset is held.
func longPast(t *testing.T) (s, n *site) {
	t.Helper()
	s = newSite(t, 2, 2)
	n = s.neighbour()
	work := func(rounds int) {
		for i := range rounds {
			s.write("day", fmt.Append(nil, "of the steward ", i/8))
			n.write("day", fmt.Append(nil, "of the other ", i/8))
			s.mustBackup(0)
			n.mustBackup(0)
		}
	}
	work(95)
	s.forget(3, 184)
	s.prune(0)
	n.mustBackup(0)
	s.prune(0)
	work(40)
	s.forget(30, 27)
	v, err := s.view(0)
	if err != nil {
		t.Fatal(err)
	}
	svc := s.start()
	if _, err := svc.Pin(t.Context(), v.Snapshots("land")[3].Hash.String(), true); err != nil {
		t.Fatal(err)
	}
	if err := svc.Hold(t.Context(), "population", true); err != nil {
		t.Fatal(err)
	}
	if s.count(0, "checkpoint") != 0 {
		t.Fatal("a checkpoint before it pays")
	}
	s.prune(0)
	if a, b := s.count(0, "checkpoint"), s.count(1, "checkpoint"); a != 1 || b != 1 {
		t.Fatalf("%d and %d checkpoints", a, b)
	}
	return s, n
}

// copied is the site with copies of its targets, and no agent's machine.
func (s *site) copied() *site {
	c := &site{t: s.t, dir: s.dir, config: s.config, root: s.root, pays: s.pays}
	for _, m := range s.mems {
		c.mems = append(c.mems, clone(s.t, m))
	}
	return c
}

// drop deletes from a target what names holds.
func (s *site) drop(i int, names ...string) {
	s.t.Helper()
	for _, name := range names {
		if err := s.mems[i].Delete(s.t.Context(), name); err != nil {
			s.t.Fatal(err)
		}
	}
}

// named returns the sorted names on a target that hold a text.
func (s *site) named(i int, text string) (out []string) {
	for _, name := range slices.Sorted(maps.Keys(s.objects(i))) {
		if strings.Contains(name, text) {
			out = append(out, name)
		}
	}
	return out
}

// seen is what a View shows, and what it cost.
type seen struct {
	snapshots []string
	heads     []format.Head
	told      string
	gets      int64 // of ledger entries
}

// look opens a View of some targets, through what wrap makes of them.
func (s *site) look(wrap func(i int, t targets.Target) targets.Target, only ...int) seen {
	s.t.Helper()
	verifier := s.root.Signer().Verifier()
	var members []*embassy.Member
	var gets atomic.Int64
	for _, i := range only {
		var target targets.Target = s.mems[i]
		if wrap != nil {
			target = wrap(i, target)
		}
		counted := &targets.Faulty{Target: target, Before: func(op targets.Op, name string) error {
			if op == targets.OpGet && strings.Contains(name, "/ledger/") {
				gets.Add(1)
			}
			return nil
		}}
		members = append(members, embassy.NewMember(fmt.Sprintf("t%d", i), "", "", counted, nil, time.Now))
	}
	ch, _, err := embassy.FindCharter(s.t.Context(), members, format.NationID(verifier, s.root.Identity().Recipient()), verifier, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	keys, err := embassy.RootKeys(ch, s.root)
	if err != nil {
		s.t.Fatal(err)
	}
	var f findings
	v, err := embassy.OpenView(s.t.Context(), embassy.ViewOptions{Keys: keys, Members: members, Warn: f.add, Checkpoint: s.pays})
	if err != nil {
		s.t.Fatal(err)
	}
	out := seen{heads: v.Heads(), gets: gets.Load()}
	for _, d := range []string{"population", "land"} {
		for _, info := range v.Snapshots(d) {
			out.snapshots = append(out.snapshots, fmt.Sprint(info.Hash, info.Seq, info.Pinned, info.Held, info.Summary.Time, info.Doubt))
		}
	}
	for _, one := range f.list {
		out.told += fmt.Sprintln(one.Target, one.Object, one.Err)
	}
	return out
}

// alike fails unless a View is the same with the checkpoints as without them.
func (s *site) alike(only ...int) (with, without seen) {
	s.t.Helper()
	with = s.look(nil, only...)
	c := s.copied()
	for i := range c.mems {
		c.drop(i, c.named(i, "/checkpoint/")...)
	}
	without = c.look(nil, only...)
	if !slices.Equal(with.snapshots, without.snapshots) || len(with.snapshots) == 0 {
		s.t.Errorf("with a checkpoint:\n%s\nwithout:\n%s", strings.Join(with.snapshots, "\n"), strings.Join(without.snapshots, "\n"))
	}
	if !slices.Equal(with.heads, without.heads) {
		s.t.Errorf("heads %v, without a checkpoint %v", with.heads, without.heads)
	}
	return with, without
}

// ledgerOf returns the names of the entries of an agent's chain, oldest first.
func (s *site) ledgerOf(agent format.ID) []string { return s.named(0, agent.String()+"/ledger/") }

// checkpoint opens the only one on target 0.
func (s *site) checkpoint(by *crypto.AgentKey) *format.Checkpoint {
	s.t.Helper()
	name := s.one(0, "/checkpoint/")
	id := func(part int) format.ID {
		id, err := format.ParseID(strings.Split(name, "/")[part])
		if err != nil {
			s.t.Fatal(err)
		}
		return id
	}
	c, err := format.OpenCheckpoint(readObject(s.t, s.mems[0], name), by.Signer.Verifier(), id(0), id(1), id(2))
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

func readObject(t testing.TB, m *targets.Mem, name string) []byte {
	t.Helper()
	info, err := m.Stat(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	r, err := m.Get(t.Context(), name, 0, info.Size)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func (s *site) put(i int, name string, data []byte) {
	s.t.Helper()
	if err := s.mems[i].Put(s.t.Context(), targets.Object{Name: name, Data: data, SHA256: format.HashOf(data)}); err != nil {
		s.t.Fatal(err)
	}
}

// An old compartment with a checkpoint reads as one without, in few fetches,
// whatever of it a target lacks and whoever made up more.
func TestCheckpoint(t *testing.T) {
	s, n := longPast(t)
	steward, other := s.agentKey(), n.agentKey()
	all := len(s.named(0, "/ledger/"))
	folder := strings.TrimSuffix(s.one(0, "/checkpoint/"), filepath.Base(s.one(0, "/checkpoint/")))

	t.Run("reads as without", func(t *testing.T) {
		with, without := s.alike(0, 1)
		if with.told != without.told {
			t.Errorf("told %q, without a checkpoint %q", with.told, without.told)
		}
		if most := int64(len(with.snapshots)) + 8; with.gets > most || without.gets < int64(all) {
			t.Errorf("%d entries fetched, of %d, with %d snapshots; %d without a checkpoint", with.gets, all, len(with.snapshots), without.gets)
		}
		for i := range s.mems {
			s.restore(i)
		}
		v, err := s.view(0)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.restores("land", v.Snapshots("land")[0].Hash); err != nil {
			t.Error(err)
		}
	})
	// cheap fails unless a View goes by a checkpoint still, or not.
	cheap := func(t *testing.T, c *site, want bool, only ...int) (with, without seen) {
		t.Helper()
		with, without = c.alike(only...)
		if got := with.gets < int64(len(with.snapshots))+50; got != want {
			t.Errorf("%d entries fetched, %d without a checkpoint: %s", with.gets, without.gets, with.told)
		}
		return with, without
	}
	t.Run("its entry is not there", func(t *testing.T) { // the steward died before
		c := s.copied()
		for i := range c.mems {
			own := c.ledgerOf(format.ID(steward.ID()))
			c.drop(i, own[len(own)-1])
		}
		cheap(t, c, true, 0, 1)
	})
	t.Run("forged and newer", func(t *testing.T) {
		c := s.copied()
		for i := range 20 {
			c.put(0, folder+format.HashOf([]byte{byte(i)}).String(), []byte("another"))
			junk := fmt.Append(nil, "EMBCKPT1", i)
			c.put(0, folder+format.HashOf(junk).String(), junk)
		}
		with, _ := cheap(t, c, true, 0, 1)
		if !strings.Contains(with.told, "checkpoint left out") {
			t.Errorf("nobody is told: %q", with.told)
		}
		cheap(t, c, false, 0) // the host hides it: that costs time
	})
	t.Run("cut and endless", func(t *testing.T) {
		c := s.copied()
		name := c.one(0, "/checkpoint/")
		c.put(0, name, readObject(t, c.mems[0], name)[:500])
		cheap(t, c, false, 0)
		cheap(t, c, true, 0, 1)
		got := s.look(func(i int, target targets.Target) targets.Target { return immense{target} }, 0)
		if want := s.look(nil, 0); !slices.Equal(got.snapshots, want.snapshots) || got.gets < int64(all) {
			t.Errorf("%d snapshots, %d entries fetched: %s", len(got.snapshots), got.gets, got.told)
		}
	})
	t.Run("a target that lags", func(t *testing.T) {
		c := s.copied()
		entries := c.ledgerOf(format.ID(other.ID()))
		c.drop(1, entries[len(entries)-40:]...)
		with, _ := cheap(t, c, false, 1)
		if now := s.look(nil, 0); len(with.snapshots) >= len(now.snapshots) {
			t.Errorf("%d snapshots where entries lack, %d elsewhere", len(with.snapshots), len(now.snapshots))
		}
		cheap(t, c, true, 0, 1)
	})
	t.Run("gaps and forks", func(t *testing.T) {
		c := s.copied()
		entries := c.ledgerOf(format.ID(other.ID()))
		for i := range c.mems {
			c.drop(i, entries[7], entries[100])
		}
		id := func(name string, part int) format.ID {
			id, err := format.ParseID(strings.Split(name, "/")[part])
			if err != nil {
				t.Fatal(err)
			}
			return id
		}
		fork := func(seq uint64, prev string) {
			e := format.Entry{Nation: id(prev, 0), Compartment: id(prev, 1), Agent: id(prev, 2), Chain: id(prev, 4), Seq: seq, Time: 1}
			_, _, e.Prev, _ = format.ParseEntryName(strings.SplitAfter(prev, "/ledger/")[1])
			object, err := format.SealEntry(e, other.Signer)
			if err != nil {
				t.Fatal(err)
			}
			c.put(0, format.EntryName(e.Nation, e.Compartment, e.Agent, e.Chain, seq, format.HashOf(object)), object)
		}
		fork(50, entries[48])
		fork(uint64(len(entries)+1), entries[len(entries)-1])
		with, without := cheap(t, c, true, 0, 1)
		for _, what := range []string{"signed 2 entries with number 50", "entries 8 to 8 are on no target", "entries 101 to 101"} {
			if !strings.Contains(with.told, what) || !strings.Contains(without.told, what) {
				t.Errorf("%q is not told: %q, without a checkpoint %q", what, with.told, without.told)
			}
		}
	})
	// restate puts a checkpoint of the steward's in the place of the true one, with
	// each entry as edit leaves it.
	restate := func(t *testing.T, c *site, edit func(e *format.Entry, last bool)) {
		t.Helper()
		cp := s.checkpoint(steward)
		forged := *cp
		forged.Chains = nil
		for i := range cp.Chains {
			was := &cp.Chains[i]
			ch := format.RestatedChain{Agent: was.Agent, Chain: was.Chain}
			for seq := uint64(1); seq <= was.Len(); seq++ {
				e, err := cp.Entry(was, seq)
				if err != nil {
					t.Fatal(err)
				}
				edit(&e, seq == was.Len())
				ch.Add(e, was.Hash(seq), was.Size(seq))
			}
			forged.Chains = append(forged.Chains, ch)
		}
		object, err := format.SealCheckpoint(forged, steward.Signer)
		if err != nil {
			t.Fatal(err)
		}
		c.drop(0, c.one(0, "/checkpoint/"))
		c.put(0, folder+format.HashOf(object).String(), object)
	}
	t.Run("a captured steward hides no deed", func(t *testing.T) {
		records := func(c *site) int {
			v, err := c.view(0)
			if err != nil {
				t.Fatal(err)
			}
			rep, err := s.start().AuditLogs(t.Context(), v)
			if err != nil {
				t.Fatal(err)
			}
			return len(rep.Records)
		}
		want := records(s)
		c := s.copied()
		restate(t, c, func(e *format.Entry, _ bool) { e.Adds = nil })
		if got := records(c); got != want || want == 0 {
			t.Errorf("%d audit records, want %d", got, want)
		}
	})
	t.Run("a captured steward", func(t *testing.T) {
		c := s.copied()
		id := format.ID(other.ID())
		lie := format.HashOf([]byte("a snapshot that the agent never made"))
		restate(t, c, func(e *format.Entry, last bool) {
			if e.Agent == id && last {
				e.Adds = append(e.Adds, format.Listed{Kind: format.KindSnapshot, Hash: lie, Size: 9})
				e.Snapshots = append(e.Snapshots, lie)
			}
		})
		with, _ := cheap(t, c, true, 0)
		if !strings.Contains(with.told, "though a checkpoint of the steward says so") {
			t.Errorf("the lie is not told: %q", with.told)
		}
	})
	t.Run("of somebody else", func(t *testing.T) {
		c := s.copied()
		object, err := format.SealCheckpoint(*s.checkpoint(steward), other.Signer)
		if err != nil {
			t.Fatal(err)
		}
		for i := range c.mems {
			c.drop(i, c.one(i, "/checkpoint/"))
		}
		c.put(0, folder+format.HashOf(object).String(), object)
		cheap(t, c, false, 0, 1)
	})
	t.Run("a new replicator and a new target", func(t *testing.T) {
		r := s.replicator()
		r.mems = []*targets.Mem{clone(t, s.mems[0]), targets.NewMem()}
		var gets atomic.Int64
		r.wrap = func(i int, target targets.Target) targets.Target {
			return &targets.Faulty{Target: target, Before: func(op targets.Op, name string) error {
				if op == targets.OpGet && strings.Contains(name, "/ledger/") {
					gets.Add(1)
				}
				return nil
			}}
		}
		if _, err := r.start().Verify(t.Context(), embassy.VerifyOptions{Level: embassy.Presence}); err != nil {
			t.Fatal(err)
		}
		if got := gets.Load(); got > 20 {
			t.Errorf("%d entries fetched to learn %d", got, all)
		}
		r.replicate(0, embassy.ReplicateOptions{})
		for i := range r.mems { // old charters are not copied
			r.drop(i, r.named(i, "/charter/000000000000000")...)
		}
		r.same()
		for _, m := range r.mems {
			for _, name := range s.named(0, "/charter/") {
				copyObject(t, s.mems[0], m, name)
			}
		}
		c := s.copied()
		c.mems = r.mems
		c.alike(1)
		// What a new catalog adopted is what another learns entry by entry.
		plain := s.replicator()
		plain.mems = s.copied().mems
		for i := range plain.mems {
			plain.drop(i, plain.named(i, "/checkpoint/")...)
		}
		plain.replicate(0, embassy.ReplicateOptions{})
		lines, err := plain.catalog.KnownLines()
		if err != nil || len(lines) != 2 {
			t.Fatal(lines, err)
		}
		for _, l := range lines {
			a, _, _ := plain.catalog.KnownHead(l)
			b, _, _ := r.catalog.KnownHead(l)
			if a != b {
				t.Errorf("chain %s: head %v, and %v without a checkpoint", l.Chain, b, a)
			}
		}
	})
	t.Run("the steward's next prunes", func(t *testing.T) {
		var gets atomic.Int64
		counted := func(op targets.Op, name string) error {
			if op == targets.OpGet && strings.Contains(name, "/ledger/") {
				gets.Add(1)
			}
			return nil
		}
		s.wrap = func(_ int, target targets.Target) targets.Target {
			return &targets.Faulty{Target: target, Before: counted}
		}
		s.prune(0)
		if got, most := gets.Load(), int64(80); got > most {
			t.Errorf("a prune fetched %d entries", got)
		}
		if s.count(0, "checkpoint") != 1 {
			t.Error("a checkpoint that nobody needs")
		}
		s.wrap = func(_ int, target targets.Target) targets.Target {
			var own sync.Map // what a process puts it may read back
			return &targets.Faulty{Target: target, Before: func(op targets.Op, name string) error {
				if op == targets.OpPut {
					own.Store(name, true)
				}
				if _, ok := own.Load(name); op == targets.OpGet && !ok && strings.Contains(name, "/checkpoint/") {
					return targets.ErrNotFound
				}
				return nil
			}}
		}
		for range 3 { // none can be read: each run writes one
			s.prune(0)
		}
		s.wrap = nil
		for range 2 { // what one marks the next deletes
			n.mustBackup(0)
			s.prune(0)
		}
		if a, b := s.count(0, "checkpoint"), s.count(1, "checkpoint"); a != 2 || b != 2 {
			t.Errorf("%d and %d checkpoints are left", a, b)
		}
		s.alike(0, 1)
		s.verified()
	})
	t.Run("a revoked agent", func(t *testing.T) {
		entries := s.ledgerOf(format.ID(other.ID()))
		_, _, last, err := format.ParseEntryName(strings.SplitAfter(entries[len(entries)-5], "/ledger/")[1])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.start().Revoke(t.Context(), embassy.Authority{Root: s.root}, "second", []string{last.String()}); err != nil {
			t.Fatal(err)
		}
		s.alike(0, 1)
		s.alike(1)
	})
}

// immense never ends what it gives of a checkpoint, and lists it as immense.
type immense struct{ targets.Target }

func (e immense) List(ctx context.Context, prefix string) iter.Seq2[targets.Info, error] {
	return func(yield func(targets.Info, error) bool) {
		for info, err := range e.Target.List(ctx, prefix) {
			if strings.Contains(info.Name, "/checkpoint/") {
				info.Size = 1 << 50
			}
			if !yield(info, err) {
				return
			}
		}
	}
}

func (e immense) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	if strings.Contains(name, "/checkpoint/") {
		return io.NopCloser(zeros{}), nil
	}
	return e.Target.Get(ctx, name, offset, length)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// A clone's branch lies on a target that is away while the steward prunes and writes
// a checkpoint. What was forgotten of it is not shown again once it is back, and
// nothing that the clone may use is deleted meanwhile.
func TestCheckpointOfAHiddenBranch(t *testing.T) {
	s := partedSite(t, 3)
	s.pays = 3
	s.verify(4, embassy.VerifyOptions{}) // learns its own branch
	s.wrap = nil
	s.fill(4, 3, 2000)
	s.mustBackup(5)
	s.replicate(5, embassy.ReplicateOptions{})
	s.forget(1, 4)
	s.wrap = onlyTo(0, 1)
	for i := range 2 {
		rep, err := s.start().Prune(t.Context(), embassy.PruneOptions{MaxRemove: 1, Checkpoint: 1})
		if err != nil {
			t.Fatal(err)
		}
		c := rep.Compartments[0]
		if i == 0 && c.Marked == 0 || c.Deletable > 0 || i > 0 && !strings.Contains(fmt.Sprint(c.Waits), "a clone of its machine went on") {
			t.Errorf("with the branch out of sight: %+v", c)
		}
	}
	if s.count(0, "checkpoint") == 0 {
		t.Fatal("no checkpoint")
	}
	s.wrap = nil
	s.alike(2)
	s.alike(0, 1, 2)
}
