package targets_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
)

// versionPage writes one page of versions, each given as KEY:ID, in which a
// "*" before the key says newest and a "!" marks a deletion. next is the KEY:ID
// where the next page begins, or empty for the last page.
func versionPage(w io.Writer, next string, entries ...string) {
	_, _ = io.WriteString(w, `<?xml version="1.0"?><ListVersionsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name>`)
	for _, e := range entries {
		key, id, _ := strings.Cut(e, ":")
		kind := "Version"
		if strings.HasPrefix(key, "!") {
			key, kind = key[1:], "DeleteMarker"
		}
		bare := strings.TrimPrefix(key, "*")
		_, _ = fmt.Fprintf(w, `<%s><Key>%s</Key><VersionId>%s</VersionId><IsLatest>%v</IsLatest><LastModified>2024-01-02T03:04:05.678Z</LastModified><Size>7</Size></%s>`,
			kind, bare, id, bare != key, kind)
	}
	key, id, more := strings.Cut(next, ":")
	_, _ = fmt.Fprintf(w, `<IsTruncated>%v</IsTruncated><NextKeyMarker>%s</NextKeyMarker><NextVersionIdMarker>%s</NextVersionIdMarker><EncodingType>url</EncodingType></ListVersionsResult>`, more, key, id)
}

func TestS3VersionsAnswers(t *testing.T) {
	many := func(n, from int) []string {
		var entries []string
		for i := range n {
			entries = append(entries, fmt.Sprintf("p/a:%d", from+i))
		}
		return entries
	}
	for _, c := range []struct {
		name   string
		answer func(w http.ResponseWriter, r *http.Request, request int)
		want   string // NAME:ID, with a mark before those that are newest or delete; or a number
		fails  bool
		most   int // requests
	}{
		{"two pages", func(w http.ResponseWriter, r *http.Request, n int) {
			if q := r.URL.Query(); n == 0 {
				versionPage(w, "p/b%2Dc:2", "!*p/a:9", "p/a:8", "*p/b%2Dc:3", "p/b%2Dc:2")
			} else if q.Get("key-marker") != "p/b-c" || q.Get("version-id-marker") != "2" {
				t.Errorf("the second page was asked for with %v", q)
			} else {
				versionPage(w, "", "p/b%2Dc:1", "*p/d:null")
			}
		}, "!*p/a:9 p/a:8 *p/b-c:3 p/b-c:2 p/b-c:1 *p/d:null", false, 2},
		{"no id", func(w http.ResponseWriter, _ *http.Request, _ int) { versionPage(w, "", "*p/a:") }, "*p/a:null", false, 1},
		{"an empty marker of a version", func(w http.ResponseWriter, r *http.Request, n int) {
			if n == 0 {
				versionPage(w, "p/a:", "*p/a:1")
			} else if r.URL.Query().Has("version-id-marker") {
				t.Error("an empty marker was sent")
			} else {
				versionPage(w, "", "*p/b:1")
			}
		}, "*p/a:1 *p/b:1", false, 2},
		{"names that are no objects", func(w http.ResponseWriter, _ *http.Request, _ int) {
			versionPage(w, "", "*p/%01:1", "*p/README.md:1", "*p/a:1", "*p/a%2F:1")
		}, "*p/a:1", false, 1},
		{"the same page for ever", func(w http.ResponseWriter, _ *http.Request, _ int) {
			versionPage(w, "p/a:1", "*p/a:2", "p/a:1")
		}, "*p/a:2 p/a:1", true, 2},
		{"the same version for ever", func(w http.ResponseWriter, _ *http.Request, _ int) { versionPage(w, "p/a:1", "p/a:1") }, "p/a:1", true, 2},
		{"versions without end", func(w http.ResponseWriter, _ *http.Request, n int) {
			versionPage(w, "p/a:x", many(1000, 1000*n)...)
		}, "16384", true, 17},
		{"empty pages for ever", func(w http.ResponseWriter, _ *http.Request, n int) { versionPage(w, "p/"+strconv.Itoa(n)+":1") }, "", true, 20},
		{"truncated without a key", func(w http.ResponseWriter, _ *http.Request, _ int) { versionPage(w, ":1", "*p/a:1") }, "*p/a:1", true, 1},
		{"a huge marker", func(w http.ResponseWriter, _ *http.Request, _ int) {
			versionPage(w, "p/"+strings.Repeat("x", 5000)+":1", "*p/a:1")
		}, "*p/a:1", true, 1},
		{"out of order", func(w http.ResponseWriter, _ *http.Request, _ int) { versionPage(w, "", "*p/b:1", "*p/a:1") }, "*p/b:1", true, 1},
		{"newest twice", func(w http.ResponseWriter, _ *http.Request, _ int) { versionPage(w, "", "*p/a:2", "*p/a:1") }, "*p/a:2", true, 1},
		{"outside the prefix", func(w http.ResponseWriter, _ *http.Request, _ int) { versionPage(w, "", "*p/a:1", "*q/a:1") }, "*p/a:1", true, 1},
		{"a huge id", func(w http.ResponseWriter, _ *http.Request, _ int) {
			versionPage(w, "", "*p/a:1", "*p/b:"+strings.Repeat("x", 1025))
		}, "*p/a:1", true, 1},
		{"a huge key", func(w http.ResponseWriter, _ *http.Request, _ int) {
			versionPage(w, "", "*p/a:1", "*p/b"+strings.Repeat("x", 1100)+":1")
		}, "*p/a:1", true, 1},
		{"too many in a page", func(w http.ResponseWriter, _ *http.Request, _ int) {
			_, _ = io.WriteString(w, "<ListVersionsResult>"+strings.Repeat("<DeleteMarker/>", 1<<20)+"</ListVersionsResult>")
		}, "", true, 1},
		{"a listing of objects", func(w http.ResponseWriter, _ *http.Request, _ int) { page(w, false, "", "p/a") }, "", true, 1},
		{"cut off", func(w http.ResponseWriter, _ *http.Request, _ int) {
			_, _ = io.WriteString(w, "<ListVersionsResult><Version><Key>p/a</Key></Version>")
		}, "", true, 1},
		{"endless", func(w http.ResponseWriter, r *http.Request, _ int) {
			_, _ = io.WriteString(w, "<ListVersionsResult>")
			endless(w, r)
		}, "", true, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var requests atomic.Int32
			target := hostile(t, func(w http.ResponseWriter, r *http.Request) {
				c.answer(w, r, int(requests.Add(1))-1)
			})
			var got []string
			var last error
			for v, err := range target.Versions(t.Context(), "p/") {
				if last != nil {
					t.Fatal("the listing went on after an error")
				}
				if last = err; err != nil {
					continue
				}
				mark, size := "", int64(7)
				if v.Marker {
					mark, size = "!", 0
				}
				if v.Latest {
					mark += "*"
				}
				got = append(got, mark+v.Name+":"+v.ID)
				if v.Size != size || v.Modified.Year() != 2024 {
					t.Errorf("listed %+v", v)
				}
			}
			text := strings.Join(got, " ")
			if _, err := strconv.Atoi(c.want); err == nil {
				text = strconv.Itoa(len(got))
			}
			if text != c.want {
				t.Errorf("listed %.200q, want %q", text, c.want)
			}
			if strings.HasPrefix(c.name, "a listing of objects") && !errors.Is(last, errors.ErrUnsupported) {
				t.Errorf("error %v, want errors.ErrUnsupported", last)
			}
			if (last != nil) != c.fails {
				t.Errorf("error %v, want one: %v", last, c.fails)
			}
			if n := int(requests.Load()); n > c.most {
				t.Errorf("%d requests, at most %d expected", n, c.most)
			}
		})
	}
}

// The powers of a hostile server end, too, and none is believed.
func TestS3PowersHostileAnswersEnd(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"endless error":   func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500); endless(w, r) },
		"endless success": func(w http.ResponseWriter, r *http.Request) { s3Header(w); endless(w, r) },
		"dripping":        func(w http.ResponseWriter, r *http.Request) { s3Header(w); drip(w, r) },
		"silent":          silent,
		"html": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "<html><body>Welcome</body></html>")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := hostile(t, answer)
			if f, err := s.Features(t.Context()); err == nil {
				t.Errorf("Features = %+v, %v", f, err)
			}
			if l, err := s.LockOf(t.Context(), "a"); err == nil {
				t.Errorf("LockOf = %+v, %v", l, err)
			}
			for _, err := range s.Versions(t.Context(), "") {
				if err == nil {
					t.Error("Versions believed the answer")
				}
			}
		})
	}
}
