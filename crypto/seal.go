package crypto

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
)

const (
	saltSize       = 32
	commitmentSize = 32

	// TagSize is what Seal adds to a plaintext, in bytes.
	TagSize = 16
	// BoxOverhead is what SealBox adds to a plaintext, in bytes.
	BoxOverhead = saltSize + commitmentSize + TagSize
)

// SealKey seals many pieces under one salt, each at its own nonce, with
// AES-256-GCM. It is safe for concurrent use.
type SealKey struct {
	redacted
	aead cipher.AEAD
}

// NewSealKey derives a key from s and a fresh random salt. Whoever holds s
// gets the same key from OpenSealKey with the salt and the commitment, which
// are public and stored beside what is sealed.
//
// Key ‖ commitment = HKDF-SHA-256(s, salt, ctx.Encode()), 64 bytes.
func NewSealKey(s *Secret, ctx Context) (k *SealKey, salt, commitment [32]byte, err error) {
	if _, err := rand.Read(salt[:]); err != nil {
		return nil, salt, commitment, err
	}
	k, commitment = deriveSealKey(s, ctx, salt)
	return k, salt, commitment, nil
}

// OpenSealKey returns the key that NewSealKey made. It returns
// ErrAuthentication if secret, context or salt is another than the one that
// was committed to.
func OpenSealKey(s *Secret, ctx Context, salt, commitment [32]byte) (*SealKey, error) {
	k, want := deriveSealKey(s, ctx, salt)
	if subtle.ConstantTimeCompare(commitment[:], want[:]) != 1 {
		return nil, ErrAuthentication
	}
	return k, nil
}

func deriveSealKey(s *Secret, ctx Context, salt [32]byte) (k *SealKey, commitment [32]byte) {
	b := s.expand(salt[:], string(ctx.Encode()), KeySize+commitmentSize)
	defer clear(b)
	copy(commitment[:], b[KeySize:])
	block := must(aes.NewCipher(b[:KeySize]))
	return &SealKey{aead: must(cipher.NewGCM(block))}, commitment
}

// Seal appends the sealed plaintext, TagSize bytes longer, to dst. The 12-byte
// nonce is 4 zero bytes ‖ u64 nonce, big endian; the caller uses each number
// once per key. With dst = plaintext[:0] it seals in place, without allocating
// if there is room for the tag; any other overlap panics.
func (k *SealKey) Seal(dst []byte, nonce uint64, plaintext, aad []byte) []byte {
	n := expandNonce(nonce)
	return k.aead.Seal(dst, n[:], plaintext, aad)
}

// Open appends the plaintext of what Seal returned to dst, or returns
// ErrAuthentication and no bytes. With dst = ciphertext[:0] it opens in place;
// the ciphertext is then lost, also on error.
func (k *SealKey) Open(dst []byte, nonce uint64, ciphertext, aad []byte) ([]byte, error) {
	n := expandNonce(nonce)
	p, err := k.aead.Open(dst, n[:], ciphertext, aad)
	if err != nil {
		return nil, ErrAuthentication
	}
	return p, nil
}

func expandNonce(nonce uint64) (n [12]byte) {
	binary.BigEndian.PutUint64(n[4:], nonce)
	return n
}

// SealBox seals one plaintext under a fresh key: salt ‖ commitment ‖
// ciphertext ‖ tag, at nonce 0.
func SealBox(s *Secret, ctx Context, plaintext, aad []byte) ([]byte, error) {
	k, salt, commitment, err := NewSealKey(s, ctx)
	if err != nil {
		return nil, err
	}
	box := make([]byte, 0, len(plaintext)+BoxOverhead)
	box = append(box, salt[:]...)
	box = append(box, commitment[:]...)
	return k.Seal(box, 0, plaintext, aad), nil
}

// OpenBox returns the plaintext of what SealBox returned, in a new slice, or
// ErrAuthentication.
func OpenBox(s *Secret, ctx Context, box, aad []byte) ([]byte, error) {
	if len(box) < BoxOverhead {
		return nil, ErrAuthentication
	}
	salt, commitment := [32]byte(box[:saltSize]), [32]byte(box[saltSize:saltSize+commitmentSize])
	k, err := OpenSealKey(s, ctx, salt, commitment)
	if err != nil {
		return nil, err
	}
	return k.Open(nil, 0, box[saltSize+commitmentSize:], aad)
}
