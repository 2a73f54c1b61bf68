package embassy

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"embassy/embassy/format"
	"embassy/embassy/policy"
	"embassy/targets"
)

const (
	locksAtOnce = 8 // on one target
	// deniedEnough is how many refusals, and nothing else, end a renewal.
	deniedEnough = 100

	compliance = "compliance" // the mode that nobody can weaken
)

// LockedTarget is the outcome of a renewal on one target.
type LockedTarget struct {
	Target   string
	Objects  uint64 // that should be locked there
	Extended uint64
	Denied   uint64    // the store refused to show or extend their lock
	Doubtful uint64    // something was written over them and they could not be mended: no lock was extended
	Earliest time.Time // when the first lock ends, by the store's clock; zero: none is known
	Err      error     // why not all were looked at; nil: they were
}

// LockReport is the outcome of a renewal.
type LockReport struct {
	Started time.Time
	Elapsed time.Duration
	Targets []LockedTarget // that the configuration asks a lock of, in its order
	Exit    int            // 4 when something could not be extended, else 0
}

// ErrNoLocks: the configuration asks for a lock, and the target has none.
var ErrNoLocks = errors.New("offers no object lock: use a bucket that was made with object lock, or remove lock: from its configuration")

// RenewLocks extends the object lock of everything that the ledgers list, of
// the entries and of the charters, on every target whose configuration asks for
// a lock: of what is locked for less than half of the period, to a whole
// period from now. No lock becomes shorter, and none of compliance becomes one
// of governance. What a store locks is the newest version: where somebody wrote
// over an object, the object is put again first. It needs no key of the nation. What was extended is remembered
// in the catalog: stopped anywhere, it goes on where it was.
func (s *Service) RenewLocks(ctx context.Context) (LockReport, error) {
	rep := LockReport{Started: s.now()}
	var renewals []*renewal
	for _, m := range s.order {
		if site, ok := s.site.Target(m.Name); ok && site.Lock.Period() > 0 {
			renewals = append(renewals, &renewal{s: s, m: m, mode: site.Lock.Mode, period: site.Lock.Period(),
				out: LockedTarget{Target: m.Name}, found: map[format.Hash]Evidence{}})
		}
	}
	if len(renewals) > 0 {
		a, err := s.openAtlas(ctx)
		if err != nil {
			return rep, err
		}
		charters, err := a.knownCharters(ctx)
		if err != nil {
			return rep, err
		}
		var wg sync.WaitGroup
		for _, r := range renewals {
			wg.Go(func() { r.out.Err = r.run(ctx, a, charters) })
		}
		wg.Wait()
	}
	if err := ctx.Err(); err != nil {
		return rep, err
	}
	for _, r := range renewals {
		if r.out.Err != nil || r.out.Denied > 0 || r.out.Doubtful > 0 {
			rep.Exit = policy.ExitCode(rep.Exit, exitDegraded)
		}
		if err := r.noteDown(); err != nil {
			return rep, err
		}
		rep.Targets = append(rep.Targets, r.out)
	}
	rep.Elapsed = s.now().Sub(rep.Started)
	return rep, s.catalog.AddRun(Run{Kind: "locks", Started: rep.Started, Ended: s.now(), Exit: rep.Exit, Note: rep.note()})
}

func (r *LockReport) note() string {
	var objects, extended, denied uint64
	for _, t := range r.Targets {
		objects, extended, denied = objects+t.Objects, extended+t.Extended, denied+t.Denied
	}
	return fmt.Sprintf("%d objects to be locked, %d extended, %d denied", objects, extended, denied)
}

// Locked is the dated evidence of the last renewal on a target.
type Locked struct {
	Time     time.Time  `json:"time"`
	Objects  uint64     `json:"objects"`
	Extended uint64     `json:"extended"`
	Denied   uint64     `json:"denied"`
	Doubtful uint64     `json:"doubtful,omitempty"` // were written over and not mended
	Earliest *time.Time `json:"earliest,omitempty"` // end of a lock
	Error    string     `json:"error,omitempty"`    // not all were looked at
}

const locksNote = "locks/" // and the name of the target

// LastLocked returns what the last renewal on a target found; ok is false when
// there was none.
func (s *Service) LastLocked(target string) (l Locked, ok bool, err error) {
	return readNote[Locked](s.catalog, locksNote+target)
}

// renewal is that of one target.
type renewal struct {
	s      *Service
	m      *Member
	locker targets.Locker
	mode   string
	period time.Duration
	mender *audit // puts again what was written over

	mu    sync.Mutex
	out   LockedTarget
	found map[format.Hash]Evidence
}

func (r *renewal) noteDown() error {
	l := Locked{Time: r.s.now().UTC(), Objects: r.out.Objects, Extended: r.out.Extended, Denied: r.out.Denied, Doubtful: r.out.Doubtful}
	if !r.out.Earliest.IsZero() {
		at := r.out.Earliest.UTC()
		l.Earliest = &at
	}
	if r.out.Err != nil { // not all was looked at: what was known before may end first
		l.Error = oneLine(r.out.Err)
		before, _, err := r.s.LastLocked(r.m.Name)
		if err != nil {
			return err
		}
		if at := before.Earliest; at != nil && (l.Earliest == nil || at.Before(*l.Earliest)) {
			l.Earliest = at
		}
	}
	return keepNote(r.s.catalog, locksNote+r.m.Name, l)
}

func (r *renewal) run(ctx context.Context, a *atlas, charters []knownCharter) error {
	if cause := r.m.Down(); cause != nil {
		return fmt.Errorf("target %s: %w: %w", r.m.Name, ErrDown, cause)
	}
	var ok bool
	if r.locker, ok = targets.As[targets.Locker](r.m.Target); !ok {
		return ErrNoLocks
	}
	r.mender = &audit{v: newVerification(r.s, a), m: r.m, pen: r.m.pen()}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(locksAtOnce)
	err := r.walk(gctx, g, a, charters)
	if first := g.Wait(); first != nil {
		err = first
	}
	return errors.Join(err, r.flush())
}

// walk goes through all that the target should hold.
func (r *renewal) walk(ctx context.Context, g *errgroup.Group, a *atlas, charters []knownCharter) error {
	for _, c := range charters {
		if err := r.renew(ctx, g, c.thing); err != nil {
			return err
		}
	}
	all := func(things iter.Seq2[thing, error]) error {
		for o, err := range things {
			if err == nil {
				err = r.renew(ctx, g, o)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	for _, region := range a.regions {
		if _, ok := region.member(r.m); !ok {
			continue
		}
		claims, agents, err := region.claims(r.m)
		if err != nil {
			return err
		}
		for _, agent := range agents {
			for _, kind := range listedKinds {
				if err := all(region.objects(agent, kind, claims[agent])); err != nil {
					return err
				}
			}
		}
		for _, l := range region.lines {
			if err := all(region.entries(claims[l.Agent][l.Chain])); err != nil {
				return err
			}
		}
	}
	return nil
}

// renew has an object's lock extended, unless it is known to last.
func (r *renewal) renew(ctx context.Context, g *errgroup.Group, o thing) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if o.r != nil {
		if fate, err := r.s.catalog.Fate(o.r.id, o.hash); err != nil || fate.Marked.Given() { // it is on its way out
			return err
		}
	}
	known, err := r.s.catalog.Evidence(r.m.Name, o.hash)
	if err != nil {
		return err
	}
	lasts := known.Locked.After(r.enough())
	r.mu.Lock()
	if r.out.Objects++; lasts {
		r.ends(known.Locked)
	}
	r.mu.Unlock()
	if lasts {
		return nil
	}
	g.Go(func() error { return r.extend(ctx, o) })
	return nil
}

// enough is until when a lock lasts that needs no renewal.
func (r *renewal) enough() time.Time { return r.s.now().Add(r.period / 2) }

// ends books the end of a lock. r.mu is held.
func (r *renewal) ends(at time.Time) {
	if r.out.Earliest.IsZero() || at.Before(r.out.Earliest) {
		r.out.Earliest = at
	}
}

// extend asks for a lock, and makes it longer if it must be.
func (r *renewal) extend(ctx context.Context, o thing) error {
	sound, err := r.sound(ctx, o)
	if err != nil {
		return err
	}
	if !sound {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.out.Doubtful++
		return nil
	}
	var has, set targets.Lock
	err = r.ask(ctx, func(ctx context.Context) error {
		var got targets.Lock // of this attempt, which may hang and go on
		err := r.m.bounded(ctx, transferTime(0), func(ctx context.Context) (err error) {
			got, err = r.locker.LockOf(ctx, o.name)
			return err
		})
		if err == nil {
			has = got
		}
		return err
	})
	extend := false
	if err == nil {
		set = targets.Lock{Mode: r.mode, Until: r.s.now().Add(r.period)}
		if has.Mode == compliance {
			set.Mode = compliance
		}
		if has.Until.After(r.enough()) && has.Mode == set.Mode {
			set = has
		} else if extend = true; has.Until.After(set.Until) {
			set.Until = has.Until
		}
	}
	if extend {
		err = r.ask(ctx, func(ctx context.Context) error {
			return r.m.bounded(ctx, transferTime(0), func(ctx context.Context) error { return r.locker.SetLock(ctx, o.name, set) })
		})
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case errors.Is(err, targets.ErrNotFound): // verify tells of it
		return nil
	case errors.Is(err, targets.ErrDenied):
		if !has.Until.IsZero() {
			r.ends(has.Until)
		}
		if r.out.Denied++; r.out.Denied == deniedEnough && r.out.Extended == 0 {
			return fmt.Errorf("target %s: %d locks in a row: %w", r.m.Name, deniedEnough, err)
		}
		return nil
	case err != nil:
		return err
	}
	if extend {
		r.out.Extended++
	}
	r.ends(set.Until)
	r.found[o.hash] = Evidence{Locked: set.Until}
	if len(r.found) < evidenceBatch {
		return nil
	}
	return r.book()
}

// sound reports whether the newest version, which is what would be locked, is
// the object, or has become it again. The error is the target's.
func (r *renewal) sound(ctx context.Context, o thing) (bool, error) {
	size, once, err := r.newest(ctx, o.name)
	switch {
	case errors.Is(err, targets.ErrNotFound), errors.Is(err, targets.ErrDenied):
		return true, nil // the question for the lock has the same answer
	case err != nil:
		return false, err
	}
	fits := slices.Contains(o.sizes, uint64(size))
	if fits && once {
		return true, nil
	}
	cause := fmt.Errorf("has %d bytes and should have %d", size, o.sizes[0])
	if fits {
		sum, err := r.m.digest(ctx, o.name, size, func(int) {})
		err = r.mender.asked(ctx, err)
		if err == nil && sum == o.hash {
			return true, nil
		}
		if err != nil && !answered(err) {
			return false, err
		}
		if cause = err; err == nil {
			cause = errBadCopy
		}
	}
	r.s.fault(r.m.Name, FaultAltered, o.name, fmt.Errorf("somebody wrote over it: its newest version %w%s", cause, remedy))
	err = r.mender.mend(ctx, o, nil)
	if err == nil {
		return true, r.mender.healed(o, -1)
	}
	if ctx.Err() != nil || r.m.Down() != nil {
		return false, err
	}
	return false, nil
}

// newest returns the size of the newest version of an object, and whether the
// store says that nothing was ever written over it.
func (r *renewal) newest(ctx context.Context, name string) (size int64, once bool, err error) {
	if store := r.m.versioned(ctx, name); store != nil {
		versions := 0
		for v, err := range store.Versions(ctx, name) {
			if err != nil {
				r.m.versionsFailed(ctx, err)
				versions = 0
				break
			}
			if v.Name != name || versions > 1 {
				break
			}
			if versions++; versions == 1 {
				size = v.Size
			}
			if v.Latest && v.Marker {
				return 0, false, targets.ErrNotFound
			}
		}
		if versions > 0 {
			return size, versions == 1, nil
		}
	}
	err = r.ask(ctx, func(ctx context.Context) error {
		return r.m.bounded(ctx, transferTime(0), func(ctx context.Context) error {
			info, err := r.m.Target.Stat(ctx, name)
			size = info.Size
			return err
		})
	})
	return size, true, err
}

// ask does one operation; that it is denied does not mean that the target is
// down.
func (r *renewal) ask(ctx context.Context, f func(ctx context.Context) error) error {
	return r.m.attempt(ctx, settled, f)
}

func (r *renewal) flush() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.book()
}

// book remembers what was found. r.mu is held.
func (r *renewal) book() error {
	found := r.found
	r.found = map[format.Hash]Evidence{}
	if len(found) == 0 {
		return nil
	}
	return r.s.catalog.SetEvidence(r.m.Name, found)
}
