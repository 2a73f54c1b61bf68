package embassy

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// sysStat returns what the file system says of a file beyond fs.FileInfo.
func sysStat(fi fs.FileInfo) (st sysInfo) {
	if s, ok := fi.Sys().(*syscall.Stat_t); ok {
		st = sysInfo{
			uid: s.Uid, gid: s.Gid, file: fileID{s.Dev, s.Ino}, names: uint64(s.Nlink), held: 512 * s.Blocks, rdev: s.Rdev, ctime: s.Ctim.Nano(),
		}
	}
	return st
}

// reach is the path by which what lies in an open folder is reached, whatever
// becomes of its own path at, and however long that is.
func reach(d *os.File, _ string) string { return fmt.Sprintf("/proc/self/fd/%d", d.Fd()) }
