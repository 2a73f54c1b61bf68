package fusefs

import (
	"fmt"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// mounting returns how to mount: through macFUSE.
func mounting() (fuse.MountOptions, error) {
	return fuse.MountOptions{Options: []string{"ro", "nosuid", "nodev"}}, nil
}

// refused says what to do about a mount that was not made.
func refused(err error) error {
	return fmt.Errorf("%w (%w): install macFUSE and allow its extension; or use embassy restore, or embassy dump", ErrUnavailable, err)
}

// detach takes the file system out of the tree, even if it is in use.
func detach(dir string) error { return unix.Unmount(dir, unix.MNT_FORCE) }
