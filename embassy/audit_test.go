package embassy_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"embassy/embassy"
	"embassy/embassy/format"
	"embassy/targets"
)

// audits reads the log of the machine, with the targets' when all.
func (s *site) audits(all bool) embassy.AuditReport {
	s.t.Helper()
	svc := s.start()
	rep, err := svc.AuditLog()
	if all {
		var v *embassy.View
		keys, keyErr := svc.AgentKeys(s.t.Context())
		if keyErr != nil {
			s.t.Fatal(keyErr)
		}
		if v, err = embassy.OpenView(s.t.Context(), embassy.ViewOptions{Keys: keys, Members: s.members()}); err == nil {
			rep, err = svc.AuditLogs(s.t.Context(), v)
		}
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return rep
}

func (s *site) record(what string) {
	s.t.Helper()
	if err := s.start().Audit(embassy.DidOverride, "", "reason", what); err != nil {
		s.t.Fatal(err)
	}
}

// What is recorded reaches a target that was away, through a replicator, and is
// verified like everything else.
func TestAuditTravels(t *testing.T) {
	s := newSite(t, 2, 1)
	s.fill(1, 3, 2000)
	s.mustBackup(0)
	s.wrap = unreachable(1)
	s.record("one")
	if err := s.start().DeliverAudit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if here, away := s.count(0, "record"), s.count(1, "record"); here != 1 || away != 0 {
		t.Fatalf("%d and %d records", here, away)
	}
	s.wrap = nil
	s.replicator().replicate(0, embassy.ReplicateOptions{})
	s.same()
	after := s.verify(0, embassy.VerifyOptions{Level: embassy.Full})
	if s.count(1, "record") != 1 || after.Targets[1].Listed != uint64(len(s.objects(1))) || after.Targets[1].Read != after.Targets[1].Listed {
		t.Errorf("%d objects, %+v", len(s.objects(1)), after.Targets)
	}
	lost := s.one(1, "/record/")
	if err := s.mems[1].Delete(t.Context(), lost); err != nil {
		t.Fatal(err)
	}
	if rep := s.verify(5, embassy.VerifyOptions{}); rep.Targets[1].BadTotal != 1 || rep.Targets[1].Bad[0].Object != lost {
		t.Errorf("%+v", rep.Targets[1])
	}
	s.verify(0, embassy.VerifyOptions{Repair: true}) // which is recorded too
	rep := s.audits(true)
	if len(rep.Problems) > 0 || len(rep.Records) != 2 || rep.Records[0].Deed.Facts[0].Value != "one" || !rep.Records[0].Listed ||
		rep.Records[1].Deed.What != "repair" || rep.Records[1].Deed.Outcome != "1 bad, 1 mended" {
		t.Errorf("%+v", rep)
	}
}

// No crash between the record, the entry and the note about both loses a record,
// and no target that answers nothing does.
func TestAuditIsListedAfterACrash(t *testing.T) {
	s := newSite(t, 2, 1)
	s.record("before any backup")
	s.fill(1, 3, 2000)
	s.mustBackup(0)
	s.record("no entry yet")
	s.wrap = func(int, targets.Target) targets.Target {
		return &targets.Faulty{Target: targets.NewMem(), Before: func(targets.Op, string) error { return errors.New("connection refused") }}
	}
	if err := s.start().DeliverAudit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := s.audits(false).Records; len(r) != 2 || r[1].Listed || !r[0].Listed {
		t.Fatalf("%+v", r)
	}
	s.wrap = nil
	notes, err := filepath.Glob(filepath.Join(s.config.StateDir, "audit", "listed-*"))
	if err != nil || len(notes) != 1 {
		t.Fatal(notes, err)
	}
	if err := os.Remove(notes[0]); err != nil { // as if the crash came before it was written
		t.Fatal(err)
	}
	s.mustBackup(0)
	rep := s.audits(true)
	if len(rep.Problems) > 0 || len(rep.Records) != 2 || !rep.Records[1].Listed || s.count(0, "record") != 2 || s.count(1, "record") != 2 {
		t.Errorf("%+v", rep)
	}
	s.verify(0, embassy.VerifyOptions{Level: embassy.Full})
}

// Several processes write one log: every number once, each after the one before.
func TestAuditNumbers(t *testing.T) {
	s := newSite(t, 1, 1)
	svc := s.start()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 4 {
				if err := svc.Audit(embassy.DidOverride, "", "text", strings.Repeat("ü", 2000)+"\xff"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	rep := s.audits(false)
	if len(rep.Records) != 32 || len(rep.Problems) > 0 || rep.Records[31].Number != 32 {
		t.Fatalf("%d records, %v", len(rep.Records), rep.Problems)
	}
	if entries, err := os.ReadDir(filepath.Join(s.config.StateDir, "audit")); err != nil || len(entries) != 32 {
		t.Errorf("%d files, %v", len(entries), err)
	}
}

// Two machines with one state directory sign one number twice, which every
// target shows.
func TestAuditOfAClone(t *testing.T) {
	s := newSite(t, 2, 1)
	s.fill(1, 3, 2000)
	s.mustBackup(0)
	s.record("before")
	twin := s.clone(t)
	s.record("here")
	twin.record("there")
	s.mustBackup(0)
	if rep := s.audits(true); len(rep.Problems) > 0 {
		t.Fatalf("before the clone showed itself: %v", rep.Problems)
	}
	twin.fill(2, 3, 2000)
	twin.mustBackup(5) // it finds the fork, and starts a chain that lists all
	for _, m := range []*site{s, twin} {
		rep := m.audits(true)
		if len(rep.Records) != 3 || len(rep.Problems) != 1 || !strings.Contains(rep.Problems[0].String(), "more than one record of this number") {
			t.Errorf("%d records, %v", len(rep.Records), rep.Problems)
		}
	}
}

// A machine that is no agent keeps no log, and one whose log cannot be written
// says so.
func TestAuditWithoutALog(t *testing.T) {
	s := newSite(t, 1, 1)
	if err := s.replicator().start().Audit(embassy.DidRepair, ""); err != nil {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(s.config.StateDir, "charter")); err != nil {
		t.Fatal(err)
	}
	svc := s.start()
	if err := svc.Audit(embassy.DidRepair, ""); !errors.Is(err, embassy.ErrNotRecorded) {
		t.Error(err)
	}
	if _, err := svc.Trust(context.Background(), "t0", "why"); !errors.Is(err, embassy.ErrNotRecorded) {
		t.Errorf("trusted without a record: %v", err)
	}
}

// A captured agent lists records without end: so many are read, and the rest is
// told.
func TestAuditOfManyRecords(t *testing.T) {
	s := newSite(t, 1, 1)
	s.fill(1, 3, 2000)
	s.mustBackup(0)
	s.record("before")
	key, ch := s.agentKey(), s.charter()
	e := format.Entry{Nation: ch.Nation, Compartment: ch.Compartments[0].ID, Agent: key.ID(), Chain: format.ID{1}, Seq: 1, Time: 1}
	for i := range 700 {
		e.Adds = append(e.Adds, format.Listed{Kind: format.KindRecord, Hash: format.HashOf([]byte{byte(i), byte(i >> 8)}), Size: format.MaxAuditSize})
	}
	object, err := format.SealEntry(e, key.Signer)
	if err != nil {
		t.Fatal(err)
	}
	plant(t, s.mems[0], format.EntryName(e.Nation, e.Compartment, e.Agent, e.Chain, 1, format.HashOf(object)), object)
	rep := s.audits(true)
	if len(rep.Problems) != 513 || rep.Bytes != 64<<20 || !strings.Contains(rep.Problems[0].String()+rep.Problems[512].String(), "188 records left out") {
		t.Errorf("%d bytes, %d problems, such as %v", rep.Bytes, len(rep.Problems), rep.Problems[:min(1, len(rep.Problems))])
	}
}
