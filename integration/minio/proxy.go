package minio

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/Shopify/toxiproxy/v2/stream"
	"github.com/Shopify/toxiproxy/v2/toxics"
	"github.com/rs/zerolog"
)

// FaultyProxy is a TCP proxy on a loopback port. Its methods act on open
// connections and on new ones, and return when the change is in force.
type FaultyProxy struct {
	Endpoint string // host:port

	t        testing.TB
	proxy    *toxiproxy.Proxy
	up, down *wire
}

// Proxy starts a proxy before the upstream (host:port). It ends with the test.
func Proxy(t testing.TB, upstream string) *FaultyProxy {
	t.Helper()
	setup()
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	p := &FaultyProxy{t: t, proxy: toxiproxy.NewProxy(server, t.Name(), "127.0.0.1:0", upstream)}
	p.up = p.add("wire", "upstream", nil).(*wire)
	p.down = p.add("wire", "downstream", nil).(*wire)
	if err := p.proxy.Start(); err != nil {
		t.Fatalf("start proxy: %v", err)
	}
	t.Cleanup(func() {
		p.Resume()
		p.proxy.Stop()
	})
	p.Endpoint = p.proxy.Listen
	return p
}

// BlackHole makes the proxy accept connections and swallow every byte.
func (p *FaultyProxy) BlackHole() {
	p.t.Helper()
	p.add("timeout", "upstream", map[string]any{"timeout": 0})
	p.add("timeout", "downstream", map[string]any{"timeout": 0})
}

// Slow limits every connection, in each direction, to kilobytes (of 1000
// bytes) per second.
func (p *FaultyProxy) Slow(kilobytes int) {
	p.t.Helper()
	p.add("bandwidth", "upstream", map[string]any{"rate": kilobytes})
	p.add("bandwidth", "downstream", map[string]any{"rate": kilobytes})
}

// Cut closes all connections and refuses new ones.
func (p *FaultyProxy) Cut() { p.proxy.Stop() }

// Link makes all connections share one link: so many bytes per second in each
// direction, every byte delayed by latency. A rate of 0 is unlimited.
func (p *FaultyProxy) Link(bytesPerSecond int, latency time.Duration) {
	p.up.shape(bytesPerSecond, latency)
	p.down.shape(bytesPerSecond, latency)
}

// Pause silences the link: no byte passes in either direction, and connections
// stay. New ones are accepted, and get no answer.
func (p *FaultyProxy) Pause() {
	p.up.pause()
	p.down.pause()
}

// Resume ends Pause. What was on its way arrives.
func (p *FaultyProxy) Resume() {
	p.up.resume()
	p.down.resume()
}

// Flap lets the link work for up and then silences it for down, again and
// again, until stop is called or the test ends. The link works when stop
// returns, which tells how often it fell silent. Other faults must not be healed
// meanwhile.
func (p *FaultyProxy) Flap(up, down time.Duration) (stop func() int) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	silent := 0
	go func() {
		defer close(ended)
		defer p.Resume()
		for wait(ctx, up) {
			p.Pause()
			silent++
			if !wait(ctx, down) {
				return
			}
			p.Resume()
		}
	}()
	stop = func() int {
		cancel()
		<-ended
		return silent
	}
	p.t.Cleanup(func() { stop() })
	return stop
}

// wait reports whether the time passed before the context ended.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Heal ends Cut, BlackHole, Slow, Link and Pause. Connections that were
// black-holed are closed.
func (p *FaultyProxy) Heal() {
	p.t.Helper()
	p.Link(0, 0)
	p.Resume()
	for _, fault := range []string{"timeout", "bandwidth"} {
		for _, direction := range []string{"upstream", "downstream"} {
			err := p.proxy.Toxics.RemoveToxic(context.Background(), fault+"_"+direction)
			if err != nil && err != toxiproxy.ErrToxicNotFound {
				p.t.Fatalf("remove %s: %v", fault, err)
			}
		}
	}
	if err := p.proxy.Start(); err != nil && err != toxiproxy.ErrProxyAlreadyStarted {
		p.t.Fatalf("start proxy: %v", err)
	}
}

// Sent returns the bytes that clients have sent so far, swallowed ones included.
func (p *FaultyProxy) Sent() int64 { return p.up.passed() }

// Received returns the bytes that the upstream has sent so far.
func (p *FaultyProxy) Received() int64 { return p.down.passed() }

// add puts a fault into one direction, under the name FAULT_DIRECTION.
func (p *FaultyProxy) add(fault, direction string, attributes map[string]any) toxics.Toxic {
	p.t.Helper()
	spec, err := json.Marshal(map[string]any{"type": fault, "stream": direction, "attributes": attributes})
	if err != nil {
		p.t.Fatal(err)
	}
	added, err := p.proxy.Toxics.AddToxicJson(strings.NewReader(string(spec)))
	if err != nil {
		p.t.Fatalf("add %s %s: %v", fault, direction, err)
	}
	return added.Toxic
}

// setup registers the wire, and silences the faults, which log to standard
// error. Both are process-wide in toxiproxy; nothing else here logs with zerolog.
var setup = sync.OnceFunc(func() {
	zerolog.SetGlobalLevel(zerolog.Disabled)
	toxics.Register("wire", new(wire))
})

// wire is a toxic that all connections share in a direction. It counts their
// bytes, and can be slow, long and silent.
type wire struct {
	mu      sync.Mutex
	bytes   int64
	rate    int           // bytes per second; 0: unlimited
	latency time.Duration // of every byte
	free    time.Time     // when what was admitted has passed
	gate    chan struct{} // nil: open; closed when it opens
}

func (w *wire) passed() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bytes
}

func (w *wire) shape(rate int, latency time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rate, w.latency, w.free = rate, latency, time.Time{}
}

func (w *wire) pause() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gate == nil {
		w.gate = make(chan struct{})
	}
}

func (w *wire) resume() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gate != nil {
		close(w.gate)
		w.gate = nil
	}
}

// admit counts n bytes that came at that time, and returns when they are
// through.
func (w *wire) admit(n int, came time.Time) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bytes += int64(n)
	through := came.Add(w.latency)
	if w.rate > 0 {
		if now := time.Now(); w.free.Before(now) {
			w.free = now
		}
		w.free = w.free.Add(time.Duration(n) * time.Second / time.Duration(w.rate))
	}
	if through.Before(w.free) {
		through = w.free
	}
	return through
}

// closed returns what to wait for, or nil when the gate is open.
func (w *wire) closed() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.gate
}

// GetBufferSize implements toxics.BufferedToxic. What is delayed waits there,
// so that latency costs no bandwidth.
func (w *wire) GetBufferSize() int { return 64 }

// Pipe implements toxics.Toxic. When it is interrupted, what it holds passes
// at once.
func (w *wire) Pipe(stub *toxics.ToxicStub) {
	for {
		select {
		case <-stub.Interrupt:
			return
		case chunk := <-stub.Input:
			if chunk == nil {
				stub.Close()
				return
			}
			if w.hold(stub.Interrupt, chunk) {
				last(stub, chunk)
				return
			}
			select {
			case stub.Output <- chunk:
			case <-stub.Interrupt:
				last(stub, chunk)
				return
			}
		}
	}
}

// last passes what is held when the wire is interrupted. A link that has ended
// reads no more, and waits itself for whoever interrupts: it is left alone.
func last(stub *toxics.ToxicStub, chunk *stream.StreamChunk) {
	select {
	case stub.Output <- chunk:
	case <-time.After(5 * time.Second):
	}
}

// hold waits until a chunk has passed, and reports whether it was interrupted.
func (w *wire) hold(interrupt <-chan struct{}, chunk *stream.StreamChunk) bool {
	for gate := w.closed(); gate != nil; gate = w.closed() {
		select {
		case <-gate:
		case <-interrupt:
			w.admit(len(chunk.Data), chunk.Timestamp)
			return true
		}
	}
	left := time.Until(w.admit(len(chunk.Data), chunk.Timestamp))
	if left <= 0 {
		return false
	}
	t := time.NewTimer(left)
	defer t.Stop()
	select {
	case <-t.C:
		return false
	case <-interrupt:
		return true
	}
}
