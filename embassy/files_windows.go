package embassy

import (
	"errors"
	"os"
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
