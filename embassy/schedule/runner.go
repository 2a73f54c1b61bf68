package schedule

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// ErrBusy: a run of the job is under way. The error is a *BusyError.
var ErrBusy = errors.New("a run is under way")

// BusyError names the job that is busy.
type BusyError struct {
	Job   string
	Since time.Time
}

func (e *BusyError) Error() string {
	return fmt.Sprintf("%s: a run is under way since %s", e.Job, e.Since.Format("2006-01-02 15:04:05 MST"))
}

func (e *BusyError) Unwrap() error { return ErrBusy }

// Options wires a Runner.
type Options struct {
	Jobs  []Job
	Store Store
	Seed  string           // spreads the jitter of machines
	Now   func() time.Time // nil: time.Now
	Log   *slog.Logger     // gets what the Store refuses; nil: nobody
}

// Runner runs jobs. It is safe for concurrent use.
type Runner struct {
	store  Store
	now    func() time.Time
	log    *slog.Logger
	turned atomic.Int64 // when the loop last looked, in Unix nanoseconds

	mu      sync.Mutex
	jobs    []*job            // by priority and name
	lanes   map[string]string // the job that holds each busy lane
	wanted  map[string]int    // claims that wait for a lane: no job starts there
	changed chan struct{}     // closed, and replaced, when a job or a lane is free
}

type job struct {
	Job
	plan
	held   time.Time // since when it runs or is claimed; zero: it does not
	passed bool      // another job was started in its lane while it was due
}

// first orders jobs that are due: by priority, but none is passed over twice,
// so that none waits for ever.
func first(a, b *job) int {
	if a.passed != b.passed {
		if a.passed {
			return -1
		}
		return 1
	}
	return cmp.Compare(a.Priority, b.Priority)
}

// New reads what is kept of the jobs.
func New(o Options) (*Runner, error) {
	r := &Runner{
		store: o.Store, now: o.Now, log: o.Log,
		lanes: map[string]string{}, wanted: map[string]int{}, changed: make(chan struct{}),
	}
	if r.now == nil {
		r.now = time.Now
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	r.turned.Store(r.now().UnixNano())
	for _, j := range o.Jobs {
		rec, ok, err := r.store.Load(j.Name)
		if err != nil {
			return nil, fmt.Errorf("schedule: %w", err)
		}
		k := &job{Job: j, plan: plan{when: j.When, delay: part(o.Seed, j.Name, j.Jitter)}}
		k.begin(rec, ok, j.AtOnce, r.now())
		if !ok {
			r.save(j.Name, k.rec)
		}
		r.jobs = append(r.jobs, k)
	}
	slices.SortStableFunc(r.jobs, func(a, b *job) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Name, b.Name))
	})
	return r, nil
}

// Run starts jobs until the context ends. Their contexts end with it; Run
// returns when all of them have returned.
func (r *Runner) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	for ctx.Err() == nil {
		next, changed := r.turn(func(j *job, rec Record) {
			running.Go(func() { r.run(ctx, j, rec) })
		})
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
	}
	return nil
}

// turn starts what is due, and returns how long to sleep, and what ends the
// sleep early.
func (r *Runner) turn(start func(*job, Record)) (time.Duration, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	r.turned.Store(now.UnixNano())
	sleep := idle
	var due []*job
	for _, j := range r.jobs {
		if !j.held.IsZero() {
			continue
		}
		at := j.due(now)
		switch left := at.Sub(now); {
		case at.IsZero():
		case left > 0:
			sleep = min(sleep, left)
		default:
			due = append(due, j)
		}
	}
	slices.SortStableFunc(due, first)
	started := map[string]bool{}
	for _, j := range due {
		if r.lanes[j.Lane] != "" || r.wanted[j.Lane] > 0 { // whose end wakes the loop
			j.passed = j.passed || started[j.Lane]
			continue
		}
		j.start(now)
		j.held, j.passed = now, false
		r.lanes[j.Lane], started[j.Lane] = j.Name, true
		start(j, j.rec)
	}
	return sleep, r.changed
}

func (r *Runner) run(ctx context.Context, j *job, rec Record) {
	r.save(j.Name, rec)
	outcome := j.Job.Run(ctx)
	if outcome == Cut && ctx.Err() == nil {
		outcome = Failed // or it would be due at once, for ever
	}
	r.mu.Lock()
	j.end(outcome)
	rec = j.rec
	r.mu.Unlock()
	r.save(j.Name, rec)
	r.release(j)
}

// save keeps a record. A run is worth more than its record: what cannot be
// kept is logged.
func (r *Runner) save(name string, rec Record) {
	if err := r.store.Save(name, rec); err != nil {
		r.log.Error("record of a job is not kept", "job", name, "err", err)
	}
}

func (r *Runner) release(jobs ...*job) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, j := range jobs {
		j.held = time.Time{}
		if r.lanes[j.Lane] == j.Name {
			delete(r.lanes, j.Lane)
		}
	}
	r.wake()
}

func (r *Runner) wake() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// Claim reserves jobs for a run that somebody asks for: none of them is
// started until the caller has called release. The error is a *BusyError when
// one of them runs or is claimed already. When another job holds a lane, Claim
// first calls waiting with its name, once, and waits for the lane, which it
// gets before any job that is due. Nothing is recorded.
func (r *Runner) Claim(ctx context.Context, names []string, waiting func(job string)) (release func(), err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var jobs []*job
	for _, name := range names {
		i := slices.IndexFunc(r.jobs, func(j *job) bool { return j.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no job %s", name)
		}
		if j := r.jobs[i]; !j.held.IsZero() {
			return nil, &BusyError{name, j.held}
		}
		jobs = append(jobs, r.jobs[i])
	}
	lanes := map[string]string{}
	for _, j := range jobs {
		j.held = r.now()
		lanes[j.Lane] = j.Name
	}
	for lane := range lanes {
		r.wanted[lane]++
	}
	defer func() {
		for lane := range lanes {
			r.wanted[lane]--
		}
	}()
	for told := false; ; told = true {
		holder := ""
		for lane := range lanes {
			holder = cmp.Or(holder, r.lanes[lane])
		}
		if holder == "" {
			break
		}
		changed := r.changed
		r.mu.Unlock()
		if !told {
			waiting(holder)
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
		r.mu.Lock()
		if err := ctx.Err(); err != nil {
			for _, j := range jobs {
				j.held = time.Time{}
			}
			r.wake()
			return nil, err
		}
	}
	for lane, name := range lanes {
		r.lanes[lane] = name
	}
	return sync.OnceFunc(func() { r.release(jobs...) }), nil
}

// Turned returns when the loop last looked for jobs that are due: at most
// about ten seconds ago while Run is well.
func (r *Runner) Turned() time.Time { return time.Unix(0, r.turned.Load()) }

// State is a job as it stands.
type State struct {
	Name   string
	Held   time.Time // since when it runs or is claimed; zero: it does not
	Next   time.Time // when it is due; zero: never
	Record Record
}

// States returns all jobs, by priority and name.
func (r *Runner) States() []State {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []State
	for _, j := range r.jobs {
		out = append(out, State{j.Name, j.held, j.due(r.now()), j.rec})
	}
	return out
}
