package crypto

import (
	"crypto/rand"
	"fmt"

	"github.com/cloudflare/circl/group"
	"github.com/cloudflare/circl/secretsharing"
)

// MaxShares is how many shares a root is split into at most.
const MaxShares = 32

// SealedRootSize is the size of the sealed root of SplitRoot, in bytes.
const SealedRootSize = KeySize + BoxOverhead

const labelShare = "root share"

// shareGroup has the scalars that are shared: 32 bytes, little endian.
var shareGroup = group.Ristretto255

// SplitRoot seals a root under a random scalar and shares the scalar out: any
// quorum of the n values, together with the sealed root, are the root, and
// fewer say nothing about it, whatever the power of who holds them. Value i,
// counted from 0, has number i+1. The caller owns the values and wipes them;
// the sealed root goes with each, and is no secret.
//
// It is Shamir's scheme over the scalars of Ristretto255 with a polynomial of
// degree quorum-1, without commitments. The scalar's 32 bytes are a secret
// from which Derive("root share", ctx) is the key of SealBox. The coefficients
// of the polynomial stay in memory until they are collected.
//
// A quorum is 2 to n, and n at most MaxShares.
func SplitRoot(r *Root, ctx Context, quorum, n int) (values []*Secret, sealed []byte, err error) {
	if err := CheckQuorum(quorum, n); err != nil {
		return nil, nil, err
	}
	scalar := shareGroup.RandomNonZeroScalar(rand.Reader)
	defer scalar.SetUint64(0)
	if sealed, err = sealUnder(scalar, ctx, r); err != nil {
		return nil, nil, err
	}
	for _, s := range secretsharing.New(rand.Reader, uint(quorum-1), scalar).Share(uint(n)) {
		v, err := scalarSecret(s.Value)
		s.Value.SetUint64(0)
		if err != nil {
			return nil, nil, err
		}
		values = append(values, v)
	}
	return values, sealed, nil
}

// CheckQuorum refuses a number of shares, and of those that are needed, which
// SplitRoot does not make, and says why.
func CheckQuorum(quorum, n int) error {
	switch {
	case n > MaxShares:
		return fmt.Errorf("%d custodians are more than %d", n, MaxShares)
	case quorum > n:
		return fmt.Errorf("a quorum of %d is more than the %d custodians", quorum, n)
	case quorum < 2:
		return fmt.Errorf("a quorum of %d is none: each share would be a copy of the root; it is at least 2", quorum)
	}
	return nil
}

// JoinRoot returns the root that SplitRoot sealed, from a quorum of its values
// or more by number, else ErrAuthentication.
func JoinRoot(values map[int]*Secret, sealed []byte, ctx Context) (*Root, error) {
	var shares []secretsharing.Share
	defer func() {
		for _, s := range shares {
			s.Value.SetUint64(0)
		}
	}()
	for number, v := range values {
		s := secretsharing.Share{ID: shareGroup.NewScalar().SetUint64(uint64(number)), Value: shareGroup.NewScalar()}
		if number < 1 || number > MaxShares || s.Value.UnmarshalBinary(v.b[:]) != nil {
			return nil, ErrAuthentication
		}
		shares = append(shares, s)
	}
	if len(shares) < 2 {
		return nil, ErrAuthentication
	}
	// All of them are used: too few are a wrong scalar, and more than a quorum
	// the right one only if they agree.
	scalar, err := secretsharing.Recover(uint(len(shares)-1), shares)
	if err != nil {
		return nil, ErrAuthentication
	}
	defer scalar.SetUint64(0)
	secret, err := scalarSecret(scalar)
	if err != nil {
		return nil, err
	}
	defer secret.Wipe()
	key := secret.Derive(labelShare, ctx)
	defer key.Wipe()
	b, err := OpenBox(key, ctx, sealed, nil)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	if len(b) != KeySize {
		return nil, ErrAuthentication
	}
	return RootFromBytes(b)
}

// ValidShare reports whether bytes can be a value of SplitRoot.
func ValidShare(value []byte) bool {
	s := shareGroup.NewScalar()
	defer s.SetUint64(0)
	return s.UnmarshalBinary(value) == nil
}

func sealUnder(scalar group.Scalar, ctx Context, r *Root) ([]byte, error) {
	secret, err := scalarSecret(scalar)
	if err != nil {
		return nil, err
	}
	defer secret.Wipe()
	key := secret.Derive(labelShare, ctx)
	defer key.Wipe()
	return SealBox(key, ctx, r.b[:], nil)
}

func scalarSecret(s group.Scalar) (*Secret, error) {
	b, err := s.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("share of a root: %w", err)
	}
	defer clear(b)
	return SecretFromBytes(b)
}
