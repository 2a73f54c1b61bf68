package embassy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
)

// ErrNotPrivate: a file with a secret can be read or written by others.
var ErrNotPrivate = errors.New("it can be read or written by others")

// CheckPrivate refuses a file with a secret that anybody but its owner may read
// or write, with an ErrNotPrivate that says what to do. What is no regular file, such
// as a pipe, has no mode that counts, and on Windows no file has: there the
// access rules of the folder protect it. The error of a file that is not there
// wraps [fs.ErrNotExist].
func CheckPrivate(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return CheckPrivateInfo(path, info)
}

// CheckPrivateInfo is CheckPrivate of a file that is open already.
func CheckPrivateInfo(path string, info fs.FileInfo) error {
	mode := info.Mode()
	if runtime.GOOS == "windows" || !mode.IsRegular() || mode.Perm()&0o077 == 0 {
		return nil
	}
	return fmt.Errorf("%s: %w (mode %04o): run chmod 600 %[1]s or, on a disk without modes such as a USB stick, install -m 600 %[1]s COPY and name the copy",
		path, ErrNotPrivate, mode.Perm())
}
