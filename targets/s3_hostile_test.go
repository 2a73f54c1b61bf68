package targets_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"embassy/targets"
)

// hostile opens a bucket with short timeouts on a server that answers as it likes.
func hostile(t *testing.T, answer http.HandlerFunc) *targets.S3 {
	t.Helper()
	return openS3(t, hostileConfig(t, answer))
}

func hostileConfig(t *testing.T, answer http.HandlerFunc) targets.S3Config {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A server that has not read the whole request does not notice that
		// its client has gone, so the end of the test ends the answer.
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(t.Context(), cancel)()
		answer(w, r.WithContext(ctx))
	}))
	t.Cleanup(srv.Close)
	return targets.S3Config{
		Endpoint: strings.TrimPrefix(srv.URL, "http://"), Bucket: "bucket", AccessKey: "key", SecretKey: "secret",
		HeaderTimeout: 300 * time.Millisecond, StallTimeout: 300 * time.Millisecond, AnswerTimeout: 600 * time.Millisecond,
	}
}

// s3Header makes an answer look like one from S3.
func s3Header(w http.ResponseWriter) {
	w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
	w.Header().Set("ETag", `"d41d8cd98f00b204e9800998ecf8427e"`)
}

func endless(w http.ResponseWriter, r *http.Request) {
	filler := bytes.Repeat([]byte("<a>endless</a>"), 4096)
	for r.Context().Err() == nil {
		if _, err := w.Write(filler); err != nil {
			return
		}
	}
}

// drip sends a byte every tenth of the stall timeout, for ever.
func drip(w http.ResponseWriter, r *http.Request) {
	tick := time.NewTicker(30 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
			if _, err := w.Write([]byte(" ")); err != nil {
				return
			}
			w.(http.Flusher).Flush()
		}
	}
}

func silent(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func headerThenSilent(w http.ResponseWriter, r *http.Request) {
	s3Header(w)
	w.Header().Set("Content-Length", "1000")
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	silent(w, r)
}

func TestS3HostileAnswersEnd(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		spared string // methods that need no body, or for which the answer is right
	}{
		{"endless error", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500); endless(w, r) }, ""},
		{"endless success", func(w http.ResponseWriter, r *http.Request) { s3Header(w); endless(w, r) }, "put get delete"},
		{"endless no header", endless, "delete"},
		{"dripping error", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500); drip(w, r) }, ""},
		{"silent", silent, ""},
		{"silent after the header", headerThenSilent, "put stat delete"},
		{"html", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, "<html><body>Welcome to the hotel network</body></html>")
		}, "delete"},
		{"html that claims to be an object", func(w http.ResponseWriter, _ *http.Request) {
			s3Header(w)
			_, _ = io.WriteString(w, "<html><body>Welcome to the hotel network</body></html>")
		}, "put stat delete"},
		{"redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusTemporaryRedirect)
		}, ""},
		{"huge header", func(w http.ResponseWriter, _ *http.Request) {
			s3Header(w)
			w.Header().Set("X-Huge", strings.Repeat("x", 1<<20))
		}, ""},
		{"server error", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			for op, err := range everyOp(t.Context(), hostile(t, c.answer), make([]byte, 1<<20)) {
				if err == nil && !strings.Contains(c.spared, op) {
					t.Errorf("%s believed the answer", op)
				}
				if errors.Is(err, targets.ErrNotFound) || errors.Is(err, targets.ErrDenied) || errors.Is(err, targets.ErrNoStore) {
					t.Errorf("%s: %v, which the server did not say", op, err)
				}
			}
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("five operations took %v", took)
			}
		})
	}
}

// A server that does not read what it is sent.
func TestS3UploadStall(t *testing.T) {
	target := hostile(t, silent)
	err := target.Put(t.Context(), object("a", make([]byte, 64<<20)))
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Put: %v, want os.ErrDeadlineExceeded", err)
	}
}

func TestS3DownloadStall(t *testing.T) {
	target := hostile(t, headerThenSilent)
	r, err := target.Get(t.Context(), "a", 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read: %v, want os.ErrDeadlineExceeded", err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

// A reader that is read slowly is not a stalled server.
func TestS3SlowConsumer(t *testing.T) {
	const size = 8 << 20
	data := bytes.Repeat([]byte("x"), size)
	target := hostile(t, func(w http.ResponseWriter, r *http.Request) {
		s3Header(w)
		http.ServeContent(w, r, "", time.Now(), bytes.NewReader(data))
	})
	r, err := target.Get(t.Context(), "a", 0, size)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond) // longer than the stall timeout: this is what is tested
	if n, err := io.Copy(io.Discard, r); err != nil || n != size-1000 {
		t.Errorf("read %d more bytes, %v", n, err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

// A body that drips is no stall; cancelling ends it.
func TestS3DrippingObject(t *testing.T) {
	target := hostile(t, func(w http.ResponseWriter, r *http.Request) {
		s3Header(w)
		w.Header().Set("Content-Length", "1000000")
		drip(w, r)
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	r, err := target.Get(ctx, "a", 0, 1000000)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, r); !errors.Is(err, context.DeadlineExceeded) || n == 0 {
		t.Errorf("read %d bytes: %v, want context.DeadlineExceeded", n, err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

func TestS3GetAnswers(t *testing.T) {
	const size, offset, length = 1000, 100, 50
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i)
	}
	want := data[offset : offset+length]
	part := func(contentRange string, body []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			s3Header(w)
			w.Header().Set("Content-Range", contentRange)
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(body)
		}
	}
	whole := func(body []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			s3Header(w)
			_, _ = w.Write(body)
		}
	}
	status := func(code int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			_, _ = io.WriteString(w, body)
		}
	}
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		want   error // nil: the right bytes
	}{
		{"the range", part("bytes 100-149/1000", want), nil},
		{"the range, total unknown", part("bytes 100-149/*", want), targets.ErrCorrupt},
		{"the whole object", whole(data), nil},
		{"the whole object, length unknown", func(w http.ResponseWriter, _ *http.Request) {
			s3Header(w)
			w.(http.Flusher).Flush()
			_, _ = w.Write(data)
		}, nil},
		{"endless object", func(w http.ResponseWriter, r *http.Request) {
			s3Header(w)
			_, _ = w.Write(data)
			endless(w, r)
		}, nil},
		{"object ends within the range", part("bytes 100-119/120", data[100:120]), io.ErrUnexpectedEOF},
		{"object ends before the range", status(http.StatusRequestedRangeNotSatisfiable, ""), io.ErrUnexpectedEOF},
		{"the whole object, too short", whole(data[:120]), targets.ErrCorrupt},
		{"the whole object, too short, length unknown", func(w http.ResponseWriter, _ *http.Request) {
			s3Header(w)
			w.(http.Flusher).Flush()
			_, _ = w.Write(data[:120])
		}, io.ErrUnexpectedEOF},
		{"another range", part("bytes 0-49/1000", data[:50]), targets.ErrCorrupt},
		{"less than the range", part("bytes 100-139/1000", data[100:140]), targets.ErrCorrupt},
		{"more than the range", part("bytes 100-159/1000", data[100:160]), targets.ErrCorrupt},
		{"fewer bytes than its range says", part("bytes 100-149/1000", want[:40]), targets.ErrCorrupt},
		{"more bytes than its range says", part("bytes 100-149/1000", data[100:160]), targets.ErrCorrupt},
		{"nonsense range", part("bytes x-y/z", want), targets.ErrCorrupt},
		{"overflowing range", part("bytes 100-99999999999999999999/1000", want), targets.ErrCorrupt},
		{"no such key", status(404, `<Error><Code>NoSuchKey</Code><Message>gone</Message></Error>`), targets.ErrNotFound},
		{"no such bucket", status(404, `<Error><Code>NoSuchBucket</Code></Error>`), targets.ErrNoStore},
		{"forbidden", status(403, ""), targets.ErrDenied},
	} {
		t.Run(c.name, func(t *testing.T) {
			var asked atomic.Value
			target := hostile(t, func(w http.ResponseWriter, r *http.Request) {
				asked.Store(r.Header.Get("Range"))
				c.answer(w, r)
			})
			r, err := target.Get(t.Context(), "a", offset, length)
			var got []byte
			if err == nil {
				got, err = io.ReadAll(r)
				if err := r.Close(); err != nil {
					t.Error(err)
				}
			}
			if asked.Load() != "bytes=100-149" {
				t.Errorf("asked for %v", asked.Load())
			}
			if c.want == nil && (err != nil || !bytes.Equal(got, want)) {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
			if !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
		})
	}
}

// A connection that breaks says nothing about the object.
func TestS3BrokenConnection(t *testing.T) {
	target := hostile(t, func(w http.ResponseWriter, _ *http.Request) {
		s3Header(w)
		w.Header().Set("Content-Length", "1000")
		_, _ = w.Write(make([]byte, 500))
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	r, err := target.Get(t.Context(), "a", 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.ReadAll(r)
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("error %v, want one other than io.ErrUnexpectedEOF", err)
	}
}

// page writes one page of a listing.
func page(w io.Writer, truncated bool, token string, keys ...string) {
	_, _ = fmt.Fprintf(w, `<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name>`)
	for _, key := range keys {
		_, _ = fmt.Fprintf(w, `<Contents><Key>%s</Key><LastModified>2024-01-02T03:04:05.678Z</LastModified><Size>7</Size></Contents>`, key)
	}
	_, _ = fmt.Fprintf(w, `<IsTruncated>%v</IsTruncated><NextContinuationToken>%s</NextContinuationToken><EncodingType>url</EncodingType></ListBucketResult>`, truncated, token)
}

func TestS3ListAnswers(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer func(w http.ResponseWriter, request int)
		want   string // names, separated by blanks
		fails  bool
		most   int // requests
	}{
		{"two pages", func(w http.ResponseWriter, n int) {
			if n == 0 {
				page(w, true, "next", "p/a", "p/b%2Dc")
			} else {
				page(w, false, "", "p/d")
			}
		}, "p/a p/b-c p/d", false, 2},
		{"names that are no objects", func(w http.ResponseWriter, _ int) {
			page(w, false, "", "p/%01", "p/README.md", "p/a", "p/a%2F", "p/a%2F%2Fb")
		}, "p/a", false, 1},
		{"the same page for ever", func(w http.ResponseWriter, _ int) { page(w, true, "next", "p/a", "p/b") }, "p/a p/b", true, 2},
		{"empty pages for ever", func(w http.ResponseWriter, n int) { page(w, true, strconv.Itoa(n)) }, "", true, 20},
		{"an empty page", func(w http.ResponseWriter, n int) {
			if n == 0 {
				page(w, true, "next")
			} else {
				page(w, false, "", "p/a")
			}
		}, "p/a", false, 2},
		{"truncated without a token", func(w http.ResponseWriter, _ int) { page(w, true, "", "p/a") }, "p/a", true, 1},
		{"out of order", func(w http.ResponseWriter, _ int) { page(w, false, "", "p/b", "p/a") }, "p/b", true, 1},
		{"twice the same", func(w http.ResponseWriter, _ int) { page(w, false, "", "p/a", "p/a") }, "p/a", true, 1},
		{"outside the prefix", func(w http.ResponseWriter, _ int) { page(w, false, "", "p/a", "q/a") }, "p/a", true, 1},
		{"too long", func(w http.ResponseWriter, _ int) { page(w, false, "", "p/a", "p/b"+strings.Repeat("x", 1100)) }, "p/a", true, 1},
		{"bad escape", func(w http.ResponseWriter, _ int) { page(w, false, "", "p/a", "p/b%zz") }, "p/a", true, 1},
		{"not a listing", func(w http.ResponseWriter, _ int) { _, _ = io.WriteString(w, "<Other/>") }, "", true, 1},
		{"cut off", func(w http.ResponseWriter, _ int) {
			_, _ = io.WriteString(w, "<ListBucketResult><Contents><Key>p/a</Key></Contents>")
		}, "", true, 1},
		{"negative size", func(w http.ResponseWriter, _ int) {
			_, _ = io.WriteString(w, "<ListBucketResult><Contents><Key>p/a</Key><Size>-1</Size></Contents></ListBucketResult>")
		}, "", true, 1},
		{"too many keys in a page", func(w http.ResponseWriter, _ int) {
			_, _ = io.WriteString(w, "<ListBucketResult>"+strings.Repeat("<Contents/>", 1<<20)+"</ListBucketResult>")
		}, "", true, 1},
		{"clock", func(w http.ResponseWriter, _ int) {
			w.WriteHeader(403)
			_, _ = io.WriteString(w, "<Error><Code>RequestTimeTooSkewed</Code><Message>\x1b[31mred</Message></Error>")
		}, "", true, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var requests atomic.Int32
			target := hostile(t, func(w http.ResponseWriter, _ *http.Request) {
				c.answer(w, int(requests.Add(1))-1)
			})
			var names []string
			var last error
			for info, err := range target.List(t.Context(), "p/") {
				if last != nil {
					t.Fatal("the listing went on after an error")
				}
				if last = err; err == nil {
					names = append(names, info.Name)
					if info.Size != 7 || info.Modified.Year() != 2024 {
						t.Errorf("listed %+v", info)
					}
				}
			}
			if got := strings.Join(names, " "); got != c.want {
				t.Errorf("listed %q, want %q", got, c.want)
			}
			if (last != nil) != c.fails {
				t.Errorf("error %v, want one: %v", last, c.fails)
			}
			if n := int(requests.Load()); n > c.most {
				t.Errorf("%d requests, at most %d expected", n, c.most)
			}
			if last != nil && strings.Contains(last.Error(), "\x1b") {
				t.Errorf("the server's escape sequences reach the terminal: %q", last)
			}
		})
	}
}

// A fault of the server is told in words: without the URL of the request, and
// without the name of an object.
func TestS3FaultsInWords(t *testing.T) {
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	for name, c := range map[string]struct {
		server string
		secure bool
		want   string
	}{
		"refused":    {closed.URL, false, " refuses connections"},
		"plain http": {plain.URL, true, " speaks plain http: write s3+http, or another port"},
		"no bucket":  {plain.URL, false, "no bucket \"bucket\" at "},
	} {
		t.Run(name, func(t *testing.T) {
			address := strings.TrimPrefix(c.server, "http://")
			target := openS3(t, targets.S3Config{Endpoint: address, Secure: c.secure, Bucket: "bucket", AccessKey: "k", SecretKey: "s"})
			said := ""
			for _, err := range target.List(t.Context(), "some/name") {
				said = fmt.Sprint(err)
			}
			if !strings.Contains(said, c.want) || !strings.Contains(said, address) || strings.Contains(said, "some") || strings.Contains(said, "://") {
				t.Errorf("error %q, want %q", said, c.want)
			}
			if name == "refused" {
				if err := target.Put(t.Context(), object("some/name", []byte("x"))); !errors.Is(err, syscall.ECONNREFUSED) || strings.Contains(err.Error(), "some") {
					t.Errorf("put: error %q", err)
				}
			}
		})
	}
}

func TestS3ErrorHints(t *testing.T) {
	for code, hint := range map[string]string{
		"RequestTimeTooSkewed":         "clock",
		"AuthorizationHeaderMalformed": "region",
		"SlowDown":                     "SlowDown (HTTP 503)",
	} {
		target := hostile(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(map[bool]int{true: 503, false: 403}[code == "SlowDown"])
			_, _ = fmt.Fprintf(w, "<Error><Code>%s</Code></Error>", code)
		})
		err := target.Put(t.Context(), object("some/name", []byte("x")))
		for _, want := range []string{"put: ", code, hint} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error %v does not contain %q", code, err, want)
			}
		}
		if busy := code == "SlowDown"; errors.Is(err, targets.ErrBusy) != busy {
			t.Errorf("%s: busy is %v", code, !busy)
		}
	}
}

// No call is made twice: retrying is the caller's business.
func TestS3NoRetries(t *testing.T) {
	var mu sync.Mutex
	calls := make(map[string]int)
	target := hostile(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		calls[r.Method]++
		w.WriteHeader(503)
	})
	everyOp(t.Context(), target, []byte("x"))
	mu.Lock()
	defer mu.Unlock()
	for method, n := range map[string]int{"PUT": 1, "GET": 2, "HEAD": 1, "DELETE": 1} {
		if calls[method] != n {
			t.Errorf("%d %s requests, want %d", calls[method], method, n)
		}
	}
}

func TestOpenS3Refuses(t *testing.T) {
	good := targets.S3Config{Endpoint: "127.0.0.1:9000", Bucket: "bucket", AccessKey: "key", SecretKey: "secret"}
	for _, c := range []struct {
		name   string
		change func(*targets.S3Config)
		text   string // "": accepted
	}{
		{"loopback", func(*targets.S3Config) {}, ""},
		{"loopback by name", func(c *targets.S3Config) { c.Endpoint = "localhost:9000" }, ""},
		{"loopback, version 6", func(c *targets.S3Config) { c.Endpoint = "[::1]:9000" }, ""},
		{"plain http elsewhere", func(c *targets.S3Config) { c.Endpoint = "s3.example.com:9000" }, "insecure: true"},
		{"plain http without a port", func(c *targets.S3Config) { c.Endpoint = "s3.example.com" }, "insecure: true"},
		{"a name that looks like loopback", func(c *targets.S3Config) { c.Endpoint = "127.0.0.1.example.com:80" }, "insecure: true"},
		{"plain http allowed", func(c *targets.S3Config) { c.Endpoint, c.Insecure = "s3.example.com:9000", true }, ""},
		{"https", func(c *targets.S3Config) { c.Endpoint, c.Secure = "s3.example.com:443", true }, ""},
		{"no host", func(c *targets.S3Config) { c.Endpoint = ":9000" }, "no host"},
		{"no bucket", func(c *targets.S3Config) { c.Bucket = "" }, "bucket name"},
		{"bad prefix", func(c *targets.S3Config) { c.Prefix = "a/../b" }, "prefix"},
		{"no access key", func(c *targets.S3Config) { c.AccessKey = "" }, "credentials"},
		{"no secret key", func(c *targets.S3Config) { c.SecretKey = "" }, "credentials"},
		{"CA file with http", func(c *targets.S3Config) { c.CAFile = "ca.pem" }, "CA file"},
		{"missing CA file", func(c *targets.S3Config) { c.Secure, c.CAFile = true, t.TempDir()+"/ca.pem" }, "CA file"},
		{"empty CA file", func(c *targets.S3Config) { c.Secure, c.CAFile = true, os.DevNull }, "no PEM certificate"},
		{"negative timeout", func(c *targets.S3Config) { c.StallTimeout = -1 }, "negative"},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := good
			c.change(&config)
			_, err := targets.OpenS3(config)
			if c.text == "" && err != nil || c.text != "" && (err == nil || !strings.Contains(err.Error(), c.text)) {
				t.Errorf("error %v, want %q", err, c.text)
			}
			if err != nil && strings.Contains(err.Error(), "secret\"") {
				t.Errorf("the error shows the secret key: %v", err)
			}
		})
	}
}
