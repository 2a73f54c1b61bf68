package embassy

import (
	"context"
	"errors"
	"fmt"
	"io"

	"embassy/embassy/format"
	"embassy/targets"
)

// A host that denies one object must not hide the others with that: a denial is
// damage of the object as long as the target answers what else it is asked.

// refusal is an object that the target denied before it had given any.
type refusal struct {
	thing
	size  int64
	cause error
}

// refuse reports whether it is still open what a denial means. Credentials that
// may read nothing find no damage: that shows when nothing else is given either.
func (t *audit) refuse(o thing, size int64, cause error) (waits bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.out.Read > 0 {
		return false, nil
	}
	if t.refused = append(t.refused, refusal{o, size, cause}); len(t.refused) >= deniedEnough {
		err = t.unreadable()
	}
	return true, err
}

// unreadable is why an audit ends. t.mu is held.
func (t *audit) unreadable() error {
	return fmt.Errorf("target %s: these credentials can read none of %d objects: %w", t.m.Name, len(t.refused), targets.ErrDenied)
}

// denials deals with what was denied before anything was given.
func (t *audit) denials(ctx context.Context) error {
	t.mu.Lock()
	refused := t.refused
	if len(refused) > 0 && t.out.Read == 0 {
		defer t.mu.Unlock()
		return t.unreadable()
	}
	t.refused = nil
	t.mu.Unlock()
	for _, r := range refused {
		if err := t.bad(ctx, r.thing, FaultMissing, r.cause, r.size); err != nil {
			return err
		}
	}
	return nil
}

// asked returns the outcome of an operation on one object. That it is denied,
// while the target answers other questions, is an answer about the object.
func (t *audit) asked(ctx context.Context, err error) error {
	if !errors.Is(err, targets.ErrDenied) || t.m.Down() != nil {
		return err
	}
	probe(ctx, t.v.a.key.Nation, []*Member{t.m})
	if t.m.Down() != nil || ctx.Err() != nil {
		return err
	}
	return fmt.Errorf("%w: %w", errUnreadable, err)
}

// stat asks for one object's size.
func (t *audit) stat(ctx context.Context, name string) (info targets.Info, err error) {
	err = t.m.attempt(ctx, settled, func(ctx context.Context) error {
		var got targets.Info
		err := t.m.bounded(ctx, 0, func(ctx context.Context) (err error) {
			got, err = t.m.Target.Stat(ctx, name)
			return err
		})
		if err == nil {
			info = got
		}
		return err
	})
	return info, t.asked(ctx, err)
}

// fill reads an object from its beginning.
func (t *audit) fill(ctx context.Context, name string, dst []byte, arrived func(n int)) error {
	size := int64(len(dst))
	return t.asked(ctx, t.m.transfer(ctx, settled, size, dst, arrived, func(ctx context.Context) (io.ReadCloser, error) {
		return t.m.Target.Get(ctx, name, 0, size)
	}))
}

// digest reads an object, and returns its hash.
func (t *audit) digest(ctx context.Context, name string, size int64) (format.Hash, error) {
	sum, err := t.m.digest(ctx, name, size, t.arrived)
	return sum, t.asked(ctx, err)
}
