//go:build unix

package catalog_test

import (
	"os"
	"syscall"
	"testing"
)

// allocated returns the bytes that a file really takes on disk.
func allocated(t *testing.T, path string) int64 {
	info, err := os.Stat(path)
	check(t, err)
	return info.Sys().(*syscall.Stat_t).Blocks * 512
}
