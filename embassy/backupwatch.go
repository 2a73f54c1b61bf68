package embassy

import (
	"context"
	"io/fs"
	"os"
	"sync/atomic"
	"time"

	"embassy/embassy/config"
)

// seen is what a walk has come past. It may be read at any time.
type seen struct {
	files, bytes atomic.Uint64 // of content: read twice, counted twice
}

// watch tells how far a backup is, until its end.
type watch struct {
	phase atomic.Value // string
	end   func()
}

// watch starts to tell. What is expected is what the last snapshot held, if any.
func (r *backupRun) watch(ctx context.Context, d config.Dataset, last newest) *watch {
	w := &watch{end: func() {}}
	w.phase.Store("backup")
	if r.l.s.progress == nil {
		return w
	}
	ctx, cancel := context.WithCancel(ctx)
	whole, scanned := r.walk.filter.expect(ctx, d, last)
	started := r.l.s.now()
	tell := func() {
		r.l.s.progress(Progress{
			Phase: w.phase.Load().(string), Dataset: d.Name, Estimated: true,
			Files: r.walk.seen.files.Load(), FilesTotal: whole.files.Load(), Bytes: r.walk.seen.bytes.Load(), BytesTotal: whole.bytes.Load(),
			PerTarget: r.out.sentBytes(), Elapsed: r.l.s.now().Sub(started),
		})
	}
	told := make(chan struct{})
	go func() {
		defer close(told)
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				tell()
				return
			case <-tick.C:
				tell()
			}
		}
	}()
	w.end = func() {
		cancel()
		<-told
		<-scanned
	}
	return w
}

// expected is how much a backup will look at, for people who watch it: what the
// last snapshot of its dataset held, or, for the first one, what a scan beside
// it has counted so far. Both may be wrong by the end.
type expected struct{ files, bytes atomic.Uint64 }

// expect starts the scan when there was no snapshot yet. It reads no file, and
// leaves every fault to the walk. It has ended when done is closed.
func (f *filter) expect(ctx context.Context, d config.Dataset, last newest) (e *expected, done <-chan struct{}) {
	e = &expected{}
	e.files.Store(last.Files)
	e.bytes.Store(last.Bytes)
	scanned := make(chan struct{})
	go func() {
		defer close(scanned)
		if last.Files > 0 {
			return
		}
		for _, s := range d.Sources {
			if fi, err := os.Stat(s); err == nil {
				e.scan(ctx, f, s, fi, sysStat(fi).file.dev)
			}
		}
	}()
	return e, scanned
}

// scan counts a file, or what lies below a folder; above is the device of the
// folder that it lies in.
func (e *expected) scan(ctx context.Context, f *filter, path string, fi fs.FileInfo, above uint64) {
	here := sysStat(fi).file.dev
	switch {
	case ctx.Err() != nil:
		return
	case fi.Mode().IsRegular():
		e.files.Add(1)
		e.bytes.Add(uint64(fi.Size()))
		return
	case !fi.IsDir() || f.foreign(path, here, above):
		return
	}
	d, err := os.OpenFile(path, os.O_RDONLY|asFolder, 0)
	if err != nil {
		return
	}
	defer d.Close()
	cache := f.cache(path, path, []string{cacheTag})
	for err == nil {
		var names []string
		names, err = d.Readdirnames(1 << 10)
		for _, name := range names {
			child := below(path, name)
			fi, err := lstatAt(d, child, name)
			if err == nil && !f.excluded(child, fi.IsDir()) && !f.tooLarge(fi) && (!cache || name == cacheTag) {
				e.scan(ctx, f, child, fi, here)
			}
		}
	}
}
