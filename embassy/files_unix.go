//go:build unix

package embassy

import (
	"os"

	"github.com/google/renameio/v2"
)

// writeFile replaces a file, readable by its owner only. When it returns nil
// the whole file is durable, and its folder too.
func writeFile(dir, path string, data []byte) error {
	if err := renameio.WriteFile(path, data, 0o600, renameio.IgnoreUmask(), renameio.WithTempDir(dir)); err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir makes the names in a folder durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
