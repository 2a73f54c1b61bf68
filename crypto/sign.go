package crypto

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"strings"
)

// algEd25519 is the algorithm id that begins every signature, verifier and
// signer. It leaves room for others.
const algEd25519 = 1

// Sizes of what Signer and Verifier return, in bytes.
const (
	SignerSize    = 2 + ed25519.SeedSize
	VerifierSize  = 2 + ed25519.PublicKeySize
	SignatureSize = 2 + ed25519.SignatureSize
)

// Signer is a private signing key.
type Signer struct {
	redacted
	key ed25519.PrivateKey
}

// Verifier is the public key of a Signer.
type Verifier struct {
	key ed25519.PublicKey
}

// NewSigner returns a random signer.
func NewSigner() *Signer {
	seed := make([]byte, ed25519.SeedSize)
	defer clear(seed)
	must(rand.Read(seed))
	return &Signer{key: ed25519.NewKeyFromSeed(seed)}
}

// DeriveSigner returns the signer whose Ed25519 seed is the seed.
func DeriveSigner(seed *Secret) *Signer {
	return &Signer{key: ed25519.NewKeyFromSeed(seed.b[:])}
}

// ParseSigner reads what Signer.Bytes returned.
func ParseSigner(b []byte) (*Signer, error) {
	seed, err := cutAlgorithm(b, SignerSize)
	if err != nil {
		return nil, fmt.Errorf("parse signer: %w", err)
	}
	return &Signer{key: ed25519.NewKeyFromSeed(seed)}, nil
}

// Bytes returns u16 algorithm id ‖ seed, SignerSize bytes, which the caller
// owns and should clear.
func (s *Signer) Bytes() []byte {
	return append(algorithm(SignerSize), s.key.Seed()...)
}

// Verifier returns the public key.
func (s *Signer) Verifier() *Verifier {
	return &Verifier{key: s.key.Public().(ed25519.PublicKey)}
}

// Sign returns u16 algorithm id ‖ signature, SignatureSize bytes. What is
// signed is "embassy/v1 signature" ‖ 0x00 ‖ ctx.Encode() ‖ msg.
func (s *Signer) Sign(ctx Context, msg []byte) []byte {
	return append(algorithm(SignatureSize), ed25519.Sign(s.key, signed(ctx, msg))...)
}

// ParseVerifier reads what Verifier.Bytes returned. That a key parses says
// nothing about whose it is.
func ParseVerifier(b []byte) (*Verifier, error) {
	key, err := cutAlgorithm(b, VerifierSize)
	if err != nil {
		return nil, fmt.Errorf("parse verifier: %w", err)
	}
	return &Verifier{key: append(ed25519.PublicKey(nil), key...)}, nil
}

// Bytes returns u16 algorithm id ‖ public key, VerifierSize bytes.
func (v *Verifier) Bytes() []byte {
	return append(algorithm(VerifierSize), v.key...)
}

// ID returns the first 16 bytes of SHA-256("embassy/v1 verifier" ‖ 0x00 ‖
// Bytes).
func (v *Verifier) ID() ID { return publicID("verifier", v.Bytes()) }

// Fingerprint is what people compare: Fingerprint(Bytes).
func (v *Verifier) Fingerprint() string { return Fingerprint(v.Bytes()) }

// Fingerprint returns the first 20 bytes of the SHA-256 of public keys, one
// behind the other, in lower-case base32, eight groups of four characters
// joined by '-'.
func Fingerprint(public ...[]byte) string {
	sum := sha256.Sum256(bytes.Join(public, nil))
	text := strings.ToLower(base32.StdEncoding.EncodeToString(sum[:20]))
	groups := make([]string, 0, len(text)/4)
	for ; text != ""; text = text[4:] {
		groups = append(groups, text[:4])
	}
	return strings.Join(groups, "-")
}

// Verify returns nil if the signer signed msg under this context, else
// ErrAuthentication.
func (v *Verifier) Verify(ctx Context, msg, sig []byte) error {
	raw, err := cutAlgorithm(sig, SignatureSize)
	if err != nil || !ed25519.Verify(v.key, signed(ctx, msg), raw) {
		return ErrAuthentication
	}
	return nil
}

func signed(ctx Context, msg []byte) []byte {
	b := append([]byte(domain+" signature\x00"), ctx.Encode()...)
	return append(b, msg...)
}

// algorithm returns the algorithm id, with room for size bytes.
func algorithm(size int) []byte {
	return binary.BigEndian.AppendUint16(make([]byte, 0, size), algEd25519)
}

// cutAlgorithm returns what follows the algorithm id in b.
func cutAlgorithm(b []byte, size int) ([]byte, error) {
	if len(b) != size {
		return nil, fmt.Errorf("%d bytes, want %d", len(b), size)
	}
	if alg := binary.BigEndian.Uint16(b); alg != algEd25519 {
		return nil, fmt.Errorf("unknown signature algorithm %d", alg)
	}
	return b[2:], nil
}
