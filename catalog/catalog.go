// Package catalog keeps the record of what lies where in a Badger database in
// the state directory. It implements [embassy.Catalog] and is the only
// importer of Badger; no Badger type leaves it.
//
// One process has a catalog open at a time. A method that returned nil has
// stored its data where the death of the process does not reach it; SetSeenHead,
// AddFault, AddRun, Learn, Condemn, Abandon and SetFates, and AddPack for its
// pack record, have also synced it. A number of a pack is therefore never given
// out twice, whatever dies.
//
// A catalog is a cache: a damaged one is reported with [ErrCorrupt], and one of
// another version of the program with [ErrSchema]. Neither is repaired or
// deleted; [MoveAside] makes room for one that is rebuilt from any target. Damage inside
// a table that Badger meets after Open reads as a missing record, but
// KnownObjects and Fates find it, and Open finds it where it would make a
// condemned pack one that is not.
package catalog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/dgraph-io/badger/v4"

	"embassy/embassy"
)

var (
	// ErrLocked: another process has the catalog open. The error names it.
	ErrLocked = errors.New("catalog is in use")
	// ErrSchema: the catalog was written by another version of the program. It
	// is sound, and rebuilt like a damaged one.
	ErrSchema = errors.New("catalog has an unknown schema version")
	// ErrCorrupt: the catalog cannot be read.
	ErrCorrupt = errors.New("catalog is damaged")
	// ErrNoSpace: the file system is so full that writing could kill the process.
	ErrNoSpace = errors.New("too little space for the catalog")
	// ErrClosed: the catalog was used after Close.
	ErrClosed = errors.New("catalog is closed")
	// ErrOldHead: a head is older than the one recorded.
	ErrOldHead = errors.New("head is older than one already seen")
)

// storeName is the folder of Badger in the catalog's.
const storeName = "badger"

const (
	schemaVersion = 2

	// Badger writes through memory maps, so that a full disk is a signal and
	// not an error. What it writes in the background, memtables and
	// compactions, has to fit into the reserve, in bytes.
	reserve = 64 << 20

	// maxValue is the size limit of one record in bytes, and of a value log file.
	maxValue = 128 << 20

	// largeMany is how many bytes of large records are worth a compaction.
	largeMany = 32 << 20

	// maxPending is how many bytes of values a transaction may hold in memory.
	maxPending = 8 << 20
)

// Options configures a Catalog. The zero value is useful.
type Options struct {
	LockWait time.Duration    // how long Open waits for another process to close the catalog
	Waits    func(who string) // is told once, when Open has to wait for that process; nil: nobody is
	Logger   *slog.Logger     // gets what Badger says, at debug level; nil: nobody
	Now      func() time.Time // nil: time.Now

	// Free returns the bytes that this user may still write to the file system
	// that holds dir; nil: ask the system.
	Free func(dir string) (uint64, error)
}

// Catalog is an open catalog. Its methods are safe for concurrent use.
type Catalog struct {
	dir  string
	free func(dir string) (uint64, error)
	lock *lock
	db   *badger.DB

	life   sync.RWMutex // held for reading by every method, for writing by Close and those that are alone
	closed bool         // guarded by life

	condemned map[embassy.PackNum]bool // as on disk; guarded by life

	sound func() error // checkTables, once

	writer sync.Mutex // held by whoever writes; orders all transactions
	large  int        // bytes put into the value log since it was last collected; guarded by writer
}

var _ embassy.Catalog = (*Catalog)(nil)

// Open opens the catalog in the directory, and creates both where missing. The
// directory belongs to the catalog alone. The caller closes the catalog. The
// error wraps ErrLocked, ErrSchema, ErrCorrupt or ErrNoSpace where that is the
// cause.
func Open(dir string, opts Options) (*Catalog, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Free == nil {
		opts.Free = freeSpace
	}
	c, err := open(dir, opts)
	if errors.Is(err, ErrCorrupt) {
		err = fmt.Errorf("%w; nothing is lost with it: move this directory away and rebuild the catalog from any target", err)
	}
	if err != nil {
		return nil, fmt.Errorf("open catalog %s: %w", dir, err)
	}
	return c, nil
}

func open(dir string, opts Options) (_ *Catalog, err error) {
	store := filepath.Join(dir, storeName)
	if err := os.MkdirAll(store, 0o700); err != nil {
		return nil, err
	}
	c := &Catalog{dir: dir, free: opts.Free}
	c.sound = sync.OnceValue(c.checkTables)
	if err := c.room(0); err != nil {
		return nil, err
	}
	if c.lock, err = acquire(dir, opts.LockWait, opts.Waits, opts.Now); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.lock.release())
		}
	}()
	if c.db, err = openStore(store, opts.Logger); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.db.Close())
		}
	}()
	if err := c.checkSchema(); err != nil {
		return nil, err
	}
	if err := c.finishListing(); err != nil {
		return nil, err
	}
	if err := c.loadCondemned(); err != nil {
		return nil, err
	}
	return c, nil
}

// Close waits for running calls and for Badger's own work, and gives the
// catalog back to other processes. Calling it again does nothing.
func (c *Catalog) Close() error {
	c.life.Lock()
	defer c.life.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	var errs []error
	if c.large > 0 {
		errs = append(errs, c.collect())
	}
	errs = append(errs, c.db.Close(), c.lock.release())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close catalog %s: %w", c.dir, err)
	}
	return nil
}

// checkSchema writes the schema version into an empty catalog, and compares it
// otherwise.
func (c *Catalog) checkSchema() error {
	var found []byte
	empty := true
	err := c.db.View(func(txn *badger.Txn) (err error) {
		if found, err = get(txn, schemaKey()); err != nil || found != nil {
			return err
		}
		return scan(txn, nil, nil, func(_, _ []byte) (bool, error) {
			empty = false
			return false, nil
		})
	})
	switch {
	case err != nil:
		return err
	case found == nil && empty:
		return c.commitSynced(func(txn *badger.Txn) error {
			return txn.Set(schemaKey(), binary.BigEndian.AppendUint32(nil, schemaVersion))
		})
	case len(found) != 4:
		return fmt.Errorf("%w: it has no schema version", ErrCorrupt)
	}
	if v := binary.BigEndian.Uint32(found); v != schemaVersion {
		return fmt.Errorf("%w %d, this program knows %d: use the program that wrote it, "+
			"or move this directory away and rebuild the catalog from any target", ErrSchema, v, schemaVersion)
	}
	return nil
}

// view runs fn in one read transaction.
func (c *Catalog) view(fn func(*badger.Txn) error) error {
	c.life.RLock()
	defer c.life.RUnlock()
	if c.closed {
		return ErrClosed
	}
	return c.db.View(fn)
}

// write runs fn as the only writer.
func (c *Catalog) write(fn func() error) error {
	c.life.RLock()
	defer c.life.RUnlock()
	if c.closed {
		return ErrClosed
	}
	c.writer.Lock()
	defer c.writer.Unlock()
	return fn()
}

// alone runs fn while nobody else reads or writes.
func (c *Catalog) alone(fn func() error) error {
	c.life.Lock() // readers and writers hold it for reading, so there is none
	defer c.life.Unlock()
	if c.closed {
		return ErrClosed
	}
	return fn()
}

// commit runs fn in one transaction. The caller is the only writer.
func (c *Catalog) commit(fn func(*badger.Txn) error) error {
	if err := c.room(0); err != nil {
		return err
	}
	return c.db.Update(fn)
}

// commitSynced is commit, on disk when it returns. Sync reaches the memtable
// that is being written only, which is the right one because no other writer
// can have replaced it meanwhile.
func (c *Catalog) commitSynced(fn func(*badger.Txn) error) error {
	if err := c.commit(fn); err != nil {
		return err
	}
	return c.db.Sync()
}

// remove is a whole deletion of one record; one that is not there is no error.
func (c *Catalog) remove(key []byte) error {
	return c.write(func() error {
		return c.commit(func(txn *badger.Txn) error { return txn.Delete(key) })
	})
}

// room returns ErrNoSpace unless the file system takes that many bytes and
// keeps the reserve.
func (c *Catalog) room(bytes int) error {
	free, err := c.free(c.dir)
	if err != nil {
		return fmt.Errorf("ask for free space: %w", err)
	}
	if need := uint64(bytes) + reserve; free < need {
		return fmt.Errorf("%w: %d MiB free, %d MiB needed; free some on the file system of %s",
			ErrNoSpace, free>>20, need>>20, c.dir)
	}
	return nil
}

// collect rewrites value log files that are mostly garbage. Only compaction
// finds out what is garbage, and Badger compacts when it likes: after many
// large records it is told to.
func (c *Catalog) collect() error {
	if c.large >= largeMany {
		if err := c.db.Flatten(1); err != nil {
			return fmt.Errorf("compact: %w", err)
		}
	}
	c.large = 0
	for {
		err := c.db.RunValueLogGC(0.5)
		if errors.Is(err, badger.ErrNoRewrite) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("collect value log: %w", err)
		}
	}
}

// batch writes in order, in as few transactions as Badger allows. The caller
// is the only writer; it ends with flush and, always, discard.
type batch struct {
	c      *Catalog
	txn    *badger.Txn
	bytes  int  // of values in txn
	synced bool // sync every transaction before the next one starts
}

func (c *Catalog) newBatch(synced bool) *batch {
	return &batch{c: c, txn: c.db.NewTransaction(true), synced: synced}
}

func (b *batch) discard() { b.txn.Discard() }

// set keeps both slices until the next flush.
func (b *batch) set(key, value []byte) error {
	if len(value) > maxValue {
		return fmt.Errorf("record of %d bytes exceeds %d", len(value), maxValue)
	}
	if len(value) >= valueThreshold {
		b.c.large += len(value)
	}
	if err := b.fit(func() error { return b.txn.Set(key, value) }); err != nil {
		return err
	}
	b.bytes += len(value)
	if b.bytes > maxPending {
		return b.flush()
	}
	return nil
}

// delete keeps the slice until the next flush.
func (b *batch) delete(key []byte) error {
	return b.fit(func() error { return b.txn.Delete(key) })
}

// fit does it in this transaction, or in the next if it does not fit.
func (b *batch) fit(do func() error) error {
	err := do()
	if errors.Is(err, badger.ErrTxnTooBig) {
		if err = b.flush(); err == nil {
			err = do()
		}
	}
	return err
}

// flush commits what was written so far.
func (b *batch) flush() error {
	if err := b.c.room(b.bytes); err != nil {
		return err
	}
	if err := b.txn.Commit(); err != nil {
		return err
	}
	b.txn, b.bytes = b.c.db.NewTransaction(true), 0
	if b.synced {
		return b.c.db.Sync()
	}
	return nil
}
