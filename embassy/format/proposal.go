package format

import (
	"bytes"
	"encoding/base32"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"embassy/crypto"
)

const proposalMagic = "EMBPROP1"

var (
	// ErrNoAdministrator: a key is none of those that the root named.
	ErrNoAdministrator = errors.New("the charter of the root names no such administrator")
	// ErrTooFew: a proposal lacks signatures.
	ErrTooFew = errors.New("too few administrators have signed")
)

// Proposal is a charter that administrators collect signatures for. It goes
// from hand to hand as a text, and never onto a target.
type Proposal struct {
	record  signedRecord
	charter *Charter
}

// Propose begins a proposal. The charter must have a Base.
func Propose(c Charter) (*Proposal, error) {
	if len(c.Base) == 0 {
		return nil, fmt.Errorf("%w: a proposal rests on no charter of the root", ErrMalformed)
	}
	body, err := c.body()
	if err != nil {
		return nil, err
	}
	c.Version = c.version()
	return &Proposal{signedRecord{Body: body}, &c}, nil
}

// Open verifies with the nation's root what the proposal rests on, that it
// says no more than administrators may, and all of its signatures, and returns
// the proposed charter.
func (p *Proposal) Open(nation ID, root *crypto.Verifier) (*Charter, error) {
	c := p.charter
	if c.Nation != nation {
		return nil, fmt.Errorf("proposal: it is of nation %s, and not of %s: %w", c.Nation, nation, crypto.ErrAuthentication)
	}
	base, err := openCharter(c.Base, nation, root, false)
	if err != nil {
		return nil, fmt.Errorf("proposal: what it rests on: %w", err)
	}
	if err := c.amends(base); err != nil {
		return nil, fmt.Errorf("proposal: %w", err)
	}
	for i, s := range p.record.Sigs {
		if i > 0 && bytes.Compare(p.record.Sigs[i-1].Signer[:], s.Signer[:]) >= 0 {
			return nil, fmt.Errorf("%w: proposal: signatures are not in order", ErrMalformed)
		}
		if err := verifyOne(c.context(), p.record.Body, s, base.Administrators); err != nil {
			return nil, fmt.Errorf("proposal: signature %d: %w", i+1, err)
		}
	}
	c.base = base
	return c, nil
}

// Signers returns the fingerprints of who signed it, of the administrators of
// the charter.
func (p *Proposal) Signers() []string {
	var out []string
	for _, key := range p.charter.Administrators {
		v, err := crypto.ParseVerifier(key)
		if err == nil && slices.ContainsFunc(p.record.Sigs, func(s Signature) bool { return s.Signer == v.ID() }) {
			out = append(out, v.Fingerprint())
		}
	}
	return out
}

// Lacks returns how many signatures are still needed.
func (p *Proposal) Lacks() int { return max(0, int(p.charter.Quorum)-len(p.record.Sigs)) }

// Sign adds the signature of an administrator. Signing again changes nothing.
// ErrNoAdministrator: the key is of nobody whom the charter names.
func (p *Proposal) Sign(key *crypto.Signer) error {
	me := key.Verifier()
	if !slices.ContainsFunc(p.charter.Administrators, func(k []byte) bool { return bytes.Equal(k, me.Bytes()) }) {
		return fmt.Errorf("administrator %s: %w", me.Fingerprint(), ErrNoAdministrator)
	}
	at, found := slices.BinarySearchFunc(p.record.Sigs, [16]byte(me.ID()), func(s Signature, id [16]byte) int {
		return bytes.Compare(s.Signer[:], id[:])
	})
	if !found {
		s := Signature{Signer: me.ID(), Sig: key.Sign(p.charter.context(), p.record.Body)}
		p.record.Sigs = slices.Insert(p.record.Sigs, at, s)
	}
	return nil
}

// Object returns the charter with just as many signatures as it needs;
// ErrTooFew.
func (p *Proposal) Object() ([]byte, error) {
	if n := p.Lacks(); n > 0 {
		return nil, fmt.Errorf("%w: %d of %d", ErrTooFew, len(p.record.Sigs), p.charter.Quorum)
	}
	r := signedRecord{Body: p.record.Body, Sigs: p.record.Sigs[:p.charter.Quorum]}
	return charterObject(append([]byte(charterMagic), encode(r)...))
}

// proposalArmor is the block of a proposal.
var proposalArmor = armor{
	what: "charter proposal", block: "EMBASSY CHARTER PROPOSAL", advice: "have it sent again", digits: 60, shown: 4,
	encode: base64.StdEncoding.EncodeToString, decode: base64.StdEncoding.Strict().DecodeString,
}

// Text prints the proposal: lines for people, then its block.
func (p *Proposal) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "EMBASSY CHARTER PROPOSAL\n\nNation:     %s\nCharter:    %d\nSignatures: %d of %d\n\n",
		p.charter.Nation, p.charter.Seq, len(p.record.Sigs), p.charter.Quorum)
	b.WriteString("What it changes is shown by the command that signs it, and by nothing else:\n\n" +
		"  embassy charter sign --admin-key FILE THIS-FILE\n\n" +
		"With all signatures, embassy charter publish THIS-FILE puts it into force.\n\n")
	proposalArmor.print(&b, append([]byte(proposalMagic), encode(p.record)...))
	return b.String()
}

// ParseProposal reads what Text printed. Nothing is verified: see Open.
func ParseProposal(text []byte) (*Proposal, error) {
	if len(text) > 2*MaxProposalSize {
		return nil, fmt.Errorf("%w: charter proposal of %d bytes", ErrMalformed, len(text))
	}
	object, err := proposalArmor.parse(text)
	if err != nil {
		return nil, err
	}
	rest, ok := bytes.CutPrefix(object, []byte(proposalMagic))
	if !ok || len(object) > MaxProposalSize {
		return nil, fmt.Errorf("%w: charter proposal of %d bytes", ErrMalformed, len(object))
	}
	p := &Proposal{charter: new(Charter)}
	if err := decode(rest, &p.record); err != nil {
		return nil, fmt.Errorf("charter proposal: %w", err)
	}
	if err := decode(p.record.Body, p.charter); err != nil {
		return nil, fmt.Errorf("charter proposal: %w", err)
	}
	if len(p.record.Sigs) > maxAdministrators || len(p.charter.Base) == 0 {
		return nil, fmt.Errorf("%w: charter proposal: %d signatures", ErrMalformed, len(p.record.Sigs))
	}
	return p, p.charter.check()
}

const administratorPrefix = "administrator:"

var base32Plain = base32.StdEncoding.WithPadding(base32.NoPadding)

// AdministratorKey is the public key of an administrator, as people hand it to
// the root.
type AdministratorKey struct{ *crypto.Verifier }

// String is a word and the key in base32, without padding.
func (k AdministratorKey) String() string {
	return administratorPrefix + strings.ToLower(base32Plain.EncodeToString(k.Bytes()))
}

// ParseAdministratorKey reads what String wrote.
func ParseAdministratorKey(text string) (AdministratorKey, error) {
	digits, ok := strings.CutPrefix(text, administratorPrefix)
	raw, err := base32Plain.DecodeString(strings.ToUpper(digits))
	if !ok || err != nil {
		return AdministratorKey{}, fmt.Errorf("%w: no public key of an administrator, which begins with %q", ErrMalformed, administratorPrefix)
	}
	v, err := crypto.ParseVerifier(raw)
	if err != nil {
		return AdministratorKey{}, fmt.Errorf("%w: administrator: %v", ErrMalformed, err)
	}
	return AdministratorKey{v}, nil
}
