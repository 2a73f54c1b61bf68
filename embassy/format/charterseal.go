package format

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/fxamacker/cbor/v2"

	"embassy/crypto"
)

const (
	charterMagic = "EMBCHAR1"

	// charterVersion2 is that of a charter that says what version 1 had no
	// words for: another root, administrators' signatures, a grant from now on, a
	// compartment that was destroyed.
	charterVersion2 = 2

	maxRotations      = 64
	maxAdministrators = 64

	// maxAmendments is how far the numbers of administrators may run ahead of the
	// charter of the root that they rest on: they must leave some to the root.
	maxAmendments = 1 << 20
)

// Rank says which of two charters counts: the one of the younger root, then
// the one that rests on the later charter of that root, then the later one.
// So administrators cannot undo what the root signed after their Base.
type Rank struct {
	Rotations   int
	Rooted, Seq uint64
}

// Compare returns -1, 0 or 1.
func (r Rank) Compare(o Rank) int {
	return cmp.Or(cmp.Compare(r.Rotations, o.Rotations), cmp.Compare(r.Rooted, o.Rooted), cmp.Compare(r.Seq, o.Seq))
}

// Rooted returns the last charter of the root that a charter which OpenCharter
// returned rests on: itself, or what it carries as Base.
func (c *Charter) Rooted() *Charter {
	if len(c.Base) > 0 && c.base != nil {
		return c.base
	}
	return c
}

// Rank returns the rank of a charter that OpenCharter returned.
func (c *Charter) Rank() Rank { return Rank{len(c.Succession), c.Rooted().Seq, c.Seq} }

// Follows reports whether the charter may take the place of an older one: its
// roots succeed those that the older one knows.
func (c *Charter) Follows(older *Charter) bool {
	n := len(older.Succession)
	return n <= len(c.Succession) && bytes.Equal(encode(older.Succession), encode(c.Succession[:n:n]))
}

func (c *Charter) context() crypto.Context { return Scope{Nation: c.Nation}.context(typeCharter) }

// version is the lowest one that has words for what the charter says.
func (c *Charter) version() uint8 {
	since := slices.ContainsFunc(c.Compartments, func(k CharterCompartment) bool {
		return slices.ContainsFunc(k.Recipients, func(r RecipientKey) bool { return r.Since > 0 })
	})
	if len(c.Succession) > 0 || len(c.Base) > 0 || len(c.Destroyed) > 0 || since {
		return charterVersion2
	}
	return Version
}

// SealCharter encodes a charter and signs it: with the root alone, or, when it
// has a Base, with as many of its administrators as it demands.
func SealCharter(c Charter, signers ...*crypto.Signer) ([]byte, error) {
	body, err := c.body()
	if err != nil {
		return nil, err
	}
	want := 1
	if len(c.Base) > 0 {
		want = int(c.Quorum)
	}
	if len(signers) != want {
		return nil, fmt.Errorf("charter with %d signatures, want %d", len(signers), want)
	}
	return charterObject(sealSigned(charterMagic, body, c.context(), signers...))
}

// body encodes the charter as it is signed.
func (c Charter) body() ([]byte, error) {
	c.Version = c.version()
	if err := c.check(); err != nil {
		return nil, err
	}
	body, err := encodeRecord(c)
	if err != nil {
		return nil, fmt.Errorf("charter: %w", err)
	}
	return body, nil
}

func charterObject(object []byte) ([]byte, error) {
	if len(object) > MaxCharterSize {
		return nil, fmt.Errorf("charter of %d bytes, at most %d", len(object), MaxCharterSize)
	}
	return object, nil
}

// OpenCharter verifies a charter with the nation's root, whose verifier the
// caller holds from elsewhere: it was signed by that root, by one that succeeds
// it, or by a quorum of the administrators that such a root named.
func OpenCharter(object []byte, nation ID, root *crypto.Verifier) (*Charter, error) {
	c, err := openCharter(object, nation, root, true)
	if err != nil {
		return nil, fmt.Errorf("charter: %w", err)
	}
	return c, nil
}

// openCharter is OpenCharter, and refuses one with a Base unless it may rest on
// another: before anybody signed anything, a Base can be nested without end.
func openCharter(object []byte, nation ID, root *crypto.Verifier, mayRest bool) (*Charter, error) {
	r, err := parseSigned(charterMagic, MaxCharterSize, object)
	if err != nil {
		return nil, err
	}
	signer, base, err := r.signedBy(nation, root, mayRest)
	if err != nil {
		return nil, err
	}
	c := new(Charter)
	if err := decode(r.Body, c); err != nil {
		return nil, err
	}
	if c.Nation != nation {
		return nil, fmt.Errorf("%w: of another nation", ErrMalformed)
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	if base != nil {
		c.base = base
		return c, c.amends(base)
	}
	if len(c.Base) > 0 {
		return nil, crypto.ErrAuthentication // that is for administrators to sign
	}
	if len(c.Succession) > 0 && !bytes.Equal(c.RootSigner, signer.Bytes()) {
		return nil, crypto.ErrAuthentication // the root signed that it is the root no more
	}
	return c, nil
}

// mayHaveSigned is what a charter says of who may have signed it. Nothing else
// is read before somebody did.
type mayHaveSigned struct {
	Succession cbor.RawMessage `cbor:"13,keyasint"`
	Base       []byte          `cbor:"14,keyasint"`
}

// signedBy returns the root that signed a charter, the trusted one or one that
// succeeds it; or the charter of the root on which it rests, when a quorum of
// the administrators named there did.
func (r signedRecord) signedBy(nation ID, root *crypto.Verifier, mayRest bool) (*crypto.Verifier, *Charter, error) {
	ctx := Scope{Nation: nation}.context(typeCharter)
	refused := r.verify(ctx, root)
	if refused == nil {
		return root, nil, nil
	}
	var by mayHaveSigned
	if err := glanceMode.Unmarshal(r.Body, &by); err != nil {
		return nil, nil, refused
	}
	switch {
	case len(by.Base) > 0 && !mayRest:
		return nil, nil, fmt.Errorf("%w: the root did not sign it", ErrMalformed)
	case len(by.Base) > 0:
		base, err := openCharter(by.Base, nation, root, false)
		if err != nil {
			return nil, nil, fmt.Errorf("what it rests on: %w", err)
		}
		return nil, base, r.verifyQuorum(ctx, base.Administrators, int(base.Quorum))
	case len(by.Succession) > 0:
		signer, err := successor(by.Succession, nation, root)
		if err != nil {
			return nil, nil, err
		}
		return signer, nil, r.verify(ctx, signer)
	}
	return nil, nil, refused // nobody else may sign it
}

// successor follows handovers, in their encoding, from the root that the caller
// trusts to the one that signs now.
func successor(handovers cbor.RawMessage, nation ID, root *crypto.Verifier) (*crypto.Verifier, error) {
	var succession []Handover
	if err := handoverMode.Unmarshal(handovers, &succession); err != nil {
		return nil, fmt.Errorf("%w: handovers of the root: %v", ErrMalformed, err)
	}
	for _, h := range succession {
		if h.From != root.ID() {
			continue // before the root that is trusted
		}
		if err := root.Verify(h.context(nation), h.signed(), h.Sig); err != nil {
			return nil, fmt.Errorf("handover of the root: %w", err)
		}
		next, err := crypto.ParseVerifier(h.Signer)
		if err != nil {
			return nil, fmt.Errorf("%w: handover of the root: %v", ErrMalformed, err)
		}
		root = next
	}
	return root, nil
}

func (h Handover) context(nation ID) crypto.Context {
	return Scope{Nation: nation}.context(typeHandover)
}

// signed is what the root before signs.
func (h Handover) signed() []byte {
	h.Sig = nil
	return encode(h)
}

// Succeed records that next, which must know root, takes the place of root.
// The charter is then signed by next.
func (c *Charter) Succeed(root, next *crypto.Root) error {
	earlier, kept, err := sealRing(next, c.Nation)
	if err != nil {
		return err
	}
	h := Handover{
		From: root.Signer().Verifier().ID(), Signer: next.Signer().Verifier().Bytes(),
		Recipient: next.Identity().Recipient().Bytes(), Earlier: earlier, Kept: kept,
	}
	h.Sig = root.Signer().Sign(h.context(c.Nation), h.signed())
	c.Succession = append(slices.Clone(c.Succession), h)
	c.RootSigner, c.RootRecipient = h.Signer, h.Recipient
	return nil
}

// sealRing seals the roots before a root: those that are whole, and what is left
// of the others. nil: there are none such.
func sealRing(root *crypto.Root, nation ID) (earlier, kept []byte, err error) {
	scope := Scope{Nation: nation}
	if earlier, err = root.SealEarlier(scope.context(typeEarlier)); err == nil {
		kept, err = root.SealKept(scope.context(typeKept))
	}
	return earlier, kept, err
}

// openRing returns the root with those before it that sealRing sealed; the root
// itself when there are none.
func openRing(root *crypto.Root, nation ID, earlier, kept []byte) (*crypto.Root, error) {
	scope := Scope{Nation: nation}
	return root.OpenRing(scope.context(typeEarlier), earlier, scope.context(typeKept), kept)
}

// ringVersion is that of a kit or a share: 3 with what is left of roots that were
// reduced, 2 with whole roots alone, 1 without any.
func ringVersion(earlier, kept []byte) uint8 {
	switch {
	case len(kept) > 0:
		return Version + 2
	case len(earlier) > 0:
		return Version + 1
	}
	return Version
}

// Ring returns the root with those before it, as the charter knows them. A
// root that was replaced knows those before itself.
func (c *Charter) Ring(root *crypto.Root) (*crypto.Root, error) {
	me := root.Signer().Verifier().Bytes()
	for _, h := range c.Succession {
		if bytes.Equal(h.Signer, me) {
			return openRing(root, c.Nation, h.Earlier, h.Kept)
		}
	}
	return root, nil
}

// ErrOverreach: administrators signed what only the root may say.
var ErrOverreach = errors.New("administrators may only enrol, suspend and revoke agents")

// amends returns nil when the charter differs from base in its agents alone,
// and leaves revoked ones revoked.
func (c *Charter) amends(base *Charter) error {
	if c.Seq <= base.Seq || c.Seq-base.Seq > maxAmendments {
		return fmt.Errorf("%w: charter %d rests on charter %d", ErrMalformed, c.Seq, base.Seq)
	}
	public := func(c Charter) []byte {
		c.Version, c.Seq, c.Prev, c.Time, c.Agents, c.Parts, c.Base = 0, 0, Hash{}, 0, nil, nil, nil
		return encode(c)
	}
	if !bytes.Equal(public(*c), public(*base)) {
		return fmt.Errorf("%w: %w", ErrMalformed, ErrOverreach)
	}
	for _, was := range base.Agents {
		is := c.Agent(was.ID)
		if is == nil {
			return fmt.Errorf("%w: %w: agent %s is left out", ErrMalformed, ErrOverreach, was.ID)
		}
		if was.Status == AgentRevoked && !bytes.Equal(encode(*is), encode(was)) {
			return fmt.Errorf("%w: %w: agent %s is revoked", ErrMalformed, ErrOverreach, was.ID)
		}
	}
	return nil
}

func (c *Charter) check() error {
	if c.Version != c.version() {
		return fmt.Errorf("%w: charter of version %d", ErrMalformed, c.Version)
	}
	if c.Seq == 0 || (c.Seq == 1) != c.Prev.IsZero() {
		return fmt.Errorf("%w: charter %d: first and previous do not agree", ErrMalformed, c.Seq)
	}
	if n := len(c.Administrators); n > maxAdministrators || int(c.Quorum) > n || (c.Quorum == 0) != (n == 0) {
		return fmt.Errorf("%w: charter: a quorum of %d among %d administrators", ErrMalformed, c.Quorum, n)
	}
	if len(c.Succession) > maxRotations {
		return fmt.Errorf("%w: charter: %d rotations of the root", ErrMalformed, len(c.Succession))
	}
	gone := map[ID]bool{}
	for _, t := range c.Destroyed {
		if gone[t.ID] {
			return fmt.Errorf("%w: charter: compartment %s is destroyed twice", ErrMalformed, t.ID)
		}
		gone[t.ID] = true
	}
	for _, k := range c.Compartments {
		if gone[k.ID] {
			return fmt.Errorf("%w: charter: compartment %s is destroyed", ErrMalformed, k.ID)
		}
		if len(k.Recipients) == 0 || len(k.Recipients) > MaxRecipients || k.Epoch == 0 {
			return fmt.Errorf("%w: charter: compartment %s", ErrMalformed, k.ID)
		}
	}
	seen := map[ID]bool{}
	for _, a := range c.Agents {
		if a.ID != ID(crypto.AgentID(a.Signer, a.Recipient)) || a.Status < AgentActive || a.Status > AgentRevoked || seen[a.ID] {
			return fmt.Errorf("%w: charter: agent %s", ErrMalformed, a.ID)
		}
		seen[a.ID] = true
		if slices.ContainsFunc(a.Compartments, func(id ID) bool { return gone[id] }) {
			return fmt.Errorf("%w: charter: agent %s writes a compartment that is destroyed", ErrMalformed, a.ID)
		}
	}
	return nil
}
