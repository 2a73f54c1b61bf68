package embassy_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"embassy/chunk"
	"embassy/crypto"
	"embassy/embassy"
	"embassy/embassy/format"
	"embassy/targets"
)

func TestFindCharterNewest(t *testing.T) {
	r, _ := newRepo(t, 3, "pop")
	old := r.names(0, "/charter/")
	r.publish()
	newest := slices.DeleteFunc(r.names(0, "/charter/"), func(n string) bool { return slices.Contains(old, n) })[0]
	damages["missing"](r, 0, newest) // t0 is behind
	damages["flipped"](r, 1, newest)
	var f findings
	ch, object, err := embassy.FindCharter(t.Context(), r.members, r.nation, r.root.Signer().Verifier(), f.add)
	if err != nil || ch.Seq != 2 || format.CharterName(r.nation, 2, format.HashOf(object)) != newest {
		t.Fatalf("found %v, %v", ch, err)
	}
	if len(f.about("t1", newest)) != 1 || len(f.list) != 1 {
		t.Errorf("findings are %v, want the bad copy on t1", f.list)
	}
	damages["missing"](r, 2, newest)
	if ch, _, err := embassy.FindCharter(t.Context(), r.members, r.nation, r.root.Signer().Verifier(), f.add); err != nil || ch.Seq != 1 {
		t.Errorf("with no good copy of the newest: %v, %v", ch, err)
	}
}

func TestFindCharterForged(t *testing.T) {
	r, _ := newRepo(t, 2, "pop")
	other := crypto.NewRoot()
	forged := r.charter
	forged.Seq, forged.Prev = 9, format.Hash{1}
	object, err := format.SealCharter(forged, other.Signer())
	if err != nil {
		t.Fatal(err)
	}
	name := format.CharterName(r.nation, 9, format.HashOf(object))
	r.putOn(0, name, object)
	// A true charter under a greater number.
	moved := r.get(0, r.names(0, "/charter/")[0])
	again := format.CharterName(r.nation, 8, format.HashOf(moved))
	r.putOn(0, again, moved)
	var f findings
	ch, _, err := embassy.FindCharter(t.Context(), r.members, r.nation, r.root.Signer().Verifier(), f.add)
	if err != nil || ch.Seq != 1 {
		t.Fatalf("found %v, %v", ch, err)
	}
	if len(f.about("t0", name)) != 1 || len(f.about("t0", again)) != 1 {
		t.Errorf("findings are %v, want both forgeries", f.list)
	}
}

func TestFindCharterOfAnotherNation(t *testing.T) {
	mine, _ := newRepo(t, 1, "pop")
	other, _ := newRepo(t, 1, "pop")
	members := append(other.members, mine.member(1, targets.NewMem()))
	_, _, err := embassy.FindCharter(t.Context(), members, mine.nation, mine.root.Signer().Verifier(), nil)
	if !errors.Is(err, embassy.ErrNoCharter) || !strings.Contains(err.Error(), "target t0 holds another nation ("+other.nation.String()[:8]) ||
		!strings.Contains(err.Error(), "target t1 is empty") {
		t.Errorf("the error is %v", err)
	}
	damages["flipped"](mine, 0, mine.names(0, "/charter/")[0])
	_, _, err = embassy.FindCharter(t.Context(), mine.members, mine.nation, mine.root.Signer().Verifier(), nil)
	if !errors.Is(err, embassy.ErrNoCharter) {
		t.Errorf("with a bad copy only, the error is %v", err)
	}
}

// silent is a target that answers nothing until the caller gives up.
type silent struct{ targets.Target }

func (s silent) List(ctx context.Context, _ string) iter.Seq2[targets.Info, error] {
	return func(yield func(targets.Info, error) bool) {
		<-ctx.Done()
		yield(targets.Info{}, ctx.Err())
	}
}

func TestFindCharterBlackHole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, a := newRepo(t, 3, "pop")
		a.snapshot("pop", dir{"file": "x"})
		for _, i := range []int{0, 1} {
			r.through(i, func(under targets.Target) targets.Target { return silent{under} })
		}
		start := time.Now()
		var f findings
		v, err := r.view(&f)
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 6*time.Second {
			t.Errorf("two black holes cost %v, want one probe", took)
		}
		if len(v.Snapshots("")) != 1 || len(f.about("t0", "")) != 1 || len(f.about("t1", "")) != 1 {
			t.Errorf("snapshots %v, findings %v", v.Snapshots(""), f.list)
		}
	})
}

// TestOneTargetStorm restores from the only target, which fails for a minute.
func TestOneTargetStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, a := newRepo(t, 1, "pop")
		a.snapshot("pop", dir{"file": "x"})
		var until time.Time
		r.through(0, func(under targets.Target) targets.Target {
			return &targets.Faulty{Target: under, Before: func(op targets.Op, name string) error {
				if op == targets.OpGet && strings.Contains(name, "/pack/") {
					if until.IsZero() {
						until = time.Now().Add(20 * time.Second)
					}
					if time.Now().Before(until) {
						return errBroken
					}
				}
				return nil
			}}
		})
		if report, err := r.restore(&findings{}, embassy.RestoreOptions{To: t.TempDir()}, "pop"); err != nil {
			t.Errorf("%v; %+v", err, report)
		}
	})
}

func TestNobodyAnswers(t *testing.T) {
	r, _ := newRepo(t, 2, "pop")
	ch, _, err := embassy.FindCharter(t.Context(), r.members, r.nation, r.root.Signer().Verifier(), nil)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := embassy.RootKeys(ch, r.root)
	if err != nil {
		t.Fatal(err)
	}
	r.through(0, dead)
	r.members[1] = embassy.NewMember("t1", "", "", nil, targets.ErrNoStore, time.Now)
	_, _, err = embassy.FindCharter(t.Context(), r.members, r.nation, r.root.Signer().Verifier(), nil)
	for _, want := range []error{embassy.ErrDown, errBroken, targets.ErrNoStore} {
		if !errors.Is(err, want) {
			t.Errorf("FindCharter returned %v, which is not %v", err, want)
		}
	}
	if _, err := embassy.OpenView(t.Context(), embassy.ViewOptions{Keys: keys, Members: r.members}); !errors.Is(err, embassy.ErrDown) {
		t.Errorf("OpenView returned %v", err)
	}
}

func hashes(list []embassy.SnapshotInfo) []format.Hash {
	var out []format.Hash
	for _, s := range list {
		out = append(out, s.Hash)
	}
	return out
}

// TestViewUnion joins what two targets show of one chain, of which each lacks
// a part.
func TestViewUnion(t *testing.T) {
	r, a := newRepo(t, 2, "pop")
	var want []format.Hash
	for i := range 6 {
		want = append(want, a.snapshot("pop", dir{"file": fmt.Sprint(i)}))
	}
	slices.Reverse(want)
	entries := r.names(0, "/ledger/")
	damages["missing"](r, 0, entries[1])
	damages["missing"](r, 1, entries[4])
	var f findings
	v, err := r.view(&f)
	if err != nil {
		t.Fatal(err)
	}
	if got := hashes(v.Snapshots("pop")); !slices.Equal(got, want) {
		t.Errorf("snapshots are %v, want %v", got, want)
	}
	if len(f.list) != 0 {
		t.Errorf("findings %v", f.list)
	}
	if h := v.Heads(); len(h) != 1 || h[0].Seq != 6 || h[0].Hash != a.prev || v.Newest().UnixNano() != r.stamp {
		t.Errorf("heads %v of %v", h, v.Newest())
	}
	// A gap hides nothing behind it, and is told.
	damages["missing"](r, 1, entries[1])
	if v, err = r.view(&f); err != nil {
		t.Fatal(err)
	}
	if got := hashes(v.Snapshots("")); len(got) != 5 || got[0] != want[0] {
		t.Errorf("with a gap %d snapshots", len(got))
	}
	if len(f.about("", "entries 2 to 2")) != 1 {
		t.Errorf("the gap was not told: %v", f.list)
	}
}

func TestViewFork(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	a.snapshot("pop", dir{"file": "common"})
	seq, prev := a.seq, a.prev
	refs := slices.Clone(a.refs)
	one := a.snapshot("pop", dir{"file": "one"})
	a.seq, a.prev, a.refs = seq, prev, refs
	two := a.snapshot("pop", dir{"file": "two"})
	var f findings
	v, err := r.view(&f)
	if err != nil {
		t.Fatal(err)
	}
	got := hashes(v.Snapshots("pop"))
	if len(got) != 3 || !slices.Contains(got, one) || !slices.Contains(got, two) || len(v.Heads()) != 2 {
		t.Errorf("snapshots %v, heads %v", got, v.Heads())
	}
	if len(f.about("", "signed 2 entries with number 2")) != 1 {
		t.Errorf("the fork was not told: %v", f.list)
	}
	for _, s := range v.Snapshots("pop") {
		if _, err := v.Restore(t.Context(), embassy.RestoreOptions{To: t.TempDir(), Snapshots: []embassy.SnapshotInfo{s}}); err != nil {
			t.Errorf("a branch does not restore: %v", err)
		}
	}
}

func TestViewAgents(t *testing.T) {
	r, a := newRepo(t, 1, "pop", "land")
	good := a.snapshot("pop", dir{"file": "1"})
	after := format.Head{Chain: a.scope.Chain, Seq: a.seq, Hash: a.prev}
	evil := a.snapshot("pop", dir{"file": "2"})
	open := func() ([]format.Hash, *findings) {
		var f findings
		r.publish()
		v, err := r.view(&f)
		if err != nil {
			t.Fatal(err)
		}
		return hashes(v.Snapshots("")), &f
	}
	me := &r.charter.Agents[0]
	me.Status = format.AgentSuspended
	if got, _ := open(); !slices.Equal(got, []format.Hash{evil, good}) {
		t.Errorf("of a suspended agent %v", got)
	}
	me.Status, me.After = format.AgentRevoked, []format.Head{after}
	if got, _ := open(); !slices.Equal(got, []format.Hash{good}) {
		t.Errorf("of a revoked agent %v, want what came before", got)
	}
	me.After[0].Hash[0] ^= 1
	if got, _ := open(); len(got) != 0 {
		t.Errorf("after an entry that is not there %v", got)
	}
	me.Status, me.After = format.AgentActive, nil
	r.part.Datasets[0].Agents = nil // pop is for others
	other := a.snapshot("land", dir{"file": "3"})
	got, f := open()
	if !slices.Equal(got, []format.Hash{other}) || len(f.about("", "may not write")) != 2 {
		t.Errorf("with a dataset of others %v, findings %v", got, f.list)
	}
}

// TestViewForeignSnapshots: a snapshot counts only from its own chain, and
// only when that chain lists it.
func TestViewForeignSnapshots(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	b := r.enrol()
	r.publish()
	mine := a.snapshot("pop", dir{"file": "1"})
	name := format.ObjectName(r.nation, r.comp, a.scope.Agent, format.KindSnapshot, mine)
	data := r.get(0, name)
	b.entry(format.Entry{Snapshots: []format.Hash{mine}}) // does not list it
	b.add(format.KindSnapshot, data)
	b.entry(format.Entry{Snapshots: []format.Hash{mine}}) // lists it, but it is another's
	var f findings
	v, err := r.view(&f)
	if err != nil {
		t.Fatal(err)
	}
	if got := v.Snapshots(""); len(got) != 1 || got[0].Agent != a.scope.Agent {
		t.Errorf("snapshots are %v", got)
	}
	if len(f.about("", "another agent")) != 1 {
		t.Errorf("findings %v", f.list)
	}
}

// TestRestoreChainsOfOthers: chunks come from the agent's own chains, from
// those it depends on, and from the steward's; from nobody else's.
func TestRestoreChainsOfOthers(t *testing.T) {
	for _, how := range []string{"stranger", "depends", "steward", "forged dependency"} {
		t.Run(how, func(t *testing.T) {
			r, a := newRepo(t, 1, "pop")
			b := r.enrol()
			if how == "steward" {
				r.charter.Compartments[0].Stewards = []format.ID{b.scope.Agent}
			}
			r.publish()
			content := b.content([]byte("of the other"))
			b.snapshot("pop", dir{"x": "y"})
			switch how {
			case "depends":
				a.depends = []format.Head{{Chain: b.scope.Chain, Seq: b.seq, Hash: b.prev}}
			case "forged dependency":
				a.depends = []format.Head{{Chain: b.scope.Chain, Seq: b.seq, Hash: format.Hash{1}}}
			}
			a.refs = b.refs
			a.snapshot("pop", dir{"file": format.Node{Type: format.File, Content: &content}})
			report, err := r.restore(&findings{}, embassy.RestoreOptions{To: t.TempDir()}, "pop")
			want := how == "depends" || how == "steward"
			if (err == nil) != want || (report.Datasets[0].Files == 1) != want {
				t.Errorf("Restore returned %v, %+v", err, report.Datasets)
			}
		})
	}
}

func TestPick(t *testing.T) {
	r, a := newRepo(t, 1, "pop", "land")
	first := a.snapshot("pop", dir{"file": "1"})
	between := time.Unix(0, r.stamp)
	second := a.snapshot("pop", dir{"file": "2"})
	land := a.snapshot("land", dir{"file": "3"})
	v, err := r.view(&findings{})
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		dataset, id string
		at          time.Time
		want        format.Hash
		err         error
	}{
		"latest":            {"pop", "latest", time.Time{}, second, nil},
		"no id":             {"pop", "", time.Time{}, second, nil},
		"of any":            {"", "latest", time.Time{}, land, nil},
		"at":                {"pop", "", between, first, nil},
		"too early":         {"pop", "", epoch, format.Hash{}, embassy.ErrNoSnapshot},
		"prefix":            {"", first.String()[:12], time.Time{}, first, nil},
		"upper case":        {"pop", strings.ToUpper(first.String()), time.Time{}, first, nil},
		"of another":        {"land", first.String(), time.Time{}, format.Hash{}, embassy.ErrNoSnapshot},
		"no such dataset":   {"none", "", time.Time{}, format.Hash{}, embassy.ErrNoSnapshot},
		"no such beginning": {"pop", "xyz", time.Time{}, format.Hash{}, embassy.ErrNoSnapshot},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s, err := v.Pick(tt.dataset, tt.id, tt.at)
			if s.Hash != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("Pick returned %v, %v", s.Hash, err)
			}
		})
	}
}

func TestPickAmbiguous(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	for i := range 17 { // more than there are first digits
		a.snapshot("pop", dir{"file": fmt.Sprint(i)})
	}
	v, err := r.view(&findings{})
	if err != nil {
		t.Fatal(err)
	}
	firsts := map[byte]string{}
	for _, s := range v.Snapshots("pop") {
		digit := s.Hash.String()[0]
		if twin, ok := firsts[digit]; ok {
			_, err := v.Pick("pop", string(digit), time.Time{})
			if err == nil || !strings.Contains(err.Error(), twin) || !strings.Contains(err.Error(), s.Hash.String()) {
				t.Errorf("Pick returned %v, want both candidates", err)
			}
			return
		}
		firsts[digit] = s.Hash.String()
	}
}

func TestWalk(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	tree, _ := sample(20)
	a.snapshot("pop", tree)
	v, err := r.view(&findings{})
	if err != nil {
		t.Fatal(err)
	}
	s := v.Snapshots("pop")[0]
	tests := map[string]struct {
		at        string
		recursive bool
		want      string
	}{
		"root":      {"/", false, "/srv"},
		"empty":     {"", false, "/srv"},
		"folder":    {"/srv/pop/sub/", false, "/srv/pop/sub/large /srv/pop/sub/same"},
		"file":      {"/srv/pop/a.txt", false, "/srv/pop/a.txt"},
		"recursive": {"srv/pop", true, "/srv/pop/a.txt /srv/pop/b.txt /srv/pop/empty /srv/pop/link /srv/pop/none /srv/pop/sub /srv/pop/sub/large /srv/pop/sub/same"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var got []string
			err := v.Walk(t.Context(), s, tt.at, tt.recursive, func(path string, n *format.Node) error {
				got = append(got, path)
				return nil
			})
			if err != nil || strings.Join(got, " ") != tt.want {
				t.Errorf("Walk gave %v, %v; want %s", got, err, tt.want)
			}
		})
	}
	for _, at := range []string{"/nowhere", "/srv/pop/a.txt/x"} {
		if err := v.Walk(t.Context(), s, at, true, nil); err == nil || !strings.Contains(err.Error(), "not exist") {
			t.Errorf("Walk(%s) returned %v", at, err)
		}
	}
	stop := errors.New("stop")
	if err := v.Walk(t.Context(), s, "/", true, func(string, *format.Node) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("Walk returned %v, want the error of its function", err)
	}
}

// TestViewOfAnAgent shows an agent's keys the snapshots and nothing in them.
func TestViewOfAnAgent(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	part, err := format.SealPart(r.nation, r.comp, 1, format.AgentPart, a.key.Identity.Recipient(), r.part)
	if err != nil {
		t.Fatal(err)
	}
	a.snapshot("pop", dir{"file": "x"})
	ch := r.charter
	ch.Seq, ch.Prev, ch.Parts = 1, format.Hash{}, []format.Part{part}
	keys, err := embassy.AgentKeys(&ch, a.key)
	if err != nil {
		t.Fatal(err)
	}
	v, err := embassy.OpenView(t.Context(), embassy.ViewOptions{Keys: keys, Members: r.members})
	if err != nil || len(v.Snapshots("pop")) != 1 {
		t.Fatalf("an agent sees %v, %v", v, err)
	}
	if err := v.Walk(t.Context(), v.Snapshots("")[0], "/", true, nil); !errors.Is(err, embassy.ErrNoReader) {
		t.Errorf("Walk returned %v, want ErrNoReader", err)
	}
}

// TestViewOfMany opens a chain of thousands of entries and snapshots.
func TestViewOfMany(t *testing.T) {
	if testing.Short() {
		t.Skip("seals thousands of objects")
	}
	const n = 3000
	r, a := newRepo(t, 1, "pop")
	root := a.folder(dir{"file": "x"})
	for range n {
		a.commit("pop", root)
	}
	v, err := r.view(&findings{})
	if err != nil || len(v.Snapshots("pop")) != n {
		t.Fatalf("%d snapshots, %v", len(v.Snapshots("pop")), err)
	}
	if _, err := r.restore(&findings{}, embassy.RestoreOptions{To: t.TempDir()}, "pop"); err != nil {
		t.Error(err)
	}
}

// TestRestoreBlackHole lets the Primary stop answering while the others are
// slow: it costs a few timeouts at once, and then a probe now and then.
func TestRestoreBlackHole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, a := newRepo(t, 2, "pop")
		a.full = 4 << 20
		tree := dir{}
		for i := range 30 {
			tree[fmt.Sprint(i)] = random(uint64(200+i), 3<<20)
		}
		a.snapshot("pop", tree)
		var asked atomic.Int64
		dark := func(op targets.Op, name string) error {
			if asked.Load() == 0 && !strings.Contains(name, "/pack/") {
				return nil
			}
			time.Sleep(20 * time.Second)
			if op == targets.OpGet {
				asked.Add(1)
			}
			return os.ErrDeadlineExceeded
		}
		r.through(0, func(under targets.Target) targets.Target { return &targets.Faulty{Target: under, Before: dark} })
		r.through(1, func(under targets.Target) targets.Target {
			return &targets.Faulty{Target: under, Before: func(op targets.Op, name string) error {
				if strings.Contains(name, "/pack/") {
					time.Sleep(30 * time.Second)
				}
				return nil
			}}
		})
		if report, err := r.restore(&findings{}, embassy.RestoreOptions{To: t.TempDir()}, "pop"); err != nil {
			t.Fatalf("%v; %+v", err, report)
		}
		packs := len(r.names(1, "/pack/"))
		if n := asked.Load(); n > 13 {
			t.Errorf("%d timeouts of a dead target for %d packs", n, packs)
		}
	})
}

// TestRestoreLyingDirectory: a captured agent lists chunks under ids that are
// not theirs. Nothing false is written.
func TestRestoreLyingDirectory(t *testing.T) {
	r, a := newRepo(t, 1, "pop")
	truth := []byte("the truth")
	id := r.writer.Hasher().ID(truth)
	a.builder = format.NewPackBuilder(a.session, a.full, nil)
	a.builder.Add(format.DataChunk, id, chunk.NewEncoder().Encode(nil, []byte("the false")))
	file := format.Node{Type: format.File, Content: &format.Content{Size: uint64(len(truth)), Chunks: id[:]}}
	root := a.folder(dir{"file": file, "good": "good"})
	a.commit("pop", root)
	to := t.TempDir()
	report, err := r.restore(&findings{}, embassy.RestoreOptions{To: to}, "pop")
	if !errors.Is(err, embassy.ErrIncomplete) || len(report.Datasets[0].Missing) != 1 {
		t.Errorf("Restore returned %v, %+v", err, report.Datasets)
	}
	compare(t, filepath.Join(to, "pop"), map[string][]byte{"good": []byte("good")})
	// Once the chunk lies somewhere else too, that place serves.
	a.chunks[id] = false
	a.content(truth)
	a.commit("pop", root)
	to = t.TempDir()
	if report, err := r.restore(&findings{}, embassy.RestoreOptions{To: to}, "pop"); err != nil {
		t.Errorf("Restore returned %v, %+v", err, report.Datasets)
	}
	compare(t, filepath.Join(to, "pop"), map[string][]byte{"good": []byte("good"), "file": truth})
}
