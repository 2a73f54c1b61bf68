package embassy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"embassy/embassy/format"
	"embassy/embassy/policy"
	"embassy/targets"
)

const (
	probeTimeout = 5 * time.Second  // a target that does not answer within it is down
	downFor      = 30 * time.Second // before a target that failed is asked again
	downMax      = 8 * time.Minute  // when it fails again and again
	banFor       = time.Hour        // when it must not be used
	deniedMax    = 16               // reads in a row, from which on a target that denies them is down
	attempts     = 3                // for one operation, on a fault that may pass
	attemptsBusy = 6                // for one operation, on a store that asks for patience
	hangGrace    = 5 * time.Second  // for an operation to end after it was cancelled
	slowest      = 64 << 10         // bytes a second
	copyPiece    = 256 << 10        // bytes

	readBackOneIn = 16                     // puts, of which a part is read back
	readBackBytes = 64 << 10               // that part
	readBackPause = 300 * time.Millisecond // for a store that is not consistent at once
)

var (
	// ErrDown is wrapped by the error of an operation that was not tried,
	// because the target failed a short while ago.
	ErrDown = errors.New("target is down")
	// ErrHung: an operation did not end after it was cancelled, as on a disk
	// that is gone. The target is not used again by this process.
	ErrHung = errors.New("hangs, and is not used any more by this run")
	// ErrDiscards: a target said that it stored an object, and does not give
	// it back.
	ErrDiscards = errors.New("the target said that it stored an object, and does not give it back: its copies do not count; look at the host, then run embassy target trust")
)

// Member is one target of the nation, with what people and this run know of
// it. Its breaker is shared by all that use it.
type Member struct {
	Name         string
	URL          string // without credentials
	Jurisdiction string
	Tier         policy.Tier // in the compartment at hand; Primary unless ranked
	Guarded      bool        // proven, not claimed
	Target       targets.Target

	health *health
}

// health is the circuit breaker of one target.
type health struct {
	mu     sync.Mutex
	cause  error     // nil: closed
	until  time.Time // when one more attempt is allowed
	row    int       // failures since the last success
	banned bool      // no probe helps before then
	denied int       // reads in a row that these credentials may not do
	rate   float64   // bytes a second of the last large puts; 0: unknown
	now    func() time.Time
	told   atomic.Bool // a reader has been told that the target is down

	versions versionPower
	// tell, if not nil, writes a fault of the target into the book. It is set
	// before the first use.
	tell func(kind FaultKind, object string, cause error)
}

// tell books a fault of the target.
func (m *Member) tell(kind FaultKind, object string, cause error) {
	if m.health.tell != nil {
		m.health.tell(kind, object, cause)
	}
}

// NewMember wraps an opened target. A target that could not be opened has a
// nil Target and its cause; it counts as down for ever.
func NewMember(name, url, jurisdiction string, t targets.Target, cause error, now func() time.Time) *Member {
	h := &health{now: now}
	if t == nil {
		h.cause, h.banned, h.until = cause, true, now().AddDate(100, 0, 0)
	}
	return &Member{Name: name, URL: url, Jurisdiction: jurisdiction, Target: t, health: h}
}

// At returns the same target ranked in a tier; the breaker is shared.
func (m *Member) At(t policy.Tier) *Member {
	c := *m
	c.Tier = t
	return &c
}

// pen returns the same target with a breaker of its own, for writing: what it
// denies stops no reading.
func (m *Member) pen() *Member {
	return NewMember(m.Name, m.URL, m.Jurisdiction, m.Target, m.Down(), m.health.now)
}

// Banned reports whether the target is out, and no probe will help.
func (m *Member) Banned() bool {
	m.health.mu.Lock()
	defer m.health.mu.Unlock()
	return m.health.banned && m.health.now().Before(m.health.until)
}

// Down returns why the target is not asked now, or nil.
func (m *Member) Down() error {
	m.health.mu.Lock()
	defer m.health.mu.Unlock()
	if m.health.cause != nil && m.health.now().Before(m.health.until) {
		return m.health.cause
	}
	m.health.banned = false
	return nil
}

// trip opens the breaker: the longer, the more often the target failed since
// it last did what it should.
func (m *Member) trip(cause error) {
	h := m.health
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.banned {
		return
	}
	if h.cause == nil || !h.now().Before(h.until) { // not one more of the same failure
		h.row++
	}
	pause := min(downFor<<min(h.row-1, 10), downMax)
	h.cause, h.until = cause, h.now().Add(pause-pause/10+rand.N(pause/5))
}

// speed is how fast large objects were put of late, in bytes a second; 0:
// unknown.
func (m *Member) speed() float64 {
	m.health.mu.Lock()
	defer m.health.mu.Unlock()
	return m.health.rate
}

// timed books a large put.
func (m *Member) timed(bytes int, took time.Duration) {
	if bytes < largeObject || took <= 0 {
		return
	}
	rate := float64(bytes) / took.Seconds()
	m.health.mu.Lock()
	defer m.health.mu.Unlock()
	if m.health.rate > 0 {
		rate = (m.health.rate + rate) / 2
	}
	m.health.rate = rate
}

// ban opens the breaker for longer than a run lasts: the target answers, and
// must not be used. A daemon looks again later.
func (m *Member) ban(cause error) {
	m.health.mu.Lock()
	defer m.health.mu.Unlock()
	m.health.cause, m.health.banned, m.health.until = cause, true, m.health.now().Add(banFor)
}

func (m *Member) recovered() {
	m.health.mu.Lock()
	defer m.health.mu.Unlock()
	if !m.health.banned {
		m.health.cause, m.health.row, m.health.denied = nil, 0, 0
	}
}

// answered reports whether err is the target's answer about one object rather
// than a fault of the target.
func answered(err error) bool {
	return err == nil || errors.Is(err, targets.ErrNotFound) || errors.Is(err, targets.ErrCorrupt) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, errBadCopy) || errors.Is(err, errUnreadable)
}

// errUnreadable: the store failed over one object again and again, and answers
// other questions.
var errUnreadable = errors.New("cannot be read")

// do runs one operation that reads, with retries. A fault of the target opens
// its breaker; an answer about one object, even a bad one, does not.
func (m *Member) do(ctx context.Context, f func(ctx context.Context) error) error {
	return m.attempt(ctx, answered, f)
}

// attempt is do with its own idea of what needs no retry.
func (m *Member) attempt(ctx context.Context, answered func(error) bool, f func(ctx context.Context) error) error {
	for try := 1; ; try++ {
		if cause := m.Down(); cause != nil {
			return fmt.Errorf("target %s: %w: %w", m.Name, ErrDown, cause)
		}
		err := f(ctx)
		if answered(err) {
			if err != nil {
				return fmt.Errorf("target %s: %w", m.Name, err)
			}
			m.recovered()
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("target %s: %w", m.Name, err)
		}
		if errors.Is(err, targets.ErrDenied) && !m.denies() {
			return fmt.Errorf("target %s: %w", m.Name, err)
		}
		final := errors.Is(err, targets.ErrDenied) || errors.Is(err, targets.ErrNoStore) ||
			errors.Is(err, targets.ErrName) || errors.Is(err, ErrHung)
		tries := attempts
		if errors.Is(err, targets.ErrBusy) {
			tries = attemptsBusy
		}
		if final || try >= tries || m.Down() != nil {
			if errors.Is(err, targets.ErrUnreadable) && try >= tries && m.alive(ctx) {
				return fmt.Errorf("target %s: %w: %w", m.Name, errUnreadable, err)
			}
			m.trip(err)
			return fmt.Errorf("target %s: %w", m.Name, err)
		}
		if err := backOff(ctx, try); err != nil {
			return fmt.Errorf("target %s: %w", m.Name, err)
		}
	}
}

// denies books that credentials may not read something, and reports whether the
// target is to be taken for down: after many denials and nothing else. One
// object, or one agent's folder, may well be denied alone.
func (m *Member) denies() bool {
	m.health.mu.Lock()
	defer m.health.mu.Unlock()
	m.health.denied++
	return m.health.denied >= deniedMax
}

// alive reports whether the target answers a cheap question, if only to deny
// it.
func (m *Member) alive(ctx context.Context) bool {
	err := m.bounded(ctx, probeTimeout, func(ctx context.Context) error {
		for _, err := range m.Target.List(ctx, "") {
			return err
		}
		return nil
	})
	return err == nil || errors.Is(err, targets.ErrDenied)
}

// backOff waits after the failure of a try, the first being 1.
func backOff(ctx context.Context, try int) error {
	pause := time.Duration(try*try) * 200 * time.Millisecond
	return sleep(ctx, pause/2+rand.N(pause))
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// probe asks every member one cheap question at once, a busy one again, and
// opens the breaker of those that fail or stay silent for probeTimeout.
func probe(ctx context.Context, nation format.ID, members []*Member) {
	var wg sync.WaitGroup
	for _, m := range members {
		if m.Down() != nil {
			continue
		}
		wg.Go(func() {
			err := m.bounded(ctx, probeTimeout, func(ctx context.Context) error {
				for try := 1; ; try++ {
					var err error
					for _, err = range m.Target.List(ctx, format.CharterPrefix(nation)) {
						break
					}
					if !errors.Is(err, targets.ErrBusy) || try == attempts || backOff(ctx, try) != nil {
						return err
					}
				}
			})
			if err != nil && ctx.Err() == nil {
				if errors.Is(err, context.DeadlineExceeded) {
					err = fmt.Errorf("no answer within %s: %w", probeTimeout, err)
				}
				m.trip(err)
			}
		})
	}
	wg.Wait()
}

// errBadCopy marks a copy whose bytes are not the object's.
var errBadCopy = errors.New("bytes do not match the hash")

// fetch reads a whole object of known size and hash from one member, be it an
// older version.
func (m *Member) fetch(ctx context.Context, name string, size uint64, want format.Hash) ([]byte, error) {
	data := make([]byte, size)
	old, err := m.readWhole(ctx, name, want, data, func(int) {})
	return data, m.fetched(name, old, err)
}

// fetchSized is fetch of an object of which only the member says how large it
// is: at most most bytes.
func (m *Member) fetchSized(ctx context.Context, name string, size, most int64, want format.Hash) ([]byte, error) {
	data, old, err := m.readSized(ctx, name, want, size, most)
	return data, m.fetched(name, old, err)
}

func (m *Member) fetched(name string, old, err error) error {
	if err != nil {
		return fmt.Errorf("target %s: %w", m.Name, err)
	}
	if old != nil {
		m.tell(kindOf(old), name, old)
	}
	return nil
}

// read fills dst from an offset of the object. A timeout opens the breaker at
// once: others have the object too, and repeating would cost as long again.
// The error does not name the member. dst is the caller's again when read
// returns, whatever hangs.
func (m *Member) read(ctx context.Context, name string, offset int64, dst []byte) error {
	return m.readCounted(ctx, name, offset, dst, func(int) {})
}

// readCounted is read that tells arrived of bytes as they come, those of
// attempts that fail included. It is called from one goroutine at a time.
func (m *Member) readCounted(ctx context.Context, name string, offset int64, dst []byte, arrived func(n int)) error {
	size := int64(len(dst))
	return m.transfer(ctx, answered, offset+size, dst, arrived, func(ctx context.Context) (io.ReadCloser, error) {
		return m.Target.Get(ctx, name, offset, size)
	})
}

// transfer fills dst from what open returns, of an object that ends at end or
// later. answered is as in attempt.
func (m *Member) transfer(ctx context.Context, answered func(error) bool, end int64, dst []byte, arrived func(n int), open func(ctx context.Context) (io.ReadCloser, error)) error {
	err := m.attempt(ctx, answered, func(ctx context.Context) error {
		lent := &loan{dst: dst, arrived: arrived}
		err := m.bounded(ctx, transferTime(len(dst)), func(ctx context.Context) error {
			return fill(ctx, end, lent, open)
		})
		lent.end()
		var slow net.Error
		if errors.As(err, &slow) && slow.Timeout() && ctx.Err() == nil {
			m.trip(err)
		}
		return err
	})
	if inner := errors.Unwrap(err); inner != nil {
		return inner
	}
	return err
}

func fill(ctx context.Context, end int64, to *loan, open func(ctx context.Context) (io.ReadCloser, error)) error {
	size := int64(len(to.dst))
	r, err := open(ctx)
	if err == nil {
		_, err = io.CopyBuffer(to, io.LimitReader(r, size), make([]byte, min(size, copyPiece)))
		if err == nil && int64(to.n) < size {
			err = io.ErrUnexpectedEOF
		}
		r.Close()
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("shorter than %d bytes: %w", end, err)
	}
	return err
}

// loan is a buffer that is filled by a call that may hang: once the loan has
// ended, nothing is written to it any more.
type loan struct {
	arrived func(n int)

	mu    sync.Mutex
	dst   []byte
	n     int
	ended bool
}

func (l *loan) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return 0, ErrHung
	}
	n := copy(l.dst[l.n:], p)
	l.n += n
	l.arrived(n)
	return n, nil
}

func (l *loan) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
}

// transferTime is the longest that so many bytes may take. A target that is
// slower serves nobody.
func transferTime(bytes int) time.Duration {
	return time.Minute + time.Duration(bytes)*time.Second/slowest
}

// put writes an object to one member. Whatever went wrong, a write may be
// tried again, but for what the target will never allow. When the error is
// ErrHung, data is lent for ever. A sample of what was put is read back, which
// the host cannot foresee.
func (m *Member) put(ctx context.Context, name string, data []byte, sum format.Hash) error {
	if err := m.store(ctx, name, data, sum); err != nil {
		return err
	}
	if rand.N(readBackOneIn) > 0 {
		return nil
	}
	from := rand.N(len(data))
	return m.keeps(ctx, name, data[from:min(from+readBackBytes, len(data))], int64(from))
}

// putKept is put that reads everything back.
func (m *Member) putKept(ctx context.Context, name string, data []byte, sum format.Hash) error {
	if err := m.store(ctx, name, data, sum); err != nil {
		return err
	}
	return m.keeps(ctx, name, data, 0)
}

func (m *Member) store(ctx context.Context, name string, data []byte, sum format.Hash) error {
	// That one write is denied says nothing about the next.
	done := func(err error) bool { return err == nil || errors.Is(err, targets.ErrDenied) }
	return m.attempt(ctx, done, func(ctx context.Context) error {
		start := time.Now()
		err := m.bounded(ctx, transferTime(len(data)), func(ctx context.Context) error {
			return m.Target.Put(ctx, targets.Object{Name: name, Data: data, SHA256: sum})
		})
		if err == nil {
			m.timed(len(data), time.Since(start))
		}
		return err
	})
}

// errOverwritten: an object that was just put is another one.
var errOverwritten = errors.New("gives other bytes than were put a moment ago: somebody with its credentials writes over them, or the store keeps what was there before")

// keeps reads back what was just put, and returns ErrDiscards when it is not
// there, and errOverwritten when it is something else, which needs no lie of the
// host. Credentials that may not read prove nothing.
func (m *Member) keeps(ctx context.Context, name string, want []byte, from int64) error {
	got := make([]byte, len(want))
	for try := 1; ; try++ {
		err := m.read(ctx, name, from, got)
		switch {
		case err == nil && bytes.Equal(got, want), errors.Is(err, targets.ErrDenied):
			return nil
		case err != nil && !answered(err):
			return fmt.Errorf("target %s: read back %s: %w", m.Name, name, err)
		case try == attempts && errors.Is(err, targets.ErrNotFound):
			m.tell(FaultDiscards, "", fmt.Errorf("%s: %w", name, ErrDiscards))
			return fmt.Errorf("target %s: %s: %w", m.Name, name, ErrDiscards)
		case try == attempts:
			m.tell(FaultAltered, name, fmt.Errorf("%w: embassy verify --repair mends it from another target", errOverwritten))
			return fmt.Errorf("target %s: %s: %w", m.Name, name, errOverwritten)
		}
		if err := sleep(ctx, time.Duration(try*try)*readBackPause); err != nil {
			return fmt.Errorf("target %s: %w", m.Name, err)
		}
	}
}

// stat asks for one object's size.
func (m *Member) stat(ctx context.Context, name string) (info targets.Info, err error) {
	err = m.do(ctx, func(ctx context.Context) error {
		var got targets.Info
		err := m.bounded(ctx, 0, func(ctx context.Context) (err error) {
			got, err = m.Target.Stat(ctx, name)
			return err
		})
		if err == nil {
			info = got
		}
		return err
	})
	return info, err
}

// bounded calls f, at most for limit unless that is 0; waiting for a limiter
// does not count, and too late is context.DeadlineExceeded. If f does not return
// hangGrace after its context has ended, bounded returns without it and bans
// the member: what f was lent is lent for ever.
func (m *Member) bounded(ctx context.Context, limit time.Duration, f func(ctx context.Context) error) error {
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = targets.Timeout(ctx, limit)
		defer cancel()
	}
	done := make(chan error, 1)
	go func() {
		err := f(ctx)
		if err != nil && context.Cause(ctx) == context.DeadlineExceeded && !errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("%w: %w", context.DeadlineExceeded, err)
		}
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	t := time.NewTimer(hangGrace)
	defer t.Stop()
	select {
	case err := <-done:
		return err
	case <-t.C:
		m.ban(ErrHung)
		return ErrHung
	}
}
