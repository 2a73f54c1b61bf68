package embassy

import (
	"encoding/json"
	"fmt"
	"iter"
	"time"

	"embassy/chunk"
	"embassy/embassy/format"
)

// PackNum is the catalog's own dense number of a pack, from 1. It means
// nothing outside one catalog.
type PackNum uint32

// PackState is what the catalog knows of one of this agent's packs.
type PackState struct {
	Num   PackNum
	Hash  format.Hash
	Size  int64     // bytes on a target
	Chain format.ID // the chain that lists it, or will
	Entry uint64    // sequence number of the entry that lists it; 0: none does yet
	Pos   uint32    // its position among the entry's objects
	// Condemned: nothing new may refer to it.
	Condemned bool
	// Head is the pack's part of an index object, verbatim. It is kept
	// until an entry lists the pack, and empty from then on.
	Head []byte
}

// ListedPack places a pack in the chain.
type ListedPack struct {
	Num PackNum
	Pos uint32
}

// SeenHead is the furthest entry of a chain that a target ever showed or
// confirmed. A target never shows less than it showed.
type SeenHead struct {
	Seq  uint64
	Hash format.Hash
	At   time.Time
}

// Run is one finished run, for status and history.
type Run struct {
	Kind     string // "backup", "replicate", "verify", "trust" and so on
	Dataset  string
	Started  time.Time
	Ended    time.Time
	Exit     int
	Snapshot format.Hash // zero: none
	Note     string      // one line for a person
}

// keepNote notes a value as JSON.
func keepNote(c Catalog, key string, value any) error {
	raw, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return c.Note(key, raw)
}

// readNote returns what keepNote noted; ok is false if there is nothing.
func readNote[T any](c Catalog, key string) (value T, ok bool, err error) {
	raw, _, err := c.Noted(key)
	if err != nil || len(raw) == 0 {
		return value, false, err
	}
	if err := json.Unmarshal(raw, &value); err != nil {
		return value, false, fmt.Errorf("catalog: note %s: %w", key, err)
	}
	return value, true, nil
}

// Line names a chain by its place on every target. A chain's id means nothing
// outside its compartment and agent: anyone can write any id.
type Line struct{ Compartment, Agent, Chain format.ID }

// Known is an entry that this machine verified: its signature, its place, and
// that it follows the one before.
type Known struct {
	Seq  uint64
	Hash format.Hash
	Size uint64 // bytes
}

// LearnedEntry is a known entry with what it adds.
type LearnedEntry struct {
	Known
	Adds []format.Listed
}

// KnownObject is an object that a known entry lists.
type KnownObject struct {
	Kind  format.Kind
	Hash  format.Hash
	Size  uint64 // bytes
	Chain format.ID
	Seq   uint64 // of the entry
}

// Fate is what stewards ordered about an object. A zero Order was not given.
type Fate struct {
	Marked  Order // no entry that names the order, or a later one, references it
	Deleted Order // it goes from every target that holds the order
}

// Order names an entry of a steward that gives orders.
type Order struct {
	Agent, Chain format.ID
	Seq          uint64
	At           time.Time // when the steward wrote it, by its clock
}

// Given reports whether there is such an order.
func (o Order) Given() bool { return o.Seq != 0 }

// KnownFate is the Fate of an object in an agent's folder.
type KnownFate struct {
	Agent format.ID
	Kind  format.Kind
	Hash  format.Hash
	Fate
}

// Evidence is what is known of one object on one target. Every time is by this
// machine's clock; zero: never.
type Evidence struct {
	Stored   time.Time // a put, or the store's own listing, confirmed it
	Verified time.Time // every byte was read, and right
	Locked   time.Time // the store says that it keeps the object until then
}

// Fault is something that a target did, or lost, and that people must know of
// until it is mended or forgiven. There is one for each target, kind and
// object; a later one replaces it, but keeps First.
type Fault struct {
	Target string
	Kind   FaultKind
	Object string // name on the target, or the chain; may be empty
	Text   string // one line for a person
	First  time.Time
	Last   time.Time
}

// FaultKind says what a fault is.
type FaultKind string

// The kinds of faults.
const (
	FaultRollback FaultKind = "rollback" // shows less than it showed
	FaultDiscards FaultKind = "discards" // said that it stored an object, and does not give it
	FaultMissing  FaultKind = "missing"  // lost an object that it showed
	FaultAltered  FaultKind = "altered"  // gives other bytes under the name
	FaultSwapped  FaultKind = "swapped"  // gives another object's bytes
	FaultCut      FaultKind = "cut"      // gives fewer bytes
	FaultForged   FaultKind = "forged"   // shows an entry that its agent did not sign
	FaultForeign  FaultKind = "foreign"  // holds another nation
	FaultFork     FaultKind = "fork"     // a chain was written by two: no fault of the target
	FaultUnsound  FaultKind = "unsound"  // the right bytes, in which its writer put what cannot be read: no fault of the target
)

// Distrusts reports whether copies on a target with such a fault must not be
// counted, whatever it says of other objects.
func (k FaultKind) Distrusts() bool {
	return k == FaultRollback || k == FaultDiscards || k == FaultForeign
}

// Damages reports whether the fault is that of an object which the target
// should have, and does not give as it is.
func (k FaultKind) Damages() bool {
	return k == FaultMissing || k == FaultAltered || k == FaultSwapped || k == FaultCut
}

// Catalog remembers what lies where. It is a cache: nothing is lost with it,
// and it is never the authority for "this exists" when something is deleted.
// All methods are safe for concurrent use. Writes survive the death of the
// process when the method returns; those marked synced survive a power cut.
type Catalog interface {
	// FindChunks sets packs[i] to a pack that holds ids[i], or 0.
	// len(packs) == len(ids).
	FindChunks(ids []chunk.ID, packs []PackNum) error

	// AddPack records a sealed pack, the ids of its chunks, and its number.
	// p.Num and p.Condemned are ignored. A pack that is already known keeps its
	// number and its place in the chain. A chunk that is already known stays with
	// the pack it was in, unless that is condemned and this one is not. The record
	// of the pack becomes visible no later than its chunks.
	AddPack(p PackState, ids []chunk.ID) (PackNum, error)

	// Condemn says that the chunks of these packs are to be stored anew:
	// FindChunks does not answer with them any more, and AddPack moves a chunk
	// that is in such a pack to the new one. The packs themselves stay known, with
	// Condemned set. A pack that is not known is no error, and stays uncondemned
	// when it becomes known. Synced.
	Condemn(packs []format.Hash) error

	// Abandon says that no entry will list a pack that none lists yet: it is
	// unlisted no more, and condemned. One that is listed, or not known, is left as
	// it is. Synced.
	Abandon(n PackNum) error

	// Pack returns the pack of that number; ok is false if there is none.
	Pack(n PackNum) (p PackState, ok bool, err error)

	// PackByHash is Pack by name.
	PackByHash(h format.Hash) (p PackState, ok bool, err error)

	// UnlistedPacks returns the packs of the chain that no entry lists yet,
	// in ascending order of number.
	UnlistedPacks(chain format.ID) ([]PackState, error)

	// SetListed records, in one transaction, that the entry seq of the chain
	// lists these packs, drops their Head, and makes seq the chain's listed
	// head. Calling it again with the same values changes nothing.
	SetListed(chain format.ID, seq uint64, packs []ListedPack) error

	// ListedHead returns the last seq given to SetListed, or 0.
	ListedHead(chain format.ID) (uint64, error)

	// SetFates merges what stewards ordered about objects of a compartment, by
	// hash: of each order that is given, the first stays. The objects need not be
	// known. Synced.
	SetFates(compartment format.ID, fates []KnownFate) error
	// DropOrders drops from the fates of the line's compartment every order that an
	// entry of the line gave whose number is greater than after. An object without
	// another order has no fate then. Fates may be set meanwhile: what the line
	// orders then may stay. When it fails, some of the orders may be there; doing it
	// again drops them. Synced.
	DropOrders(l Line, after uint64) error
	// Fate returns what was ordered; the zero Fate: nothing.
	Fate(compartment format.ID, h format.Hash) (Fate, error)
	// Fates yields every object of a compartment about which something was
	// ordered, in ascending order of hash. It ends after the first error. Fates
	// may be set meanwhile.
	Fates(compartment format.ID) iter.Seq2[KnownFate, error]

	// Forget drops everything about chunks, packs, listed heads, placements and
	// the file cache. Seen heads, known entries, fates, faults, runs and notes stay.
	// Pack numbers are not used again.
	Forget() error

	// ForgetCompartment is Forget, and also drops the known entries of a
	// compartment, and the fates of its objects.
	ForgetCompartment(compartment format.ID) error

	// Place records that the target confirmed the object at that time. It is
	// SetEvidence with Stored.
	Place(target string, h format.Hash, at time.Time) error
	// Placed returns when the target last confirmed the object; zero: never.
	Placed(target string, h format.Hash) (time.Time, error)
	// SetEvidence merges what was found out of objects on a target: a time that
	// is zero leaves what was known, any other replaces it.
	SetEvidence(target string, found map[format.Hash]Evidence) error
	// Evidence returns what is known; all zero: nothing.
	Evidence(target string, h format.Hash) (Evidence, error)
	// DropEvidence forgets that the target has the object.
	DropEvidence(target string, h format.Hash) error

	// Learn records an entry that was verified, and what it adds; the entry
	// becomes visible no earlier than its objects. e.Seq must follow the known
	// head of the line; learning a known entry again changes nothing, and
	// another one under its number is an error.
	Learn(l Line, e Known, adds []format.Listed) error
	// LearnAll is Learn of entries that follow one another: they become visible
	// together, and after an error none of them is.
	LearnAll(l Line, entries []LearnedEntry) error
	// KnownHead returns the last entry of the line that was learned; ok is
	// false if there is none.
	KnownHead(l Line) (e Known, ok bool, err error)
	// KnownEntry returns one entry of the line.
	KnownEntry(l Line, seq uint64) (e Known, ok bool, err error)
	// KnownEntries returns all entries of the line, in ascending order of seq.
	KnownEntries(l Line) ([]Known, error)
	// KnownLines returns every line with a known entry, in ascending order of
	// compartment, agent and chain.
	KnownLines() ([]Line, error)
	// KnownObjects yields what the known entries of an agent's chains list, of
	// one kind whose hash starts with prefix, in ascending order of hash, chain
	// and seq. It ends after the first error. Entries may be learned meanwhile.
	KnownObjects(compartment, agent format.ID, kind format.Kind, prefix []byte) iter.Seq2[KnownObject, error]

	// AddFault records a fault; synced.
	AddFault(f Fault) error
	// Faults returns the faults of a target ("" for all), in ascending order of
	// target, kind and object.
	Faults(target string) ([]Fault, error)
	// Fault returns one fault; ok is false if there is none.
	Fault(target string, kind FaultKind, object string) (f Fault, ok bool, err error)
	// ClearFault drops a fault; one that is not there is no error.
	ClearFault(target string, kind FaultKind, object string) error

	// SetSeenHead records a head; synced. A lower sequence number than the one
	// recorded is refused with an error.
	SetSeenHead(target string, l Line, h SeenHead) error
	// SeenHead returns the recorded head; ok is false if there is none.
	SeenHead(target string, l Line) (h SeenHead, ok bool, err error)
	// ForgetTarget drops the evidence, the seen heads and the faults of a
	// target: it is looked at as if for the first time.
	ForgetTarget(target string) error

	// CachedDir returns the file cache's record of one source folder, in an
	// encoding private to backup. series names a dataset; path is absolute,
	// any bytes.
	CachedDir(series string, path string) (record []byte, ok bool, err error)
	// PutCachedDirs replaces records; the map is by path.
	PutCachedDirs(series string, dirs map[string][]byte) error

	// AddRun appends to the history; synced.
	AddRun(r Run) error
	// Runs returns the newest n runs of a dataset ("" for all), newest first.
	Runs(dataset string, n int) ([]Run, error)

	// Note keeps a small named value, such as a verified chain entry; Noted
	// returns it.
	Note(key string, value []byte) error
	Noted(key string) (value []byte, ok bool, err error)
	// Notes returns all values whose key starts with prefix, by the rest of
	// their key.
	Notes(prefix string) (map[string][]byte, error)

	Close() error
}
