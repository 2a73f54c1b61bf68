package embassy

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
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

// readSecret reads a file that only its owner may read, and of it at most max
// bytes.
func readSecret(path string, max int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err := CheckPrivateInfo(path, info); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, max))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return text, nil
}

// WriteSecret writes a file that must not be there yet, and that only its owner
// can read; fs.ErrExist. When it returns nil the whole file is durable.
func WriteSecret(path string, text []byte) error { return createFile(filepath.Dir(path), path, text) }

// createFile writes a file that must not be there yet; fs.ErrExist. When it
// returns nil the whole file is durable. It is readable by its owner only.
func createFile(dir, path string, data []byte) error {
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = settleFile(f.Name(), path)
	}
	gone := os.Remove(f.Name())
	if errors.Is(gone, fs.ErrNotExist) {
		gone = nil
	}
	return errors.Join(err, gone, syncDir(dir))
}

// settleFile gives a file another name that nothing has yet; fs.ErrExist. The
// old name may stay.
func settleFile(old, path string) error {
	err := os.Link(old, path)
	if err == nil || errors.Is(err, fs.ErrExist) {
		return err
	}
	// A disk without links, such as a USB stick: another process could come in
	// between these two.
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(&fs.PathError{Op: "create", Path: path, Err: fs.ErrExist}, err)
	}
	return os.Rename(old, path)
}
