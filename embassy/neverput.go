package embassy

import (
	"context"
	"errors"
	"fmt"

	"embassy/embassy/format"
)

// An agent may list what it never put. No target lost that, and none is blamed:
// it is the fault of the chain.

// confirmed reports whether any target was ever seen to hold an object, or is
// blamed for it.
func (r *region) confirmed(name string, h format.Hash) (bool, error) {
	for _, m := range r.members {
		at, err := r.a.s.catalog.Placed(m.Name, h)
		blamed := !at.IsZero()
		for i := 0; i < len(contentFaults) && err == nil && !blamed; i++ {
			_, blamed, err = r.a.s.catalog.Fault(m.Name, contentFaults[i], name)
		}
		if err == nil && !blamed {
			_, blamed, err = r.a.s.catalog.Fault(m.Name, FaultMissing, untold)
		}
		if err != nil || blamed {
			return err == nil, err
		}
	}
	return false, nil
}

// unsound books that a line lists what nobody has. The machine that writes the
// line knows better, and stores it again.
func (l *line) unsound(name string) {
	if err := l.r.a.s.catalog.Note(lostKey(l.Chain), []byte(name)); err != nil {
		l.r.a.s.log.Error("note lost object", "object", name, "err", err)
	}
	l.r.a.s.fault("", FaultUnsound, l.object(),
		fmt.Errorf("it lists %s, which no target that answers has or was ever seen to have: the agent never put it, or it was lost before this machine looked", name))
}

// neverPut reports whether an object that is not listed is one that no target
// has or was seen to have, and books that. Of a line that lists many such, the
// others are not asked for.
func (t *audit) neverPut(ctx context.Context, o thing) (bool, error) {
	if o.r == nil || o.entry() {
		return false, nil
	}
	if there, err := o.r.confirmed(o.name, o.hash); err != nil || there {
		return false, err
	}
	l := o.by[0].l
	if l.madeUp.Load() < maxForged {
		if _, err := t.m.stat(ctx, o.name); err == nil {
			return false, nil
		}
		if err := t.elsewhere(ctx, o); !errors.Is(err, errNowhere) {
			if errors.Is(err, errNotMended) {
				err = nil
			}
			return false, err
		}
	}
	l.madeUp.Add(1)
	l.unsound(o.name)
	t.spoilt(o)
	return true, nil
}
