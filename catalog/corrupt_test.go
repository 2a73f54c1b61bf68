package catalog_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"embassy/catalog"
	"embassy/chunk"
	"embassy/embassy"
)

func tempDir(t *rapid.T) (string, error) {
	dir, err := os.MkdirTemp("", "catalog")
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	})
	return dir, err
}

// filled returns the folder of a closed catalog with tables, a value log and
// several levels.
func filled(t *testing.T) string {
	dir := t.TempDir()
	c := open(t, dir)
	for i := range 20 {
		addPack(t, c, pack(i, chain(1)), ids(i*3_000, i*3_000+3_000))
		check(t, c.PutCachedDirs("s", map[string][]byte{fmt.Sprint("/", i): make([]byte, 600<<10)}))
	}
	check(t, c.Close())
	return dir
}

func TestCorruptManifest(t *testing.T) {
	source := filled(t)
	for name, damage := range map[string]func(path string) error{
		"garbage":        func(path string) error { return os.WriteFile(path, []byte("garbage garbage garbage"), 0o600) },
		"empty":          func(path string) error { return os.Truncate(path, 0) },
		"missing":        os.Remove,
		"flipped":        func(path string) error { return flip(path, 20) },
		"is a directory": func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			check(t, os.CopyFS(dir, os.DirFS(source)))
			check(t, damage(filepath.Join(dir, "badger", "MANIFEST")))
			before := names(t, dir)
			for range 2 {
				_, err := catalog.Open(dir, catalog.Options{})
				if !errors.Is(err, catalog.ErrCorrupt) {
					t.Fatal(err)
				}
				for _, want := range []string{dir, "move", "rebuild"} {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("%q is not in %q", want, err)
					}
				}
			}
			equal(t, names(t, dir), before)

			check(t, os.RemoveAll(dir))
			open(t, dir)
		})
	}
}

// Any damage to any file gives ErrCorrupt or a working catalog; never a panic,
// and never a chunk in a pack where it is not.
func TestCorruptFiles(t *testing.T) {
	source := filled(t)
	files := names(t, filepath.Join(source, "badger"))
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	refused := 0
	for _, name := range files {
		info, err := os.Stat(filepath.Join(source, "badger", name))
		check(t, err)
		size := info.Size()
		damages := map[string]func(path string) error{
			"missing": os.Remove,
			"empty":   func(path string) error { return os.Truncate(path, 0) },
			"short":   func(path string) error { return os.Truncate(path, min(size, 10)) },
			"cut":     func(path string) error { return os.Truncate(path, rnd.Int64N(size+1)) },
			"longer":  func(path string) error { return os.Truncate(path, size+1000) },
			"zeroed":  func(path string) error { return os.WriteFile(path, make([]byte, size), 0o600) },
			"noise": func(path string) error {
				b := make([]byte, size)
				for i := range b {
					b[i] = byte(rnd.Uint32())
				}
				return os.WriteFile(path, b, 0o600)
			},
		}
		for i := range 4 {
			damages[fmt.Sprint("flipped at the end ", i)] = func(path string) error {
				return flip(path, max(0, size-1-rnd.Int64N(64)))
			}
			damages[fmt.Sprint("flipped ", i)] = func(path string) error { return flip(path, rnd.Int64N(max(1, size))) }
		}
		for how, damage := range damages {
			if size == 0 && how != "missing" {
				continue
			}
			dir := filepath.Join(t.TempDir(), "c")
			check(t, os.CopyFS(dir, os.DirFS(source)))
			check(t, damage(filepath.Join(dir, "badger", name)))
			c, err := catalog.Open(dir, catalog.Options{})
			if err != nil {
				if !errors.Is(err, catalog.ErrCorrupt) {
					t.Errorf("%s %s: %v", name, how, err)
				}
				refused++
				check(t, os.RemoveAll(dir))
				continue
			}
			for i := range 20 {
				packs := make([]embassy.PackNum, 100)
				err := c.FindChunks(ids(i*3_000, i*3_000+100), packs)
				if errors.Is(err, catalog.ErrCorrupt) { // seen where it is read
					refused++
					break
				}
				check(t, err)
				for _, n := range packs {
					if n != 0 && n != embassy.PackNum(i+1) {
						t.Errorf("%s %s: chunk of pack %d in pack %d", name, how, i+1, n)
					}
				}
			}
			check(t, c.Close())
			check(t, os.RemoveAll(dir))
		}
	}
	t.Logf("%d files, %d refusals", len(files), refused)
	if refused == 0 {
		t.Error("nothing was noticed")
	}
}

// Damage inside a table, behind what Open looks at, never places a chunk in a
// pack where it is not.
func TestCorruptBlocks(t *testing.T) {
	dir := filled(t)
	tables, err := filepath.Glob(filepath.Join(dir, "badger", "*.sst"))
	check(t, err)
	for _, path := range tables {
		info, err := os.Stat(path)
		check(t, err)
		// Not the last block and the index behind it: Open looks at those.
		for at := int64(5); at < info.Size()*3/4-8<<10; at += 1 << 10 {
			check(t, flip(path, at))
		}
	}
	c := open(t, dir)
	lost := 0
	for i := range 20 {
		for _, id := range ids(i*3_000, i*3_000+3_000) {
			n := make([]embassy.PackNum, 1)
			err := c.FindChunks([]chunk.ID{id}, n)
			if err != nil && !errors.Is(err, catalog.ErrCorrupt) {
				t.Fatal(err)
			}
			if n[0] != 0 && n[0] != embassy.PackNum(i+1) {
				t.Fatalf("chunk of pack %d in pack %d", i+1, n[0])
			}
			if n[0] == 0 {
				lost++
			}
		}
	}
	if lost == 0 {
		t.Error("nothing was damaged")
	}
}

// A process may die between creating a log and giving it a size, and between
// emptying a log and removing it.
func TestEmptyLogs(t *testing.T) {
	dir := filled(t)
	for _, name := range []string{"00099.mem", "000099.vlog"} {
		check(t, os.WriteFile(filepath.Join(dir, "badger", name), nil, 0o600))
	}
	c := open(t, dir)
	equal(t, find(t, c, ids(0, 100)), repeat(1, 100))
}

func names(t *testing.T, dir string) (out []string) {
	entries, err := os.ReadDir(dir)
	check(t, err)
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func flip(path string, at int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	b := make([]byte, 1)
	_, err = f.ReadAt(b, at)
	b[0] ^= 0x10
	_, err2 := f.WriteAt(b, at)
	return errors.Join(err, err2, f.Close())
}
