package format

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"embassy/crypto"
)

// Kit is the recovery kit: with its passphrase it is the root.
type Kit struct {
	Version       uint8          `cbor:"1,keyasint"`
	Nation        ID             `cbor:"2,keyasint"`
	Created       int64          `cbor:"3,keyasint"` // unix nanoseconds
	RootSigner    []byte         `cbor:"4,keyasint"` // crypto.Verifier
	RootRecipient []byte         `cbor:"5,keyasint"` // crypto.Recipient
	Wrapped       crypto.Wrapped `cbor:"6,keyasint"`
	Hints         []byte         `cbor:"7,keyasint,omitempty"` // Hints, sealed to the root
	// Earlier holds the roots before this one, and Kept what is left of those that
	// were reduced: crypto.Root.SealEarlier and SealKept. The version says which there are.
	Earlier []byte `cbor:"8,keyasint,omitempty"`
	Kept    []byte `cbor:"9,keyasint,omitempty"`
}

// Hints is what a kit knows of the world. Anybody who holds the kit can
// replace it, so it is advice and not evidence.
type Hints struct {
	Time    int64        `cbor:"1,keyasint"`
	Heads   []Head       `cbor:"2,keyasint,omitempty"` // newest known to the writer
	Charter uint64       `cbor:"3,keyasint"`           // sequence number
	Targets []TargetHint `cbor:"4,keyasint"`
	// Credentials, if the nation chose to put read-only ones in.
	Credentials []Credential `cbor:"5,keyasint,omitempty"`
}

// Credential opens one target for reading.
type Credential struct {
	Target    string `cbor:"1,keyasint"`
	AccessKey string `cbor:"2,keyasint"`
	SecretKey string `cbor:"3,keyasint"`
}

// When returns the time of the hints.
func (h Hints) When() time.Time { return time.Unix(0, h.Time).UTC() }

// NewKit wraps the root.
func NewKit(root *crypto.Root, nation ID, passphrase []byte, now time.Time) (*Kit, error) {
	w, err := crypto.WrapRoot(root, passphrase, Scope{Nation: nation}.context(typeKit))
	if err != nil {
		return nil, err
	}
	earlier, kept, err := sealRing(root, nation)
	if err != nil {
		return nil, err
	}
	return &Kit{
		Version: ringVersion(earlier, kept), Nation: nation, Created: now.UnixNano(), Wrapped: w, Earlier: earlier, Kept: kept,
		RootSigner: root.Signer().Verifier().Bytes(), RootRecipient: root.Identity().Recipient().Bytes(),
	}, nil
}

// Unwrap returns the root; crypto.ErrAuthentication for a wrong passphrase.
func (k *Kit) Unwrap(passphrase []byte) (*crypto.Root, error) {
	root, err := crypto.UnwrapRoot(k.Wrapped, passphrase, Scope{Nation: k.Nation}.context(typeKit))
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(root.Signer().Verifier().Bytes(), k.RootSigner) ||
		!bytes.Equal(root.Identity().Recipient().Bytes(), k.RootRecipient) {
		root.Wipe()
		return nil, crypto.ErrAuthentication
	}
	ring, err := openRing(root, k.Nation, k.Earlier, k.Kept)
	if ring != root {
		root.Wipe() // the ring has a copy
	}
	return ring, err
}

// Fingerprint is that of the root, for people to compare.
func (k *Kit) Fingerprint() (string, error) {
	v, err := crypto.ParseVerifier(k.RootSigner)
	if err != nil {
		return "", err
	}
	return v.Fingerprint(), nil
}

// SetHints replaces the hints; it needs no secret.
func (k *Kit) SetHints(h Hints) error {
	to, err := crypto.ParseRecipient(k.RootRecipient)
	if err != nil {
		return fmt.Errorf("recovery kit: %w", err)
	}
	k.Hints, err = sealHints(to, k.Nation, h)
	return err
}

// OpenHints opens the hints.
func (k *Kit) OpenHints(root *crypto.Root) (Hints, error) { return openHints(root, k.Nation, k.Hints) }

func sealHints(to *crypto.Recipient, nation ID, h Hints) ([]byte, error) {
	plain, err := encodeRecord(h)
	if err != nil {
		return nil, fmt.Errorf("recovery hints: %w", err)
	}
	return to.Seal(Scope{Nation: nation}.context(typeHints), pad(plain, crypto.RecipientOverhead))
}

// openHints opens sealed hints; no bytes are no hints.
func openHints(root *crypto.Root, nation ID, sealed []byte) (Hints, error) {
	var h Hints
	if len(sealed) == 0 {
		return h, nil
	}
	p, err := root.Identity().Open(Scope{Nation: nation}.context(typeHints), sealed)
	if err == nil {
		p, err = unpad(p)
	}
	if err == nil {
		err = decode(p, &h)
	}
	if err != nil {
		return Hints{}, fmt.Errorf("recovery hints: %w", err)
	}
	return h, nil
}

// kitArmor is the block of a kit.
var kitArmor = armor{
	what: "recovery kit", block: "EMBASSY RECOVERY KIT", advice: "compare it with another copy", digits: 60, shown: 4,
	encode: base64.StdEncoding.EncodeToString, decode: base64.StdEncoding.Strict().DecodeString,
}

// Text prints the kit: lines for people, then its block.
func (k *Kit) Text(nationName string) (string, error) {
	fp, err := k.Fingerprint()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "EMBASSY RECOVERY KIT of %s\n\n", nationName)
	fmt.Fprintf(&b, "Made:             %s\n", time.Unix(0, k.Created).UTC().Format(time.RFC3339))
	fmt.Fprintf(&b, "Nation:           %s\n", k.Nation)
	fmt.Fprintf(&b, "Root fingerprint: %s\n\n", fp)
	b.WriteString("With its passphrase this kit opens everything. Print it, keep copies in safe\n" +
		"places apart from the passphrase, and delete it from the machine.\n\n" +
		"To restore on any machine, with one surviving target:\n\n" +
		"  embassy-rescue --kit THIS-FILE --from URL --to FOLDER\n\n" +
		"Leave out --from URL to try all targets that this kit knows. A target on S3\n" +
		"needs credentials too: see embassy-rescue --help.\n\n")
	kitArmor.print(&b, encode(k))
	return b.String(), nil
}

// ParseKit reads what Text printed. White space does not matter, nor where
// lines end, nor what stands around the kit.
func ParseKit(text []byte) (*Kit, error) {
	if len(text) > MaxKitSize {
		return nil, fmt.Errorf("%w: recovery kit of %d bytes", ErrMalformed, len(text))
	}
	raw, err := kitArmor.parse(text)
	if err != nil {
		return nil, err
	}
	k := new(Kit)
	if err := decode(raw, k); err != nil {
		return nil, fmt.Errorf("recovery kit: %w", err)
	}
	if k.Version != ringVersion(k.Earlier, k.Kept) {
		return nil, fmt.Errorf("%w: recovery kit of version %d", ErrMalformed, k.Version)
	}
	return k, nil
}
