package embassy

import (
	"archive/tar"
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"embassy/embassy/format"
)

// newArchive returns what writes that form to out.
func newArchive(a Archive, out io.Writer) archive {
	switch a {
	case Tar:
		return &tarArchive{tar.NewWriter(out)}
	case Zip:
		return &zipArchive{zip.NewWriter(out)}
	}
	return &fileArchive{out}
}

// fileArchive holds one file, and nothing but its bytes.
type fileArchive struct{ out io.Writer }

func (a *fileArchive) add(string, *format.Node, string) (io.Writer, error) { return a.out, nil }

func (a *fileArchive) close() error { return nil }

// tarArchive writes PAX. Extended attributes, ACLs among them, are records
// that GNU tar, star and bsdtar know.
type tarArchive struct{ w *tar.Writer }

// tarTypes are those of the nodes that a tar can hold.
var tarTypes = map[format.NodeType]byte{
	format.File: tar.TypeReg, format.Dir: tar.TypeDir, format.Symlink: tar.TypeSymlink,
	format.FIFO: tar.TypeFifo, format.CharDevice: tar.TypeChar, format.Device: tar.TypeBlock,
}

// recordName escapes what separates the name of a record from its value.
var recordName = strings.NewReplacer("%", "%25", "=", "%3D")

func (a *tarArchive) add(name string, n *format.Node, first string) (io.Writer, error) {
	kind, ok := tarTypes[n.Type]
	if !ok {
		return nil, fmt.Errorf("%w: a tar holds no socket", errLeft)
	}
	h := &tar.Header{
		Format: tar.FormatPAX, Typeflag: kind, Name: name, Linkname: string(n.Link), Mode: int64(n.Mode),
		Uid: int(n.UID), Gid: int(n.GID), Uname: n.User, Gname: n.Group, ModTime: time.Unix(n.Sec, int64(n.Nsec)),
	}
	switch {
	case first != "":
		h.Typeflag, h.Linkname = tar.TypeLink, first
	case n.Type == format.File:
		h.Size = int64(n.Content.Size)
	case n.Type == format.Dir:
		h.Name += "/"
	case isDevice(n.Type):
		major, minor := DeviceNumbers(n.Rdev)
		h.Devmajor, h.Devminor = int64(major), int64(minor)
	}
	if first == "" && len(n.Xattrs) > 0 {
		h.PAXRecords = map[string]string{}
		for _, x := range n.Xattrs {
			h.PAXRecords["SCHILY.xattr."+recordName.Replace(string(x.Name))] = string(x.Value)
		}
	}
	return a.w, a.w.WriteHeader(h)
}

func (a *tarArchive) close() error { return a.w.Close() }

// DeviceNumbers splits the number of a device as Linux does.
func DeviceNumbers(rdev uint64) (major, minor uint32) {
	return uint32(rdev>>8&0xfff | rdev>>32&^0xfff), uint32(rdev&0xff | rdev>>12&^0xff)
}

// zipArchive writes files, folders and symbolic links. A name of a file is one
// more file.
type zipArchive struct{ w *zip.Writer }

func (a *zipArchive) add(name string, n *format.Node, _ string) (io.Writer, error) {
	if strings.Contains(name, `\`) {
		return nil, errors.New("a zip takes the backslash in its name for a slash: write a tar")
	}
	h := &zip.FileHeader{Name: name, Method: zip.Deflate, Modified: time.Unix(n.Sec, int64(n.Nsec))}
	mode := fileMode(n.Mode, true)
	switch n.Type {
	case format.File:
	case format.Dir:
		h.Name, h.Method, mode = name+"/", zip.Store, mode|fs.ModeDir
	case format.Symlink:
		h.Method, mode = zip.Store, mode|fs.ModeSymlink
	default:
		return nil, fmt.Errorf("%w: a zip holds files, folders and symbolic links only", errLeft)
	}
	h.SetMode(mode)
	w, err := a.w.CreateHeader(h)
	if err == nil && n.Type == format.Symlink {
		_, err = w.Write(n.Link)
	}
	return w, err
}

func (a *zipArchive) close() error { return a.w.Close() }
