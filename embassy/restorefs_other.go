//go:build !linux

package embassy

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"embassy/embassy/format"
)

// syncFile makes the content of a file durable.
func syncFile(f *os.File) error { return f.Sync() }

// forget does nothing: this system cannot be asked to.
func forget(*os.File) error { return nil }

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

// attributes are the extended attributes of one name: out of reach here.
type attributes struct{}

func (attributes) list() ([]string, error)    { return nil, errors.ErrUnsupported }
func (attributes) get(string) ([]byte, error) { return nil, errors.ErrUnsupported }
func (attributes) set(string, []byte) error   { return errors.ErrUnsupported }
func (attributes) remove(string) error        { return errors.ErrUnsupported }

// withAttributes calls use.
func withAttributes(_ *os.Root, _ string, _ bool, use func(attributes) error) error {
	return use(attributes{})
}

// inherits reports whether what is made in a folder gets an ACL by itself.
func inherits(*os.Root) bool { return false }

// makeSpecial makes nothing.
func makeSpecial(*os.Root, string, format.NodeType, uint64) error {
	return fmt.Errorf("named pipes, sockets and devices cannot be restored on this system: %w", errors.ErrUnsupported)
}
