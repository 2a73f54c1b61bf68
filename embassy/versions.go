package embassy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"
	"time"

	"embassy/embassy/format"
	"embassy/targets"
)

// Where a store keeps versions, what was overwritten or deleted is still there:
// it is read by the version whose hash matches. All of that is here.

const (
	maxOlder        = 64        // versions of one object that are read
	maxOlderListed  = 10_000    // that are looked at
	maxHiddenListed = 1 << 19   // versions of one listing
	versionsFor     = time.Hour // before a store is asked again whether it keeps versions
	evidenceIn      = 1000      // versions that are looked at for that
)

// versionPower is what is known of a target's versions.
type versionPower struct {
	mu    sync.Mutex
	kept  bool
	until time.Time // when it is asked again
}

// olderRead is what a person is told when an older version was read.
func olderRead(cause error) error {
	return fmt.Errorf("its newest version is not the object (%w), an older version was read: put it right with embassy verify --repair", cause)
}

// readWhole fills dst with the object of that hash. old, if not nil, says why
// an older version had to be read. The errors do not name the member.
func (m *Member) readWhole(ctx context.Context, name string, want format.Hash, dst []byte, arrived func(n int)) (old, err error) {
	err = m.readCounted(ctx, name, 0, dst, arrived)
	if err == nil && format.HashOf(dst) != want {
		err = errBadCopy
	}
	if err == nil {
		return nil, nil
	}
	room := func(int64) []byte { return dst }
	_, old, err = m.older(ctx, name, want, err, int64(len(dst)), int64(len(dst)), room, arrived)
	return old, err
}

// readSized returns the object of that hash, of which nobody but the target
// says how large it is: at most most bytes. old is as in readWhole.
func (m *Member) readSized(ctx context.Context, name string, want format.Hash, size, most int64) (data []byte, old, err error) {
	if size < 1 || size > most {
		err = fmt.Errorf("%w: %d bytes", format.ErrMalformed, size)
	} else {
		data = make([]byte, size)
		if err = m.read(ctx, name, 0, data); err == nil && format.HashOf(data) != want {
			err = errBadCopy
		}
	}
	if err == nil {
		return data, nil, nil
	}
	room := func(size int64) []byte { return make([]byte, size) }
	return m.older(ctx, name, want, err, 1, most, room, func(int) {})
}

// older reads the object from a version of least to most bytes that the target
// keeps, after its newest one turned out, for a cause, not to be it. room returns
// the buffer for a version. When none is the object, the error is the cause.
//
// An object is written once, so its first version is most likely to be it: the
// oldest are read first, however many somebody has put on top.
func (m *Member) older(ctx context.Context, name string, want format.Hash, cause error, least, most int64, room func(size int64) []byte, arrived func(n int)) (data []byte, old, err error) {
	if !answered(cause) && !errors.Is(cause, format.ErrMalformed) {
		return nil, nil, cause
	}
	store := m.versioned(ctx, name)
	if store == nil {
		return nil, nil, cause
	}
	for _, v := range slices.Backward(m.versionsOf(ctx, store, name, least, most)) {
		data := room(v.Size)
		err := m.transfer(ctx, settled, v.Size, data, arrived, func(ctx context.Context) (io.ReadCloser, error) {
			return store.GetVersion(ctx, name, v.ID, 0, v.Size)
		})
		switch {
		case err == nil && format.HashOf(data) == want:
			return data, olderRead(cause), nil
		case errors.Is(err, targets.ErrDenied):
			m.versionsFailed(ctx, err)
			return nil, nil, cause
		case err != nil && !answered(err):
			return nil, nil, err // the target failed; it may be asked again
		}
	}
	return nil, nil, cause
}

// versionsOf returns the versions of an object that have from least to most
// bytes, newest first. Of more than maxOlder it returns as many of the newest as
// of the oldest.
func (m *Member) versionsOf(ctx context.Context, store targets.Versioned, name string, least, most int64) []targets.Version {
	var found []targets.Version
	seen := 0
	for v, err := range store.Versions(ctx, name) {
		if err != nil {
			m.versionsFailed(ctx, err)
			break
		}
		if seen++; v.Name != name || seen > maxOlderListed {
			break
		}
		if v.Marker || v.Size < least || v.Size > most {
			continue
		}
		if found = append(found, v); len(found) > maxOlder {
			found = slices.Delete(found, maxOlder/2, maxOlder/2+1)
		}
	}
	return found
}

// remove deletes an object, from a store that keeps versions with all of them, the
// newest first. ErrDenied when the credentials may not, or a lock forbids it.
func (m *Member) remove(ctx context.Context, store targets.Versioned, name string) error {
	settled := func(err error) bool { return answered(err) || errors.Is(err, targets.ErrDenied) }
	return m.attempt(ctx, settled, func(ctx context.Context) error {
		return m.bounded(ctx, transferTime(0), func(ctx context.Context) error {
			if store == nil {
				return m.Target.Delete(ctx, name)
			}
			var ids []string
			for v, err := range store.Versions(ctx, name) {
				if err != nil {
					return err
				}
				if v.Name != name {
					break
				}
				ids = append(ids, v.ID)
			}
			for _, id := range ids {
				if err := store.DeleteVersion(ctx, name, id); err != nil && !errors.Is(err, targets.ErrNotFound) {
					return err
				}
			}
			return nil
		})
	})
}

// names is List of the target, and then, out of order, the names that a
// deletion hides.
func (m *Member) names(ctx context.Context, prefix string) iter.Seq2[targets.Info, error] {
	return func(yield func(targets.Info, error) bool) {
		for info, err := range m.Target.List(ctx, prefix) {
			if !yield(info, err) || err != nil {
				return
			}
		}
		for info := range m.hidden(ctx, prefix) {
			if !yield(info, nil) {
				return
			}
		}
	}
}

// hidden yields the names that a deletion hides, with the size of their newest
// version, if the target keeps versions. That they cannot be listed is no error:
// what List showed counts.
func (m *Member) hidden(ctx context.Context, prefix string) iter.Seq[targets.Info] {
	return func(yield func(targets.Info) bool) {
		store := m.versioned(ctx, prefix)
		if store == nil {
			return
		}
		hidden, seen := "", 0
		for v, err := range store.Versions(ctx, prefix) {
			if err != nil {
				m.versionsFailed(ctx, err)
				return
			}
			if seen++; seen > maxHiddenListed {
				return
			}
			switch {
			case v.Latest && v.Marker:
				hidden = v.Name
			case v.Name == hidden && !v.Marker:
				hidden = ""
				if !yield(v.Info) {
					return
				}
			}
		}
	}
}

// versioned returns the target's versions, or nil when it keeps none or does
// not show them to these credentials. It is asked once an hour, about the
// prefix at hand.
func (m *Member) versioned(ctx context.Context, prefix string) targets.Versioned {
	store, ok := targets.As[targets.Versioned](m.Target)
	if !ok {
		return nil
	}
	p := &m.health.versions
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := m.health.now(); !now.Before(p.until) {
		kept, sure := m.askVersions(ctx, store, prefix)
		if ctx.Err() != nil {
			return nil
		}
		p.kept, p.until = kept, now.Add(downFor)
		if sure {
			p.until = now.Add(versionsFor)
		}
	}
	if !p.kept {
		return nil
	}
	return store
}

// keptVersions reports whether the target is known to keep versions.
func (m *Member) keptVersions() bool {
	p := &m.health.versions
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.kept
}

// versionsFailed makes the target one without versions for some time, because
// they could not be listed or read.
func (m *Member) versionsFailed(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	pause := downFor
	if lacking(err) {
		pause = versionsFor
	}
	p := &m.health.versions
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kept, p.until = false, m.health.now().Add(pause)
}

// lacking reports whether err says that a store has no versions, or not for
// these credentials.
func lacking(err error) bool {
	return errors.Is(err, targets.ErrDenied) || errors.Is(err, errors.ErrUnsupported)
}

// askVersions finds out whether a store keeps versions: from what it lists
// below the prefix, and where that says nothing, from what it says of itself.
// sure is false when the answer may soon be another one.
func (m *Member) askVersions(ctx context.Context, store targets.Versioned, prefix string) (kept, sure bool) {
	type answer struct{ kept, listed bool }
	got := make(chan answer, 1)
	err := m.bounded(ctx, probeTimeout, func(ctx context.Context) error {
		var a answer
		seen := 0
		for v, err := range store.Versions(ctx, prefix) {
			if err != nil {
				return err
			}
			a.listed = true
			if a.kept = v.Marker || !v.Latest || v.ID != targets.NullVersion; a.kept {
				break
			}
			if seen++; seen == evidenceIn {
				break
			}
		}
		if power, ok := targets.As[targets.Inspected](m.Target); ok && !a.kept {
			f, err := power.Features(ctx)
			if err != nil {
				return err
			}
			a.kept = f.Versioning
		}
		got <- a
		return nil
	})
	if err != nil {
		return false, lacking(err)
	}
	a := <-got
	return a.kept, a.kept || a.listed
}
