package config_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"embassy/embassy/config"
	"embassy/embassy/policy"

	"github.com/google/go-cmp/cmp"
)

// bytesInJSON is an array of numbers, one a line.
var bytesInJSON = regexp.MustCompile(`\[[\s\d,]+\]`)

var update = flag.Bool("update", false, "write the golden files")

// golden compares got with the file beside the test input.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Error(diff)
	}
}

// inputs calls test for each YAML file of a folder.
func inputs(t *testing.T, folder string, atLeast int, test func(t *testing.T, path string, data []byte)) {
	paths, err := filepath.Glob(filepath.Join("testdata", folder, "*.yaml"))
	if err != nil || len(paths) < atLeast {
		t.Fatalf("%d files in %s, want %d: %v", len(paths), folder, atLeast, err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".yaml"), func(t *testing.T) {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			test(t, path, data)
		})
	}
}

func TestParseGood(t *testing.T) {
	folder, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	inputs(t, "good", 6, func(t *testing.T, path string, _ []byte) {
		c, err := config.Load(path)
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		e := json.NewEncoder(&out)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		if err := e.Encode(c); err != nil {
			t.Fatal(err)
		}
		for _, w := range c.Warnings() {
			fmt.Fprintln(&out, w)
		}
		for _, d := range c.Datasets {
			fmt.Fprintf(&out, "schedule of %s: %s\n", d.Name, d.Schedule)
		}
		text := bytesInJSON.ReplaceAllStringFunc(out.String(), func(list string) string {
			return strings.Join(strings.Fields(list), " ")
		})
		golden(t, strings.TrimSuffix(path, ".yaml")+".golden", strings.ReplaceAll(text, folder, "$TESTDATA"))
	})
}

func TestParseBad(t *testing.T) {
	inputs(t, "bad", 25, func(t *testing.T, path string, data []byte) {
		c, err := config.Parse(filepath.Base(path), data)
		var mistakes *config.Errors
		if c != nil || !errors.As(err, &mistakes) {
			t.Fatalf("config %v, error %v", c, err)
		}
		for _, secret := range []string{"AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI", "correct horse"} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("the message repeats the secret %q", secret)
			}
		}
		lines := strings.Count(string(data), "\n") + 1
		for _, p := range mistakes.Problems {
			if p.Line < 1 || p.Line > lines || p.Column < 1 || p.Message == "" || p.Hint == "" {
				t.Errorf("incomplete: %+v", p)
			}
		}
		folder, wdErr := os.Getwd()
		if wdErr != nil {
			t.Fatal(wdErr)
		}
		golden(t, strings.TrimSuffix(path, ".yaml")+".golden", strings.ReplaceAll(err.Error(), folder, "$DIR")+"\n")
	})
}

// What is wrong with the URL itself is for package targets to say.
func TestParseBadURL(t *testing.T) {
	for _, url := range []string{"https://host/bucket", "s3+https://", "s3+https:///bucket", "/mnt/vault", "dir:", "ftp://x", "s3+https://AKIAIOSFODNN7EXAMPLE:hunter2@host/bucket"} {
		_, err := config.Parse("embassy.yaml", []byte("nation: ee\nstate_dir: s\ntargets:\n  - name: a\n    url: \""+url+"\"\n"))
		var mistakes *config.Errors
		if !errors.As(err, &mistakes) || len(mistakes.Problems) != 1 || !strings.HasPrefix(err.Error(), "embassy.yaml:5:10: ") {
			t.Errorf("%q: %v", url, err)
		} else if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "AKIA") {
			t.Errorf("the message repeats the secret: %v", err)
		}
	}
}

func TestParseTooLarge(t *testing.T) {
	whole, err := os.ReadFile("testdata/good/minimal.yaml")
	if err != nil {
		t.Fatal(err)
	}
	fill := strings.Repeat("#", config.MaxSize-len(whole))
	if _, err := config.Parse("c", append(whole, fill...)); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	path := filepath.Join(t.TempDir(), "embassy.yaml")
	if err := os.WriteFile(path, append(whole, fill+"#"...), 0o600); err != nil {
		t.Fatal(err)
	}
	var mistakes *config.Errors
	if _, err := config.Load(path); !errors.As(err, &mistakes) || !strings.Contains(err.Error(), "larger than 1048576 bytes") {
		t.Errorf("one byte more: %v", err)
	}
}

// A long file with a mistake is refused as fast as a short one, wherever the
// mistake is.
func TestParseLongFileWithSyntaxError(t *testing.T) {
	lines := slices.Repeat([]string{"# a comment"}, config.MaxSize/12-1)
	for _, at := range []int{0, len(lines) / 2, len(lines) - 1} {
		broken := slices.Clone(lines)
		broken[at] = "a: b: c"
		started := time.Now()
		_, err := config.Parse("c", []byte(strings.Join(broken, "\n")))
		if want := fmt.Sprintf("c:%d:1: not valid YAML", at+1); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
		if took := time.Since(started); took > 20*time.Second {
			t.Errorf("took %s", took)
		}
	}
}

func TestLoadMissing(t *testing.T) {
	_, err := config.Load(filepath.Join(t.TempDir(), "embassy.yaml"))
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "--config") {
		t.Error(err)
	}
	if _, err := config.Load(t.TempDir()); err == nil {
		t.Error("a folder was read as a file")
	}
}

func TestLookups(t *testing.T) {
	c, err := config.Load("testdata/good/everything.yaml")
	if err != nil {
		t.Fatal(err)
	}
	target, ok := c.Target("luxembourg")
	if !ok || target.Credentials.Profile != "ee" {
		t.Errorf("%+v, %t", target, ok)
	}
	if k, ok := c.Compartment("official"); !ok || k.Commit != (policy.Rule{Targets: 3, Jurisdictions: 3, Guarded: 2}) {
		t.Errorf("%+v, %t", k, ok)
	}
	if _, ok := c.Target("nowhere"); ok {
		t.Error("found a target that does not exist")
	}
	if _, ok := c.Compartment("nothing"); ok {
		t.Error("found a compartment that does not exist")
	}
}

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"90m": 90 * time.Minute, "6h": 6 * time.Hour, "2d": 48 * time.Hour, "1w": 168 * time.Hour,
		"1h30m": 90 * time.Minute, "1d12h": 36 * time.Hour, "30s": 30 * time.Second,
		"": 0, "0s": 0, "6": 0, "h": 0, "-1h": 0, "1.5h": 0, "6 h": 0, "1y": 0, "2D": 0,
		"9223372036854775807w": 0, "99999999999999999999s": 0, "9223372036s1s": 0,
	} {
		got, err := config.ParseDuration(text)
		if got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %s, %v; want %s", text, got, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, folder := range []string{"good", "bad"} {
		paths, err := filepath.Glob(filepath.Join("testdata", folder, "*.yaml"))
		if err != nil || len(paths) == 0 {
			f.Fatalf("no files in %s: %v", folder, err)
		}
		for _, path := range paths {
			data, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := config.Parse("embassy.yaml", data)
		if err != nil {
			var mistakes *config.Errors
			if !errors.As(err, &mistakes) || len(mistakes.Problems) == 0 {
				t.Fatalf("not a list of mistakes: %v", err)
			}
			return
		}
		for _, k := range c.Compartments {
			var possible []policy.Copy
			for _, ranked := range policy.Order(k.PACE) {
				target, ok := c.Target(ranked.Target)
				if !ok {
					t.Fatalf("compartment %s names target %q", k.Name, ranked.Target)
				}
				possible = append(possible, policy.Copy{Target: target.Name, Jurisdiction: target.Jurisdiction, Guarded: true})
			}
			if k.Rank < 1 || k.ID.IsZero() == c.Keyless() {
				t.Fatalf("compartment %+v in a keyless file: %t", k, c.Keyless())
			}
			if len(possible) == 0 || k.Commit.Targets < 1 || k.Commit.Jurisdictions < 1 || !k.Commit.CanHold(possible) {
				t.Fatalf("compartment %+v cannot commit", k)
			}
		}
		for _, d := range c.Datasets {
			origins := 0
			for _, is := range []bool{len(d.Sources) > 0, !d.S3.IsZero(), !d.Command.IsZero(), d.Stdin} {
				if is {
					origins++
				}
			}
			if origins != 1 || (d.Filename == "") != (len(d.Sources) > 0 || !d.S3.IsZero()) {
				t.Fatalf("dataset from %d origins: %+v", origins, d)
			}
			if _, ok := c.Compartment(d.Compartment); !ok || d.Retention.MinAge <= 0 || c.Keyless() {
				t.Fatalf("dataset %+v", d)
			}
			if now := time.Now(); !d.Schedule.IsZero() && !d.Schedule.Next(now).After(now) {
				t.Fatalf("schedule %s is never due", d.Schedule)
			}
		}
	})
}
