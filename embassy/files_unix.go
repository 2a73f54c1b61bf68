//go:build unix

package embassy

import (
	"fmt"
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

// checkPrivate refuses a file that others may read.
func checkPrivate(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s can be read by others (mode %04o): run chmod 600 on it, and consider the key captured", path, info.Mode().Perm())
	}
	return nil
}
