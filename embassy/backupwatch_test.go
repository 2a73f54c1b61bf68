package embassy_test

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"embassy/embassy"
	"embassy/targets"
)

// told runs a backup whose packs arrive only when something was told that until
// accepts, and returns all that was told.
func (s *site) told(until func(embassy.Progress) bool) (all []embassy.Progress, report embassy.BackupReport) {
	s.t.Helper()
	open := make(chan struct{})
	accept := sync.OnceFunc(func() { close(open) })
	s.wrap = func(_ int, t targets.Target) targets.Target {
		return &targets.Faulty{Target: t, Before: func(op targets.Op, name string) error {
			if op == targets.OpPut && strings.Contains(name, "/pack/") {
				select {
				case <-open:
				case <-s.t.Context().Done():
				}
			}
			return nil
		}}
	}
	defer func() { s.wrap = nil }()
	reports, err := s.start().With(func(embassy.Finding) {}, func(p embassy.Progress) {
		all = append(all, p)
		if until(p) {
			accept()
		}
	}, slog.New(slog.DiscardHandler)).Backup(s.t.Context(), embassy.BackupOptions{})
	if err != nil || len(reports) != 1 || reports[0].Exit != 0 {
		s.t.Fatalf("%+v, %v", reports, err)
	}
	return all, reports[0]
}

// A first backup says how much there is to come while it runs, as a scan beside
// it has counted, and a later one says what the last snapshot held. In the end
// it has come past every byte, though most are in one file.
func TestBackupTellsWhatIsToCome(t *testing.T) {
	s := newSite(t, 2, 1)
	s.config.Datasets[0].Exclude = []string{"*.tmp"}
	s.config.Datasets[0].ExcludeLargerThan = 3 << 20
	s.config.Datasets[0].ExcludeCaches = true
	s.fill(1, 12, 4000)
	s.write("large", make([]byte, 3<<20))
	s.write("larger", make([]byte, 3<<20+1))
	s.write("d1/x.tmp", []byte("x"))
	s.write("cache/CACHEDIR.TAG", []byte(cacheSignature))
	s.write("cache/page", []byte("x"))
	if err := os.Link(filepath.Join(s.src, "large"), filepath.Join(s.src, "linked")); err != nil {
		t.Fatal(err)
	}
	const files = 12 + 2 + 1
	whole := func(p embassy.Progress) bool { return p.FilesTotal == files }
	all, first := s.told(whole)
	if last := all[len(all)-1]; last.Files != files || last.Bytes != first.Bytes || last.BytesTotal != first.Bytes || !last.Estimated ||
		last.PerTarget["t0"] != first.Targets[0].Sent || last.Phase != "confirm" {
		t.Errorf("the backup of %d files, %d bytes, %d sent, ended with %+v", first.Files, first.Bytes, first.Targets[0].Sent, last)
	}
	s.write("d1/one", []byte("more"))
	all, second := s.told(whole)
	if last := all[len(all)-1]; last.Files != files+1 || last.FilesTotal != files || last.BytesTotal != first.Bytes || last.Bytes != second.Bytes {
		t.Errorf("the second backup, of %d bytes, ended with %+v", second.Bytes, last)
	}
}

// So many tiny files that their contents never fill a pack are known as
// unchanged the next time.
func TestBackupKnowsManyTinyFiles(t *testing.T) {
	s := newSite(t, 1, 1)
	const files = 40_000
	for i := range files {
		if err := os.WriteFile(filepath.Join(s.src, fmt.Sprintf("%05d", i)), fmt.Append(nil, i), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if rep := s.mustBackup(0); rep.New != files || rep.Packs < 2 {
		t.Errorf("%d files in %d packs: their content waits for one that is full", rep.New, rep.Packs)
	}
	if rep := s.mustBackup(0); rep.Same != files || rep.Packs != 0 {
		t.Errorf("%d files unchanged, %d new packs", rep.Same, rep.Packs)
	}
}
