package embassy_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"embassy/crypto"
	"embassy/embassy"
	"embassy/embassy/format"
	"embassy/targets"
)

// bare copies packs and snapshots of a target, and nothing else, into a new
// directory target.
func (s *site) bare(i int) (dir string, m *embassy.Member) {
	s.t.Helper()
	dir = s.t.TempDir()
	to, err := targets.CreateDir(dir)
	if err != nil {
		s.t.Fatal(err)
	}
	for name := range s.objects(i) {
		if strings.Contains(name, "/pack/") || strings.Contains(name, "/snapshot/") {
			copyObject(s.t, s.mems[i], to, name)
		}
	}
	return dir, embassy.NewMember(fmt.Sprintf("t%d", i), "dir:"+dir, "", to, nil, time.Now)
}

// restoreBare restores the snapshot with nothing but the root, and compares it
// with a tree.
func (s *site) restoreBare(v *embassy.View, snap embassy.SnapshotInfo, want map[string]string) embassy.DatasetRestore {
	s.t.Helper()
	to := filepath.Join(s.t.TempDir(), "out")
	report, err := v.Restore(s.t.Context(), embassy.RestoreOptions{Snapshots: []embassy.SnapshotInfo{snap}, To: to})
	if err != nil {
		s.t.Fatalf("%v: %+v", err, report)
	}
	if got := s.tree(filepath.Join(to, "population", s.src)); !maps.Equal(want, got) {
		s.t.Errorf("%d names are restored, and differ from %d", len(got), len(want))
	}
	return report.Datasets[0]
}

// TestBareRoot: root, packs and snapshots alone give every byte of every
// snapshot.
func TestBareRoot(t *testing.T) {
	s := newSite(t, 2, 1)
	s.fill(1, 40, 200_000)
	s.write("large", random(7, 20<<20)) // more than one pack
	s.mustBackup(0)
	before := s.tree(s.src)
	s.fill(2, 10, 100_000)
	if err := os.Remove(filepath.Join(s.src, "d0", "f1-0")); err != nil {
		t.Fatal(err)
	}
	s.mustBackup(0)
	after := s.tree(s.src)
	nation := format.NationID(s.root.Signer().Verifier(), s.root.Identity().Recipient())

	dir, alone := s.bare(0)
	members := []*embassy.Member{alone}
	if _, _, err := embassy.FindCharter(t.Context(), members, nation, s.root.Signer().Verifier(), nil); !errors.Is(err, embassy.ErrNoCharter) {
		t.Fatalf("there is a charter: %v", err)
	}
	var f findings
	// A root that was rotated since opens what the one before sealed.
	v, keys, err := embassy.OpenBareView(t.Context(), embassy.ViewOptions{Members: members, Warn: f.add}, nation, s.root.Succeed())
	if err != nil {
		t.Fatal(err)
	}
	all := v.Snapshots("population")
	if len(all) != 2 || len(v.Snapshots("")) != 2 || len(keys.Compartments) != 1 || keys.Compartments[0].Part.Datasets[0].Name != "population" {
		t.Fatalf("snapshots %v, keys %+v", all, keys.Compartments)
	}
	s.restoreBare(v, all[0], after)
	s.restoreBare(v, all[1], before)
	if len(f.list) > 0 {
		t.Errorf("findings: %v", f.list)
	}

	// Another target helps out where every copy on the first is bad.
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		switch {
		case strings.Contains(path, "/snapshot/"):
			data = data[:len(data)-1]
		case len(data) > 16<<20-1: // its directory stays good
			for i := 100_000; i < len(data)-300_000; i += 50_000 {
				data[i] ^= 1
			}
		default:
			data[20] ^= 1
		}
		if err := os.Chmod(path, 0o600); err != nil {
			return err
		}
		return os.WriteFile(path, data, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	_, second := s.bare(1)
	bad := embassy.NewMember("bad", "dir:"+dir, "", alone.Target, nil, time.Now)
	v, _, err = embassy.OpenBareView(t.Context(), embassy.ViewOptions{Members: []*embassy.Member{bad, second}, Warn: f.add}, nation, s.root)
	if err != nil {
		t.Fatal(err)
	}
	if got := v.Snapshots("population"); len(got) != 2 || got[0].Hash != all[0].Hash {
		t.Fatalf("snapshots %v, want %v", got, all)
	}
	d := s.restoreBare(v, all[0], after)
	if len(d.Bad) == 0 || len(f.about("bad", "/snapshot/")) != 2 || len(f.about("t1", "")) > 0 {
		t.Errorf("bad copies %v, findings %v", d.Bad, f.list)
	}

	// The wrong root opens nothing.
	v, _, err = embassy.OpenBareView(t.Context(), embassy.ViewOptions{Members: []*embassy.Member{second}}, nation, crypto.NewRoot())
	if err != nil || len(v.Snapshots("")) > 0 {
		t.Errorf("another root shows %v, %v", v.Snapshots(""), err)
	}
}

// bareRepo leaves packs and snapshots of a repo.
func (r *repo) bare(f *findings) *embassy.View {
	r.t.Helper()
	for i := range r.mems {
		for _, name := range r.names(i, "") {
			if !strings.Contains(name, "/pack/") && !strings.Contains(name, "/snapshot/") {
				r.must(r.mems[i].Delete(r.t.Context(), name))
			}
		}
	}
	v, _, err := embassy.OpenBareView(r.t.Context(), embassy.ViewOptions{Members: r.members, Warn: f.add}, r.nation, r.root)
	r.must(err)
	return v
}

// restored restores a snapshot of a bare view, and compares it.
func (r *repo) restored(v *embassy.View, h format.Hash, want map[string][]byte) {
	r.t.Helper()
	s, err := v.Pick("", h.String(), time.Time{})
	r.must(err)
	to := r.t.TempDir()
	report, err := v.Restore(r.t.Context(), embassy.RestoreOptions{Snapshots: []embassy.SnapshotInfo{s}, To: to})
	if err != nil {
		r.t.Errorf("%v: %+v", err, report.Datasets)
	}
	compare(r.t, filepath.Join(to, s.Summary.Dataset), want)
}

// TestBareEpochs: keys of every epoch are found, and packs of several segments
// in the folder of whoever joined them.
func TestBareEpochs(t *testing.T) {
	r, a := newRepo(t, 1, "pop", "land")
	b := r.enrol()
	old, shared := random(1, 3<<20), random(2, 2<<20)
	first := a.snapshot("pop", dir{"old": old, "shared": shared})
	b.chunks, b.refs = maps.Clone(a.chunks), a.refs // what it reuses
	land := b.snapshot("land", dir{"shared": shared, "mine": "b"})

	next := r.agent(a.key)
	r.writer = format.NewWriter(r.nation, r.comp, 3, r.root.Writer(r.comp, 3))
	next.scope.Epoch = 3
	var err error
	next.session, err = format.NewSession(next.scope, []format.Recipient{{Epoch: 2, Key: r.root.Reader(r.comp, 2).Recipient()}})
	r.must(err)
	second := next.snapshot("pop", dir{"new": "of another epoch"})

	var joined []byte
	for _, name := range r.names(0, a.scope.Agent.String()+"/pack/") {
		joined = append(joined, r.get(0, name)...)
		damages["missing"](r, 0, name)
	}
	r.put(format.ObjectName(r.nation, r.comp, b.scope.Agent, format.KindPack, format.HashOf(joined)), joined)
	var f findings
	v := r.bare(&f)
	r.restored(v, first, map[string][]byte{"old": old, "shared": shared})
	r.restored(v, second, map[string][]byte{"new": []byte("of another epoch")})
	r.restored(v, land, map[string][]byte{"shared": shared, "mine": []byte("b")})
	if len(f.list) > 0 {
		t.Errorf("findings: %v", f.list)
	}
}

// TestBarePoison: other bytes that another agent of the compartment lays under
// the ids of the first one's chunks come after the true ones, and so does what a
// host shows of a pack in folders where it does not belong.
func TestBarePoison(t *testing.T) {
	r, a := newRepo(t, 2, "pop")
	text := random(3, 3<<20)
	good := a.snapshot("pop", dir{"x": text, "y": "short"})
	for _, n := range r.names(1, "/pack/") {
		data := r.get(1, n)
		h := format.HashOf(data)
		for i := 50_000; i < len(data)-50_000; i += 10_000 {
			data[i] ^= 1 // its directory stays good
		}
		for i := range 20 {
			r.putOn(0, format.ObjectName(r.nation, r.comp, format.ID{byte(i + 1)}, format.KindPack, h), data)
		}
		damages["missing"](r, 0, n)
	}
	b := r.enrol()
	for id := range a.chunks {
		b.named(format.DataChunk, id, []byte("poison"))
	}
	other := b.snapshot("pop", dir{"z": "z"})
	var f findings
	v := r.bare(&f)
	r.restored(v, other, map[string][]byte{"z": []byte("z")})
	r.restored(v, good, map[string][]byte{"x": text, "y": []byte("short")})
}

// TestBareHostile: what a host, somebody without the writer secret, or another
// agent lays beside the objects changes nothing, and costs little.
func TestBareHostile(t *testing.T) {
	r, a := newRepo(t, 2, "pop")
	text := random(3, 3<<20)
	good := a.snapshot("pop", dir{"x": text, "y": "short"})

	b := r.enrol()
	b.snapshot("../out", dir{"z": "z"})

	// Somebody without the writer secret seals a later snapshot.
	other := crypto.NewRoot()
	w := format.NewWriter(r.nation, r.comp, 1, other.Writer(r.comp, 1))
	forged, err := format.SealSnapshot(a.session, w, format.Summary{Dataset: "pop", Time: time.Now().UnixNano()}, format.Root{})
	r.must(err)
	name := func(agent format.ID, k format.Kind, h format.Hash) string {
		return format.ObjectName(r.nation, r.comp, agent, k, h)
	}
	r.putOn(0, name(a.scope.Agent, format.KindSnapshot, format.HashOf(forged)), forged)

	// The host shows true objects under other hashes, in other folders, and
	// longer than they are, and many that are none.
	for _, n := range r.names(1, a.scope.Agent.String()+"/pack/") {
		data := r.get(1, n)
		r.putOn(0, name(a.scope.Agent, format.KindPack, format.Hash{9}), data)
		r.putOn(0, n, append(slices.Clone(data), data...))
	}
	moved := r.get(1, name(a.scope.Agent, format.KindSnapshot, good))
	r.putOn(0, name(b.scope.Agent, format.KindSnapshot, good), moved)
	const junk = 3000
	for i := range junk {
		var h format.Hash
		binary.BigEndian.PutUint32(h[:], uint32(i+1))
		r.putOn(0, name(a.scope.Agent, format.KindSnapshot, h), []byte("junk"))
		r.putOn(0, name(a.scope.Agent, format.KindPack, h), []byte("EMBSjunk"))
	}
	r.putOn(0, r.nation.String()+"/"+r.comp.String()+"/x/snapshot/y", []byte("junk"))

	var gets atomic.Int64
	r.through(0, func(under targets.Target) targets.Target {
		return &targets.Faulty{Target: under, Before: func(op targets.Op, _ string) error {
			if op == targets.OpGet {
				gets.Add(1)
			}
			return nil
		}}
	})
	var f findings
	v := r.bare(&f)
	if got := hashes(v.Snapshots("")); !slices.Equal(got, []format.Hash{good}) {
		t.Fatalf("snapshots %v, want %v", got, good)
	}
	r.restored(v, good, map[string][]byte{"x": text, "y": []byte("short")})
	if n := gets.Load(); n > 1500 {
		t.Errorf("%d names that are nothing cost %d gets", 2*junk, n)
	}
	if len(f.about("t1", "")) > 0 || len(f.about("t0", "were not read")) != 2 || len(f.about("", "not a name for a dataset")) != 1 {
		t.Errorf("findings: %v", f.list)
	}
}
