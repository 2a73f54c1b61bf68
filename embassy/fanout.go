package embassy

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"embassy/chunk"
	"embassy/embassy/format"
	"embassy/embassy/policy"
	"embassy/targets"
)

// errLagging is why a slow target drops out of a run.
var errLagging = errors.New("too slow for this run: it gets the rest from the others")

const (
	laneUploads = 2               // uploads at once to one target
	graceMin    = 5 * time.Second // a laggard is waited for at least so long
)

// fanout hands every sealed pack to every target of a compartment at once.
//
// A pack's buffer lives until no target needs it. Packs wait in line at slow
// targets; when the run wants a buffer and none is free, the pack that longest
// satisfies the commit rule is taken from the targets that still lack it, once
// they have had their grace. Such a target drops out of the run, and gets what
// it misses from the others afterwards. So the memory is bounded by the number
// of buffers, and the run goes at the speed of the targets that the rule needs.
type fanout struct {
	fanoutConfig

	mu      sync.Mutex
	change  chan struct{} // closed and replaced at every change
	free    [][]byte      // buffers; nil stands for one not yet allocated
	parcels []*parcel     // that hold a buffer, oldest first
	orphans []*parcel     // of them, those that no target took
	lanes   []*lane
	closed  bool
	failed  error
}

// fanoutConfig is what a fanout calls.
type fanoutConfig struct {
	rule    policy.Rule
	now     func() time.Time
	name    func(format.Hash) string // of a pack on a target
	placed  func(m *Member, h format.Hash) error
	durable func(p *parcel) error // called once, when the first copy is safe and placed
	spool   *spool

	distrusted func(m *Member) error
}

// lane is the way to one target.
type lane struct {
	m     *Member
	queue []*parcel
	out   error // why the lane takes nothing now
	shut  bool  // it stays out for the whole run
	alive bool  // the target was alive when the run began
	sent  uint64
}

// parcel is a pack on its way. The fanout owns Data until every lane is done.
type parcel struct {
	pack     format.Pack
	ids      []chunk.ID
	offered  time.Time
	settled  time.Time // when the rule first held
	waiting  map[*lane]context.CancelFunc
	copies   []policy.Copy
	fostered bool // it is, or was, an orphan
	lent     bool // a hanging call has its buffer for ever
	once     sync.Once
	kept     error // what durable returned
}

// keep makes the pack known as durable, the first time it is called.
func (p *parcel) keep(durable func(*parcel) error) error {
	p.once.Do(func() { p.kept = durable(p) })
	return p.kept
}

// newFanout opens a lane to every member but those that are down, or of whom
// distrusted returns why their copies do not count.
func newFanout(members []*Member, buffers int, c fanoutConfig) *fanout {
	f := &fanout{fanoutConfig: c, change: make(chan struct{}), free: make([][]byte, buffers)}
	for _, m := range members {
		l := &lane{m: m, out: c.distrusted(m)}
		l.shut = l.out != nil
		if l.out == nil {
			l.out = m.Down()
		}
		l.alive = l.out == nil
		f.lanes = append(f.lanes, l)
	}
	return f
}

// run serves the lanes until close and until every pack is done.
func (f *fanout) run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, l := range f.lanes {
		for range laneUploads {
			wg.Go(func() { f.serve(ctx, l) })
		}
	}
	wg.Go(func() { f.foster(ctx) })
	wg.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failed
}

// signal wakes all that wait for a change. f.mu is held.
func (f *fanout) signal() {
	close(f.change)
	f.change = make(chan struct{})
}

// wait releases f.mu until a change, the time, or the end of ctx.
func (f *fanout) wait(ctx context.Context, until time.Duration) error {
	change := f.change
	f.mu.Unlock()
	defer f.mu.Lock()
	var timer <-chan time.Time
	if until > 0 {
		t := time.NewTimer(until)
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-change:
		return nil
	case <-timer:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// buffer returns a buffer for a new pack, nil for one to be allocated.
func (f *fanout) buffer(ctx context.Context) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.free) == 0 {
		if f.failed != nil {
			return nil, f.failed
		}
		if err := f.wait(ctx, f.shed()); err != nil {
			return nil, err
		}
	}
	b := f.free[len(f.free)-1]
	f.free = f.free[:len(f.free)-1]
	return b, nil
}

// release gives a buffer back that carries no pack.
func (f *fanout) release(b []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.free = append(f.free, b)
	f.signal()
}

// shed drops the lanes that hold back the oldest settled parcel, if their
// grace is over. Otherwise it returns how long that takes; 0 when nothing is
// settled, and only a change can help. f.mu is held.
func (f *fanout) shed() time.Duration {
	for _, p := range f.parcels {
		if p.settled.IsZero() || len(p.waiting) == 0 {
			continue
		}
		grace := max(graceMin, 3*p.settled.Sub(p.offered))
		if left := grace - f.now().Sub(p.settled); left > 0 {
			return left
		}
		for l := range p.waiting {
			l.shut = true
			if l.out == nil {
				f.leave(l, errLagging)
			}
		}
		return 0 // their uploads end now, and signal
	}
	return 0
}

// leave takes a lane out of the run: what is queued for it and what is on its
// way is dropped. f.mu is held.
func (f *fanout) leave(l *lane, cause error) {
	if l.out == nil {
		l.out = cause
	}
	l.queue = nil
	for _, p := range slices.Clone(f.parcels) {
		if cancel, ok := p.waiting[l]; ok {
			if cancel != nil {
				cancel() // its upload ends, and settles the parcel
				continue
			}
			delete(p.waiting, l)
			f.finish(p)
		}
	}
	f.signal()
}

// offer hands a pack to every lane. The fanout owns its buffer from here on. A
// lane whose target failed is open again when its breaker is.
func (f *fanout) offer(pack format.Pack, ids []chunk.ID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := &parcel{pack: pack, ids: ids, offered: f.now(), waiting: map[*lane]context.CancelFunc{}}
	f.parcels = append(f.parcels, p)
	for _, l := range f.lanes {
		if l.out != nil && !l.shut && l.m.Down() == nil {
			l.out = nil
		}
		if l.out == nil {
			l.queue = append(l.queue, p)
			p.waiting[l] = nil
		}
	}
	f.finish(p)
	f.signal()
}

// close says that no pack will be offered any more.
func (f *fanout) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	f.signal()
}

// drain waits until every pack is done; laggards get their grace. It fails when
// ctx has ended.
func (f *fanout) drain(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.parcels) > 0 && f.failed == nil {
		if err := f.wait(ctx, f.shed()); err != nil {
			return err
		}
	}
	return cmp.Or(f.failed, ctx.Err())
}

// finish frees a parcel's buffer when no lane needs it. A pack that too few
// targets took for the commit rule becomes an orphan, for the spool. f.mu is
// held.
func (f *fanout) finish(p *parcel) {
	if len(p.waiting) > 0 {
		return
	}
	if p.settled.IsZero() && !p.fostered {
		p.fostered = true
		f.orphans = append(f.orphans, p)
		return
	}
	if slices.Contains(f.orphans, p) {
		return
	}
	i := slices.Index(f.parcels, p)
	f.parcels = slices.Delete(f.parcels, i, i+1)
	if p.lent {
		p.pack.Data = nil // a call that hangs may still read it
	}
	f.free = append(f.free, p.pack.Data)
	p.pack.Data = nil
}

// over reports that nothing is left to do. f.mu is held.
func (f *fanout) over(ctx context.Context) bool {
	return f.closed && len(f.parcels) == 0 || f.failed != nil || ctx.Err() != nil
}

// fail ends the run. f.mu is held.
func (f *fanout) fail(err error) {
	if err != nil && f.failed == nil {
		f.failed = err
	}
}

// foster spools the orphans.
func (f *fanout) foster(ctx context.Context) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		for len(f.orphans) == 0 {
			if f.over(ctx) || f.wait(ctx, 0) != nil {
				return
			}
		}
		if ctx.Err() != nil {
			return // they are orphans because the run was cut short
		}
		p := f.orphans[0]
		f.orphans = f.orphans[1:]
		f.mu.Unlock()
		err := f.spool.put(p.pack.Hash, p.pack.Data)
		if errors.Is(err, ErrSpoolFull) && len(p.copies) > 0 {
			err = nil // too few have it, but it is not lost
		}
		if err == nil {
			err = p.keep(f.durable)
		}
		f.mu.Lock()
		f.fail(err)
		f.finish(p)
		f.signal()
	}
}

// sentBytes returns the bytes that each target confirmed.
func (f *fanout) sentBytes() map[string]uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	sent := make(map[string]uint64, len(f.lanes))
	for _, l := range f.lanes {
		sent[l.m.Name] = l.sent
	}
	return sent
}

// serve uploads what is queued at one lane.
func (f *fanout) serve(ctx context.Context, l *lane) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		for len(l.queue) == 0 {
			if f.over(ctx) || f.wait(ctx, 0) != nil {
				return
			}
		}
		p := l.queue[0]
		l.queue = l.queue[1:]
		up, cancel := context.WithCancel(ctx)
		p.waiting[l] = cancel
		f.mu.Unlock()

		err := l.m.put(up, f.name(p.pack.Hash), p.pack.Data, p.pack.Hash)
		cancel()
		var booked error
		if err == nil {
			// The pack is safe on one target. Where it lies is known before it
			// is: what the catalog knows of packs, it can always find.
			if booked = f.placed(l.m, p.pack.Hash); booked == nil {
				booked = p.keep(f.durable)
			}
		}

		f.mu.Lock()
		f.fail(booked)
		if err == nil {
			l.sent += uint64(len(p.pack.Data))
			p.copies = append(p.copies, copyOn(l.m))
			if p.settled.IsZero() && len(f.rule.Missing(p.copies)) == 0 {
				p.settled = f.now()
			}
		}
		delete(p.waiting, l)
		p.lent = p.lent || errors.Is(err, ErrHung)
		l.shut = l.shut || suspect(err) || errors.Is(err, targets.ErrDenied)
		f.finish(p)
		if err != nil && l.out == nil {
			f.leave(l, err)
		}
		f.signal()
	}
}
