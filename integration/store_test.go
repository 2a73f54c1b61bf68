package integration_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	miniogo "github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"embassy/integration/minio"
)

// store is a bucket on a MinIO server. The programs reach it through the
// proxy; the test looks into it past the proxy, with a client of its own.
type store struct {
	t                  testing.TB
	name, jurisdiction string
	server             *minio.Server
	proxy              *minio.FaultyProxy
	bucket             string
	credentials        string // file; empty: those of the root user
	lock               string // as the configuration has it; empty: none
	client             *miniogo.Client
	front              *front // nil: none
}

var (
	putOptions  = miniogo.PutObjectOptions{}
	listOptions = miniogo.ListObjectsOptions{Recursive: true}
)

// in returns the store with another, new bucket on the same server.
func (st *store) in(bucket string) *store {
	st.t.Helper()
	c := *st
	c.bucket, c.client = st.server.Bucket(st.t, bucket), c.connect()
	return &c
}

func (st *store) connect() *miniogo.Client {
	st.t.Helper()
	return st.connectTo(st.server.Endpoint)
}

func (st *store) connectTo(endpoint string) *miniogo.Client {
	st.t.Helper()
	transport := &http.Transport{}
	if st.server.CAFile != "" {
		pem, err := os.ReadFile(st.server.CAFile)
		if err != nil {
			st.t.Fatal(err)
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(pem)
		transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	client, err := miniogo.New(endpoint, &miniogo.Options{
		Creds:  credentials.NewStaticV4(st.server.AccessKey, st.server.SecretKey, ""),
		Secure: st.server.CAFile != "", Transport: transport,
		Region: "us-east-1", BucketLookup: miniogo.BucketLookupPath,
	})
	if err != nil {
		st.t.Fatal(err)
	}
	return client
}

// url is where the programs find the store.
func (st *store) url() string {
	scheme := "s3+http"
	if st.server.CAFile != "" {
		scheme = "s3+https"
	}
	endpoint := st.proxy.Endpoint
	if st.front != nil {
		endpoint = st.front.endpoint
	}
	return fmt.Sprintf("%s://%s/%s", scheme, endpoint, st.bucket)
}

// list returns the sizes of all objects by name.
func (st *store) list() map[string]int64 {
	st.t.Helper()
	sizes := map[string]int64{}
	for info := range st.client.ListObjects(st.t.Context(), st.bucket, listOptions) {
		if info.Err != nil {
			st.t.Fatalf("list %s: %v", st.name, info.Err)
		}
		sizes[info.Key] = info.Size
	}
	return sizes
}

// keys returns the names of a kind of object, sorted: charter, ledger, index,
// snapshot or pack.
func (st *store) keys(kind string) []string {
	st.t.Helper()
	return slices.DeleteFunc(slices.Sorted(maps.Keys(st.list())), func(key string) bool {
		return !strings.Contains(key, "/"+kind+"/")
	})
}

// get returns an object and the header that it comes with.
func (st *store) get(key string) ([]byte, http.Header) {
	st.t.Helper()
	core := miniogo.Core{Client: st.client}
	body, _, header, err := core.GetObject(st.t.Context(), st.bucket, key, miniogo.GetObjectOptions{})
	if err != nil {
		st.t.Fatalf("get %s from %s: %v", key, st.name, err)
	}
	defer body.Close()
	data, err := io.ReadAll(body)
	if err != nil {
		st.t.Fatalf("get %s from %s: %v", key, st.name, err)
	}
	return data, header
}

// put replaces an object.
func (st *store) put(key string, data []byte) {
	st.t.Helper()
	_, err := st.client.PutObject(st.t.Context(), st.bucket, key, bytes.NewReader(data), int64(len(data)), putOptions)
	if err != nil {
		st.t.Fatalf("put %s to %s: %v", key, st.name, err)
	}
}

// remove deletes an object.
func (st *store) remove(key string) {
	st.t.Helper()
	if err := st.client.RemoveObject(st.t.Context(), st.bucket, key, miniogo.RemoveObjectOptions{}); err != nil {
		st.t.Fatalf("remove %s from %s: %v", key, st.name, err)
	}
}

// contents returns size and hash of all objects by name.
func (st *store) contents() map[string]string {
	st.t.Helper()
	sums := map[string]string{}
	for key := range st.list() {
		data, _ := st.get(key)
		sums[key] = fmt.Sprintf("%d bytes, %x", len(data), sha256.Sum256(data))
	}
	return sums
}

// sameStores fails the test unless all stores hold the same objects with the
// same bytes, and every kind of object is among them. What target check left
// behind does not count.
func sameStores(t testing.TB, stores []*store) {
	t.Helper()
	want := objects(stores[0])
	for _, kind := range []string{"charter", "ledger", "index", "snapshot", "pack"} {
		if len(stores[0].keys(kind)) == 0 {
			t.Errorf("%s holds no %s", stores[0].name, kind)
		}
	}
	for _, st := range stores[1:] {
		got := objects(st)
		for _, key := range slices.Sorted(maps.Keys(want)) {
			if got[key] != want[key] {
				t.Errorf("%s: %s has %q, and %s has %q", key, stores[0].name, want[key], st.name, got[key])
			}
			delete(got, key)
		}
		for key := range got {
			t.Errorf("%s: on %s, and not on %s", key, st.name, stores[0].name)
		}
	}
}

// objects are the contents of a store without the probes of target check.
func objects(st *store) map[string]string {
	all := st.contents()
	maps.DeleteFunc(all, func(key, _ string) bool { return strings.Contains(key, "/probe/") })
	return all
}
