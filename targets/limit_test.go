package targets_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"

	"embassy/targets"
	"embassy/targets/targettest"
)

const mib = 1 << 20

func limiters(l ...*targets.Limiter) []*targets.Limiter { return l }

// took returns how long f takes, by the clock of a bubble.
func took(t *testing.T, f func() error) time.Duration {
	t.Helper()
	start := time.Now()
	if err := f(); err != nil {
		t.Error(err)
	}
	return time.Since(start)
}

// about fails unless a time is what the rate says, but for the first piece,
// which is free.
func about(t *testing.T, what string, got, want time.Duration) {
	t.Helper()
	if got > want || got < want*9/10-100*time.Millisecond {
		t.Errorf("%s took %v, want about %v", what, got, want)
	}
}

func TestLimitContract(t *testing.T) {
	fast := limiters(targets.NewLimiter(1 << 40))
	targettest.Test(t, func(t *testing.T) targets.Target { return targets.Limit(targets.NewMem(), fast, fast) })
}

func TestLimitRates(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) targets.Target{
		"mem": func(*testing.T) targets.Target { return targets.NewMem() },
		"dir": func(t *testing.T) targets.Target { return openDir(t, t.TempDir()) },
		"below another": func(*testing.T) targets.Target {
			return targets.NewCounter(targets.Limit(&targets.Faulty{Target: targets.NewMem()}, limiters(targets.NewLimiter(8*mib)), nil))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := targets.Limit(open(t), limiters(nil, targets.NewLimiter(mib)), limiters(targets.NewLimiter(2*mib)))
				data := make([]byte, 4*mib)
				about(t, "a put of 4 MiB at 1 MiB/s", took(t, func() error { return l.Put(t.Context(), object("a", data)) }), 4*time.Second)
				about(t, "a get of 4 MiB at 2 MiB/s", took(t, func() error {
					body, err := l.Get(t.Context(), "a", 0, 4*mib)
					if err != nil {
						return err
					}
					n, err := io.Copy(io.Discard, body)
					if n != 4*mib {
						return errors.Join(err, fmt.Errorf("%d bytes", n))
					}
					return errors.Join(err, body.Close())
				}), 2*time.Second)
				if d := took(t, func() error { _, err := l.Stat(t.Context(), "a"); return err }); d != 0 {
					t.Errorf("Stat took %v", d)
				}
			})
		})
	}
}

// Bytes pass all the time, and not in one burst at the end or the beginning.
func TestLimitSteady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := targets.Limit(targets.NewMem(), nil, limiters(targets.NewLimiter(100_000)))
		if err := l.Put(t.Context(), object("a", make([]byte, 500_000))); err != nil {
			t.Fatal(err)
		}
		body, err := l.Get(t.Context(), "a", 0, 500_000)
		if err != nil {
			t.Fatal(err)
		}
		start, read := time.Now(), 0
		buf := make([]byte, 64<<10)
		for {
			n, err := body.Read(buf)
			read += n
			passed := time.Since(start).Seconds() * 100_000
			if float64(read) > passed+6000 || float64(read) < passed-1 {
				t.Fatalf("%d bytes after %v", read, time.Since(start))
			}
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if read != 500_000 {
			t.Errorf("read %d bytes", read)
		}
	})
}

// Targets share a limiter, and nobody is starved.
func TestLimitShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := limiters(targets.NewLimiter(mib))
		start := time.Now()
		var g errgroup.Group
		for range 4 {
			g.Go(func() error {
				err := targets.Limit(targets.NewMem(), up, nil).Put(t.Context(), object("a", make([]byte, mib)))
				if d := time.Since(start); d < 3*time.Second {
					err = errors.Join(err, fmt.Errorf("one of four was through after %v", d))
				}
				return err
			})
		}
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
		about(t, "four puts of 1 MiB at 1 MiB/s together", time.Since(start), 4*time.Second)
	})
}

func TestLimitCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := limiters(targets.NewLimiter(1000))
		m := targets.NewMem()
		l := targets.Limit(m, slow, slow)
		if err := m.Put(t.Context(), object("a", make([]byte, mib))); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		start := time.Now()
		if err := l.Put(ctx, object("b", make([]byte, mib))); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Put: %v", err)
		}
		if d := time.Since(start); d != 10*time.Second {
			t.Errorf("it ended after %v", d)
		}
		if _, err := m.Stat(t.Context(), "b"); !errors.Is(err, targets.ErrNotFound) {
			t.Errorf("Stat of what was cancelled: %v", err)
		}
	})
}

// The time that a limiter takes is not the store's.
func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := targets.Limit(targets.NewMem(), limiters(targets.NewLimiter(mib)), nil)
		ctx, cancel := targets.Timeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if err := l.Put(ctx, object("a", make([]byte, 10*mib))); err != nil {
			t.Error(err)
		}
		if d := time.Since(start); d < 9*time.Second || ctx.Err() != nil {
			t.Errorf("after %v: %v", d, ctx.Err())
		}
		start = time.Now()
		<-ctx.Done()
		if d := time.Since(start); d != time.Second || context.Cause(ctx) != context.DeadlineExceeded {
			t.Errorf("the context ended after %v more with %v", d, context.Cause(ctx))
		}
	})
}

func TestLimitUnwraps(t *testing.T) {
	m := targets.NewMemWith(targets.MemOptions{Versioning: true})
	fast := limiters(targets.NewLimiter(1 << 40))
	wrapped := targets.NewCounter(&targets.Faulty{Target: targets.Limit(m, fast, nil)})
	if v, ok := targets.As[targets.Versioned](wrapped); !ok || v != targets.Versioned(m) {
		t.Errorf("As found %v", v)
	}
	if _, ok := targets.As[targets.Locker](openDir(t, t.TempDir())); ok {
		t.Error("a directory has locks")
	}
	if targets.Limit(m, limiters(nil, targets.NewLimiter(0)), nil) != targets.Target(m) {
		t.Error("no limit makes another target")
	}
}

// A put to S3 that is paced does not stall in the eyes of its own guard, and
// its body goes out as it is paced.
func TestS3LimitedPut(t *testing.T) {
	var mu sync.Mutex
	var first, last time.Time
	var got bytes.Buffer
	s := hostile(t, func(w http.ResponseWriter, r *http.Request) {
		buf := make([]byte, 4096)
		for {
			n, err := r.Body.Read(buf)
			mu.Lock()
			if last = time.Now(); first.IsZero() {
				first = last
			}
			got.Write(buf[:n])
			mu.Unlock()
			if err != nil {
				break
			}
		}
		s3Header(w)
	})
	// At 2 KiB/s every piece of 1 KiB takes half a second, and the guard's
	// patience is 0.3 s.
	l := targets.Limit(s, limiters(targets.NewLimiter(2<<10)), nil)
	data := bytes.Repeat([]byte("0123456789abcdef"), 5<<10/16)
	start := time.Now()
	if err := l.Put(t.Context(), object("a", data)); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d < 1900*time.Millisecond {
		t.Errorf("5 KiB at 2 KiB/s took %v", d)
	}
	mu.Lock()
	first, last = time.Time{}, time.Time{}
	got.Reset()
	mu.Unlock()
	l = targets.Limit(s, limiters(targets.NewLimiter(mib)), nil)
	data = bytes.Repeat([]byte("0123456789abcdef"), mib/16)
	if err := l.Put(t.Context(), object("a", data)); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if !bytes.Equal(got.Bytes(), data) {
		t.Errorf("%d bytes arrived, or other ones", got.Len())
	}
	if span := last.Sub(first); span < 700*time.Millisecond {
		t.Errorf("1 MiB at 1 MiB/s arrived within %v", span)
	}
}

// A paced put ends at once when it is cancelled.
func TestS3LimitedPutCancelled(t *testing.T) {
	s := hostile(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		s3Header(w)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	err := targets.Limit(s, limiters(targets.NewLimiter(1)), nil).Put(ctx, object("a", make([]byte, 100_000)))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Put: %v", err)
	}
	if d := time.Since(start); d > 30*time.Second {
		t.Errorf("it ended after %v", d)
	}
}
