package catalog

import (
	"fmt"
	"iter"

	"github.com/dgraph-io/badger/v4"

	"embassy/embassy"
	"embassy/embassy/format"
)

// Condemn implements [embassy.Catalog]. It is synced. When it fails, some of
// the packs may be condemned.
func (c *Catalog) Condemn(packs []format.Hash) error {
	if err := c.alone(func() error { return c.condemn(packs) }); err != nil {
		return fmt.Errorf("condemn %d packs: %w", len(packs), err)
	}
	return nil
}

func (c *Catalog) condemn(packs []format.Hash) error {
	b := c.newBatch(true)
	defer b.discard()
	var found []embassy.PackNum
	for _, h := range packs {
		n, err := getNum(b.txn, hashKey(h))
		if err != nil {
			return err
		}
		if n == 0 || c.condemned[n] {
			continue
		}
		if err := b.set(condemnedKey(n), nil); err != nil {
			return err
		}
		found = append(found, n)
	}
	if len(found) == 0 {
		return nil
	}
	if err := b.flush(); err != nil {
		return err
	}
	for _, n := range found {
		c.condemned[n] = true
	}
	return nil
}

// Abandon implements [embassy.Catalog]. It is synced.
func (c *Catalog) Abandon(n embassy.PackNum) error {
	err := c.alone(func() error {
		if err := c.finishListing(); err != nil { // it may list the pack
			return err
		}
		abandoned := false
		err := c.commitSynced(func(txn *badger.Txn) error {
			p, ok, err := c.getPack(txn, n)
			if err != nil || !ok || p.Entry != 0 {
				return err
			}
			abandoned = true
			if err := txn.Delete(unlistedKey(p.Chain, n)); err != nil {
				return err
			}
			return txn.Set(condemnedKey(n), nil)
		})
		if err == nil && abandoned {
			c.condemned[n] = true
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("abandon pack %d: %w", n, err)
	}
	return nil
}

// loadCondemned reads which packs are condemned. The caller is alone.
func (c *Catalog) loadCondemned() error {
	condemned := map[embassy.PackNum]bool{}
	err := c.db.View(func(txn *badger.Txn) error {
		return scan(txn, []byte{tagCondemned}, nil, func(key, _ []byte) (bool, error) {
			n, err := decodeNum(key[1:])
			condemned[n] = true
			return err == nil, err
		})
	})
	if err == nil {
		c.condemned = condemned
	}
	return err
}

// SetFates implements [embassy.Catalog]. It is synced. An object keeps the
// agent and the kind that came with its first order. When it fails, some of
// the fates may be there.
func (c *Catalog) SetFates(compartment format.ID, fates []embassy.KnownFate) error {
	if err := c.write(func() error { return c.setFates(compartment, fates) }); err != nil {
		return fmt.Errorf("set fates of %d objects in compartment %s: %w", len(fates), compartment, err)
	}
	return nil
}

func (c *Catalog) setFates(compartment format.ID, fates []embassy.KnownFate) error {
	b := c.newBatch(true)
	defer b.discard()
	for _, f := range fates {
		known, err := getFate(b.txn, compartment, f.Hash)
		if err != nil {
			return err
		}
		merged := mergeFates(known.Fate, f.Fate)
		if merged == known.Fate {
			continue
		}
		if known.Fate == (embassy.Fate{}) {
			known.Agent, known.Kind = f.Agent, f.Kind
		}
		known.Fate = merged
		if err := b.set(fateKey(compartment, f.Hash), encodeFate(known)); err != nil {
			return err
		}
	}
	return b.flush()
}

// DropOrders implements [embassy.Catalog]. It is synced, page by page. A damaged
// catalog is refused with ErrCorrupt, for not all of the orders can be seen.
func (c *Catalog) DropOrders(l embassy.Line, after uint64) error {
	err := c.sound()
	start := fatePrefix(l.Compartment)
	for from := start; err == nil && from != nil; {
		err = c.write(func() (err error) {
			from, err = c.dropOrders(l, after, start, from)
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("drop orders of chain %s of agent %s in compartment %s: %w", l.Chain, l.Agent, l.Compartment, err)
	}
	return nil
}

// dropOrders does one page. It returns where the next one begins, as page does.
func (c *Catalog) dropOrders(l embassy.Line, after uint64, start, from []byte) (next []byte, err error) {
	b := c.newBatch(true)
	defer b.discard()
	var found []embassy.KnownFate
	next, err = page(b.txn, start, from, func(key, value []byte) error {
		f, err := decodeFate(key, value)
		if err == nil && dropFrom(f.Fate, l, after) != f.Fate {
			found = append(found, f)
		}
		return err
	})
	if err != nil || len(found) == 0 {
		return next, err
	}
	for _, f := range found {
		key := fateKey(l.Compartment, f.Hash)
		f.Fate = dropFrom(f.Fate, l, after)
		if f.Fate == (embassy.Fate{}) {
			err = b.delete(key)
		} else {
			err = b.set(key, encodeFate(f))
		}
		if err != nil {
			return nil, err
		}
	}
	return next, b.flush()
}

// dropFrom returns what is left of a fate without the orders of entries of the
// line after that one.
func dropFrom(f embassy.Fate, l embassy.Line, after uint64) embassy.Fate {
	for _, o := range []*embassy.Order{&f.Marked, &f.Deleted} {
		if o.Agent == l.Agent && o.Chain == l.Chain && o.Seq > after {
			*o = embassy.Order{}
		}
	}
	return f
}

// mergeFates returns what is ordered after more was.
func mergeFates(known, more embassy.Fate) embassy.Fate {
	first := func(known, more embassy.Order) embassy.Order {
		if known.Given() || !more.Given() {
			return known
		}
		return more
	}
	return embassy.Fate{
		Marked:  first(known.Marked, more.Marked),
		Deleted: first(known.Deleted, more.Deleted),
	}
}

// Fate implements [embassy.Catalog]. Times are in UTC.
func (c *Catalog) Fate(compartment format.ID, h format.Hash) (embassy.Fate, error) {
	var f embassy.KnownFate
	err := c.view(func(txn *badger.Txn) (err error) {
		f, err = getFate(txn, compartment, h)
		return err
	})
	if err != nil {
		return embassy.Fate{}, fmt.Errorf("fate of %s: %w", h, err)
	}
	return f.Fate, nil
}

// getFate returns what was ordered about an object; the zero Fate: nothing.
func getFate(txn *badger.Txn, compartment format.ID, h format.Hash) (embassy.KnownFate, error) {
	key := fateKey(compartment, h)
	value, err := get(txn, key)
	if err != nil || value == nil {
		return embassy.KnownFate{}, err
	}
	return decodeFate(key, value)
}

// Fates implements [embassy.Catalog], as KnownObjects does: it holds nothing
// while it yields, and refuses a damaged catalog with ErrCorrupt before the
// first object. Times are in UTC.
func (c *Catalog) Fates(compartment format.ID) iter.Seq2[embassy.KnownFate, error] {
	return func(yield func(embassy.KnownFate, error) bool) {
		err := c.sound()
		start := fatePrefix(compartment)
		fates := make([]embassy.KnownFate, 0, pageSize)
		for from := start; err == nil && from != nil; {
			fates = fates[:0]
			err = c.view(func(txn *badger.Txn) (err error) {
				from, err = page(txn, start, from, func(key, value []byte) error {
					f, err := decodeFate(key, value)
					if err == nil {
						fates = append(fates, f)
					}
					return err
				})
				return err
			})
			for _, f := range fates {
				if !yield(f, nil) {
					return
				}
			}
		}
		if err != nil {
			yield(embassy.KnownFate{}, fmt.Errorf("fates in compartment %s: %w", compartment, err))
		}
	}
}
