package catalog_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"embassy/catalog"
	"embassy/embassy"
	"embassy/embassy/format"
)

func evidence(t *testing.T, c *catalog.Catalog, target string, h format.Hash) embassy.Evidence {
	t.Helper()
	e, err := c.Evidence(target, h)
	check(t, err)
	return e
}

func TestEvidence(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir)
	set := func(e embassy.Evidence) error {
		return c.SetEvidence("tallinn", map[format.Hash]embassy.Evidence{hash(1): e, hash(2): e})
	}
	for _, step := range []struct {
		do   func() error
		want embassy.Evidence
	}{
		{func() error { return set(embassy.Evidence{}) }, embassy.Evidence{}},
		{func() error { return c.Place("tallinn", hash(1), now) }, embassy.Evidence{Stored: now}},
		{func() error { return c.Place("tallinn", hash(1), time.Time{}) }, embassy.Evidence{Stored: now}},
		{func() error { return set(embassy.Evidence{Locked: now.AddDate(5000, 0, 0)}) },
			embassy.Evidence{Stored: now, Locked: now.AddDate(5000, 0, 0)}},
		{func() error {
			return set(embassy.Evidence{Stored: now.Add(-1), Verified: now.In(time.FixedZone("", 3600))})
		}, embassy.Evidence{Stored: now.Add(-1), Verified: now, Locked: now.AddDate(5000, 0, 0)}},
		{func() error { return c.DropEvidence("tallinn", hash(1)) }, embassy.Evidence{}},
		{func() error { return c.DropEvidence("tallinn", hash(1)) }, embassy.Evidence{}},
	} {
		check(t, step.do())
		c = reopen(t, c, dir)
		equal(t, evidence(t, c, "tallinn", hash(1)), step.want)
		at, err := c.Placed("tallinn", hash(1))
		check(t, err)
		equal(t, at, step.want.Stored)
	}
	equal(t, evidence(t, c, "tallinn", hash(2)).Stored, now.Add(-1))
	equal(t, evidence(t, c, "tallin", hash(2)), embassy.Evidence{})

	// More than a transaction of Badger takes, old and new mixed.
	found := map[format.Hash]embassy.Evidence{}
	for i := range 10_000 {
		found[hash(i)] = embassy.Evidence{Verified: now.Add(time.Duration(i))}
	}
	check(t, c.SetEvidence("tallinn", found))
	found[hash(2)] = evidence(t, c, "tallinn", hash(2)) // was stored before
	equal(t, found[hash(2)].Stored, now.Add(-1))
	for h, want := range found {
		equal(t, evidence(t, c, "tallinn", h), want)
	}
}

func TestSeenHeads(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir)
	if _, ok, err := c.SeenHead("riga", line(1)); ok || err != nil {
		t.Fatalf("unknown: %v, %v", ok, err)
	}
	for _, want := range []embassy.SeenHead{
		{Seq: 4, Hash: hash(1), At: now},
		{Seq: 4, Hash: hash(1), At: now.Add(time.Hour)},
		{Seq: 1 << 40, Hash: hash(2), At: now},
	} {
		check(t, c.SetSeenHead("riga", line(1), want))
		c = reopen(t, c, dir)
		got, ok, err := c.SeenHead("riga", line(1))
		check(t, err)
		equal(t, ok, true)
		equal(t, got, want)
	}
	err := c.SetSeenHead("riga", line(1), embassy.SeenHead{Seq: 1<<40 - 1, At: now})
	if !errors.Is(err, catalog.ErrOldHead) {
		t.Fatalf("lower head: %v", err)
	}
	got, _, err := c.SeenHead("riga", line(1))
	check(t, err)
	equal(t, got.Hash, hash(2))
	elsewhere := line(1)
	elsewhere.Agent = chain(7)
	for _, q := range []struct {
		target string
		l      embassy.Line
	}{{"riga", line(2)}, {"riga", elsewhere}, {"rig", line(1)}} {
		if _, ok, err := c.SeenHead(q.target, q.l); ok || err != nil {
			t.Fatalf("%v: %v, %v", q, ok, err)
		}
	}
}

func TestFaults(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir)
	long := strings.Repeat("x", 20_000)
	ascending := []embassy.Fault{
		{Target: "aa", Kind: embassy.FaultAltered, Object: long, Text: "1"},
		{Target: "aa", Kind: embassy.FaultAltered, Object: long + "y", Text: "2"},
		{Target: "aa", Kind: embassy.FaultMissing, Text: "3"},
		{Target: "b", Kind: embassy.FaultCut, Object: "o", Text: strings.Repeat("long ", 100)},
		{Target: "b", Kind: embassy.FaultRollback, Object: "o", Text: "4"},
	}
	for i, f := range slices.Backward(ascending) {
		f.First, f.Last = now, now
		check(t, c.AddFault(f))
		later := now.Add(time.Duration(i) * time.Minute)
		f.First, f.Last, f.Text = later, later, f.Text+" again"
		check(t, c.AddFault(f))
		f.First = now // is kept
		ascending[i] = f
	}
	c = reopen(t, c, dir)
	faults := func(target string) []embassy.Fault {
		t.Helper()
		f, err := c.Faults(target)
		check(t, err)
		return f
	}
	equal(t, faults(""), ascending)
	equal(t, faults("aa"), ascending[:3])
	equal(t, len(faults("a")), 0)
	for _, want := range ascending {
		got, ok, err := c.Fault(want.Target, want.Kind, want.Object)
		check(t, err)
		equal(t, ok, true)
		equal(t, got, want)
	}
	for _, other := range []embassy.Fault{{Target: "aa", Kind: embassy.FaultCut, Object: "o"}, {Kind: embassy.FaultMissing}, {Target: "b", Kind: embassy.FaultCut}} {
		if _, ok, err := c.Fault(other.Target, other.Kind, other.Object); ok || err != nil {
			t.Fatalf("%+v: %t, %v", other, ok, err)
		}
	}
	check(t, c.ClearFault("aa", embassy.FaultMissing, ""))
	check(t, c.ClearFault("aa", embassy.FaultMissing, "")) // is not there
	equal(t, faults("aa"), ascending[:2])
}

// A target of which much is known, between two whose names are near.
func TestForgetTarget(t *testing.T) {
	const many = 20_000 // several tables
	dir := t.TempDir()
	c := open(t, dir)
	targets := []string{"rig", "riga", "rigb"}
	for _, target := range targets {
		found := map[format.Hash]embassy.Evidence{}
		for i := range many {
			found[hash(i)] = embassy.Evidence{Stored: now}
		}
		check(t, c.SetEvidence(target, found))
		check(t, c.SetSeenHead(target, line(1), embassy.SeenHead{Seq: 9}))
		check(t, c.AddFault(embassy.Fault{Target: target, Kind: embassy.FaultRollback}))
	}
	check(t, c.Learn(line(1), embassy.Known{Seq: 1}, nil))
	check(t, c.ForgetTarget("riga"))
	check(t, c.ForgetTarget("nowhere"))
	for range 2 {
		for _, target := range targets {
			there := target != "riga"
			for i := 0; i < many; i += 97 {
				equal(t, evidence(t, c, target, hash(i)).Stored.IsZero(), !there)
			}
			_, ok, err := c.SeenHead(target, line(1))
			check(t, err)
			equal(t, ok, there)
			faults, err := c.Faults(target)
			check(t, err)
			equal(t, len(faults) > 0, there)
		}
		_, ok, err := c.KnownHead(line(1))
		check(t, err)
		equal(t, ok, true)
		c = reopen(t, c, dir)
	}
	check(t, c.SetSeenHead("riga", line(1), embassy.SeenHead{Seq: 1})) // as if for the first time
}
