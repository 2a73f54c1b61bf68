package embassy

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// writeFile replaces a file. When it returns nil the file is whole.
func writeFile(dir, path string, data []byte) error {
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// syncDir does nothing: the system has no such call.
func syncDir(string) error { return nil }

// lockFile waits until no other process has the file locked, and locks it until
// it is closed.
func lockFile(f *os.File) error {
	return windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK, 0, 1, 0, &windows.Overlapped{})
}
