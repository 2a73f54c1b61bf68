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
	"testing"
	"testing/fstest"
	"time"

	"embassy/crypto"
	"embassy/embassy"
	"embassy/embassy/config"
	"embassy/embassy/format"
	"embassy/embassy/policy"
	"embassy/integration/kit"
	"embassy/targets"
)

var passphrase = []byte("a passphrase for tests only")

// site is one agent's machine with its sources and targets in memory. A new
// process on it begins with start.
type site struct {
	t       testing.TB
	dir     string
	src     string
	config  *config.Config
	mems    []*targets.Mem
	wrap    func(i int, t targets.Target) targets.Target // what a process sees of a target
	catalog *memCatalog
	root    *crypto.Root
	bucket  *legacy // what a dataset with s3 is backed up from; nil: none
	pays    int     // from so many entries on, look goes by a checkpoint; 0: as everybody

	mu       sync.Mutex
	findings []embassy.Finding
}

// newSite makes a nation on n targets in n jurisdictions, and a source.
func newSite(t testing.TB, n, commit int) *site {
	t.Helper()
	dir := t.TempDir()
	s := &site{t: t, dir: dir, src: filepath.Join(dir, "src"), catalog: newMemCatalog()}
	s.config = &config.Config{
		File: filepath.Join(dir, "embassy.yaml"), Nation: "testland", StateDir: filepath.Join(dir, "state"),
		Compartments: []config.Compartment{{Name: "official", Commit: policy.Rule{Targets: commit, Jurisdictions: 1}}},
		Datasets: []config.Dataset{{Name: "population", Compartment: "official", Priority: 1,
			Sources: []string{s.src}, RPO: time.Hour}},
	}
	pace := &s.config.Compartments[0].PACE
	tiers := []*[]string{&pace.Primary, &pace.Alternate, &pace.Contingency, &pace.Emergency}
	for i := range n {
		name := fmt.Sprintf("t%d", i)
		s.mems = append(s.mems, targets.NewMem())
		s.config.Targets = append(s.config.Targets, config.Target{Name: name, URL: "dir:/" + name, Jurisdiction: fmt.Sprintf("J%d", i)})
		*tiers[min(i, 3)] = append(*tiers[min(i, 3)], name)
	}
	if err := os.MkdirAll(s.src, 0o755); err != nil {
		t.Fatal(err)
	}
	s.settle()
	return s
}

// settled are the nations that init made, by number of targets: wrapping a
// root is slow on purpose, and one nation is as good as another.
var settled = struct {
	sync.Mutex
	byTargets map[int]*settlement
}{byTargets: map[int]*settlement{}}

type settlement struct {
	files fstest.MapFS // state directory and kit
	mems  []*targets.Mem
	root  *crypto.Root
}

// settle runs init, or takes a copy of what it once made.
func (s *site) settle() {
	s.t.Helper()
	settled.Lock()
	defer settled.Unlock()
	made := settled.byTargets[len(s.mems)]
	if made == nil {
		s.init()
		if err := os.RemoveAll(filepath.Join(s.dir, "state/audit")); err != nil { // so that all sites begin alike
			s.t.Fatal(err)
		}
		made = &settlement{files: fstest.MapFS{}, root: s.root}
		for _, name := range []string{"kit.txt", "state/agent.key", "state/nation.json", "state/charter"} {
			data, err := os.ReadFile(filepath.Join(s.dir, name))
			if err != nil {
				s.t.Fatal(err)
			}
			made.files[name] = &fstest.MapFile{Data: data, Mode: 0o600}
		}
		for _, m := range s.mems {
			made.mems = append(made.mems, clone(s.t, m))
		}
		settled.byTargets[len(s.mems)] = made
		return
	}
	for name, f := range made.files {
		path := filepath.Join(s.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			s.t.Fatal(err)
		}
		if err := os.WriteFile(path, f.Data, f.Mode); err != nil {
			s.t.Fatal(err)
		}
	}
	for i, m := range made.mems {
		s.mems[i] = clone(s.t, m)
	}
	s.root = made.root
}

// init makes a nation of this site's own, from a kit whose passphrase costs
// little to try.
func (s *site) init() {
	s.t.Helper()
	root, err := kit.Write(s.kit(), s.config.Nation, passphrase)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.start().Init(s.t.Context(), embassy.InitOptions{
		Passphrase: passphrase, KitPath: s.kit(), AgentName: "test", Steward: true,
	}); err != nil {
		s.t.Fatal(err)
	}
	s.root = root
}

// clone copies a target.
func clone(t testing.TB, from *targets.Mem) *targets.Mem {
	t.Helper()
	to := targets.NewMem()
	for info, err := range from.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		copyObject(t, from, to, info.Name)
	}
	return to
}

func (s *site) kit() string { return filepath.Join(s.dir, "kit.txt") }

// start is a new process: nothing but files and the catalog is left of the
// one before.
func (s *site) start() *embassy.Service {
	s.t.Helper()
	svc, err := embassy.New(embassy.Options{
		Site: s.config, Members: s.members(), Catalog: s.catalog, Warn: func(f embassy.Finding) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.findings = append(s.findings, f)
		},
		Bucket: func(config.Bucket) (embassy.Bucket, error) {
			if s.bucket == nil {
				return nil, errors.New("no bucket")
			}
			return s.bucket, nil
		},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return svc
}

func (s *site) members() []*embassy.Member {
	var out []*embassy.Member
	for i, t := range s.config.Targets {
		var tgt targets.Target = s.mems[i]
		if s.wrap != nil {
			tgt = s.wrap(i, tgt)
		}
		out = append(out, embassy.NewMember(t.Name, t.URL, t.Jurisdiction, tgt, nil, time.Now))
	}
	return out
}

// write makes or replaces a source file.
func (s *site) write(name string, data []byte) {
	s.t.Helper()
	path := filepath.Join(s.src, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// fill makes a small tree from a seed.
func (s *site) fill(seed uint64, files, size int) {
	rng := rand.New(rand.NewPCG(seed, 1))
	for i := range files {
		data := make([]byte, rng.IntN(size)+1)
		for j := range data {
			data[j] = byte(rng.Uint32())
		}
		s.write(fmt.Sprintf("d%d/f%d-%d", i%5, seed, i), data)
	}
}

// backup runs one process that backs up everything.
func (s *site) backup(ctx context.Context) (embassy.BackupReport, error) {
	reports, err := s.start().Backup(ctx, embassy.BackupOptions{})
	if len(reports) == 0 {
		return embassy.BackupReport{}, err
	}
	return reports[0], err
}

// mustBackup expects the exit code.
func (s *site) mustBackup(exit int) embassy.BackupReport {
	s.t.Helper()
	rep, err := s.backup(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	if rep.Exit != exit {
		s.t.Fatalf("exit code %d, want %d: %+v", rep.Exit, exit, rep)
	}
	return rep
}

// objects returns the names on a target, with sizes.
func (s *site) objects(i int) map[string]int64 {
	s.t.Helper()
	out := map[string]int64{}
	for info, err := range s.mems[i].List(s.t.Context(), "") {
		if err != nil {
			s.t.Fatal(err)
		}
		out[info.Name] = info.Size
	}
	return out
}

// count returns how many objects of a kind a target holds.
func (s *site) count(i int, kind string) int {
	n := 0
	for name := range s.objects(i) {
		if strings.Contains(name, "/"+kind+"/") {
			n++
		}
	}
	return n
}

// view opens what some of the targets show, with the kit.
func (s *site) view(only ...int) (*embassy.View, error) {
	s.t.Helper()
	verifier := s.root.Signer().Verifier()
	nation := format.NationID(verifier, s.root.Identity().Recipient())
	var members []*embassy.Member
	for _, i := range only {
		members = append(members, embassy.NewMember(fmt.Sprintf("t%d", i), "", "", s.mems[i], nil, time.Now))
	}
	ch, _, err := embassy.FindCharter(s.t.Context(), members, nation, verifier, nil)
	if err != nil {
		return nil, err
	}
	keys, err := embassy.RootKeys(ch, s.root)
	if err != nil {
		return nil, err
	}
	return embassy.OpenView(s.t.Context(), embassy.ViewOptions{Keys: keys, Members: members})
}

// restore restores the newest snapshot from one target alone, and compares it
// with the sources as they are now.
func (s *site) restore(i int) {
	s.t.Helper()
	v, err := s.view(i)
	if err != nil {
		s.t.Fatalf("view of target %d alone: %v", i, err)
	}
	snap, err := v.Pick("population", "latest", time.Time{})
	if err != nil {
		s.t.Fatalf("target %d alone: %v", i, err)
	}
	to := filepath.Join(s.t.TempDir(), "out")
	if _, err := v.Restore(s.t.Context(), embassy.RestoreOptions{Snapshots: []embassy.SnapshotInfo{snap}, To: to}); err != nil {
		s.t.Fatalf("restore from target %d alone: %v", i, err)
	}
	want, got := s.tree(s.src), s.tree(filepath.Join(to, "population", s.src))
	if !maps.Equal(want, got) {
		s.t.Fatalf("restored from target %d: %d files differ from %d", i, len(got), len(want))
	}
}

// tree describes every name below a folder: type, mode, time and content.
func (s *site) tree(dir string) map[string]string {
	s.t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		line := fmt.Sprint(fi.Mode(), fi.ModTime().UnixNano())
		switch {
		case fi.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += string(data)
		case fi.Mode()&os.ModeSymlink != 0:
			link, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += link
		}
		rel, err := filepath.Rel(dir, path)
		out[rel] = line
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	if len(out) == 0 {
		s.t.Fatalf("%s: nothing to compare", dir)
	}
	return out
}

// same fails unless all targets hold the same objects.
func (s *site) same() {
	s.t.Helper()
	want := s.objects(0)
	for i := 1; i < len(s.mems); i++ {
		if got := s.objects(i); !maps.Equal(got, want) {
			s.t.Fatalf("target %d holds %d objects, target 0 holds %d:\n%v\n%v", i, len(got), len(want),
				slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
		}
	}
}
