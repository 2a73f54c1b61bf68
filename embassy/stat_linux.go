package embassy

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
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

// lstatAt is os.Lstat of a name in an open folder, which is also reached by path.
func lstatAt(d *os.File, _, name string) (fs.FileInfo, error) {
	var st unix.Stat_t
	for {
		err := unix.Fstatat(int(d.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err == nil {
			break
		}
		if err != unix.EINTR {
			return nil, &fs.PathError{Op: "lstat", Path: name, Err: err}
		}
	}
	return &statInfo{name, syscall.Stat_t{
		Dev: st.Dev, Ino: st.Ino, Nlink: st.Nlink, Mode: st.Mode, Uid: st.Uid, Gid: st.Gid, Rdev: st.Rdev, Size: st.Size,
		Blksize: st.Blksize, Blocks: st.Blocks, Atim: syscall.Timespec(st.Atim), Mtim: syscall.Timespec(st.Mtim), Ctim: syscall.Timespec(st.Ctim),
	}}, nil
}

// statInfo is a fs.FileInfo as package os makes them.
type statInfo struct {
	name string
	st   syscall.Stat_t
}

func (s *statInfo) Name() string       { return s.name }
func (s *statInfo) Size() int64        { return s.st.Size }
func (s *statInfo) ModTime() time.Time { return time.Unix(s.st.Mtim.Unix()) }
func (s *statInfo) IsDir() bool        { return s.Mode().IsDir() }
func (s *statInfo) Sys() any           { return &s.st }

func (s *statInfo) Mode() fs.FileMode {
	mode := fs.FileMode(s.st.Mode).Perm()
	switch s.st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		mode |= fs.ModeDir
	case unix.S_IFLNK:
		mode |= fs.ModeSymlink
	case unix.S_IFIFO:
		mode |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		mode |= fs.ModeSocket
	case unix.S_IFBLK:
		mode |= fs.ModeDevice
	case unix.S_IFCHR:
		mode |= fs.ModeDevice | fs.ModeCharDevice
	}
	for _, bit := range specialBits {
		if s.st.Mode&bit.node != 0 {
			mode |= bit.mode
		}
	}
	return mode
}

// reach is the path by which what lies in an open folder is reached, whatever
// becomes of its own path at, and however long that is.
func reach(d *os.File, _ string) string { return fmt.Sprintf("/proc/self/fd/%d", d.Fd()) }
