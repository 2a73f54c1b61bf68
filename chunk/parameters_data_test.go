package chunk_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// day is a kind of file that is measured, with what one day changes in it:
// make returns the file, and a function that returns it a day later, otherwise
// for each round. It returns nil without the program that it needs.
type day struct {
	name  string
	needs string
	make  func(b *testing.B) (first []byte, later func(round byte) []byte)
}

var days = []day{
	{name: "CSV", make: csvDay},
	{name: "CSV bulk", make: bulkDay},
	{name: "SQLite", needs: "sqlite3", make: sqliteDay},
	{name: "tar", make: tarDay},
	{name: "image", make: imageDay},
}

// seeded is the same on every machine.
func seeded(seed byte) *rand.Rand { return rand.New(rand.NewChaCha8([32]byte{seed})) }

var (
	givenNames = strings.Fields("Aino Andres Eva Gaston Heli Ilmar Jaan Kai Lea Maie Nele Olaf Peeter Riina Silvi Toomas Urve Viktor")
	familyName = strings.Fields("Kask Kuusk Lepik Magi Mets Oja Pärn Rebane Saar Sepp Tamm Teder Vaher Weber Wolff Ziegler")
	streets    = strings.Fields("Aia Pikk Lai Kooli Metsa Mere Uus Vana Jõe Pargi Sadama Turu")
)

// csvRow is one row of a register, about 110 bytes.
func csvRow(r *rand.Rand, id int) []byte {
	pick := func(from []string) string { return from[r.IntN(len(from))] }
	return fmt.Appendf(nil, "%d,%s,%s,%04d-%02d-%02d,%s %d,%05d,%016x,%s,%d.%02d\n",
		id, pick(familyName), pick(givenNames), 1920+r.IntN(100), 1+r.IntN(12), 1+r.IntN(28), pick(streets), 1+r.IntN(200),
		r.IntN(100000), r.Uint64(), time.Unix(1.6e9+r.Int64N(1e8), 0).UTC().Format(time.RFC3339), r.IntN(1e6), r.IntN(100))
}

// csvRows are rows with ids that leave room for others in between.
func csvRows(seed byte, size int) [][]byte {
	r, rows := seeded(seed), [][]byte(nil)
	for id := 10; size > 0; id += 10 {
		row := csvRow(r, id)
		rows = append(rows, row)
		size -= len(row)
	}
	return rows
}

// csvDay is a dump of a table of 256 MB, ordered by key. The next has, at
// random places, 10 inserts of 1 to 20 rows, 5 deletes of 1 to 20 rows and 10
// rows that grew, and 5,000 rows more at the end.
func csvDay(*testing.B) ([]byte, func(byte) []byte) {
	rows := csvRows(1, 256e6)
	return bytes.Join(rows, nil), func(round byte) []byte {
		r, rows := seeded(round), slices.Clone(rows)
		for range 10 {
			at, n := r.IntN(len(rows)), 1+r.IntN(20)
			var add [][]byte
			for i := range n {
				add = append(add, csvRow(r, at*10+i))
			}
			rows = slices.Insert(rows, at, add...)
		}
		for range 5 {
			at := r.IntN(len(rows) - 20)
			rows = slices.Delete(rows, at, at+1+r.IntN(20))
		}
		for range 10 {
			at := r.IntN(len(rows))
			rows[at] = fmt.Appendf(nil, "%s,moved to %d\n", bytes.TrimSuffix(rows[at], []byte("\n")), r.IntN(1e6))
		}
		for i := range 5000 {
			rows = append(rows, csvRow(r, (len(rows)+i)*10))
		}
		return bytes.Join(rows, nil)
	}
}

// bulkDay is such a dump in which runs of rows came and went: 5 inserts and 5
// deletes of 0.2 to 2 MB. After such a change a cut is found again only where
// both versions happen to cut at the same row.
func bulkDay(*testing.B) ([]byte, func(byte) []byte) {
	rows := csvRows(1, 256e6)
	return bytes.Join(rows, nil), func(round byte) []byte {
		r, rows := seeded(round), slices.Clone(rows)
		for range 5 {
			at := r.IntN(len(rows))
			rows = slices.Insert(rows, at, csvRows(byte(10+r.IntN(200)), 200e3+r.IntN(1800e3))...)
			at = r.IntN(len(rows) - 20000)
			rows = slices.Delete(rows, at, at+2000+r.IntN(18000))
		}
		return bytes.Join(rows, nil)
	}
}

// sqliteDay is a database of such rows, made by sqlite3, with an index by time
// of change. A day updates 40 rows at random places, half of which grow, deletes
// a run of 2,000, whose pages become free, and adds 1,000, which reuse them and
// go to the end of the index.
func sqliteDay(b *testing.B) ([]byte, func(byte) []byte) {
	program, err := exec.LookPath("sqlite3")
	if err != nil {
		return nil, nil
	}
	rows := csvRows(3, 192e6)
	dir := b.TempDir()
	table, db := filepath.Join(dir, "rows.csv"), filepath.Join(dir, "register.db")
	save := func(path string, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	run := func(script string) []byte {
		cmd := exec.CommandContext(b.Context(), program, "-bail", db)
		cmd.Stdin = strings.NewReader(script)
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("sqlite3: %v: %s", err, out)
		}
		data, err := os.ReadFile(db)
		if err != nil {
			b.Fatal(err)
		}
		return data
	}
	save(table, bytes.Join(rows, nil))
	first := run(`CREATE TABLE person (id INTEGER PRIMARY KEY, family TEXT, given TEXT, born TEXT, street TEXT,
code TEXT, token TEXT, changed TEXT, owed TEXT);
.mode csv
.import ` + table + ` person
CREATE INDEX by_change ON person (changed, id);
`)
	return first, func(round byte) []byte {
		save(db, first)
		r, script := seeded(round), new(strings.Builder)
		fmt.Fprintln(script, "BEGIN;")
		for i := range 40 {
			id := 10 * (1 + r.IntN(len(rows)))
			if i%2 == 0 {
				fmt.Fprintf(script, "UPDATE person SET owed = '%d' WHERE id = %d;\n", 100+i, id)
			} else {
				fmt.Fprintf(script, "UPDATE person SET street = street || ', moved to %d' WHERE id = %d;\n", r.IntN(1e6), id)
			}
		}
		from := 10 * r.IntN(len(rows)-2000)
		fmt.Fprintf(script, "DELETE FROM person WHERE id BETWEEN %d AND %d;\n", from+1, from+20000)
		for i := range 1000 {
			row := strings.Split(strings.TrimSpace(string(csvRow(r, 10*(len(rows)+1+i)))), ",")
			row[7] = time.Unix(1.75e9+int64(i), 0).UTC().Format(time.RFC3339)
			fmt.Fprintf(script, "INSERT INTO person VALUES ('%s');\n", strings.Join(row, "','"))
		}
		fmt.Fprintln(script, "COMMIT;")
		return run(script.String())
	}
}

// source is a file of the Go distribution.
type source struct {
	name string
	data []byte
	time time.Time
}

// goFiles returns the regular files below folders of the Go distribution, in
// order of their names.
func goFiles(b *testing.B, folders ...string) []source {
	var files []source
	out, err := exec.CommandContext(b.Context(), "go", "env", "GOROOT").Output()
	if err != nil {
		b.Fatal(err)
	}
	root := strings.TrimSpace(string(out))
	for _, folder := range folders {
		err := filepath.WalkDir(filepath.Join(root, folder), func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			name, err := filepath.Rel(root, path)
			files = append(files, source{filepath.ToSlash(name), data, time.Unix(1.7e9, 0)})
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	return files
}

// tarDay is a tar of the sources and tests of the Go distribution. In the next
// version 15 files have a line more, 5 a line less, all with a new time; 5 files
// are gone and 5 are new.
func tarDay(b *testing.B) ([]byte, func(byte) []byte) {
	files := goFiles(b, "src", "test")
	return tarOf(b, files), func(round byte) []byte {
		r, files, now := seeded(round), slices.Clone(files), time.Unix(1.7e9+86400, 0)
		for i := range 20 {
			f := &files[r.IntN(len(files))]
			lines := bytes.SplitAfter(f.data, []byte("\n"))
			at := r.IntN(len(lines))
			if i < 15 {
				lines = slices.Insert(lines, at, fmt.Appendf(nil, "// line %d\n", r.IntN(1e6)))
			} else {
				lines = slices.Delete(lines, at, at+1)
			}
			f.data, f.time = bytes.Join(lines, nil), now
		}
		for range 5 {
			at := r.IntN(len(files))
			files = slices.Delete(files, at, at+1)
			at = r.IntN(len(files))
			text := bytes.Join(csvRows(byte(r.IntN(256)), 1000+r.IntN(20000)), nil)
			files = slices.Insert(files, at, source{files[at].name + ".new", text, now})
		}
		return tarOf(b, files)
	}
}

func tarOf(b *testing.B, files []source) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.data)), ModTime: f.time}); err != nil {
			b.Fatal(err)
		}
		if _, err := w.Write(f.data); err != nil {
			b.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	return out.Bytes()
}

const block = 4 << 10 // bytes

// imageDay is a disk of 320 MiB: files of the Go distribution, programs among
// them, each from a block of its own, and a third of it in ranges of zeros. A
// day rewrites 25 runs of 1 to 32 blocks, 60 single blocks in six places, as an
// inode table does, and writes two files of 2 MiB where zeros were.
func imageDay(b *testing.B) ([]byte, func(byte) []byte) {
	files := goFiles(b, "bin", "pkg", "src")
	r := seeded(6)
	r.Shuffle(len(files), func(i, j int) { files[i], files[j] = files[j], files[i] })
	first := make([]byte, 320<<20)
	var zeros []int // blocks
	for i, end := 0, 0; end < len(first); i++ {
		end += (copy(first[end:], files[i%len(files)].data) + block - 1) / block * block
		if r.IntN(200) == 0 {
			zeros = append(zeros, end/block)
			end += block * (16 + r.IntN(1024))
		}
	}
	return first, func(round byte) []byte {
		r, second := seeded(round), bytes.Clone(first)
		blocks := len(first) / block
		rewrite := func(at, n int) {
			text := bytes.Join(csvRows(byte(r.IntN(256)), n*block), nil)
			copy(second[at*block:], text[:n*block])
		}
		for range 25 {
			rewrite(r.IntN(blocks-32), 1+r.IntN(32))
		}
		for range 6 {
			at := r.IntN(blocks - 512)
			for range 10 {
				rewrite(at+r.IntN(512), 1)
			}
		}
		for range 2 {
			rewrite(zeros[r.IntN(len(zeros)-4)], 512)
		}
		return second
	}
}
