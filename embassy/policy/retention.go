package policy

import (
	"fmt"
	"time"
)

// Retention says how many snapshots of a series are kept. Without a count and
// without Within all are.
type Retention struct {
	// Last keeps the newest so many; the others the newest of each of the newest
	// so many hours, days, ISO weeks, months and years, in UTC, that have one.
	Last, Hourly, Daily, Weekly, Monthly, Yearly int

	Within time.Duration // everything that is younger than the newest by less
	MinAge time.Duration // everything that is younger than now by less
}

// KeepsAll reports whether no rule says what is to be kept, so that all is.
func (r Retention) KeepsAll() bool {
	return r.Within <= 0 && max(r.Last, r.Hourly, r.Daily, r.Weekly, r.Monthly, r.Yearly) <= 0
}

// Kept is a snapshot of a series, as Retain sees it.
type Kept struct {
	Time  time.Time // of the snapshot
	Since time.Time // it is no older than this by the steward's clock, whatever Time says; zero: not known

	Whole  bool   // complete: no errors
	Pinned bool   // people said that it is kept
	Held   bool   // so is all of its dataset
	Doubt  string // why Time is not believed; such a snapshot is kept, and takes nobody's place
}

// Retain says of each snapshot of one series, newest first, why it is kept, in
// words for a person ("last", "daily 2026-11-22", "pinned"); none: it may be
// forgotten. The words stand in one order, whatever the snapshot.
//
// The order of the series is believed before the times in it. A snapshot that
// is dated after now is kept like one in Doubt, and the newest of the others
// are kept whatever the rule: the newest, and the newest that is Whole.
func Retain(series []Kept, r Retention, now time.Time) [][]string {
	reasons := make([][]string, len(series))
	rules := r.rules()
	var newest time.Time // of those that are believed
	found, whole := false, false
	for i, k := range series {
		why := &reasons[i]
		keep := func(when bool, reason string) {
			if when {
				*why = append(*why, reason)
			}
		}
		believed := k.Doubt == "" && !k.Time.After(now)
		keep(k.Doubt != "", k.Doubt)
		keep(k.Doubt == "" && !believed, "dated after now")
		keep(r.KeepsAll(), "everything is kept")
		if believed {
			if !found {
				newest = k.Time
			}
			first := k.Whole && !whole
			keep(first, "newest complete")
			keep(!found && !first, "newest")
			found, whole = true, whole || k.Whole
			for j := range rules {
				keep(rules[j].takes(k.Time.UTC()))
			}
			keep(r.Within > 0 && newest.Sub(k.Time) < r.Within, "within "+span(r.Within))
		}
		keep(r.MinAge > 0 && now.Sub(latest(k.Time, k.Since)) < r.MinAge, "younger than "+span(r.MinAge))
		keep(k.Pinned, "pinned")
		keep(k.Held, "hold")
	}
	return reasons
}

// rule keeps the first snapshot in each of so many places.
type rule struct {
	name  string
	left  int                      // places that are not taken yet
	place func(t time.Time) string // where a snapshot of that time stands; nil: each has its own place
	taken map[string]bool
}

func (r Retention) rules() []rule {
	in := func(layout string) func(time.Time) string {
		return func(t time.Time) string { return t.Format(layout) }
	}
	week := func(t time.Time) string {
		year, week := t.ISOWeek()
		return fmt.Sprintf("%04d-W%02d", year, week)
	}
	return []rule{
		{name: "last", left: r.Last},
		{name: "hourly", left: r.Hourly, place: in("2006-01-02 15:00")},
		{name: "daily", left: r.Daily, place: in(time.DateOnly)},
		{name: "weekly", left: r.Weekly, place: week},
		{name: "monthly", left: r.Monthly, place: in("2006-01")},
		{name: "yearly", left: r.Yearly, place: in("2006")},
	}
}

// takes reports whether the rule keeps a snapshot of that time, and says so.
func (r *rule) takes(t time.Time) (bool, string) {
	if r.left <= 0 {
		return false, ""
	}
	if r.place == nil {
		r.left--
		return true, r.name
	}
	place := r.place(t)
	if r.taken[place] {
		return false, ""
	}
	if r.taken == nil {
		r.taken = map[string]bool{}
	}
	r.left, r.taken[place] = r.left-1, true
	return true, r.name + " " + place
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// span writes a length of time in its largest whole unit.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d%day == 0:
		return fmt.Sprintf("%dd", d/day)
	case d%time.Hour == 0:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return d.String()
}
