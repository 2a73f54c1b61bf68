package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"embassy/embassy"
	"embassy/embassy/config"
)

// noted is the part of a catalog that a notifier needs.
type noted struct {
	embassy.Catalog
	values map[string][]byte
}

func (n noted) Note(key string, value []byte) error {
	n.values[key] = value
	return nil
}

func (n noted) Notes(prefix string) (map[string][]byte, error) {
	out := map[string][]byte{}
	for key, value := range n.values {
		if rest, ok := strings.CutPrefix(key, prefix); ok {
			out[rest] = value
		}
	}
	return out, nil
}

// TestNotifier tells of each change once, reminds daily, repeats what failed,
// and knows after a restart what people know.
func TestNotifier(t *testing.T) {
	dir := t.TempDir()
	told, broken := filepath.Join(dir, "told"), filepath.Join(dir, "broken")
	script := filepath.Join(dir, "page")
	if err := os.WriteFile(script, []byte("#!/bin/sh\ntest ! -e "+broken+" || { echo no line >&2; exit 9; }\necho $EMBASSY_EVENT $EMBASSY_SUBJECT $EMBASSY_TEXT >>"+told+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	want := func(t *testing.T, lines ...string) {
		t.Helper()
		synctest.Wait()
		data, err := os.ReadFile(told)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if got := strings.FieldsFunc(string(data), func(r rune) bool { return r == '\n' }); !slices.Equal(got, lines) {
			t.Errorf("told %q, want %q", got, lines)
		}
		if err := os.RemoveAll(told); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		kept := noted{values: map[string][]byte{}}
		cfg := &config.Config{Nation: "ee", Notify: config.Notify{Command: []string{script}}}
		live := func() (n *notifier, stop func()) {
			n, err := newNotifier(cfg, kept, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- n.run(ctx) }()
			return n, func() {
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
		}
		n, stop := live()
		ends := func(name string, exit int) {
			t.Helper()
			if err := n.outcome(name, exit, fmt.Sprint("exit ", exit)); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Second)
		}
		ends("a", 0)
		ends("a", 3) // gaps are no alarm
		want(t)
		for range 3 {
			ends("a", 4)
		}
		want(t, "failure a exit 4")
		ends("a", 5)
		want(t, "failure a exit 5")
		ends("b", 1)
		ends("b", 0)
		want(t, "failure b exit 1", "recovery b exit 0")

		// It is not forgotten, by people or by a restart.
		time.Sleep(23 * time.Hour)
		want(t)
		stop()
		kept.values = maps.Clone(kept.values)
		n, stop = live()
		want(t)
		time.Sleep(2 * time.Hour)
		want(t, "failure a exit 5")
		time.Sleep(25 * time.Hour)
		want(t, "failure a exit 5")

		// A command that fails is repeated until it does not.
		if err := os.WriteFile(broken, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		ends("a", 0)
		time.Sleep(10 * time.Minute)
		if got := n.failing(); !strings.Contains(got, "exit status 9: no line") {
			t.Errorf("failing: %q", got)
		}
		if got := n.tallies(); got.failures != 4 || got.pending != 1 { // at 0, 1, 3 and 7 minutes
			t.Errorf("tallies %+v", got)
		}
		if err := os.Remove(broken); err != nil {
			t.Fatal(err)
		}
		stop()
		n, stop = live()
		defer stop()
		time.Sleep(time.Minute)
		want(t, "recovery a exit 0")
		if got := n.failing(); got != "" {
			t.Errorf("failing: %q", got)
		}
	})
}
