// Package schedule runs jobs when they are due, each at most once at a time.
//
// A time that was missed, because the daemon was down or the job's lane busy,
// is caught up once, however many were missed. A run that was cut short, by a
// cancelled context or by the death of the process, is repeated at the next
// start; one that the process dies in again waits for its next time. What is
// needed for that is kept in a Store. The package decides when, never what: a
// run says by its Outcome no more than how it ended.
package schedule

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"time"
)

const (
	// idle is the longest that the runner sleeps. Clocks are set, and machines
	// suspended, without any timer noticing.
	idle = 10 * time.Second
	// backwards is how far a clock may be set back before the times that are
	// kept of jobs count as false.
	backwards = 10 * time.Minute
)

// Timing says when a job is due.
type Timing interface {
	// Next returns the first time after the given one; zero: never.
	Next(after time.Time) time.Time
}

// Outcome is how a run ended.
type Outcome int

// The outcomes.
const (
	Failed Outcome = iota
	Done
	Cut // its context ended first
)

// Job is something that is done again and again.
type Job struct {
	Name     string        // unique
	Lane     string        // jobs of one lane run one at a time
	Priority int           // of those that are due in a lane, the lowest runs first, but none is passed over twice
	When     Timing        // nil: never due, but it can be claimed
	Jitter   time.Duration // each time is put off by a part of it, for ever the same
	AtOnce   bool          // due at once when it never ran; else at its next time
	Run      func(ctx context.Context) Outcome
}

// Record is what is kept of a job.
type Record struct {
	Base      time.Time `json:"base"`               // the job is due at its first time after this one
	Cut       bool      `json:"cut,omitempty"`      // it is due at once: the last run was cut short
	Started   time.Time `json:"started,omitzero"`   // of the last run
	Succeeded time.Time `json:"succeeded,omitzero"` // start of the last run that was Done
}

// Store keeps records over restarts.
type Store interface {
	Load(job string) (r Record, ok bool, err error)
	Save(job string, r Record) error
}

// Notes is where Keep writes: a catalog.
type Notes interface {
	Note(key string, value []byte) error
	Noted(key string) (value []byte, ok bool, err error)
}

// Keep returns a Store in the notes below "schedule/".
func Keep(n Notes) Store { return notes{n} }

type notes struct{ Notes }

func (n notes) Load(job string) (r Record, ok bool, err error) {
	value, ok, err := n.Noted("schedule/" + job)
	if err != nil || !ok {
		return r, false, err
	}
	if err := json.Unmarshal(value, &r); err != nil {
		return r, false, fmt.Errorf("record of %s: %w", job, err)
	}
	return r, true, nil
}

func (n notes) Save(job string, r Record) error {
	value, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return n.Note("schedule/"+job, value)
}

// part returns a job's share of its jitter. Another job, or another seed, gets
// another one.
func part(seed, name string, jitter time.Duration) time.Duration {
	if jitter <= 0 {
		return 0
	}
	h := fnv.New64a()
	fmt.Fprintf(h, "%s\x00%s", seed, name)
	return time.Duration(h.Sum64() % uint64(jitter))
}

// plan is when one job is due.
type plan struct {
	when  Timing
	delay time.Duration
	rec   Record
}

// begin takes what was kept, if anything was.
func (p *plan) begin(rec Record, ok, atOnce bool, now time.Time) {
	p.rec = rec
	if !ok {
		p.rec = Record{Base: now, Cut: atOnce}
	}
}

// due returns when the job is to start; zero: never.
func (p *plan) due(now time.Time) time.Time {
	if p.when == nil {
		return time.Time{}
	}
	if p.rec.Base.After(now.Add(backwards)) {
		p.rec.Base = now
	}
	if p.rec.Cut {
		return p.rec.Base
	}
	return p.after(p.rec.Base)
}

func (p *plan) after(base time.Time) time.Time {
	next := p.when.Next(base)
	if next.IsZero() {
		return next
	}
	return next.Add(p.delay)
}

// start changes the record for a run that starts now. It covers every time
// that has passed. Until the run ends it counts as cut, unless it repeats one.
func (p *plan) start(now time.Time) {
	if next := p.after(p.rec.Base); !next.IsZero() && !next.After(now) {
		p.rec.Base = next.Add(-p.delay)
		if next = p.after(p.rec.Base); !next.IsZero() && !next.After(now) {
			p.rec.Base = now.Add(-p.delay)
		}
	}
	p.rec.Cut = !p.rec.Cut
	p.rec.Started = now
}

// end changes the record for a run that ended.
func (p *plan) end(o Outcome) {
	p.rec.Cut = o == Cut
	if o == Done {
		p.rec.Succeeded = p.rec.Started
	}
}
