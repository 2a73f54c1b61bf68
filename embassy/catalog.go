package embassy

import (
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
	Kind     string // "backup", "restore"
	Dataset  string
	Started  time.Time
	Ended    time.Time
	Exit     int
	Snapshot format.Hash // zero: none
	Note     string      // one line for a person
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
	// p.Num is ignored. A pack that is already known keeps its number and its
	// place in the chain. A chunk that is already known stays with the pack it
	// was in. The record of the pack becomes visible no later than its chunks.
	AddPack(p PackState, ids []chunk.ID) (PackNum, error)

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

	// Forget drops everything about chunks, packs, listed heads, placements and
	// the file cache. Seen heads, runs and notes stay. Pack numbers are not
	// used again.
	Forget() error

	// Place records that the target confirmed the object at that time.
	Place(target string, h format.Hash, at time.Time) error
	// Placed returns when the target last confirmed the object; zero: never.
	Placed(target string, h format.Hash) (time.Time, error)

	// SetSeenHead records a head; synced. A lower sequence number than the one
	// recorded is refused with an error.
	SetSeenHead(target string, chain format.ID, h SeenHead) error
	// SeenHead returns the recorded head; ok is false if there is none.
	SeenHead(target string, chain format.ID) (h SeenHead, ok bool, err error)

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

	Close() error
}
