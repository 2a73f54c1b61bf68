package embassy_test

import (
	"strings"
	"testing"
	"time"

	"embassy/embassy"
	"embassy/embassy/config"
	"embassy/targets"
)

const day = 24 * time.Hour

// lockSite is a site whose target 0 asks for a lock and can, whose target 1
// asks and cannot, and whose target 2 does not ask.
type lockSite struct {
	*site
	now time.Time
}

func newLockSite(t *testing.T, o targets.MemOptions) *lockSite {
	s := &lockSite{site: newSite(t, 3, 2), now: time.Now()}
	for i := range 2 {
		s.config.Targets[i].Lock = config.Lock{Mode: "governance", Days: 30}
	}
	o.Now = func() time.Time { return s.now }
	locked := targets.NewMemWith(o)
	for name := range s.objects(0) {
		copyObject(t, s.mems[0], locked, name)
	}
	s.mems[0] = locked
	s.fill(1, 10, 20_000)
	s.mustBackup(0)
	return s
}

func (s *lockSite) renew(exit int) embassy.LockReport {
	s.t.Helper()
	svc, err := embassy.New(embassy.Options{Site: s.config, Members: s.members(), Catalog: s.catalog, Now: func() time.Time { return s.now }})
	if err != nil {
		s.t.Fatal(err)
	}
	rep, err := svc.RenewLocks(s.t.Context())
	if err != nil || rep.Exit != exit {
		s.t.Fatalf("exit code %d, want %d: %+v, %v", rep.Exit, exit, rep, err)
	}
	return rep
}

func (s *lockSite) lockOf(name string) targets.Lock {
	s.t.Helper()
	l, err := s.mems[0].LockOf(s.t.Context(), name)
	if err != nil {
		s.t.Fatal(err)
	}
	return l
}

// Everything is locked for the period, kept so as time goes by, and never
// weakened.
func TestRenewLocks(t *testing.T) {
	s := newLockSite(t, targets.MemOptions{Locks: true})
	packs := s.holding(0, "/pack/")
	// One object is better protected already, one for too short a time.
	strong := targets.Lock{Mode: "compliance", Until: s.now.Add(300 * day)}
	weak := targets.Lock{Mode: "compliance", Until: s.now.Add(2 * day)}
	for name, l := range map[string]targets.Lock{packs[0]: strong, s.holding(0, "/ledger/")[0]: weak} {
		if err := s.mems[0].SetLock(t.Context(), name, l); err != nil {
			t.Fatal(err)
		}
	}
	s.config.Targets[1].Lock = config.Lock{}
	names := s.objects(0)
	rep := s.renew(0)
	if got := rep.Targets; len(got) != 1 || got[0].Objects != uint64(len(names)) || got[0].Extended != uint64(len(names))-1 || !got[0].Earliest.Equal(s.now.Add(30*day)) {
		t.Fatalf("%+v, %d objects", got, len(names))
	}
	for name := range names {
		l := s.lockOf(name)
		want := targets.Lock{Mode: "governance", Until: s.now.Add(30 * day)}
		switch {
		case name == packs[0]:
			want = strong
		case strings.Contains(name, "/ledger/"):
			want.Mode = "compliance"
		}
		if l.Mode != want.Mode || !l.Until.Equal(want.Until) {
			t.Fatalf("%s: %+v, want %+v", name, l, want)
		}
	}
	if v := s.renew(0).Targets[0]; v.Extended != 0 || v.Objects != uint64(len(names)) {
		t.Fatalf("again: %+v", v)
	}
	s.now = s.now.Add(14 * day)
	if v := s.renew(0).Targets[0]; v.Extended != 0 {
		t.Fatalf("before half of the period: %+v", v)
	}
	s.now = s.now.Add(2 * day)
	if v := s.renew(0).Targets[0]; v.Extended != uint64(len(names))-1 || !v.Earliest.Equal(s.now.Add(30*day)) {
		t.Fatalf("after half of the period: %+v", v)
	}
	// From governance to compliance, if that is configured.
	s.config.Targets[0].Lock.Mode = "compliance"
	s.now = s.now.Add(16 * day)
	s.renew(0)
	if l := s.lockOf(s.holding(0, "/index/")[0]); l.Mode != "compliance" || !l.Until.Equal(s.now.Add(30*day)) {
		t.Fatalf("%+v", l)
	}
	svc := s.start()
	l, ok, err := svc.LastLocked("t0")
	if err != nil || !ok || l.Earliest == nil || !l.Earliest.Equal(s.now.Add(30*day)) || l.Objects != uint64(len(names)) {
		t.Fatalf("%+v, %t, %v", l, ok, err)
	}
}

// A store without locks, and one that is dead, are told of and hold up nobody.
func TestRenewLocksDenied(t *testing.T) {
	s := newLockSite(t, targets.MemOptions{Locks: true})
	s.wrap = func(i int, tgt targets.Target) targets.Target {
		if i == 1 {
			return struct{ targets.Target }{tgt} // nothing but a Target
		}
		return tgt
	}
	rep := s.renew(4)
	if rep.Targets[0].Err != nil || rep.Targets[0].Extended == 0 || rep.Targets[1].Err == nil {
		t.Fatalf("%+v", rep.Targets)
	}
	s.wrap = nil // a Locker that has no locks
	if v := s.renew(4).Targets[1]; v.Denied == 0 || v.Denied != v.Objects || v.Extended != 0 {
		t.Fatalf("%+v", v)
	}
	s.wrap = func(i int, tgt targets.Target) targets.Target {
		if i == 0 {
			return refuse(tgt)
		}
		return tgt
	}
	if v := s.renew(4).Targets[0]; v.Err == nil {
		t.Fatalf("%+v", v)
	}
	if l, ok, err := s.start().LastLocked("t0"); err != nil || !ok || l.Error == "" || l.Earliest == nil {
		t.Fatalf("what was known of locks is forgotten: %+v, %v", l, err)
	}
}
