package format

import (
	"bytes"
	"fmt"

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

func sealSigned(magic string, body []byte, ctx crypto.Context, signers ...*crypto.Signer) []byte {
	r := signedRecord{Body: body}
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
