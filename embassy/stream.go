package embassy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"embassy/embassy/child"
	"embassy/embassy/config"
	"embassy/embassy/format"
)

// ErrEmptyInput: the input of a backup ended before its first byte.
var ErrEmptyInput = errors.New("the input was empty, as that of a pipe is whose program failed")

// inputOf returns what opens the only file of a dataset that is the output of
// a command, or the input of the backup; nil for one of folders and files.
func inputOf(ctx context.Context, d config.Dataset, stdin io.Reader) func() (io.ReadCloser, error) {
	switch {
	case !d.Command.IsZero():
		return func() (io.ReadCloser, error) {
			return child.Command{
				Args: d.Command.Args, Timeout: d.Command.Timeout, Env: child.Inherited("EMBASSY_DATASET=" + d.Name),
			}.Stream(ctx)
		}
	case d.Stdin && stdin != nil:
		return func() (io.ReadCloser, error) { return newInput(ctx, stdin), nil }
	case d.Stdin:
		return func() (io.ReadCloser, error) {
			return nil, errors.New("it is backed up from an input, and there is none")
		}
	}
	return nil
}

// input reads what can only be read blocking, until its context ends.
type input struct {
	*io.PipeReader
	stop func() bool
	some bool // it gave a byte
}

func newInput(ctx context.Context, from io.Reader) *input {
	r, w := io.Pipe()
	// After the context ended it lives until its next byte, or as long as the
	// process: nothing ends a read of a pipe that blocks.
	go func() {
		_, err := io.Copy(w, from)
		w.CloseWithError(err)
	}()
	return &input{PipeReader: r, stop: context.AfterFunc(ctx, func() { r.CloseWithError(ctx.Err()) })}
}

func (i *input) Read(p []byte) (int, error) {
	n, err := i.PipeReader.Read(p)
	if i.some = i.some || n > 0; err == io.EOF && !i.some {
		err = ErrEmptyInput
	}
	return n, err
}

func (i *input) Close() error {
	i.stop()
	return i.PipeReader.Close()
}

// stream builds the tree of one file of that name, which is read to its end
// once. What it does not give to the end gives no tree.
func (w *walk) stream(name string, started time.Time, open func() (io.ReadCloser, error)) (format.Content, error) {
	w.counts.sourcesFound = 1
	t := format.NewTreeBuilder(w.putTree)
	if w.dry {
		return t.Finish()
	}
	p := &pendingFile{open: func() (io.ReadCloser, error) {
		r, err := open()
		if err != nil {
			return nil, sourceError{err}
		}
		return sourceReader{r, &w.seen.bytes}, nil
	}}
	if err := w.store.submit(w.ctx, p); err != nil {
		return format.Content{}, err
	}
	<-p.done
	var fault sourceError
	if errors.As(p.err, &fault) {
		return format.Content{}, fault.error
	}
	if p.err != nil {
		return format.Content{}, fmt.Errorf("store %s: %w", name, p.err)
	}
	c, err := format.BuildContent(p.size, p.ids, w.putTree)
	if err != nil {
		return format.Content{}, err
	}
	w.counts.files, w.counts.fresh, w.counts.bytes, w.counts.read = 1, 1, p.size, p.size
	w.seen.files.Add(1)
	n := w.own()
	n.Type, n.Name, n.Mode, n.Content = format.File, []byte(name), 0o600, &c
	n.Sec, n.Nsec = started.Unix(), uint32(started.Nanosecond())
	if err := t.Add(&n); err != nil {
		return format.Content{}, err
	}
	return t.Finish()
}
