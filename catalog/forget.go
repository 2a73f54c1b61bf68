package catalog

import (
	"fmt"

	"embassy/embassy/format"
)

// Forget implements [embassy.Catalog]. The file cache and the chunks go before
// the packs that they name, and those before what condemns them; a crash in
// between leaves packs without chunks, which only costs deduplication.
func (c *Catalog) Forget() error { return c.forget() }

// ForgetCompartment implements [embassy.Catalog]. The entries go before what
// they list.
func (c *Catalog) ForgetCompartment(compartment format.ID) error {
	var more [][]byte
	for _, tag := range []byte{tagBegun, tagLine, tagEntry, tagObject, tagFate} {
		more = append(more, append([]byte{tag}, compartment[:]...))
	}
	return c.forget(more...)
}

// forget drops contents, and then what begins with more prefixes.
func (c *Catalog) forget(more ...[]byte) error {
	var prefixes [][]byte
	for _, tag := range []byte{tagDir, tagChunk, tagEvidence, tagListing, tagHead, tagUnlisted, tagHash, tagPack, tagCondemned} {
		prefixes = append(prefixes, []byte{tag})
	}
	if err := c.drop(append(prefixes, more...)...); err != nil {
		return fmt.Errorf("forget contents: %w", err)
	}
	return nil
}

// drop deletes what begins with the prefixes, one after the other. Nobody
// reads meanwhile.
func (c *Catalog) drop(prefixes ...[]byte) error {
	return c.alone(func() error {
		if err := c.room(0); err != nil { // Badger rewrites tables at the edges
			return err
		}
		for _, prefix := range prefixes {
			if err := c.db.DropPrefix(prefix); err != nil {
				return err
			}
		}
		return c.loadCondemned()
	})
}
