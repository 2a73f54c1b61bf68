package embassy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/go-git/go-git/v5/plumbing/format/gitignore"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"embassy/chunk"
	"embassy/embassy/format"
)

const (
	packMemory  = 128 << 20 // of packs being fetched or written out, in bytes
	packFetches = 12        // at once
	batchBytes  = 1 << 20   // of sealed chunks that a worker takes at once
	keepBuffer  = 1 << 20   // smaller buffers are not reused

	maxMissing = 8 << 20 // bytes of what is named as missing from a dataset
	gapBytes   = 64      // that one takes beside its texts
)

// job is one chunk to be written to one place of a file.
type job struct {
	file  *restoredFile
	at    uint64 // offset in the file
	id    chunk.ID
	place int   // in the table; the next one is tried when it fails
	err   error // why the last place failed
}

// batch is a run of jobs of one pack, for one worker.
type batch struct {
	jobs     []job
	pack     []byte
	segments map[uint32]*format.Segment
	done     *sync.WaitGroup
}

// restorer writes the windows of one dataset. One goroutine walks the tree
// while another has the packs of the window before fetched, opened on all
// cores, and written.
type restorer struct {
	to     *os.Root
	base   string // folder of the dataset in to
	r      *reading
	o      RestoreOptions
	choice *selection
	fresh  bool                // see destination
	torn   bool                // see destination
	bare   bool                // no name gets an attribute by itself
	fold   func(string) string // see destination
	meter  *meter
	back   *meter // of what is read again
	memory *semaphore.Weighted
	wrote  atomic.Uint64 // bytes of content

	mu       sync.Mutex
	finished []*restoredFile // of this window, right but for their names

	d       *DatasetRestore
	told    int    // bytes of d.Missing
	untold  uint64 // beyond maxMissing
	unset   map[string]*unset
	untidy  []*folder       // for tidyAll
	lost    map[string]bool // source paths of files with several names that are not right
	handles int             // open files
	buffers [][]byte        // free ones
	openers []*opener
	failed  []job // of the pass under way
}

func newRestorer(to destination, r *reading, o RestoreOptions, m *meter, d *DatasetRestore) *restorer {
	return &restorer{
		to: to.root, fresh: to.fresh, torn: to.torn, bare: to.bare, fold: to.fold, base: d.Dataset, r: r, o: o, meter: m, d: d,
		back:   newMeter(r.view.progress, r.view.now, "read back", d.Dataset),
		memory: semaphore.NewWeighted(packMemory), unset: map[string]*unset{}, lost: map[string]bool{},
	}
}

// missing notes what is not restored.
func (w *restorer) missing(src, reason string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.told += len(src) + len(reason) + gapBytes; w.told > maxMissing {
		w.untold++
		return
	}
	w.d.Missing = append(w.d.Missing, format.Gap{Path: []byte(src), Reason: reason})
}

// run restores what is chosen, and what order matches before all else. The
// error is of ctx, or of a full disk.
func (w *restorer) run(ctx context.Context, chosen *selection, order gitignore.Matcher) error {
	w.choice = chosen
	defer func() {
		w.d.Wrote = w.wrote.Load()
		for _, o := range w.openers {
			o.close()
		}
	}()
	g, ctx := errgroup.WithContext(ctx)
	windows := make(chan *window)
	g.Go(func() error {
		defer close(windows)
		k := &walker{r: w.r, choice: chosen, order: order, names: w.o.Delete, lost: w.missing, fold: w.fold, emit: func(ctx context.Context, win *window) error {
			select {
			case windows <- win:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}}
		if w.o.Owners == OwnersByName {
			k.named = &owners{}
		}
		if w.o.Overwrite == OverwriteNever && w.to != nil {
			k.usable, k.spare = w.usable, isWorkName
		}
		err := k.walk(ctx)
		w.d.Absent = k.absent
		return err
	})
	g.Go(func() error {
		for win := range windows {
			if err := w.window(ctx, win); err != nil {
				return err
			}
		}
		return nil
	})
	return g.Wait()
}

// window writes one window. Folders come first, late names after the files, and
// what is set on a folder when nothing more comes into it.
func (w *restorer) window(ctx context.Context, win *window) error {
	for _, f := range win.dirs {
		w.mkdir(f)
	}
	if w.o.DryRun {
		return w.rehearse(ctx, win)
	}
	h := w.newHand()
	defer h.close()
	jobs, err := w.plan(ctx, h, win.parts)
	if err == nil {
		err = w.fetch(ctx, h, jobs)
	}
	durable := true
	if w.o.Verify || w.o.Overwrite == OverwriteNever {
		if synced := syncAll(w.to); synced != nil {
			durable, err = false, errors.Join(err, fmt.Errorf("make what was written durable: %w", synced))
		}
	}
	if w.o.Verify && err == nil {
		err = w.readBack(ctx, win.parts)
	}
	w.finish(durable && (err == nil || !w.o.Verify)) // what was not read back gets no name
	if err != nil {
		return err
	}
	for _, l := range win.lates {
		if err := h.make(l); err != nil {
			return err
		}
	}
	for _, f := range win.closed {
		w.finishDir(f)
	}
	return ctx.Err()
}

// plan returns what must be fetched for the parts, and completes the files
// that need nothing more.
func (w *restorer) plan(ctx context.Context, h *hand, parts []filePart) ([]job, error) {
	planned, err := w.lookInto(ctx, parts)
	if err != nil {
		return nil, err
	}
	var jobs []job
	for i, p := range parts {
		if p.file.dir.err != nil {
			p.file.fail(fmt.Errorf("its folder: %w", p.file.dir.err))
		}
		if p.file.failed() != nil {
			planned[i] = nil
		}
		p.file.jobs.Add(int64(len(planned[i])))
		jobs = append(jobs, planned[i]...)
	}
	for _, p := range parts {
		if p.last {
			if err := h.done(p.file); err != nil {
				return nil, err
			}
		}
	}
	return jobs, ctx.Err()
}

// lookInto returns what is not there already of each part.
func (w *restorer) lookInto(ctx context.Context, parts []filePart) ([][]job, error) {
	planned := make([][]job, len(parts))
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, p := range parts {
		planned[i] = w.jobs(p)
		if w.fresh {
			continue
		}
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error {
			o := w.takeOpener()
			defer w.giveOpener(o)
			planned[i] = w.examine(ctx, p, planned[i], o)
			return nil
		})
	}
	g.Wait()
	if ctx.Err() != nil {
		return nil, ctx.Err() // not every part was examined
	}
	return planned, nil
}

// jobs returns one job for every chunk of a part.
func (w *restorer) jobs(p filePart) []job {
	jobs := make([]job, 0, len(p.ids))
	at := p.at
	for _, id := range p.ids {
		from, _ := w.r.table.find(id)
		jobs = append(jobs, job{file: p.file, at: at, id: id, place: from})
		at += uint64(w.r.table.places[from].raw)
	}
	return jobs
}

// fetch does the jobs, and those that failed again from the next place of
// their chunk.
func (w *restorer) fetch(ctx context.Context, h *hand, jobs []job) error {
	for len(jobs) > 0 {
		if err := w.pass(ctx, jobs); err != nil {
			return err
		}
		jobs = nil
		for _, j := range w.failed {
			if _, to := w.r.table.find(j.id); j.place+1 < to {
				j.place++
				jobs = append(jobs, j)
				continue
			}
			j.file.fail(j.err)
			if err := h.done(j.file); err != nil {
				return err
			}
		}
		w.failed = nil
	}
	return nil
}

// pass tries every job once, pack by pack in the order of their first use.
func (w *restorer) pass(ctx context.Context, jobs []job) error {
	t := w.r.table
	pack := func(j job) uint32 { return t.segments[t.places[j.place].segment].pack }
	rank := map[uint32]int{}
	for _, j := range jobs {
		if _, ok := rank[pack(j)]; !ok {
			rank[pack(j)] = len(rank)
		}
	}
	slices.SortStableFunc(jobs, func(a, b job) int {
		pa, pb := t.places[a.place], t.places[b.place]
		return cmp.Or(cmp.Compare(rank[pack(a)], rank[pack(b)]),
			cmp.Compare(pa.segment, pb.segment), cmp.Compare(pa.offset, pb.offset))
	})
	batches := make(chan batch)
	workers, wctx := errgroup.WithContext(ctx)
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() error {
			h := w.newHand()
			defer h.close()
			var first error
			for b := range batches {
				if first == nil {
					first = h.work(b)
				}
				b.done.Done()
			}
			return first
		})
	}
	var fetches errgroup.Group
	fetches.SetLimit(packFetches)
	for len(jobs) > 0 {
		n := 1
		for n < len(jobs) && pack(jobs[n]) == pack(jobs[0]) {
			n++
		}
		p, group := t.packs[pack(jobs[0])], jobs[:n]
		jobs = jobs[n:]
		weight := int64(min(p.size, packMemory))
		if err := w.memory.Acquire(wctx, weight); err != nil {
			break // wctx is over
		}
		fetches.Go(func() error {
			defer w.memory.Release(weight)
			w.pack(wctx, p.object, group, batches)
			return nil
		})
	}
	fetches.Wait()
	close(batches)
	return errors.Join(workers.Wait(), ctx.Err())
}

// pack fetches of a pack what its jobs need, hands them to the workers, and
// waits for them.
func (w *restorer) pack(ctx context.Context, o object, jobs []job, out chan<- batch) {
	buf := w.takeBuffer(int(o.size))
	defer w.giveBuffer(buf)
	segments, err := w.load(ctx, o, buf, jobs)
	if err != nil {
		if ctx.Err() == nil && (errors.Is(err, errBadCopy) || errors.Is(err, io.ErrUnexpectedEOF)) {
			jobs, segments = w.salvage(ctx, o, buf, jobs)
		} else {
			w.giveUp(jobs, err)
			return
		}
	}
	var done sync.WaitGroup
	for len(jobs) > 0 && ctx.Err() == nil {
		n, sum := 0, 0
		for n < len(jobs) && sum < batchBytes {
			sum += int(w.r.table.places[jobs[n].place].length)
			n++
		}
		done.Add(1)
		out <- batch{jobs[:n], buf, segments, &done}
		jobs = jobs[n:]
	}
	done.Wait()
}

func (w *restorer) giveUp(jobs []job, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, j := range jobs {
		j.err = err
		w.failed = append(w.failed, j)
	}
}

// load reads the whole pack, or the ranges with the chunks of the jobs if they
// are less than half of it. Ranges are verified by opening what they hold; if
// that fails, the whole pack tells whether a copy is bad or it was written so.
func (w *restorer) load(ctx context.Context, o object, buf []byte, jobs []job) (map[uint32]*format.Segment, error) {
	var spans []span
	for _, j := range jobs {
		spans = append(spans, w.r.table.spans(w.r.table.places[j.place])...)
	}
	spans, covered := align(spans, int64(o.size))
	if covered < int64(o.size)/2 {
		segments, unfit, err := w.ranges(ctx, o, buf, jobs, spans, false)
		if err == nil && unfit == nil || err != nil && !w.r.c.source.older(ctx) {
			return segments, err
		}
	}
	if err := w.r.c.source.whole(ctx, o, buf, w.o.Fastest, w.r.tally); err != nil {
		return nil, err
	}
	segments, err := w.segments(buf, jobs)
	if err != nil { // no copy is bad
		return nil, fmt.Errorf("pack %s: %v", o.hash, err)
	}
	return segments, nil
}

// ranges reads spans of a pack and opens the chunks of the jobs. If that fails
// it asks the next target, should each copy be tried, or else returns why.
func (w *restorer) ranges(ctx context.Context, o object, buf []byte, jobs []job, spans []span, each bool) (segments map[uint32]*format.Segment, unfit, err error) {
	op := w.takeOpener()
	defer w.giveOpener(op)
	check := func() error {
		var err error
		if segments, err = w.segments(buf, jobs); err != nil {
			return err
		}
		for _, j := range jobs {
			p := w.r.table.places[j.place]
			if _, err := op.chunk(segments[p.segment], w.r.table.segments[p.segment], p, buf, j.id, chunk.MaxSize); err != nil {
				return err
			}
		}
		return nil
	}
	err = w.r.c.source.ranges(ctx, o, buf, spans, w.o.Fastest, w.r.tally, func() error {
		if unfit = check(); each {
			return unfit
		}
		return nil
	})
	return segments, unfit, err
}

// segments opens the segments that the jobs need.
func (w *restorer) segments(buf []byte, jobs []job) (map[uint32]*format.Segment, error) {
	open := map[uint32]*format.Segment{}
	for _, j := range jobs {
		n := w.r.table.places[j.place].segment
		if open[n] != nil {
			continue
		}
		s, err := w.r.c.openSegment(buf, w.r.table.segments[n])
		if err != nil {
			return nil, err
		}
		open[n] = s
	}
	return open, nil
}

// salvage reads chunk by chunk when no copy of a pack is good throughout: each
// may be damaged elsewhere. It returns the jobs that this saved.
func (w *restorer) salvage(ctx context.Context, o object, buf []byte, jobs []job) ([]job, map[uint32]*format.Segment) {
	segments := map[uint32]*format.Segment{}
	var saved []job
	good := make([]byte, len(buf)) // what is saved is not overwritten
	for _, j := range jobs {
		p := w.r.table.places[j.place]
		spans, _ := align(w.r.table.spans(p), int64(o.size))
		opened, _, err := w.ranges(ctx, o, buf, []job{j}, spans, true)
		if err != nil {
			w.giveUp([]job{j}, err)
			continue
		}
		segments[p.segment] = opened[p.segment]
		for _, s := range w.r.table.spans(p) {
			copy(good[s.from:s.to], buf[s.from:s.to])
		}
		saved = append(saved, j)
	}
	copy(buf, good)
	return saved, segments
}

// work opens the chunks of a batch and writes them. Jobs of one chunk come one
// after another, and it is opened once. The error is of a full disk.
func (h *hand) work(b batch) error {
	t := h.w.r.table
	var data []byte
	for i, j := range b.jobs {
		p := t.places[j.place]
		if i == 0 || b.jobs[i-1].place != j.place || b.jobs[i-1].id != j.id || data == nil {
			var err error
			data, err = h.opener.chunk(b.segments[p.segment], t.segments[p.segment], p, b.pack, j.id, chunk.MaxSize)
			if err != nil {
				data = nil
				h.w.giveUp([]job{j}, err)
				continue
			}
		}
		if err := h.write(j.file, data, j.at); err != nil {
			return err
		}
		if err := h.done(j.file); err != nil {
			return err
		}
	}
	return nil
}

func (w *restorer) takeBuffer(size int) []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, b := range w.buffers {
		if cap(b) >= size && cap(b) <= 4*max(size, keepBuffer) {
			w.buffers = slices.Delete(w.buffers, i, i+1)
			return b[:size]
		}
	}
	return make([]byte, size)
}

func (w *restorer) giveBuffer(b []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	sum := cap(b)
	for _, o := range w.buffers {
		sum += cap(o)
	}
	if cap(b) >= keepBuffer && sum <= packMemory/2 {
		w.buffers = append(w.buffers, b)
	}
}

func (w *restorer) takeOpener() *opener {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.openers); n > 0 {
		o := w.openers[n-1]
		w.openers = w.openers[:n-1]
		return o
	}
	return newOpener(w.r.c)
}

func (w *restorer) giveOpener(o *opener) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.openers = append(w.openers, o)
}
