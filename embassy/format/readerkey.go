package format

import (
	"encoding/base64"
	"fmt"
	"strings"

	"embassy/crypto"
)

// ReaderKey opens one compartment and nothing else: it is for a desk that
// restores from day to day.
type ReaderKey struct {
	Version     uint8            `cbor:"1,keyasint"`
	Nation      ID               `cbor:"2,keyasint"`
	RootSigner  []byte           `cbor:"3,keyasint"` // crypto.Verifier
	Compartment ID               `cbor:"4,keyasint"`
	Identities  []ReaderIdentity `cbor:"5,keyasint"` // newest first
	// Part is what the charter said of the compartment: it opens what is older
	// than a rotation of the reader key.
	Part CompartmentPart `cbor:"6,keyasint"`
}

// ReaderIdentity is the private key of a compartment's readers in an epoch.
type ReaderIdentity struct {
	Epoch uint32 `cbor:"1,keyasint"`
	Key   []byte `cbor:"2,keyasint"` // crypto.Identity
}

var readerKeyArmor = armor{
	what: "reader key", block: "EMBASSY READER KEY", advice: "export it again", digits: 60,
	encode: base64.StdEncoding.EncodeToString, decode: base64.StdEncoding.Strict().DecodeString,
}

// Text prints the key: lines for people, then its block. It is a secret.
func (k ReaderKey) Text() (string, error) {
	k.Version = Version
	if _, err := k.check(); err != nil {
		return "", err
	}
	raw, err := encodeRecord(k)
	if err != nil {
		return "", fmt.Errorf("reader key: %w", err)
	}
	defer clear(raw)
	var b strings.Builder
	fmt.Fprintf(&b, "EMBASSY READER KEY of %s\n\n", k.Part.NationName)
	fmt.Fprintf(&b, "Nation:       %s\n", k.Nation)
	fmt.Fprintf(&b, "Compartment:  %s\n", k.Part.Name)
	fmt.Fprintf(&b, "Reader epoch: %d\n\n", k.Epoch())
	b.WriteString("This file alone opens everything in that compartment. No passphrase protects it.\n" +
		"Keep it on the machine that restores, readable by its user only. When it may have\n" +
		"been seen: embassy keys rotate reader.\n\n")
	readerKeyArmor.print(&b, raw)
	if b.Len() > MaxKitSize {
		return "", fmt.Errorf("reader key of %d bytes, at most %d", b.Len(), MaxKitSize)
	}
	return b.String(), nil
}

// ParseReaderKey reads what Text printed. White space does not matter, nor what
// stands around the block.
func ParseReaderKey(text []byte) (*ReaderKey, error) {
	if len(text) > MaxKitSize {
		return nil, fmt.Errorf("%w: reader key of %d bytes", ErrMalformed, len(text))
	}
	raw, err := readerKeyArmor.parse(text)
	if err != nil {
		return nil, err
	}
	defer clear(raw)
	k := new(ReaderKey)
	if err := decode(raw, k); err != nil {
		return nil, fmt.Errorf("reader key: %w", err)
	}
	if _, err := k.check(); err != nil {
		return nil, err
	}
	return k, nil
}

func (k ReaderKey) check() (ids []*crypto.Identity, err error) {
	if k.Version != Version || len(k.Identities) == 0 || len(k.Part.Writers) == 0 {
		return nil, fmt.Errorf("%w: reader key of version %d with %d keys and %d writer epochs", ErrMalformed, k.Version, len(k.Identities), len(k.Part.Writers))
	}
	if _, err := crypto.ParseVerifier(k.RootSigner); err != nil {
		return nil, fmt.Errorf("%w: reader key: %v", ErrMalformed, err)
	}
	for _, i := range k.Identities {
		id, err := crypto.ParseIdentity(i.Key)
		if err != nil || i.Epoch == 0 {
			return nil, fmt.Errorf("%w: reader key: the key of epoch %d", ErrMalformed, i.Epoch)
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// Epoch is that of the newest key.
func (k ReaderKey) Epoch() (newest uint32) {
	for _, i := range k.Identities {
		newest = max(newest, i.Epoch)
	}
	return newest
}

// Open returns the private keys, newest first.
func (k ReaderKey) Open() ([]*crypto.Identity, error) { return k.check() }

// NationKey is what charters of the nation are verified with.
func (k ReaderKey) NationKey() (NationKey, error) {
	v, err := crypto.ParseVerifier(k.RootSigner)
	return NationKey{Nation: k.Nation, Signer: v}, err
}

// String and GoString keep the key out of logs.
func (k ReaderKey) String() string { return "reader key of compartment " + k.Compartment.String() }

// GoString is String.
func (k ReaderKey) GoString() string { return k.String() }
