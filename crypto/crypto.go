// Package crypto owns keys, sealing and signing: plain bytes in and out.
//
// It guarantees that nothing is returned from a seal before all of it was
// authenticated, that a key or signature made for one [Context] works in no
// other, that no seal opens under two keys (each carries a commitment to its
// key), and that secret types redact themselves in logs, fmt and encoders.
//
// It does not keep a caller from sealing twice under one nonce of one
// [SealKey], hides neither lengths nor the fact that something was sealed, and
// cannot promise that the runtime left no copy of a wiped secret in memory.
//
// The byte layouts are in the section "Keys and seals" of docs/FORMAT.md.
package crypto

import (
	"encoding/binary"
	"errors"
	"math"
)

// ErrAuthentication says that a seal, a signature or a passphrase is wrong, and
// nothing more. No plaintext ever comes with it.
var ErrAuthentication = errors.New("authentication failed")

// KeySize is the size of every symmetric key and secret, in bytes.
const KeySize = 32

// ID is a 16-byte pseudonym of a nation, compartment, agent or chain, or of a
// public key.
type ID = [16]byte

// Suite names a set of algorithms.
type Suite uint16

// SuiteV1 is AES-256-GCM, HMAC-SHA-256, HKDF-SHA-256,
// HPKE (MLKEM768-X25519, HKDF-SHA-256, AES-256-GCM) and Ed25519.
const SuiteV1 Suite = 1

// domain begins every Context and every hash prefix.
const domain = "embassy/v1"

// Context says what a sealed or signed object is. It is bound into the key or
// the signature, so that no object passes for another's. Fields that do not
// apply are zero.
type Context struct {
	Type                              string // at most 65535 bytes
	Nation, Compartment, Agent, Chain ID
	Epoch                             uint32
}

// Encode returns "embassy/v1" ‖ 0x00 ‖ u16 length of Type ‖ Type ‖ u16 suite ‖
// nation ‖ compartment ‖ agent ‖ chain ‖ u32 epoch, all integers big endian.
func (c Context) Encode() []byte {
	if len(c.Type) > math.MaxUint16 {
		panic("crypto: context type longer than 65535 bytes")
	}
	b := make([]byte, 0, len(domain)+1+2+len(c.Type)+2+4*16+4)
	b = append(b, domain...)
	b = append(b, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(c.Type)))
	b = append(b, c.Type...)
	b = binary.BigEndian.AppendUint16(b, uint16(SuiteV1))
	b = append(b, c.Nation[:]...)
	b = append(b, c.Compartment[:]...)
	b = append(b, c.Agent[:]...)
	b = append(b, c.Chain[:]...)
	return binary.BigEndian.AppendUint32(b, c.Epoch)
}

// must stands where an error would mean that the standard library lost an
// algorithm which this suite is made of.
func must[T any](v T, err error) T {
	if err != nil {
		panic("crypto: " + err.Error())
	}
	return v
}
