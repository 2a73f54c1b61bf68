package catalog

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4"

	"embassy/embassy"
	"embassy/embassy/format"
)

// Place implements [embassy.Catalog].
func (c *Catalog) Place(target string, h format.Hash, at time.Time) error {
	return c.SetEvidence(target, map[format.Hash]embassy.Evidence{h: {Stored: at}})
}

// Placed implements [embassy.Catalog]. The time is in UTC.
func (c *Catalog) Placed(target string, h format.Hash) (time.Time, error) {
	e, err := c.Evidence(target, h)
	return e.Stored, err
}

// SetEvidence implements [embassy.Catalog]. When it fails, some of it may be
// there.
func (c *Catalog) SetEvidence(target string, found map[format.Hash]embassy.Evidence) error {
	err := c.write(func() error {
		b := c.newBatch(false)
		defer b.discard()
		hashes := slices.SortedFunc(maps.Keys(found), func(x, y format.Hash) int { return slices.Compare(x[:], y[:]) })
		for _, h := range hashes { // in the order in which they lie
			before, err := getEvidence(b.txn, target, h)
			if err != nil {
				return err
			}
			record := encodeEvidence(merge(before, found[h]))
			if bytes.Equal(record, encodeEvidence(before)) {
				continue
			}
			if err := b.set(evidenceKey(target, h), record); err != nil {
				return err
			}
		}
		return b.flush()
	})
	if err != nil {
		return fmt.Errorf("set evidence of %d objects on %s: %w", len(found), target, err)
	}
	return nil
}

// merge returns what is known after something was found out.
func merge(known, found embassy.Evidence) embassy.Evidence {
	later := func(known, found time.Time) time.Time {
		if found.IsZero() {
			return known
		}
		return found
	}
	return embassy.Evidence{
		Stored:   later(known.Stored, found.Stored),
		Verified: later(known.Verified, found.Verified),
		Locked:   later(known.Locked, found.Locked),
	}
}

// Evidence implements [embassy.Catalog]. Times are in UTC.
func (c *Catalog) Evidence(target string, h format.Hash) (e embassy.Evidence, err error) {
	err = c.view(func(txn *badger.Txn) error {
		e, err = getEvidence(txn, target, h)
		return err
	})
	if err != nil {
		return embassy.Evidence{}, fmt.Errorf("evidence of %s on %s: %w", h, target, err)
	}
	return e, nil
}

func getEvidence(txn *badger.Txn, target string, h format.Hash) (e embassy.Evidence, err error) {
	value, err := get(txn, evidenceKey(target, h))
	if err != nil || value == nil {
		return e, err
	}
	return decodeEvidence(value)
}

// DropEvidence implements [embassy.Catalog].
func (c *Catalog) DropEvidence(target string, h format.Hash) error {
	if err := c.remove(evidenceKey(target, h)); err != nil {
		return fmt.Errorf("drop evidence of %s on %s: %w", h, target, err)
	}
	return nil
}

// SetSeenHead implements [embassy.Catalog]. A lower sequence number is refused
// with ErrOldHead.
func (c *Catalog) SetSeenHead(target string, l embassy.Line, h embassy.SeenHead) error {
	err := c.write(func() error {
		return c.commitSynced(func(txn *badger.Txn) error {
			value, err := get(txn, seenKey(target, l))
			if err != nil {
				return err
			}
			if value != nil {
				seen, err := decodeSeen(value)
				if err != nil {
					return err
				}
				if h.Seq < seen.Seq {
					return fmt.Errorf("%w: %d after %d", ErrOldHead, h.Seq, seen.Seq)
				}
			}
			return txn.Set(seenKey(target, l), encodeSeen(h))
		})
	})
	if err != nil {
		return fmt.Errorf("set head of chain %s on %s: %w", l.Chain, target, err)
	}
	return nil
}

// SeenHead implements [embassy.Catalog]. The time is in UTC.
func (c *Catalog) SeenHead(target string, l embassy.Line) (h embassy.SeenHead, ok bool, err error) {
	value, err := c.value(seenKey(target, l))
	if err == nil && value != nil {
		h, err = decodeSeen(value)
	}
	if err != nil {
		return embassy.SeenHead{}, false, fmt.Errorf("head of chain %s on %s: %w", l.Chain, target, err)
	}
	return h, value != nil, nil
}

// AddFault implements [embassy.Catalog].
func (c *Catalog) AddFault(f embassy.Fault) error {
	key := faultKey(f.Target, f.Kind, f.Object)
	err := c.write(func() error {
		return c.commitSynced(func(txn *badger.Txn) error {
			value, err := get(txn, key)
			if err != nil {
				return err
			}
			if value != nil {
				before, err := decodeFault(value)
				if err != nil {
					return err
				}
				f.First = before.First
			}
			if value, err = encodeFault(f); err != nil {
				return err
			}
			return txn.Set(key, value)
		})
	})
	if err != nil {
		return fmt.Errorf("add fault %s of %s: %w", f.Kind, f.Target, err)
	}
	return nil
}

// Faults implements [embassy.Catalog]. Times are in UTC.
func (c *Catalog) Faults(target string) (faults []embassy.Fault, err error) {
	prefix := []byte{tagFault}
	if target != "" {
		prefix = appendName(prefix, target)
	}
	err = c.view(func(txn *badger.Txn) error {
		return scan(txn, prefix, nil, func(_, value []byte) (bool, error) {
			f, err := decodeFault(value)
			faults = append(faults, f)
			return err == nil, err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("faults: %w", err)
	}
	slices.SortFunc(faults, func(a, b embassy.Fault) int { // keys are ordered by length first
		return cmp.Or(cmp.Compare(a.Target, b.Target), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Object, b.Object))
	})
	return faults, nil
}

// Fault implements [embassy.Catalog]. Times are in UTC.
func (c *Catalog) Fault(target string, kind embassy.FaultKind, object string) (f embassy.Fault, ok bool, err error) {
	value, err := c.value(faultKey(target, kind, object))
	if err == nil && value != nil {
		f, err = decodeFault(value)
	}
	if err != nil {
		return embassy.Fault{}, false, fmt.Errorf("fault %s of %s: %w", kind, target, err)
	}
	return f, value != nil, nil
}

// ClearFault implements [embassy.Catalog].
func (c *Catalog) ClearFault(target string, kind embassy.FaultKind, object string) error {
	if err := c.remove(faultKey(target, kind, object)); err != nil {
		return fmt.Errorf("clear fault %s of %s: %w", kind, target, err)
	}
	return nil
}

// ForgetTarget implements [embassy.Catalog]. The faults go last: after a crash
// in between the target is still not trusted, and it is done again.
func (c *Catalog) ForgetTarget(target string) error {
	var prefixes [][]byte
	for _, tag := range []byte{tagEvidence, tagSeen, tagFault} {
		prefixes = append(prefixes, appendName([]byte{tag}, target))
	}
	if err := c.drop(prefixes...); err != nil {
		return fmt.Errorf("forget target %s: %w", target, err)
	}
	return nil
}
