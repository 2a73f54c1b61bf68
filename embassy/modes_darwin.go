package embassy

import "golang.org/x/sys/unix"

// modeless reports whether a file lies on a file system that keeps no modes,
// such as that of a memory stick.
func modeless(path string) bool {
	var st unix.Statfs_t
	if unix.Statfs(path, &st) != nil {
		return false
	}
	switch unix.ByteSliceToString(st.Fstypename[:]) {
	case "msdos", "exfat", "ntfs":
		return true
	}
	return false
}
