package embassy

import "golang.org/x/sys/unix"

// modeless reports whether a file lies on a file system that keeps no modes,
// such as that of a memory stick.
func modeless(path string) bool {
	var st unix.Statfs_t
	if unix.Statfs(path, &st) != nil {
		return false
	}
	switch uint32(st.Type) {
	case unix.MSDOS_SUPER_MAGIC, unix.EXFAT_SUPER_MAGIC, 0x5346544e, 0x7366746e: // the last two: NTFS
		return true
	}
	return false
}
