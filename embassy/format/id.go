package format

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// ID is a 16-byte pseudonym of a nation, compartment, agent or chain. As text
// it is 32 lower-case hexadecimal digits.
type ID [16]byte

func (id ID) String() string { return hex.EncodeToString(id[:]) }

// IsZero reports whether the ID is unset.
func (id ID) IsZero() bool { return id == ID{} }

// ParseID reads what String wrote.
func ParseID(s string) (ID, error) {
	var id ID
	if err := decodeHex(id[:], s); err != nil {
		return ID{}, fmt.Errorf("id %q: %w", s, err)
	}
	return id, nil
}

// Hash is the SHA-256 of an object's bytes, and its name. As text it is 64
// lower-case hexadecimal digits.
type Hash [32]byte

// HashOf returns the hash of an object.
func HashOf(object []byte) Hash { return sha256.Sum256(object) }

func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// IsZero reports whether the hash is unset.
func (h Hash) IsZero() bool { return h == Hash{} }

// ParseHash reads what String wrote.
func ParseHash(s string) (Hash, error) {
	var h Hash
	if err := decodeHex(h[:], s); err != nil {
		return Hash{}, fmt.Errorf("hash %q: %w", s, err)
	}
	return h, nil
}

func decodeHex(dst []byte, s string) error {
	if len(s) != 2*len(dst) {
		return fmt.Errorf("%d digits, want %d", len(s), 2*len(dst))
	}
	for _, c := range s {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return fmt.Errorf("not lower-case hexadecimal")
		}
	}
	_, err := hex.Decode(dst, []byte(s))
	return err
}
