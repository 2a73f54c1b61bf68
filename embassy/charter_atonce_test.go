package embassy_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"embassy/embassy"
	"embassy/embassy/format"
	"embassy/targets"
)

// A machine whose own agent is suspended brings that to the targets, and
// records it.
func TestSuspendItself(t *testing.T) {
	s := newSite(t, 2, 1)
	s.fill(1, 1, 100)
	s.mustBackup(0)
	var me string
	for _, g := range s.charter().Agents {
		me = g.ID.String()
	}
	by := embassy.Authority{Root: s.root}
	if _, err := s.start().Suspend(t.Context(), by, me); err != nil {
		t.Fatal(err)
	}
	past, wrong, err := s.start().Past(t.Context())
	if err != nil || len(past) != 2 || len(wrong) != 0 || len(past[1].On) != 2 || past[1].Agents[0].Status != format.AgentSuspended {
		t.Fatalf("%d charters, %v, %v", len(past), wrong, err)
	}
	if _, err := s.start().Resume(t.Context(), by, me); err != nil {
		t.Fatal(err)
	}
	var signed []string
	for _, r := range s.audits(false).Records {
		if r.Deed.What == string(embassy.DidSignCharter) {
			signed = append(signed, r.Deed.Facts[0].Value)
		}
	}
	if !slices.Equal(signed, []string{"2", "3"}) {
		t.Errorf("recorded: charters %v", signed)
	}
}

// What is signed while a person still reads another change is not undone.
func TestCharterInBetween(t *testing.T) {
	for _, from := range []string{"this machine", "another machine"} {
		t.Run(from, func(t *testing.T) {
			a, b := joined(t, 2)
			other := map[string]*site{"this machine": a, "another machine": b}[from]
			_, err := a.start().Suspend(t.Context(), embassy.Authority{Root: a.root, Confirm: func([]string) error {
				_, err := other.start().RotateReader(t.Context(), a.root, nil)
				return err
			}}, "beta")
			if !errors.Is(err, embassy.ErrStale) {
				t.Errorf("signed what does not follow: %v", err)
			}
			past, wrong, err := a.start().Past(t.Context())
			if err != nil || len(past) != 3 || len(wrong) != 0 {
				t.Errorf("%d charters, %v, %v", len(past), wrong, err)
			}
		})
	}
}

// Changes that are signed at once by two processes of one machine follow one
// another, or are refused.
func TestCharterAtOnce(t *testing.T) {
	s := newSite(t, 1, 1)
	var at sync.WaitGroup
	errs := make([]error, 6)
	for i := range errs {
		svc := s.start()
		at.Go(func() { _, errs[i] = svc.RotateReader(t.Context(), s.root, nil) })
	}
	at.Wait()
	signed := 0
	for _, err := range errs {
		if err == nil {
			signed++
		} else if !errors.Is(err, embassy.ErrStale) {
			t.Error(err)
		}
	}
	past, wrong, err := s.start().Past(t.Context())
	if err != nil || signed == 0 || len(past) != 1+signed || len(wrong) != 0 {
		t.Errorf("%d signed, %d charters, %v, %v", signed, len(past), wrong, err)
	}
}

// Of two charters with one number the later one counts on the machine that
// signed the earlier one too.
func TestForkedCharterCountsEverywhere(t *testing.T) {
	a, _ := joined(t, 1)
	past, _, err := a.start().Past(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	twin := *past[1].Charter
	twin.Time++
	object, err := format.SealCharter(twin, a.root.Signer())
	if err != nil {
		t.Fatal(err)
	}
	h := format.HashOf(object)
	if err := a.mems[0].Put(t.Context(), targets.Object{Name: format.CharterName(twin.Nation, 2, h), Data: object, SHA256: h}); err != nil {
		t.Fatal(err)
	}
	if _, now, _, err := a.start().CharterOf(t.Context()); err != nil || format.HashOf(now) != h {
		t.Errorf("the earlier one counts: %v", err)
	}
}

// A charter that a killed run kept, and no target has, gets there before the
// next one; while no target answers, none follows it.
func TestCharterBeforeReachesTargets(t *testing.T) {
	s := newSite(t, 2, 1)
	state := filepath.Join(s.config.StateDir, "charter")
	rotate := func() error {
		_, err := s.start().RotateReader(t.Context(), s.root, nil)
		return err
	}
	if err := rotate(); err != nil {
		t.Fatal(err)
	}
	kept, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range s.mems { // as if the run had ended before the first put
		if err := m.Delete(t.Context(), format.CharterName(s.nation(), 2, format.HashOf(kept))); err != nil {
			t.Fatal(err)
		}
	}
	s.wrap = func(i int, tgt targets.Target) targets.Target { return unreachable(i)(i, tgt) }
	if err := rotate(); !errors.Is(err, embassy.ErrUnpublished) {
		t.Errorf("signed on top of what nobody has: %v", err)
	}
	if now, err := os.ReadFile(state); err != nil || !slices.Equal(now, kept) {
		t.Errorf("the charter is another one: %v", err)
	}
	s.wrap = nil
	if err := rotate(); err != nil {
		t.Fatal(err)
	}
	past, wrong, err := s.start().Past(t.Context())
	if err != nil || len(past) != 3 || len(wrong) != 0 {
		t.Errorf("%d charters, %v, %v", len(past), wrong, err)
	}
}
