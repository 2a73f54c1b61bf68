package crypto

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
)

// Root is a nation's root secret, and the roots that it replaced. Everything
// below it is derived anew at each call: HKDF labels "root signature", "root recipient", "partner", "compartment id"
// and "compartment", with a Context that is empty but for the compartment where it
// applies; below the last one "reader" and "writer", with the epoch too; and
// "earlier roots" and "kept keys", with that of the box.
//
// Its bytes are kept out of swap where the system allows it. What is derived
// from it is not: that lives in many places, and not for long.
type Root struct {
	Secret           // zero in one that was reduced
	earlier []*Root  // before rotations, newest first; reduced ones last
	left    *remains // of one that was reduced; nil: it is whole
	locked  bool
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

// Succeed returns a new random root that follows r: it knows r and all roots
// before it.
func (r *Root) Succeed() *Root {
	next := NewRoot()
	for _, e := range r.Ring() { // copies: one may be wiped while the other is in use
		next.earlier = append(next.earlier, e.copy())
	}
	return next
}

func (r *Root) copy() *Root {
	if r.left != nil {
		return &Root{left: r.left.only(r.left.compartments.ids())}
	}
	return must(RootFromBytes(r.b[:]))
}

// Ring returns r and the roots before it that it knows, newest first.
func (r *Root) Ring() []*Root { return append([]*Root{r}, r.earlier...) }

// SealEarlier seals the whole roots before r under r itself: whoever has r, and
// the box, has them all. It returns nil when there are none.
func (r *Root) SealEarlier(ctx Context) ([]byte, error) {
	var plain []byte
	defer func() { clear(plain) }()
	for _, e := range r.earlier {
		if e.left == nil {
			plain = append(plain, e.b[:]...)
		}
	}
	if len(plain) == 0 {
		return nil, nil
	}
	key := r.Derive("earlier roots", ctx)
	defer key.Wipe()
	return SealBox(key, ctx, plain, nil)
}

// Wipe overwrites the root and those before it with zeros. They must not be
// used afterwards.
func (r *Root) Wipe() {
	for _, s := range r.Ring() {
		s.Secret.Wipe()
		if s.left != nil {
			s.left.wipe()
		}
		if s.locked {
			unlock(s.b[:])
			s.locked = false
		}
	}
}

// Signer returns the key that signs charters.
func (r *Root) Signer() *Signer {
	seed := r.seed("root signature")
	defer seed.Wipe()
	return DeriveSigner(seed)
}

// Identity returns the key to which recovery kits and rotations are sealed.
func (r *Root) Identity() *Identity {
	seed := r.seed("root recipient")
	defer seed.Wipe()
	return must(DeriveIdentity(seed))
}

// Partner returns the key to which other nations seal what they grant to this
// one.
func (r *Root) Partner() *Identity {
	seed := r.seed("partner")
	defer seed.Wipe()
	return must(DeriveIdentity(seed))
}

// CompartmentID returns the pseudonym of a compartment: the first 16 bytes of
// HMAC-SHA-256(derived key, name).
func (r *Root) CompartmentID(name string) ID {
	key := r.seed("compartment id")
	defer key.Wipe()
	mac := hmac.New(sha256.New, key.b[:])
	mac.Write([]byte(name))
	return ID(mac.Sum(nil)[:16])
}

// Reader returns the private key of a compartment's readers in an epoch. It
// panics if the root does not hold the compartment.
func (r *Root) Reader(compartment ID, epoch uint32) *Identity {
	below := r.compartment(compartment)
	defer below.Wipe()
	seed := below.Derive("reader", Context{Compartment: compartment, Epoch: epoch})
	defer seed.Wipe()
	return must(DeriveIdentity(seed))
}

// Writer returns the secret of a compartment's writers in an epoch. It panics if
// the root does not hold the compartment.
func (r *Root) Writer(compartment ID, epoch uint32) *Secret {
	below := r.compartment(compartment)
	defer below.Wipe()
	return below.Derive("writer", Context{Compartment: compartment, Epoch: epoch})
}

// Fingerprint is the fingerprint of the root's signing key.
func (r *Root) Fingerprint() string { return r.Signer().Verifier().Fingerprint() }
