package targets_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"embassy/integration/minio"
	"embassy/targets"
	"embassy/targets/targettest"
)

func TestS3(t *testing.T) {
	srv := minio.Start(t)
	t.Run("whole bucket", func(t *testing.T) { testS3(t, srv, "") })
	t.Run("below a prefix", func(t *testing.T) { testS3(t, srv, "Some/pre.fix_1") })
}

func TestS3TLS(t *testing.T) {
	srv := minio.Start(t, minio.TLS())
	testS3(t, srv, "")

	t.Run("unknown CA", func(t *testing.T) {
		config := s3Config(srv, srv.Bucket(t, "unknown-ca"))
		config.CAFile = ""
		if _, err := openS3(t, config).Stat(t.Context(), "a"); err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("Stat without the CA: %v", err)
		}
	})
}

func testS3(t *testing.T, srv *minio.Server, prefix string) {
	var buckets atomic.Int32
	configs := make(map[targets.Target]targets.S3Config)
	open := func(t *testing.T, config targets.S3Config) targets.Target {
		s := openS3(t, config)
		configs[s] = config
		return s
	}
	targettest.Test(t,
		func(t *testing.T) targets.Target {
			name := fmt.Sprintf("b%d-%d", len(prefix), buckets.Add(1))
			config := s3Config(srv, srv.Bucket(t, name))
			config.Prefix = prefix
			return open(t, config)
		},
		targettest.Reopen(func(t *testing.T, first targets.Target) targets.Target { return open(t, configs[first]) }),
		targettest.ChecksHash())
}

func s3Config(srv *minio.Server, bucket string) targets.S3Config {
	return targets.S3Config{
		Endpoint:  srv.Endpoint,
		Secure:    srv.CAFile != "",
		CAFile:    srv.CAFile,
		Bucket:    bucket,
		AccessKey: srv.AccessKey,
		SecretKey: srv.SecretKey,
	}
}

func openS3(t *testing.T, config targets.S3Config) *targets.S3 {
	t.Helper()
	s, err := targets.OpenS3(config)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// everyOp calls each method once and returns their errors.
func everyOp(ctx context.Context, target targets.Target, data []byte) map[string]error {
	errs := make(map[string]error)
	errs["put"] = target.Put(ctx, object("new", data))
	r, err := target.Get(ctx, "there", 0, 1000)
	if err == nil {
		_, err = io.Copy(io.Discard, r)
		err = errors.Join(err, r.Close())
	}
	errs["get"] = err
	_, errs["stat"] = target.Stat(ctx, "there")
	for _, err := range target.List(ctx, "") {
		errs["list"] = err
	}
	errs["delete"] = target.Delete(ctx, "missing")
	return errs
}

func TestS3Refusals(t *testing.T) {
	srv := minio.Start(t)
	config := s3Config(srv, srv.Bucket(t, "refusals"))
	owner := openS3(t, config)
	if err := owner.Put(t.Context(), object("there", make([]byte, 1000))); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(*targets.S3Config)
		want   map[string]error // by method; the others succeed
		text   string
	}{
		{
			name:   "no such bucket",
			change: func(c *targets.S3Config) { c.Bucket = "no-such-bucket" },
			want: map[string]error{"put": targets.ErrNoStore, "get": targets.ErrNoStore, "stat": targets.ErrNoStore,
				"list": targets.ErrNoStore, "delete": targets.ErrNoStore},
			text: "NoSuchBucket",
		},
		{
			name:   "unknown access key",
			change: func(c *targets.S3Config) { c.AccessKey = "nobody" },
			want: map[string]error{"put": targets.ErrDenied, "get": targets.ErrDenied, "stat": targets.ErrDenied,
				"list": targets.ErrDenied, "delete": targets.ErrDenied},
		},
		{
			name:   "wrong secret key",
			change: func(c *targets.S3Config) { c.SecretKey = "wrong-secret" },
			want: map[string]error{"put": targets.ErrDenied, "get": targets.ErrDenied, "stat": targets.ErrDenied,
				"list": targets.ErrDenied, "delete": targets.ErrDenied},
		},
		{
			name: "read-only credentials",
			change: func(c *targets.S3Config) {
				c.AccessKey, c.SecretKey, c.SessionToken = srv.Restricted(t, `{"Version": "2012-10-17", "Statement": [{
					"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket"],
					"Resource": ["arn:aws:s3:::refusals", "arn:aws:s3:::refusals/*"]}]}`)
			},
			want: map[string]error{"put": targets.ErrDenied, "delete": targets.ErrDenied},
			text: "AccessDenied",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := config
			c.change(&config)
			for op, err := range everyOp(t.Context(), openS3(t, config), []byte("x")) {
				want := c.want[op]
				if want == nil && err != nil || want != nil && !errors.Is(err, want) {
					t.Errorf("%s: %v, want %v", op, err, want)
				}
				if err != nil && !strings.Contains(err.Error(), c.text) {
					t.Errorf("%s: %q does not contain %q", op, err, c.text)
				}
			}
		})
	}
}

// What is stored survives the death of the server.
func TestS3KilledServer(t *testing.T) {
	srv := minio.Start(t)
	target := openS3(t, s3Config(srv, srv.Bucket(t, "killed")))
	data := bytes.Repeat([]byte("durable"), 100_000)
	if err := target.Put(t.Context(), object("a/b", data)); err != nil {
		t.Fatal(err)
	}
	srv.Kill()
	if _, err := target.Stat(t.Context(), "a/b"); err == nil || errors.Is(err, targets.ErrNotFound) {
		t.Errorf("Stat on a dead server: %v", err)
	}
	srv.Restart()
	r, err := target.Get(t.Context(), "a/b", 0, int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil || !bytes.Equal(got, data) {
		t.Errorf("after a restart: %d bytes, %v", len(got), err)
	}
}

func TestS3BehindFaults(t *testing.T) {
	srv := minio.Start(t)
	bucket := srv.Bucket(t, "faults")
	proxy := minio.Proxy(t, srv.Endpoint)
	config := s3Config(srv, bucket)
	config.Endpoint = proxy.Endpoint
	config.HeaderTimeout = 500 * time.Millisecond
	config.StallTimeout = 500 * time.Millisecond
	slow := openS3(t, config)
	patient := config
	patient.HeaderTimeout, patient.StallTimeout = 0, 0

	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<20) // 16 MiB: more than socket buffers hold
	sent := proxy.Sent()
	if err := slow.Put(t.Context(), object("there", data)); err != nil {
		t.Fatal(err)
	}
	if n := proxy.Sent() - sent; n < int64(len(data)) || n > int64(len(data))+8<<10 {
		t.Errorf("a put of %d bytes sent %d", len(data), n)
	}

	t.Run("black hole costs the timeouts", func(t *testing.T) {
		proxy.BlackHole()
		defer proxy.Heal()
		start := time.Now()
		for op, err := range everyOp(t.Context(), slow, data) {
			if err == nil || errors.Is(err, targets.ErrNotFound) {
				t.Errorf("%s through a black hole: %v", op, err)
			}
		}
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("five operations took %v", took)
		}
	})
	t.Run("cancelling takes effect at once", func(t *testing.T) {
		proxy.BlackHole()
		defer proxy.Heal()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		start := time.Now()
		for op, err := range everyOp(ctx, openS3(t, patient), data) {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v, want context.DeadlineExceeded", op, err)
			}
		}
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("five operations took %v", took)
		}
	})
	t.Run("cut", func(t *testing.T) {
		proxy.Cut()
		defer proxy.Heal()
		for op, err := range everyOp(t.Context(), slow, data) {
			if err == nil || errors.Is(err, targets.ErrNotFound) {
				t.Errorf("%s through a cut line: %v", op, err)
			}
		}
	})
	t.Run("cut in the middle of an object", func(t *testing.T) {
		defer proxy.Heal()
		r, err := slow.Get(t.Context(), "there", 0, int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		proxy.Cut()
		_, err = io.Copy(io.Discard, r)
		if err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("reading on: %v, want an error other than io.ErrUnexpectedEOF", err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Run("slow is not dead", func(t *testing.T) {
		proxy.Slow(4000)
		defer proxy.Heal()
		start := time.Now()
		target := openS3(t, patient)
		if err := target.Put(t.Context(), object("slow", data[:2<<20])); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took < 300*time.Millisecond {
			t.Errorf("2 MiB at 4 MB/s took %v: the proxy does not slow", took)
		}
	})
	t.Run("healed", func(t *testing.T) {
		var err error
		for range 2 { // an idle connection may still be a dead one
			if err = slow.Put(t.Context(), object("new", data)); err == nil {
				return
			}
		}
		t.Error(err)
	})
}
