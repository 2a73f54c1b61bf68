package crypto

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
)

// Root is a nation's root secret. Everything below it is derived anew at each
// call: HKDF labels "root signature", "root recipient", "compartment id",
// "reader" and "writer", with a Context that is empty but for the compartment
// and the epoch where they apply.
//
// Its 32 bytes are kept out of swap where the system allows it. What is derived
// from it is not: that lives in many places, and not for long.
type Root struct {
	Secret
	locked bool
}

// NewRoot returns a random root.
func NewRoot() *Root {
	r := new(Root)
	r.locked = lock(r.b[:])
	must(rand.Read(r.b[:]))
	return r
}

// RootFromBytes copies b, which must be 32 bytes.
func RootFromBytes(b []byte) (*Root, error) {
	if len(b) != KeySize {
		return nil, fmt.Errorf("root of %d bytes, want %d", len(b), KeySize)
	}
	r := new(Root)
	r.locked = lock(r.b[:])
	copy(r.b[:], b)
	return r, nil
}

// Locked reports whether the system keeps the root out of swap.
func (r *Root) Locked() bool { return r.locked }

// Wipe overwrites the root with zeros. It must not be used afterwards.
func (r *Root) Wipe() {
	r.Secret.Wipe()
	if r.locked {
		unlock(r.b[:])
		r.locked = false
	}
}

// Signer returns the key that signs charters.
func (r *Root) Signer() *Signer {
	seed := r.Derive("root signature", Context{})
	defer seed.Wipe()
	return DeriveSigner(seed)
}

// Identity returns the key to which recovery kits and rotations are sealed.
func (r *Root) Identity() *Identity {
	seed := r.Derive("root recipient", Context{})
	defer seed.Wipe()
	return must(DeriveIdentity(seed))
}

// CompartmentID returns the pseudonym of a compartment: the first 16 bytes of
// HMAC-SHA-256(derived key, name).
func (r *Root) CompartmentID(name string) ID {
	key := r.Derive("compartment id", Context{})
	defer key.Wipe()
	mac := hmac.New(sha256.New, key.b[:])
	mac.Write([]byte(name))
	return ID(mac.Sum(nil)[:16])
}

// Reader returns the private key of a compartment's readers in an epoch.
func (r *Root) Reader(compartment ID, epoch uint32) *Identity {
	seed := r.Derive("reader", Context{Compartment: compartment, Epoch: epoch})
	defer seed.Wipe()
	return must(DeriveIdentity(seed))
}

// Writer returns the secret of a compartment's writers in an epoch.
func (r *Root) Writer(compartment ID, epoch uint32) *Secret {
	return r.Derive("writer", Context{Compartment: compartment, Epoch: epoch})
}

// Fingerprint is the fingerprint of the root's signing key.
func (r *Root) Fingerprint() string { return r.Signer().Verifier().Fingerprint() }
