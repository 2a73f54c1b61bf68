package targets_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"embassy/integration/minio"
	"embassy/targets"
	"embassy/targets/targettest"
)

func TestS3Powers(t *testing.T) {
	srv := minio.Start(t)
	var buckets atomic.Int32
	with := func(o minio.BucketOptions) func(t *testing.T) targets.Target {
		return func(t *testing.T) targets.Target {
			config := s3Config(srv, srv.BucketWith(t, fmt.Sprintf("powers%d", buckets.Add(1)), o))
			config.Prefix = "pre/fix"
			return openS3(t, config)
		}
	}
	versions, locks := minio.BucketOptions{Versioning: true}, minio.BucketOptions{Lock: true}
	t.Run("versioned", func(t *testing.T) { targettest.Versioned(t, with(versions)) })
	t.Run("locker", func(t *testing.T) { targettest.Locker(t, with(locks)) })
	for name, c := range map[string]struct {
		has  minio.BucketOptions
		want targets.Features
	}{
		"plain":         {},
		"with versions": {versions, targets.Features{Versioning: true}},
		"with locks":    {locks, targets.Features{Versioning: true, Locks: true}},
		"with a default": {minio.BucketOptions{DefaultMode: "compliance", DefaultDays: 3},
			targets.Features{Versioning: true, Locks: true, DefaultMode: "compliance", DefaultFor: 72 * time.Hour}},
	} {
		t.Run("inspected "+name, func(t *testing.T) { targettest.Inspected(t, c.want, with(c.has)) })
	}

	t.Run("plain bucket", func(t *testing.T) {
		s := with(minio.BucketOptions{})(t).(*targets.S3)
		for range 2 {
			if err := s.Put(t.Context(), object("a", []byte("x"))); err != nil {
				t.Fatal(err)
			}
		}
		seen := 0
		for v, err := range s.Versions(t.Context(), "") {
			if seen++; err != nil || v.Name != "a" || !v.Latest || v.Marker {
				t.Errorf("version %+v, %v", v, err)
			}
		}
		if seen != 1 {
			t.Errorf("%d versions", seen)
		}
		if l, err := s.LockOf(t.Context(), "a"); err != nil || l != (targets.Lock{}) {
			t.Errorf("LockOf = %+v, %v", l, err)
		}
		if err := s.SetLock(t.Context(), "a", targets.Lock{Mode: "governance", Until: time.Now().Add(time.Hour)}); err == nil {
			t.Error("SetLock succeeded in a bucket without locks")
		}
	})
	t.Run("lock at put", func(t *testing.T) {
		bucket := srv.BucketWith(t, "lock-at-put", locks)
		for _, mode := range []string{"governance", "compliance"} {
			config := s3Config(srv, bucket)
			config.Lock = targets.LockRule{Mode: mode, For: time.Hour}
			s := openS3(t, config)
			start := time.Now().Truncate(time.Second)
			if err := s.Put(t.Context(), object(mode, []byte("x"))); err != nil {
				t.Fatal(err)
			}
			if created, err := s.PutNew(t.Context(), object(mode+"-new", []byte("x"))); err != nil || !created {
				t.Fatal(created, err)
			}
			for _, name := range []string{mode, mode + "-new"} {
				l, err := s.LockOf(t.Context(), name)
				if left := l.Until.Sub(start); err != nil || l.Mode != mode || left < time.Hour || left > time.Hour+time.Minute {
					t.Errorf("the lock of %s is %+v, %v", name, l, err)
				}
			}
			wrong := object("wrong", []byte("what was sent"))
			wrong.SHA256[0] ^= 1
			if err := s.Put(t.Context(), wrong); !errors.Is(err, targets.ErrCorrupt) {
				t.Errorf("Put with a wrong hash: %v, want ErrCorrupt", err)
			}
		}
	})
	t.Run("bucket that locks", func(t *testing.T) {
		s := with(minio.BucketOptions{DefaultMode: "governance", DefaultDays: 1})(t).(*targets.S3)
		if err := s.Put(t.Context(), object("a", []byte("x"))); err != nil {
			t.Fatal(err)
		}
		if l, err := s.LockOf(t.Context(), "a"); err != nil || l.Mode != "governance" || time.Until(l.Until) < 23*time.Hour {
			t.Errorf("the lock is %+v, %v", l, err)
		}
	})
	t.Run("poor credentials", func(t *testing.T) {
		bucket := srv.BucketWith(t, "poor", locks)
		rich := openS3(t, s3Config(srv, bucket))
		if err := rich.Put(t.Context(), object("a", []byte("x"))); err != nil {
			t.Fatal(err)
		}
		config := s3Config(srv, bucket)
		config.AccessKey, config.SecretKey, config.SessionToken = srv.Restricted(t, `{"Version": "2012-10-17", "Statement": [{
			"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject"],
			"Resource": ["arn:aws:s3:::poor", "arn:aws:s3:::poor/*"]}]}`)
		poor := openS3(t, config)
		if f, err := poor.Features(t.Context()); err != nil || f.Versioning || f.Locks || f.Clock.IsZero() {
			t.Errorf("Features = %+v, %v; want a clock and nothing else", f, err)
		}
		for _, err := range poor.Versions(t.Context(), "") {
			if !errors.Is(err, targets.ErrDenied) {
				t.Errorf("Versions: %v", err)
			}
		}
		for v, err := range rich.Versions(t.Context(), "") {
			if err != nil {
				t.Fatal(err)
			}
			if err := poor.DeleteVersion(t.Context(), v.Name, v.ID); !errors.Is(err, targets.ErrDenied) {
				t.Errorf("DeleteVersion: %v", err)
			}
		}
		lock := targets.Lock{Mode: "governance", Until: time.Now().Add(time.Hour).Truncate(time.Second)}
		if err := poor.SetLock(t.Context(), "a", lock); !errors.Is(err, targets.ErrDenied) {
			t.Errorf("SetLock: %v", err)
		}
		if l, err := rich.LockOf(t.Context(), "a"); err != nil || l != (targets.Lock{}) {
			t.Errorf("the lock is %+v, %v", l, err)
		}
	})
}

// demanding is a server that keeps to Amazon's rule for buckets that lock.
func demanding(t *testing.T, code string, sums *[]string) *targets.S3 {
	return hostile(t, func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		sum := r.Header.Get("X-Amz-Checksum-Sha256")
		if *sums = append(*sums, sum); sum == "" {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = fmt.Fprintf(w, "<Error><Code>%s</Code><Message>Content-MD5 OR x-amz-checksum- HTTP header is required</Message></Error>", code)
			return
		}
		s3Header(w)
	})
}

// A server that wants a checksum says so once.
func TestS3ChecksumWanted(t *testing.T) {
	var sums []string
	s := demanding(t, "InvalidRequest", &sums)
	o := object("a", []byte("x"))
	for range 3 {
		if err := s.Put(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	sum := base64.StdEncoding.EncodeToString(o.SHA256[:])
	if got, want := strings.Join(sums, " "), strings.Join([]string{"", sum, sum, sum}, " "); got != want {
		t.Errorf("the checksums sent are %q, want %q", got, want)
	}
	sums = nil
	if err := demanding(t, "InvalidArgument", &sums).Put(t.Context(), o); err == nil || len(sums) != 1 {
		t.Errorf("another refusal: %v after %d puts", err, len(sums))
	}
}

func TestS3LockRefused(t *testing.T) {
	for _, lock := range []targets.LockRule{{Mode: "governance"}, {For: time.Hour}, {Mode: "WORM", For: time.Hour}, {Mode: "compliance", For: -time.Hour}} {
		_, err := targets.OpenS3(targets.S3Config{Endpoint: "127.0.0.1:9000", Bucket: "bucket", AccessKey: "k", SecretKey: "s", Lock: lock})
		if err == nil || !strings.Contains(err.Error(), "lock") {
			t.Errorf("lock %+v: %v", lock, err)
		}
	}
}
