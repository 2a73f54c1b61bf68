package embassy

import (
	"bytes"
	"context"
	"crypto/fips140"
	"crypto/md5"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"

	"github.com/fxamacker/cbor/v2"

	"embassy/targets"
)

const (
	objectReaders  = 8       // objects that are fetched at once: a GET is mostly waiting
	objectStretch  = 1 << 20 // bytes, after which a fetch that breaks off has got somewhere
	bucketAttempts = 5       // of what may pass, over some seconds
	objectsFailed  = 16      // in a row, from which on the source is at fault
)

// bucketObject is what a fileContent is made of that comes from a bucket.
type bucketObject struct {
	entry  targets.Entry
	build  func(*fileContent) error // completes it
	unlike error                    // its bytes are not those that its ETag tells of
}

// objectStat is what an object is recognised by.
func objectStat(part string, e targets.Entry) cachedFile {
	tag := sha256.Sum256([]byte(e.ETag))
	return cachedFile{
		Name: cbor.ByteString(part), Size: e.Size, Mtime: e.Modified.UnixNano(),
		Ctime: int64(binary.LittleEndian.Uint64(tag[:])), Inode: binary.LittleEndian.Uint64(tag[8:]),
	}
}

// recallObject returns the content of an object that is unchanged since the last
// backup, and fetches every other one. Without an ETag it may have changed.
func (t *objectTree) recallObject(part string, e targets.Entry) (*fileContent, error) {
	f := &fileContent{object: &bucketObject{entry: e, build: t.complete}, stat: objectStat(part, e)}
	k := t.in.known.find(part)
	if k != nil && e.ETag != "" && k.sameStat(f.stat) && t.cache.alive(k) {
		f.stat, f.same, f.built = *k, true, true
		return f, nil
	}
	f.known = k != nil
	return f, t.fetch(f)
}

// fetch starts to read an object.
func (t *objectTree) fetch(f *fileContent) error {
	if t.dry {
		return nil
	}
	f.object.unlike = nil
	f.pending = &pendingFile{hint: f.stat.Size, open: func() (io.ReadCloser, error) {
		r := &objectReader{ctx: t.ctx, bucket: t.bucket, bucketObject: f.object}
		if !fips140.Enforced() {
			r.sum = md5.New()
		}
		if err := r.reach(); err != nil {
			return nil, sourceError{err}
		}
		f.stat.Xattrs, f.gaps = attributesOf(r.body.Header)
		return sourceReader{r, &t.seen.bytes}, nil
	}}
	return t.store.submit(t.ctx, f.pending)
}

// complete waits for the content of an object. One that is no longer that which
// was listed is looked at again, and so is one whose bytes came damaged.
func (t *objectTree) complete(f *fileContent) error {
	o := f.object
	for again := 0; ; again++ {
		<-f.pending.done
		err := f.pending.err
		t.counts.read += f.pending.size
		if err == nil && (o.unlike == nil || again == rereads) {
			t.failed, f.changed = 0, o.unlike
			return t.assemble(f)
		}
		if err != nil && (again == rereads || !errors.Is(err, targets.ErrChanged) && !errors.Is(err, targets.ErrCorrupt)) {
			return t.lose(o.entry.Key, err)
		}
		now, err := t.look(o.entry.Key)
		if err != nil {
			return t.lose(o.entry.Key, sourceError{err})
		}
		o.entry = now
		f.stat = objectStat(string(f.stat.Name), o.entry)
		if err := t.fetch(f); err != nil {
			return err
		}
	}
}

// look asks once more what is listed of an object.
func (t *objectTree) look(key string) (e targets.Entry, err error) {
	for try := 1; ; try++ {
		if e, err = t.bucket.Look(t.ctx, key); err == nil || !passing(err) || try == bucketAttempts {
			return e, err
		}
		if backOff(t.ctx, try) != nil {
			return e, err
		}
	}
}

// lose says whose fault it is that an object was not read: its own, which makes
// a gap, or that of the source, which ends the run.
func (t *objectTree) lose(key string, err error) error {
	var fault sourceError
	if t.ctx.Err() != nil {
		return t.ctx.Err()
	}
	if !errors.As(err, &fault) {
		return err
	}
	err = fault.error
	if passing(err) && !targets.OfStore(err) {
		t.failed++
		if _, e := t.bucket.Look(t.ctx, key); e != nil && !errors.Is(e, targets.ErrNotFound) {
			return bucketError{e}
		}
	}
	if targets.OfStore(err) || t.failed > objectsFailed {
		return bucketError{fmt.Errorf("get %q: %w", key, err)}
	}
	if t.lost == nil {
		t.lost = err
	}
	return sourceError{err}
}

// passing reports whether a fault of a bucket may pass when the same is asked
// again.
func passing(err error) bool {
	return !slices.ContainsFunc([]error{
		targets.ErrNotFound, targets.ErrDenied, targets.ErrNoStore, targets.ErrCorrupt, targets.ErrName,
		targets.ErrChanged, targets.ErrRefused, context.Canceled,
	}, func(final error) bool { return errors.Is(err, final) })
}

// objectReader reads an object to its end. A fetch that breaks off goes on
// where it was.
type objectReader struct {
	ctx    context.Context
	bucket Bucket
	*bucketObject
	body  *targets.Source // nil: it broke off
	at    int64
	sum   hash.Hash // of what was read; nil: it is not compared
	from  int64     // where the fetch broke off last
	tries int       // that broke off since it got somewhere
}

// Read implements io.Reader.
func (r *objectReader) Read(p []byte) (int, error) {
	for {
		if err := r.reach(); err != nil {
			return 0, err
		}
		n, err := r.body.Read(p)
		r.at += int64(n)
		if r.sum != nil {
			r.sum.Write(p[:n])
		}
		if err == io.EOF && r.sum != nil && r.body.MD5 != nil && !bytes.Equal(r.sum.Sum(nil), r.body.MD5) {
			r.unlike = fmt.Errorf("its bytes are not those of its ETag %s: it may be damaged in the bucket", r.entry.ETag)
		}
		if err != nil && err != io.EOF {
			err = r.again(err)
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// reach opens the object where it was left.
func (r *objectReader) reach() error {
	for r.body == nil {
		body, err := r.bucket.Open(r.ctx, r.entry, r.at)
		if err == nil {
			r.body = body
			break
		}
		if err := r.again(err); err != nil {
			return err
		}
	}
	return nil
}

// again waits before what failed is tried once more, unless that is no use.
func (r *objectReader) again(err error) error {
	if closed := r.Close(); closed != nil {
		err = errors.Join(err, closed)
	}
	if r.at-r.from >= objectStretch {
		r.tries = 0
	}
	r.from = r.at
	if r.tries++; !passing(err) || r.tries >= bucketAttempts || r.at > 0 && r.at == r.entry.Size || backOff(r.ctx, r.tries) != nil {
		return err
	}
	return nil
}

// Close implements io.Closer.
func (r *objectReader) Close() error {
	if r.body == nil {
		return nil
	}
	err := r.body.Close()
	r.body = nil
	return err
}
