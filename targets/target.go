// Package targets stores immutable objects on stores that nobody trusts: an
// S3 bucket, a directory, or memory for tests.
//
// It guarantees durability and atomicity of single objects, and nothing else:
// it knows no key, no format and no other target. What a store returns is
// bounded in size and in time, and is never believed: callers check hashes.
// Retrying is the caller's business; no Target retries by itself.
package targets

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"
)

var (
	// ErrNotFound: the store answered, and has no such object.
	ErrNotFound = errors.New("object not found")
	// ErrDenied: the store answered, and these credentials may not do it. Not retried.
	ErrDenied = errors.New("access denied by the target")
	// ErrNoStore: the bucket or directory itself does not exist. Not retried.
	ErrNoStore = errors.New("bucket or directory does not exist")
	// ErrCorrupt: the store refused bytes whose hash it found wrong, or
	// answered with a length other than the one asked for.
	ErrCorrupt = errors.New("bytes damaged on the way")
	// ErrUnreadable: the store answered, and broke off in the middle of the
	// object, or failed by itself: this one may be damaged where it lies.
	ErrUnreadable = errors.New("the store fails over this object")
	// ErrBusy: the store asks to be asked again later.
	ErrBusy = errors.New("the store is busy")
	// ErrName: the caller broke the rules for names or ranges; nothing was asked of the store.
	ErrName = errors.New("invalid object name or range")
)

// Info describes one stored object.
type Info struct {
	Name     string    // as given to Put
	Size     int64     // bytes
	Modified time.Time // by the store's clock; zero if it has none
}

// Object is a whole object to be written. Every object fits in memory: the
// format bounds it to 64 MiB.
type Object struct {
	Name   string   // as CheckName demands; never also a folder of another name
	Data   []byte   // borrowed until Put returns; never modified
	SHA256 [32]byte // of Data; computed once by the caller, never again here

	pace pace // set by Limit, and kept by every Target as it sends Data
}

// Target is one store. All methods may be called concurrently. Names are
// relative to the target's prefix. Every error wraps the target's name-free
// cause; errors.Is works with the sentinels above and with context errors.
type Target interface {
	// Put stores the object. When it returns nil the object is durable under
	// its name, whole: a reader sees all of it or ErrNotFound, never a part,
	// whatever dies. Storing the same bytes again is harmless. An S3 server is
	// asked to check SHA256 against what it received.
	Put(ctx context.Context, o Object) error

	// Get streams length bytes of the object from offset. length is at least
	// 1. The reader yields exactly length bytes and then io.EOF, or an error:
	// io.ErrUnexpectedEOF when the object is shorter, and only then: a cut
	// connection is another error. It never yields more, whatever the store
	// sends. Both ErrNotFound and io.ErrUnexpectedEOF may come from Get or
	// from Read. Cancelling ctx ends the reader. The caller closes it.
	Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error)

	// Stat returns the size of an object, or ErrNotFound.
	Stat(ctx context.Context, name string) (Info, error)

	// List yields every object whose name starts with prefix, in ascending
	// byte order of names, including all nested names. It is not a snapshot:
	// objects put or deleted meanwhile may or may not appear. On an error it
	// yields that error once and stops; a listing that ended without an error
	// was complete as far as the store says. Names that Put would refuse are
	// no objects and are skipped. Names outside the prefix, out of order, or
	// of more than 1024 bytes end it with an error: no store can make it
	// endless. prefix is a name, the beginning of one, or empty.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]

	// Delete removes an object; a missing one is not an error.
	Delete(ctx context.Context, name string) error
}
