//go:build unix

package embassy

import (
	"errors"
	"os"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
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

// lockFile waits until no other process has the file locked, and locks it until
// it is closed.
func lockFile(f *os.File) error {
	for {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
