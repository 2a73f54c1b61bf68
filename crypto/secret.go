package crypto

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

const redaction = "[redacted]"

var errRedacted = errors.New("crypto: a secret is not encoded except by its Bytes or Marshal method")

// redacted is embedded in every secret type. It shows nothing to fmt and slog
// and refuses the standard encoders.
type redacted struct{}

func (redacted) String() string               { return redaction }
func (redacted) GoString() string             { return redaction }
func (redacted) LogValue() slog.Value         { return slog.StringValue(redaction) }
func (redacted) MarshalText() ([]byte, error) { return nil, errRedacted }

// MarshalBinary also keeps gob and CBOR away.
func (redacted) MarshalBinary() ([]byte, error) { return nil, errRedacted }

// Format prints the redaction whatever the verb.
func (redacted) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, redaction) }

// Secret is 32 secret bytes. It is held by pointer: a copy by value escapes
// Wipe, and in an unexported field also the redaction.
type Secret struct {
	redacted
	b [KeySize]byte
}

// NewSecret returns a random secret.
func NewSecret() *Secret {
	s := new(Secret)
	must(rand.Read(s.b[:]))
	return s
}

// SecretFromBytes copies b, which must be 32 bytes.
func SecretFromBytes(b []byte) (*Secret, error) {
	if len(b) != KeySize {
		return nil, fmt.Errorf("secret of %d bytes, want %d", len(b), KeySize)
	}
	s := new(Secret)
	copy(s.b[:], b)
	return s, nil
}

// Bytes returns a copy, which the caller owns and should clear.
func (s *Secret) Bytes() []byte {
	b := s.b
	return b[:]
}

func (s *Secret) copy() *Secret { return must(SecretFromBytes(s.b[:])) }

// Wipe overwrites the secret with zeros. It must not be used afterwards.
func (s *Secret) Wipe() { clear(s.b[:]) }

// Equal compares in constant time.
func (s *Secret) Equal(t *Secret) bool {
	return subtle.ConstantTimeCompare(s.b[:], t.b[:]) == 1
}

// Derive returns HKDF-SHA-256(secret, no salt, label ‖ 0x00 ‖ ctx.Encode()), 32
// bytes. The label holds no zero byte.
func (s *Secret) Derive(label string, ctx Context) *Secret {
	k := s.expand(nil, label+"\x00"+string(ctx.Encode()), KeySize)
	defer clear(k)
	return must(SecretFromBytes(k))
}

func (s *Secret) expand(salt []byte, info string, n int) []byte {
	return must(hkdf.Key(sha256.New, s.b[:], salt, info, n))
}
