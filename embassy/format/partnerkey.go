package format

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"

	"embassy/crypto"
)

// PartnerKey is the public key to which other nations seal what they grant to
// this one. Its root signed it; whose root that is, people find out by comparing
// fingerprints.
type PartnerKey struct {
	Version   uint8  `cbor:"1,keyasint"`
	Nation    ID     `cbor:"2,keyasint"`
	Signer    []byte `cbor:"3,keyasint"` // crypto.Verifier of the root
	Recipient []byte `cbor:"4,keyasint"` // crypto.Recipient, of crypto.Root.Partner
	Sig       []byte `cbor:"5,keyasint"`
}

var partnerKeyArmor = armor{
	what: "partner key", block: "EMBASSY PARTNER KEY", advice: "ask for it again", digits: 60, shown: 4,
	encode: base64.StdEncoding.EncodeToString, decode: base64.StdEncoding.Strict().DecodeString,
}

func (k PartnerKey) context() crypto.Context { return Scope{Nation: k.Nation}.context(typePartnerKey) }

func (k PartnerKey) signed() []byte {
	k.Sig = nil
	return encode(k)
}

// NewPartnerKey signs the partner key of a nation.
func NewPartnerKey(nation ID, root *crypto.Root) *PartnerKey {
	k := &PartnerKey{
		Version: Version, Nation: nation,
		Signer: root.Signer().Verifier().Bytes(), Recipient: root.Partner().Recipient().Bytes(),
	}
	k.Sig = root.Signer().Sign(k.context(), k.signed())
	return k
}

// Fingerprint is that of the root that signed it.
func (k *PartnerKey) Fingerprint() (string, error) {
	v, err := crypto.ParseVerifier(k.Signer)
	if err != nil {
		return "", err
	}
	return v.Fingerprint(), nil
}

// Text prints the key: lines for people, then its block.
func (k *PartnerKey) Text(nationName string) (string, error) {
	fp, err := k.Fingerprint()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "EMBASSY PARTNER KEY of %s\n\n", nationName)
	fmt.Fprintf(&b, "Nation:           %s\n", k.Nation)
	fmt.Fprintf(&b, "Root fingerprint: %s\n\n", fp)
	b.WriteString("Another nation grants a compartment to this one with\n\n" +
		"  embassy charter grant --to THIS-FILE COMPARTMENT\n\n" +
		"after people compared the fingerprint, by phone. It is no secret.\n\n")
	partnerKeyArmor.print(&b, encode(k))
	return b.String(), nil
}

// ParsePartnerKey reads what Text printed, and verifies it. White space does not
// matter, nor what stands around the block.
func ParsePartnerKey(text []byte) (*PartnerKey, error) {
	if len(text) > MaxKitSize {
		return nil, fmt.Errorf("%w: partner key of %d bytes", ErrMalformed, len(text))
	}
	raw, err := partnerKeyArmor.parse(text)
	if err != nil {
		return nil, err
	}
	k := new(PartnerKey)
	if err := decode(raw, k); err != nil {
		return nil, fmt.Errorf("partner key: %w", err)
	}
	if k.Version != Version {
		return nil, fmt.Errorf("%w: partner key of version %d", ErrMalformed, k.Version)
	}
	v, err := crypto.ParseVerifier(k.Signer)
	if err == nil {
		_, err = crypto.ParseRecipient(k.Recipient)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: partner key: %v", ErrMalformed, err)
	}
	if err := v.Verify(k.context(), k.signed(), k.Sig); err != nil {
		return nil, fmt.Errorf("partner key: %w", err)
	}
	return k, nil
}

// Is reports whether a charter lists the key.
func (k *PartnerKey) Is(r RecipientKey) bool { return r.Epoch == 0 && bytes.Equal(r.Key, k.Recipient) }
