package minio

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/Shopify/toxiproxy/v2/toxics"
	"github.com/rs/zerolog"
)

// FaultyProxy is a TCP proxy on a loopback port. Its methods act on open
// connections and on new ones, and return when the change is in force.
type FaultyProxy struct {
	Endpoint string // host:port

	t        testing.TB
	proxy    *toxiproxy.Proxy
	up, down *counter
}

// Proxy starts a proxy before the upstream (host:port). It ends with the test.
func Proxy(t testing.TB, upstream string) *FaultyProxy {
	t.Helper()
	setup()
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	p := &FaultyProxy{t: t, proxy: toxiproxy.NewProxy(server, t.Name(), "127.0.0.1:0", upstream)}
	p.up = p.add("count", "upstream", nil).(*counter)
	p.down = p.add("count", "downstream", nil).(*counter)
	if err := p.proxy.Start(); err != nil {
		t.Fatalf("start proxy: %v", err)
	}
	t.Cleanup(p.proxy.Stop)
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

// Heal ends Cut, BlackHole and Slow. Connections that were black-holed are
// closed.
func (p *FaultyProxy) Heal() {
	p.t.Helper()
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
func (p *FaultyProxy) Sent() int64 { return p.up.bytes.Load() }

// Received returns the bytes that the upstream has sent so far.
func (p *FaultyProxy) Received() int64 { return p.down.bytes.Load() }

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

// setup registers the counter, and silences the faults, which log to standard
// error. Both are process-wide in toxiproxy; nothing else here logs with zerolog.
var setup = sync.OnceFunc(func() {
	zerolog.SetGlobalLevel(zerolog.Disabled)
	toxics.Register("count", new(counter))
})

// counter is a toxic that counts the bytes of all connections in a direction.
type counter struct {
	bytes atomic.Int64
}

// Pipe implements toxics.Toxic.
func (c *counter) Pipe(stub *toxics.ToxicStub) {
	for {
		select {
		case <-stub.Interrupt:
			return
		case chunk := <-stub.Input:
			if chunk == nil {
				stub.Close()
				return
			}
			c.bytes.Add(int64(len(chunk.Data)))
			stub.Output <- chunk
		}
	}
}
