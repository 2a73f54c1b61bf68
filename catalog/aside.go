package catalog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// keepAside is how many catalogs MoveAside leaves.
const keepAside = 2

// MoveAside moves what the catalog in the directory holds to a new directory
// beside it, whose name is that of the first with ".damaged-" and the time,
// and returns its absolute path. Open then finds an empty catalog. It is for what Open
// refuses with ErrCorrupt or ErrSchema. Of older ones only the newest stays,
// so that there are at most two.
//
// The error wraps ErrLocked if a process has the catalog open, and
// [fs.ErrNotExist] if there is none. An error about an older one, which could
// not be removed, comes with the path.
func MoveAside(dir string, now time.Time) (to string, err error) {
	if to, err = moveAside(dir, now); err != nil {
		return to, fmt.Errorf("move catalog %s aside: %w", dir, err)
	}
	return to, nil
}

// moveAside moves the store and not the directory, which holds the lock:
// whoever waits for that then opens the new catalog, not the old one.
func moveAside(dir string, now time.Time) (to string, err error) {
	if dir, err = filepath.Abs(dir); err != nil {
		return "", err
	}
	store := filepath.Join(dir, storeName)
	if _, err := os.Stat(store); err != nil {
		return "", err
	}
	l, err := acquire(dir, 0, nil, func() time.Time { return now })
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, l.release()) }()

	prefix := filepath.Base(dir) + ".damaged-"
	parent := filepath.Dir(dir)
	entries, err := os.ReadDir(parent)
	if err != nil {
		return "", err
	}
	var older []string
	for _, e := range entries { // in ascending order of name, and so of time
		if strings.HasPrefix(e.Name(), prefix) {
			older = append(older, e.Name())
		}
	}
	name := prefix + now.UTC().Format("20060102T150405Z")
	for slices.Contains(older, name) {
		now = now.Add(time.Second)
		name = prefix + now.UTC().Format("20060102T150405Z")
	}
	to = filepath.Join(parent, name)
	if err := os.Rename(store, to); err != nil {
		return "", err
	}
	for _, name := range older[:max(0, len(older)-(keepAside-1))] {
		if err := os.RemoveAll(filepath.Join(parent, name)); err != nil {
			return to, err
		}
	}
	return to, nil
}
