package embassy_test

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"embassy/embassy"
)

// A file that holds more than its size says, as those of /proc do, is not
// stored as empty without a word.
func TestBackupFileWithoutSize(t *testing.T) {
	s := newSite(t, 1, 1)
	s.config.Datasets[0].Sources = []string{"/proc/version"}
	if rep := s.mustBackup(3); len(rep.Gaps) != 1 || rep.Bytes == 0 {
		t.Errorf("%+v", rep)
	}
}

// rewritingCatalog calls functions when a folder, and when a chunk is looked up.
type rewritingCatalog struct {
	hookedCatalog
	folder func()
}

func (c rewritingCatalog) CachedDir(series, path string) ([]byte, bool, error) {
	c.folder()
	return c.hookedCatalog.CachedDir(series, path)
}

// On a file system whose times come from the ticks of a clock, a file that is
// written again within the tick in which it was read is not taken for unchanged.
func TestBackupSameTick(t *testing.T) {
	s := newSite(t, 1, 1)
	if err := unix.Mount("ramfs", s.src, "ramfs", 0, ""); err != nil {
		t.Skipf("no file system can be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(s.src, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(s.src, "file")
	put := func(content string) func() {
		return func() {
			if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
				t.Error(err)
			}
		}
	}
	for range 20 {
		put("never")()
		service, err := embassy.New(embassy.Options{Site: s.config, Members: s.members(),
			Catalog: rewritingCatalog{hookedCatalog{s.catalog, sync.OnceFunc(put("after"))}, put("prior")}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := service.Backup(t.Context(), embassy.BackupOptions{}); err != nil {
			t.Fatal(err)
		}
		s.mustBackup(0)
		s.restore(0)
	}
}
