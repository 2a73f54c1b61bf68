package format

import (
	"bytes"
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"fmt"
	"strings"
	"time"
	"unicode"

	"embassy/crypto"
)

// Share is one custodian's share of the root. Value is secret; a quorum of the
// shares of one ceremony is the root. Whoever holds one should Wipe it.
type Share struct {
	Version    uint8  `cbor:"1,keyasint"`
	Nation     ID     `cbor:"2,keyasint"`
	Ceremony   ID     `cbor:"3,keyasint"` // random: shares of two ceremonies do not mix
	Created    int64  `cbor:"4,keyasint"` // unix nanoseconds
	Number     uint8  `cbor:"5,keyasint"` // 1 to Of
	Of         uint8  `cbor:"6,keyasint"`
	Quorum     uint8  `cbor:"7,keyasint"`
	RootSigner []byte `cbor:"8,keyasint"`            // crypto.Verifier
	Value      []byte `cbor:"9,keyasint"`            // of crypto.SplitRoot
	Wrapped    []byte `cbor:"10,keyasint"`           // the root, sealed by crypto.SplitRoot
	Earlier    []byte `cbor:"11,keyasint,omitempty"` // as in a kit, and so is the version
	Signature  []byte `cbor:"12,keyasint,omitempty"` // by the root, of all but itself
	Kept       []byte `cbor:"13,keyasint,omitempty"` // as in a kit

	// Hints stand beside the share, sealed to the root. They are not signed,
	// and anybody can replace them. Without them, HintsFault says why.
	Hints      []byte `cbor:"-"`
	HintsFault error  `cbor:"-"`
}

// NewShares holds a ceremony: it splits the root among n custodians, any quorum
// of whom can combine it. The hints go with every share.
func NewShares(root *crypto.Root, nation ID, quorum, n int, h Hints, now time.Time) ([]*Share, error) {
	hints, err := sealHints(root.Identity().Recipient(), nation, h)
	if err != nil {
		return nil, err
	}
	earlier, kept, err := sealRing(root, nation)
	if err != nil {
		return nil, err
	}
	first := Share{
		Version: ringVersion(earlier, kept), Earlier: earlier, Kept: kept, Nation: nation, Created: now.UnixNano(), Of: uint8(n), Quorum: uint8(quorum),
		RootSigner: root.Signer().Verifier().Bytes(), Hints: hints,
	}
	rand.Read(first.Ceremony[:]) // never fails
	values, wrapped, err := crypto.SplitRoot(root, first.context(), quorum, n)
	if err != nil {
		return nil, err
	}
	first.Wrapped = wrapped
	var shares []*Share
	for i, v := range values {
		s := first
		s.Number, s.Value = uint8(i+1), v.Bytes()
		v.Wipe()
		body := s.body()
		s.Signature = root.Signer().Sign(s.context(), body)
		clear(body)
		shares = append(shares, &s)
	}
	return shares, nil
}

// Wipe forgets the secret of the share.
func (s *Share) Wipe() { clear(s.Value) }

// When returns the time of the ceremony.
func (s *Share) When() time.Time { return time.Unix(0, s.Created).UTC() }

// Fingerprint is that of the root, for people to compare.
func (s *Share) Fingerprint() (string, error) {
	v, err := crypto.ParseVerifier(s.RootSigner)
	if err != nil {
		return "", err
	}
	return v.Fingerprint(), nil
}

func (s *Share) context() crypto.Context {
	return Scope{Nation: s.Nation, Chain: s.Ceremony}.context(typeShare)
}

// body is what is signed.
func (s *Share) body() []byte {
	unsigned := *s
	unsigned.Signature = nil
	return encode(unsigned)
}

// Check returns nil if the share is whole and the root that it names signed it.
// That it is of the right root, people see by the fingerprint.
func (s *Share) Check() error {
	if s.Version != ringVersion(s.Earlier, s.Kept) {
		return fmt.Errorf("%w: share of version %d", ErrMalformed, s.Version)
	}
	if err := crypto.CheckQuorum(int(s.Quorum), int(s.Of)); err != nil {
		return fmt.Errorf("%w: share: %v", ErrMalformed, err)
	}
	v, err := crypto.ParseVerifier(s.RootSigner)
	if err != nil {
		return fmt.Errorf("%w: share: %v", ErrMalformed, err)
	}
	if s.Number < 1 || s.Number > s.Of || !crypto.ValidShare(s.Value) || len(s.Wrapped) != crypto.SealedRootSize {
		return fmt.Errorf("%w: share %d of %d with a field of a wrong size", ErrMalformed, s.Number, s.Of)
	}
	body := s.body()
	defer clear(body)
	return v.Verify(s.context(), body, s.Signature)
}

const crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

var crockfordEncoding = base32.NewEncoding(crockford).WithPadding(base32.NoPadding)

var (
	// shareArmor is short enough to be typed. Its errors show no digits: they
	// are secret.
	shareArmor = armor{
		what: "share", block: "EMBASSY SHARE", advice: "compare it with what was printed", digits: 40, groups: 5, fold: foldCrockford,
		encode: crockfordEncoding.EncodeToString, decode: decodeCrockford,
	}
	hintsArmor = armor{
		what: "recovery hints", block: "EMBASSY HINTS", advice: "leave the whole block out, or compare it with another copy", digits: 60, shown: 4,
		encode: base64.StdEncoding.EncodeToString, decode: base64.StdEncoding.Strict().DecodeString,
	}
)

// foldCrockford takes small letters for capital ones, O for 0, I and L for 1.
func foldCrockford(c rune) rune {
	switch c = unicode.ToUpper(c); c {
	case 'O':
		return '0'
	case 'I', 'L':
		return '1'
	}
	return c
}

// decodeCrockford does not say which digit is wrong.
func decodeCrockford(text string) ([]byte, error) {
	b, err := crockfordEncoding.DecodeString(text)
	if err != nil {
		clear(b)
		return nil, fmt.Errorf("not base32")
	}
	return b, nil
}

// fingerprintLine begins the line of a share that tells people whose it is.
const fingerprintLine = "Root fingerprint:"

// Text prints the share: lines for people, its block, and that of the hints.
func (s *Share) Text(nationName string) (string, error) {
	fp, err := s.Fingerprint()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "EMBASSY SHARE %d of %d of the root of %s\n\n", s.Number, s.Of, nationName)
	fmt.Fprintf(&b, "Nation:           %s\n", s.Nation)
	fmt.Fprintf(&b, "%s %s\n", fingerprintLine, fp)
	fmt.Fprintf(&b, "Ceremony:         %s\n", s.Ceremony)
	fmt.Fprintf(&b, "Held:             %s\n\n", s.When().Format(time.RFC3339))
	fmt.Fprintf(&b, "Any %d of these %d shares together open everything; fewer say nothing. Print this\n"+
		"one, keep it where only you can reach it, tell nobody its lines, and delete it from\n"+
		"the machine. Shares of another ceremony do not go with it.\n\n", s.Quorum, s.Of)
	b.WriteString("To prove that it is good, without showing it:\n\n" +
		"  embassy keys check-share THIS-FILE\n\n" +
		"To restore on any machine, with one surviving target, from files or by typing:\n\n")
	fmt.Fprintf(&b, "  embassy-rescue%s --from URL --to FOLDER\n", strings.Repeat(" --share FILE", int(s.Quorum)))
	b.WriteString("  embassy-rescue --shares --from URL --to FOLDER\n\n" +
		"Who types needs the lines between BEGIN EMBASSY SHARE and its END, and no others.\n" +
		"There is no letter O, I, L or U in them.\n\n")
	body := encode(s)
	shareArmor.print(&b, body)
	clear(body)
	if len(s.Hints) > 0 {
		b.WriteString("\nWhere the data lies, for a program to read:\n\n")
		hintsArmor.print(&b, s.Hints)
	}
	return b.String(), nil
}

// ParseShare reads what Text printed, and checks it. White space does not
// matter, nor where lines end, nor what stands around the blocks, nor small
// letters, nor O for 0 and I or L for 1. The block of the hints may be left
// out, or damaged. The error is, or wraps, ErrMalformed or crypto.ErrAuthentication.
func ParseShare(text []byte) (*Share, error) {
	if len(text) > MaxKitSize {
		return nil, fmt.Errorf("%w: share of %d bytes", ErrMalformed, len(text))
	}
	raw, err := shareArmor.parse(text)
	if err != nil {
		return nil, err
	}
	s, err := decodeShare(raw)
	if err == nil && hintsArmor.found(text) {
		s.Hints, s.HintsFault = hintsArmor.parse(text)
	}
	return s, err
}

// SplitShares cuts a text with several shares in it behind the blocks of each.
func SplitShares(text []byte) [][]byte {
	var parts [][]byte
	begin := []byte(shareArmor.begin())
	for at := bytes.Index(text, begin); at >= 0; {
		next := bytes.Index(text[at+len(begin):], begin)
		if next < 0 {
			return append(parts, text)
		}
		parts, text = append(parts, text[:at+len(begin)+next]), text[at+len(begin)+next:]
		at = 0
	}
	return parts
}

func decodeShare(raw []byte) (*Share, error) {
	defer clear(raw)
	s := new(Share)
	if err := decode(raw, s); err != nil {
		return nil, fmt.Errorf("share: %w", err)
	}
	return s, s.Check()
}

// ShareLines takes a share line by line, as it is typed. The zero value awaits
// the first line.
type ShareLines struct {
	n      int
	digits strings.Builder
}

// Next is the number of the line that is awaited, from 1.
func (l *ShareLines) Next() int { return l.n + 1 }

// Add takes a line, with its sum; last says that the share ends with it. A line
// whose sum does not fit is refused with ErrMalformed, and awaited again.
func (l *ShareLines) Add(line string) (last bool, err error) {
	line = shareArmor.folded(strings.Join(strings.Fields(line), ""))
	if len(line) > sumSize && len(line) <= sumSize+shareArmor.digits && l.n < MaxKitSize/shareArmor.digits {
		for _, last := range []bool{false, true} {
			if line[:sumSize] == shareArmor.lineSum(l.n+1, last, line[sumSize:]) && (last || len(line) == sumSize+shareArmor.digits) {
				l.n++
				l.digits.WriteString(line[sumSize:])
				return last, nil
			}
		}
	}
	return false, fmt.Errorf("%w: this is not line %d of a share: %s", ErrMalformed, l.n+1, shareArmor.advice)
}

// Share returns the share, checked, once the last line is there.
func (l *ShareLines) Share() (*Share, error) {
	raw, err := shareArmor.data(l.digits.String())
	if err != nil {
		return nil, err
	}
	return decodeShare(raw)
}
