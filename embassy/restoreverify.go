package embassy

import (
	"context"
	"errors"
	"fmt"
	"path"
	"runtime"

	"golang.org/x/sync/errgroup"
)

// readBack reads the parts that this run wrote once more, from the disk where
// the system lets it, and fails the files of those that are not what they
// should be. What was written is durable. The error is of ctx.
func (w *restorer) readBack(ctx context.Context, parts []filePart) error {
	w.back.add(func(*Progress) {})
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, p := range parts {
		f := p.file
		f.mu.Lock()
		written := f.touched && f.err == nil
		f.mu.Unlock()
		if !written || ctx.Err() != nil {
			continue
		}
		g.Go(func() error {
			o := w.takeOpener()
			defer w.giveOpener(o)
			if err := w.readPart(ctx, p, o); err != nil {
				f.fail(err)
			}
			return nil
		})
	}
	return errors.Join(g.Wait(), ctx.Err())
}

// readPart reads a part again, and returns why it is not as it should be.
func (w *restorer) readPart(ctx context.Context, p filePart, o *opener) error {
	in, err := w.to.Open(path.Join(w.path(p.file.dir), p.file.work))
	if err != nil {
		return fmt.Errorf("read it back: %w", err)
	}
	defer in.Close()
	if err := forget(in); err != nil {
		return fmt.Errorf("read it back from the disk: %w", err)
	}
	info, err := in.Stat()
	if err != nil {
		return fmt.Errorf("read it back: %w", err)
	}
	jobs := w.jobs(p)
	wrong := w.wrong(ctx, in, jobs, o, w.back)
	switch {
	case ctx.Err() != nil:
		return nil // no answer
	case len(wrong) > 0:
		return fmt.Errorf("read back, it differs from what was written, at byte %d and %d more places: check the disk", wrong[0].at, len(wrong)-1)
	case uint64(info.Size()) != p.file.size:
		return fmt.Errorf("read back, it has %d bytes and not %d: check the disk", info.Size(), p.file.size)
	}
	var n uint64
	for _, j := range jobs {
		n += uint64(w.r.table.places[j.place].raw)
	}
	w.mu.Lock()
	w.d.ReadBack += n
	w.mu.Unlock()
	if p.last {
		w.back.add(func(p *Progress) { p.Files++ })
	}
	return nil
}

// rehearse says what would become of a window, and touches nothing.
func (w *restorer) rehearse(ctx context.Context, win *window) error {
	planned, err := w.lookInto(ctx, win.parts)
	if err != nil {
		return err
	}
	for i, p := range win.parts {
		f := p.file
		if f.dir.err != nil {
			f.fail(fmt.Errorf("its folder: %w", f.dir.err))
		}
		f.mu.Lock()
		f.touched = f.touched || len(planned[i]) > 0 || f.size == 0 && !f.existing && !f.trusted
		switch {
		case f.err == nil && !f.left:
			for _, j := range planned[i] {
				w.wrote.Add(uint64(w.r.table.places[j.place].raw))
			}
			if f.err = w.clear(f); f.err == nil && p.last {
				w.count(f)
			}
		case p.last && f.err == nil:
			w.leaveAsIs()
		case p.last:
			w.missing(f.src, f.err.Error())
		}
		f.mu.Unlock()
	}
	for _, l := range win.lates {
		there, left, err := w.stands(l)
		switch {
		case isDevice(l.kind) && !w.o.Privileged:
			w.leave(leftDevice, l.src())
		case left:
			w.leaveAsIs()
		case err == nil && !there:
			err = w.vacate(l.dir, l.src())
			fallthrough
		default:
			if err != nil {
				w.missing(l.src(), err.Error())
				continue
			}
			w.madeLate(l, there)
		}
	}
	for _, f := range win.closed {
		if f.err == nil {
			w.later(f)
			if f.parent != nil {
				w.d.Dirs++
			}
		}
	}
	return ctx.Err()
}
