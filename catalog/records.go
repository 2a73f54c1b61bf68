package catalog

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/dgraph-io/badger/v4"

	"embassy/embassy"
)

// CachedDir implements [embassy.Catalog].
func (c *Catalog) CachedDir(series, path string) (record []byte, ok bool, err error) {
	record, err = c.value(dirKey(series, path))
	if err != nil {
		return nil, false, fmt.Errorf("cached directory %q of %s: %w", path, series, err)
	}
	return record, record != nil, nil
}

// PutCachedDirs implements [embassy.Catalog]. A record is limited to 128 MiB.
// When it fails, some of the records may be there.
func (c *Catalog) PutCachedDirs(series string, dirs map[string][]byte) error {
	err := c.write(func() error {
		b := c.newBatch(false)
		defer b.discard()
		for path, record := range dirs {
			if err := b.set(dirKey(series, path), record); err != nil {
				return fmt.Errorf("%q: %w", path, err)
			}
		}
		if err := b.flush(); err != nil {
			return err
		}
		if c.large < 2*maxValue {
			return nil
		}
		return c.collect()
	})
	if err != nil {
		return fmt.Errorf("put cached directories of %s: %w", series, err)
	}
	return nil
}

// AddRun implements [embassy.Catalog].
func (c *Catalog) AddRun(r embassy.Run) error {
	err := c.write(func() error {
		value, err := encodeRun(r)
		if err != nil {
			return err
		}
		return c.commitSynced(func(txn *badger.Txn) error {
			last, err := newest(txn, []byte{tagRun}, 1)
			if err != nil {
				return err
			}
			run := uint64(1)
			if len(last) > 0 {
				run = last[0] + 1
			}
			if err := txn.Set(binary.BigEndian.AppendUint64(runOfPrefix(r.Dataset), run), nil); err != nil {
				return err
			}
			return txn.Set(runKey(run), value)
		})
	})
	if err != nil {
		return fmt.Errorf("add %s run of %s: %w", r.Kind, r.Dataset, err)
	}
	return nil
}

// Runs implements [embassy.Catalog]. Times are in UTC.
func (c *Catalog) Runs(dataset string, n int) (runs []embassy.Run, err error) {
	prefix := []byte{tagRun}
	if dataset != "" {
		prefix = runOfPrefix(dataset)
	}
	err = c.view(func(txn *badger.Txn) error {
		numbers, err := newest(txn, prefix, n)
		if err != nil {
			return err
		}
		for _, run := range numbers {
			value, err := get(txn, runKey(run))
			if err != nil {
				return err
			}
			r, err := decodeRun(value)
			if err != nil {
				return err
			}
			runs = append(runs, r)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("runs of %q: %w", dataset, err)
	}
	return runs, nil
}

// newest returns the n highest run numbers that follow the prefix, highest first.
func newest(txn *badger.Txn, prefix []byte, n int) (runs []uint64, err error) {
	defer guard(&err)
	it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix, Reverse: true})
	defer it.Close()
	end := binary.BigEndian.AppendUint64(bytes.Clone(prefix), math.MaxUint64)
	for it.Seek(end); it.Valid() && len(runs) < n; it.Next() {
		rest := it.Item().Key()[len(prefix):]
		if len(rest) != 8 {
			return nil, errBad("a run")
		}
		runs = append(runs, binary.BigEndian.Uint64(rest))
	}
	return runs, nil
}

// Note implements [embassy.Catalog]. A key is limited to 8 KiB, a value to
// 128 MiB.
func (c *Catalog) Note(key string, value []byte) error {
	err := c.write(func() error {
		if len(key) > maxText {
			return fmt.Errorf("a key of %d bytes exceeds %d", len(key), maxText)
		}
		b := c.newBatch(false)
		defer b.discard()
		if err := b.set(noteKey(key), bytes.Clone(value)); err != nil {
			return err
		}
		return b.flush()
	})
	if err != nil {
		return fmt.Errorf("note %.200q: %w", key, err)
	}
	return nil
}

// Noted implements [embassy.Catalog].
func (c *Catalog) Noted(key string) (value []byte, ok bool, err error) {
	value, err = c.value(noteKey(key))
	if err != nil {
		return nil, false, fmt.Errorf("note %q: %w", key, err)
	}
	return value, value != nil, nil
}

// Notes implements [embassy.Catalog].
func (c *Catalog) Notes(prefix string) (map[string][]byte, error) {
	notes := map[string][]byte{}
	start := noteKey(prefix)
	err := c.view(func(txn *badger.Txn) error {
		return scan(txn, start, nil, func(key, value []byte) (bool, error) {
			notes[string(key[len(start):])] = append([]byte{}, value...)
			return true, nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("notes %q: %w", prefix, err)
	}
	return notes, nil
}

// value returns the value of a key, or nil if there is none.
func (c *Catalog) value(key []byte) (value []byte, err error) {
	err = c.view(func(txn *badger.Txn) error {
		value, err = get(txn, key)
		return err
	})
	return value, err
}
