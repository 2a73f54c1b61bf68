package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"embassy/catalog"
	"embassy/embassy"
	"embassy/embassy/config"
	"embassy/embassy/format"
	"embassy/embassy/schedule"
	"embassy/targets"
)

func TestHealthzTellsWhatIsWrong(t *testing.T) {
	c, err := catalog.Open(t.TempDir(), catalog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	d := &daemon{
		site: &site{catalog: c}, started: now, log: slog.New(slog.DiscardHandler),
		notify: &notifier{broken: errors.New("no line"), brokenAt: now},
	}
	d.runner, err = schedule.New(schedule.Options{Store: schedule.Keep(c), Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	once, cancel := context.WithCancel(t.Context())
	cancel()
	want := func(code int, words ...string) {
		t.Helper()
		if err := d.watch(once); err != nil {
			t.Fatal(err)
		}
		rec := httptest.NewRecorder()
		d.healthz(rec, nil)
		if rec.Code != code {
			t.Errorf("code %d, want %d", rec.Code, code)
		}
		for _, word := range words {
			if !strings.Contains(rec.Body.String(), word) {
				t.Errorf("no %q in\n%s", word, rec.Body)
			}
		}
	}
	want(http.StatusOK, `"healthy": true`, "notify command has failed since", "no line")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	want(http.StatusServiceUnavailable, `"healthy": false`, "the catalog fails: ", catalog.ErrClosed.Error())
	d.runner, err = schedule.New(schedule.Options{Store: schedule.Keep(c), Now: func() time.Time { return now.Add(-time.Minute) }})
	if err != nil {
		t.Fatal(err)
	}
	want(http.StatusServiceUnavailable, "the scheduler has stood still since", "the catalog fails")
}

// TestLastingTarget: a disk that is not there when the daemon starts, and one
// that is exchanged meanwhile.
func TestLastingTarget(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "disk")
	m := embassy.NewMember("disk", "dir:"+dir, "", nil, targets.ErrNoStore, time.Now)
	m, n := lasting(m, func() (targets.Target, error) {
		return openTarget(config.Target{Name: "disk", URL: "dir:" + dir}, targets.OpenDir)
	})
	if err := m.Down(); err != nil {
		t.Errorf("down from the start: %v", err)
	}
	data := []byte("object")
	put := func() error {
		return m.Target.Put(t.Context(), targets.Object{Name: "a/b", Data: data, SHA256: format.HashOf(data)})
	}
	get := func() (string, error) {
		r, err := m.Target.Get(t.Context(), "a/b", 0, int64(len(data)))
		if err != nil {
			return "", err
		}
		got, err := io.ReadAll(r)
		return string(got), errors.Join(err, r.Close())
	}
	if err := put(); !errors.Is(err, targets.ErrNoStore) {
		t.Errorf("put without a disk: %v", err)
	}
	for range 2 {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := put(); err != nil {
			t.Errorf("put: %v", err)
		}
		if got, err := get(); got != "object" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		if err := os.Rename(dir, filepath.Join(t.TempDir(), "away")); err != nil {
			t.Fatal(err)
		}
		if _, err := get(); !errors.Is(err, targets.ErrNoStore) {
			t.Errorf("get from a disk that is gone: %v", err)
		}
	}
	if sent, received := n.Bytes(targets.OpPut), n.Bytes(targets.OpGet); sent != 12 || received != 12 {
		t.Errorf("%d bytes sent, %d received, want 12 each", sent, received)
	}
	if _, ok := targets.As[*targets.Dir](m.Target); ok {
		t.Error("a disk that is gone has powers")
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, ok := targets.As[*targets.Dir](m.Target); !ok {
		t.Error("the powers of the target are hidden")
	}
}
