package catalog_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dgraph-io/badger/v4"

	"embassy/catalog"
	"embassy/embassy"
)

func TestNoSpace(t *testing.T) {
	dir := t.TempDir()
	free := uint64(1 << 40)
	opts := catalog.Options{Free: func(string) (uint64, error) { return free, nil }}
	c, err := catalog.Open(dir, opts)
	check(t, err)
	addPack(t, c, pack(1, chain(1)), ids(0, 10))
	check(t, c.SetListed(chain(1), 1, []embassy.ListedPack{{Num: 1}}))

	free = 50 << 20
	_, addErr := c.AddPack(pack(2, chain(1)), ids(10, 20))
	for name, err := range map[string]error{
		"AddPack":       addErr,
		"SetListed":     c.SetListed(chain(1), 2, nil),
		"Place":         c.Place("t", hash(1), now),
		"SetSeenHead":   c.SetSeenHead("t", line(1), embassy.SeenHead{}),
		"PutCachedDirs": c.PutCachedDirs("s", map[string][]byte{"/": {}}),
	} {
		if !errors.Is(err, catalog.ErrNoSpace) || !strings.Contains(err.Error(), "50 MiB free, 64 MiB needed") {
			t.Errorf("%s: %v", name, err)
		}
	}
	equal(t, find(t, c, ids(0, 20)), append(repeat(1, 10), repeat(0, 10)...))
	head, err := c.ListedHead(chain(1))
	check(t, err)
	equal(t, head, uint64(1))

	free = 66 << 20
	check(t, c.Note("small", make([]byte, 1<<20)))
	if err := c.Note("large", make([]byte, 5<<20)); !errors.Is(err, catalog.ErrNoSpace) {
		t.Errorf("a value larger than what is free: %v", err)
	}
	check(t, c.Close())

	free = 0
	if _, err := catalog.Open(dir, opts); !errors.Is(err, catalog.ErrNoSpace) || !strings.Contains(err.Error(), dir) {
		t.Errorf("Open: %v", err)
	}
}

func TestLogger(t *testing.T) {
	var log bytes.Buffer
	for _, level := range []slog.Level{slog.LevelInfo, slog.LevelDebug} {
		log.Reset()
		c, err := catalog.Open(t.TempDir(), catalog.Options{
			Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: level})),
		})
		check(t, err)
		check(t, c.Close())
		equal(t, log.Len() > 0, level == slog.LevelDebug)
	}
	if !strings.Contains(log.String(), "msg=badger severity=") {
		t.Fatal(log.String())
	}
}

func TestSchema(t *testing.T) {
	dir := t.TempDir()
	check(t, open(t, dir).Close())
	set := func(fn func(txn *badger.Txn) error) {
		t.Helper()
		db, err := badger.Open(badger.DefaultOptions(filepath.Join(dir, "badger")).WithLogger(nil))
		check(t, err)
		check(t, db.Update(fn))
		check(t, db.Close())
	}
	set(func(txn *badger.Txn) error { return txn.Set([]byte("s"), []byte{0, 0, 1, 0}) })
	_, err := catalog.Open(dir, catalog.Options{})
	if !errors.Is(err, catalog.ErrSchema) || !strings.Contains(err.Error(), "256") {
		t.Fatalf("schema 256: %v", err)
	}
	set(func(txn *badger.Txn) error {
		return errors.Join(txn.Delete([]byte("s")), txn.Set([]byte("other"), nil))
	})
	if _, err := catalog.Open(dir, catalog.Options{}); !errors.Is(err, catalog.ErrCorrupt) {
		t.Fatalf("a foreign database: %v", err)
	}
}

func TestOpenCreatesPrivateFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	open(t, dir)
	info, err := os.Stat(dir)
	check(t, err)
	equal(t, info.Mode().Perm(), os.FileMode(0o700))
	file := filepath.Join(dir, "file")
	check(t, os.WriteFile(file, nil, 0o600))
	if _, err := catalog.Open(filepath.Join(file, "x"), catalog.Options{}); err == nil || errors.Is(err, catalog.ErrCorrupt) {
		t.Fatalf("a folder that cannot be made: %v", err)
	}
}
