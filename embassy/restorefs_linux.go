package embassy

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/pkg/xattr"
	"golang.org/x/sys/unix"

	"embassy/embassy/format"
)

// syncFile leaves it to syncAll.
func syncFile(*os.File) error { return nil }

// forget drops what memory holds of a file that is durable, so that it is read
// from the disk.
func forget(f *os.File) error {
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

// syncFolder leaves it to syncAll.
func syncFolder(*os.Root, string) error { return nil }

// syncAll makes all that was written below the folder durable.
func syncAll(to *os.Root) error {
	d, err := to.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
}

// attributes are the extended attributes of one name, which is not followed.
type attributes struct{ namedAttributes }

func (a attributes) set(name string, value []byte) error {
	return xattr.LSet(string(a.namedAttributes), name, value)
}

func (a attributes) remove(name string) error {
	return xattr.LRemove(string(a.namedAttributes), name)
}

// withAttributes calls use while the name is in reach. That of a folder may be
// a path; any other lies in dir.
func withAttributes(dir *os.Root, name string, folder bool, use func(attributes) error) error {
	in, last := ".", name
	if folder {
		in, last = name, "."
	}
	d, err := dir.Open(in)
	if err != nil {
		return err
	}
	err = use(attributes{namedAttributes(fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), last))})
	return errors.Join(bare(err), d.Close())
}

// inherits reports whether what is made in a folder gets an ACL by itself.
func inherits(to *os.Root) bool {
	found := false
	err := withAttributes(to, ".", true, func(a attributes) error {
		names, err := a.list()
		found = slices.Contains(names, "system.posix_acl_default")
		return err
	})
	return found || err != nil
}

// makeSpecial makes a named pipe, a socket or a device.
func makeSpecial(dir *os.Root, name string, t format.NodeType, rdev uint64) error {
	kind, ok := map[format.NodeType]uint32{
		format.FIFO: unix.S_IFIFO, format.Socket: unix.S_IFSOCK, format.CharDevice: unix.S_IFCHR, format.Device: unix.S_IFBLK,
	}[t]
	if !ok {
		return errors.ErrUnsupported
	}
	d, err := dir.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(unix.Mknodat(int(d.Fd()), name, kind|0o600, int(rdev)), d.Close())
}
