package schedule_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"embassy/embassy/schedule"
)

// every is due at the multiples of a span of time.
type every time.Duration

func (e every) Next(after time.Time) time.Time {
	return after.Truncate(time.Duration(e)).Add(time.Duration(e))
}

// notes is a catalog's notes in memory.
type notes struct {
	mu     sync.Mutex
	values map[string][]byte
}

func newNotes() *notes { return &notes{values: map[string][]byte{}} }

func (n *notes) Note(key string, value []byte) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.values[key] = value
	return nil
}

func (n *notes) Noted(key string) ([]byte, bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	v, ok := n.values[key]
	return v, ok, nil
}

// copied is what a process that dies now leaves.
func (n *notes) copied() *notes {
	n.mu.Lock()
	defer n.mu.Unlock()
	return &notes{values: maps.Clone(n.values)}
}

// diary records runs and fails the test when a job overlaps itself.
type diary struct {
	t       *testing.T
	started time.Time

	mu      sync.Mutex
	runs    []string // "NAME at SPAN", in order of their starts
	running map[string]bool
}

func newDiary(t *testing.T) *diary {
	return &diary{t: t, started: time.Now(), running: map[string]bool{}}
}

// job takes that long for each run.
func (d *diary) job(name string, when schedule.Timing, takes time.Duration) schedule.Job {
	return schedule.Job{Name: name, Lane: name, When: when, Run: func(ctx context.Context) schedule.Outcome {
		d.mu.Lock()
		if d.running[name] {
			d.t.Errorf("%s overlaps itself", name)
		}
		d.running[name] = true
		d.runs = append(d.runs, fmt.Sprintf("%s at %s", name, time.Since(d.started)))
		d.mu.Unlock()
		defer func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			delete(d.running, name)
		}()
		select {
		case <-time.After(takes):
			return schedule.Done
		case <-ctx.Done():
			return schedule.Cut
		}
	}}
}

// take returns the runs since the last call.
func (d *diary) take() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	runs := d.runs
	d.runs = nil
	return runs
}

func (d *diary) want(runs ...string) {
	d.t.Helper()
	if got := d.take(); !slices.Equal(got, runs) {
		d.t.Errorf("runs %q, want %q", got, runs)
	}
}

// live runs a runner until stop is called, which waits for its end.
func live(t *testing.T, store *notes, seed string, jobs ...schedule.Job) (r *schedule.Runner, stop func()) {
	t.Helper()
	r, err := schedule.New(schedule.Options{Jobs: jobs, Store: schedule.Keep(store), Seed: seed})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	return r, func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// The clock of synctest starts at midnight UTC.

func TestRunsOnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDiary(t)
		cron := d.job("cron", every(time.Hour), time.Minute)
		once := d.job("new", every(130*time.Minute), time.Minute)
		once.AtOnce = true
		_, stop := live(t, newNotes(), "", cron, once, d.job("never", nil, 0))
		time.Sleep(150 * time.Minute)
		stop()
		d.want("new at 0s", "cron at 1h0m0s", "cron at 2h0m0s", "new at 2h10m0s")
	})
}

func TestMissedTimesAreCaughtUpOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, store := newDiary(t), newNotes()
		job := d.job("a", every(time.Hour), time.Minute)
		_, stop := live(t, store, "", job)
		time.Sleep(90 * time.Minute)
		stop()
		d.want("a at 1h0m0s")

		time.Sleep(10 * time.Hour) // down until 11:30
		_, stop = live(t, store, "", job)
		time.Sleep(time.Hour)
		stop()
		d.want("a at 11h30m0s", "a at 12h0m0s")

		// Nothing is missed by a restart in between, and nothing repeated.
		for range 5 {
			_, stop = live(t, store, "", job)
			time.Sleep(5 * time.Minute)
			stop()
		}
		time.Sleep(time.Minute) // 12:56
		_, stop = live(t, store, "", job)
		time.Sleep(5 * time.Minute)
		stop()
		d.want("a at 13h0m0s")
	})
}

// TestFirstTimeSurvivesRestarts: a daemon that never lives as long as a job's
// span still gets to it.
func TestFirstTimeSurvivesRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, store := newDiary(t), newNotes()
		time.Sleep(time.Hour)
		for range 3 {
			_, stop := live(t, store, "", d.job("a", every(24*time.Hour), 0))
			time.Sleep(10 * time.Hour)
			stop()
		}
		d.want("a at 24h0m0s")
	})
}

func TestLongRunIsNotOverlapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDiary(t)
		_, stop := live(t, newNotes(), "", d.job("a", every(time.Hour), 150*time.Minute))
		time.Sleep(7 * time.Hour)
		stop()
		d.want("a at 1h0m0s", "a at 3h30m0s", "a at 6h0m0s")
	})
}

func TestLaneGoesByPriority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDiary(t)
		var jobs []schedule.Job
		for i, name := range []string{"third", "second", "first"} {
			j := d.job(name, every(time.Hour), 10*time.Minute)
			j.Lane, j.Priority = "backup", 3-i
			jobs = append(jobs, j)
		}
		beside := d.job("beside", every(65*time.Minute), time.Minute)
		beside.Priority = 9
		_, stop := live(t, newNotes(), "", append(jobs, beside)...)
		time.Sleep(100 * time.Minute)
		stop()
		got := d.take()
		slices.Sort(got) // of the same moment, the order is the system's
		want := []string{"beside at 1h5m0s", "first at 1h0m0s", "second at 1h10m0s", "third at 1h20m0s"}
		if !slices.Equal(got, want) {
			t.Errorf("runs %q, want %q", got, want)
		}
	})
}

// TestLaneStarvesNobody: two urgent jobs that are always due leave room for a
// third.
func TestLaneStarvesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDiary(t)
		var jobs []schedule.Job
		for i, name := range []string{"a", "b", "low"} {
			j := d.job(name, every(time.Hour), 40*time.Minute)
			j.Lane, j.Priority = "backup", i
			jobs = append(jobs, j)
		}
		_, stop := live(t, newNotes(), "", jobs...)
		time.Sleep(4*time.Hour + time.Minute)
		stop()
		d.want("a at 1h0m0s", "b at 1h40m0s", "low at 2h20m0s", "a at 3h0m0s", "b at 3h40m0s")
	})
}

func TestCutRunIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, store := newDiary(t), newNotes()
		job := d.job("a", every(24*time.Hour), 2*time.Hour)
		_, stop := live(t, store, "", job)
		time.Sleep(25 * time.Hour)
		died := store.copied()
		stop() // in the middle of the run
		d.want("a at 24h0m0s")

		r, stop := live(t, store, "", job)
		time.Sleep(3 * time.Hour)
		stop()
		d.want("a at 25h0m0s")
		if got := r.States()[0].Record.Succeeded; !got.Equal(d.started.Add(25 * time.Hour)) {
			t.Errorf("succeeded %s", got)
		}
		_, stop = live(t, store, "", job)
		time.Sleep(time.Hour)
		stop()
		d.want()

		// A process that was killed leaves the same, but only once.
		_, stop = live(t, died, "", job)
		time.Sleep(time.Hour)
		died = died.copied()
		stop()
		d.want("a at 29h0m0s")
		_, stop = live(t, died, "", job)
		time.Sleep(time.Hour)
		stop()
		d.want()
	})
}

func TestClockSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, store := newDiary(t), newNotes()
		ahead := schedule.Record{Base: time.Now().AddDate(1, 0, 0)}
		if err := schedule.Keep(store).Save("a", ahead); err != nil {
			t.Fatal(err)
		}
		_, stop := live(t, store, "", d.job("a", every(time.Hour), 0))
		time.Sleep(90 * time.Minute)
		stop()
		d.want("a at 1h0m0s")
	})
}

func TestJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const jitter = 10 * time.Minute
		next := func(store *notes, seed, name string) time.Duration {
			j := schedule.Job{Name: name, When: every(time.Hour), Jitter: jitter}
			r, err := schedule.New(schedule.Options{Jobs: []schedule.Job{j}, Store: schedule.Keep(store), Seed: seed})
			if err != nil {
				t.Fatal(err)
			}
			return r.States()[0].Next.Sub(time.Now().Truncate(time.Hour).Add(time.Hour))
		}
		delays := map[time.Duration]bool{}
		for i := range 50 {
			name := fmt.Sprint("job ", i)
			got := next(newNotes(), "seed", name)
			if got < 0 || got >= jitter {
				t.Fatalf("%s is put off by %s", name, got)
			}
			if again := next(newNotes(), "seed", name); again != got {
				t.Errorf("%s is put off by %s, then by %s", name, got, again)
			}
			delays[got], delays[next(newNotes(), "other", name)] = true, true
		}
		if len(delays) < 95 {
			t.Errorf("100 jobs and seeds have %d delays", len(delays))
		}

		// It does not add up, and every time is met.
		d := newDiary(t)
		job := d.job("job 1", every(time.Hour), time.Second)
		job.Jitter = jitter
		_, stop := live(t, newNotes(), "seed", job)
		time.Sleep(4 * time.Hour)
		stop()
		delay := next(newNotes(), "seed", "job 1")
		var want []string
		for h := range 3 {
			want = append(want, fmt.Sprintf("job 1 at %s", time.Duration(h+1)*time.Hour+delay))
		}
		d.want(want...)
	})
}

func TestClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDiary(t)
		var jobs []schedule.Job
		for _, name := range []string{"a", "b", "c"} {
			j := d.job(name, every(time.Hour), 30*time.Minute)
			j.Lane = "backup"
			jobs = append(jobs, j)
		}
		r, stop := live(t, newNotes(), "", jobs...)
		never := func(job string) { t.Errorf("waits for %s", job) }

		// A claimed job is not started, and holds its lane.
		release, err := r.Claim(t.Context(), []string{"a"}, never)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(65 * time.Minute)
		d.want()
		var busy *schedule.BusyError
		if _, err := r.Claim(t.Context(), []string{"b", "a"}, never); !errors.As(err, &busy) || busy.Job != "a" || !busy.Since.Equal(d.started) {
			t.Errorf("claim of a claimed job: %v", err)
		}
		release()
		synctest.Wait()
		d.want("a at 1h5m0s") // until 1:35; b and c wait

		// A claim gets a busy lane before what is due.
		waited := ""
		release, err = r.Claim(t.Context(), []string{"c"}, func(job string) { waited = job })
		if err != nil || waited != "a" || time.Since(d.started) != 95*time.Minute {
			t.Errorf("claim at %s: %v, waited for %q", time.Since(d.started), err, waited)
		}
		release()
		release() // once is enough
		synctest.Wait()
		d.want("b at 1h35m0s")
		if _, err := r.Claim(t.Context(), []string{"b"}, never); !errors.Is(err, schedule.ErrBusy) {
			t.Errorf("claim of a running job: %v", err)
		}

		// One who gives up waiting leaves nothing behind.
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := r.Claim(ctx, []string{"c"}, func(string) {}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("claim given up: %v", err)
		}
		time.Sleep(time.Hour)
		stop()
		d.want("c at 2h5m0s", "a at 2h35m0s") // c was due before a was again
	})
}
