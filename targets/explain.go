package targets

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"syscall"

	"github.com/minio/minio-go/v7"
)

// storeError is a fault of the store as a whole, in words for a person. It
// names no operation and no object, because neither has a part in it.
type storeError struct {
	text  string
	cause error // for errors.Is and errors.As
}

func (e *storeError) Error() string { return e.text }
func (e *storeError) Unwrap() error { return e.cause }

func faulty(cause error, format string, args ...any) error {
	return &storeError{fmt.Sprintf(format, args...), cause}
}

// failed is the error of an operation. The object is not named: the caller
// knows it.
func failed(op string, err error) error {
	if e := (*storeError)(nil); err == nil || errors.As(err, &e) {
		return err
	}
	return fmt.Errorf("%s: %w", op, err)
}

// explain maps the error of a call to the sentinels, and says in words what
// is wrong with the server. What the server wrote into it is shortened and
// stripped of control characters.
func (s *S3) explain(ctx context.Context, err error) error {
	if answer := (minio.ErrorResponse{}); errors.As(err, &answer) {
		return s.refusal(answer)
	}
	if request := (*url.Error)(nil); errors.As(err, &request) {
		err = request.Err // without the URL of the request
	}
	if err != nil && ctx.Err() != nil {
		if !errors.Is(err, ctx.Err()) {
			err = fmt.Errorf("%w: %w", ctx.Err(), err)
		}
		return err
	}
	var unknown *net.DNSError
	var untrusted *tls.CertificateVerificationError
	var network *net.OpError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return faulty(err, "%s refuses connections", s.address())
	case errors.Is(err, http.ErrSchemeMismatch):
		return faulty(err, "%s speaks plain http: write s3+http, or another port", s.address())
	case errors.As(err, &unknown) && unknown.IsNotFound:
		return faulty(err, "there is no host %s", unknown.Name)
	case errors.As(err, &untrusted):
		return faulty(err, "the certificate of %s is not trusted: %v", s.address(), untrusted.Err)
	case errors.As(err, &network) && network.Timeout() && network.Op == "dial":
		return faulty(err, "%s does not answer", s.address())
	case errors.As(err, &network):
		return faulty(err, "%s: %v", s.address(), network.Err)
	}
	return err
}

// address is HOST:PORT of the server.
func (s *S3) address() string {
	u := s.endpoint()
	if u.Port() != "" {
		return u.Host
	}
	port := "80"
	if s.config.Secure {
		port = "443"
	}
	return net.JoinHostPort(u.Hostname(), port)
}

func (s *S3) refusal(answer minio.ErrorResponse) error {
	code := printable(answer.Code, 80)
	text := code
	if message := printable(answer.Message, 300); message != "" && message != text {
		text += ": " + message
	}
	sentinel := sentinelOf(answer)
	switch answer.Code {
	case minio.NoSuchBucket:
		return faulty(sentinel, "no bucket %q at %s (%s)", s.config.Bucket, s.address(), code)
	case minio.InvalidAccessKeyID, minio.SignatureDoesNotMatch, "ExpiredToken", "InvalidToken", "InvalidTokenId":
		return faulty(sentinel, "access denied: %s refuses the keys (%s)", s.address(), code)
	case minio.AccessDenied:
		return fmt.Errorf("%w at %s (%s)", sentinel, s.address(), code)
	case minio.RequestTimeTooSkewed:
		text += " (compare the clocks of this machine and of the server)"
	case minio.AuthorizationHeaderMalformed, "PermanentRedirect", minio.InvalidRegion:
		text += " (is the region of the target right?)"
	}
	if sentinel != nil {
		return fmt.Errorf("%w: %s (HTTP %d)", sentinel, text, answer.StatusCode)
	}
	return fmt.Errorf("%s (HTTP %d)", text, answer.StatusCode)
}

// explain maps a refusal to its sentinel, and says in words what is wrong with
// the directory. What concerns one object passes.
func (d *Dir) explain(err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return faulty(err, "disk full at %s", d.path)
	case errors.Is(err, ErrDenied):
		return faulty(err, "access denied below %s (%v)", d.path, rootCause(err))
	}
	var path *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &path):
		return faulty(err, "%s below %s: %v", path.Op, d.path, path.Err)
	case errors.As(err, &link):
		return faulty(err, "%s below %s: %v", link.Op, d.path, link.Err)
	}
	return err
}

// rootCause is what the system said.
func rootCause(err error) error {
	if number := syscall.Errno(0); errors.As(err, &number) {
		return number
	}
	return err
}
