// Package minio runs real MinIO servers for tests, on loopback ports, and puts
// a proxy with faults before any server. What it starts ends with the test.
package minio

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	miniogo "github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

const (
	readyIn   = time.Minute // a loaded machine starts many servers at once
	stopIn    = 15 * time.Second
	pollEvery = 20 * time.Millisecond
)

// Server is one MinIO process with its own data folder. Its methods are not to
// be called concurrently.
type Server struct {
	Endpoint  string // host:port, the same for the whole life of the Server
	AccessKey string // of the root user
	SecretKey string
	DataDir   string // outlives Stop and Kill
	CAFile    string // PEM; empty without TLS

	t        testing.TB
	env      []string // NAME=VALUE, beside what every server gets
	binary   string
	certsDir string
	pool     *x509.CertPool // nil without TLS
	process  *process       // nil when stopped
}

// Option changes how Start starts a server.
type Option func(*Server)

// TLS makes the server speak https, with a certificate of its own CA.
func TLS() Option {
	return func(s *Server) {
		s.certsDir = s.t.TempDir()
		s.CAFile, s.pool = writeCertificates(s.t, s.certsDir)
	}
}

// Env gives the server's process a variable, NAME=VALUE.
func Env(variable string) Option { return func(s *Server) { s.env = append(s.env, variable) } }

// Start runs a server and returns when it answers. It takes the binary from
// $EMBASSY_MINIO, else .tools/bin/minio in the module root. Without one, the
// test fails where $CI is set, and is skipped elsewhere.
func Start(t testing.TB, opts ...Option) *Server {
	t.Helper()
	s := &Server{
		AccessKey: "embassy-test",
		SecretKey: "embassy-test-secret",
		t:         t,
		binary:    findBinary(t),
		DataDir:   t.TempDir(),
		certsDir:  t.TempDir(),
	}
	for _, opt := range opts {
		opt(s)
	}
	t.Cleanup(s.Kill)
	// Another process may take the free port before the server binds it.
	var err error
	for range 3 {
		s.Endpoint = freePort(t)
		if err = s.run(); err == nil {
			return s
		}
	}
	t.Fatalf("start minio: %v", err)
	return nil
}

// Bucket makes a bucket and returns its name.
func (s *Server) Bucket(t testing.TB, name string) string {
	t.Helper()
	if err := s.client(t).MakeBucket(t.Context(), name, miniogo.MakeBucketOptions{}); err != nil {
		t.Fatalf("make bucket %s: %v", name, err)
	}
	return name
}

// BucketOptions say what a bucket can do.
type BucketOptions struct {
	Versioning  bool
	Lock        bool   // objects can be locked; implies Versioning
	DefaultMode string // of the lock that every new object gets: governance or compliance; implies Lock
	DefaultDays uint   // of that lock
}

// BucketWith makes a bucket that can do more, and returns its name.
func (s *Server) BucketWith(t testing.TB, name string, o BucketOptions) string {
	t.Helper()
	client := s.client(t)
	err := client.MakeBucket(t.Context(), name, miniogo.MakeBucketOptions{ObjectLocking: o.Lock || o.DefaultMode != ""})
	if err == nil && o.Versioning {
		err = client.EnableVersioning(t.Context(), name)
	}
	if err == nil && o.DefaultMode != "" {
		mode, days := miniogo.RetentionMode(strings.ToUpper(o.DefaultMode)), miniogo.Days
		err = client.SetBucketObjectLockConfig(t.Context(), name, &mode, &o.DefaultDays, &days)
	}
	if err != nil {
		t.Fatalf("make bucket %s: %v", name, err)
	}
	return name
}

// RemoveBucket removes a bucket and all in it.
func (s *Server) RemoveBucket(t testing.TB, name string) {
	t.Helper()
	err := s.client(t).RemoveBucketWithOptions(t.Context(), name, miniogo.RemoveBucketOptions{ForceDelete: true})
	if err != nil {
		t.Fatalf("remove bucket %s: %v", name, err)
	}
}

// Restricted returns temporary credentials that may do what the policy (S3
// policy JSON) allows, and nothing else.
func (s *Server) Restricted(t testing.TB, policy string) (accessKey, secretKey, sessionToken string) {
	t.Helper()
	sts, err := credentials.NewSTSAssumeRole(s.url(), credentials.STSAssumeRoleOptions{
		AccessKey: s.AccessKey,
		SecretKey: s.SecretKey,
		Policy:    policy,
	})
	if err != nil {
		t.Fatalf("restricted credentials: %v", err)
	}
	v, err := sts.GetWithContext(&credentials.CredContext{Client: s.httpClient()})
	if err != nil {
		t.Fatalf("restricted credentials: %v", err)
	}
	return v.AccessKeyID, v.SecretAccessKey, v.SessionToken
}

// Stop asks the process to end, and returns when it has.
func (s *Server) Stop() { s.end(syscall.SIGTERM) }

// Kill ends the process as a power cut would, and returns when it is gone.
// A stopped server stays stopped.
func (s *Server) Kill() { s.end(syscall.SIGKILL) }

// Restart starts the server again with the same port and data. It stops a
// running process first.
func (s *Server) Restart() {
	s.t.Helper()
	s.Stop()
	if err := s.run(); err != nil {
		s.t.Fatalf("restart minio: %v", err)
	}
}

func (s *Server) end(sig os.Signal) {
	s.t.Helper()
	if s.process == nil {
		return
	}
	p := s.process
	s.process = nil
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.t.Errorf("signal minio: %v", err)
	}
	select {
	case <-p.done:
		return
	case <-time.After(stopIn):
		s.t.Errorf("minio ignored %v for %v:\n%s", sig, stopIn, p.output.String())
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.t.Errorf("kill minio: %v", err)
	}
	<-p.done
}

// run starts the process and waits until it is ready, or has ended.
func (s *Server) run() error {
	p := &process{done: make(chan struct{})}
	p.cmd = exec.Command(s.binary, "server", "--quiet", "--address", s.Endpoint, "--certs-dir", s.certsDir, s.DataDir)
	p.cmd.Env = []string{
		"HOME=" + s.certsDir,
		"MINIO_ROOT_USER=" + s.AccessKey,
		"MINIO_ROOT_PASSWORD=" + s.SecretKey,
		"MINIO_BROWSER=off",
		"MINIO_UPDATE=off",
		"NO_PROXY=*",
	}
	p.cmd.Env = append(p.cmd.Env, s.env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	endWithParent(p.cmd)
	if err := p.cmd.Start(); err != nil {
		return err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	s.process = p

	ctx, cancel := context.WithTimeout(context.Background(), readyIn)
	defer cancel()
	client := s.httpClient()
	defer client.CloseIdleConnections()
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	for !healthy(ctx, client, s.url()) {
		select {
		case <-p.done:
			s.process = nil
			return fmt.Errorf("it ended: %v\n%s", p.err, p.output.String())
		case <-ctx.Done():
			s.Kill()
			return fmt.Errorf("not ready in %v:\n%s", readyIn, p.output.String())
		case <-poll.C:
		}
	}
	return nil
}

// healthy reports whether the server is ready to read and write.
func healthy(ctx context.Context, client *http.Client, url string) bool {
	for _, check := range []string{"/minio/health/live", "/minio/health/cluster"} {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+check, nil)
		if err != nil {
			return false
		}
		resp, err := client.Do(req)
		if err != nil {
			return false
		}
		if resp.Body.Close() != nil || resp.StatusCode != http.StatusOK {
			return false
		}
	}
	return true
}

func (s *Server) url() string {
	if s.pool != nil {
		return "https://" + s.Endpoint
	}
	return "http://" + s.Endpoint
}

func (s *Server) httpClient() *http.Client {
	return &http.Client{Transport: s.transport()}
}

func (s *Server) transport() *http.Transport {
	return &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.pool}, IdleConnTimeout: time.Second}
}

func (s *Server) client(t testing.TB) *miniogo.Client {
	t.Helper()
	c, err := miniogo.New(s.Endpoint, &miniogo.Options{
		Creds:        credentials.NewStaticV4(s.AccessKey, s.SecretKey, ""),
		Secure:       s.pool != nil,
		Transport:    s.transport(),
		Region:       "us-east-1",
		BucketLookup: miniogo.BucketLookupPath,
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// process is one run of the binary. err is set when done is closed.
type process struct {
	cmd    *exec.Cmd
	output output
	done   chan struct{}
	err    error
}

// output keeps what a process wrote.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

func findBinary(t testing.TB) string {
	t.Helper()
	path := os.Getenv("EMBASSY_MINIO")
	if path == "" {
		_, file, _, ok := runtime.Caller(0)
		if !ok {
			t.Fatal("where is the module?")
		}
		path = filepath.Join(filepath.Dir(file), "..", "..", ".tools", "bin", "minio")
	}
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("no MinIO binary: run make tools (%v)", err)
		}
		t.Skip("no MinIO binary: run make tools")
	}
	return path
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return l.Addr().String()
}
