package embassy

import (
	"io/fs"
	"os"
)

const (
	seekData, seekHole = -1, -1 // the system finds no holes this way
	asFolder, noFollow = 0, 0   // and has no such flags
)

// sysStat returns what the file system says of a file beyond fs.FileInfo.
func sysStat(fs.FileInfo) sysInfo { return sysInfo{} }

// openFile opens a regular file for reading.
func openFile(path string) (*os.File, error) { return os.Open(path) }

// lstatAt is os.Lstat of a name in an open folder, which is also reached by path.
func lstatAt(_ *os.File, path, _ string) (fs.FileInfo, error) { return os.Lstat(path) }

// reach is the path by which what lies in an open folder is reached: its own.
func reach(_ *os.File, at string) string { return at }
