package format

import (
	"bytes"
	"fmt"
	"slices"

	"embassy/crypto"
)

// signedRecord is the envelope of a charter or a ledger entry: a magic, the
// body, and one or more signatures over it.
type signedRecord struct {
	Body []byte      `cbor:"1,keyasint"`
	Sigs []Signature `cbor:"2,keyasint"`
}

// Signature is one signature over a record's body.
type Signature struct {
	Signer [16]byte `cbor:"1,keyasint"` // crypto.Verifier.ID of the signer
	Sig    []byte   `cbor:"2,keyasint"` // algorithm id, then the signature
}

// sealSigned signs a body. Signatures stand in ascending order of their signers.
func sealSigned(magic string, body []byte, ctx crypto.Context, signers ...*crypto.Signer) []byte {
	r := signedRecord{Body: body}
	slices.SortFunc(signers, func(a, b *crypto.Signer) int {
		x, y := a.Verifier().ID(), b.Verifier().ID()
		return bytes.Compare(x[:], y[:])
	})
	for _, s := range signers {
		r.Sigs = append(r.Sigs, Signature{Signer: s.Verifier().ID(), Sig: s.Sign(ctx, body)})
	}
	return append([]byte(magic), encode(r)...)
}

func parseSigned(magic string, max int, object []byte) (signedRecord, error) {
	var r signedRecord
	if len(object) > max {
		return r, fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(object), max)
	}
	rest, ok := bytes.CutPrefix(object, []byte(magic))
	if !ok {
		return r, fmt.Errorf("%w: magic", ErrMalformed)
	}
	if err := decode(rest, &r); err != nil {
		return r, err
	}
	if len(r.Sigs) == 0 || len(r.Sigs) > 64 {
		return r, fmt.Errorf("%w: %d signatures", ErrMalformed, len(r.Sigs))
	}
	return r, nil
}

// verify returns nil when v, and nobody else, signed the record. Signatures
// are not signed: with one more that nobody checks, a host could turn an entry
// into a second one of the same number, and convict its chain of a fork.
func (r signedRecord) verify(ctx crypto.Context, v *crypto.Verifier) error {
	if len(r.Sigs) != 1 || r.Sigs[0].Signer != v.ID() {
		return crypto.ErrAuthentication
	}
	return v.Verify(ctx, r.Body, r.Sigs[0].Sig)
}

// verifyQuorum returns nil when just so many of the keys signed the record,
// each once, in ascending order of their ids, and nobody else.
func (r signedRecord) verifyQuorum(ctx crypto.Context, keys [][]byte, quorum int) error {
	if quorum == 0 || len(r.Sigs) != quorum {
		return crypto.ErrAuthentication
	}
	for i, s := range r.Sigs {
		if i > 0 && bytes.Compare(r.Sigs[i-1].Signer[:], s.Signer[:]) >= 0 {
			return crypto.ErrAuthentication
		}
		if err := verifyOne(ctx, r.Body, s, keys); err != nil {
			return err
		}
	}
	return nil
}

// verifyOne returns nil when one of the keys, crypto.Verifier each, made the
// signature.
func verifyOne(ctx crypto.Context, body []byte, s Signature, keys [][]byte) error {
	for _, k := range keys {
		v, err := crypto.ParseVerifier(k)
		if err == nil && v.ID() == s.Signer {
			return v.Verify(ctx, body, s.Sig)
		}
	}
	return crypto.ErrAuthentication
}
