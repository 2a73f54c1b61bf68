package policy

import "time"

// Retention says how many snapshots of a series are kept. The zero Retention
// keeps all.
type Retention struct {
	// Last keeps the newest so many; the others the newest of each of the newest
	// so many hours, days, ISO weeks, months and years, in UTC, that have one.
	Last, Hourly, Daily, Weekly, Monthly, Yearly int

	Within time.Duration // everything that is younger than the newest by less
	MinAge time.Duration // everything that is younger than now by less
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
// words for a person ("last 2", "daily 2026-11-22", "pinned"); none: it may be
// forgotten.
func Retain(series []Kept, r Retention, now time.Time) [][]string { panic("not built") }
