package embassy

import (
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/format/gitignore"

	"embassy/embassy/config"
	"embassy/embassy/format"
)

// LeftOut counts what a dataset's configuration keeps out of a snapshot. What
// lies below a folder that is left out is not looked at, and not counted.
type LeftOut struct {
	Excluded    uint64 // files and folders that match a pattern of exclude
	Caches      uint64 // folders of which only the CACHEDIR.TAG is kept
	Larger      uint64 // files above exclude_larger_than
	LargerBytes uint64 // that they hold
	Mounts      uint64 // folders of other file systems, kept empty
}

// filter says what of the sources is left out. What the configuration names as
// a source is never left out itself.
type filter struct {
	patterns gitignore.Matcher
	caches   bool
	largest  int64           // bytes; zero: no bound
	sources  map[string]bool // by path
	oneFS    bool
}

func newFilter(d config.Dataset) filter {
	f := filter{
		patterns: matcher(d.Exclude), caches: d.ExcludeCaches, largest: d.ExcludeLargerThan,
		sources: map[string]bool{}, oneFS: d.OneFileSystem,
	}
	for _, s := range d.Sources {
		f.sources[s] = true
	}
	return f
}

func (f *filter) excluded(path string, dir bool) bool {
	return f.patterns != nil && f.patterns.Match(strings.Split(strings.Trim(path, "/"), "/"), dir)
}

func (f *filter) tooLarge(fi fs.FileInfo) bool {
	return f.largest > 0 && fi.Mode().IsRegular() && fi.Size() > f.largest
}

// foreign reports whether a folder is of another file system than the folder
// above. Files are not asked: overlays give them devices of their own.
func (f *filter) foreign(path string, device, above uint64) bool {
	return f.oneFS && device != above && !f.sources[path]
}

// A cache folder holds a file of this name that starts so; see
// https://bford.info/cachedir/.
const (
	cacheTag       = "CACHEDIR.TAG"
	cacheSignature = "Signature: 8a477f597d28d172789f06886806bc55"
)

// cache reports whether a folder, which is opened as at, is a cache. A tag that
// cannot be read makes none: what is in doubt is stored.
func (f *filter) cache(path, at string, names []string) bool {
	if !f.caches || f.sources[path] || !slices.Contains(names, cacheTag) {
		return false
	}
	tag, err := openFile(filepath.Join(at, cacheTag))
	if err != nil {
		return false
	}
	defer tag.Close()
	if fi, err := tag.Stat(); err != nil || !fi.Mode().IsRegular() {
		return false
	}
	start := make([]byte, len(cacheSignature))
	_, err = io.ReadFull(tag, start)
	return err == nil && string(start) == cacheSignature
}

// folder builds the node list of a folder below a source, which is empty when
// another file system is mounted there and that is left out.
func (w *walk) folder(path, at string, fi fs.FileInfo, above uint64) (format.Content, error) {
	id := sysStat(fi).file
	if w.filter.foreign(path, id.dev, above) {
		w.counts.left.Mounts++
		return format.NewTreeBuilder(w.putTree).Finish()
	}
	return w.dir(path, at, id)
}
