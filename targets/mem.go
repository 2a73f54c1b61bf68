package targets

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"
)

// Mem is a target in memory, for tests. It keeps copies and does not check
// hashes, so a test can plant any bytes under any name. The ids of versions
// are numbers in the order of their making.
type Mem struct {
	opts MemOptions

	mu      sync.RWMutex
	objects map[string][]memVersion // oldest first; never empty
	made    int                     // versions
}

// MemOptions say what a Mem can do, and what its user may.
type MemOptions struct {
	Versioning bool             // keeps what is overwritten or deleted
	Locks      bool             // objects can be locked; implies Versioning
	LockMode   string           // of the lock that every new object gets; implies Locks
	LockFor    time.Duration    // of that lock
	NoDelete   bool             // Delete and DeleteVersion are denied
	NoBypass   bool             // weakening a governance lock is denied
	Now        func() time.Time // nil: time.Now
}

type memVersion struct {
	data     []byte // never modified once stored
	modified time.Time
	id       string
	marker   bool
	lock     Lock
}

// NewMem returns an empty target that keeps no versions and has no locks.
func NewMem() *Mem { return NewMemWith(MemOptions{}) }

// NewMemWith returns an empty target with these powers.
func NewMemWith(o MemOptions) *Mem {
	o.Locks = o.Locks || o.LockMode != ""
	o.Versioning = o.Versioning || o.Locks
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Mem{opts: o, objects: make(map[string][]memVersion)}
}

// Put implements Target.
func (m *Mem) Put(ctx context.Context, o Object) error {
	_, err := m.put(ctx, o, false)
	return failed("put", err)
}

// PutNew implements Inspected.
func (m *Mem) PutNew(ctx context.Context, o Object) (created bool, err error) {
	created, err = m.put(ctx, o, true)
	return created, failed("put new", err)
}

func (m *Mem) put(ctx context.Context, o Object, fresh bool) (stored bool, err error) {
	if err := firstErr(CheckName(o.Name), ctx.Err()); err != nil {
		return false, err
	}
	if len(o.pace) > 0 && len(o.Data) > 0 {
		for step := range slices.Chunk(o.Data, o.pace.piece(len(o.Data))) {
			if err := o.pace.wait(ctx, len(step)); err != nil {
				return false, err
			}
		}
	}
	v := memVersion{data: bytes.Clone(o.Data), modified: m.opts.Now()}
	if m.opts.LockMode != "" {
		v.lock = Lock{Mode: m.opts.LockMode, Until: v.modified.Add(m.opts.LockFor)}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.newest(o.Name); fresh && err == nil {
		return false, nil
	}
	m.add(o.Name, v)
	return true, nil
}

// add makes a version the newest of its name.
func (m *Mem) add(name string, v memVersion) {
	if !m.opts.Versioning {
		v.id = NullVersion
		m.objects[name] = []memVersion{v}
		return
	}
	m.made++
	v.id = fmt.Sprint(m.made)
	m.objects[name] = append(m.objects[name], v)
}

// Get implements Target.
func (m *Mem) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	o, err := m.find(ctx, name, checkRange(name, offset, length))
	if err != nil {
		return nil, failed("get", err)
	}
	return o.read(ctx, offset, length), nil
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
		for v, err := range m.Versions(ctx, prefix) {
			if (err != nil || v.Latest && !v.Marker) && !yield(v.Info, err) {
				return
			}
		}
	}
}

// Delete implements Target. With versions it hides the object.
func (m *Mem) Delete(ctx context.Context, name string) error {
	if err := firstErr(CheckName(name), ctx.Err(), m.mayDelete()); err != nil {
		return failed("delete", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.newest(name); err != nil {
		return nil
	}
	if m.opts.Versioning {
		m.add(name, memVersion{modified: m.opts.Now(), marker: true})
	} else {
		delete(m.objects, name)
	}
	return nil
}

func (m *Mem) mayDelete() error {
	if m.opts.NoDelete {
		return ErrDenied
	}
	return nil
}

// Versions implements Versioned.
func (m *Mem) Versions(ctx context.Context, prefix string) iter.Seq2[Version, error] {
	return func(yield func(Version, error) bool) {
		err := checkPrefix(prefix)
		if err == nil {
			for _, v := range m.snapshot(prefix) {
				if err = ctx.Err(); err != nil {
					break
				}
				if !yield(v, nil) {
					return
				}
			}
		}
		if err := firstErr(err, ctx.Err()); err != nil {
			yield(Version{}, failed("list", err))
		}
	}
}

// GetVersion implements Versioned.
func (m *Mem) GetVersion(ctx context.Context, name, id string, offset, length int64) (io.ReadCloser, error) {
	if err := firstErr(checkRange(name, offset, length), checkVersion(id), ctx.Err()); err != nil {
		return nil, failed("get version", err)
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	i := m.version(name, id)
	if i < 0 || m.objects[name][i].marker {
		return nil, failed("get version", ErrNotFound)
	}
	return m.objects[name][i].read(ctx, offset, length), nil
}

// DeleteVersion implements Versioned. A missing version is not an error.
func (m *Mem) DeleteVersion(ctx context.Context, name, id string) error {
	if err := firstErr(CheckName(name), checkVersion(id), ctx.Err(), m.mayDelete()); err != nil {
		return failed("delete version", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	i := m.version(name, id)
	if i < 0 {
		return nil
	}
	if m.locked(m.objects[name][i].lock) {
		return failed("delete version", fmt.Errorf("%w: the version is locked", ErrDenied))
	}
	if m.objects[name] = slices.Delete(m.objects[name], i, i+1); len(m.objects[name]) == 0 {
		delete(m.objects, name)
	}
	return nil
}

// LockOf implements Locker.
func (m *Mem) LockOf(ctx context.Context, name string) (Lock, error) {
	v, err := m.find(ctx, name, CheckName(name))
	return v.lock, failed("read lock", err)
}

// SetLock implements Locker. The zero Lock removes one.
func (m *Mem) SetLock(ctx context.Context, name string, l Lock) error {
	if err := firstErr(CheckName(name), checkLock(l), ctx.Err()); err != nil {
		return failed("lock", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	v, err := m.newest(name)
	if err != nil {
		return failed("lock", err)
	}
	weaker := l.Until.Before(v.lock.Until) || v.lock.Mode == "compliance" && l.Mode != "compliance"
	switch {
	case !m.opts.Locks:
		err = fmt.Errorf("%w: no locks here", ErrDenied)
	case m.locked(v.lock) && weaker && (v.lock.Mode == "compliance" || m.opts.NoBypass):
		err = fmt.Errorf("%w: the object is locked", ErrDenied)
	default:
		v.lock = l
	}
	return failed("lock", err)
}

func (m *Mem) locked(l Lock) bool { return l.Until.After(m.opts.Now()) }

// Features implements Inspected.
func (m *Mem) Features(ctx context.Context) (Features, error) {
	if err := ctx.Err(); err != nil {
		return Features{}, failed("inspect", err)
	}
	o := m.opts
	return Features{Versioning: o.Versioning, Locks: o.Locks, DefaultMode: o.LockMode, DefaultFor: o.LockFor,
		Clock: o.Now().Truncate(time.Second)}, nil
}

func (m *Mem) find(ctx context.Context, name string, invalid error) (memVersion, error) {
	if err := firstErr(invalid, ctx.Err()); err != nil {
		return memVersion{}, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	v, err := m.newest(name)
	if err != nil {
		return memVersion{}, err
	}
	return *v, nil
}

// newest returns what Get sees.
func (m *Mem) newest(name string) (*memVersion, error) {
	all := m.objects[name]
	if len(all) == 0 || all[len(all)-1].marker {
		return nil, ErrNotFound
	}
	return &all[len(all)-1], nil
}

// version returns the place of a version, or -1.
func (m *Mem) version(name, id string) int {
	return slices.IndexFunc(m.objects[name], func(v memVersion) bool { return v.id == id })
}

func (m *Mem) snapshot(prefix string) []Version {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var names []string
	for name := range m.objects {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var out []Version
	for _, name := range names {
		all := m.objects[name]
		for i, v := range slices.Backward(all) {
			out = append(out, Version{Info: v.info(name), ID: v.id, Latest: i == len(all)-1, Marker: v.marker})
		}
	}
	return out
}

func (v memVersion) info(name string) Info {
	return Info{Name: name, Size: int64(len(v.data)), Modified: v.modified}
}

func (v memVersion) read(ctx context.Context, offset, length int64) io.ReadCloser {
	rest := bytes.NewReader(v.data[min(offset, int64(len(v.data))):])
	return &exactReader{ctx: ctx, body: io.NopCloser(rest), left: length}
}

func firstErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
