package embassy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"embassy/embassy/format"
	"embassy/embassy/policy"
	"embassy/targets"
)

const (
	rangeAlign   = 256 << 10 // bytes; range reads start and end at its multiples
	maxStrikes   = 2         // failed probes of a target, after which nothing waits for it
	maxFaults    = 3         // faults of one target over one object
	waitStep     = time.Second
	maxBadTold   = 100   // bad copies of one target that are told one by one
	maxBadListed = 1_000 // bad copies that a report lists
)

// errNowhere is wrapped by the error about an object that no target gave whole.
var errNowhere = errors.New("no target gave a good copy")

// desk is what a View knows of one member beside its breaker.
type desk struct {
	inflight atomic.Int64 // bytes asked for and not yet there
	served   atomic.Int64 // bytes
	bad      atomic.Int64 // copies

	// A demoted member failed during this View. It serves again once a probe
	// succeeds, so that a black hole costs one probe, not one timeout for
	// every object that is wanted when its breaker closes.
	demoted atomic.Bool
	probing sync.Mutex
	strikes atomic.Int32
}

// ranked is a member in the order of one compartment.
type ranked struct {
	*Member
	bit  uint64 // its place in the View's members
	desk *desk
}

// source fetches the objects of one compartment, each from the best member
// that gives it.
type source struct {
	view   *View
	order  []ranked // best first
	prefix func(k format.Kind, agent format.ID, h format.Hash) string
}

// object is something that an entry lists.
type object struct {
	kind  format.Kind
	hash  format.Hash
	size  uint64
	agent format.ID
	shown uint64 // members that show the entry
}

// request is one thing to be fetched.
type request struct {
	name    string
	shown   uint64 // members that claim to have it: asked first, blamed if they have not
	only    bool   // ask no others
	size    int64  // bytes to be read, for balancing the load
	fastest bool   // tiers do not matter
	tally   *tally // may be nil
}

// asks reports whether the member is one to ask.
func (q request) asks(r ranked) bool { return !q.only || r.bit&q.shown != 0 }

// try calls get for one member after another, the best first, until it
// returns nil. get reads and verifies; an error that is not the target's
// fault marks a bad copy, which is reported.
func (s *source) try(ctx context.Context, q request, get func(ctx context.Context, r ranked) error) error {
	var done, told uint64 // members not to be asked again, and those of them that answered
	faults := map[uint64]int{}
	var causes []error
	for {
		r, ok := s.next(ctx, q, done)
		if !ok {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("%s: %w", q.name, err)
			}
			if s.awaitDown(ctx, q, done) {
				continue
			}
			err := fmt.Errorf("%s: %w", q.name, errors.Join(append([]error{errNowhere}, causes...)...))
			if slices.ContainsFunc(s.order, func(r ranked) bool { return q.asks(r) && r.bit&told == 0 }) {
				s.view.silence.Store(&err)
			}
			return err
		}
		r.desk.inflight.Add(q.size)
		err := get(ctx, r)
		r.desk.inflight.Add(-q.size)
		if err == nil {
			r.desk.served.Add(q.size)
			q.tally.served(r, q.size)
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w", q.name, ctx.Err())
		}
		switch {
		case errors.Is(err, ErrDown): // it went silent, or another fetch found it down
			r.desk.demoted.Store(true)
			tellDown([]*Member{r.Member}, s.view.warn)
			continue
		case final(err):
			done, told = done|r.bit, told|r.bit
		default:
			r.desk.demoted.Store(true)
			if faults[r.bit]++; faults[r.bit] == maxFaults {
				done |= r.bit
			}
		}
		causes = append(causes, fmt.Errorf("target %s: %w", r.Name, err))
		s.view.report(r, q, err)
	}
}

// final reports whether asking the same target for the same thing again is
// pointless.
func final(err error) bool {
	return answered(err) || errors.Is(err, format.ErrMalformed) ||
		errors.Is(err, targets.ErrDenied) || errors.Is(err, targets.ErrNoStore)
}

// next returns the best member that is not done. Of equals it takes the one
// that has the least to do.
func (s *source) next(ctx context.Context, q request, done uint64) (ranked, bool) {
	class := func(r ranked) int {
		n := int(r.Tier)
		if q.fastest {
			n = 0
		}
		if r.bit&q.shown == 0 {
			n += 1 + int(policy.Emergency)
		}
		return n
	}
	candidates := make([]ranked, 0, len(s.order))
	for _, r := range s.order {
		if r.bit&done == 0 && q.asks(r) {
			candidates = append(candidates, r)
		}
	}
	slices.SortStableFunc(candidates, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(class(a), class(b)),
			cmp.Compare(a.desk.inflight.Load(), b.desk.inflight.Load()),
			cmp.Compare(a.desk.served.Load(), b.desk.served.Load()))
	})
	for _, r := range candidates {
		if s.view.usable(ctx, r) {
			return r, true
		}
	}
	return ranked{}, false
}

// usable reports whether the member may be asked. One caller at a time probes
// a demoted member; the others pass it over meanwhile.
func (v *View) usable(ctx context.Context, r ranked) bool {
	d := r.desk
	if r.Down() != nil {
		d.demoted.Store(true)
		return false
	}
	if !d.demoted.Load() {
		return true
	}
	if !d.probing.TryLock() {
		return false
	}
	defer d.probing.Unlock()
	probe(ctx, v.keys.Charter.Nation, []*Member{r.Member})
	if r.Down() != nil {
		d.strikes.Add(1)
		return false
	}
	d.demoted.Store(false)
	d.strikes.Store(0)
	return true
}

// awaitDown waits until a member that is down may be asked again, and reports
// whether one may. It does not wait for a member that failed its probes.
func (s *source) awaitDown(ctx context.Context, q request, done uint64) bool {
	for {
		hope := false
		for _, r := range s.order {
			if r.bit&done != 0 || r.Banned() || !q.asks(r) || r.desk.strikes.Load() >= maxStrikes {
				continue
			}
			if cause := r.Down(); cause != nil && final(cause) {
				continue
			}
			if s.view.usable(ctx, r) {
				return true
			}
			hope = hope || r.desk.strikes.Load() < maxStrikes
		}
		if !hope || sleep(ctx, waitStep) != nil {
			return false
		}
	}
}

// report tells of a bad copy. A member that never claimed the object is not
// blamed for its absence, and a dead one is told once.
func (v *View) report(r ranked, q request, err error) {
	if !final(err) {
		tellDown([]*Member{r.Member}, v.warn)
		return
	}
	if errors.Is(err, targets.ErrNotFound) && r.bit&q.shown == 0 {
		return
	}
	f := Finding{Target: r.Name, Object: q.name, Err: err}
	q.tally.found(f)
	v.doubts.Add(1)
	switch n := r.desk.bad.Add(1); {
	case n <= maxBadTold:
		v.warn(f)
	case n == maxBadTold+1:
		v.warn(Finding{Target: r.Name, Err: fmt.Errorf("more than %d bad copies; the others are not listed", maxBadTold)})
	}
}

// meets reports whether an object is known to be bad.
func (v *View) meets(h format.Hash) bool {
	if !v.spoilt[h] {
		return false
	}
	v.doubts.Add(1)
	return true
}

// name is the object's name on every target.
func (s *source) name(o object) string { return s.prefix(o.kind, o.agent, o.hash) }

// whole reads the object into dst, which has its size, and verifies its hash.
func (s *source) whole(ctx context.Context, o object, dst []byte, fastest bool, t *tally) error {
	s.view.meets(o.hash)
	q := request{name: s.name(o), shown: o.shown, size: int64(o.size), fastest: fastest, tally: t}
	return s.try(ctx, q, func(ctx context.Context, r ranked) error {
		old, err := r.readWhole(ctx, q.name, o.hash, dst, t.arriving(r))
		if old != nil {
			s.view.report(r, q, old)
		}
		return err
	})
}

// older reports whether an object of which ranges found no copy may still be
// there as a whole: where older versions are kept.
func (s *source) older(ctx context.Context) bool {
	return ctx.Err() == nil && slices.ContainsFunc(s.order, func(r ranked) bool { return r.keptVersions() })
}

// span is a range of bytes of an object.
type span struct{ from, to int64 }

// align widens spans to multiples of rangeAlign within an object of size
// bytes, and joins those that meet. It returns the bytes they cover.
func align(spans []span, size int64) ([]span, int64) {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	var out []span
	var sum int64
	for _, s := range spans {
		s.from -= s.from % rangeAlign
		s.to = min(size, (s.to+rangeAlign-1)/rangeAlign*rangeAlign)
		if n := len(out); n > 0 && s.from <= out[n-1].to {
			if s.to > out[n-1].to {
				sum += s.to - out[n-1].to
				out[n-1].to = s.to
			}
			continue
		}
		out = append(out, s)
		sum += s.to - s.from
	}
	return out, sum
}

// ranges reads aligned spans of the object to their places in dst, which has
// its size, and lets check verify what they hold.
func (s *source) ranges(ctx context.Context, o object, dst []byte, spans []span, fastest bool, t *tally, check func() error) error {
	s.view.meets(o.hash)
	q := request{name: s.name(o), shown: o.shown, fastest: fastest, tally: t}
	for _, p := range spans {
		q.size += p.to - p.from
	}
	return s.try(ctx, q, func(ctx context.Context, r ranked) error {
		for _, p := range spans {
			if err := r.readCounted(ctx, q.name, p.from, dst[p.from:p.to], t.arriving(r)); err != nil {
				return err
			}
		}
		return check()
	})
}

// tally counts what was served and what was bad, for one dataset. A nil tally
// counts nothing. Safe for concurrent use.
type tally struct {
	meter *meter

	mu   sync.Mutex
	from map[uint64]*Served // by the bit of the member
	bad  []Finding
}

func newTally(m *meter) *tally { return &tally{meter: m, from: map[uint64]*Served{}} }

func (t *tally) served(r ranked, bytes int64) {
	if t == nil {
		return
	}
	t.mu.Lock()
	s := t.from[r.bit]
	if s == nil {
		s = &Served{Target: r.Name, Tier: r.Tier}
		t.from[r.bit] = s
	}
	s.Objects++
	s.Bytes += uint64(bytes)
	t.mu.Unlock()
}

// arriving returns what counts bytes for the progress, as they come.
func (t *tally) arriving(r ranked) func(n int) {
	return func(n int) {
		if t != nil {
			t.meter.add(func(p *Progress) { p.PerTarget[r.Name] += uint64(n) })
		}
	}
}

func (t *tally) found(f Finding) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.bad) < maxBadListed {
		t.bad = append(t.bad, f)
	}
}

// list returns who served, best tier first.
func (t *tally) list() []Served {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []Served
	for bit := range maxMembers {
		if s := t.from[1<<uint(bit)]; s != nil {
			out = append(out, *s)
		}
	}
	slices.SortStableFunc(out, func(a, b Served) int { return cmp.Compare(a.Tier, b.Tier) })
	return out
}
