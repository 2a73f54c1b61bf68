package targets

import (
	"context"
	"io"
	"iter"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	minPiece = 1 << 10
	maxPiece = 256 << 10
)

// Limiter is a rate that any number of targets may share. All are served in
// the order in which they ask.
type Limiter struct {
	rate  *rate.Limiter
	piece int // bytes that may pass at once
}

// NewLimiter returns a limiter of so many bytes a second, or nil, which limits
// nothing, when that is 0. Not more than a twentieth of a second's bytes pass
// at once, but at least 1 KiB and at most 256 KiB.
func NewLimiter(bytesPerSecond int64) *Limiter {
	if bytesPerSecond <= 0 {
		return nil
	}
	piece := int(min(max(bytesPerSecond/20, minPiece), maxPiece))
	return &Limiter{rate.NewLimiter(rate.Limit(bytesPerSecond), piece), piece}
}

// Limit returns t with the bytes of objects paced: those that Put sends by all
// of up, those that Get yields by all of down, as they go and not in one burst.
// Nil limiters do not count. What is asked through As is not paced. A target of
// another package is paced if it hands the Object that it was given to one of
// this.
func Limit(t Target, up, down []*Limiter) Target {
	l := &limited{Target: t, up: newPace(up), down: newPace(down)}
	if len(l.up) == 0 && len(l.down) == 0 {
		return t
	}
	return l
}

type limited struct {
	Target
	up, down pace
}

// Unwrap returns what is limited.
func (l *limited) Unwrap() Target { return l.Target }

// Put implements Target.
func (l *limited) Put(ctx context.Context, o Object) error {
	o.pace = slices.Concat(o.pace, l.up)
	return l.Target.Put(ctx, o)
}

// Get implements Target.
func (l *limited) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	body, err := l.Target.Get(ctx, name, offset, length)
	if err != nil {
		return nil, err
	}
	return &pacedReader{body, ctx, l.down}, nil
}

// ListAfter implements Sought as far as the wrapped target does: names are not limited.
func (l *limited) ListAfter(ctx context.Context, prefix, after string) iter.Seq2[Info, error] {
	return ListAfter(ctx, l.Target, prefix, after)
}

type pacedReader struct {
	io.ReadCloser
	ctx  context.Context // of the Get that made it
	pace pace
}

func (r *pacedReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p[:r.pace.piece(len(p))])
	if wait := r.pace.wait(r.ctx, n); err == nil {
		err = wait
	}
	return n, err
}

// pace is what the bytes of one object have to keep to. None is no limit.
type pace []*Limiter

func newPace(limiters []*Limiter) pace {
	return slices.DeleteFunc(slices.Clone(limiters), func(l *Limiter) bool { return l == nil })
}

// piece returns how many of n bytes may go at once.
func (p pace) piece(n int) int {
	for _, l := range p {
		n = min(n, l.piece)
	}
	return n
}

// wait returns when a piece of n bytes may go.
func (p pace) wait(ctx context.Context, n int) error {
	if len(p) == 0 {
		return nil
	}
	now := time.Now()
	var longest time.Duration
	var taken []*rate.Reservation
	for _, l := range p {
		r := l.rate.ReserveN(now, n)
		taken = append(taken, r)
		longest = max(longest, r.DelayFrom(now))
	}
	if longest == 0 {
		return ctx.Err()
	}
	defer pause(ctx)()
	t := time.NewTimer(longest)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		for _, r := range taken {
			r.Cancel()
		}
		return ctx.Err()
	}
}

// Timeout is context.WithTimeout, except that the time that an operation under
// it waits for a Limiter does not count: it is no fault of the store. When the
// time is over the context's cause is context.DeadlineExceeded.
func Timeout(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	s := &stopwatch{left: limit, started: time.Now()}
	s.timer = time.AfterFunc(limit, func() { cancel(context.DeadlineExceeded) })
	return context.WithValue(ctx, stopwatchKey{}, s), func() {
		s.timer.Stop()
		cancel(nil)
	}
}

// stopwatch stands still while anything under its context waits.
type stopwatch struct {
	mu      sync.Mutex
	timer   *time.Timer
	left    time.Duration // when it started
	started time.Time
	waiting int
}

type stopwatchKey struct{}

// pause stops the stopwatch of the context, if it has one, until resume.
func pause(ctx context.Context) (resume func()) {
	s, ok := ctx.Value(stopwatchKey{}).(*stopwatch)
	if !ok {
		return func() {}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting++; s.waiting == 1 {
		s.timer.Stop()
		s.left -= time.Since(s.started)
	}
	return s.resume
}

func (s *stopwatch) resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting--; s.waiting == 0 {
		s.started = time.Now()
		s.timer.Reset(max(s.left, 0))
	}
}
