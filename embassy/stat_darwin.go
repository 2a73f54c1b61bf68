package embassy

import (
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
			uid: s.Uid, gid: s.Gid, file: fileID{uint64(s.Dev), s.Ino}, names: uint64(s.Nlink), held: 512 * s.Blocks, rdev: uint64(s.Rdev), ctime: s.Ctimespec.Nano(),
		}
	}
	return st
}

// openFile opens a regular file for reading. A name that became a link or a
// pipe since it was looked at is not followed, and does not block.
func openFile(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
}

// openSource opens a folder that was looked at as the file id; a link is not
// followed, and another folder is refused. The zero id is any, links included.
// What lies in it is reached by its path.
func openSource(at string, id fileID) (d *os.File, inside string, done func(), err error) {
	flags := os.O_RDONLY
	if id != (fileID{}) {
		flags |= syscall.O_NOFOLLOW
	}
	if d, err = os.OpenFile(at, flags, 0); err != nil {
		return nil, "", nil, err
	}
	fi, err := d.Stat()
	if err == nil && id != (fileID{}) && sysStat(fi).file != id {
		err = errSwapped
	}
	if err != nil {
		d.Close()
		return nil, "", nil, err
	}
	return d, at, func() { d.Close() }, nil
}
