package embassy

import (
	"io/fs"
	"os"
	"syscall"
)

// sysStat returns what the file system says of a file beyond fs.FileInfo.
func sysStat(fi fs.FileInfo) (st sysInfo) {
	if s, ok := fi.Sys().(*syscall.Stat_t); ok {
		st = sysInfo{uid: s.Uid, gid: s.Gid, inode: s.Ino, rdev: s.Rdev, ctime: s.Ctim.Nano()}
	}
	return st
}

// openFile opens a regular file for reading. A name that became a link or a
// pipe since it was looked at is not followed, and does not block.
func openFile(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
}
