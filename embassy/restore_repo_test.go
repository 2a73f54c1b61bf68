package embassy_test

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"embassy/chunk"
	"embassy/crypto"
	"embassy/embassy"
	"embassy/embassy/format"
	"embassy/embassy/policy"
	"embassy/targets"
)

// repo is a nation whose objects a test makes one by one with package format.
// It has one compartment, "official", and one agent unless more are enrolled.
type repo struct {
	t       *testing.T
	root    *crypto.Root
	nation  format.ID
	comp    format.ID
	writer  *format.Writer
	charter format.Charter
	part    format.CompartmentPart
	mems    []*targets.Mem
	members []*embassy.Member
	stamp   int64
}

var epoch = time.Date(2026, 11, 1, 12, 0, 0, 123456789, time.UTC)

// newRepo makes a nation with its charter on n targets: t0 is Primary, t1
// Alternate, and so on.
func newRepo(t *testing.T, n int, datasets ...string) (*repo, *agent) {
	t.Helper()
	root := crypto.NewRoot()
	r := &repo{t: t, root: root, stamp: epoch.UnixNano()}
	r.nation = format.NationID(root.Signer().Verifier(), root.Identity().Recipient())
	r.comp = root.CompartmentID("official")
	r.writer = format.NewWriter(r.nation, r.comp, 1, root.Writer(r.comp, 1))
	for i := range n {
		mem := targets.NewMem()
		r.mems = append(r.mems, mem)
		r.members = append(r.members, r.member(i, mem))
	}
	r.charter = format.Charter{
		Nation: r.nation, Seq: 1, Time: r.now(),
		RootSigner: root.Signer().Verifier().Bytes(), RootRecipient: root.Identity().Recipient().Bytes(),
		Compartments: []format.CharterCompartment{{ID: r.comp, Epoch: 1,
			Recipients: []format.RecipientKey{{Epoch: 1, Key: root.Reader(r.comp, 1).Recipient().Bytes()}}}},
	}
	r.part = format.CompartmentPart{NationName: "ee", Name: "official",
		Writers: []format.EpochSecret{{Epoch: 1, Secret: root.Writer(r.comp, 1).Bytes()}}}
	for i, d := range datasets {
		r.part.Datasets = append(r.part.Datasets, format.Dataset{Name: d, Priority: i + 1})
	}
	a := r.enrol()
	r.publish()
	return r, a
}

func (r *repo) member(i int, t targets.Target) *embassy.Member {
	name := fmt.Sprintf("t%d", i)
	return embassy.NewMember(name, "dir:/"+name, "", t, nil, time.Now).At(policy.Tier(i))
}

// through replaces what stands before a target.
func (r *repo) through(i int, wrap func(targets.Target) targets.Target) {
	r.members[i] = r.member(i, wrap(r.mems[i]))
}

func (r *repo) now() int64 {
	r.stamp += int64(time.Minute)
	return r.stamp
}

// enrol adds an agent that may write every dataset.
func (r *repo) enrol() *agent {
	key, err := crypto.NewAgentKey()
	r.must(err)
	r.charter.Agents = append(r.charter.Agents, format.CharterAgent{
		ID: key.ID(), Signer: key.Signer.Verifier().Bytes(), Recipient: key.Identity.Recipient().Bytes(),
		Compartments: []format.ID{r.comp}, Status: format.AgentActive,
	})
	for i := range r.part.Datasets {
		r.part.Datasets[i].Agents = append(r.part.Datasets[i].Agents, key.ID())
	}
	return r.agent(key)
}

// agent starts a chain of the agent.
func (r *repo) agent(key *crypto.AgentKey) *agent {
	a := &agent{r: r, key: key, full: 8 << 20, chunks: map[chunk.ID]bool{}, holds: map[string]format.Summary{}}
	a.scope = format.Scope{Nation: r.nation, Compartment: r.comp, Agent: key.ID(), Chain: format.ID(crypto.NewSecret().Bytes()), Epoch: 1}
	var err error
	a.session, err = format.NewSession(a.scope, []format.Recipient{{Epoch: 1, Key: r.root.Reader(r.comp, 1).Recipient()}})
	r.must(err)
	return a
}

// publish signs the charter as it stands and puts it on every target.
func (r *repo) publish() (name string) {
	part, err := format.SealPart(r.nation, r.comp, 1, format.ReaderPart, r.root.Reader(r.comp, 1).Recipient(), r.part)
	r.must(err)
	r.charter.Parts = []format.Part{part}
	object, err := format.SealCharter(r.charter, r.root.Signer())
	r.must(err)
	h := format.HashOf(object)
	name = format.CharterName(r.nation, r.charter.Seq, h)
	r.put(name, object)
	r.charter.Seq, r.charter.Prev = r.charter.Seq+1, h
	return name
}

func (r *repo) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *repo) put(name string, data []byte) {
	r.t.Helper()
	for i := range r.mems {
		r.putOn(i, name, data)
	}
}

func (r *repo) putOn(i int, name string, data []byte) {
	r.t.Helper()
	r.must(r.mems[i].Put(r.t.Context(), targets.Object{Name: name, Data: data, SHA256: format.HashOf(data)}))
}

func (r *repo) get(i int, name string) []byte {
	r.t.Helper()
	info, err := r.mems[i].Stat(r.t.Context(), name)
	r.must(err)
	body, err := r.mems[i].Get(r.t.Context(), name, 0, info.Size)
	r.must(err)
	data, err := io.ReadAll(body)
	r.must(err)
	return data
}

// names returns the names on a target that contain what.
func (r *repo) names(i int, what string) []string {
	r.t.Helper()
	var names []string
	for info, err := range r.mems[i].List(r.t.Context(), "") {
		r.must(err)
		if strings.Contains(info.Name, what) {
			names = append(names, info.Name)
		}
	}
	if len(names) == 0 {
		r.t.Fatalf("no %s on target %d", what, i)
	}
	return names
}

// damages are what can happen to a copy.
var damages = map[string]func(r *repo, i int, name string){
	"flipped": func(r *repo, i int, name string) {
		data := r.get(i, name)
		data[len(data)/2] ^= 1
		r.putOn(i, name, data)
	},
	"truncated": func(r *repo, i int, name string) {
		data := r.get(i, name)
		r.putOn(i, name, data[:len(data)/2])
	},
	"longer": func(r *repo, i int, name string) {
		r.putOn(i, name, append([]byte("x"), r.get(i, name)...))
	},
	"missing": func(r *repo, i int, name string) {
		r.must(r.mems[i].Delete(r.t.Context(), name))
	},
}

// agent writes one chain.
type agent struct {
	r       *repo
	key     *crypto.AgentKey
	scope   format.Scope
	session *format.Session
	full    int // bytes of a full pack
	seq     uint64
	prev    format.Hash
	depends []format.Head
	noIndex bool

	builder *format.PackBuilder
	chunks  map[chunk.ID]bool         // of all runs
	holds   map[string]format.Summary // numbers of what is in a folder, by its chunks
	claims  *format.Summary           // numbers that the next snapshot claims; nil: those of its tree
	adds    []format.Listed
	heads   [][]byte
	refs    []format.Refs // of all runs
}

// chunk stores a chunk and returns its id.
func (a *agent) chunk(kind format.ChunkKind, data []byte) chunk.ID {
	id := a.r.writer.Hasher().ID(data)
	if !a.chunks[id] {
		a.named(kind, id, data)
	}
	return id
}

// named stores a chunk under an id.
func (a *agent) named(kind format.ChunkKind, id chunk.ID, data []byte) {
	a.chunks[id] = true
	encoded := chunk.NewEncoder().Encode(nil, data)
	if a.builder != nil && a.builder.Free() < len(encoded) {
		a.seal()
	}
	if a.builder == nil {
		a.builder = format.NewPackBuilder(a.session, a.full, nil)
	}
	a.builder.Add(kind, id, encoded)
}

func (a *agent) seal() {
	if a.builder == nil {
		return
	}
	pack, err := a.builder.Seal(a.r.writer)
	a.r.must(err)
	a.builder = nil
	a.add(format.KindPack, pack.Data)
	a.heads = append(a.heads, pack.Head)
}

func (a *agent) add(k format.Kind, data []byte) format.Hash {
	h := format.HashOf(data)
	a.adds = append(a.adds, format.Listed{Kind: k, Hash: h, Size: uint64(len(data))})
	a.r.put(format.ObjectName(a.r.nation, a.r.comp, a.scope.Agent, k, h), data)
	return h
}

// content stores the bytes of a file.
func (a *agent) content(data []byte) format.Content {
	p, err := a.r.writer.Polynomial()
	a.r.must(err)
	s := chunk.NewSplitter(p)
	s.Reset(bytes.NewReader(data))
	var ids []chunk.ID
	buf := make([]byte, chunk.MaxSize)
	for {
		piece, err := s.Next(buf)
		if err == io.EOF {
			break
		}
		a.r.must(err)
		ids = append(ids, a.chunk(format.DataChunk, piece))
	}
	c, err := format.BuildContent(uint64(len(data)), ids, a.tree)
	a.r.must(err)
	return c
}

func (a *agent) tree(list []byte) (chunk.ID, error) { return a.chunk(format.TreeChunk, list), nil }

// Entries of a folder: a string or []byte is a file, dir a folder, link a
// symbolic link, format.Node anything else.
type (
	dir  map[string]any
	link string
	raw  []format.Node // written without any check
)

var modified = time.Date(2020, 2, 29, 1, 2, 3, 987654321, time.UTC)

func (a *agent) node(name string, v any) format.Node {
	n := format.Node{Name: []byte(name), Mode: 0o644, Sec: modified.Unix(), Nsec: uint32(modified.Nanosecond())}
	switch v := v.(type) {
	case string:
		return a.node(name, []byte(v))
	case []byte:
		c := a.content(v)
		n.Type, n.Content = format.File, &c
	case link:
		n.Type, n.Link, n.Mode = format.Symlink, []byte(v), 0o777
	case dir, raw:
		c := a.folder(v)
		n.Type, n.Content, n.Mode = format.Dir, &c, 0o755
	case format.Node:
		v.Name = n.Name
		return v
	default:
		a.r.t.Fatalf("entry %s of type %T", name, v)
	}
	return n
}

func (a *agent) folder(v any) format.Content {
	if nodes, ok := v.(raw); ok {
		mode, err := cbor.EncOptions{Sort: cbor.SortCoreDeterministic}.EncMode()
		a.r.must(err)
		var list []byte
		for _, n := range nodes {
			b, err := mode.Marshal(n)
			a.r.must(err)
			list = append(list, b...)
		}
		id := a.chunk(format.TreeChunk, list)
		a.hold(id[:], nodes...)
		return format.Content{Size: uint64(len(list)), Chunks: id[:]}
	}
	d := v.(dir)
	b := format.NewTreeBuilder(a.tree)
	names := make([]string, 0, len(d))
	for name := range d {
		names = append(names, name)
	}
	slices.Sort(names)
	var nodes []format.Node
	for _, name := range names {
		n := a.node(name, d[name])
		a.r.must(b.Add(&n))
		nodes = append(nodes, n)
	}
	c, err := b.Finish()
	a.r.must(err)
	a.hold(c.Chunks, nodes...)
	return c
}

// hold notes the numbers of a folder and all below it.
func (a *agent) hold(folder []byte, nodes ...format.Node) {
	var s format.Summary
	for _, n := range nodes {
		switch n.Type {
		case format.File:
			s.Files++
			s.Bytes += n.Content.Size
		case format.Dir:
			below := a.holds[string(n.Content.Chunks)]
			s.Files, s.Dirs, s.Others, s.Bytes = s.Files+below.Files, s.Dirs+below.Dirs+1, s.Others+below.Others, s.Bytes+below.Bytes
		default:
			s.Others++
		}
	}
	a.holds[string(folder)] = s
}

// snapshot stores a tree as a snapshot of the dataset and commits it.
func (a *agent) snapshot(dataset string, tree any) format.Hash {
	root := a.folder(tree)
	return a.commit(dataset, root)
}

func (a *agent) commit(dataset string, root format.Content, gaps ...format.Gap) format.Hash {
	a.seal()
	var used []uint32
	for i, add := range a.adds {
		if add.Kind == format.KindPack {
			used = append(used, uint32(i))
		}
	}
	if len(used) > 0 {
		a.refs = append(a.refs, format.Refs{Chain: a.scope.Chain, Seq: a.seq + 1, Runs: format.RefRuns(used)})
	}
	if !a.noIndex && len(a.heads) > 0 {
		indexes, err := format.BuildIndexes(a.heads)
		a.r.must(err)
		for _, index := range indexes {
			a.add(format.KindIndex, index)
		}
	}
	a.heads = nil
	numbers := a.holds[string(root.Chunks)]
	if a.claims != nil {
		numbers, a.claims = *a.claims, nil
	}
	object, err := format.SealSnapshot(a.session, a.r.writer, format.Summary{
		Dataset: dataset, Time: a.r.now(), Refs: a.refs, Errors: uint64(len(gaps)),
		Files: numbers.Files, Dirs: numbers.Dirs, Others: numbers.Others, Bytes: numbers.Bytes,
	}, format.Root{Tree: root, Errors: gaps})
	a.r.must(err)
	h := a.add(format.KindSnapshot, object)
	a.entry(format.Entry{Snapshots: []format.Hash{h}})
	return h
}

// entry signs the next entry of the chain, with what was added.
func (a *agent) entry(e format.Entry) (name string) {
	a.seq++
	e.Nation, e.Compartment, e.Agent, e.Chain = a.r.nation, a.r.comp, a.scope.Agent, a.scope.Chain
	e.Seq, e.Prev, e.Time, e.Adds, e.Depends = a.seq, a.prev, a.r.now(), a.adds, a.depends
	object, err := format.SealEntry(e, a.key.Signer)
	a.r.must(err)
	a.prev, a.adds = format.HashOf(object), nil
	name = format.EntryName(e.Nation, e.Compartment, e.Agent, e.Chain, e.Seq, a.prev)
	a.r.put(name, object)
	return name
}

// findings collects what is told.
type findings struct {
	mu   sync.Mutex
	list []embassy.Finding
}

func (f *findings) add(one embassy.Finding) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = append(f.list, one)
}

// about returns the findings about a target and an object whose name contains
// what.
func (f *findings) about(target, what string) []embassy.Finding {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []embassy.Finding
	for _, one := range f.list {
		if one.Target == target && strings.Contains(one.Object+" "+fmt.Sprint(one.Err), what) {
			out = append(out, one)
		}
	}
	return out
}

// view opens a View with the root's keys, the charter being looked for first.
func (r *repo) view(f *findings) (*embassy.View, error) {
	charter, _, err := embassy.FindCharter(r.t.Context(), r.members, r.nation, r.root.Signer().Verifier(), f.add)
	if err != nil {
		return nil, err
	}
	keys, err := embassy.RootKeys(charter, r.root)
	if err != nil {
		return nil, err
	}
	return embassy.OpenView(r.t.Context(), embassy.ViewOptions{Keys: keys, Members: r.members, Warn: f.add})
}

// restore restores the newest snapshots of the datasets.
func (r *repo) restore(f *findings, o embassy.RestoreOptions, datasets ...string) (embassy.RestoreReport, error) {
	r.t.Helper()
	v, err := r.view(f)
	r.must(err)
	for _, d := range datasets {
		s, err := v.Pick(d, "latest", time.Time{})
		r.must(err)
		o.Snapshots = append(o.Snapshots, s)
	}
	return v.Restore(r.t.Context(), o)
}

// random returns bytes that do not compress, the same for the same seed.
func random(seed uint64, n int) []byte {
	b := make([]byte, n)
	g := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	if _, err := g.Read(b); err != nil {
		panic(err)
	}
	return b
}

var errBroken = errors.New("broken on purpose")

// dead is a target of which every operation fails.
func dead(t targets.Target) targets.Target {
	return &targets.Faulty{Target: t, Before: func(targets.Op, string) error { return errBroken }}
}

func sortedGaps(gaps []format.Gap) []string {
	var out []string
	for _, g := range gaps {
		out = append(out, string(g.Path))
	}
	slices.SortFunc(out, cmp.Compare[string])
	return out
}
