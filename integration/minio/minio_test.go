package minio_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"embassy/integration/minio"
)

func TestServerLife(t *testing.T) {
	srv := minio.Start(t)
	srv.Bucket(t, "kept")
	endpoint := srv.Endpoint
	for _, end := range []func(){srv.Stop, srv.Kill} {
		end()
		if conn, err := net.DialTimeout("tcp", endpoint, time.Second); err == nil {
			t.Errorf("a stopped server still accepts connections")
			if err := conn.Close(); err != nil {
				t.Error(err)
			}
		}
		srv.Restart()
		if srv.Endpoint != endpoint {
			t.Errorf("the endpoint changed from %s to %s", endpoint, srv.Endpoint)
		}
		srv.RemoveBucket(t, "kept") // fails unless the data is still there
		srv.Bucket(t, "kept")
	}
	if _, err := os.Stat(srv.DataDir); err != nil {
		t.Error(err)
	}
}

func TestProxy(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// An error means that the client or the proxy gave up, which the client
		// tells of.
		if data, err := io.ReadAll(r.Body); err == nil {
			w.Write(data)
		}
	}))
	t.Cleanup(upstream.Close)
	proxy := minio.Proxy(t, strings.TrimPrefix(upstream.URL, "http://"))
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{}}
	t.Cleanup(client.CloseIdleConnections)
	const size = 10_000
	ask := func() error {
		resp, err := client.Post("http://"+proxy.Endpoint, "text/plain", strings.NewReader(strings.Repeat("x", size)))
		if err != nil {
			return err
		}
		n, err := io.Copy(io.Discard, resp.Body)
		if err == nil && n != size {
			t.Errorf("%d bytes came back", n)
		}
		return errors.Join(err, resp.Body.Close())
	}
	want := func(state string, reachable bool) {
		t.Helper()
		if err := ask(); (err == nil) != reachable {
			t.Errorf("%s: %v", state, err)
		}
		client.CloseIdleConnections()
	}

	want("healthy", true)
	if sent, received := proxy.Sent(), proxy.Received(); sent < size || sent > 2*size || received < size || received > 2*size {
		t.Errorf("counted %d bytes sent, %d received", sent, received)
	}
	proxy.BlackHole()
	want("black hole", false)
	proxy.Heal()
	want("healed", true)
	proxy.Cut()
	want("cut", false)
	proxy.Heal()
	want("healed", true)
	proxy.Slow(1) // 10 s for 10,000 bytes
	want("slow", false)
	proxy.Heal()
	want("healed", true)

	proxy.Pause()
	want("silent", false)
	proxy.Resume()
	want("not silent any more", true)
	proxy.Link(1000, 0) // 10 s for 10,000 bytes
	want("thin", false)
	proxy.Link(0, 0)
	want("not thin any more", true)

	const latency = 300 * time.Millisecond
	proxy.Link(0, latency)
	began := time.Now()
	want("far away", true)
	if took := time.Since(began); took < 2*latency {
		t.Errorf("an answer over a long link took %v", took)
	}
	proxy.Heal()

	stop := proxy.Flap(time.Millisecond, time.Hour)
	for ask() == nil { // until it is down
		client.CloseIdleConnections()
	}
	client.CloseIdleConnections()
	stop()
	want("flapping ended", true)
}

// TestPauseKeepsConnections holds up an answer, and lets it go.
func TestPauseKeepsConnections(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	t.Cleanup(upstream.Close)
	proxy := minio.Proxy(t, strings.TrimPrefix(upstream.URL, "http://"))
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}}
	t.Cleanup(client.CloseIdleConnections)
	proxy.Pause()
	answered := make(chan error)
	go func() {
		resp, err := client.Get("http://" + proxy.Endpoint)
		if err == nil {
			err = resp.Body.Close()
		}
		answered <- err
	}()
	select {
	case err := <-answered:
		t.Fatalf("a silent link gave an answer: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	proxy.Resume()
	if err := <-answered; err != nil {
		t.Error(err)
	}
}
