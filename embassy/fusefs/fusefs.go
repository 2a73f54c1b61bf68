// Package fusefs shows snapshots as a read-only file system of the kernel's,
// over FUSE: a folder for each dataset, in it one for each snapshot, and a
// link to the newest. It fetches what is looked at, when it is looked at.
//
// It never gives a wrong byte: what no target has whole is EIO, and told. It
// does not show snapshots that are made after it started, and does not count
// the names of a file: of one with several it shows two. What it remembers
// grows with the names that the kernel remembers, by about a kilobyte each.
package fusefs

import (
	"errors"
	"fmt"
	"strings"

	"embassy/embassy"
)

// ErrUnavailable is wrapped by the error of a machine or user that cannot
// mount; the text says what to do.
var ErrUnavailable = errors.New("cannot mount here")

// Dataset is what is shown of one dataset.
type Dataset struct {
	Name      string
	Snapshots []embassy.SnapshotInfo // newest first
}

// Options say what to show where.
type Options struct {
	Dir        string // an empty folder
	Datasets   []Dataset
	Browser    *embassy.Browser // of the View that the snapshots are of; the caller's
	AllowOther bool             // other users see what modes, owners and ACLs let them see; else only who mounts, and that all

	Mounted func()                       // called once it can be used; may be nil
	Busy    func(cause error)            // called when it is still in use and is detached; may be nil
	Warn    func(path string, err error) // what was answered with EIO; called from several goroutines; may be nil
}

// folders returns the names of the folders of a dataset's snapshots, in their
// order: the time, and the beginning of the id.
func (d Dataset) folders() ([]string, error) {
	if strings.ContainsAny(d.Name, "/\x00") || d.Name == "" || d.Name == "." || d.Name == ".." {
		return nil, fmt.Errorf("dataset %q cannot be the name of a folder", d.Name)
	}
	var names []string
	seen := map[string]bool{}
	for _, s := range d.Snapshots {
		name := SnapshotName(s)
		if seen[name] { // somebody took pains
			name = fmt.Sprintf("%s-%s", s.Summary.When().UTC().Format(timeLayout), s.Hash)
		}
		seen[name] = true
		names = append(names, name)
	}
	return names, nil
}

const timeLayout = "2006-01-02T15-04-05Z"

// SnapshotName is the name of a snapshot's folder.
func SnapshotName(s embassy.SnapshotInfo) string {
	return fmt.Sprintf("%s-%.12s", s.Summary.When().UTC().Format(timeLayout), s.Hash.String())
}
