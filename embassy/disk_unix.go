//go:build unix

package embassy

import "golang.org/x/sys/unix"

// freeBytes returns what an unprivileged user may still write on the file
// system of dir.
func freeBytes(dir string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return uint64(st.Bavail) * uint64(st.Bsize), nil
}
