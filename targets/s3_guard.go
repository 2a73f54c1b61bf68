package targets

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"sync"
	"time"
)

// The longest bodies that are read from a server.
const (
	maxErrorBody  = 1 << 20
	maxListBody   = 16 << 20
	maxObjectBody = 128 << 20 // twice the largest object; Get itself stops earlier
	maxHeader     = 256 << 10
)

// errCut is a body that ended before the length that its header announced.
var errCut = fmt.Errorf("the connection was closed in the middle of the answer: %w", ErrUnreadable)

// guard is the transport of one S3 target. It bounds what any request may cost
// in bytes and time. Its timeout errors wrap os.ErrDeadlineExceeded.
type guard struct {
	base                  *http.Transport
	stall, header, answer time.Duration
}

type patienceKey struct{}

// Patiently returns a context in which a Put to a store far away waits at least
// so long for a byte to be taken, and then for the answer, before it gives up
// what it has sent: for links that fall silent and come back.
func Patiently(ctx context.Context, d time.Duration) context.Context {
	return context.WithValue(ctx, patienceKey{}, d)
}

type expectedKey struct{}

// expecting returns a context in which the answer to a GET is an object, of so
// many bytes.
func expecting(ctx context.Context, length int64) context.Context {
	return context.WithValue(ctx, expectedKey{}, length)
}

func newGuard(c S3Config) (*guard, error) {
	var tlsConfig *tls.Config
	if c.Secure {
		tlsConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		if c.CAFile != "" {
			pem, err := os.ReadFile(c.CAFile)
			if err != nil {
				return nil, fmt.Errorf("CA file: %w", err)
			}
			tlsConfig.RootCAs = x509.NewCertPool()
			if !tlsConfig.RootCAs.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("CA file %s holds no PEM certificate", c.CAFile)
			}
		}
	}
	return &guard{
		base: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: c.DialTimeout, KeepAlive: 15 * time.Second}).DialContext,
			TLSClientConfig:        tlsConfig,
			TLSHandshakeTimeout:    c.DialTimeout,
			MaxResponseHeaderBytes: maxHeader,
			MaxIdleConnsPerHost:    32,
			IdleConnTimeout:        time.Minute,
			DisableCompression:     true, // objects are bytes, and hosts send no bombs
			ReadBufferSize:         64 << 10,
			WriteBufferSize:        64 << 10,
		},
		stall:  c.StallTimeout,
		header: c.HeaderTimeout,
		answer: c.AnswerTimeout,
	}, nil
}

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	var patience time.Duration
	uploads := req.Body != nil && req.Body != http.NoBody
	if uploads {
		patience, _ = ctx.Value(patienceKey{}).(time.Duration)
	}
	upload := newWatch(max(g.stall, patience), "no byte could be sent", cancel)
	// Much of what was sent may still be on its way when the last byte is taken.
	header := newWatch(max(g.header, patience), "no answer came", cancel)
	req = req.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteRequest: func(httptrace.WroteRequestInfo) { header.arm() },
	}))
	if uploads {
		req.Body = &sentBody{ReadCloser: req.Body, watch: upload}
	}
	resp, err := g.base.RoundTrip(req)
	upload.end()
	header.end()
	if err != nil {
		cancel(nil)
		return nil, err
	}
	resp.Header.Del("Set-Cookie") // minio-go would keep them, and a host could send many
	body := &boundedBody{body: resp.Body, ctx: ctx, cancel: cancel}
	object := req.Method == http.MethodGet && req.Header.Get("Range") != ""
	expected, whole := ctx.Value(expectedKey{}).(int64)
	switch {
	case resp.StatusCode >= http.StatusMultipleChoices:
		body.limit = maxErrorBody
	case object, whole:
		if body.limit = maxObjectBody; whole {
			body.limit = expected + 1 // which its reader refuses
		}
		body.watch = newWatch(g.stall, "no byte came", cancel)
	case req.Method == http.MethodGet:
		body.limit = maxListBody
	default:
		body.limit = maxErrorBody
	}
	if body.watch == nil {
		body.watch = newWatch(g.answer, "the answer did not end", cancel)
		body.watch.pin()
	}
	body.left = body.limit
	resp.Body = body
	return resp, nil
}

// boundedBody is an answer of at most limit bytes, under a watch.
type boundedBody struct {
	body        io.ReadCloser
	ctx         context.Context // of the request
	cancel      context.CancelCauseFunc
	watch       *watch
	limit, left int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	// One byte more than allowed shows that there is more.
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	b.watch.arm()
	n, err := b.body.Read(p)
	b.watch.disarm()
	if int64(n) > b.left {
		return int(b.left), fmt.Errorf("the answer is longer than %d bytes", b.limit)
	}
	b.left -= int64(n)
	if err != nil && err != io.EOF {
		if cause := context.Cause(b.ctx); cause != nil {
			err = cause
		} else if errors.Is(err, io.ErrUnexpectedEOF) {
			err = errCut
		}
	}
	return n, err
}

func (b *boundedBody) Close() error {
	b.watch.end()
	err := b.body.Close()
	b.cancel(nil)
	return err
}

// sentBody arms the watch from the first byte taken until the last, but while
// the body itself makes the transport wait for the next.
type sentBody struct {
	io.ReadCloser
	watch *watch
}

func (b *sentBody) Read(p []byte) (int, error) {
	b.watch.disarm()
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.watch.end()
	} else {
		b.watch.arm()
	}
	return n, err
}

// watch cancels a request that is armed for longer than its limit.
type watch struct {
	mu     sync.Mutex
	timer  *time.Timer
	limit  time.Duration
	pinned bool
	ended  bool
}

func newWatch(limit time.Duration, what string, cancel context.CancelCauseFunc) *watch {
	w := &watch{limit: limit}
	w.timer = time.AfterFunc(limit, func() {
		cancel(fmt.Errorf("%s for %v: %w", what, limit, os.ErrDeadlineExceeded))
	})
	w.timer.Stop()
	return w
}

func (w *watch) arm() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.ended && !w.pinned {
		w.timer.Reset(w.limit)
	}
}

// pin arms the watch until its end.
func (w *watch) pin() {
	w.arm()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pinned = true
}

func (w *watch) disarm() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.pinned {
		w.timer.Stop()
	}
}

func (w *watch) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	w.timer.Stop()
}
