package targets_test

import (
	"bytes"
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"embassy/targets"
)

// legacy opens the objects below old/ on a server that answers as it likes.
func legacy(t *testing.T, answer http.HandlerFunc) *targets.Bucket {
	t.Helper()
	config := hostileConfig(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			t.Errorf("a source is asked to %s", r.Method)
		}
		answer(w, r)
	})
	config.Prefix = "old"
	b, err := targets.OpenBucket(config)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// contents is a page of a listing.
func contents(truncated string, items ...string) string {
	return "<ListBucketResult><EncodingType>url</EncodingType>" + truncated + strings.Join(items, "") + "</ListBucketResult>"
}

func item(key string) string { return sized(key, "7", "2024-01-02T03:04:05.678Z") }

func sized(key, size, modified string) string {
	return fmt.Sprintf("<Contents><Key>%s</Key><Size>%s</Size><LastModified>%s</LastModified><ETag>&quot;e&quot;</ETag></Contents>", key, size, modified)
}

func TestBucketList(t *testing.T) {
	const more = "<IsTruncated>true</IsTruncated><NextContinuationToken>next</NextContinuationToken>"
	for name, c := range map[string]struct {
		first, second string // pages
		want          string // keys
		corrupt       bool
		fails         bool
	}{
		"any keys":                {contents(more, item("old/"), item("old/%00%FF"), item("old/../x"), item("old/a+b")), contents("", item("old/a%2F%2Fb"), item("old/a%2Fb")), `["" "\x00\xff" "../x" "a b" "a//b" "a/b"]`, false, false},
		"nothing":                 {contents(""), "", `[]`, false, false},
		"backwards":               {contents("", item("old/b"), item("old/a")), "", `["b"]`, true, true},
		"twice":                   {contents("", item("old/a"), item("old/a")), "", `["a"]`, true, true},
		"the first page again":    {contents(more, item("old/a")), contents(more, item("old/a")), `["a"]`, true, true},
		"outside the prefix":      {contents("", item("old/a"), item("older/a")), "", `["a"]`, true, true},
		"negative size":           {contents("", sized("old/a", "-1", "2024-01-02T03:04:05Z")), "", `[]`, true, true},
		"absurd size":             {contents("", sized("old/a", "9000000000000000000", "2024-01-02T03:04:05Z")), "", `[]`, true, true},
		"no time":                 {contents("", "<Contents><Key>old/a</Key><Size>7</Size></Contents>"), "", `[]`, true, true},
		"too long":                {contents("", item("old/"+strings.Repeat("x", 1100))), "", `[]`, true, true},
		"goes on, not said where": {contents("<IsTruncated>true</IsTruncated>", item("old/a")), "", `["a"]`, false, true},
		"cut":                     {contents("", item("old/a"))[:100], "", `[]`, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			b := legacy(t, func(w http.ResponseWriter, r *http.Request) {
				page := c.first
				if r.URL.Query().Has("continuation-token") {
					page = c.second
				}
				_, _ = io.WriteString(w, page)
			})
			keys := []string{}
			var last error
			for e, err := range b.List(t.Context(), "") {
				if last != nil {
					t.Fatal("the listing went on after an error")
				}
				if last = err; err == nil {
					keys = append(keys, e.Key)
					if e.Size != 7 || e.ETag != "e" || !e.Modified.Equal(time.Date(2024, 1, 2, 3, 4, 5, 678e6, time.UTC)) {
						t.Errorf("listed %+v", e)
					}
				}
			}
			if got := fmt.Sprintf("%q", keys); got != c.want || (last != nil) != c.fails || errors.Is(last, targets.ErrCorrupt) != c.corrupt {
				t.Errorf("listed %s, want %s; error %v", got, c.want, last)
			}
		})
	}
}

// TestBucketLook goes on behind a key, and asks for one.
func TestBucketLook(t *testing.T) {
	var asked []string
	b := legacy(t, func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		asked = append(asked, q.Get("prefix")+" "+q.Get("start-after"))
		_, _ = io.WriteString(w, contents("", item("old/k/b")))
	})
	for _, err := range b.List(t.Context(), "k/a") {
		if err != nil {
			t.Error(err)
		}
	}
	for _, err := range b.List(t.Context(), "k/b") { // what was listed already
		if !errors.Is(err, targets.ErrCorrupt) {
			t.Error(err)
		}
	}
	e, err := b.Look(t.Context(), "k/b")
	_, gone := b.Look(t.Context(), "k/")
	if err != nil || e.Key != "k/b" || e.Size != 7 || !errors.Is(gone, targets.ErrNotFound) {
		t.Errorf("%+v, %v; of what is not there: %v", e, err, gone)
	}
	if got := fmt.Sprintf("%q", asked); got != `["old/ old/k/a" "old/ old/k/b" "old/k/b " "old/k/ "]` {
		t.Errorf("asked for %s", got)
	}
}

func TestBucketOpen(t *testing.T) {
	data := []byte("0123456789")
	sum := md5.Sum(data)
	e := targets.Entry{Key: "a//b c", Size: 10, ETag: fmt.Sprintf("%x", sum)}
	header := func(w http.ResponseWriter, more ...string) {
		s3Header(w)
		w.Header().Set("ETag", `"`+e.ETag+`"`)
		for i := 0; i < len(more); i += 2 {
			w.Header().Set(more[i], more[i+1])
		}
	}
	sends := func(body string, more ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			header(w, more...)
			_, _ = io.WriteString(w, body)
		}
	}
	streams := func(body string) http.HandlerFunc { // without a length
		return func(w http.ResponseWriter, _ *http.Request) {
			header(w)
			w.(http.Flusher).Flush()
			_, _ = io.WriteString(w, body)
		}
	}
	status := func(code int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			_, _ = io.WriteString(w, body)
		}
	}
	part := func(contentRange, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			header(w, "Content-Range", contentRange)
			w.WriteHeader(http.StatusPartialContent)
			_, _ = io.WriteString(w, body)
		}
	}
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		from   int64
		want   error
		noSum  bool
		store  bool // the fault is the store's
	}{
		"whole":                    {answer: sends("0123456789")},
		"whole, no length":         {answer: streams("0123456789")},
		"sealed":                   {answer: sends("0123456789", "X-Amz-Server-Side-Encryption", "aws:kms"), noSum: true},
		"the rest":                 {answer: part("bytes 4-9/10", "456789"), from: 4},
		"the rest, from the start": {answer: sends("0123456789"), from: 4, want: targets.ErrRefused},
		"another rest":             {answer: part("bytes 3-9/10", "3456789"), from: 4, want: targets.ErrCorrupt},
		"shorter":                  {answer: sends("012345678"), want: targets.ErrCorrupt},
		"longer":                   {answer: sends("0123456789x"), want: targets.ErrCorrupt},
		"shorter, no length":       {answer: streams("012345678"), want: targets.ErrCorrupt},
		"longer, no length":        {answer: streams("0123456789x"), want: targets.ErrCorrupt},
		"much longer, no length":   {answer: func(w http.ResponseWriter, r *http.Request) { header(w); endless(w, r) }, want: targets.ErrCorrupt},
		"cut":                      {answer: sends("01234", "Content-Length", "10"), want: targets.ErrUnreadable},
		"another object":           {answer: sends("0123456789", "ETag", `"other"`), want: targets.ErrChanged},
		"changed":                  {answer: status(412, "<Error><Code>PreconditionFailed</Code></Error>"), want: targets.ErrChanged},
		"archived":                 {answer: status(403, "<Error><Code>InvalidObjectState</Code></Error>"), want: targets.ErrDenied},
		"under a customer's key":   {answer: status(400, "<Error><Code>InvalidRequest</Code><Message>SSE-C</Message></Error>"), want: targets.ErrRefused},
		"gone":                     {answer: status(404, "<Error><Code>NoSuchKey</Code></Error>"), want: targets.ErrNotFound},
		"no bucket":                {answer: status(404, "<Error><Code>NoSuchBucket</Code></Error>"), want: targets.ErrNoStore, store: true},
		"busy":                     {answer: status(503, "<Error><Code>SlowDown</Code></Error>"), want: targets.ErrBusy},
	} {
		t.Run(name, func(t *testing.T) {
			b := legacy(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/bucket/old/a//b c" || r.Header.Get("If-Match") != `"`+e.ETag+`"` || (r.Header.Get("Range") == "") != (c.from == 0) {
					t.Errorf("asked for %s %v", r.URL.Path, r.Header)
				}
				c.answer(w, r)
			})
			s, err := b.Open(t.Context(), e, c.from)
			var got []byte
			if err == nil {
				got, err = io.ReadAll(s)
				if closed := s.Close(); closed != nil {
					t.Error(closed)
				}
			}
			if !errors.Is(err, c.want) || c.want == nil && err != nil || targets.OfStore(err) != c.store {
				t.Fatalf("%v, of the store: %t", err, targets.OfStore(err))
			}
			if err == nil && (!bytes.Equal(got, data[c.from:]) || (s.MD5 == nil) != c.noSum || !c.noSum && !bytes.Equal(s.MD5, sum[:])) {
				t.Errorf("read %q, MD5 %x", got, s.MD5)
			}
		})
	}
}

// TestBucketNoETag asks for no rest of an object that may be another one now.
func TestBucketNoETag(t *testing.T) {
	b := legacy(t, func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("asked for %s", r.Header.Get("Range"))
		w.WriteHeader(http.StatusNotFound)
	})
	if _, err := b.Open(t.Context(), targets.Entry{Key: "k", Size: 10}, 4); !errors.Is(err, targets.ErrChanged) {
		t.Error(err)
	}
}

// TestBucketLarge reads an object that is larger than any that a target holds.
func TestBucketLarge(t *testing.T) {
	const size = 200 << 20
	b := legacy(t, func(w http.ResponseWriter, _ *http.Request) {
		s3Header(w)
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("X-Amz-Meta-Owner-Of", "ria")
		w.Header().Set("Content-Length", fmt.Sprint(size))
		zeros := make([]byte, 1<<20)
		for range size >> 20 {
			_, _ = w.Write(zeros)
		}
	})
	s, err := b.Open(t.Context(), targets.Entry{Key: "k", Size: size}, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if n, err := io.Copy(io.Discard, s); n != size || err != nil {
		t.Errorf("%d bytes: %v", n, err)
	}
	if got := fmt.Sprint(s.Header); got != "[{content-type text/plain} {meta.owner-of ria}]" {
		t.Errorf("stored with it: %s", got)
	}
}
