package format

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

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
	// Earlier holds the roots before this one: crypto.Root.SealEarlier. A kit
	// that has it is of version 2.
	Earlier []byte `cbor:"8,keyasint,omitempty"`
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
	earlier, err := root.SealEarlier(earlierContext(nation))
	if err != nil {
		return nil, err
	}
	k := &Kit{
		Version: Version, Nation: nation, Created: now.UnixNano(), Wrapped: w, Earlier: earlier,
		RootSigner: root.Signer().Verifier().Bytes(), RootRecipient: root.Identity().Recipient().Bytes(),
	}
	if len(earlier) > 0 {
		k.Version++ // it has a word that version 1 lacks
	}
	return k, nil
}

// Unwrap returns the root; crypto.ErrAuthentication for a wrong passphrase.
func (k *Kit) Unwrap(passphrase []byte) (*crypto.Root, error) {
	root, err := crypto.UnwrapRoot(k.Wrapped, passphrase, Scope{Nation: k.Nation}.context(typeKit))
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(root.Signer().Verifier().Bytes(), k.RootSigner) ||
		!bytes.Equal(root.Identity().Recipient().Bytes(), k.RootRecipient) {
		return nil, crypto.ErrAuthentication
	}
	return root.OpenEarlier(earlierContext(k.Nation), k.Earlier)
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
	plain, err := encodeRecord(h)
	if err != nil {
		return fmt.Errorf("recovery hints: %w", err)
	}
	k.Hints, err = to.Seal(Scope{Nation: k.Nation}.context(typeHints), pad(plain, crypto.RecipientOverhead))
	return err
}

// OpenHints opens the hints.
func (k *Kit) OpenHints(root *crypto.Root) (Hints, error) {
	var h Hints
	if len(k.Hints) == 0 {
		return h, nil
	}
	p, err := root.Identity().Open(Scope{Nation: k.Nation}.context(typeHints), k.Hints)
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

const (
	kitBegin = "-----BEGIN EMBASSY RECOVERY KIT-----"
	kitEnd   = "-----END EMBASSY RECOVERY KIT-----"
	kitLine  = 60 // base64 digits
	kitSum   = 4  // hexadecimal digits before them
	kitShown = 4  // base64 digits of a line that an error shows
)

// Text prints the kit: lines for people, then base64 lines, each behind a sum
// of its number and text, so that a line typed wrong, left out or misplaced is
// found.
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
	b.WriteString(kitBegin + "\n")
	text := base64.StdEncoding.EncodeToString(encode(k))
	for n := 1; text != ""; n++ {
		line, rest := text[:min(kitLine, len(text))], text[min(kitLine, len(text)):]
		b.WriteString(lineSum(n, rest == "", line) + " " + line + "\n")
		text = rest
	}
	b.WriteString(kitEnd + "\n")
	return b.String(), nil
}

// lineSum is the start of the SHA-256 of a line, its number from 1, and
// whether it is the last.
func lineSum(n int, last bool, line string) string {
	end := ""
	if last {
		end = "end "
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %s%s", n, end, line))
	return hex.EncodeToString(sum[:kitSum/2])
}

// ParseKit reads what Text printed. White space does not matter, nor where
// lines end, nor what stands around the kit.
func ParseKit(text []byte) (*Kit, error) {
	if len(text) > MaxKitSize {
		return nil, fmt.Errorf("%w: recovery kit of %d bytes", ErrMalformed, len(text))
	}
	before, rest, ok := strings.Cut(strings.Join(strings.Fields(string(text)), " "), kitBegin)
	body, _, ok2 := strings.Cut(rest, kitEnd)
	if !ok || !ok2 {
		return nil, fmt.Errorf("%w: no recovery kit between %q and %q", ErrMalformed, kitBegin, kitEnd)
	}
	body = strings.ReplaceAll(body, " ", "")
	var joined strings.Builder
	for n, rest := 1, body; rest != ""; n++ {
		line := rest[:min(kitSum+kitLine, len(rest))]
		if len(line) <= kitSum || line[:kitSum] != lineSum(n, line == rest, line[kitSum:]) {
			read := before + kitBegin + body[:len(body)-len(rest)]
			at := fmt.Sprintf("line %d of the file, at %q", lineOf(text, read), line[:min(kitSum, len(line))]+" "+line[min(kitSum, len(line)):min(kitSum+kitShown, len(line))])
			return nil, fmt.Errorf("%w: recovery kit: %s; compare it with another copy", ErrMalformed, lineFault(n, line, rest, at))
		}
		joined.WriteString(line[kitSum:])
		rest = rest[len(line):]
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(joined.String())
	if err != nil {
		return nil, fmt.Errorf("%w: recovery kit: %v", ErrMalformed, err)
	}
	k := new(Kit)
	if err := decode(raw, k); err != nil {
		return nil, fmt.Errorf("recovery kit: %w", err)
	}
	if want := uint8(Version + min(1, len(k.Earlier))); k.Version != want {
		return nil, fmt.Errorf("%w: recovery kit of version %d", ErrMalformed, k.Version)
	}
	return k, nil
}

// lineFault says what is wrong with the nth line of a block, of which rest is
// left, and which stands at that place.
func lineFault(n int, line, rest, at string) string {
	if len(line) > kitSum {
		for m := range 2*n + len(rest)/kitLine { // some lines may be left out
			for _, last := range []bool{false, true} {
				switch {
				case line[:kitSum] != lineSum(m+1, last, line[kitSum:]):
				case m+1 == n && last:
					return fmt.Sprintf("%s, is the last one, and more follows", at)
				case m+1 == n:
					return fmt.Sprintf("its end is missing, behind %s", at)
				default:
					return fmt.Sprintf("line %d of its block is missing or out of order: see %s", n, at)
				}
			}
		}
	}
	return at + ", is damaged"
}

// lineOf returns the number of the line of the text in which the character
// stands that follows those of read; white space does not count.
func lineOf(text []byte, read string) int {
	left, line := utf8.RuneCountInString(strings.ReplaceAll(read, " ", "")), 1
	for _, c := range string(text) {
		switch {
		case c == '\n':
			line++
		case unicode.IsSpace(c):
		case left == 0:
			return line
		default:
			left--
		}
	}
	return line
}
