package catalog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"github.com/dgraph-io/badger/v4"

	"embassy/embassy"
	"embassy/embassy/format"
)

// Learn implements [embassy.Catalog]. It is synced, so that no power cut leaves
// a gap below an entry that is known. An object that the entry lists twice is
// kept once, with its last size.
//
// The objects of a long entry take several transactions. They are seen once
// the line's head reaches the entry, and that is written last. Until then the
// line remembers which entry was begun, of several the last: if the agent's chain
// is forked and another one is learned in its place, the objects of the first go
// before.
func (c *Catalog) Learn(l embassy.Line, e embassy.Known, adds []format.Listed) error {
	return c.LearnAll(l, []embassy.LearnedEntry{{Known: e, Adds: adds}})
}

// LearnAll implements [embassy.Catalog], as Learn does.
func (c *Catalog) LearnAll(l embassy.Line, entries []embassy.LearnedEntry) error {
	if len(entries) == 0 {
		return nil
	}
	err := c.write(func() error { return c.learn(l, entries) })
	if err != nil {
		return fmt.Errorf("learn entry %d of chain %s: %w", entries[0].Seq, l.Chain, err)
	}
	return nil
}

func (c *Catalog) learn(l embassy.Line, entries []embassy.LearnedEntry) error {
	var head, begun embassy.Known
	err := c.db.View(func(txn *badger.Txn) error {
		if err := errors.Join(getKnown(txn, lineKey(tagLine, l), &head), getKnown(txn, lineKey(tagBegun, l), &begun)); err != nil {
			return err
		}
		for next := head.Seq + 1; len(entries) > 0; entries = entries[1:] {
			e := entries[0].Known
			var known embassy.Known
			if err := getKnown(txn, entryKey(l, e.Seq), &known); err != nil {
				return err
			}
			switch {
			case e.Seq == 0:
				return errors.New("entries are numbered from 1")
			case e.Seq <= head.Seq && known != e:
				return fmt.Errorf("it is %s, and %s is already known under its number", e.Hash, known.Hash)
			case e.Seq > next:
				return fmt.Errorf("the last one known is %d", head.Seq)
			case e.Seq == next:
				return nil
			}
		}
		return nil
	})
	if err != nil || len(entries) == 0 {
		return err
	}
	last := entries[len(entries)-1].Known
	for i, e := range entries {
		if e.Seq != head.Seq+1+uint64(i) {
			return fmt.Errorf("entry %d comes after entry %d", e.Seq, head.Seq+uint64(i))
		}
	}
	if begun.Seq > head.Seq && (begun != last || len(entries) > 1) {
		if err := c.sweep(l, head.Seq); err != nil {
			return fmt.Errorf("take back entry %s: %w", begun.Hash, err)
		}
	}
	b := c.newBatch(true)
	defer b.discard()
	if err := b.set(lineKey(tagBegun, l), encodeKnown(last)); err != nil {
		return err
	}
	for _, e := range entries {
		for _, a := range e.Adds {
			if err := b.set(objectKey(l, a, e.Seq), binary.BigEndian.AppendUint64(nil, a.Size)); err != nil {
				return err
			}
		}
		if err := b.set(entryKey(l, e.Seq), encodeKnown(e.Known)); err != nil {
			return err
		}
	}
	if err := b.set(lineKey(tagLine, l), encodeKnown(last)); err != nil {
		return err
	}
	if err := b.delete(lineKey(tagBegun, l)); err != nil {
		return err
	}
	return b.flush()
}

// sweep deletes the objects of entries after head, which nobody has seen. The
// caller is the only writer.
func (c *Catalog) sweep(l embassy.Line, head uint64) error {
	b := c.newBatch(true)
	defer b.discard()
	prefix := agentPrefix(l.Compartment, l.Agent)
	for from := prefix; from != nil; {
		var found [][]byte
		err := c.db.View(func(txn *badger.Txn) (err error) {
			from, err = page(txn, prefix, from, func(key, value []byte) error {
				o, err := decodeObject(key, value)
				if err == nil && o.Chain == l.Chain && o.Seq > head {
					found = append(found, append([]byte(nil), key...))
				}
				return err
			})
			return err
		})
		if err != nil {
			return err
		}
		for _, key := range found {
			if err := b.delete(key); err != nil {
				return err
			}
		}
	}
	return b.flush()
}

// KnownHead implements [embassy.Catalog].
func (c *Catalog) KnownHead(l embassy.Line) (e embassy.Known, ok bool, err error) {
	err = c.view(func(txn *badger.Txn) error { return getKnown(txn, lineKey(tagLine, l), &e) })
	if err != nil {
		return embassy.Known{}, false, fmt.Errorf("last known entry of chain %s: %w", l.Chain, err)
	}
	return e, e.Seq != 0, nil
}

// KnownEntry implements [embassy.Catalog].
func (c *Catalog) KnownEntry(l embassy.Line, seq uint64) (e embassy.Known, ok bool, err error) {
	err = c.view(func(txn *badger.Txn) error {
		var head embassy.Known
		if err := getKnown(txn, lineKey(tagLine, l), &head); err != nil || seq > head.Seq {
			return err
		}
		return getKnown(txn, entryKey(l, seq), &e)
	})
	if err != nil {
		return embassy.Known{}, false, fmt.Errorf("known entry %d of chain %s: %w", seq, l.Chain, err)
	}
	return e, e.Seq != 0, nil
}

// KnownEntries implements [embassy.Catalog].
func (c *Catalog) KnownEntries(l embassy.Line) (entries []embassy.Known, err error) {
	err = c.view(func(txn *badger.Txn) error {
		var head embassy.Known
		if err := getKnown(txn, lineKey(tagLine, l), &head); err != nil || head.Seq == 0 {
			return err
		}
		return scan(txn, lineKey(tagEntry, l), nil, func(_, value []byte) (bool, error) {
			e, err := decodeKnown(value)
			if err != nil || e.Seq > head.Seq {
				return false, err
			}
			entries = append(entries, e)
			return true, nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("known entries of chain %s: %w", l.Chain, err)
	}
	return entries, nil
}

// KnownLines implements [embassy.Catalog].
func (c *Catalog) KnownLines() (lines []embassy.Line, err error) {
	err = c.view(func(txn *badger.Txn) error {
		return scan(txn, []byte{tagLine}, nil, func(key, _ []byte) (bool, error) {
			l, err := decodeLine(key)
			lines = append(lines, l)
			return err == nil, err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("known chains: %w", err)
	}
	return lines, nil
}

// KnownObjects implements [embassy.Catalog]. It reads pages, and holds nothing
// while it yields: the loop may use the catalog, and take its time. A catalog
// in which a table is damaged is refused with ErrCorrupt before the first
// object, for what is missing here would be missing on a target.
func (c *Catalog) KnownObjects(compartment, agent format.ID, kind format.Kind, prefix []byte) iter.Seq2[embassy.KnownObject, error] {
	return func(yield func(embassy.KnownObject, error) bool) {
		err := c.sound()
		start := append(append(agentPrefix(compartment, agent), byte(kind)), prefix...)
		objects := make([]embassy.KnownObject, 0, pageSize)
		for from := start; err == nil && from != nil; {
			objects = objects[:0]
			err = c.view(func(txn *badger.Txn) (err error) {
				heads := map[format.ID]embassy.Known{} // of the lines met on this page
				from, err = page(txn, start, from, func(key, value []byte) error {
					o, err := decodeObject(key, value)
					if err != nil {
						return err
					}
					head, ok := heads[o.Chain]
					if !ok {
						l := embassy.Line{Compartment: compartment, Agent: agent, Chain: o.Chain}
						if err := getKnown(txn, lineKey(tagLine, l), &head); err != nil {
							return err
						}
						heads[o.Chain] = head
					}
					if o.Seq <= head.Seq {
						objects = append(objects, o)
					}
					return nil
				})
				return err
			})
			for _, o := range objects {
				if !yield(o, nil) {
					return
				}
			}
		}
		if err != nil {
			yield(embassy.KnownObject{}, fmt.Errorf("known objects of agent %s: %w", agent, err))
		}
	}
}

// checkTables reads every block of every table. Badger's iterators leave out a
// damaged one without a word.
func (c *Catalog) checkTables() error {
	return c.view(func(*badger.Txn) (err error) {
		defer guard(&err)
		if err := c.db.VerifyChecksum(); err != nil {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		return nil
	})
}

// pageSize is how many records page reads at most.
const pageSize = 2_000

// page is scan for some of the records. It returns the key at which the next
// page begins, or nil after the last.
func page(txn *badger.Txn, prefix, from []byte, fn func(key, value []byte) error) (next []byte, err error) {
	left := pageSize
	err = scan(txn, prefix, from, func(key, value []byte) (bool, error) {
		if left == 0 {
			next = append([]byte(nil), key...)
			return false, nil
		}
		left--
		return true, fn(key, value)
	})
	return next, err
}

// getKnown sets e to the record of that key, if there is one.
func getKnown(txn *badger.Txn, key []byte, e *embassy.Known) error {
	value, err := get(txn, key)
	if err == nil && value != nil {
		*e, err = decodeKnown(value)
	}
	return err
}
