package targets

import (
	"context"
	"fmt"
	"io"
	"strings"
)

const (
	maxName    = 1024 // bytes of a name; S3 allows no more
	maxSegment = 255  // bytes between two slashes; file systems allow no more
)

// CheckName says whether Put takes the name: slash-separated segments of
// [a-z0-9-], each of 1 to 255 bytes, at most 1024 bytes in all. The error
// wraps ErrName.
func CheckName(name string) error {
	if len(name) > maxName {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrName, len(name), maxName)
	}
	for segment := range strings.SplitSeq(name, "/") {
		if segment == "" || len(segment) > maxSegment || !plain(segment) {
			return fmt.Errorf("%w: %q", ErrName, name)
		}
	}
	return nil
}

// checkPrefix accepts what a valid name may begin with.
func checkPrefix(prefix string) error {
	if prefix == "" {
		return nil
	}
	return CheckName(strings.TrimSuffix(prefix, "/"))
}

func plain(segment string) bool {
	for _, c := range []byte(segment) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

func checkRange(name string, offset, length int64) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if offset < 0 || length < 1 || offset+length < offset {
		return fmt.Errorf("%w: %d bytes from %d", ErrName, length, offset)
	}
	return nil
}

// exactReader is the reader that Get promises: left bytes of body and then
// io.EOF, io.ErrUnexpectedEOF if body ends before, the error of ctx once that
// is done.
type exactReader struct {
	ctx  context.Context // of the Get that made it
	body io.ReadCloser
	left int64
}

func (r *exactReader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := r.body.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	switch {
	case r.left == 0:
		err = nil
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	case err != nil && r.ctx.Err() != nil:
		err = r.ctx.Err()
	}
	return n, err
}

func (r *exactReader) Close() error { return r.body.Close() }
