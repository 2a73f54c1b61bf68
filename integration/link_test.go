package integration_test

import (
	"flag"
	"path/filepath"
	"strings"
	"testing"
	"time"

	miniogo "github.com/minio/minio-go/v7"

	"embassy/integration/minio"
)

var linkFull = flag.Bool("link.full", false, "run TestThinLink at 1 MB/s, up 90 s and down 30 s, instead of ten times as fast")

// TestThinLink brings a nation to a target behind a link that is thin, and
// silent a quarter of the time. All arrives in one run, the urgent compartment
// first, and little is sent twice.
func TestThinLink(t *testing.T) {
	const pack = 16 * mib
	const size = 3 * pack // of each dataset; it does not compress
	rate, up, down := 10_000_000, 9*time.Second, 3*time.Second
	if *linkFull {
		rate, up, down = rate/10, up*10, down*10
	}
	stores := borrow(t, 4)
	if *linkFull {
		// By itself MinIO closes a connection from which nothing comes for 30 s.
		stores[3] = startOne(t, 3, minio.Env("MINIO_IDLE_TIMEOUT=2m"))
	}
	far := stores[3]
	s := newSite(t, stores...)
	s.more = "pack_size: 16MiB\n"
	// By name and in the configuration the urgent one is the second.
	datasets := []dataset{
		{name: "archive", compartment: "aside", sources: []string{t.TempDir()}},
		{name: "register", compartment: "urgent", sources: []string{t.TempDir()}},
	}
	s.ranks = map[string]int{"aside": 2, "urgent": 1}
	for i, d := range datasets {
		for part := range 4 {
			write(t, filepath.Join(d.sources[0], string(rune('a'+part))), noise(byte(10*i+part), size/4))
		}
	}
	s.found(datasets...)
	far.proxy.Cut()
	s.backup(0)
	far.proxy.Heal()
	before := far.list()
	var delta int64
	full := 0
	for key, n := range stores[0].list() {
		if _, there := before[key]; !there {
			delta += n
		}
		if n > pack {
			t.Errorf("%s has %d bytes, more than a pack may", key, n)
		} else if n == pack {
			full++
		}
	}
	if full < 2*size/pack || delta < 2*size {
		t.Fatalf("%d full packs, and %d bytes to bring", full, delta)
	}

	far.proxy.Link(rate, 20*time.Millisecond)
	stop := far.proxy.Flap(up, down)
	sent := far.proxy.Sent()
	_, r := s.replicate(0)
	if outages := stop(); outages == 0 {
		t.Error("the link never failed")
	}
	far.proxy.Heal()
	sent = far.proxy.Sent() - sent
	t.Logf("%.1f MB brought in %v, sending %.1f MB: %.3f times as much", float64(delta)/1e6, r.took, float64(sent)/1e6, float64(sent)/float64(delta))
	if sent > delta+delta/10 {
		t.Errorf("%d bytes were sent to bring %d", sent, delta)
	}
	if least := time.Duration(float64(delta) / float64(rate) * float64(time.Second)); r.took < least {
		t.Errorf("it took %v, and a link of that rate needs %v: it was not used", r.took, least)
	}
	sameStores(t, stores)

	urgent, aside := arrivals(t, far, s.pseudonym(1)), arrivals(t, far, s.pseudonym(2))
	if first, last := aside[0], urgent[1]; first.Before(last) {
		t.Errorf("the urgent compartment had arrived at %v, and the first object of the other one at %v", last, first)
	}
	s.fromEachAlone([]*store{far}, datasets...)
}

// arrivals returns when the first and the last object of a compartment came to
// a store, by the store's clock.
func arrivals(t testing.TB, st *store, compartment string) (span [2]time.Time) {
	t.Helper()
	for info := range st.client.ListObjects(t.Context(), st.bucket, miniogo.ListObjectsOptions{Recursive: true}) {
		if info.Err != nil {
			t.Fatal(info.Err)
		}
		if !strings.Contains(info.Key, "/"+compartment+"/") {
			continue
		}
		if span[0].IsZero() || info.LastModified.Before(span[0]) {
			span[0] = info.LastModified
		}
		if info.LastModified.After(span[1]) {
			span[1] = info.LastModified
		}
	}
	if span[0].IsZero() {
		t.Fatalf("%s has nothing of compartment %s", st.name, compartment)
	}
	return span
}
