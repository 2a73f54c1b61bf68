package embassy

import (
	"errors"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/windows"
)

// fatalWrite returns an error that would meet every other write too, or nil.
func fatalWrite(err error) error {
	for _, stop := range []error{windows.ERROR_DISK_FULL, windows.ERROR_HANDLE_DISK_FULL, windows.ERROR_WRITE_PROTECT} {
		if errors.Is(err, stop) {
			return err
		}
	}
	return nil
}

// oneName reports whether a file surely has no other hard link. Windows does
// not say it here, so a file that is there is written anew.
func oneName(fs.FileInfo) bool { return false }

// setLinkTime leaves the time of a symbolic link as it is: Windows shows none.
func setLinkTime(*os.Root, string, time.Time) error { return nil }
