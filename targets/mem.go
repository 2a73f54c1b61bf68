package targets

import (
	"bytes"
	"context"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Mem is a target in memory, for tests. It keeps copies and does not check
// hashes, so a test can plant any bytes under any name.
type Mem struct {
	mu      sync.RWMutex
	objects map[string]memObject
}

type memObject struct {
	data     []byte // never modified once stored
	modified time.Time
}

// NewMem returns an empty target.
func NewMem() *Mem { return &Mem{objects: make(map[string]memObject)} }

// Put implements Target.
func (m *Mem) Put(ctx context.Context, o Object) error {
	if err := firstErr(CheckName(o.Name), ctx.Err()); err != nil {
		return failed("put", err)
	}
	stored := memObject{data: bytes.Clone(o.Data), modified: time.Now()}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.objects[o.Name] = stored
	return nil
}

// Get implements Target.
func (m *Mem) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	o, err := m.find(ctx, name, checkRange(name, offset, length))
	if err != nil {
		return nil, failed("get", err)
	}
	rest := bytes.NewReader(o.data[min(offset, int64(len(o.data))):])
	return &exactReader{ctx: ctx, body: io.NopCloser(rest), left: length}, nil
}

// Stat implements Target.
func (m *Mem) Stat(ctx context.Context, name string) (Info, error) {
	o, err := m.find(ctx, name, CheckName(name))
	if err != nil {
		return Info{}, failed("stat", err)
	}
	return o.info(name), nil
}

// List implements Target.
func (m *Mem) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		err := checkPrefix(prefix)
		if err == nil {
			for _, info := range m.snapshot(prefix) {
				if err = ctx.Err(); err != nil {
					break
				}
				if !yield(info, nil) {
					return
				}
			}
		}
		if err := firstErr(err, ctx.Err()); err != nil {
			yield(Info{}, failed("list", err))
		}
	}
}

// Delete implements Target.
func (m *Mem) Delete(ctx context.Context, name string) error {
	if err := firstErr(CheckName(name), ctx.Err()); err != nil {
		return failed("delete", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, name)
	return nil
}

func (m *Mem) find(ctx context.Context, name string, invalid error) (memObject, error) {
	if err := firstErr(invalid, ctx.Err()); err != nil {
		return memObject{}, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	o, ok := m.objects[name]
	if !ok {
		return memObject{}, ErrNotFound
	}
	return o, nil
}

func (m *Mem) snapshot(prefix string) []Info {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var infos []Info
	for _, name := range slices.Sorted(maps.Keys(m.objects)) {
		if strings.HasPrefix(name, prefix) {
			infos = append(infos, m.objects[name].info(name))
		}
	}
	return infos
}

func (o memObject) info(name string) Info {
	return Info{Name: name, Size: int64(len(o.data)), Modified: o.modified}
}

func firstErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
