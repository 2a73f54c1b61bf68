//go:build linux || darwin

package embassy

import (
	"os"

	"golang.org/x/sys/unix"
)

const (
	seekData = unix.SEEK_DATA
	seekHole = unix.SEEK_HOLE

	asFolder = unix.O_DIRECTORY
	noFollow = unix.O_NOFOLLOW
)

// openFile opens a regular file for reading. A name that became a link or a
// pipe since it was looked at is not followed, and does not block.
func openFile(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|noFollow|unix.O_NONBLOCK, 0)
}
