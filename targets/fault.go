package targets

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync/atomic"
)

// Op is one method of Target.
type Op int

// The methods of Target.
const (
	OpPut Op = iota
	OpGet
	OpStat
	OpList
	OpDelete
	opCount
)

func (op Op) String() string {
	return [opCount]string{"put", "get", "stat", "list", "delete"}[op]
}

// Faulty is a Target that can be told to fail. Its fields are set before its
// first use; a nil hook does nothing. Hooks are called concurrently. For List,
// the name is the prefix. Only the methods of Target fail: what is asked of
// the wrapped target through As goes past the hooks.
type Faulty struct {
	Target
	// Before runs before an operation. Its error is returned, and the
	// operation does not happen: "failed".
	Before func(op Op, name string) error
	// After runs after an operation that succeeded. Its error is returned,
	// though the operation happened: "failed but persisted". For Get and List
	// that is after the last byte or entry.
	After func(op Op, name string) error
	// Data may replace the bytes that Get returns; it may modify the given
	// ones. More bytes than were asked for are cut off; fewer end in
	// io.ErrUnexpectedEOF, as those of any store do.
	Data func(name string, offset int64, data []byte) []byte
}

// Unwrap returns the target that works.
func (f *Faulty) Unwrap() Target { return f.Target }

// Put implements Target.
func (f *Faulty) Put(ctx context.Context, o Object) error {
	return f.around(OpPut, o.Name, func() error { return f.Target.Put(ctx, o) })
}

// Get implements Target.
func (f *Faulty) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	if err := run(f.Before, OpGet, name); err != nil {
		return nil, err
	}
	body, err := f.Target.Get(ctx, name, offset, length)
	if err != nil {
		return nil, err
	}
	if f.Data != nil {
		if body, err = f.replace(ctx, body, name, offset, length); err != nil {
			return nil, err
		}
	}
	return &faultyReader{ReadCloser: body, end: func() error { return run(f.After, OpGet, name) }}, nil
}

// replace reads what there is of the range and returns what Data makes of it.
func (f *Faulty) replace(ctx context.Context, body io.ReadCloser, name string, offset, length int64) (io.ReadCloser, error) {
	data, err := io.ReadAll(body)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	if err := errors.Join(err, body.Close()); err != nil {
		return nil, fmt.Errorf("get %s: %w", name, err)
	}
	data = f.Data(name, offset, data)
	return &exactReader{ctx: ctx, body: io.NopCloser(bytes.NewReader(data)), left: length}, nil
}

// Stat implements Target.
func (f *Faulty) Stat(ctx context.Context, name string) (info Info, err error) {
	err = f.around(OpStat, name, func() error {
		info, err = f.Target.Stat(ctx, name)
		return err
	})
	return info, err
}

// List implements Target.
func (f *Faulty) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		if err := run(f.Before, OpList, prefix); err != nil {
			yield(Info{}, err)
			return
		}
		for info, err := range f.Target.List(ctx, prefix) {
			if !yield(info, err) || err != nil {
				return
			}
		}
		if err := run(f.After, OpList, prefix); err != nil {
			yield(Info{}, err)
		}
	}
}

// Delete implements Target.
func (f *Faulty) Delete(ctx context.Context, name string) error {
	return f.around(OpDelete, name, func() error { return f.Target.Delete(ctx, name) })
}

func (f *Faulty) around(op Op, name string, do func() error) error {
	if err := run(f.Before, op, name); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	return run(f.After, op, name)
}

func run(hook func(Op, string) error, op Op, name string) error {
	if hook == nil {
		return nil
	}
	return hook(op, name)
}

type faultyReader struct {
	io.ReadCloser
	end func() error
}

func (r *faultyReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if err == io.EOF {
		if fault := r.end(); fault != nil {
			err = fault
		}
	}
	return n, err
}

// Counter is a Target that counts the calls of the methods of Target. What is
// asked of the wrapped target through As is not counted.
type Counter struct {
	Target
	ops [opCount]struct{ calls, bytes atomic.Int64 }
}

// NewCounter returns a counter at zero around a target.
func NewCounter(t Target) *Counter { return &Counter{Target: t} }

// Unwrap returns the target that is counted.
func (c *Counter) Unwrap() Target { return c.Target }

// Calls returns how often the operation was called, failures included.
func (c *Counter) Calls(op Op) int64 { return c.ops[op].calls.Load() }

// Bytes returns the bytes of objects that the operation moved: those of
// successful Puts, and those read from Get. Other operations move none.
func (c *Counter) Bytes(op Op) int64 { return c.ops[op].bytes.Load() }

// Put implements Target.
func (c *Counter) Put(ctx context.Context, o Object) error {
	c.ops[OpPut].calls.Add(1)
	err := c.Target.Put(ctx, o)
	if err == nil {
		c.ops[OpPut].bytes.Add(int64(len(o.Data)))
	}
	return err
}

// Get implements Target.
func (c *Counter) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	c.ops[OpGet].calls.Add(1)
	body, err := c.Target.Get(ctx, name, offset, length)
	if err != nil {
		return nil, err
	}
	return &countedReader{body, &c.ops[OpGet].bytes}, nil
}

// Stat implements Target.
func (c *Counter) Stat(ctx context.Context, name string) (Info, error) {
	c.ops[OpStat].calls.Add(1)
	return c.Target.Stat(ctx, name)
}

// List implements Target. A listing is counted when it is run.
func (c *Counter) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		c.ops[OpList].calls.Add(1)
		c.Target.List(ctx, prefix)(yield)
	}
}

// Delete implements Target.
func (c *Counter) Delete(ctx context.Context, name string) error {
	c.ops[OpDelete].calls.Add(1)
	return c.Target.Delete(ctx, name)
}

type countedReader struct {
	io.ReadCloser
	bytes *atomic.Int64
}

func (r *countedReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.bytes.Add(int64(n))
	return n, err
}
