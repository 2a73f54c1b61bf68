//go:build !linux

package embassy

import (
	"errors"
	"os"
	"runtime"
)

// syncFile makes the content of a file durable.
func syncFile(f *os.File) error { return f.Sync() }

// syncFolder makes the names in a folder durable. Windows has no such call.
func syncFolder(to *os.Root, name string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := to.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// syncAll makes the names in the top folder durable; all else is.
func syncAll(to *os.Root) error { return syncFolder(to, ".") }
