package embassy

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"embassy/crypto"
	"embassy/embassy/format"
)

const (
	// maxAuditsListed is how many audit records one ledger entry takes.
	maxAuditsListed = 10_000
	// listedAudits and a chain's id: the file that says up to which number its
	// entries list the records of its compartment.
	listedAudits = "listed-"
)

// logbook is the audit log of a state directory. Each record is a file, named by
// its number in 16 hexadecimal digits and never replaced. A record is durable
// here before anything else knows of it; several processes may write at once.
type logbook struct {
	state *State
	dir   string
}

func (s *State) logbook() *logbook { return &logbook{state: s, dir: filepath.Join(s.dir, "audit")} }

func (b *logbook) path(number uint64) string {
	return filepath.Join(b.dir, fmt.Sprintf("%016x", number))
}

// numbers returns the numbers of the records that are there, ascending.
func (b *logbook) numbers() ([]uint64, error) {
	files, err := os.ReadDir(b.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out []uint64
	for _, f := range files {
		if n, err := strconv.ParseUint(f.Name(), 16, 64); err == nil && filepath.Base(b.path(n)) == f.Name() {
			out = append(out, n)
		}
	}
	return out, err
}

// read returns a record and its object. The object is there also when it is no
// sound record, which the error says.
func (b *logbook) read(number uint64) (*format.Audit, []byte, error) {
	object, err := os.ReadFile(b.path(number))
	if err != nil {
		return nil, nil, err
	}
	a, err := format.OpenAudit(object, b.state.key.Signer.Verifier(), b.state.nation, b.state.Agent())
	if err == nil && a.Number != number {
		err = fmt.Errorf("%w: it is number %d", format.ErrMalformed, a.Number)
	}
	return a, object, err
}

// write signs the next record, sealed for a compartment.
func (b *logbook) write(d format.Deed, w *format.Writer) error {
	if _, err := b.state.makeDirs("audit"); err != nil {
		return err
	}
	for {
		next, err := b.next()
		if err != nil {
			return err
		}
		object, err := format.SealAudit(next, d, w, b.state.key.Signer)
		if err != nil {
			return err
		}
		err = createFile(b.dir, b.path(next.Number), object)
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		// Another process took the number: there is one more record now.
	}
}

// next returns the place behind the last record. One that was altered is
// followed as it is.
func (b *logbook) next() (format.Audit, error) {
	next := format.Audit{Agent: b.state.Agent(), Number: 1}
	numbers, err := b.numbers()
	if err != nil {
		return next, err
	}
	for i := len(numbers) - 1; i >= 0 && next.Log.IsZero(); i-- {
		a, object, err := b.read(numbers[i])
		if object == nil {
			return next, err
		}
		if i == len(numbers)-1 {
			next.Number, next.Prev = numbers[i]+1, format.HashOf(object)
		}
		if err == nil {
			next.Log = a.Log
		}
	}
	if next.Log.IsZero() {
		rand.Read(next.Log[:]) // never fails
	}
	return next, nil
}

// listed returns up to which number the entries of a chain list what is filed
// in its compartment. A note that cannot be read says 0: to list a record twice
// is harmless.
func (b *logbook) listed(chain format.ID) (uint64, error) {
	raw, err := os.ReadFile(filepath.Join(b.dir, listedAudits+chain.String()))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 64)
	if err != nil {
		n = 0
	}
	return n, nil
}

// listedIn is listed of the current chain of a compartment.
func (b *logbook) listedIn(compartment format.ID) (uint64, error) {
	chain, err := b.state.currentChain(compartment)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return b.listed(chain)
}

// setListed notes that the chain's entries list everything up to a number.
func (b *logbook) setListed(chain format.ID, number uint64) error {
	if n, err := b.listed(chain); err != nil || n >= number {
		return err
	}
	return writeFile(b.dir, filepath.Join(b.dir, listedAudits+chain.String()), fmt.Appendf(nil, "%d\n", number))
}

// pending calls use with every record of a compartment that no entry of the
// chain lists, and returns up to which number it has looked. What was altered is
// left out: embassy audit verify names it.
func (b *logbook) pending(chain, compartment format.ID, use func(object []byte) error) (uint64, error) {
	last, err := b.listed(chain)
	if err != nil {
		return 0, err
	}
	numbers, err := b.numbers()
	if err != nil {
		return 0, err
	}
	used := 0
	for _, n := range numbers {
		if n <= last {
			continue
		}
		a, object, err := b.read(n)
		switch {
		case object == nil:
			return 0, err
		case err == nil && a.Compartment == compartment:
			if used++; used > maxAuditsListed {
				return last, nil
			}
			if err := use(object); err != nil {
				return 0, err
			}
		case err != nil && !errors.Is(err, format.ErrMalformed) && !errors.Is(err, crypto.ErrAuthentication):
			return 0, err
		}
		last = n
	}
	return last, nil
}
