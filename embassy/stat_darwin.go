package embassy

import (
	"io/fs"
	"os"
	"syscall"
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

// lstatAt is os.Lstat of a name in an open folder, which is also reached by path.
func lstatAt(_ *os.File, path, _ string) (fs.FileInfo, error) { return os.Lstat(path) }

// reach is the path by which what lies in an open folder is reached: its own.
func reach(_ *os.File, at string) string { return at }
