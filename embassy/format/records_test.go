package format_test

import (
	"bytes"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"embassy/crypto"
	"embassy/embassy/format"
)

// snapshotOf seals a snapshot and parses it.
func (w *world) snapshotOf(t helper, summary format.Summary, root format.Root) ([]byte, *format.Snapshot) {
	t.Helper()
	object, err := format.SealSnapshot(w.session, w.writer, summary, root)
	if err != nil {
		t.Fatal(err)
	}
	s, err := format.ParseSnapshot(object)
	if err != nil {
		t.Fatal(err)
	}
	return object, s
}

func TestSnapshotRoundTrip(t *testing.T) {
	w := newWorld(t, 0)
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String()
		blob := rapid.SliceOfN(rapid.Byte(), 0, 40)
		summary := format.Summary{
			Dataset: text.Draw(t, "dataset"), Time: rapid.Int64().Draw(t, "time"), Priority: rapid.Int().Draw(t, "priority"),
			Files: rapid.Uint64().Draw(t, "files"), Bytes: rapid.Uint64().Draw(t, "bytes"), Label: text.Draw(t, "label"),
			Tags: rapid.SliceOfN(text, 0, 3).Draw(t, "tags"),
		}
		for range rapid.IntRange(0, 3).Draw(t, "entries") {
			summary.Refs = append(summary.Refs, format.Refs{
				Chain: w.scope.Chain, Seq: rapid.Uint64().Draw(t, "number"), Runs: rapid.SliceOfN(rapid.Uint32(), 0, 5).Draw(t, "runs"),
			})
		}
		root := format.Root{
			Tree: format.Content{Size: rapid.Uint64().Draw(t, "size"), Chunks: blob.Draw(t, "chunks")},
			Host: text.Draw(t, "host"), Sources: rapid.SliceOfN(blob, 0, 3).Draw(t, "sources"),
		}
		for range rapid.IntRange(0, 3).Draw(t, "gaps") {
			root.Errors = append(root.Errors, format.Gap{Path: blob.Draw(t, "path"), Reason: text.Draw(t, "reason")})
		}
		object, s := w.snapshotOf(t, summary, root)
		gotSummary, err := s.Summary(w.writer)
		if err != nil {
			t.Fatal(err)
		}
		gotRoot, err := s.Root(format.NewReader(w.partner))
		if err != nil {
			t.Fatal(err)
		}
		same := cmpopts.EquateEmpty()
		if diff := cmp.Diff(summary, gotSummary, same) + cmp.Diff(root, gotRoot, same); diff != "" {
			t.Fatal(diff)
		}
		if s.Header.Scope != w.scope {
			t.Fatalf("scope %v", s.Header.Scope)
		}
		if bytes.Contains(object, []byte(summary.Dataset)) && len(summary.Dataset) > 8 {
			t.Fatal("the dataset shows")
		}
	})
}

// The agent that wrote a snapshot reads its summary and not its root.
func TestSnapshotRootIsForReaders(t *testing.T) {
	w := newWorld(t, 0)
	_, s := w.snapshotOf(t, format.Summary{Dataset: "population"}, format.Root{Host: "h"})
	if _, err := s.Summary(w.writer); err != nil {
		t.Error(err)
	}
	for name, r := range map[string]*format.Reader{
		"agent": format.NewReader(w.agent.Identity), "nobody": format.NewReader(), "root's own key": format.NewReader(w.root.Identity()),
	} {
		if _, err := s.Root(r); class(err) != "authentication" {
			t.Errorf("%s: %v", name, err)
		}
	}
	other := newWorld(t, 1)
	if _, err := s.Summary(other.writer); class(err) != "authentication" {
		t.Errorf("another nation's writer: %v", err)
	}
}

// Sizes show to within a class, not more.
func TestSnapshotSizes(t *testing.T) {
	w := newWorld(t, 0)
	sizes := map[int]bool{}
	for n := range 500 {
		object, _ := w.snapshotOf(t, format.Summary{Dataset: strings.Repeat("d", n)}, format.Root{Host: strings.Repeat("h", n)})
		sizes[len(object)] = true
	}
	if len(sizes) != 1 {
		t.Errorf("500 snapshots show %d sizes", len(sizes))
	}
}

func TestSealSnapshotText(t *testing.T) {
	w := newWorld(t, 0)
	gaps := []format.Gap{{Path: []byte("\xff"), Reason: "bad \xff name"}}
	_, s := w.snapshotOf(t, format.Summary{}, format.Root{Host: "h\xfcst", Errors: gaps})
	root, err := s.Root(format.NewReader(w.reader))
	if err != nil || root.Host != "h\uFFFDst" || root.Errors[0].Reason != "bad \uFFFD name" || string(root.Errors[0].Path) != "\xff" {
		t.Errorf("%+v, %v", root, err)
	}
	if gaps[0].Reason != "bad \xff name" {
		t.Error("the caller's list was changed")
	}
	// What nobody could read must not be sealed.
	if _, err := format.SealSnapshot(w.session, w.writer, format.Summary{Dataset: "d\xff"}, format.Root{}); class(err) != "malformed" {
		t.Errorf("a dataset that is not UTF-8: %v", err)
	}
	long := format.Summary{Refs: []format.Refs{{Runs: make([]uint32, 1<<20+1)}}}
	if _, err := format.SealSnapshot(w.session, w.writer, long, format.Root{}); class(err) != "malformed" {
		t.Errorf("a list that no reader takes: %v", err)
	}
	if _, err := format.SealSnapshot(w.session, w.writer, format.Summary{Label: strings.Repeat("x", format.MaxSnapshotSize)}, format.Root{}); err == nil {
		t.Error("a snapshot beyond its bound was sealed")
	}
}

func (w *world) entry(seq uint64) format.Entry {
	e := format.Entry{Nation: w.nation, Compartment: w.comp, Agent: w.scope.Agent, Chain: w.scope.Chain, Seq: seq}
	if seq > 1 {
		e.Prev = format.HashOf([]byte{byte(seq)})
	}
	return e
}

func TestEntryRoundTrip(t *testing.T) {
	w := newWorld(t, 0)
	v := w.agent.Signer.Verifier()
	rapid.Check(t, func(t *rapid.T) {
		hash := rapid.Custom(func(t *rapid.T) format.Hash { return format.HashOf(rapid.SliceOfN(rapid.Byte(), 1, 4).Draw(t, "hash")) })
		head := rapid.Custom(func(t *rapid.T) format.Head {
			return format.Head{Chain: w.scope.Chain, Seq: rapid.Uint64().Draw(t, "number"), Hash: hash.Draw(t, "entry")}
		})
		e := w.entry(rapid.Uint64Min(1).Draw(t, "number"))
		e.Time = rapid.Int64().Draw(t, "time")
		e.Depends = rapid.SliceOfN(head, 0, 3).Draw(t, "depends")
		e.Steward = rapid.SliceOfN(head, 0, 2).Draw(t, "steward")
		e.Snapshots = rapid.SliceOfN(hash, 0, 3).Draw(t, "snapshots")
		for range rapid.IntRange(0, 5).Draw(t, "objects") {
			k := format.Kind(rapid.IntRange(1, 4).Draw(t, "kind"))
			e.Adds = append(e.Adds, format.Listed{Kind: k, Hash: hash.Draw(t, "object"), Size: rapid.Uint64Range(1, k.MaxSize()).Draw(t, "bytes")})
		}
		if e.Seq == 1 {
			e.Continues = rapid.SliceOfN(head, 0, 1).Draw(t, "continues")
		}
		object, err := format.SealEntry(e, w.agent.Signer)
		if err != nil {
			t.Fatal(err)
		}
		got, err := format.OpenEntry(object, v, format.Entry{Nation: e.Nation, Compartment: e.Compartment, Agent: e.Agent, Chain: e.Chain, Seq: e.Seq})
		if err != nil {
			t.Fatal(err)
		}
		e.Version = 1
		if diff := cmp.Diff(e, got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(diff)
		}
		if again, err := format.SealEntry(got, w.agent.Signer); err != nil || !bytes.Equal(again, object) {
			t.Fatalf("written again it is another object: %v", err)
		}
	})
}

// No host can make a second object of an entry, and so a fork.
func TestEntryIsNotMalleable(t *testing.T) {
	w := newWorld(t, 0)
	e := w.entry(1)
	object, err := format.SealEntry(e, w.agent.Signer)
	if err != nil {
		t.Fatal(err)
	}
	for at := range object {
		for _, bit := range []byte{1, 0x80} {
			bad := bytes.Clone(object)
			bad[at] ^= bit
			if _, err := format.OpenEntry(bad, w.agent.Signer.Verifier(), e); err == nil {
				t.Fatalf("byte %d may change", at)
			}
		}
		if _, err := format.OpenEntry(object[:at], w.agent.Signer.Verifier(), e); class(err) != "malformed" {
			t.Fatalf("cut to %d bytes: %v", at, err)
		}
	}
}

func TestSealEntryRefuses(t *testing.T) {
	w := newWorld(t, 0)
	for name, edit := range map[string]func(e *format.Entry){
		"number 0":            func(e *format.Entry) { e.Seq = 0 },
		"first with previous": func(e *format.Entry) { e.Prev = format.HashOf(nil) },
		"later without":       func(e *format.Entry) { e.Seq = 2 },
		"later continues":     func(e *format.Entry) { e.Seq, e.Prev, e.Continues = 2, format.HashOf(nil), make([]format.Head, 1) },
		"unknown kind":        func(e *format.Entry) { e.Adds = []format.Listed{{Kind: 9, Size: 1}} },
		"too many objects": func(e *format.Entry) {
			e.Adds = slices.Repeat([]format.Listed{{Kind: format.KindPack, Size: 1}}, 110000)
		},
	} {
		e := w.entry(1)
		edit(&e)
		if _, err := format.SealEntry(e, w.agent.Signer); err == nil {
			t.Errorf("%s was sealed", name)
		}
	}
	full := w.entry(1)
	full.Adds = slices.Repeat([]format.Listed{{Kind: format.KindPack, Size: 1 << 20}}, 90000)
	object, err := format.SealEntry(full, w.agent.Signer)
	if err != nil || len(object) > format.MaxEntrySize {
		t.Fatalf("%d bytes, %v", len(object), err)
	}
	if e, err := format.OpenEntry(object, w.agent.Signer.Verifier(), full); err != nil || len(e.Adds) != 90000 {
		t.Error(len(e.Adds), err)
	}
	if !full.When().Equal(time.Unix(0, 0)) {
		t.Error(full.When())
	}
}

func (w *world) charterOf() format.Charter {
	return format.Charter{
		Nation: w.nation, Seq: 1, RootSigner: w.root.Signer().Verifier().Bytes(), RootRecipient: w.root.Identity().Recipient().Bytes(),
		Compartments: []format.CharterCompartment{{ID: w.comp, Epoch: 1, Recipients: []format.RecipientKey{
			{Epoch: 1, Key: w.reader.Recipient().Bytes()}, {Epoch: 3, Key: w.partner.Recipient().Bytes()}, {Epoch: 0, Key: w.partner.Recipient().Bytes()},
		}}},
		Agents: []format.CharterAgent{{
			ID: w.agent.ID(), Signer: w.agent.Signer.Verifier().Bytes(), Recipient: w.agent.Identity.Recipient().Bytes(), Status: format.AgentActive,
		}},
	}
}

func TestCharterParts(t *testing.T) {
	w := newWorld(t, 0)
	part := format.CompartmentPart{
		NationName: "Estland", Name: "official", Writers: []format.EpochSecret{{Epoch: 1, Secret: w.secret.Bytes()}},
		Datasets: []format.Dataset{{Name: "population", Priority: -1, Agents: []format.ID{w.scope.Agent}}}, AgentNames: []format.AgentName{},
	}
	c := w.charterOf()
	for kind, to := range map[format.PartKind]*crypto.Identity{
		format.AgentPart: w.agent.Identity, format.ReaderPart: w.reader, format.RootPart: w.root.Identity(),
	} {
		p, err := format.SealPart(w.nation, w.comp, 1, kind, to.Recipient(), part)
		if err != nil {
			t.Fatal(err)
		}
		c.Parts = append(c.Parts, p)
	}
	object, err := format.SealCharter(c, w.root.Signer())
	if err != nil {
		t.Fatal(err)
	}
	got, err := format.OpenCharter(object, w.nation, w.root.Signer().Verifier())
	if err != nil {
		t.Fatal(err)
	}
	for kind, id := range map[format.PartKind]*crypto.Identity{
		format.AgentPart: w.agent.Identity, format.ReaderPart: w.reader, format.RootPart: w.root.Identity(),
	} {
		if p, err := got.OpenPart(w.comp, kind, id); err != nil || !reflect.DeepEqual(p, part) {
			t.Errorf("kind %d: %+v, %v", kind, p, err)
		}
		if _, err := got.OpenPart(w.comp, kind%3+1, id); class(err) != "authentication" {
			t.Errorf("kind %d opens as another: %v", kind, err)
		}
		if _, err := got.OpenPart(w.nation, kind, id); class(err) != "authentication" {
			t.Errorf("kind %d opens for another compartment: %v", kind, err)
		}
	}
	if _, err := got.OpenPart(w.comp, format.AgentPart, w.other.Identity); class(err) != "authentication" {
		t.Errorf("another agent: %v", err)
	}
	for _, hidden := range []string{"Estland", "official", "population", string(w.secret.Bytes())} {
		if bytes.Contains(object, []byte(hidden)) {
			t.Errorf("the charter shows %q", hidden)
		}
	}
	part.Name = "\xff"
	if _, err := format.SealPart(w.nation, w.comp, 1, format.AgentPart, w.reader.Recipient(), part); class(err) != "malformed" {
		t.Errorf("a name that is not UTF-8: %v", err)
	}
}

func TestCharterLookups(t *testing.T) {
	w := newWorld(t, 0)
	c := w.charterOf()
	c.Time = 1e9
	if k := c.Compartment(w.comp); k != &c.Compartments[0] || k.ReaderEpoch() != 3 {
		t.Errorf("compartment %v", k)
	}
	if a := c.Agent(w.agent.ID()); a != &c.Agents[0] {
		t.Errorf("agent %v", a)
	}
	if c.Compartment(w.nation) != nil || c.Agent(w.nation) != nil {
		t.Error("an unknown one is found")
	}
	if !c.When().Equal(time.Unix(1, 0)) {
		t.Error(c.When())
	}
}

func TestSealCharterRefuses(t *testing.T) {
	w := newWorld(t, 0)
	signer := w.root.Signer()
	for name, signers := range map[string][]*crypto.Signer{"nobody": nil, "two": {signer, w.agent.Signer}} {
		if _, err := format.SealCharter(w.charterOf(), signers...); err == nil {
			t.Errorf("signed by %s", name)
		}
	}
	for name, edit := range map[string]func(c *format.Charter){
		"number 0":    func(c *format.Charter) { c.Seq = 0 },
		"no previous": func(c *format.Charter) { c.Seq = 2 },
		"too many recipients": func(c *format.Charter) {
			c.Compartments[0].Recipients = make([]format.RecipientKey, format.MaxRecipients+1)
		},
		"agent of another id": func(c *format.Charter) { c.Agents[0].ID[0]++ },
		"agent of no status":  func(c *format.Charter) { c.Agents[0].Status = 0 },
	} {
		c := w.charterOf()
		edit(&c)
		if _, err := format.SealCharter(c, signer); class(err) != "malformed" {
			t.Errorf("%s: %v", name, err)
		}
	}
	c := w.charterOf()
	c.Parts = slices.Repeat([]format.Part{{Box: make([]byte, 1<<20)}}, 17)
	if _, err := format.SealCharter(c, signer); err == nil || errors.Is(err, format.ErrMalformed) {
		t.Errorf("beyond its bound: %v", err)
	}
}
