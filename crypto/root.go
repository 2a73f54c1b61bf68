package crypto

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
)

// Root is a nation's root secret, and the roots that it replaced. Everything
// below it is derived anew at each call: HKDF labels "root signature", "root recipient", "partner", "compartment id",
// "reader" and "writer", with a Context that is empty but for the compartment
// and the epoch where they apply; and "earlier roots", with that of the box.
//
// Its bytes are kept out of swap where the system allows it. What is derived
// from it is not: that lives in many places, and not for long.
type Root struct {
	Secret
	earlier []*Root // before rotations, newest first
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
		next.earlier = append(next.earlier, must(RootFromBytes(e.b[:])))
	}
	return next
}

// Ring returns r and the roots before it that it knows, newest first.
func (r *Root) Ring() []*Root { return append([]*Root{r}, r.earlier...) }

// SealEarlier seals the roots before r under r itself: whoever has r, and the
// box, has them all. It returns nil when there are none.
func (r *Root) SealEarlier(ctx Context) ([]byte, error) {
	if len(r.earlier) == 0 {
		return nil, nil
	}
	key := r.Derive("earlier roots", ctx)
	defer key.Wipe()
	var plain []byte
	defer func() { clear(plain) }()
	for _, e := range r.earlier {
		plain = append(plain, e.b[:]...)
	}
	return SealBox(key, ctx, plain, nil)
}

// OpenEarlier returns r with the roots before it that SealEarlier sealed; r
// itself for an empty box. Else the error is ErrAuthentication.
func (r *Root) OpenEarlier(ctx Context, box []byte) (*Root, error) {
	if len(box) == 0 {
		return r, nil
	}
	key := r.Derive("earlier roots", ctx)
	defer key.Wipe()
	plain, err := OpenBox(key, ctx, box, nil)
	if err != nil || len(plain) == 0 || len(plain)%KeySize != 0 {
		return nil, ErrAuthentication
	}
	defer clear(plain)
	out, err := RootFromBytes(r.b[:])
	for rest := plain; err == nil && len(rest) > 0; rest = rest[KeySize:] {
		var e *Root
		e, err = RootFromBytes(rest[:KeySize])
		out.earlier = append(out.earlier, e)
	}
	return out, err
}

// Wipe overwrites the root and those before it with zeros. They must not be
// used afterwards.
func (r *Root) Wipe() {
	for _, s := range r.Ring() {
		s.Secret.Wipe()
		if s.locked {
			unlock(s.b[:])
			s.locked = false
		}
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

// Partner returns the key to which other nations seal what they grant to this
// one.
func (r *Root) Partner() *Identity {
	seed := r.Derive("partner", Context{})
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
