package targets

import (
	"context"
	"io"
	"iter"
	"time"
)

// Lock is how long a store keeps an object from everybody. The zero Lock keeps
// nothing.
type Lock struct {
	Mode  string    // "governance" or "compliance"
	Until time.Time // by the store's clock
}

// NullVersion is the ID of what a store holds that keeps no versions, or held
// before it kept them.
const NullVersion = "null"

// Version is one stored version of an object, or the mark of a deletion.
type Version struct {
	Info
	ID     string // means something to its store only
	Latest bool   // what Get sees
	Marker bool   // a deletion: Size is 0, and there are no bytes
}

// Versioned is a Target whose store may keep what was overwritten or deleted.
// What a store says that it does not have is errors.ErrUnsupported.
type Versioned interface {
	// Versions yields every version of every object whose name starts with
	// prefix: names in ascending order, of one name the newest first. What List
	// promises of bounds and errors holds here too. A store that keeps no
	// versions yields one for each object.
	Versions(ctx context.Context, prefix string) iter.Seq2[Version, error]
	// GetVersion is Get of one version.
	GetVersion(ctx context.Context, name, id string, offset, length int64) (io.ReadCloser, error)
	// DeleteVersion removes one version or marker for good. ErrDenied when
	// these credentials may not, or a lock forbids it.
	DeleteVersion(ctx context.Context, name, id string) error
}

// Locker is a Target whose store can lock objects.
type Locker interface {
	// LockOf returns the lock of the newest version; the zero Lock when there
	// is none, or the store has no locks.
	LockOf(ctx context.Context, name string) (Lock, error)
	// SetLock sets the lock of the newest version. A store refuses with
	// ErrDenied what would weaken a compliance lock.
	SetLock(ctx context.Context, name string, l Lock) error
}

// Features is what a store says of itself.
type Features struct {
	Versioning  bool          // overwritten and deleted objects are kept
	Locks       bool          // objects can be locked
	DefaultMode string        // of the lock that every new object gets; empty: none
	DefaultFor  time.Duration // of that lock
	Clock       time.Time     // when it answered, to the second; zero: it does not say
}

// Inspected is a Target that can be asked what it can do.
type Inspected interface {
	// Features asks the store. What these credentials may not ask is reported
	// as absent.
	Features(ctx context.Context) (Features, error)
	// PutNew stores the object unless there is one of that name. created is
	// false when there was. A store without conditional writes overwrites, and
	// says that it created.
	PutNew(ctx context.Context, o Object) (created bool, err error)
}

// Sought is a Target whose store can begin a listing in the middle.
type Sought interface {
	// ListAfter is List of the objects whose names come after a name, be there
	// one of it or not. after begins with prefix.
	ListAfter(ctx context.Context, prefix, after string) iter.Seq2[Info, error]
}

// ListAfter is List of the objects whose names come after a name. What comes
// before costs a listing too, unless t itself is Sought: a decorator may watch
// what List yields, so nothing that it wraps is asked instead.
func ListAfter(ctx context.Context, t Target, prefix, after string) iter.Seq2[Info, error] {
	if s, ok := t.(Sought); ok {
		return s.ListAfter(ctx, prefix, after)
	}
	return func(yield func(Info, error) bool) {
		for info, err := range t.List(ctx, prefix) {
			if (err != nil || info.Name > after) && !yield(info, err) {
				return
			}
		}
	}
}

// As returns t, or the first of those that it wraps, as a T. A decorator
// offers what it wraps through Unwrap() Target.
func As[T any](t Target) (power T, ok bool) {
	for t != nil {
		if power, ok = t.(T); ok {
			return power, true
		}
		w, wraps := t.(interface{ Unwrap() Target })
		if !wraps {
			break
		}
		t = w.Unwrap()
	}
	return power, false
}
