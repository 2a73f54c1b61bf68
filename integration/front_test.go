package integration_test

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// front is an HTTP server between the programs and a store, which sees every
// request, and can answer it as a host would that is broken or lies.
type front struct {
	endpoint string // host:port

	mu     sync.Mutex
	answer func(w http.ResponseWriter, r request) bool
	hides  func(key string) bool
	puts   []string
}

// request is what a client asks of a store.
type request struct {
	*http.Request
	key  string // of an object; empty: something else is asked
	list bool
}

// inFront puts a front before the proxy of the store, for good.
func (st *store) inFront() *front {
	st.t.Helper()
	f := &front{}
	forward := &httputil.ReverseProxy{
		Transport: &http.Transport{MaxIdleConnsPerHost: 64},
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: st.proxy.Endpoint})
			r.Out.Host = r.In.Host // which the client has signed
		},
		ModifyResponse: func(resp *http.Response) error { return f.pass(st.ask(resp.Request), resp) },
		ErrorHandler:   func(w http.ResponseWriter, _ *http.Request, _ error) { panic(http.ErrAbortHandler) },
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		answer := f.answer
		f.mu.Unlock()
		if answer == nil || !answer(w, st.ask(r)) {
			forward.ServeHTTP(w, r)
		}
	}))
	st.t.Cleanup(func() {
		server.CloseClientConnections() // an answer may have no end
		server.Close()
	})
	f.endpoint = strings.TrimPrefix(server.URL, "http://")
	st.front = f
	return f
}

func (st *store) ask(r *http.Request) request {
	key, ok := strings.CutPrefix(r.URL.Path, "/"+st.bucket+"/")
	return request{Request: r, key: key, list: !ok || key == ""}
}

// lies makes the front answer requests for which answer returns true; nil: none.
func (f *front) lies(answer func(w http.ResponseWriter, r request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = answer
}

// hide leaves keys out of every listing; nil: none.
func (f *front) hide(hides func(key string) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hides = hides
}

// stored returns the keys of the objects that the store took, each as often as
// it was put.
func (f *front) stored() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := map[string]int{}
	for _, key := range f.puts {
		n[key]++
	}
	return n
}

var listed = regexp.MustCompile(`<Contents><Key>([^<]*)</Key>.*?</Contents>`)

// pass looks at an answer of the store.
func (f *front) pass(r request, resp *http.Response) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.Method == http.MethodPut && r.key != "" && resp.StatusCode == http.StatusOK {
		f.puts = append(f.puts, r.key)
	}
	if !r.list || f.hides == nil || resp.StatusCode != http.StatusOK {
		return nil
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	body = listed.ReplaceAllFunc(body, func(item []byte) []byte {
		// The client asks for keys that are encoded as in a URL.
		key, err := url.QueryUnescape(string(listed.FindSubmatch(item)[1]))
		if err == nil && f.hides(key) {
			return nil
		}
		return item
	})
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	resp.Header.Set("Content-Length", fmt.Sprint(len(body)))
	return nil
}

// TestFront checks the instrument: what it counts, hides and answers.
func TestFront(t *testing.T) {
	st := borrow(t, 1)[0]
	f := st.inFront()
	client := st.connectTo(f.endpoint)
	put := func(key string) error {
		_, err := client.PutObject(t.Context(), st.bucket, key, strings.NewReader("x"), 1, putOptions)
		return err
	}
	for _, key := range []string{"x/a", "b", "b"} {
		if err := put(key); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := f.stored(), map[string]int{"x/a": 1, "b": 2}; !maps.Equal(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
	f.hide(func(key string) bool { return key == "x/a" })
	var seen []string
	for info := range client.ListObjects(t.Context(), st.bucket, listOptions) {
		seen = append(seen, info.Key)
	}
	if fmt.Sprint(seen) != "[b]" || len(st.list()) != 2 {
		t.Errorf("listed through the front: %q; there are %v", seen, st.list())
	}
	f.lies(func(w http.ResponseWriter, r request) bool {
		if r.Method != http.MethodPut {
			return false
		}
		w.WriteHeader(http.StatusForbidden)
		return true
	})
	if err := put("c"); err == nil || len(st.list()) != 2 {
		t.Errorf("put through a front that refuses: %v; there are %v", err, st.list())
	}
}
