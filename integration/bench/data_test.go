package bench_test

import (
	"bufio"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// profile is a tree to back up. It is made of nothing but these numbers, and
// the same on every machine.
type profile struct {
	csv, random int64 // bytes of one file each; 0: none
	files       int   // small ones
	mean        int   // bytes of a small file; below 64, each file has that many
	perFolder   int
}

var profiles = map[string]profile{
	"mixed": {csv: 2 << 30, random: 1 << 30, files: 58_000, mean: 18_000, perFolder: 58},
	"tiny":  {files: 1_000_000, mean: 24, perFolder: 1000},
	"quick": {csv: 256 << 20, random: 128 << 20, files: 7_250, mean: 18_000, perFolder: 58},
}

// dated is when all of it was last changed: tools treat new files with care.
var dated = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// make writes the tree, unless it is there.
func (p profile) make(dir string) error {
	stamp := dir + fmt.Sprintf("/made-%+v", p)
	if _, err := os.Stat(stamp); err == nil {
		return nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	rng := rand.NewChaCha8([32]byte{'e', 'm', 'b', 'a', 's', 's', 'y'})
	src := filepath.Join(dir, "src")
	if err := os.MkdirAll(src, 0o755); err != nil {
		return err
	}
	r := rand.New(rng)
	if p.csv > 0 {
		if err := write(filepath.Join(src, "register.csv"), func(w *bufio.Writer) { register(w, r, p.csv) }); err != nil {
			return err
		}
	}
	if p.random > 0 {
		if err := write(filepath.Join(src, "random.bin"), func(w *bufio.Writer) {
			block := make([]byte, 1<<20)
			for n := int64(0); n < p.random; n += int64(len(block)) {
				rng.Read(block) // never fails
				w.Write(block)  // write tells its error
			}
		}); err != nil {
			return err
		}
	}
	for i := range p.files {
		folder := filepath.Join(src, "files", fmt.Sprintf("%04d", i/p.perFolder))
		if i%p.perFolder == 0 {
			if err := os.MkdirAll(folder, 0o755); err != nil {
				return err
			}
		}
		size := p.mean
		if size >= 64 {
			size = 64 + int(r.ExpFloat64()*float64(p.mean-64))
		}
		if err := write(filepath.Join(folder, fmt.Sprintf("document-%07d.txt", i)), func(w *bufio.Writer) { text(w, r, i, size) }); err != nil {
			return err
		}
	}
	err := filepath.WalkDir(src, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chtimes(path, dated, dated)
	})
	if err != nil {
		return err
	}
	return os.WriteFile(stamp, nil, 0o644)
}

func write(path string, fill func(w *bufio.Writer)) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<16)
	fill(w)
	if err := w.Flush(); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

var (
	given  = strings.Fields("Anna Maria Jaan Liis Mart Kristjan Eha Peeter Leida Toomas Kadri Rein Ene Villem Helgi Priit")
	family = strings.Fields("Tamm Saar Sepp Mägi Kask Kukk Rebane Ilves Pärn Koppel Oja Lepik Kuusk Raudsepp Põder Luik")
	places = strings.Fields("Tallinn Tartu Narva Pärnu Viljandi Rakvere Kuressaare Võru Haapsalu Paide Valga Jõhvi")
	words  = strings.Fields("the deed of survey for an easement on parcel and its mortgage under lease with permit at boundary by inheritance was appealed valued and entered")
)

func one(r *rand.Rand, of []string) string { return of[r.IntN(len(of))] }

// register writes the rows of a population register.
func register(w *bufio.Writer, r *rand.Rand, size int64) {
	line := make([]byte, 0, 256)
	for row, n := 0, int64(0); n < size; row++ {
		line = fmt.Appendf(line[:0], "%09d,%011d,%s,%s,%04d-%02d-%02d,%s,%s %d-%d,%08x\n", row, r.Int64N(99_999_999_999), one(r, given), one(r, family),
			1930+r.IntN(96), 1+r.IntN(12), 1+r.IntN(28), one(r, places), one(r, family), 1+r.IntN(200), 1+r.IntN(60), r.Uint32())
		w.Write(line) // write tells its error
		n += int64(len(line))
	}
}

// text writes a document of its own.
func text(w *bufio.Writer, r *rand.Rand, i, size int) {
	left := size - len(fmt.Sprintf("%08d ", i))
	fmt.Fprintf(w, "%08d ", i)
	for left > 0 {
		word := one(r, words)
		if r.IntN(8) == 0 {
			word = fmt.Sprintf("%x", r.Uint32())
		}
		word = (word + " ")[:min(len(word)+1, left)]
		w.WriteString(word)
		left -= len(word)
	}
}
