package embassy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"embassy/catalog"
	"embassy/crypto"
	"embassy/embassy"
	"embassy/embassy/config"
	"embassy/embassy/format"
	"embassy/embassy/policy"
	"embassy/targets"
)

const (
	yearFiles   = 5        // of each agent, one of which changes every hour
	yearContent = 16 << 10 // bytes of each
	yearTargets = 2
)

// yearStore is a target in memory that counts what is asked of it. Names are
// kept in order, so that a list costs what it yields.
type yearStore struct {
	now func() time.Time

	mu      sync.RWMutex
	folders []string // in order
	objects map[string][]yearObject

	gets, puts, stats, lists, names, deletes atomic.Int64
}

type yearObject struct {
	name     string // in its folder
	data     []byte
	modified time.Time
}

func (o yearObject) info(folder string) targets.Info {
	return targets.Info{Name: folder + o.name, Size: int64(len(o.data)), Modified: o.modified}
}

// yearPage is how many names a store gives at once, as S3 does.
const yearPage = 1000

// find returns where an object is in its folder, or would be.
func (y *yearStore) find(name string) (folder string, i int, there bool) {
	folder, base := name[:strings.LastIndex(name, "/")+1], name[strings.LastIndex(name, "/")+1:]
	i, there = slices.BinarySearchFunc(y.objects[folder], base, func(o yearObject, base string) int { return strings.Compare(o.name, base) })
	return folder, i, there
}

func (y *yearStore) Put(_ context.Context, o targets.Object) error {
	y.puts.Add(1)
	y.mu.Lock()
	defer y.mu.Unlock()
	folder, i, there := y.find(o.Name)
	if len(y.objects[folder]) == 0 {
		at, _ := slices.BinarySearch(y.folders, folder)
		y.folders = slices.Insert(y.folders, at, folder)
	}
	one := yearObject{o.Name[len(folder):], bytes.Clone(o.Data), y.now()}
	if there {
		y.objects[folder][i] = one
	} else {
		y.objects[folder] = slices.Insert(y.objects[folder], i, one)
	}
	return nil
}

func (y *yearStore) get(name string) (yearObject, error) {
	y.mu.RLock()
	defer y.mu.RUnlock()
	folder, i, there := y.find(name)
	if !there {
		return yearObject{}, targets.ErrNotFound
	}
	return y.objects[folder][i], nil
}

func (y *yearStore) Get(_ context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	y.gets.Add(1)
	o, err := y.get(name)
	if err != nil {
		return nil, err
	}
	if offset+length > int64(len(o.data)) {
		return nil, io.ErrUnexpectedEOF
	}
	return io.NopCloser(bytes.NewReader(o.data[offset : offset+length])), nil
}

func (y *yearStore) Stat(_ context.Context, name string) (targets.Info, error) {
	y.stats.Add(1)
	o, err := y.get(name)
	return o.info(name[:strings.LastIndex(name, "/")+1]), err
}

func (y *yearStore) List(ctx context.Context, prefix string) iter.Seq2[targets.Info, error] {
	return y.ListAfter(ctx, prefix, "")
}

func (y *yearStore) ListAfter(ctx context.Context, prefix, after string) iter.Seq2[targets.Info, error] {
	return func(yield func(targets.Info, error) bool) {
		for {
			page := y.page(prefix, after)
			for _, info := range page {
				y.names.Add(1)
				if !yield(info, nil) {
					return
				}
				after = info.Name
			}
			if len(page) < yearPage {
				break
			}
		}
		if err := ctx.Err(); err != nil {
			yield(targets.Info{}, err)
		}
	}
}

// page lists what comes after a name. No folder that holds objects is the
// beginning of another one.
func (y *yearStore) page(prefix, after string) (out []targets.Info) {
	y.lists.Add(1)
	y.mu.RLock()
	defer y.mu.RUnlock()
	from := max(prefix, after)
	at, _ := slices.BinarySearch(y.folders, from[:strings.LastIndex(from, "/")+1])
	for _, folder := range y.folders[at:] {
		if !strings.HasPrefix(folder, prefix) && !strings.HasPrefix(prefix, folder) {
			if folder > prefix {
				break
			}
			continue
		}
		all := y.objects[folder]
		i := 0
		if rest, in := strings.CutPrefix(from, folder); in {
			i, _ = slices.BinarySearchFunc(all, rest, func(o yearObject, rest string) int { return strings.Compare(o.name, rest) })
		}
		for ; i < len(all); i++ {
			info := all[i].info(folder)
			if !strings.HasPrefix(info.Name, prefix) {
				break
			}
			if info.Name <= after {
				continue
			}
			if out = append(out, info); len(out) == yearPage {
				return out
			}
		}
	}
	return out
}

func (y *yearStore) Delete(_ context.Context, name string) error {
	y.deletes.Add(1)
	y.mu.Lock()
	defer y.mu.Unlock()
	folder, i, there := y.find(name)
	if !there {
		return nil
	}
	if y.objects[folder] = slices.Delete(y.objects[folder], i, i+1); len(y.objects[folder]) == 0 {
		delete(y.objects, folder)
		at, _ := slices.BinarySearch(y.folders, folder)
		y.folders = slices.Delete(y.folders, at, at+1)
	}
	return nil
}

// yearCalls are calls of a store.
type yearCalls struct{ gets, puts, stats, lists, names, deletes int64 }

func (y *yearStore) calls() yearCalls {
	return yearCalls{y.gets.Load(), y.puts.Load(), y.stats.Load(), y.lists.Load(), y.names.Load(), y.deletes.Load()}
}

func (c yearCalls) since(o yearCalls) yearCalls {
	return yearCalls{c.gets - o.gets, c.puts - o.puts, c.stats - o.stats, c.lists - o.lists, c.names - o.names, c.deletes - o.deletes}
}

// yearKinds are the folders of objects, in the order of the table.
var yearKinds = []string{"ledger", "pack", "index", "snapshot", "record", "checkpoint", "charter"}

// yearStock is how much there is of a kind.
type yearStock struct{ objects, bytes int64 }

func (y *yearStore) stock() map[string]yearStock {
	y.mu.RLock()
	defer y.mu.RUnlock()
	out := map[string]yearStock{}
	for folder, all := range y.objects {
		for _, kind := range yearKinds {
			if strings.Contains(folder, "/"+kind+"/") {
				s := out[kind]
				for _, o := range all {
					s.objects, s.bytes = s.objects+1, s.bytes+int64(len(o.data))
				}
				out[kind] = s
			}
		}
	}
	return out
}

// yearMachine is a computer whose catalog stays open between its processes. One
// without sources is a replicator.
type yearMachine struct {
	w      *yearWorld
	src    string
	config *config.Config
	cat    *catalog.Catalog
	rng    *rand.Rand
}

// yearWorld is some agents, the first of which is the steward, and what they
// write to.
type yearWorld struct {
	t      testing.TB
	dir    string
	hours  atomic.Int64 // since the beginning
	root   *crypto.Root
	key    format.NationKey
	stores []*yearStore
	agents []*yearMachine
	keeper *yearMachine // knows everything, and writes nothing

	mu       sync.Mutex
	findings []string
}

var yearBegin = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func (w *yearWorld) now() time.Time { return yearBegin.Add(time.Duration(w.hours.Load()) * time.Hour) }

func newYearWorld(t testing.TB) *yearWorld {
	t.Helper()
	base := newSite(t, yearTargets, yearTargets)
	dir, err := os.MkdirTemp("", "year")
	if err != nil {
		t.Fatal(err)
	}
	w := &yearWorld{t: t, dir: dir, root: base.root}
	t.Cleanup(func() {
		for _, m := range append(w.agents, w.keeper) {
			if err := m.cat.Close(); err != nil {
				t.Error(err)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	w.key = format.NationKey{Nation: format.NationID(w.root.Signer().Verifier(), w.root.Identity().Recipient()), Signer: w.root.Signer().Verifier()}
	for _, m := range base.mems {
		y := &yearStore{now: w.now, objects: map[string][]yearObject{}}
		for name := range base.objects(0) {
			if err := y.Put(t.Context(), targets.Object{Name: name, Data: base.read(m, name)}); err != nil {
				t.Fatal(err)
			}
		}
		w.stores = append(w.stores, y)
	}
	for i := range *yearAgents {
		w.agents = append(w.agents, w.machine(i, base))
	}
	w.keeper = w.machine(-1, base)
	return w
}

// read returns an object of a target.
func (s *site) read(m *targets.Mem, name string) []byte {
	s.t.Helper()
	info, err := m.Stat(s.t.Context(), name)
	if err != nil {
		s.t.Fatal(err)
	}
	r, err := m.Get(s.t.Context(), name, 0, info.Size)
	if err != nil {
		s.t.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		s.t.Fatal(err)
	}
	return data
}

// machine sets up agent i, which the charter names from then on, or, of -1, a
// replicator.
func (w *yearWorld) machine(i int, base *site) *yearMachine {
	w.t.Helper()
	dir := filepath.Join(w.dir, fmt.Sprintf("m%d", i))
	m := &yearMachine{w: w, src: filepath.Join(dir, "src"), rng: rand.New(rand.NewPCG(uint64(i+1), 7))}
	m.config = &config.Config{File: "embassy.yaml", Nation: base.config.Nation, StateDir: filepath.Join(dir, "state"), Targets: base.config.Targets}
	w.must(os.MkdirAll(m.src, 0o755))
	w.must(os.MkdirAll(m.config.StateDir, 0o700))
	m.open("catalog")
	if i < 0 {
		m.config.NationKey = w.key
		return m
	}
	m.config.Compartments = base.config.Compartments
	m.config.Datasets = []config.Dataset{{Name: fmt.Sprintf("dataset%d", i), Compartment: "official", Priority: 1, Sources: []string{m.src}, RPO: 2 * time.Hour}}
	for _, name := range []string{"nation.json", "charter", "agent.key"} {
		data, err := os.ReadFile(filepath.Join(base.config.StateDir, name))
		w.must(err)
		if name == "agent.key" && i > 0 {
			key, err := crypto.NewAgentKey()
			w.must(err)
			data = key.Marshal()
		}
		if name != "charter" || i == 0 {
			w.must(os.WriteFile(filepath.Join(m.config.StateDir, name), data, 0o600))
		}
	}
	if i > 0 {
		data, err := os.ReadFile(filepath.Join(base.config.StateDir, "charter"))
		w.must(err)
		w.must(os.WriteFile(filepath.Join(m.config.StateDir, "charter"), data, 0o600))
	}
	_, err := m.start(m.cat).ApplyCharter(w.t.Context(), w.root)
	w.must(err)
	for n := range yearFiles {
		m.write(n)
	}
	return m
}

func (w *yearWorld) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// open opens a catalog of the machine.
func (m *yearMachine) open(name string) {
	m.w.t.Helper()
	var err error
	m.cat, err = catalog.Open(filepath.Join(m.config.StateDir, name), catalog.Options{})
	m.w.must(err)
}

// start is a new process with a catalog that is open.
func (m *yearMachine) start(c embassy.Catalog) *embassy.Service {
	m.w.t.Helper()
	svc, err := embassy.New(embassy.Options{Site: m.config, Members: m.w.members(), Catalog: c, Now: m.w.now, Warn: func(f embassy.Finding) {
		m.w.mu.Lock()
		defer m.w.mu.Unlock()
		m.w.findings = append(m.w.findings, fmt.Sprint(f))
	}})
	m.w.must(err)
	return svc
}

// members are the targets as a new process knows them; only some, if any are
// named.
func (w *yearWorld) members(only ...int) (out []*embassy.Member) {
	for i, y := range w.stores {
		if len(only) == 0 || slices.Contains(only, i) {
			out = append(out, embassy.NewMember(fmt.Sprintf("t%d", i), fmt.Sprintf("dir:/t%d", i), fmt.Sprintf("J%d", i), y, nil, time.Now))
		}
	}
	return out
}

// write gives a source file contents that never were.
func (m *yearMachine) write(n int) {
	data := make([]byte, yearContent)
	for i := range data {
		data[i] = byte(m.rng.Uint32())
	}
	m.w.must(os.WriteFile(filepath.Join(m.src, fmt.Sprintf("f%d", n)), data, 0o644))
}

// backup runs one process that backs up everything.
func (m *yearMachine) backup(ctx context.Context) error {
	reports, err := m.start(m.cat).Backup(ctx, embassy.BackupOptions{})
	for _, rep := range reports {
		if rep.Exit != 0 {
			err = errors.Join(err, fmt.Errorf("exit code %d: %v, %v", rep.Exit, rep.Missing, rep.Err))
		}
	}
	return err
}

// hour lets every agent back up.
func (w *yearWorld) hour() {
	w.t.Helper()
	w.hours.Add(1)
	for _, m := range w.agents {
		m.write(0)
	}
	for _, m := range w.agents {
		w.must(m.backup(w.t.Context()))
	}
}

var yearRetention = policy.Retention{Hourly: 24, Daily: 7, Weekly: 4, Monthly: 12}

// tidy lets the steward forget and prune.
func (w *yearWorld) tidy(minAge, grace time.Duration) (forget, prune time.Duration) {
	w.t.Helper()
	svc, began := w.agents[0].start(w.agents[0].cat), time.Now()
	rep, err := svc.Forget(w.t.Context(), embassy.ForgetOptions{Keep: &yearRetention, MinAge: &minAge})
	if err != nil || rep.Exit != 0 {
		w.t.Fatalf("forget: exit code %d, %v", rep.Exit, err)
	}
	forget, began = time.Since(began), time.Now()
	pruned, err := svc.Prune(w.t.Context(), embassy.PruneOptions{Grace: grace, MaxRemove: 1, JoinAfter: 14 * 24 * time.Hour})
	if err != nil || pruned.Exit != 0 {
		w.t.Fatalf("prune: %+v, %v", pruned, err)
	}
	return forget, time.Since(began)
}

// view is what a rescue sees of one target.
func (w *yearWorld) view(i int) (*embassy.View, error) {
	members := w.members(i)
	ch, _, err := embassy.FindCharter(w.t.Context(), members, w.key.Nation, w.key.Signer, nil)
	if err != nil {
		return nil, err
	}
	keys, err := embassy.RootKeys(ch, w.root)
	if err != nil {
		return nil, err
	}
	return embassy.OpenView(w.t.Context(), embassy.ViewOptions{Keys: keys, Members: members})
}
