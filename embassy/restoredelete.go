package embassy

import (
	"errors"
	"hash/maphash"
	"io"
	"io/fs"
	"path"
	"slices"
	"time"
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

// later keeps a folder for tidyAll.
func (w *restorer) later(f *folder) {
	if w.o.Delete && f.whole && !f.made && !w.fresh && w.choice.covers(f.src) {
		w.untidy = append(w.untidy, f)
	}
}

// tidyAll deletes what is in restored folders and not in the snapshot, if that
// is asked for, and everything else of the dataset is there: what could not be
// restored may be there under another name, what the source could not read may
// still be there, and what a later snapshot has is not given up for an earlier
// one that happened to answer.
func (w *restorer) tidyAll(newer bool) {
	why := ""
	switch {
	case len(w.untidy) == 0:
		return
	case len(w.d.Missing) > 0 || w.untold > 0:
		why = "something could not be restored"
	case len(w.d.SourceGaps) > 0:
		why = "the backup could not read everything, so that the snapshot does not say what there was"
	case newer:
		why = "later snapshots cannot be read"
	}
	if why != "" {
		w.missing("/", "--delete was asked for, and nothing was deleted: "+why)
		return
	}
	for _, f := range w.untidy { // children first
		w.tidy(f)
	}
}

// tidy deletes what is in a folder and not in that of the snapshot.
func (w *restorer) tidy(f *folder) {
	before := w.d.Deleted.Count
	k := walker{fold: w.fold}
	err := w.each(w.path(f), func(name string) bool {
		return !f.has.has(k.folded(name)) && w.erase(f.src+"/"+name, f.inside)
	})
	if err != nil {
		w.missing(f.src+"/", "what the snapshot does not have could not be deleted: "+err.Error())
	}
	if f.parent != nil && w.d.Deleted.Count > before && !w.o.DryRun {
		w.note("time", f.src, w.to.Chtimes(w.path(f), time.Time{}, f.meta.time()))
	}
	f.has = nameSet{}
}

// passes bounds how often each goes through a folder.
const passes = 16

// each calls fn with every name in a folder, and again while it removes some:
// a system may pass over names while others go.
func (w *restorer) each(folder string, fn func(name string) (removed bool)) error {
	for range passes {
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
	return errors.New("names come back, or are shown that are not there")
}

// errMounted: another file system is mounted there, which is not restored.
var errMounted = errors.New("another file system is mounted there")

// erase deletes what is there under a source path, as far as it is asked for,
// and reports whether nothing of it is left. A link goes, and is not followed.
func (w *restorer) erase(src string, inside bool) bool {
	name := w.base + src
	info, err := w.to.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	if err == nil {
		var take bool
		if take, _, inside = w.choice.weigh(src, info.IsDir(), inside); !take {
			return false
		}
	}
	title := src
	if err == nil && info.IsDir() {
		title += "/"
		var left bool
		if left, err = w.empty(src, info, inside); err == nil && left {
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

// empty erases what is in a folder, and reports whether something is left, for
// which the folder then is as it was.
func (w *restorer) empty(src string, info fs.FileInfo, inside bool) (left bool, err error) {
	name := w.base + src
	above, err := w.to.Lstat(path.Dir(name))
	if err != nil {
		return false, err
	}
	if sysStat(above).file.dev != sysStat(info).file.dev {
		return false, errMounted
	}
	closed := info.Mode().Perm()&0o700 != 0o700 && !w.o.DryRun
	if closed {
		if err := w.to.Chmod(name, info.Mode()|0o700); err != nil {
			return false, err
		}
	}
	err = w.each(name, func(below string) bool {
		gone := w.erase(src+"/"+below, inside)
		left = left || !gone
		return gone
	})
	if closed && (left || err != nil) {
		err = errors.Join(err, w.to.Chmod(name, info.Mode()))
	}
	return left, err
}
