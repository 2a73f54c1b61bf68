package embassy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/google/renameio/v2"

	"embassy/crypto"
	"embassy/embassy/format"
)

// chain is an own chain of this state directory. Its files are the authority
// for its numbers: an entry is durable here before its first put, and what a
// restart puts are these bytes.
type chain struct {
	dir   string
	key   *crypto.AgentKey
	scope format.Entry // nation, compartment, agent, chain

	mu    sync.RWMutex
	heads []format.Hash // heads[i] is the hash of entry i+1
}

// openChain opens the state directory's current chain in a compartment, or
// starts one.
func (s *State) openChain(compartment format.ID) (*chain, error) {
	parent := filepath.Join(s.dir, "chains", compartment.String())
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return nil, err
	}
	current := filepath.Join(parent, "current")
	raw, err := os.ReadFile(current)
	var id format.ID
	switch {
	case errors.Is(err, fs.ErrNotExist):
		id = format.ID(crypto.NewSecret().Bytes())
		if err := renameio.WriteFile(current, []byte(id.String()), 0o600); err != nil {
			return nil, err
		}
		if err := syncDir(parent); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	default:
		if id, err = format.ParseID(strings.TrimSpace(string(raw))); err != nil {
			return nil, fmt.Errorf("%s: %w", current, err)
		}
	}
	c := &chain{dir: filepath.Join(parent, id.String()), key: s.key, scope: format.Entry{
		Nation: s.nation, Compartment: compartment, Agent: s.Agent(), Chain: id,
	}}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return nil, err
	}
	return c, c.load()
}

func (c *chain) load() error {
	files, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		seq, h, err := format.ParseNumbered(f.Name())
		if err != nil {
			continue // a temporary file of an interrupted write
		}
		if seq != uint64(len(c.heads))+1 {
			return fmt.Errorf("%s: entry %d is missing or there twice: this state directory is damaged", c.dir, len(c.heads)+1)
		}
		c.heads = append(c.heads, h)
	}
	if n := c.head(); n > 0 {
		if _, _, err := c.entry(n); err != nil {
			return err
		}
	}
	return nil
}

// id is the chain's pseudonym.
func (c *chain) id() format.ID { return c.scope.Chain }

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

// name is the entry's name on a target.
func (c *chain) name(seq uint64) string {
	return format.EntryName(c.scope.Nation, c.scope.Compartment, c.scope.Agent, c.scope.Chain, seq, c.hash(seq))
}

func (c *chain) objectName(k format.Kind, h format.Hash) string {
	return format.ObjectName(c.scope.Nation, c.scope.Compartment, c.scope.Agent, k, h)
}

func (c *chain) file(seq uint64, h format.Hash) string {
	return filepath.Join(c.dir, fmt.Sprintf("%016x-%s", seq, h))
}

// entry reads and verifies an own entry, and returns its object too.
func (c *chain) entry(seq uint64) (format.Entry, []byte, error) {
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
	if e.Seq > 1 {
		e.Prev = c.hash(e.Seq - 1)
	}
	object, err := format.SealEntry(e, c.key.Signer)
	if err != nil {
		return e, err
	}
	h := format.HashOf(object)
	if err := renameio.WriteFile(c.file(e.Seq, h), object, 0o600); err != nil {
		return e, fmt.Errorf("write ledger entry: %w", err)
	}
	if err := syncDir(c.dir); err != nil {
		return e, fmt.Errorf("write ledger entry: %w", err)
	}
	c.mu.Lock()
	c.heads = append(c.heads, h)
	c.mu.Unlock()
	return e, nil
}

// listedPacks returns what SetListed wants to know of an entry.
func listedPacks(e format.Entry, num func(format.Hash) (PackNum, error)) ([]ListedPack, error) {
	var out []ListedPack
	for i, a := range e.Adds {
		if a.Kind != format.KindPack {
			continue
		}
		n, err := num(a.Hash)
		if err != nil {
			return nil, err
		}
		out = append(out, ListedPack{Num: n, Pos: uint32(i)})
	}
	return slices.Clip(out), nil
}
