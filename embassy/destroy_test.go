package embassy_test

import (
	"bytes"
	"context"
	"errors"
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
	"embassy/embassy/config"
	"embassy/embassy/format"
	"embassy/targets"
)

// doomed adds a compartment with a dataset of the same source, and backs up both.
func (s *site) doomed() (kept, gone format.Hash) {
	s.t.Helper()
	cables := s.config.Compartments[0]
	cables.Name = "secret"
	hidden := s.config.Datasets[0]
	hidden.Name, hidden.Compartment, hidden.Priority = "hidden", "secret", 2
	s.config.Compartments, s.config.Datasets = append(s.config.Compartments, cables), append(s.config.Datasets, hidden)
	if _, err := s.start().ApplyCharter(s.t.Context(), s.root); err != nil {
		s.t.Fatal(err)
	}
	reports, err := s.start().Backup(s.t.Context(), embassy.BackupOptions{})
	if err != nil || len(reports) != 2 || reports[0].Exit+reports[1].Exit != 0 {
		s.t.Fatalf("%+v, %v", reports, err)
	}
	return reports[0].Snapshot, reports[1].Snapshot
}

// spare takes the compartment out of the configuration.
func (s *site) spare() {
	s.config.Compartments = slices.DeleteFunc(slices.Clone(s.config.Compartments), func(c config.Compartment) bool { return c.Name == "secret" })
	s.config.Datasets = slices.DeleteFunc(slices.Clone(s.config.Datasets), func(d config.Dataset) bool { return d.Name == "hidden" })
}

// without keeps a root that does not hold the compartment in a file, and opens it.
func (s *site) without(name string) (*format.Kit, *crypto.Root) {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	err := s.start().NewRoot(s.t.Context(), s.root, embassy.RootKeeping{KitPath: path, Passphrase: nextPassphrase, Without: "secret"})
	if err != nil {
		s.t.Fatal(err)
	}
	kit, next, err := embassy.OpenKit(path, nextPassphrase)
	if err != nil {
		s.t.Fatal(err)
	}
	return kit, next
}

// shared is without, among custodians.
func (s *site) shared(dir string) *crypto.Root {
	s.t.Helper()
	err := s.start().NewRoot(s.t.Context(), s.root, embassy.RootKeeping{SharesDir: dir, Quorum: 2, Custodians: 3, Without: "secret"})
	if err != nil {
		s.t.Fatal(err)
	}
	shares, err := embassy.ReadShares([]string{filepath.Join(dir, "share-1-of-3.txt"), filepath.Join(dir, "share-3-of-3.txt")})
	if err != nil {
		s.t.Fatal(err)
	}
	c, err := embassy.UnlockShares(shares)
	if err != nil {
		s.t.Fatal(err)
	}
	return c.Root
}

func (s *site) erase(exit int) embassy.EraseReport {
	s.t.Helper()
	rep, err := s.start().Erase(s.t.Context(), "secret", false)
	if err != nil || rep.Exit != exit {
		s.t.Fatalf("exit code %d, want %d: %+v, %v", rep.Exit, exit, rep, err)
	}
	return rep
}

// below are the objects of a target in a compartment's folder.
func (s *site) below(i int, compartment format.ID) (names []string) {
	for name := range s.objects(i) {
		if strings.Contains(name, "/"+compartment.String()+"/") {
			names = append(names, name)
		}
	}
	return names
}

// opensNothing asserts that no key of a compartment can be had from what a kit and
// a charter hold under the root: neither the roots of before, nor the compartment's
// secret, nor any key that they derive.
func opensNothing(t *testing.T, kit *format.Kit, ch *format.Charter, next, old *crypto.Root, gone format.ID) {
	t.Helper()
	var all []byte
	open := func(label, typ string, box []byte) {
		if len(box) == 0 {
			return
		}
		ctx := crypto.Context{Type: typ, Nation: ch.Nation}
		plain, err := crypto.OpenBox(next.Derive(label, ctx), ctx, box, nil)
		if err != nil {
			t.Fatalf("%s: %v", label, err)
		}
		all = append(all, plain...)
	}
	open("earlier roots", "earlier roots", kit.Earlier)
	open("kept keys", "kept keys", kit.Kept)
	h := ch.Succession[len(ch.Succession)-1]
	open("earlier roots", "earlier roots", h.Earlier)
	open("kept keys", "kept keys", h.Kept)
	if len(all) == 0 {
		t.Fatal("nothing is kept of the roots before")
	}
	secrets := [][]byte{old.Bytes(), old.Derive("compartment", crypto.Context{Compartment: gone}).Bytes()}
	for epoch := range uint32(8) {
		secrets = append(secrets, old.Reader(gone, epoch).Bytes(), old.Writer(gone, epoch).Bytes())
	}
	for i, secret := range secrets {
		if bytes.Contains(all, secret) {
			t.Errorf("secret %d is kept", i)
		}
	}
	ring, err := ch.Ring(next)
	if err != nil || len(ring.Ring()) != 2 || len(next.Ring()) != 2 {
		t.Fatalf("%d roots, %v", len(ring.Ring()), err)
	}
	for _, r := range append(ring.Ring()[1:], next.Ring()[1:]...) {
		if r.Holds(gone) || !next.Lacks(gone) {
			t.Error("a root before holds it")
		}
	}
	for epoch := range uint32(8) { // the new root's are others
		if bytes.Equal(next.Reader(gone, epoch).Bytes(), old.Reader(gone, epoch).Bytes()) {
			t.Error("the new root derives the old reader")
		}
	}
}

func TestDestroy(t *testing.T) {
	s := newSite(t, 3, 1)
	now := time.Now()
	locked := targets.NewMemWith(targets.MemOptions{Locks: true, Now: func() time.Time { return now }})
	for name := range s.objects(1) {
		copyObject(t, s.mems[1], locked, name)
	}
	s.mems[1] = locked
	s.fill(1, 4, 3000)
	first, hidden := s.doomed()
	before, old := s.tree(s.src), s.root
	gone := format.ID(old.CompartmentID("secret"))
	stale, reader := s.clone(t), s.charter()
	stale.config.Compartments, stale.config.Datasets = s.config.Compartments, s.config.Datasets
	exported, err := embassy.ExportReader(reader, old, "secret")
	if err != nil {
		t.Fatal(err)
	}
	host, there := clone(t, s.mems[0]), s.below(0, gone) // which keeps what it was told to delete
	until := now.Add(time.Hour)
	sealed := s.one(1, gone.String(), "/snapshot/")
	if err := locked.SetLock(t.Context(), sealed, targets.Lock{Mode: "compliance", Until: until}); err != nil {
		t.Fatal(err)
	}

	// What may not be, before anything is made.
	keep := embassy.RootKeeping{KitPath: filepath.Join(s.dir, "none.txt"), Passphrase: nextPassphrase, Without: "secret"}
	refused := func(want error) {
		t.Helper()
		if err := s.start().NewRoot(t.Context(), old, keep); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	refused(embassy.ErrPlaced)
	if err := s.start().Hold(t.Context(), "population", true); err != nil {
		t.Fatal(err)
	}
	keep.Without = "official"
	refused(embassy.ErrHeld)
	if err := s.start().Hold(t.Context(), "population", false); err != nil {
		t.Fatal(err)
	}
	s.spare()
	keep.Without = "none"
	refused(embassy.ErrUnknownName)
	if _, err := s.start().Erase(t.Context(), "secret", false); !errors.Is(err, embassy.ErrNotDestroyed) {
		t.Errorf("erased before: %v", err)
	}
	if dry, err := s.start().Erase(t.Context(), "secret", true); err != nil || dry.Targets[0].Objects < uint64(len(there)) || len(s.below(0, gone)) < len(there) {
		t.Errorf("%+v, %v", dry, err)
	}

	kit, next := s.without("next.txt")
	whole := old.Succeed()
	if _, err := s.start().Destroy(t.Context(), whole, "secret"); !errors.Is(err, embassy.ErrHoldsIt) {
		t.Errorf("with a root that opens it: %v", err)
	}
	if _, err := s.start().RotateRoot(t.Context(), next); !errors.Is(err, embassy.ErrReduced) {
		t.Errorf("a rotation to a root that does not: %v", err)
	}
	s.wrap = unreachable(2)
	if rep, err := s.start().Destroy(t.Context(), next, "secret"); err != nil || len(rep.Added) != 3 {
		t.Fatalf("%+v, %v", rep, err)
	}
	if rep, err := s.start().Destroy(t.Context(), next, "secret"); err != nil || len(rep.Added) != 0 {
		t.Fatalf("again: %+v, %v", rep, err)
	}
	s.root = next
	opensNothing(t, kit, s.charter(), next, old, gone)

	// One target is away, and another keeps a snapshot that is locked.
	rep := s.erase(4)
	if t0, t1, t2 := rep.Targets[0], rep.Targets[1], rep.Targets[2]; t0.Err != nil || t0.Objects < uint64(len(there)) ||
		t1.Err != nil || t1.Locked != 1 || !t1.Until.Equal(until) || !errors.Is(t2.Err, embassy.ErrDown) {
		t.Fatalf("%+v", rep.Targets)
	}
	if left := s.below(1, gone); len(s.below(0, gone)) != 0 || !slices.Equal(left, []string{sealed}) {
		t.Fatalf("%v are left", left)
	}
	for v, err := range locked.Versions(t.Context(), "") {
		if err != nil || strings.Contains(v.Name, gone.String()) && v.Name != sealed {
			t.Fatalf("version of %s is left, %v", v.Name, err)
		}
	}
	for _, dir := range []string{"chains", "spool"} {
		if entries, err := os.ReadDir(filepath.Join(s.config.StateDir, dir)); err != nil || len(entries) != 1 {
			t.Errorf("%s holds %v, %v", dir, entries, err)
		}
	}
	lines, err := s.catalog.KnownLines()
	if err != nil || slices.ContainsFunc(lines, func(l embassy.Line) bool { return l.Compartment == gone }) {
		t.Errorf("the catalog knows %v, %v", lines, err)
	}

	s.wrap = nil

	// The target that was away has the old charter: the new root opens all but this.
	keys, err := s.keys(2, next)
	if err != nil || len(keys.Compartments) != 1 {
		t.Fatalf("%+v, %v", keys, err)
	}
	if to, err := s.restoreFrom(2, keys, first); err != nil || !maps.Equal(s.tree(to), before) {
		t.Fatalf("from the target that was away: %v", err)
	}
	now = until.Add(time.Second)
	if rep := s.erase(0); rep.Targets[1].Objects != 1 || rep.Targets[2].Objects < uint64(len(there)) || len(s.below(1, gone))+len(s.below(2, gone)) != 0 {
		t.Fatalf("%+v", rep.Targets)
	}

	// Snapshots of before and after are as they were, with this root and the next.
	s.write("later", []byte("later"))
	second := s.mustBackup(0)
	s.holds(next, first, before)
	s.holds(next, second.Snapshot, s.tree(s.src))
	third := next.Succeed()
	s.rotateRoot(third)
	s.holds(third, first, before)
	if !third.Lacks(gone) || len(third.Ring()) != 3 {
		t.Errorf("a later root: %d roots", len(third.Ring()))
	}

	// A machine with the old configuration is told; so is a reader, and who would
	// take the name.
	reports, err := stale.start().Backup(t.Context(), embassy.BackupOptions{})
	if err != nil || !errors.Is(reports[1].Err, embassy.ErrDestroyed) || reports[1].Exit != 2 {
		t.Errorf("%+v, %v", reports, err)
	}
	if _, err := stale.start().ApplyCharter(t.Context(), third); !errors.Is(err, embassy.ErrDestroyed) {
		t.Errorf("the name is taken again: %v", err)
	}
	if _, err := embassy.ReaderKeys(s.charter(), exported); !errors.Is(err, embassy.ErrDestroyed) {
		t.Errorf("with a reader key: %v", err)
	}

	// A host brings back what it kept: nobody copies it, and the new root finds
	// nothing in it, with the charter or without.
	for _, name := range there {
		copyObject(t, host, s.mems[0], name)
	}
	s.root = old
	replicator := s.replicator()
	s.root = next
	replicator.replicate(0, embassy.ReplicateOptions{})
	s.verify(0, embassy.VerifyOptions{Level: embassy.Full})
	if len(s.below(1, gone))+len(s.below(2, gone)) != 0 {
		t.Error("the replicator copied it")
	}
	s.mems[0] = host
	_, alone := s.bare(0)
	for _, c := range []struct {
		root *crypto.Root
		want int
	}{{old, 1}, {next, 0}, {third, 0}} {
		v, _, err := embassy.OpenBareView(t.Context(), embassy.ViewOptions{Members: []*embassy.Member{alone}}, s.nation(), c.root)
		if err != nil {
			t.Fatal(err)
		}
		if got := v.Snapshots("hidden"); len(got) != c.want || c.want == 1 && got[0].Hash != hidden {
			t.Errorf("without a charter: %d snapshots of what was destroyed, want %d", len(got), c.want)
		}
		if got := v.Snapshots("population"); len(got) != 1 {
			t.Errorf("without a charter: %d snapshots", len(got))
		} else {
			s.restoreBare(v, got[0], before)
		}
	}
}

func TestDestroyTheLast(t *testing.T) {
	s := newSite(t, 1, 1)
	err := s.start().NewRoot(t.Context(), s.root, embassy.RootKeeping{KitPath: filepath.Join(s.dir, "n"), Passphrase: nextPassphrase, Without: "official"})
	if !errors.Is(err, embassy.ErrLastCompartment) {
		t.Error(err)
	}
}

// Whatever write is the last one, whether it arrived or not, the same steps again
// end as if nothing had happened.
func TestDestroyCrash(t *testing.T) {
	for n, done := 1, false; !done; n++ {
		if n == 100 {
			t.Fatal("it has no end")
		}
		s := newSite(t, 1, 1)
		s.write("a", []byte("a"))
		first, _ := s.doomed()
		gone := format.ID(s.root.CompartmentID("secret"))
		s.spare()
		next := s.shared(filepath.Join(s.dir, "next"))
		ctx, cancel := context.WithCancel(t.Context())
		var writes atomic.Int64
		arrives := n%2 == 0
		count := func(when bool) func(targets.Op, string) error {
			return func(op targets.Op, _ string) error {
				if op != targets.OpPut && op != targets.OpDelete || when != arrives {
					return ctx.Err()
				}
				if writes.Add(1) == int64(n+1)/2 {
					cancel()
				}
				return ctx.Err()
			}
		}
		s.wrap = func(_ int, t targets.Target) targets.Target {
			return &targets.Faulty{Target: t, Before: count(false), After: count(true)}
		}
		_, err := s.start().Destroy(ctx, next, "secret")
		if err == nil && ctx.Err() == nil {
			_, err = s.start().Erase(ctx, "secret", false)
		}
		done = ctx.Err() == nil
		if done && err != nil {
			t.Fatal(err)
		}
		cancel()
		s.wrap = nil
		if _, err := s.start().Destroy(t.Context(), next, "secret"); err != nil {
			t.Fatalf("after write %d: %v", n, err)
		}
		s.erase(0)
		if left := s.below(0, gone); len(left) != 0 {
			t.Fatalf("after write %d: %v", n, left)
		}
		s.holds(next, first, s.tree(s.src))
		s.mustBackup(0)
	}
}
