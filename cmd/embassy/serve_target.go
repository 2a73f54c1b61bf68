package main

import (
	"context"
	"errors"
	"io"
	"iter"
	"sync"
	"time"

	"embassy/embassy"
	"embassy/targets"
)

// lasting returns a member for a process that lives for months: a target that
// cannot be opened is tried again whenever it is used, and its traffic is
// counted.
func lasting(m *embassy.Member, open func() (targets.Target, error)) (*embassy.Member, *targets.Counter) {
	traffic := targets.NewCounter(&lastingTarget{open: open, opened: m.Target})
	return embassy.NewMember(m.Name, m.URL, m.Jurisdiction, traffic, nil, time.Now), traffic
}

// lastingTarget opens a target when it is first used. Safe for concurrent use.
type lastingTarget struct {
	open func() (targets.Target, error)

	mu     sync.Mutex
	opened targets.Target // nil: not yet
}

func (l *lastingTarget) target() (targets.Target, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.opened == nil {
		t, err := l.open()
		if err != nil {
			return nil, err
		}
		l.opened = t
	}
	return l.opened, nil
}

// judge forgets a directory that is gone: another disk may be mounted there
// when it is used again. It returns err.
func (l *lastingTarget) judge(t targets.Target, err error) error {
	if errors.Is(err, targets.ErrNoStore) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.opened == t {
			l.opened = nil
		}
	}
	return err
}

// Unwrap returns the target, or nil while it cannot be opened.
func (l *lastingTarget) Unwrap() targets.Target {
	t, err := l.target()
	if err != nil {
		return nil
	}
	return t
}

// Put implements targets.Target.
func (l *lastingTarget) Put(ctx context.Context, o targets.Object) error {
	t, err := l.target()
	if err == nil {
		err = l.judge(t, t.Put(ctx, o))
	}
	return err
}

// Get implements targets.Target.
func (l *lastingTarget) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	t, err := l.target()
	if err != nil {
		return nil, err
	}
	r, err := t.Get(ctx, name, offset, length)
	return r, l.judge(t, err)
}

// Stat implements targets.Target.
func (l *lastingTarget) Stat(ctx context.Context, name string) (targets.Info, error) {
	t, err := l.target()
	if err != nil {
		return targets.Info{}, err
	}
	info, err := t.Stat(ctx, name)
	return info, l.judge(t, err)
}

// List implements targets.Target.
func (l *lastingTarget) List(ctx context.Context, prefix string) iter.Seq2[targets.Info, error] {
	return func(yield func(targets.Info, error) bool) {
		t, err := l.target()
		if err != nil {
			yield(targets.Info{}, err)
			return
		}
		for info, err := range t.List(ctx, prefix) {
			if !yield(info, l.judge(t, err)) {
				return
			}
		}
	}
}

// Delete implements targets.Target.
func (l *lastingTarget) Delete(ctx context.Context, name string) error {
	t, err := l.target()
	if err != nil {
		return err
	}
	return l.judge(t, t.Delete(ctx, name))
}
