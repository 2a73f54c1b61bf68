package crypto

import (
	"crypto/hpke"
	"crypto/sha256"
	"fmt"
)

// RecipientOverhead is what Recipient.Seal adds to a plaintext, in bytes: the
// encapsulated key and the tag.
const RecipientOverhead = 1120 + TagSize

// Recipient is a public key to which anyone can seal.
type Recipient struct {
	key hpke.PublicKey
}

// Identity is the private key of a Recipient.
type Identity struct {
	redacted
	key hpke.PrivateKey
}

func kem() hpke.KEM { return hpke.MLKEM768X25519() }

// NewIdentity returns a random identity.
func NewIdentity() (*Identity, error) {
	k, err := kem().GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("generate identity: %w", err)
	}
	return &Identity{key: k}, nil
}

// DeriveIdentity returns the identity of a seed: DeriveKeyPair of the KEM with
// the 32 bytes of the seed as key material.
func DeriveIdentity(seed *Secret) (*Identity, error) {
	k, err := kem().DeriveKeyPair(seed.b[:])
	if err != nil {
		return nil, fmt.Errorf("derive identity: %w", err)
	}
	return &Identity{key: k}, nil
}

// ParseIdentity reads what Identity.Bytes returned.
func ParseIdentity(b []byte) (*Identity, error) {
	k, err := kem().NewPrivateKey(b)
	if err != nil {
		return nil, fmt.Errorf("parse identity: %w", err)
	}
	return &Identity{key: k}, nil
}

// Bytes returns the private key, 32 bytes, which the caller owns and should
// clear.
func (i *Identity) Bytes() []byte { return must(i.key.Bytes()) }

// Recipient returns the public key.
func (i *Identity) Recipient() *Recipient { return &Recipient{key: i.key.PublicKey()} }

// Open returns the plaintext of what Recipient.Seal sealed to this identity
// under the same context, or ErrAuthentication.
func (i *Identity) Open(ctx Context, sealed []byte) ([]byte, error) {
	p, err := hpke.Open(i.key, hpke.HKDFSHA256(), hpke.AES256GCM(), ctx.Encode(), sealed)
	if err != nil {
		return nil, ErrAuthentication
	}
	return p, nil
}

// ParseRecipient reads what Recipient.Bytes returned. That a key parses says
// nothing about whose it is.
func ParseRecipient(b []byte) (*Recipient, error) {
	k, err := kem().NewPublicKey(b)
	if err != nil {
		return nil, fmt.Errorf("parse recipient: %w", err)
	}
	return &Recipient{key: k}, nil
}

// Bytes returns the public key, 1216 bytes.
func (r *Recipient) Bytes() []byte { return r.key.Bytes() }

// ID returns the first 16 bytes of SHA-256("embassy/v1 recipient" ‖ 0x00 ‖
// Bytes).
func (r *Recipient) ID() ID { return publicID("recipient", r.Bytes()) }

// Seal seals a plaintext to the recipient with HPKE in base mode, with
// ctx.Encode() as info: encapsulated key ‖ ciphertext ‖ tag. Sealing says
// nothing about who sealed. It fails only on a public key that was made up to
// be degenerate.
func (r *Recipient) Seal(ctx Context, plaintext []byte) ([]byte, error) {
	b, err := hpke.Seal(r.key, hpke.HKDFSHA256(), hpke.AES256GCM(), ctx.Encode(), plaintext)
	if err != nil {
		return nil, fmt.Errorf("seal to recipient: %w", err)
	}
	return b, nil
}

// publicID hashes public keys under a name into an ID.
func publicID(name string, parts ...[]byte) ID {
	h := sha256.New()
	h.Write([]byte(domain + " " + name + "\x00"))
	for _, p := range parts {
		h.Write(p)
	}
	return ID(h.Sum(nil)[:16])
}
