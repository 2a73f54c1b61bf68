package fusefs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const device = "/dev/fuse"

// mounting returns how this user mounts: root by itself, everybody else
// through fusermount.
func mounting() (o fuse.MountOptions, err error) {
	if _, err := os.Stat(device); errors.Is(err, fs.ErrNotExist) {
		return o, fmt.Errorf("%w: there is no %s: load the kernel module (modprobe fuse), or give the container that device; or use embassy restore, or embassy dump", ErrUnavailable, device)
	}
	if os.Geteuid() == 0 {
		o.DirectMountStrict = true
		o.DirectMountFlags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_RDONLY
		return o, nil
	}
	if fusermount() == "" {
		return o, fmt.Errorf("%w: only root mounts without fusermount3: install the package fuse3; or use embassy restore, or embassy dump", ErrUnavailable)
	}
	o.Options = []string{"ro", "nosuid", "nodev"}
	return o, nil
}

func fusermount() string {
	for _, name := range []string{"fusermount3", "fusermount", "/bin/fusermount3", "/bin/fusermount"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// refused says what to do about a mount that was not made.
func refused(err error) error {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w (%w): it takes the right to open %s and to mount, which a container has with --device %s --cap-add SYS_ADMIN; or use embassy restore, or embassy dump",
			ErrUnavailable, err, device, device)
	case strings.Contains(err.Error(), "fusermount"):
		return fmt.Errorf("%w (%s): --allow-other takes the line user_allow_other in /etc/fuse.conf, and the folder must be this user's; or use embassy restore, or embassy dump",
			ErrUnavailable, strings.TrimSpace(err.Error()))
	}
	return fmt.Errorf("%w (%w): use embassy restore, or embassy dump", ErrUnavailable, err)
}

// detach takes the file system out of the tree, even if it is in use.
func detach(dir string) error {
	if os.Geteuid() == 0 {
		return unix.Unmount(dir, unix.MNT_DETACH|unix.MNT_FORCE)
	}
	out, err := exec.Command(fusermount(), "-u", "-z", dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("fusermount: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
