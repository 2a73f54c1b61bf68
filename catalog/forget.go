package catalog

import (
	"fmt"
)

// Forget implements [embassy.Catalog]. The file cache and the chunks go before
// the packs that they name; a crash in between leaves packs without chunks,
// which only costs deduplication.
func (c *Catalog) Forget() error {
	err := c.write(func() error {
		for _, tag := range []byte{tagDir, tagChunk, tagPlaced, tagListing, tagHead, tagUnlisted, tagHash, tagPack} {
			if err := c.db.DropPrefix([]byte{tag}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("forget contents: %w", err)
	}
	return nil
}
