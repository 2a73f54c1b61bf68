//go:build unix

package embassy

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// fatalWrite returns an error that would meet every other write too, or nil.
func fatalWrite(err error) error {
	for _, stop := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS} {
		if errors.Is(err, stop) {
			return err
		}
	}
	return nil
}

// oneName reports whether a file has no other hard link.
func oneName(_ *os.Root, _ string, info fs.FileInfo) bool {
	s, ok := info.Sys().(*syscall.Stat_t)
	return ok && s.Nlink == 1
}

// setLinkTime sets the modification time of a symbolic link itself.
func setLinkTime(dir *os.Root, name string, t time.Time) error {
	d, err := dir.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return err
	}
	times := []unix.Timespec{ts, ts}
	return unix.UtimesNanoAt(int(d.Fd()), name, times, unix.AT_SYMLINK_NOFOLLOW)
}
