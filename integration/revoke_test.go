package integration_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"embassy/crypto"
	"embassy/embassy/format"
)

// join makes a new machine of the nation, which asks for its datasets and is
// approved.
func (s *site) join(name string, datasets ...dataset) *site {
	s.t.Helper()
	var charter struct {
		Key string `json:"nation_key"`
	}
	if err := json.Unmarshal([]byte(s.exits(0, "--json", "charter", "show").stdout), &charter); err != nil {
		s.t.Fatal(err)
	}
	b := newSite(s.t, s.stores...)
	b.more = "nation_key: " + charter.Key + "\n"
	b.configure(datasets...)
	b.exits(0, "agent", "request", "--name", name)
	if r := b.exits(6, "backup"); !strings.Contains(r.stderr, "its request waits") {
		s.t.Errorf("before it is approved: %s", r.stderr)
	}
	s.exits(0, "agent", "approve", "--yes", b.path("agent-request.txt"))
	return b
}

// captor has what an agent's machine holds.
type captor struct {
	t      testing.TB
	stores []*store
	key    *crypto.AgentKey
	head   format.Entry // the last entry of the agent's chain
	hash   format.Hash  // of it
}

// capture takes a machine's keys, and finds its one chain.
func (s *site) capture() *captor {
	s.t.Helper()
	key, err := crypto.ParseAgentKey(read(s.t, s.path("state/agent.key")))
	if err != nil {
		s.t.Fatal(err)
	}
	c := &captor{t: s.t, stores: s.stores, key: key}
	for _, name := range s.stores[0].keys("ledger") {
		parts := strings.Split(name, "/") // nation, compartment, agent, ledger, chain, number and hash
		var ids [5]format.ID
		for _, i := range []int{0, 1, 2, 4} {
			if ids[i], err = format.ParseID(parts[i]); err != nil {
				s.t.Fatal(err)
			}
		}
		seq, h, err := format.ParseNumbered(parts[5])
		if err != nil {
			s.t.Fatal(err)
		}
		if ids[2] == format.ID(key.ID()) && seq > c.head.Seq {
			c.head, c.hash = format.Entry{Nation: ids[0], Compartment: ids[1], Agent: ids[2], Chain: ids[4], Seq: seq}, h
		}
	}
	if c.head.Seq == 0 {
		s.t.Fatal("the agent has no entry")
	}
	return c
}

// list puts an object into the agent's folder on all stores, and returns it
// as an entry lists it.
func (c *captor) list(kind format.Kind, data []byte) format.Listed {
	c.t.Helper()
	h := format.HashOf(data)
	for _, st := range c.stores {
		st.put(format.ObjectName(c.head.Nation, c.head.Compartment, c.head.Agent, kind, h), data)
	}
	return format.Listed{Kind: kind, Hash: h, Size: uint64(len(data))}
}

// entry signs the next entry of the chain.
func (c *captor) entry(adds []format.Listed, snapshots ...format.Hash) {
	c.t.Helper()
	e := c.head
	e.Seq, e.Prev, e.Time, e.Adds, e.Snapshots = c.head.Seq+1, c.hash, 1, adds, snapshots
	object, err := format.SealEntry(e, c.key.Signer)
	if err != nil {
		c.t.Fatal(err)
	}
	c.head.Seq, c.hash = e.Seq, format.HashOf(object)
	for _, st := range c.stores {
		st.put(format.EntryName(e.Nation, e.Compartment, e.Agent, e.Chain, e.Seq, c.hash), object)
	}
}

// TestRevokedAgent enrols a second agent. Its machine is captured, and writes
// a snapshot of garbage, and entries that list junk and an index which says that
// the first agent's chunks lie in it. What was good of it stays, nothing else
// counts, and the first agent's data is whole all the time.
func TestRevokedAgent(t *testing.T) {
	dir := t.TempDir()
	data := dataset{name: "data", sources: []string{filepath.Join(dir, "data")}}
	archive := dataset{name: "archive", sources: []string{filepath.Join(dir, "archive")}}
	oddTree(t, data.sources[0])
	write(t, filepath.Join(archive.sources[0], "old"), noise(3, 3*mib))
	stores := borrow(t, 3)
	a := newSite(t, stores[:2]...)
	a.found(data)
	a.backup(0)
	b := a.join("beta", archive)
	b.backup(0)
	good := b.capture().hash
	keep := filepath.Join(dir, "keep")
	copyTree(t, archive.sources[0], keep)

	write(t, filepath.Join(archive.sources[0], "old"), noise(4, 3*mib))
	reports, _ := b.backup(0)
	garbage := reports[0].Snapshot
	c := b.capture()
	var adds []format.Listed
	junk := c.list(format.KindPack, noise(5, 64<<10))
	adds = append(adds, junk, c.list(format.KindIndex, noise(6, 4096)))
	poisoned := 0
	for _, name := range stores[0].keys("index") {
		if strings.Contains(name, c.head.Agent.String()) {
			continue
		}
		index, _ := stores[0].get(name)
		packs, err := format.ParseIndex(index)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range packs {
			index = bytes.ReplaceAll(index, p.Hash[:], junk.Hash[:])
			poisoned++
		}
		adds = append(adds, c.list(format.KindIndex, index))
	}
	snapshot := c.list(format.KindSnapshot, noise(7, 8192))
	c.entry(append(adds, snapshot), snapshot.Hash)
	if poisoned == 0 {
		t.Fatal("no index was poisoned")
	}

	out := filepath.Join(t.TempDir(), "out")
	a.exits(0, "restore", "--to", out, "data")
	compare(t, out, data)
	r := a.exits(2, "agent", "revoke", "--yes", "beta")
	r.says(t, "say what of its chains counts", good.String(), c.hash.String())
	a.exits(0, "agent", "revoke", "--yes", "--after", good.String()[:20], "beta")
	if r := b.exits(6, "backup"); !strings.Contains(r.stderr, "is revoked") {
		t.Errorf("the revoked agent is told: %s", r.stderr)
	}
	c.entry(nil) // and goes on writing

	if err := errors.Join(os.RemoveAll(archive.sources[0]), os.Rename(keep, archive.sources[0])); err != nil {
		t.Fatal(err)
	}
	if ids := a.snapshots(); slices.Contains(ids, garbage) || len(ids) != 2 {
		t.Errorf("snapshots %v count; garbage is %s", ids, garbage)
	}
	a.restore(data, archive)
	a.stores = stores
	a.configure(data)
	a.replicate(0)
	last := stores[2]
	if len(last.keys("pack")) == 0 {
		t.Error("the new target got nothing")
	}
	for name := range last.list() {
		if strings.Contains(name, junk.Hash.String()) || strings.Contains(name, snapshot.Hash.String()) || strings.Contains(name, c.hash.String()) {
			t.Errorf("%s was carried to a new target", name)
		}
	}
	a.fromEachAlone(stores, data, archive)
	a.verify(0, "--level", "full")
	if r := a.exits(4, "status"); !strings.Contains(r.stdout, "NO AGENT WRITES archive ANY MORE") {
		t.Errorf("status:\n%s", r.stdout)
	}

	// The first agent takes the dataset over.
	a.configure(data, archive)
	a.exits(0, "charter", "apply")
	a.backup(0)
	a.exits(0, "status")
	a.restore(data, archive)
}
