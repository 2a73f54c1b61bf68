package targets

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
)

const (
	maxVersionID   = 1024             // bytes; S3 allows no more
	invalidRequest = "InvalidRequest" // the code of many refusals
	day            = 24 * time.Hour
	maxDefaultLock = 100 * 366 // days
)

// checkVersion accepts what a store may call a version.
func checkVersion(id string) error {
	if id == "" || len(id) > maxVersionID {
		return fmt.Errorf("%w: version id of %d bytes", ErrName, len(id))
	}
	return nil
}

func checkMode(mode string) error {
	if mode != "" && mode != "governance" && mode != "compliance" {
		return fmt.Errorf("lock mode %q: write governance or compliance", mode)
	}
	return nil
}

// checkLock accepts a lock with a mode and a time, and none.
func checkLock(l Lock) error {
	if (l.Mode == "") != l.Until.IsZero() {
		return errors.New("a lock needs both a mode and a time")
	}
	return checkMode(l.Mode)
}

// GetVersion implements Versioned.
func (s *S3) GetVersion(ctx context.Context, name, id string, offset, length int64) (io.ReadCloser, error) {
	err := checkVersion(id)
	var body io.ReadCloser
	if err == nil {
		body, err = s.get(ctx, name, id, offset, length)
	}
	if minio.ToErrorResponse(err).Code == minio.MethodNotAllowed {
		err = fmt.Errorf("%w: that version marks a deletion", ErrNotFound)
	}
	if err != nil {
		return nil, failed("get version", s.explain(ctx, err))
	}
	return body, nil
}

// DeleteVersion implements Versioned. A missing version is not an error. It
// never goes past a lock, not even with credentials that may.
func (s *S3) DeleteVersion(ctx context.Context, name, id string) error {
	err := checkVersion(id)
	if err == nil {
		err = s.remove(ctx, name, id)
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return failed("delete version", err)
	}
	return nil
}

// LockOf implements Locker.
func (s *S3) LockOf(ctx context.Context, name string) (Lock, error) {
	if err := CheckName(name); err != nil {
		return Lock{}, failed("read lock", err)
	}
	mode, until, err := s.core.GetObjectRetention(ctx, s.config.Bucket, s.config.Prefix+name, "")
	switch answer := minio.ToErrorResponse(err); answer.Code {
	case "NoSuchObjectLockConfiguration", "ObjectLockConfigurationNotFoundError", invalidRequest:
		return Lock{}, nil
	case minio.MethodNotAllowed: // the newest version marks a deletion
		err = ErrNotFound
	}
	if err = s.explain(ctx, err); errors.Is(err, errors.ErrUnsupported) {
		return Lock{}, nil
	}
	if err != nil {
		return Lock{}, failed("read lock", err)
	}
	if until == nil || *mode == "" {
		return Lock{}, nil
	}
	return Lock{Mode: strings.ToLower(mode.String()), Until: *until}, nil
}

// SetLock implements Locker. The zero Lock removes one. Where the store refuses,
// it is asked once more to go past a governance lock, which it does for
// credentials that may.
func (s *S3) SetLock(ctx context.Context, name string, l Lock) error {
	err := firstErr(CheckName(name), checkLock(l))
	if err == nil {
		err = s.setLock(ctx, name, l, false)
	}
	if errors.Is(err, ErrDenied) {
		err = s.setLock(ctx, name, l, true)
	}
	if err != nil {
		return failed("lock", err)
	}
	return nil
}

func (s *S3) setLock(ctx context.Context, name string, l Lock, bypass bool) error {
	opts := minio.PutObjectRetentionOptions{GovernanceBypass: bypass}
	if l.Mode != "" {
		mode := minio.RetentionMode(strings.ToUpper(l.Mode))
		opts.Mode, opts.RetainUntilDate = &mode, &l.Until
	}
	return s.explainLocked(ctx, s.core.PutObjectRetention(ctx, s.config.Bucket, s.config.Prefix+name, opts))
}

// explainLocked is explain for what a lock may forbid: some servers call that
// an invalid request.
func (s *S3) explainLocked(ctx context.Context, err error) error {
	locked := minio.ToErrorResponse(err).Code == invalidRequest
	if err = s.explain(ctx, err); locked {
		err = fmt.Errorf("%w: %w", ErrDenied, err)
	}
	return err
}

// Features implements Inspected. Clock may be set beside an error: a server
// that refuses a wrong clock says so.
func (s *S3) Features(ctx context.Context) (Features, error) {
	var versioning struct {
		XMLName xml.Name `xml:"VersioningConfiguration"`
		Status  string   `xml:"Status"`
	}
	var locks struct {
		XMLName xml.Name `xml:"ObjectLockConfiguration"`
		Enabled string   `xml:"ObjectLockEnabled"`
		Mode    string   `xml:"Rule>DefaultRetention>Mode"`
		Days    int64    `xml:"Rule>DefaultRetention>Days"`
		Years   int64    `xml:"Rule>DefaultRetention>Years"`
	}
	clock, err := s.setting(ctx, "versioning", &versioning)
	f := Features{Clock: clock}
	if answer := minio.ToErrorResponse(err); err != nil && answer.Code != minio.AccessDenied &&
		answer.StatusCode != http.StatusNotImplemented && answer.StatusCode != http.StatusMethodNotAllowed {
		return f, failed("inspect", s.explain(ctx, err))
	}
	f.Versioning = versioning.Status == minio.Enabled
	clock, err = s.setting(ctx, "object-lock", &locks)
	if !clock.IsZero() {
		f.Clock = clock
	}
	// The bucket is there: any refusal means that it has no locks, or does not tell us.
	if answer := minio.ToErrorResponse(err); err != nil && answer.StatusCode == 0 {
		return f, failed("inspect", s.explain(ctx, err))
	}
	f.Locks = locks.Enabled == minio.Enabled
	if mode := strings.ToLower(locks.Mode); f.Locks && mode != "" && checkMode(mode) == nil {
		days := min(max(locks.Days, 0), maxDefaultLock) + 365*min(max(locks.Years, 0), 100)
		f.DefaultMode, f.DefaultFor = mode, time.Duration(days)*day
	}
	return f, nil
}

// locksByItself reports whether the bucket says that it gives every new object a
// lock as strong as the one that is configured.
func (s *S3) locksByItself(ctx context.Context) bool {
	f, err := s.Features(ctx)
	mode := f.DefaultMode == s.config.Lock.Mode || f.DefaultMode == "compliance"
	return err == nil && mode && f.DefaultFor >= s.config.Lock.For
}

// setting reads one setting of the bucket, and when the server says it answered.
func (s *S3) setting(ctx context.Context, name string, into any) (clock time.Time, err error) {
	resp, err := s.ask(ctx, url.Values{name: {""}})
	if err != nil {
		return time.Time{}, err
	}
	clock, unread := http.ParseTime(resp.Header.Get("Date"))
	if unread != nil {
		clock = time.Time{}
	}
	if resp.StatusCode == http.StatusOK {
		err = xml.NewDecoder(resp.Body).Decode(into)
	} else {
		err = readError(resp)
	}
	return clock, firstErr(err, resp.Body.Close())
}

// PutNew implements Inspected, with If-None-Match.
func (s *S3) PutNew(ctx context.Context, o Object) (created bool, err error) {
	var opts minio.PutObjectOptions
	opts.SetMatchETagExcept("*")
	err = s.put(ctx, o, opts)
	if minio.ToErrorResponse(err).Code == minio.PreconditionFailed {
		return false, nil
	}
	if err != nil {
		return false, failed("put new", s.explain(ctx, err))
	}
	return true, nil
}
