package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"embassy/embassy/format"
	"embassy/targets"
)

// Two targets get and give 100 kB each at the same time. The rates of the file
// hold unless a flag overrides them, for one target or for all together.
func TestLimits(t *testing.T) {
	for name, test := range map[string]struct {
		file   string   // the end of the configuration: limits of all
		narrow string   // limits of the target narrow
		flags  []string // of --limit-upload or --limit-download
		whole  time.Duration
		wide   time.Duration // until the other target is done
	}{
		"none":                       {"", "", nil, 0, 0},
		"one target":                 {"", "10kB", nil, 10 * time.Second, 0},
		"all":                        {"20kB", "", nil, 10 * time.Second, 10 * time.Second},
		"both":                       {"100kB", "10kB", nil, 10 * time.Second, 1100 * time.Millisecond},
		"flag for one":               {"", "10kB", []string{"narrow=50kB"}, 2 * time.Second, 0},
		"flag frees one":             {"", "10kB", []string{"narrow=none"}, 0, 0},
		"flag for all":               {"", "", []string{"20kB"}, 10 * time.Second, 10 * time.Second},
		"flag frees all but one":     {"1kB", "10kB", []string{"none"}, 10 * time.Second, 0},
		"flags for all and for each": {"1kB", "1kB", []string{"200kB", "narrow=10kB", "wide=20kB"}, 10 * time.Second, 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			for _, way := range []string{"upload", "download"} {
				t.Run(way, func(t *testing.T) {
					con := limitedSite(t, way, test.file, test.narrow)
					r, err := parseRates("limit-"+way, test.flags)
					if err != nil {
						t.Fatal(err)
					}
					l := limits{upload: r}
					if way == "download" {
						l = limits{download: r}
					}
					synctest.Test(t, func(t *testing.T) {
						whole, wide := passThrough(t, con, l, way)
						within(t, "both targets", whole, test.whole)
						within(t, "the wide target", wide, test.wide)
					})
				})
			}
		})
	}
}

// limitedSite writes a configuration of two targets.
func limitedSite(t *testing.T, way, all, narrow string) *console {
	t.Helper()
	dir := t.TempDir()
	text := "nation: ee\nstate_dir: ./state\ntargets:\n"
	for _, name := range []string{"narrow", "wide"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		text += "  - name: " + name + "\n    url: dir:" + name + "\n"
		if name == "narrow" && narrow != "" {
			text += "    limit_" + way + ": " + narrow + "\n"
		}
	}
	if all != "" {
		text += "limits: {" + way + ": " + all + "}\n"
	}
	config := filepath.Join(dir, "embassy.yaml")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return &console{stdout: io.Discard, stderr: io.Discard, config: config, quiet: true, level: slog.LevelError}
}

// passThrough moves 100 kB to or from each target, and returns how long it took
// for both, and for the wide one.
func passThrough(t *testing.T, con *console, l limits, way string) (whole, wide time.Duration) {
	s, err := con.openLimited(l)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	ctx := context.Background()
	data := make([]byte, 100_000)
	object := targets.Object{Name: "object", Data: data, SHA256: format.HashOf(data)}
	var wg sync.WaitGroup
	if way == "download" {
		free, err := con.openLimited(limits{upload: rates{"": 0, "narrow": 0}})
		if err != nil {
			t.Fatal(err)
		}
		defer free.close()
		for _, m := range free.members {
			if err := m.Target.Put(ctx, object); err != nil {
				t.Fatal(err)
			}
		}
	}
	started := time.Now()
	for _, m := range s.members {
		wg.Go(func() {
			if err := pass(ctx, m.Target, object, way); err != nil {
				t.Error(err)
			}
			if m.Name == "wide" {
				wide = time.Since(started)
			}
		})
	}
	wg.Wait()
	return time.Since(started), wide
}

func pass(ctx context.Context, target targets.Target, object targets.Object, way string) error {
	if way == "upload" {
		return target.Put(ctx, object)
	}
	body, err := target.Get(ctx, object.Name, 0, int64(len(object.Data)))
	if err != nil {
		return err
	}
	defer body.Close()
	_, err = io.Copy(io.Discard, body)
	return err
}

// within allows for the first pieces, which pass at once, and for those of the
// other target that wait in the same queue.
func within(t *testing.T, what string, got, want time.Duration) {
	t.Helper()
	if slack := want/10 + 100*time.Millisecond; got < want-slack || got > want+slack {
		t.Errorf("%s took %s, want %s", what, got, want)
	}
}
