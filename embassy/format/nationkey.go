package format

import (
	"encoding/hex"
	"fmt"
	"strings"

	"embassy/crypto"
)

// NationKey is the public key of a nation: all that is needed to tell its
// charters and ledgers from forgeries.
type NationKey struct {
	Nation ID
	Signer *crypto.Verifier // of charters
}

// String is the pseudonym, a colon, and the signer in hexadecimal digits.
func (k NationKey) String() string {
	return k.Nation.String() + ":" + hex.EncodeToString(k.Signer.Bytes())
}

// ParseNationKey reads what String wrote.
func ParseNationKey(text string) (NationKey, error) {
	id, signer, ok := strings.Cut(text, ":")
	if !ok {
		return NationKey{}, fmt.Errorf("%w: nation key without a colon", ErrMalformed)
	}
	var k NationKey
	var err error
	if k.Nation, err = ParseID(id); err != nil {
		return NationKey{}, fmt.Errorf("%w: nation key: %v", ErrMalformed, err)
	}
	raw, err := hex.DecodeString(signer)
	if err != nil {
		return NationKey{}, fmt.Errorf("%w: nation key: %v", ErrMalformed, err)
	}
	if k.Signer, err = crypto.ParseVerifier(raw); err != nil {
		return NationKey{}, fmt.Errorf("%w: nation key: %v", ErrMalformed, err)
	}
	return k, nil
}
