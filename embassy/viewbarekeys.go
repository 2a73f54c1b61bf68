package embassy

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"embassy/crypto"
	"embassy/embassy/format"
)

// maxEpoch is the greatest epoch that is believed when no charter tells which
// there are.
const maxEpoch = 1024

// bareKeys are the keys of one compartment, derived from the roots as the
// epochs turn up in headers. Safe for concurrent use.
type bareKeys struct {
	nation, id format.ID
	roots      []*crypto.Root // that it can be derived from

	mu      sync.Mutex
	writers map[uint32]*format.Writer     // that opened something
	readers map[uint32][]*crypto.Identity // of every epoch that was named by what opened
	fresh   bool                          // there are more than were installed
}

// open calls use with the writer secret of an epoch: the one that opened
// something before, or each that it could be. That none fits is an answer about
// the object, so the error wraps ErrMalformed.
func (k *bareKeys) open(epoch uint32, use func(w *format.Writer) error) error {
	if epoch == 0 || epoch > maxEpoch {
		return fmt.Errorf("%w: epoch %d", format.ErrMalformed, epoch)
	}
	k.mu.Lock()
	w := k.writers[epoch]
	k.mu.Unlock()
	try := func(w *format.Writer) error {
		err := use(w)
		if errors.Is(err, crypto.ErrAuthentication) {
			return fmt.Errorf("%w: %w", format.ErrMalformed, err)
		}
		return err
	}
	if w != nil {
		return try(w)
	}
	var err error
	for _, root := range k.roots {
		w := format.NewWriter(k.nation, k.id, epoch, root.Writer(k.id, epoch))
		if err = try(w); err == nil {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.writers[epoch], k.fresh = w, true
			return nil
		}
	}
	return err
}

// read derives the reader keys of the epochs that the header of something that
// opened names.
func (k *bareKeys) read(keys []format.SealedKey) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, to := range keys {
		if to.Epoch == 0 || to.Epoch > maxEpoch || k.readers[to.Epoch] != nil {
			continue // of a partner nation, or known
		}
		for _, root := range k.roots {
			k.readers[to.Epoch] = append(k.readers[to.Epoch], root.Reader(k.id, to.Epoch))
		}
		k.fresh = true
	}
}

// install gives the compartment the keys that were found.
func (k *bareKeys) install(c *compartmentView) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.fresh {
		return
	}
	k.fresh = false
	c.reading.Lock()
	defer c.reading.Unlock()
	c.Writers = slices.SortedFunc(maps.Values(k.writers), func(a, b *format.Writer) int { return cmp.Compare(a.Epoch, b.Epoch) })
	c.Reader = format.NewReader(slices.Concat(slices.Collect(maps.Values(k.readers))...)...)
}
