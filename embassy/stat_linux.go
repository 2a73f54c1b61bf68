package embassy

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	seekData = unix.SEEK_DATA
	seekHole = unix.SEEK_HOLE
)

// sysStat returns what the file system says of a file beyond fs.FileInfo.
func sysStat(fi fs.FileInfo) (st sysInfo) {
	if s, ok := fi.Sys().(*syscall.Stat_t); ok {
		st = sysInfo{
			uid: s.Uid, gid: s.Gid, file: fileID{s.Dev, s.Ino}, names: s.Nlink, held: 512 * s.Blocks, rdev: s.Rdev, ctime: s.Ctim.Nano(),
		}
	}
	return st
}

// openFile opens a regular file for reading. A name that became a link or a
// pipe since it was looked at is not followed, and does not block.
func openFile(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
}

// shorten returns another path to a folder whose path is too long for the
// system to open what lies in it. The caller calls done at last.
func shorten(at string) (short string, done func(), err error) {
	if len(at)+1+unix.NAME_MAX < unix.PathMax {
		return at, func() {}, nil
	}
	d, err := os.OpenFile(at, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d", d.Fd()), func() { d.Close() }, nil
}
