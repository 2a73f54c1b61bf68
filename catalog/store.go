package catalog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/badger/v4/y"
	"github.com/dgraph-io/ristretto/v2/z"
)

// valueThreshold is the size in bytes from which a value goes to the value
// log. It must fit into a transaction, which is 15 % of a memtable. What large
// folders are remembered by is above it: tables that hold such values grow, and
// with them the memory that compactions take.
const valueThreshold = 16 << 10

// openStore opens Badger with little memory. Chunk ids do not compress, and
// without compression and block cache Badger reads tables, their indexes and
// their Bloom filters straight from the page cache: what is left in memory are
// up to four memtables and the builders of tables, of which Badger keeps eight
// around and which are as large as the largest table was.
func openStore(dir string, log *slog.Logger) (db *badger.DB, err error) {
	defer guard(&err)
	if err := inspect(dir); err != nil {
		return nil, err
	}
	opts := badger.DefaultOptions(dir).
		WithLogger(bridge{log}).
		WithMetricsEnabled(false).
		WithMemTableSize(2 << 20).
		WithBaseTableSize(2 << 20).
		WithNumMemtables(2).
		WithNumCompactors(2).
		WithNumGoroutines(2).
		WithCompression(options.None).
		WithBlockCacheSize(0).
		WithIndexCacheSize(0).
		WithValueThreshold(valueThreshold).
		WithValueLogFileSize(maxValue).
		WithVerifyValueChecksum(true).
		WithChecksumVerificationMode(options.OnBlockRead).
		WithDetectConflicts(false) // there is one writer
	opts.TableSizeMultiplier = 1
	db, err = badger.Open(opts)
	if err != nil {
		return nil, classify(err)
	}
	return db, nil
}

// environment lists causes that say nothing about the data.
var environment = []error{
	syscall.EACCES, syscall.EPERM, syscall.EROFS, syscall.EIO, syscall.ENOMEM,
	syscall.EMFILE, syscall.ENFILE, syscall.EDQUOT,
}

// classify tells damage from everything else that keeps Badger from opening.
// Badger flattens its errors, so their text is all there is to go by.
func classify(err error) error {
	text := err.Error()
	if strings.Contains(text, "Cannot acquire directory lock") {
		return fmt.Errorf("%w by a program that is not this one: %w", ErrLocked, err)
	}
	if strings.Contains(text, syscall.ENOSPC.Error()) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	for _, cause := range environment {
		if strings.Contains(text, cause.Error()) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", ErrCorrupt, err)
}

// inspect finds what Badger answers with an exit or with deletion of data, and
// mends the one trace of a killed process that Badger stumbles over: a log that
// was created or is about to be removed, and is empty.
func inspect(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	data := false
	for _, e := range entries {
		switch filepath.Ext(e.Name()) {
		case ".mem", ".vlog":
			info, err := e.Info()
			if err != nil {
				return err
			}
			if info.Size() > 0 {
				data = true
			} else if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		case ".sst":
			data = true
		}
	}
	f, err := os.Open(filepath.Join(dir, badger.ManifestFilename))
	if errors.Is(err, fs.ErrNotExist) {
		if data {
			return fmt.Errorf("%w: %s is missing", ErrCorrupt, badger.ManifestFilename)
		}
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	manifest, _, err := badger.ReplayManifestFile(f, 0, badger.Options{})
	if err != nil {
		return classify(fmt.Errorf("read %s: %w", badger.ManifestFilename, err))
	}
	for id, t := range manifest.Tables {
		if err := inspectTable(table.NewFilename(id, dir), t.Compression); err != nil {
			return err
		}
	}
	return nil
}

// inspectTable reads what Badger reads of a table when it opens it, the index
// and the last block, and every block that says what is condemned: Badger's
// iterators leave out a damaged one without a word.
func inspectTable(path string, compression options.CompressionType) (err error) {
	name := filepath.Base(path)
	defer func() {
		if recover() != nil {
			err = fmt.Errorf("%w: table %s", ErrCorrupt, name)
		}
	}()
	file, err := z.OpenMmapFile(path, os.O_RDONLY, 0)
	if err != nil {
		return classify(fmt.Errorf("open table %s: %w", name, err))
	}
	// The footer: index, its length, checksum, its length.
	rest := file.Data
	for range 2 {
		if len(rest) < 4 {
			return fmt.Errorf("%w: table %s is cut off", ErrCorrupt, name)
		}
		size := binary.BigEndian.Uint32(rest[len(rest)-4:])
		rest = rest[:len(rest)-4]
		if uint64(size) > uint64(len(rest)) {
			return fmt.Errorf("%w: table %s is cut off", ErrCorrupt, name)
		}
		rest = rest[:len(rest)-int(size)]
	}
	t, err := table.OpenTable(file, table.Options{
		BlockSize:   4 << 10,
		ChkMode:     options.OnBlockRead,
		Compression: compression,
	})
	if err != nil {
		return classify(fmt.Errorf("table %s: %w", name, err))
	}
	if t.Biggest()[0] == tagCondemned {
		it := t.NewIterator(table.NOCACHE)
		var last []byte
		for it.Seek(y.KeyWithTs([]byte{tagCondemned}, math.MaxUint64)); it.Valid(); it.Next() {
			last = append(last[:0], it.Key()...)
		}
		if !bytes.Equal(last, t.Biggest()) { // it stopped at a block
			err = fmt.Errorf("%w: table %s", ErrCorrupt, name)
		}
		err = errors.Join(err, it.Close())
	}
	return errors.Join(err, t.Close(-1))
}

// bridge is Badger's logger. Badger calls an error what it returns as well, so
// all of it is for debugging.
type bridge struct{ log *slog.Logger }

func (b bridge) Errorf(format string, args ...any)   { b.say("error", format, args) }
func (b bridge) Warningf(format string, args ...any) { b.say("warning", format, args) }
func (b bridge) Infof(format string, args ...any)    { b.say("info", format, args) }
func (b bridge) Debugf(format string, args ...any)   { b.say("debug", format, args) }

func (b bridge) say(severity, format string, args []any) {
	b.log.Debug("badger", "severity", severity, "text", message{format, args})
}

// message is formatted only where somebody listens.
type message struct {
	format string
	args   []any
}

func (m message) LogValue() slog.Value {
	return slog.StringValue(strings.TrimSpace(fmt.Sprintf(m.format, m.args...)))
}
