package embassy

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"embassy/crypto"
	"embassy/embassy/format"
)

// Files of a compartment's chains beside the entries.
const (
	currentChain = "current"   // in the compartment's folder: id of the chain that is written
	continues    = "continues" // in a chain's folder: chain, number and hash that it follows
)

// chain is an own chain of this state directory. Its files are the authority
// for its numbers: an entry is durable here before its first put, and what a
// restart puts are these bytes.
type chain struct {
	dir   string
	key   *crypto.AgentKey
	scope format.Entry // nation, compartment, agent, chain

	broken error // of an append: no more in this process

	mu    sync.RWMutex
	heads []format.Hash // heads[i] is the hash of entry i+1
}

// openChain opens the state directory's current chain in a compartment, or
// starts one.
func (s *State) openChain(compartment format.ID) (*chain, error) {
	id, err := s.currentChain(compartment)
	if errors.Is(err, fs.ErrNotExist) {
		return s.newChain(compartment, nil, 0)
	}
	if err != nil {
		return nil, err
	}
	return s.chainAt(compartment, id)
}

// currentChain returns the id of the chain that is written in a compartment;
// fs.ErrNotExist when there is none yet.
func (s *State) currentChain(compartment format.ID) (format.ID, error) {
	path := filepath.Join(s.dir, "chains", compartment.String(), currentChain)
	raw, err := os.ReadFile(path)
	if err != nil {
		return format.ID{}, err
	}
	id, err := format.ParseID(strings.TrimSpace(string(raw)))
	if err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return id, err
}

// newChain starts a chain and makes it the current one. It continues old up to the
// last entry that is still this machine's; 0: nothing.
func (s *State) newChain(compartment format.ID, old *chain, last uint64) (*chain, error) {
	parent, err := s.makeDirs("chains", compartment.String())
	if err != nil {
		return nil, err
	}
	var id format.ID
	rand.Read(id[:]) // never fails
	c, err := s.chainAt(compartment, id)
	if err != nil {
		return nil, err
	}
	if last > 0 {
		line := fmt.Sprintf("%s %d %s\n", old.id(), last, old.hash(last))
		if err := writeFile(c.dir, filepath.Join(c.dir, continues), []byte(line)); err != nil {
			return nil, err
		}
	}
	return c, writeFile(parent, filepath.Join(parent, currentChain), []byte(id.String()+"\n"))
}

func (s *State) chainAt(compartment, id format.ID) (*chain, error) {
	dir, err := s.makeDirs("chains", compartment.String(), id.String())
	if err != nil {
		return nil, err
	}
	c := &chain{dir: dir, key: s.key, scope: format.Entry{
		Nation: s.nation, Compartment: compartment, Agent: s.Agent(), Chain: id,
	}}
	if err := c.load(); err != nil || c.head() == 0 {
		return c, err
	}
	_, _, err = c.read(c.head())
	return c, err
}

// eachChain calls f for every own chain, in one compartment or, with the zero
// one, in all, until it returns an error.
func (s *State) eachChain(in format.ID, f func(*chain) error) error {
	folder := "*"
	if !in.IsZero() {
		folder = in.String()
	}
	dirs, err := filepath.Glob(filepath.Join(s.dir, "chains", folder, "*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		compartment, bad := format.ParseID(filepath.Base(filepath.Dir(dir)))
		id, err := format.ParseID(filepath.Base(dir))
		if bad != nil || err != nil {
			continue // the name of the current one
		}
		c, err := s.chainAt(compartment, id)
		if err != nil {
			return err
		}
		if err := f(c); err != nil {
			return err
		}
	}
	return nil
}

// written returns the hashes of the entries of a chain that were written here, from
// number 1; none on a machine without a state.
func (s *State) written(l Line) ([]format.Hash, error) {
	if s == nil {
		return nil, nil
	}
	c := &chain{dir: filepath.Join(s.dir, "chains", l.Compartment.String(), l.Chain.String())}
	if err := c.load(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return c.heads, nil
}

// before returns what the chain continues.
func (c *chain) before() ([]format.Head, error) {
	raw, err := os.ReadFile(filepath.Join(c.dir, continues))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var id, hash string
	var h format.Head
	if _, err := fmt.Sscan(string(raw), &id, &h.Seq, &hash); err != nil {
		return nil, fmt.Errorf("%s: %s: %w", c.dir, continues, err)
	}
	if h.Chain, err = format.ParseID(id); err != nil {
		return nil, err
	}
	h.Hash, err = format.ParseHash(hash)
	return []format.Head{h}, err
}

// load reads which entries there are, after those that are known already.
func (c *chain) load() error {
	files, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	known := uint64(len(c.heads))
	for _, f := range files {
		seq, h, err := format.ParseNumbered(f.Name())
		if err != nil {
			continue // a temporary file of an interrupted write
		}
		if seq <= known {
			continue
		}
		if seq != uint64(len(c.heads))+1 {
			return fmt.Errorf("%s: entry %d is missing or there twice: this state directory is damaged", c.dir, len(c.heads)+1)
		}
		c.heads = append(c.heads, h)
	}
	return nil
}

// reach looks for entries up to seq that were written beside this process's
// view of the chain, if it does not know so many.
func (c *chain) reach(seq uint64) error {
	if seq <= c.head() {
		return nil
	}
	return c.load()
}

// id is the chain's pseudonym.
func (c *chain) id() format.ID { return c.scope.Chain }

// line is the chain's place on every target.
func (c *chain) line() Line {
	return Line{Compartment: c.scope.Compartment, Agent: c.scope.Agent, Chain: c.scope.Chain}
}

// head is the number of the last entry; 0: none.
func (c *chain) head() uint64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return uint64(len(c.heads))
}

func (c *chain) hash(seq uint64) format.Hash {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.heads[seq-1]
}

// wrote reports whether a head is an entry of this chain, and not of a branch
// that another machine wrote.
func (c *chain) wrote(h SeenHead) (bool, error) {
	err := c.reach(h.Seq)
	return err == nil && h.Seq > 0 && h.Seq <= c.head() && c.hash(h.Seq) == h.Hash, err
}

func (c *chain) objectName(k format.Kind, h format.Hash) string {
	return format.ObjectName(c.scope.Nation, c.scope.Compartment, c.scope.Agent, k, h)
}

func (c *chain) file(seq uint64, h format.Hash) string {
	return filepath.Join(c.dir, fmt.Sprintf("%016x-%s", seq, h))
}

// entry reads and verifies an own entry, and returns its object too.
func (c *chain) entry(_ context.Context, seq uint64) (format.Entry, []byte, error) {
	return c.read(seq)
}

func (c *chain) read(seq uint64) (format.Entry, []byte, error) {
	path := c.file(seq, c.hash(seq))
	object, err := os.ReadFile(path)
	if err != nil {
		return format.Entry{}, nil, err
	}
	if format.HashOf(object) != c.hash(seq) {
		return format.Entry{}, nil, fmt.Errorf("%s: %w", path, errBadCopy)
	}
	want := c.scope
	want.Seq = seq
	e, err := format.OpenEntry(object, c.key.Signer.Verifier(), want)
	if err != nil {
		return format.Entry{}, nil, fmt.Errorf("%s: %w", path, err)
	}
	return e, object, nil
}

// append signs the next entry and makes it durable on this machine. One at a
// time.
func (c *chain) append(e format.Entry) (format.Entry, error) {
	e.Nation, e.Compartment, e.Agent, e.Chain = c.scope.Nation, c.scope.Compartment, c.scope.Agent, c.scope.Chain
	e.Seq = c.head() + 1
	var err error
	if e.Seq > 1 {
		e.Prev = c.hash(e.Seq - 1)
	} else if e.Continues, err = c.before(); err != nil {
		return e, err
	}
	object, err := format.SealEntry(e, c.key.Signer)
	if err != nil {
		return e, err
	}
	h := format.HashOf(object)
	if c.broken != nil {
		return e, c.broken
	}
	if err := writeFile(c.dir, c.file(e.Seq, h), object); err != nil {
		// The file may be there or not: this process writes no other one in its
		// place.
		c.broken = fmt.Errorf("write ledger entry: %w", err)
		return e, c.broken
	}
	c.mu.Lock()
	if uint64(len(c.heads)) < e.Seq { // reach may have found the file
		c.heads = append(c.heads, h)
	}
	c.mu.Unlock()
	return e, nil
}
