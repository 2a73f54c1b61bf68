package integration_test

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"

	"embassy/integration/minio"
)

// places are where stores stand: name and jurisdiction, best tier first.
var places = [][2]string{{"tallinn", "EE"}, {"luxembourg", "LU"}, {"helsinki", "FI"}, {"vault", "CH"}}

// shared are servers that all tests use which do not stop them: one for each
// place, started when the first test asks.
var shared struct {
	mu      sync.Mutex
	servers []*minio.Server
	life    lasting
	buckets int
}

// borrow returns stores on shared servers, each with a new bucket and a proxy
// of its own.
func borrow(t testing.TB, n int) []*store {
	t.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	shared.life.TB = t
	shared.buckets++
	var stores []*store
	for i := range n {
		if i == len(shared.servers) {
			shared.servers = append(shared.servers, minio.Start(&shared.life))
		}
		server := shared.servers[i]
		st := &store{t: t, name: places[i][0], jurisdiction: places[i][1], server: server, proxy: minio.Proxy(t, server.Endpoint)}
		stores = append(stores, st.in(fmt.Sprintf("shared-%d", shared.buckets)))
	}
	return stores
}

// lasting is what servers take for their test that outlive the one which
// starts them.
type lasting struct {
	testing.TB // the test that asked last
	cleanups   []func()
	folders    []string
}

func (l *lasting) Cleanup(f func()) { l.cleanups = append(l.cleanups, f) }

func (l *lasting) TempDir() string {
	dir, err := os.MkdirTemp("", "embassy-shared-")
	if err != nil {
		l.Fatal(err)
	}
	l.folders = append(l.folders, dir)
	return dir
}

// end stops the servers and removes what they stored.
func (l *lasting) end() error {
	var errs []error
	for i := len(l.cleanups) - 1; i >= 0; i-- {
		l.cleanups[i]()
	}
	for _, dir := range l.folders {
		errs = append(errs, os.RemoveAll(dir))
	}
	return errors.Join(errs...)
}
