package targets_test

import (
	"errors"
	"testing"
	"time"

	"embassy/targets"
	"embassy/targets/targettest"
)

func TestMem(t *testing.T) {
	targettest.Test(t, func(*testing.T) targets.Target { return targets.NewMem() })
}

func TestMemPowers(t *testing.T) {
	with := func(o targets.MemOptions) func(*testing.T) targets.Target {
		return func(*testing.T) targets.Target { return targets.NewMemWith(o) }
	}
	t.Run("versioned", func(t *testing.T) { targettest.Versioned(t, with(targets.MemOptions{Versioning: true})) })
	t.Run("contract with versions", func(t *testing.T) { targettest.Test(t, with(targets.MemOptions{Versioning: true})) })
	t.Run("locker", func(t *testing.T) { targettest.Locker(t, with(targets.MemOptions{Locks: true})) })
	for name, c := range map[string]struct {
		has  targets.MemOptions
		want targets.Features
	}{
		"plain":          {},
		"with versions":  {targets.MemOptions{Versioning: true}, targets.Features{Versioning: true}},
		"with locks":     {targets.MemOptions{Locks: true}, targets.Features{Versioning: true, Locks: true}},
		"with a default": {targets.MemOptions{LockMode: "compliance", LockFor: time.Hour}, targets.Features{Versioning: true, Locks: true, DefaultMode: "compliance", DefaultFor: time.Hour}},
	} {
		t.Run("inspected "+name, func(t *testing.T) { targettest.Inspected(t, c.want, with(c.has)) })
	}
}

// Locks end by the clock that was given, and rights can be taken away.
func TestMemClockAndRights(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	m := targets.NewMemWith(targets.MemOptions{LockMode: "governance", LockFor: time.Hour, NoBypass: true, Now: func() time.Time { return now }})
	if err := m.Put(t.Context(), object("a", []byte("x"))); err != nil {
		t.Fatal(err)
	}
	until := now.Add(time.Hour)
	if l, err := m.LockOf(t.Context(), "a"); err != nil || l != (targets.Lock{Mode: "governance", Until: until}) {
		t.Errorf("the lock is %+v, %v", l, err)
	}
	if err := m.SetLock(t.Context(), "a", targets.Lock{}); !errors.Is(err, targets.ErrDenied) {
		t.Errorf("weakening without the right: %v", err)
	}
	remove := func() error { return m.DeleteVersion(t.Context(), "a", "1") }
	if err := remove(); !errors.Is(err, targets.ErrDenied) {
		t.Errorf("deleting what is locked: %v", err)
	}
	now = until
	if err := remove(); err != nil {
		t.Errorf("deleting after the lock: %v", err)
	}

	m = targets.NewMemWith(targets.MemOptions{Versioning: true, NoDelete: true})
	if err := m.Put(t.Context(), object("a", []byte("x"))); err != nil {
		t.Fatal(err)
	}
	if err := m.Delete(t.Context(), "a"); !errors.Is(err, targets.ErrDenied) {
		t.Errorf("Delete without the right: %v", err)
	}
	if err := remove(); !errors.Is(err, targets.ErrDenied) {
		t.Errorf("DeleteVersion without the right: %v", err)
	}
}

// A store without versions shows what it has as one version of each.
func TestVersionsOfPlainMem(t *testing.T) {
	m := targets.NewMem()
	for range 2 {
		if err := m.Put(t.Context(), object("a", []byte("x"))); err != nil {
			t.Fatal(err)
		}
	}
	seen := 0
	for v, err := range m.Versions(t.Context(), "") {
		if seen++; err != nil || v.Name != "a" || v.Size != 1 || !v.Latest || v.Marker || v.ID == "" {
			t.Errorf("%+v, %v", v, err)
		}
	}
	if seen != 1 {
		t.Errorf("%d versions", seen)
	}
}
