package targets

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
)

var (
	// ErrChanged: the object is not the one that was listed any more.
	ErrChanged = errors.New("changed since it was listed")
	// ErrRefused: the store answered, and does not give out this object: it
	// lies in an archive, say, or under a key of its owner.
	ErrRefused = errors.New("the store does not give it out")
)

// maxSource is more than an object of any S3 store may have, in bytes.
const maxSource = 1 << 50

// Entry is an object of a Bucket as it is listed.
type Entry struct {
	Key      string // any bytes, without the prefix of the bucket; empty: what is named as the prefix and a slash
	Size     int64  // bytes
	ETag     string // without its quotes; empty: the store gave none
	Modified time.Time
}

// Bucket reads the objects of others: keys may be any, and so may be the
// objects behind them. It sends nothing but GET requests, and the store is
// bounded as an S3 target is. Nothing is retried.
type Bucket struct{ s *S3 }

// OpenBucket checks the configuration, of which Lock has no meaning. It does
// not contact the server.
func OpenBucket(config S3Config) (*Bucket, error) {
	s, err := OpenS3(config)
	if err != nil {
		return nil, err
	}
	return &Bucket{s}, nil
}

// List yields every object below the prefix whose key is greater than after,
// in ascending byte order of keys. On an error it yields that error once and
// stops; a listing that ended without one was complete as far as the store
// says. Keys outside of the prefix, out of order or given twice, and objects
// with a size or a time that cannot be, end it with an error that wraps
// ErrCorrupt.
func (b *Bucket) List(ctx context.Context, after string) iter.Seq2[Entry, error] {
	return b.list(ctx, "", after, listPage)
}

// Look returns what is listed of one object now, or ErrNotFound.
func (b *Bucket) Look(ctx context.Context, key string) (Entry, error) {
	for e, err := range b.list(ctx, key, "", 1) {
		if err != nil {
			return Entry{}, err
		}
		if e.Key == key {
			return e, nil
		}
		break
	}
	return Entry{}, ErrNotFound
}

func (b *Bucket) list(ctx context.Context, prefix, after string, page int) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		query := url.Values{
			"encoding-type": {"url"}, "list-type": {"2"},
			"max-keys": {strconv.Itoa(page)}, "prefix": {b.s.config.Prefix + prefix},
		}
		if after != "" {
			query.Set("start-after", b.s.config.Prefix+after)
		}
		last, some := after, after != ""
		err := b.s.pages(ctx, query, func(le listEntry, encoded bool) (bool, error) {
			e, err := b.entry(le, encoded, prefix)
			if err == nil && some && e.Key <= last {
				err = fmt.Errorf("key %q does not come after %q", e.Key, last)
			}
			if err != nil {
				return false, fmt.Errorf("%w: %w", ErrCorrupt, err)
			}
			last, some = e.Key, true
			return yield(e, nil), nil
		})
		if err != nil {
			yield(Entry{}, failed("list", b.s.explain(ctx, err)))
		}
	}
}

func (b *Bucket) entry(le listEntry, encoded bool, prefix string) (Entry, error) {
	full, err := unescape(le.Key, encoded)
	if err != nil {
		return Entry{}, err
	}
	key, ours := strings.CutPrefix(full, b.s.config.Prefix)
	switch {
	case !ours || !strings.HasPrefix(key, prefix):
		return Entry{}, fmt.Errorf("key %.100q is outside of what was asked for", full)
	case len(full) > maxName:
		return Entry{}, fmt.Errorf("a key of %d bytes", len(full))
	case le.Size < 0 || le.Size > maxSource:
		return Entry{}, fmt.Errorf("key %q has %d bytes", full, le.Size)
	case le.Modified.Unix() <= 0 || le.Modified.Unix() >= 1<<33: // also without a time
		return Entry{}, fmt.Errorf("key %q was modified at %s", full, le.Modified.Format(time.RFC3339))
	case len(le.ETag) > maxName:
		return Entry{}, fmt.Errorf("key %q has an ETag of %d bytes", full, len(le.ETag))
	}
	return Entry{Key: key, Size: le.Size, ETag: strings.Trim(le.ETag, `"`), Modified: le.Modified}, nil
}

// Source is an object that is being read. Header has what is stored with it.
type Source struct {
	io.ReadCloser
	Header []Field // ascending by name
	MD5    []byte  // of all of its bytes; nil where the ETag is none
}

// Field is one thing that is stored with an object.
type Field struct{ Name, Value string }

// Open reads an object from offset, which is below its size or zero. The reader
// yields exactly the bytes that the entry announces and then io.EOF, or an
// error: ErrCorrupt when the answer is shorter or longer than that. An object
// that is not that of the entry is ErrChanged, and so is the rest of one without
// an ETag, which nothing tells from another.
func (b *Bucket) Open(ctx context.Context, e Entry, offset int64) (*Source, error) {
	s, err := b.open(ctx, e, offset)
	if err == nil {
		return s, nil
	}
	var answer minio.ErrorResponse
	refused := errors.As(err, &answer) && answer.StatusCode >= 400 && answer.StatusCode < 500
	sentinel := sentinelOf(answer)
	err = b.s.explain(ctx, err)
	switch {
	case refused && answer.StatusCode == http.StatusPreconditionFailed:
		return nil, ErrChanged
	case refused && sentinel == nil:
		err = fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return nil, failed("get", err)
}

func (b *Bucket) open(ctx context.Context, e Entry, offset int64) (*Source, error) {
	left := e.Size - offset
	if offset > 0 && e.ETag == "" {
		return nil, ErrChanged
	}
	var opts minio.GetObjectOptions
	if e.ETag != "" {
		if err := opts.SetMatchETag(e.ETag); err != nil {
			return nil, err
		}
	}
	if offset > 0 {
		if err := opts.SetRange(offset, e.Size-1); err != nil {
			return nil, err
		}
	}
	body, info, header, err := b.s.core.GetObject(expecting(ctx, left), b.s.config.Bucket, b.s.config.Prefix+e.Key, opts)
	if err != nil {
		return nil, err
	}
	contentRange := header.Get("Content-Range")
	switch {
	case e.ETag != "" && strings.Trim(info.ETag, `"`) != e.ETag: // the server knows no conditions
		err = ErrChanged
	case offset > 0 && contentRange == "":
		err = fmt.Errorf("%w: asked for the bytes from %d on, the answer is from the start", ErrRefused, offset)
	case offset > 0:
		_, err = checkAnswer(contentRange, info.Size, offset, left)
	case info.Size >= 0 && info.Size != e.Size:
		err = fmt.Errorf("%w: %d bytes were listed, the answer has %d", ErrCorrupt, e.Size, info.Size)
	}
	if err != nil {
		return nil, errors.Join(err, body.Close())
	}
	s := &Source{ReadCloser: &wholeReader{exactReader{ctx: ctx, body: body, left: left}}, Header: stored(header)}
	if sum, err := hex.DecodeString(info.ETag); err == nil && len(sum) == 16 && !sealed(header) {
		s.MD5 = sum
	}
	return s, nil
}

// sealed reports whether the store encrypts the object, which may make its ETag
// no MD5.
func sealed(h http.Header) bool {
	const how = "X-Amz-Server-Side-Encryption"
	return h.Get(how) != "" || h.Get(how+"-Customer-Algorithm") != ""
}

const metaPrefix = "X-Amz-Meta-"

// stored returns what an answer's header says of the object itself: what it is,
// and what its owner wrote about it. Names are in lower case, as S3 has them.
func stored(h http.Header) []Field {
	var fields []Field
	for name, values := range h {
		meta, own := strings.CutPrefix(name, metaPrefix)
		switch {
		case own && meta != "":
			name = "meta." + meta
		case !slices.Contains([]string{"Content-Type", "Content-Encoding", "Content-Disposition", "Content-Language", "Cache-Control"}, name):
			continue
		}
		fields = append(fields, Field{strings.ToLower(name), strings.Join(values, ",")})
	}
	slices.SortFunc(fields, func(a, b Field) int { return strings.Compare(a.Name, b.Name) })
	return fields
}

// wholeReader is an exactReader of an answer that ends where it should.
type wholeReader struct{ exactReader }

func (r *wholeReader) Read(p []byte) (int, error) {
	if r.left > 0 || len(p) == 0 {
		n, err := r.exactReader.Read(p)
		if errors.Is(err, io.ErrUnexpectedEOF) && r.ctx.Err() == nil && !errors.Is(err, ErrUnreadable) {
			err = fmt.Errorf("%w: the answer ends %d bytes early", ErrCorrupt, r.left)
		}
		return n, err
	}
	var more [1]byte
	n, err := r.body.Read(more[:])
	switch {
	case n > 0:
		return 0, fmt.Errorf("%w: the answer is longer than the object", ErrCorrupt)
	case err == nil || err == io.EOF:
		return 0, io.EOF
	case r.ctx.Err() != nil:
		return 0, r.ctx.Err()
	}
	return 0, err
}

// OfStore reports whether an error is about a store as a whole, and not about
// one of its objects.
func OfStore(err error) bool {
	e := (*storeError)(nil)
	return errors.As(err, &e)
}
