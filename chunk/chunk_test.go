package chunk_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"math/rand/v2"
	"testing"

	"embassy/chunk"
)

var testKey = bytes.Repeat([]byte{7}, 32)

// random returns n bytes that compress no further, the same for each seed.
func random(seed byte, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{seed})
	if _, err := r.Read(b); err != nil {
		panic(err)
	}
	return b
}

func TestHasher(t *testing.T) {
	h := chunk.NewHasher(testKey)
	for _, n := range []int{0, 1, 64, 100000, 3, 0} {
		p := random(1, n)
		mac := hmac.New(sha256.New, testKey)
		mac.Write(p)
		if got := h.ID(p); got != chunk.ID(mac.Sum(nil)) {
			t.Errorf("%d bytes: wrong id %s", n, got)
		}
	}
	if chunk.NewHasher(bytes.Repeat([]byte{8}, 32)).ID(nil) == h.ID(nil) {
		t.Error("the key does not matter")
	}
}

func TestHasherDoesNotAllocate(t *testing.T) {
	h, p := chunk.NewHasher(testKey), make([]byte, 1000)
	h.ID(p)
	if n := testing.AllocsPerRun(100, func() { h.ID(p) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestHasherKeySize(t *testing.T) {
	for _, n := range []int{0, 31, 33, 64} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("a key of %d bytes was accepted", n)
				}
			}()
			chunk.NewHasher(make([]byte, n))
		}()
	}
}

func TestIDString(t *testing.T) {
	id := chunk.NewHasher(testKey).ID(nil)
	if got := id.String(); got != hex.EncodeToString(id[:]) {
		t.Error(got)
	}
}

func BenchmarkID(b *testing.B) {
	h, p := chunk.NewHasher(testKey), random(1, 1<<20)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		h.ID(p)
	}
}
