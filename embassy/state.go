package embassy

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"embassy/crypto"
	"embassy/embassy/format"
)

// ErrNoState says that this machine was never made an agent of a nation.
var ErrNoState = errors.New("this machine is not set up: no nation in the state directory; run embassy init")

// ErrKeyless says that this machine copies and checks, and holds no key to read with.
var ErrKeyless = errors.New("here is no agent's key, only nation_key, which reads nothing: run this on a machine that backs up")

// State is the state directory of one agent:
//
//	nation.json    the pinned root keys of the nation, in public form
//	agent.key      the agent's private keys, 0600
//	charter        the newest charter this machine accepted
//	lock           held while the charter is replaced
//	chains/<c>/    own chains, one file an entry: the authority for own numbers
//	audit/         signed records of what people did here
//	forgiven.json  targets that were trusted again, and the own heads of then
//	spool/         sealed objects that too few targets hold yet
//	catalog/       a cache
//
// Nothing in it opens a pack or a snapshot root.
type State struct {
	dir      string
	name     string
	nation   format.ID
	verifier *crypto.Verifier
	asked    bool // for enrolment, with a request
	key      *crypto.AgentKey
}

type pin struct {
	Version   int    `json:"version"`
	Name      string `json:"name"`
	Nation    string `json:"nation"`
	Signer    []byte `json:"root_signer"`
	Recipient []byte `json:"root_recipient,omitempty"` // empty: pinned by a request
}

// OpenState reads the directory; ErrNoState when there is none.
func OpenState(dir string) (*State, error) {
	var p pin
	raw, err := os.ReadFile(filepath.Join(dir, "nation.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("state directory %s: %w", dir, ErrNoState)
	}
	if err != nil {
		return nil, stateError(dir, "nation.json", err)
	}
	if json.Unmarshal(raw, &p) != nil {
		return nil, stateError(dir, "nation.json", format.ErrMalformed)
	}
	if p.Version != format.Version {
		return nil, fmt.Errorf("state directory %s: nation.json has version %d, and this program reads version %d", dir, p.Version, format.Version)
	}
	s := &State{dir: dir, name: p.Name}
	if s.nation, err = format.ParseID(p.Nation); err != nil {
		return nil, stateError(dir, "nation.json", format.ErrMalformed)
	}
	if s.verifier, err = crypto.ParseVerifier(p.Signer); err != nil {
		return nil, stateError(dir, "nation.json", format.ErrMalformed)
	}
	if s.asked = len(p.Recipient) == 0; !s.asked {
		if _, err := crypto.ParseRecipient(p.Recipient); err != nil {
			return nil, stateError(dir, "nation.json", format.ErrMalformed)
		}
	}
	if s.key, err = readAgentKey(filepath.Join(dir, "agent.key")); err != nil {
		return nil, stateError(dir, "agent.key", err)
	}
	return s, nil
}

// stateError says what to do about a file of the state directory.
func stateError(dir, file string, err error) error {
	what, do := "is damaged", "move the directory away and run embassy init with the kit, or bring the file back from a copy"
	var path *fs.PathError
	switch {
	case errors.Is(err, fs.ErrPermission):
		what, do = "cannot be read by this user", "run embassy as the user that the directory belongs to"
	case errors.Is(err, fs.ErrNotExist):
		what = "is missing"
	case errors.As(err, &path):
		what, do = "cannot be read", "look at the disk: "+path.Err.Error()
	case !errors.Is(err, format.ErrMalformed):
		return fmt.Errorf("state directory %s: %w", dir, err)
	}
	return &badState{fmt.Sprintf("state directory %s: %s %s: %s", dir, file, what, do), err}
}

// badState is a state directory that cannot be used.
type badState struct {
	text  string
	cause error
}

func (e *badState) Error() string { return e.text }
func (e *badState) Unwrap() error { return e.cause }

// createState pins the nation and makes the agent's key, unless both are
// there already. recipient is that of the root; nil where only its signer is
// known. The pin comes last: with it the directory is complete.
func createState(dir, name string, key format.NationKey, recipient *crypto.Recipient) (*State, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	s, err := OpenState(dir)
	if err == nil {
		if s.nation != key.Nation {
			return nil, fmt.Errorf("state directory %s belongs to nation %s, and not to nation %s: name another state_dir, or the right kit or key", dir, s.nation, key.Nation)
		}
		return s, nil
	}
	if !errors.Is(err, ErrNoState) {
		return nil, err
	}
	keyFile := filepath.Join(dir, "agent.key")
	if _, err := os.Stat(keyFile); errors.Is(err, fs.ErrNotExist) {
		key, err := crypto.NewAgentKey()
		if err != nil {
			return nil, err
		}
		if err := createFile(dir, keyFile, key.Marshal()); err != nil && !errors.Is(err, fs.ErrExist) { // another process made it at once
			return nil, err
		}
	}
	p := pin{Version: format.Version, Name: name, Nation: key.Nation.String(), Signer: key.Signer.Bytes()}
	if recipient != nil {
		p.Recipient = recipient.Bytes()
	}
	raw, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return nil, err
	}
	if err := createFile(dir, filepath.Join(dir, "nation.json"), append(raw, '\n')); errors.Is(err, fs.ErrExist) {
		return createState(dir, name, key, recipient) // another process made it at once
	} else if err != nil {
		return nil, err
	}
	return OpenState(dir)
}

func readAgentKey(path string) (*crypto.AgentKey, error) {
	err := CheckPrivate(path)
	if errors.Is(err, ErrNotPrivate) {
		err = fmt.Errorf("%w; consider the key captured", err)
	}
	if err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	k, err := crypto.ParseAgentKey(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", format.ErrMalformed, err)
	}
	return k, nil
}

// Name returns the nation's name when this machine was set up.
func (s *State) Name() string { return s.name }

// Nation returns the nation's pseudonym.
func (s *State) Nation() format.ID { return s.nation }

// Verifier returns the pinned root key that signs charters.
func (s *State) Verifier() *crypto.Verifier { return s.verifier }

// NationKey returns the nation's pinned public key.
func (s *State) NationKey() format.NationKey {
	return format.NationKey{Nation: s.nation, Signer: s.verifier}
}

// NewestKey returns the public key of the root that the newest charter which
// this machine accepted names; the pinned one while there is none.
func (s *State) NewestKey() (format.NationKey, error) {
	ch, _, err := s.charter()
	if errors.Is(err, fs.ErrNotExist) {
		return s.NationKey(), nil
	}
	if err != nil {
		return format.NationKey{}, err
	}
	signer, err := crypto.ParseVerifier(ch.RootSigner)
	return format.NationKey{Nation: s.nation, Signer: signer}, err
}

// CheckRoot refuses a root of this nation that another one has replaced, with
// ErrReplaced. One that is to follow the nation's root holds that, and is fit.
func (s *State) CheckRoot(nation format.ID, root *crypto.Root) error {
	key, err := s.NewestKey()
	if err != nil || key.Nation != nation || slices.ContainsFunc(root.Ring(), func(r *crypto.Root) bool {
		return bytes.Equal(r.Signer().Verifier().Bytes(), key.Signer.Bytes())
	}) {
		return err
	}
	return fmt.Errorf("%w: %w", crypto.ErrAuthentication, ErrReplaced)
}

// Knows reports whether the key is the pinned one, or that of a root which has
// taken its place since.
func (s *State) Knows(key format.NationKey) bool {
	if key.String() == s.NationKey().String() {
		return true
	}
	ch, _, err := s.charter()
	return err == nil && key.Nation == s.nation && slices.ContainsFunc(ch.Succession, func(h format.Handover) bool {
		return bytes.Equal(h.Signer, key.Signer.Bytes())
	})
}

// Agent returns this agent's pseudonym.
func (s *State) Agent() format.ID { return s.key.ID() }

// CatalogDir is where the catalog of this state directory lies.
func (s *State) CatalogDir() string { return filepath.Join(s.dir, "catalog") }

// charter returns the newest charter that this machine accepted, and its
// object.
func (s *State) charter() (*format.Charter, []byte, error) {
	object, err := os.ReadFile(filepath.Join(s.dir, "charter"))
	if s.asked && errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("agent %s: %w, as far as this machine knows: it has seen no charter yet (%w)", s.Agent(), errWaiting, err)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read charter: %w; run embassy init again to finish it", err)
	}
	ch, err := format.OpenCharter(object, s.nation, s.verifier)
	return ch, object, err
}

// Keys opens what the newest charter that this machine accepted gives to its
// agent. No target is asked.
func (s *State) Keys() (*Keys, error) {
	ch, _, err := s.charter()
	if err != nil {
		return nil, err
	}
	return AgentKeys(ch, s.key)
}

// ErrTwoRoots: a charter knows another successor of the root than the charter
// that was accepted before. Somebody has a root that was replaced.
var ErrTwoRoots = errors.New("the charter names another root than the one that this machine knows to have followed: somebody may use a root that was replaced")

// acceptCharter stores a verified charter, unless one that counts as much or
// more is stored already.
func (s *State) acceptCharter(object []byte) (*format.Charter, error) {
	ch, err := format.OpenCharter(object, s.nation, s.verifier)
	if err != nil {
		return nil, err
	}
	if have, _, err := s.charter(); err == nil && !outranks(ch, have) {
		return have, nil // and nothing has to be written
	}
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if have, _, err := s.charter(); err == nil {
		if !outranks(ch, have) {
			return have, nil
		}
		if !ch.Follows(have) {
			return nil, fmt.Errorf("charter %d: %w", ch.Seq, ErrTwoRoots)
		}
	}
	return ch, writeFile(s.dir, filepath.Join(s.dir, "charter"), object)
}

// outranks reports whether a charter counts more than another one. Of two with
// one number the later one does, so that all machines agree.
func outranks(a, b *format.Charter) bool {
	return cmp.Or(a.Rank().Compare(b.Rank()), cmp.Compare(a.Time, b.Time)) > 0
}

// enactCharter stores a charter that was signed on this machine, and must
// follow the newest one that it knows, or be the first: else ErrStale. before
// is called when it is certain that it does, and may be nil.
func (s *State) enactCharter(object []byte, before func()) (*format.Charter, error) {
	ch, err := format.OpenCharter(object, s.nation, s.verifier)
	if err != nil {
		return nil, err
	}
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	have, was, err := s.charter()
	switch {
	case err == nil && format.HashOf(was) != ch.Prev:
		return nil, fmt.Errorf("charter %d, and charter %d is in force: %w", ch.Seq, have.Seq, ErrStale)
	case err == nil && !ch.Follows(have):
		return nil, fmt.Errorf("charter %d: %w", ch.Seq, ErrTwoRoots)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	if before != nil {
		before()
	}
	return ch, writeFile(s.dir, filepath.Join(s.dir, "charter"), object)
}

// lock keeps other processes from replacing the charter, until it is released.
func (s *State) lock() (release func(), err error) {
	f, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lockFile(f); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	}
	return func() { f.Close() }, nil
}

// makeDirs makes a folder below the state directory, durably.
func (s *State) makeDirs(parts ...string) (string, error) {
	dir := s.dir
	for _, p := range parts {
		parent := dir
		dir = filepath.Join(dir, p)
		err := os.Mkdir(dir, 0o700)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil {
			err = syncDir(parent)
		}
		if err != nil {
			return "", err
		}
	}
	return dir, nil
}

// removeDir removes a folder below the state directory, with all that is in it.
// It is whole, or under a name that nothing reads, or not there.
func (s *State) removeDir(parent, name string) error {
	parent = filepath.Join(s.dir, parent)
	dir := filepath.Join(parent, name)
	if err := os.RemoveAll(dir + ".gone"); err != nil {
		return err
	}
	if err := os.Rename(dir, dir+".gone"); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if err := syncDir(parent); err != nil {
		return err
	}
	return os.RemoveAll(dir + ".gone")
}

const forgivenFile = "forgiven.json"

// forgivenHeads are the heads of own chains when a target was last trusted
// again, by target and chain. What entries up to there say that the target had
// confirmed is not held against it any more.
type forgivenHeads map[string]map[string]uint64

func (s *State) forgiven() (forgivenHeads, error) {
	f := forgivenHeads{}
	raw, err := os.ReadFile(filepath.Join(s.dir, forgivenFile))
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err == nil && json.Unmarshal(raw, &f) != nil {
		err = stateError(s.dir, forgivenFile, format.ErrMalformed)
	}
	return f, err
}

// forgive notes the heads of all own chains for a target.
func (s *State) forgive(target string) error {
	f, err := s.forgiven()
	if err != nil {
		return err
	}
	f[target] = map[string]uint64{}
	err = s.eachChain(format.ID{}, func(c *chain) error {
		f[target][c.id().String()] = c.head()
		return nil
	})
	if err != nil {
		return err
	}
	raw, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(s.dir, filepath.Join(s.dir, forgivenFile), append(raw, '\n'))
}
