package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	demoPersons   = 400_000
	demoParcels   = 250_000
	demoDocuments = 900
)

// demoTime is when the sample data was last changed.
var demoTime = time.Date(2026, 11, 21, 14, 0, 0, 123456789, time.UTC)

// dice is a generator of sample data that is the same on every machine. It is
// good for nothing else.
type dice uint64

func (d *dice) roll(n int) int {
	*d ^= *d << 13
	*d ^= *d >> 7
	*d ^= *d << 17
	return int(uint64(*d) >> 11 % uint64(n))
}

func (d *dice) pick(words []string) string { return words[d.roll(len(words))] }

var (
	demoGiven   = strings.Fields("Anna Maria Jaan Liis Mart Kristjan Eha Peeter Leida Toomas Kadri Rein Ene Villem Helgi Priit")
	demoFamily  = strings.Fields("Tamm Saar Sepp Mägi Kask Kukk Rebane Ilves Pärn Koppel Oja Lepik Kuusk Raudsepp Põder Luik")
	demoPlaces  = strings.Fields("Tallinn Tartu Narva Pärnu Viljandi Rakvere Kuressaare Võru Haapsalu Paide Valga Jõhvi")
	demoUses    = strings.Fields("residential arable forest meadow commercial industrial transport public")
	demoSubject = strings.Fields("deed survey easement mortgage lease permit boundary inheritance appeal valuation")
)

// writeSample writes the tree of one dataset: text that compresses, many small
// files, links, an empty file, an empty folder, and modes and names of all
// sorts.
func writeSample(ctx context.Context, dir, dataset string) error {
	w := sampler{ctx: ctx, dir: dir, dice: 88172645463325252}
	if dataset == "population" {
		w.population()
	} else {
		w.land()
	}
	w.times()
	return w.err
}

// sampler writes files until the first error.
type sampler struct {
	ctx  context.Context
	dir  string
	dice dice
	err  error
}

func (w *sampler) population() {
	w.file("register.csv", 0o640, func(b *bufio.Writer) {
		fmt.Fprintln(b, "id,given,family,born,municipality,street,house,phone")
		for i := range demoPersons {
			fmt.Fprintf(b, "%011d,%s,%s,%04d-%02d-%02d,%s,%s tee,%d,+372%08d\n", 30000000000+i*7, w.dice.pick(demoGiven), w.dice.pick(demoFamily),
				1930+w.dice.roll(95), 1+w.dice.roll(12), 1+w.dice.roll(28), w.dice.pick(demoPlaces), w.dice.pick(demoFamily), 1+w.dice.roll(200), w.dice.roll(1e8))
		}
	})
	w.text("README", 0o444, "One line per person. The id never changes.\n")
	w.text("nothing-yet.csv", 0o600, "")
	w.link("current.csv", "register.csv")
	w.link("old.csv", "archive/2019.csv") // leads nowhere
}

func (w *sampler) land() {
	w.file("parcels.csv", 0o644, func(b *bufio.Writer) {
		fmt.Fprintln(b, "parcel,municipality,use,area_m2,owner,registered,east,north")
		for i := range demoParcels {
			fmt.Fprintf(b, "%05d:%03d:%04d,%s,%s,%d,%011d,%04d-%02d-%02d,%d.%02d,%d.%02d\n", i/1000, i%7, i%1000, w.dice.pick(demoPlaces), w.dice.pick(demoUses),
				100+w.dice.roll(90000), 30000000000+w.dice.roll(demoPersons)*7, 1995+w.dice.roll(31), 1+w.dice.roll(12), 1+w.dice.roll(28),
				370000+w.dice.roll(360000), w.dice.roll(100), 6380000+w.dice.roll(240000), w.dice.roll(100))
		}
	})
	for i := range demoDocuments {
		mode := []fs.FileMode{0o600, 0o640, 0o644, 0o400, 0o751}[i%5]
		w.file(fmt.Sprintf("documents/%02d/%s-%04d.txt", i%12, w.dice.pick(demoSubject), i), mode, func(b *bufio.Writer) {
			for range 20 + w.dice.roll(180) {
				fmt.Fprintf(b, "%s %s of %s, %s, line %08x\n", w.dice.pick(demoGiven), w.dice.pick(demoFamily), w.dice.pick(demoPlaces), w.dice.pick(demoSubject), w.dice.roll(1<<30))
			}
		})
	}
	w.text("documents/läbirääkimised 2026 (märkmed).txt", 0o640, "Kõik on kokku lepitud.\n")
	w.text("documents/-not a flag", 0o644, "A name that starts with a dash.\n")
	w.link("documents/newest", "../documents/11")
	w.folder("documents/empty")
	w.chmod("documents/00", 0o700)
	w.chmod("documents/01", 0o750)
	w.chmod("documents/02", 0o1777)
}

func (w *sampler) path(name string) string { return filepath.Join(w.dir, filepath.FromSlash(name)) }

func (w *sampler) do(f func() error) {
	if w.err == nil {
		w.err = w.ctx.Err()
	}
	if w.err == nil {
		w.err = f()
	}
}

func (w *sampler) file(name string, mode fs.FileMode, content func(*bufio.Writer)) {
	w.folder(filepath.Dir(name))
	w.do(func() error {
		f, err := os.Create(w.path(name))
		if err != nil {
			return err
		}
		b := bufio.NewWriterSize(f, 1<<20)
		content(b)
		return errors.Join(b.Flush(), f.Close())
	})
	w.chmod(name, mode)
}

func (w *sampler) text(name string, mode fs.FileMode, text string) {
	w.file(name, mode, func(b *bufio.Writer) { _, _ = b.WriteString(text) }) // Flush tells
}

func (w *sampler) folder(name string) {
	w.do(func() error { return os.MkdirAll(w.path(name), 0o755) })
}

func (w *sampler) link(name, to string) {
	w.do(func() error { return os.Symlink(to, w.path(name)) })
}

// chmod sets the mode whatever the umask is.
func (w *sampler) chmod(name string, mode fs.FileMode) {
	w.do(func() error {
		perm := mode & 0o777
		if mode&0o1000 != 0 {
			perm |= fs.ModeSticky
		}
		return os.Chmod(w.path(name), perm)
	})
}

// times gives every file and folder its own time, folders after what is in
// them.
func (w *sampler) times() {
	var names []string
	w.do(func() error {
		return filepath.WalkDir(w.dir, func(p string, e fs.DirEntry, err error) error {
			if err == nil && e.Type()&fs.ModeSymlink == 0 {
				names = append(names, p)
			}
			return err
		})
	})
	for i := len(names) - 1; i >= 0; i-- {
		t := demoTime.Add(-time.Duration(i) * (time.Hour + 1234567*time.Nanosecond))
		w.do(func() error { return os.Chtimes(names[i], t, t) })
	}
}

// tally counts regular files and their bytes.
type tally struct{ files, bytes uint64 }

func (t *tally) add(info fs.FileInfo) {
	if info.Mode().IsRegular() {
		t.files, t.bytes = t.files+1, t.bytes+uint64(info.Size())
	}
}

func measure(dir string) (t tally, err error) {
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil {
			t.add(info)
		}
		return err
	})
	return t, err
}

// compareTrees returns an error that names the first thing in which the trees
// differ: a name that only one has, a type, mode, size or time, where a link
// leads, or a byte.
func compareTrees(ctx context.Context, want, got string) (t tally, err error) {
	there := 0
	err = filepath.WalkDir(want, func(p string, _ fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(want, p)
		if err != nil {
			return err
		}
		there++
		info, err := sameNode(p, filepath.Join(got, rel))
		if err == nil {
			t.add(info)
		}
		return err
	})
	if err != nil {
		return t, err
	}
	err = filepath.WalkDir(got, func(p string, _ fs.DirEntry, err error) error {
		there--
		return err
	})
	if err == nil && there != 0 {
		err = fmt.Errorf("%s holds %d names too many", got, -there)
	}
	return t, err
}

func sameNode(want, got string) (fs.FileInfo, error) {
	a, err := os.Lstat(want)
	if err != nil {
		return nil, err
	}
	b, err := os.Lstat(got)
	switch {
	case err != nil:
		return nil, err
	case a.Mode() != b.Mode():
		return nil, fmt.Errorf("%s has mode %s, not %s", got, b.Mode(), a.Mode())
	case !a.ModTime().Equal(b.ModTime()):
		return nil, fmt.Errorf("%s has time %s, not %s", got, b.ModTime(), a.ModTime())
	case a.Mode()&fs.ModeSymlink != 0:
		return a, sameLink(want, got)
	case !a.Mode().IsRegular():
		return a, nil
	case a.Size() != b.Size():
		return nil, fmt.Errorf("%s has %d bytes, not %d", got, b.Size(), a.Size())
	}
	return a, sameBytes(want, got)
}

func sameLink(want, got string) error {
	a, err := os.Readlink(want)
	if err != nil {
		return err
	}
	b, err := os.Readlink(got)
	if err == nil && a != b {
		err = fmt.Errorf("%s leads to %s, not to %s", got, b, a)
	}
	return err
}

func sameBytes(want, got string) (err error) {
	a, err := os.Open(want)
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := os.Open(got)
	if err != nil {
		return err
	}
	defer b.Close()
	const step = 256 << 10
	x, y := make([]byte, step), make([]byte, step)
	for offset := int64(0); ; offset += step {
		n, errA := io.ReadFull(a, x)
		m, errB := io.ReadFull(b, y)
		if n != m || !bytes.Equal(x[:n], y[:m]) {
			return fmt.Errorf("%s differs between byte %d and %d", got, offset, offset+step)
		}
		for _, err := range []error{errA, errB} {
			if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
				return err
			}
		}
		if n < step {
			return nil
		}
	}
}
