package targets_test

import (
	"strings"
	"testing"

	"embassy/targets"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]targets.Location{
		"s3+https://s3.tallinn.example:9000/embassy": {Scheme: "s3+https", Endpoint: "s3.tallinn.example:9000", Bucket: "embassy"},
		"s3+https://s3.example/embassy":              {Scheme: "s3+https", Endpoint: "s3.example", Bucket: "embassy"},
		"s3+http://127.0.0.1:9000/bucket/a/B_c.d":    {Scheme: "s3+http", Endpoint: "127.0.0.1:9000", Bucket: "bucket", Prefix: "a/B_c.d"},
		"s3+http://[::1]:9000/buc.ket-1":             {Scheme: "s3+http", Endpoint: "[::1]:9000", Bucket: "buc.ket-1"},
		"dir:/mnt/vault":                             {Scheme: "dir", Path: "/mnt/vault"},
		"dir:relative/vault":                         {Scheme: "dir", Path: "relative/vault"},
		"dir:./with space@x":                         {Scheme: "dir", Path: "./with space@x"},
		`dir:C:\vault`:                               {Scheme: "dir", Path: `C:\vault`},
	} {
		got, err := targets.Parse(text)
		if err != nil {
			t.Errorf("Parse(%q): %v", text, err)
			continue
		}
		if got != want {
			t.Errorf("Parse(%q) = %+v, want %+v", text, got, want)
		}
		if got.String() != text {
			t.Errorf("Parse(%q) prints as %q", text, got)
		}
	}
	trailing, err := targets.Parse("s3+https://host:1/bucket/")
	if err != nil || trailing.String() != "s3+https://host:1/bucket" {
		t.Errorf("a trailing slash: %q, %v", trailing, err)
	}
}

func TestParseRefuses(t *testing.T) {
	const want = "write s3+https://HOST:PORT/BUCKET"
	for text, hint := range map[string]string{
		"":                                   want,
		"/mnt/vault":                         "write dir:/mnt/vault",
		"vault":                              "write dir:vault",
		"./a:b":                              "write dir:./a:b",
		"s3.example.com:9000/bucket":         "s3+https://HOST:PORT/BUCKET",
		"https://host:9000/bucket":           want,
		"http://host:9000/bucket":            "write s3+http://HOST:PORT/BUCKET",
		"s3://bucket/prefix":                 want,
		"file:///mnt/vault":                  "write dir:/mnt/vault",
		"ftp://host/bucket":                  want,
		"dir:":                               "write dir:/PATH",
		"dir:///mnt/vault":                   "write dir:/mnt/vault",
		"s3+https:host/bucket":               want,
		"s3+https:///bucket":                 want,
		"s3+https://host:9000":               want,
		"s3+https://host:9000/":              want,
		"s3+https://host:0/bucket":           want,
		"s3+https://host:99999/bucket":       want,
		"s3+https://host:/bucket":            want,
		"s3+https://host:port/bucket":        want,
		"s3+https://ho st/bucket":            want,
		"s3+https://host/Bucket":             want,
		"s3+https://host/-bucket":            want,
		"s3+https://host/bu..cket":           want,
		"s3+https://host/ab":                 want,
		"s3+https://host/bucket//a":          want,
		"s3+https://host/bucket/../a":        want,
		"s3+https://host/bucket/.a":          want,
		"s3+https://host/bucket/a%20b":       want,
		"s3+https://host/bucket?region=x":    want,
		"s3+https://host/bucket#x":           want,
		"s3+https://AK:HIDDEN@host/bucket":   "credentials",
		"https://AK:HIDDEN@host/bucket":      "credentials",
		"AK:HIDDEN@host/bucket":              "credentials",
		"s3+https://host/bucket/AK:HIDDEN@x": "credentials",
	} {
		got, err := targets.Parse(text)
		if err == nil {
			t.Errorf("Parse(%q) = %+v", text, got)
			continue
		}
		if !strings.Contains(err.Error(), hint) {
			t.Errorf("Parse(%q): %q does not say %q", text, err, hint)
		}
		if strings.Contains(err.Error(), "HIDDEN") {
			t.Errorf("Parse(%q) repeats the credentials: %v", text, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"s3+https://host:1/bucket/prefix", "s3+http://[::1]:9/abc", "dir:/a", "dir:a", "s3+https://u:p@h/abc"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		first, err := targets.Parse(text)
		if err != nil {
			return
		}
		second, err := targets.Parse(first.String())
		if err != nil || second != first {
			t.Errorf("Parse(%q) = %+v, which prints as %q and parses to %+v, %v", text, first, first, second, err)
		}
	})
}
