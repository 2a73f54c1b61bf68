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

// oneName reports whether a file has no other hard link.
func oneName(to *os.Root, name string, _ fs.FileInfo) bool {
	f, err := to.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	var info windows.ByHandleFileInformation
	err = windows.GetFileInformationByHandle(windows.Handle(f.Fd()), &info)
	return err == nil && info.NumberOfLinks == 1
}

// setLinkTime leaves the time of a symbolic link as it is: Windows shows none.
func setLinkTime(*os.Root, string, time.Time) error { return nil }
