package targets

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// S3Config says where a bucket is and how to reach it.
type S3Config struct {
	Endpoint string // host or host:port
	Secure   bool   // https
	Bucket   string
	Prefix   string // before every name, without slashes at its ends; may be empty
	Region   string // "": us-east-1

	AccessKey    string
	SecretKey    string
	SessionToken string // of temporary credentials; else empty

	CAFile   string // PEM certificates that replace the system's; only with Secure
	Insecure bool   // plain http to hosts beyond loopback

	// Lock is for every object that is put; zero: what the bucket does by itself.
	// Where these credentials may put and not lock, and the bucket's own lock is
	// as strong, that is enough.
	Lock LockRule

	DialTimeout   time.Duration // 0: 5 s; TLS may take as long again
	HeaderTimeout time.Duration // from the end of a request to the header of its answer; 0: 30 s
	StallTimeout  time.Duration // without a byte of a body, in either direction; 0: 20 s
	AnswerTimeout time.Duration // for the whole body of an answer that is not an object; 0: 2 min
}

// LockRule says how every new object is locked: Mode is "governance",
// "compliance", or empty for no lock, and For how long by this machine's clock.
type LockRule struct {
	Mode string
	For  time.Duration // with a Mode: at least a second
}

// S3 is a target in a bucket of an S3-compatible server. Put is one signed PUT
// that carries the object's SHA-256. Nothing is retried. The server is bounded
// in bytes and in time: one that goes silent costs at most one of the timeouts,
// and cancelling a context takes effect at once. Redirects are not followed.
// Proxies come from the environment.
//
// Servers that keep to Amazon's rules take a locked object only with a checksum
// of its bytes beside the signed hash, be the lock asked for or the bucket's own. With
// Lock every put carries one: x-amz-checksum-sha256, which is the same SHA-256
// again, and which the server computes once more. Without Lock no put does, until a server
// refuses one for the lack of it: that put is sent again, and from then on all carry it.
//
// Where a server does not tell a missing bucket from a missing object in answer
// to HEAD, Stat of an object in a missing bucket is ErrNotFound.
type S3 struct {
	core   minio.Core
	http   *http.Client // for listings
	config S3Config
	strict atomic.Bool // the server wants a checksum with every put

	locking atomic.Bool // the bucket locks by itself as Lock asks, and these credentials may not
}

// OpenS3 checks the configuration. It does not contact the server.
func OpenS3(config S3Config) (*S3, error) {
	s, err := openS3(config)
	if err != nil {
		return nil, fmt.Errorf("open bucket %q at %s: %w", config.Bucket, config.Endpoint, err)
	}
	return s, nil
}

func openS3(c S3Config) (*S3, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	transport, err := newGuard(c)
	if err != nil {
		return nil, err
	}
	core, err := minio.NewCore(c.Endpoint, &minio.Options{
		Creds:        credentials.NewStaticV4(c.AccessKey, c.SecretKey, c.SessionToken),
		Secure:       c.Secure,
		Transport:    transport,
		Region:       c.Region,
		BucketLookup: minio.BucketLookupPath,
		MaxRetries:   1,
	})
	if err != nil {
		return nil, err
	}
	return &S3{
		core:   *core,
		config: c,
		http: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// complete fills in the defaults and refuses what cannot work.
func (c *S3Config) complete() error {
	host := c.Endpoint
	if h, port, err := net.SplitHostPort(c.Endpoint); err == nil {
		host = h
		if port == "443" && c.Secure || port == "80" && !c.Secure {
			// Clients and proxies leave the default port out of the Host header, which is signed.
			c.Endpoint = strings.TrimSuffix(c.Endpoint, ":"+port)
		}
	}
	switch {
	case host == "":
		return errors.New("no host")
	case !c.Secure && !c.Insecure && !loopback(host):
		return errors.New("plain http is for loopback only: use s3+https, or set insecure: true for this target")
	case !c.Secure && c.CAFile != "":
		return errors.New("a CA file makes no sense with plain http: use s3+https")
	case c.AccessKey == "" || c.SecretKey == "":
		return errors.New("no credentials: an access key and a secret key are needed")
	case c.Lock.Mode == "" && c.Lock.For != 0 || c.Lock.Mode != "" && c.Lock.For < time.Second:
		return errors.New("a lock needs a mode, and a time of at least a second")
	}
	if err := checkMode(c.Lock.Mode); err != nil {
		return err
	}
	if err := checkBucket(c.Bucket); err != nil {
		return err
	}
	c.Prefix = strings.Trim(c.Prefix, "/")
	if err := checkKeyPrefix(c.Prefix); err != nil {
		return err
	}
	if c.Prefix != "" {
		c.Prefix += "/"
	}
	for field, standard := range map[*time.Duration]time.Duration{
		&c.DialTimeout:   5 * time.Second,
		&c.HeaderTimeout: 30 * time.Second,
		&c.StallTimeout:  20 * time.Second,
		&c.AnswerTimeout: 2 * time.Minute,
	} {
		if *field < 0 {
			return errors.New("a timeout is negative")
		}
		*field = cmp.Or(*field, standard)
	}
	c.Region = cmp.Or(c.Region, "us-east-1")
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Put implements Target. An empty ETag in the answer is an error: whatever
// answered is no S3 server.
func (s *S3) Put(ctx context.Context, o Object) error {
	if err := s.put(ctx, o, minio.PutObjectOptions{}); err != nil {
		return failed("put", s.explain(ctx, err))
	}
	return nil
}

func (s *S3) put(ctx context.Context, o Object, opts minio.PutObjectOptions) error {
	if err := CheckName(o.Name); err != nil {
		return err
	}
	if lock := s.config.Lock; lock.Mode != "" && !s.locking.Load() {
		locked := opts
		locked.Mode = minio.RetentionMode(strings.ToUpper(lock.Mode))
		locked.RetainUntilDate = time.Now().Add(lock.For)
		err := s.send(ctx, o, locked, true)
		if minio.ToErrorResponse(err).Code != minio.AccessDenied || !s.locksByItself(ctx) {
			return err
		}
		s.strict.Store(true)
		s.locking.Store(true)
	}
	if s.strict.Load() {
		return s.send(ctx, o, opts, true)
	}
	err := s.send(ctx, o, opts, false)
	if minio.ToErrorResponse(err).Code != invalidRequest {
		return err
	}
	if err = s.send(ctx, o, opts, true); err == nil {
		s.strict.Store(true)
	}
	return err
}

func (s *S3) send(ctx context.Context, o Object, opts minio.PutObjectOptions, checksum bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	body := &lentBody{ctx: ctx, pace: o.pace, data: bytes.NewReader(o.Data)}
	defer body.takeBack()
	if checksum {
		opts.UserMetadata = map[string]string{"x-amz-checksum-sha256": base64.StdEncoding.EncodeToString(o.SHA256[:])}
	}
	// DisableContentSha256 does not disable the hash: it sends the given one,
	// signed, instead of signing every piece of the stream.
	opts.DisableContentSha256 = true
	done, err := s.core.PutObject(ctx, s.config.Bucket, s.config.Prefix+o.Name, body, int64(len(o.Data)),
		"", hex.EncodeToString(o.SHA256[:]), opts)
	if err == nil && done.ETag == "" {
		err = errors.New("the answer has no ETag: is this an S3 server?")
	}
	return err
}

// lentBody is the caller's data while Put runs. http.RoundTripper may go on
// reading a body after it has returned; takeBack ends that.
type lentBody struct {
	ctx  context.Context // of the Put, and over when it has returned
	pace pace
	mu   sync.Mutex
	data *bytes.Reader
}

func (b *lentBody) Read(p []byte) (int, error) {
	n, err := b.take(p[:b.pace.piece(len(p))])
	if err == nil {
		err = b.pace.wait(b.ctx, n)
	}
	return n, err
}

func (b *lentBody) take(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.data == nil {
		return 0, errors.New("put has returned")
	}
	return b.data.Read(p)
}

func (b *lentBody) takeBack() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.data = nil
}

// Get implements Target.
func (s *S3) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	body, err := s.get(ctx, name, "", offset, length)
	if err != nil {
		return nil, failed("get", s.explain(ctx, err))
	}
	return body, nil
}

// get reads a version, or the newest one when id is empty.
func (s *S3) get(ctx context.Context, name, id string, offset, length int64) (io.ReadCloser, error) {
	if err := checkRange(name, offset, length); err != nil {
		return nil, err
	}
	opts := minio.GetObjectOptions{VersionID: id}
	if err := opts.SetRange(offset, offset+length-1); err != nil {
		return nil, err
	}
	body, info, header, err := s.core.GetObject(ctx, s.config.Bucket, s.config.Prefix+name, opts)
	if err != nil {
		return nil, err
	}
	skip, err := checkAnswer(header.Get("Content-Range"), info.Size, offset, length)
	if err == nil && skip > 0 {
		_, err = io.CopyN(io.Discard, body, skip)
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
	}
	if err != nil {
		return nil, errors.Join(err, body.Close())
	}
	return &exactReader{ctx: ctx, body: body, left: length}, nil
}

// checkAnswer compares an answer with the range that was asked for, and
// returns how many bytes of its body come before that range. contentRange is
// empty when the server sent the whole object; size is -1 when it did not say.
func checkAnswer(contentRange string, size, offset, length int64) (skip int64, err error) {
	last := offset + length - 1
	if contentRange == "" {
		if size >= 0 && size <= last {
			return 0, fmt.Errorf("%w: asked for bytes %d to %d, the answer is %d bytes from the start: %w",
				ErrCorrupt, offset, last, size, io.ErrUnexpectedEOF)
		}
		return offset, nil
	}
	var from, to, total int64
	if _, err := fmt.Sscanf(contentRange, "bytes %d-%d/%d", &from, &to, &total); err != nil {
		return 0, fmt.Errorf("%w: Content-Range %.80q", ErrCorrupt, contentRange)
	}
	whole := to == last || to < last && to == total-1 // the object may end before the range does
	if from != offset || !whole || size >= 0 && size != to-from+1 {
		return 0, fmt.Errorf("%w: asked for bytes %d to %d, the answer is %.80q of %d bytes",
			ErrCorrupt, offset, last, contentRange, size)
	}
	return 0, nil
}

// Stat implements Target.
func (s *S3) Stat(ctx context.Context, name string) (Info, error) {
	if err := CheckName(name); err != nil {
		return Info{}, failed("stat", err)
	}
	info, err := s.core.StatObject(ctx, s.config.Bucket, s.config.Prefix+name, minio.StatObjectOptions{})
	if err == nil && info.Size < 0 {
		err = fmt.Errorf("%w: the answer has no length", ErrCorrupt)
	}
	if err != nil {
		return Info{}, failed("stat", s.explain(ctx, err))
	}
	return Info{Name: name, Size: info.Size, Modified: info.LastModified}, nil
}

// Delete implements Target.
func (s *S3) Delete(ctx context.Context, name string) error {
	if err := s.remove(ctx, name, ""); err != nil && !errors.Is(err, ErrNotFound) {
		return failed("delete", err)
	}
	return nil
}

// remove deletes a version, or what Get sees when id is empty.
func (s *S3) remove(ctx context.Context, name, id string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	err := s.core.RemoveObject(ctx, s.config.Bucket, s.config.Prefix+name, minio.RemoveObjectOptions{VersionID: id})
	if minio.ToErrorResponse(err).StatusCode == http.StatusOK {
		return nil // minio-go expects 204; some servers say 200
	}
	return s.explainLocked(ctx, err)
}

func sentinelOf(answer minio.ErrorResponse) error {
	switch answer.Code {
	case minio.NoSuchKey, minio.NoSuchVersion:
		return ErrNotFound
	case minio.NoSuchBucket:
		return ErrNoStore
	case minio.XAmzContentSHA256Mismatch, minio.BadDigest, "XAmzContentChecksumMismatch":
		return ErrCorrupt
	case minio.AccessDenied, minio.InvalidAccessKeyID, minio.SignatureDoesNotMatch, "ExpiredToken", "InvalidToken", "InvalidTokenId":
		return ErrDenied
	}
	if answer.Code == "InvalidRequest" && strings.Contains(answer.Message, "ObjectLock") {
		return ErrDenied // no object lock in this bucket, and none can be set
	}
	switch answer.StatusCode {
	case http.StatusForbidden, http.StatusUnauthorized:
		return ErrDenied
	case http.StatusNotImplemented:
		return errors.ErrUnsupported
	case http.StatusInternalServerError:
		return ErrUnreadable
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		return ErrBusy
	case http.StatusRequestedRangeNotSatisfiable:
		return io.ErrUnexpectedEOF // the object ends before the range begins
	}
	return nil
}

func printable(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, s[:min(len(s), limit)])
	return strings.TrimSpace(strings.ToValidUTF8(s, "?"))
}

// endpoint is the URL of the server, without a path.
func (s *S3) endpoint() *url.URL { return s.core.EndpointURL() }
