// Package chunk owns the way from bytes to chunks and back: splitting, ids and
// compression.
//
// It guarantees that equal bytes under equal secrets are cut alike and named
// alike, whatever the sizes of the reads, and that decoding hostile bytes uses
// no more memory than the caller allowed, plus a constant.
//
// It keeps nothing secret: cut points, sizes and encoded bytes leak what they
// are made from, so chunks are sealed and padded by whoever stores them. The
// layouts are in the section "Chunks" of docs/FORMAT.md.
package chunk

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"hash"
)

// ID names a chunk: the HMAC-SHA-256 of its plaintext under the id key. As
// text it is 64 lower-case hexadecimal digits.
type ID [32]byte

func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Hasher computes chunk ids. It is not safe for concurrent use: one per
// worker.
type Hasher struct {
	mac hash.Hash
	id  ID
}

// NewHasher returns a Hasher for the id key, which must be 32 bytes.
func NewHasher(key []byte) *Hasher {
	if len(key) != 32 {
		panic("chunk: id key is not 32 bytes")
	}
	return &Hasher{mac: hmac.New(sha256.New, key)}
}

// ID returns the id of a plaintext. It does not allocate.
func (h *Hasher) ID(p []byte) ID {
	h.mac.Reset()
	h.mac.Write(p)
	h.mac.Sum(h.id[:0])
	return h.id
}
