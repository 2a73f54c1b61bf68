package embassy_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"embassy/chunk"
	"embassy/embassy"
	"embassy/embassy/format"
)

// hookedCatalog calls a function whenever a chunk is looked up, which is while
// the file that it is of may still be read.
type hookedCatalog struct {
	embassy.Catalog
	find func()
}

func (c hookedCatalog) FindChunks(ids []chunk.ID, packs []embassy.PackNum) error {
	c.find()
	return c.Catalog.FindChunks(ids, packs)
}

// TestBackupChangingFile: what changes once while it is read is stored as it is
// then, with the mode and time of then; what never rests is flagged.
func TestBackupChangingFile(t *testing.T) {
	for name, rests := range map[string]bool{"changes once": true, "never rests": false} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, 1, 1)
			// More than fits between reading and looking up.
			s.write("busy", bytes.Repeat([]byte("0123456789abcdef"), 4<<20))
			path := filepath.Join(s.src, "busy")
			change := func() {
				f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
				if err == nil {
					_, err = f.WriteString("more")
				}
				if err := errors.Join(err, f.Close(), os.Chmod(path, 0o600)); err != nil {
					t.Error(err)
				}
			}
			var changing sync.WaitGroup
			done := make(chan struct{})
			if rests {
				change = sync.OnceFunc(change)
			} else {
				again := change
				change = func() {}
				changing.Go(func() {
					for {
						select {
						case <-done:
							return
						default:
							again()
						}
					}
				})
			}
			service, err := embassy.New(embassy.Options{Site: s.config, Members: s.members(), Catalog: hookedCatalog{s.catalog, change}})
			if err != nil {
				t.Fatal(err)
			}
			reports, err := service.Backup(t.Context(), embassy.BackupOptions{})
			close(done)
			changing.Wait()
			if err != nil {
				t.Fatal(err)
			}
			rep := reports[0]
			if rests {
				if rep.Exit != 0 || len(rep.Gaps) > 0 {
					t.Errorf("%+v", rep)
				}
				s.restore(0)
				return
			}
			if rep.Exit != 3 || len(rep.Gaps) != 1 || string(rep.Gaps[0].Path) != path || !strings.Contains(rep.Gaps[0].Reason, "changed while it was read") {
				t.Errorf("%+v", rep)
			}
			if rep := s.mustBackup(0); rep.Same != 0 {
				t.Error("a file that was flagged was taken for unchanged")
			}
			s.restore(0)
		})
	}
}

// TestBackupLinkReplaced: a name that is given to another file, while what it
// named is read, takes nothing from the other name of that.
func TestBackupLinkReplaced(t *testing.T) {
	s := newSite(t, 1, 1)
	// More than fits between reading and looking up.
	s.write("a", bytes.Repeat([]byte("0123456789abcdef"), 4<<20))
	s.write("new", []byte("another file"))
	at := func(name string) string { return filepath.Join(s.src, name) }
	if err := os.Link(at("a"), at("b")); err != nil {
		t.Fatal(err)
	}
	replace := sync.OnceFunc(func() {
		if err := os.Rename(at("new"), at("a")); err != nil {
			t.Error(err)
		}
	})
	service, err := embassy.New(embassy.Options{Site: s.config, Members: s.members(), Catalog: hookedCatalog{s.catalog, replace}})
	if err != nil {
		t.Fatal(err)
	}
	if reports, err := service.Backup(t.Context(), embassy.BackupOptions{}); err != nil || len(reports[0].Gaps) > 1 {
		t.Fatalf("%v: %+v", err, reports)
	}
	v, err := s.view(0)
	if err != nil {
		t.Fatal(err)
	}
	sizes := map[string]uint64{}
	if err := v.Walk(t.Context(), v.Snapshots("")[0], "", true, func(path string, n *format.Node) error {
		if n.Content != nil && n.Type == format.File {
			sizes[filepath.Base(path)] = n.Content.Size
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if sizes["a"] != 12 || sizes["b"] != 64<<20 {
		t.Errorf("stored %v", sizes)
	}
}
