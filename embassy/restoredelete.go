package embassy

import (
	"errors"
	"hash/maphash"
	"io"
	"io/fs"
	"slices"
)

var nameSeed = maphash.MakeSeed()

// nameSet is the names of a folder, eight bytes each. Two names may pass for
// one, which nobody can bring about, and keeps what could be deleted.
type nameSet struct {
	sums   []uint64
	sorted bool
}

func (s *nameSet) add(name string) { s.sums = append(s.sums, maphash.String(nameSeed, name)) }

func (s *nameSet) has(name string) bool {
	if !s.sorted {
		slices.Sort(s.sums)
		s.sorted = true
	}
	_, ok := slices.BinarySearch(s.sums, maphash.String(nameSeed, name))
	return ok
}

// tidy deletes what is in a restored folder and not in that of the snapshot, if
// it is asked for and all of the snapshot's list is known.
func (w *restorer) tidy(f *folder) {
	if !w.o.Delete || !f.whole || f.made || w.fresh || !w.choice.covers(f.src) {
		return
	}
	k := walker{fold: w.fold}
	err := w.each(w.path(f), func(name string) bool {
		return !f.has.has(k.folded(name)) && w.erase(f.src+"/"+name, f.inside)
	})
	if err != nil {
		w.missing(f.src+"/", "what the snapshot does not have could not be deleted: "+err.Error())
	}
	f.has = nameSet{}
}

// each calls fn with every name in a folder, and again while it removes some:
// a system may pass over names while others go.
func (w *restorer) each(folder string, fn func(name string) (removed bool)) error {
	for {
		d, err := w.to.Open(folder)
		if err != nil {
			return err
		}
		some := false
		for err == nil {
			var names []string
			names, err = d.Readdirnames(1024)
			for _, name := range names {
				some = fn(name) || some
			}
		}
		closed := d.Close()
		if !errors.Is(err, io.EOF) || closed != nil {
			return errors.Join(err, closed)
		}
		if !some || w.o.DryRun {
			return nil
		}
	}
}

// erase deletes what is there under a source path, as far as it is asked for,
// and reports whether nothing of it is left. A link goes, and is not followed.
func (w *restorer) erase(src string, inside bool) bool {
	name := w.base + src
	info, err := w.to.Lstat(name)
	if err == nil {
		var take bool
		if take, _, inside = w.choice.weigh(src, info.IsDir(), inside); !take {
			return false
		}
	}
	title := src
	if err == nil && info.IsDir() {
		title += "/"
		if info.Mode().Perm()&0o700 != 0o700 && !w.o.DryRun {
			err = w.to.Chmod(name, info.Mode().Perm()|0o700)
		}
		left := false
		if err == nil {
			err = w.each(name, func(below string) bool {
				gone := w.erase(src+"/"+below, inside)
				left = left || !gone
				return gone
			})
		}
		if err == nil && left {
			return false
		}
	}
	if err == nil && !w.o.DryRun {
		err = w.to.Remove(name)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.missing(src, "is not in the snapshot, and could not be deleted: "+err.Error())
		return false
	}
	w.mu.Lock()
	w.d.Deleted.add(title)
	w.mu.Unlock()
	return true
}
