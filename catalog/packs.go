package catalog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/dgraph-io/badger/v4"

	"embassy/chunk"
	"embassy/embassy"
	"embassy/embassy/format"
)

// FindChunks implements [embassy.Catalog]. It sees one state of the catalog.
func (c *Catalog) FindChunks(ids []chunk.ID, packs []embassy.PackNum) error {
	if len(ids) != len(packs) {
		return fmt.Errorf("find chunks: %d ids, but room for %d packs", len(ids), len(packs))
	}
	err := c.view(func(txn *badger.Txn) error {
		key := make([]byte, 0, chunkKeySize)
		for i, id := range ids {
			n, err := getNum(txn, appendChunkKey(key, id))
			if err != nil {
				return err
			}
			if c.condemned[n] {
				n = 0
			}
			packs[i] = n
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("find chunks: %w", err)
	}
	return nil
}

// AddPack implements [embassy.Catalog]. The record of a new pack, and with it
// its number, is synced before chunks refer to it.
func (c *Catalog) AddPack(p embassy.PackState, ids []chunk.ID) (n embassy.PackNum, err error) {
	err = c.write(func() error {
		n, err = c.addPack(p, ids)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("add pack %s: %w", p.Hash, err)
	}
	return n, nil
}

func (c *Catalog) addPack(p embassy.PackState, ids []chunk.ID) (embassy.PackNum, error) {
	b := c.newBatch(true)
	defer b.discard()
	n, err := getNum(b.txn, hashKey(p.Hash))
	if err != nil {
		return 0, err
	}
	if n == 0 {
		if n, err = b.newPack(p); err != nil {
			return 0, err
		}
	}
	num := encodeNum(n)
	keys := make([]byte, 0, len(ids)*chunkKeySize) // until the commit
	for _, id := range ids {
		start := len(keys)
		keys = appendChunkKey(keys, id)
		key := keys[start:len(keys):len(keys)]
		known, err := getNum(b.txn, key)
		if err != nil {
			return 0, err
		}
		if known != 0 && (!c.condemned[known] || c.condemned[n]) {
			keys = keys[:start]
			continue
		}
		if err := b.set(key, num); err != nil {
			return 0, err
		}
	}
	return n, b.flush()
}

// newPack gives the pack a number and writes all but its chunks. It fits into
// the first transaction of the batch.
func (b *batch) newPack(p embassy.PackState) (embassy.PackNum, error) {
	last, err := getNum(b.txn, lastPackKey())
	if err != nil {
		return 0, err
	}
	if last == math.MaxUint32 {
		return 0, errors.New("all pack numbers are taken: rebuild the catalog")
	}
	n := last + 1
	if err := b.set(lastPackKey(), encodeNum(n)); err != nil {
		return 0, err
	}
	if err := b.set(packKey(n), encodePack(p)); err != nil {
		return 0, err
	}
	if err := b.set(hashKey(p.Hash), encodeNum(n)); err != nil {
		return 0, err
	}
	if p.Entry == 0 {
		err = b.set(unlistedKey(p.Chain, n), bytes.Clone(p.Head))
	}
	return n, err
}

// Pack implements [embassy.Catalog].
func (c *Catalog) Pack(n embassy.PackNum) (p embassy.PackState, ok bool, err error) {
	err = c.view(func(txn *badger.Txn) error {
		p, ok, err = c.getPack(txn, n)
		return err
	})
	if err != nil {
		return embassy.PackState{}, false, fmt.Errorf("pack %d: %w", n, err)
	}
	return p, ok, nil
}

// PackByHash implements [embassy.Catalog].
func (c *Catalog) PackByHash(h format.Hash) (p embassy.PackState, ok bool, err error) {
	err = c.view(func(txn *badger.Txn) error {
		n, err := getNum(txn, hashKey(h))
		if err != nil || n == 0 {
			return err
		}
		p, ok, err = c.getPack(txn, n)
		return err
	})
	if err != nil {
		return embassy.PackState{}, false, fmt.Errorf("pack %s: %w", h, err)
	}
	return p, ok, nil
}

// UnlistedPacks implements [embassy.Catalog].
func (c *Catalog) UnlistedPacks(chain format.ID) (packs []embassy.PackState, err error) {
	err = c.view(func(txn *badger.Txn) error {
		prefix := unlistedPrefix(chain)
		return scan(txn, prefix, nil, func(key, _ []byte) (bool, error) {
			n, err := decodeNum(key[len(prefix):])
			if err != nil {
				return false, err
			}
			p, ok, err := c.getPack(txn, n)
			if err == nil && !ok {
				err = errBad("an unlisted pack")
			}
			packs = append(packs, p)
			return true, err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("unlisted packs of chain %s: %w", chain, err)
	}
	return packs, nil
}

// SetListed implements [embassy.Catalog]. Every pack must be known and belong
// to the chain, and seq must not be 0, which means "not listed".
//
// What exceeds a transaction of Badger, some 1,500 packs, is first written
// down as a whole. From then on it happens: here, or at the next Open. Nobody
// reads meanwhile.
func (c *Catalog) SetListed(chain format.ID, seq uint64, packs []embassy.ListedPack) error {
	if err := c.alone(func() error { return c.setListed(chain, seq, packs) }); err != nil {
		return fmt.Errorf("list packs in entry %d of chain %s: %w", seq, chain, err)
	}
	return nil
}

func (c *Catalog) setListed(chain format.ID, seq uint64, packs []embassy.ListedPack) error {
	if seq == 0 {
		return errors.New("entries are numbered from 1")
	}
	if err := c.finishListing(); err != nil {
		return err
	}
	err := c.commit(func(txn *badger.Txn) error { return list(txn, chain, seq, packs) })
	if !errors.Is(err, badger.ErrTxnTooBig) {
		return err
	}
	err = c.db.View(func(txn *badger.Txn) error {
		for _, l := range packs {
			if _, err := listable(txn, chain, l.Num); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	b := c.newBatch(false)
	defer b.discard()
	if err := b.set(listingKey(), encodeListing(chain, seq, packs)); err != nil {
		return err
	}
	if err := b.flush(); err != nil {
		return err
	}
	return c.finishListing()
}

// finishListing does what a listing that was written down asks for.
func (c *Catalog) finishListing() error {
	var listing []byte
	err := c.db.View(func(txn *badger.Txn) (err error) {
		listing, err = get(txn, listingKey())
		return err
	})
	if err != nil || listing == nil {
		return err
	}
	chain, seq, packs, err := decodeListing(listing)
	if err != nil {
		return err
	}
	for part := range slices.Chunk(packs, 1000) {
		err := c.commit(func(txn *badger.Txn) error { return list(txn, chain, seq, part) })
		if err != nil {
			return err
		}
	}
	return c.commit(func(txn *badger.Txn) error { return txn.Delete(listingKey()) })
}

func list(txn *badger.Txn, chain format.ID, seq uint64, packs []embassy.ListedPack) error {
	if err := txn.Set(headKey(chain), binary.BigEndian.AppendUint64(nil, seq)); err != nil {
		return err
	}
	for _, l := range packs {
		p, err := listable(txn, chain, l.Num)
		if err != nil {
			return err
		}
		p.Entry, p.Pos = seq, l.Pos
		if err := txn.Set(packKey(l.Num), encodePack(p)); err != nil {
			return err
		}
		if err := txn.Delete(unlistedKey(chain, l.Num)); err != nil {
			return err
		}
	}
	return nil
}

// listable returns a pack that an entry of the chain may list.
func listable(txn *badger.Txn, chain format.ID, n embassy.PackNum) (embassy.PackState, error) {
	value, err := get(txn, packKey(n))
	if err != nil {
		return embassy.PackState{}, err
	}
	if value == nil {
		return embassy.PackState{}, fmt.Errorf("there is no pack %d", n)
	}
	p, err := decodePack(n, value)
	if err == nil && p.Chain != chain {
		err = fmt.Errorf("pack %d belongs to chain %s", n, p.Chain)
	}
	return p, err
}

// ListedHead implements [embassy.Catalog].
func (c *Catalog) ListedHead(chain format.ID) (seq uint64, err error) {
	err = c.view(func(txn *badger.Txn) error {
		value, err := get(txn, headKey(chain))
		if err != nil || value == nil {
			return err
		}
		if len(value) != 8 {
			return errBad("a listed head")
		}
		seq = binary.BigEndian.Uint64(value)
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("listed head of chain %s: %w", chain, err)
	}
	return seq, nil
}

// getPack returns a pack with its Head.
func (c *Catalog) getPack(txn *badger.Txn, n embassy.PackNum) (p embassy.PackState, ok bool, err error) {
	value, err := get(txn, packKey(n))
	if err != nil || value == nil {
		return p, false, err
	}
	if p, err = decodePack(n, value); err != nil {
		return p, false, err
	}
	p.Condemned = c.condemned[n]
	if p.Entry == 0 {
		p.Head, err = get(txn, unlistedKey(p.Chain, n))
	}
	return p, err == nil, err
}

// getNum returns the pack number stored under a key, or 0. The key may be
// reused unless the transaction writes.
func getNum(txn *badger.Txn, key []byte) (n embassy.PackNum, err error) {
	item, err := lookup(txn, key)
	if err != nil || item == nil {
		return 0, err
	}
	err = item.Value(func(value []byte) error {
		n, err = decodeNum(value)
		return err
	})
	return n, err
}
