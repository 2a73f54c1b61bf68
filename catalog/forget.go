package catalog

import "fmt"

// Forget implements [embassy.Catalog]. The file cache and the chunks go before
// the packs that they name; a crash in between leaves packs without chunks,
// which only costs deduplication. Nobody reads meanwhile.
func (c *Catalog) Forget() error {
	c.life.Lock() // writers hold it for reading, so there is none
	defer c.life.Unlock()
	err := ErrClosed
	if !c.closed {
		err = c.forget()
	}
	if err != nil {
		return fmt.Errorf("forget contents: %w", err)
	}
	return nil
}

func (c *Catalog) forget() error {
	if err := c.room(0); err != nil { // Badger rewrites tables at the edges
		return err
	}
	for _, tag := range []byte{tagDir, tagChunk, tagPlaced, tagListing, tagHead, tagUnlisted, tagHash, tagPack} {
		if err := c.db.DropPrefix([]byte{tag}); err != nil {
			return err
		}
	}
	return nil
}
