package embassy_test

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync"

	"embassy/targets"
)

// lateLoader is a client that puts a ledger entry before the packs: it says
// that a pack is there, and puts it only after the next entry.
type lateLoader struct {
	targets.Target
	mu   sync.Mutex
	held map[string]targets.Object
}

func (l *lateLoader) Put(ctx context.Context, o targets.Object) error {
	if strings.Contains(o.Name, "/pack/") {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.held == nil {
			l.held = map[string]targets.Object{}
		}
		l.held[o.Name] = targets.Object{Name: o.Name, Data: bytes.Clone(o.Data), SHA256: o.SHA256}
		return nil
	}
	if err := l.Target.Put(ctx, o); err != nil || !strings.Contains(o.Name, "/ledger/") {
		return err
	}
	l.mu.Lock()
	late := l.held
	l.held = nil
	l.mu.Unlock()
	for _, o := range late {
		if err := l.Target.Put(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

func (l *lateLoader) Stat(ctx context.Context, name string) (targets.Info, error) {
	l.mu.Lock()
	o, ok := l.held[name]
	l.mu.Unlock()
	if ok {
		return targets.Info{Name: name, Size: int64(len(o.Data))}, nil
	}
	return l.Target.Stat(ctx, name)
}

func (l *lateLoader) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	l.mu.Lock()
	o, ok := l.held[name]
	l.mu.Unlock()
	if ok {
		return io.NopCloser(bytes.NewReader(o.Data[offset:min(offset+length, int64(len(o.Data)))])), nil
	}
	return l.Target.Get(ctx, name, offset, length)
}

// earlyDeleter is a client that takes a pack for unused that is not: every
// third entry costs the first pack.
type earlyDeleter struct {
	targets.Target
	mu      sync.Mutex
	entries int
}

func (d *earlyDeleter) Put(ctx context.Context, o targets.Object) error {
	if err := d.Target.Put(ctx, o); err != nil || !strings.Contains(o.Name, "/ledger/") {
		return err
	}
	d.mu.Lock()
	d.entries++
	keep := d.entries%3 > 0
	d.mu.Unlock()
	if keep {
		return nil
	}
	for info, err := range d.Target.List(ctx, "") {
		if err != nil {
			return err
		}
		if strings.Contains(info.Name, "/pack/") {
			return d.Target.Delete(ctx, info.Name)
		}
	}
	return nil
}

// rashConfirmer is a client that takes a put for done that never was: every
// third pack.
type rashConfirmer struct {
	targets.Target
	mu    sync.Mutex
	packs int
}

func (c *rashConfirmer) Put(ctx context.Context, o targets.Object) error {
	if strings.Contains(o.Name, "/pack/") {
		c.mu.Lock()
		c.packs++
		skip := c.packs%3 == 0
		c.mu.Unlock()
		if skip {
			return nil
		}
	}
	return c.Target.Put(ctx, o)
}
