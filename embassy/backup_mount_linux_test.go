package embassy_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"embassy/embassy"
)

func TestBackupOneFileSystem(t *testing.T) {
	s := newSite(t, 1, 1)
	s.write("d/file", []byte("here"))
	for _, name := range []string{"other", "d/named"} {
		at := filepath.Join(s.src, name)
		if err := os.MkdirAll(at, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", at, "tmpfs", 0, "size=1m"); err != nil {
			t.Skipf("no file system can be mounted here: %v", err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
		s.write(name+"/below/file", []byte("there"))
	}
	d := &s.config.Datasets[0]
	d.OneFileSystem = true
	rep := s.mustBackup(0)
	if rep.Left != (embassy.LeftOut{Mounts: 2}) || rep.Files != 1 {
		t.Fatalf("%+v", rep)
	}
	if got, want := s.restored(s.src), []string{"d", "d/file", "d/named", "other"}; !slices.Equal(got, want) {
		t.Errorf("restored %q, want %q", got, want)
	}
	// A file system that is named as a source is meant.
	d.Sources = append(d.Sources, filepath.Join(s.src, "d/named"))
	if rep = s.mustBackup(0); rep.Left.Mounts != 1 || rep.Files != 2 {
		t.Errorf("%+v", rep)
	}
	d.Sources, d.OneFileSystem = d.Sources[:1], false
	if rep = s.mustBackup(0); rep.Left.Mounts != 0 || rep.Files != 3 {
		t.Errorf("%+v", rep)
	}
}
