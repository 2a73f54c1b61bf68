package format

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"strings"

	"embassy/crypto"
)

// NamedShare is what somebody gave as a share: a file, or what was typed.
type NamedShare struct {
	Name  string // for people
	Share *Share
	Err   error // of ParseShare

	// Claimed is the root fingerprint that the lines for people name; empty:
	// none. Nothing but the share itself says which it is.
	Claimed string
}

// NameShare parses a share.
func NameShare(name string, text []byte) NamedShare {
	s, err := ParseShare(text)
	n := NamedShare{Name: name, Share: s, Err: err}
	if _, line, ok := bytes.Cut(text, []byte(fingerprintLine)); ok {
		line, _, _ = bytes.Cut(line, []byte("\n"))
		n.Claimed = string(bytes.TrimSpace(line))
	}
	return n
}

// Wipe forgets the secret of the share.
func (n NamedShare) Wipe() {
	if n.Share != nil {
		n.Share.Wipe()
	}
}

// ShareFault says why a share was not used.
type ShareFault struct{ Name, Why string }

// SharesError says that there are too few shares, and which ones are wrong. It
// is a crypto.ErrAuthentication.
type SharesError struct {
	Need, Good int // Need is 0 when no share is good
	Faults     []ShareFault
}

func (e *SharesError) Error() string {
	var b strings.Builder
	switch {
	case e.Need == 0:
		b.WriteString("no share is good")
	case len(e.Faults) == 0:
		fmt.Fprintf(&b, "too few shares: %d are needed, and %d given", e.Need, e.Good)
	default:
		fmt.Fprintf(&b, "too few shares: %d are needed, and %d of the %d given can be used", e.Need, e.Good, e.Good+len(e.Faults))
	}
	for _, f := range e.Faults {
		fmt.Fprintf(&b, "\n  %s: %s", f.Name, f.Why)
	}
	return b.String()
}

func (e *SharesError) Unwrap() error { return crypto.ErrAuthentication }

// Combined is the root that a quorum of shares is. The caller wipes it.
type Combined struct {
	Root   *crypto.Root
	Nation ID
	Used   []*Share     // in the order given
	Faults []ShareFault // shares that were left out
	Hints  Hints        // the newest that any of those used carries
	// HintsFault says why there are none, when a share carries some.
	HintsFault error
}

// Combine returns the root of a quorum of shares. Those that are damaged,
// altered, given twice, or of another nation, root or ceremony than most of
// the good ones are left out and named; a ceremony with a quorum goes before
// one without and, of as many, the newest counts. With too few left the error is a *SharesError.
func Combine(given []NamedShare) (*Combined, error) {
	c := &Combined{}
	ref := reference(given)
	numbers := map[uint8]string{}
	for _, g := range given {
		why := unlike(g, ref)
		if first := numbers[numberOf(g)]; why == "" && first != "" {
			why = fmt.Sprintf("share %d is given twice: it is in %s already", g.Share.Number, first)
		}
		if why != "" {
			c.Faults = append(c.Faults, ShareFault{g.Name, why})
			continue
		}
		numbers[g.Share.Number] = g.Name
		c.Used = append(c.Used, g.Share)
	}
	if ref == nil || len(c.Used) < int(ref.Quorum) {
		e := &SharesError{Good: len(c.Used), Faults: c.Faults}
		if ref != nil {
			e.Need = int(ref.Quorum)
		}
		return nil, e
	}
	values := map[int]*crypto.Secret{}
	defer func() {
		for _, v := range values {
			v.Wipe()
		}
	}()
	for _, s := range c.Used {
		v, err := crypto.SecretFromBytes(s.Value)
		if err != nil {
			return nil, err
		}
		values[int(s.Number)] = v
	}
	root, err := crypto.JoinRoot(values, ref.Wrapped, ref.context())
	if err != nil {
		return nil, fmt.Errorf("combine %d shares of ceremony %s: %w", len(c.Used), ref.Ceremony, err)
	}
	signer := root.Signer().Verifier()
	whole, err := openRing(root, ref.Nation, ref.Earlier, ref.Kept)
	if err == nil {
		root = whole
	}
	ring := root.Ring()
	first := ring[len(ring)-1]
	if err != nil || !bytes.Equal(signer.Bytes(), ref.RootSigner) || NationID(first.Signer().Verifier(), first.Identity().Recipient()) != ref.Nation {
		root.Wipe()
		return nil, fmt.Errorf("the shares are not those of the root of nation %s: %w", ref.Nation, crypto.ErrAuthentication)
	}
	c.Root, c.Nation = root, ref.Nation
	c.openHints()
	return c, nil
}

// openHints takes the newest hints of the shares that were used.
func (c *Combined) openHints() {
	for _, s := range c.Used {
		h, err := openHints(c.Root, c.Nation, s.Hints)
		if err = cmp.Or(s.HintsFault, err); err != nil {
			c.HintsFault = err
		} else if h.Time > c.Hints.Time {
			c.Hints = h
		}
	}
	if c.Hints.Time != 0 {
		c.HintsFault = nil
	}
}

func numberOf(g NamedShare) uint8 {
	if g.Share == nil {
		return 0
	}
	return g.Share.Number
}

// sameRoot reports whether two shares name one root.
func (s *Share) sameRoot(t *Share) bool {
	return s.Nation == t.Nation && bytes.Equal(s.RootSigner, t.RootSigner)
}

// reference returns a share of the ceremony that most good shares are of, one
// with a quorum before one without; nil when none is good.
func reference(given []NamedShare) *Share {
	type ceremony struct {
		nation, id ID
		signer     string
	}
	numbers := map[ceremony]map[uint8]bool{}
	var best *Share
	most, full := 0, false
	for _, g := range given {
		if g.Err != nil {
			continue
		}
		s := g.Share
		k := ceremony{s.Nation, s.Ceremony, string(s.RootSigner)}
		if numbers[k] == nil {
			numbers[k] = map[uint8]bool{}
		}
		numbers[k][s.Number] = true
		n, whole := len(numbers[k]), len(numbers[k]) >= int(s.Quorum)
		if whole && !full || whole == full && (n > most || n == most && s.Created > best.Created) {
			best, most, full = s, n, whole
		}
	}
	return best
}

// unlike says why a share cannot be used with the reference; empty: it can.
func unlike(g NamedShare, ref *Share) string {
	switch {
	case errors.Is(g.Err, crypto.ErrAuthentication):
		return "altered: the root did not sign it so"
	case g.Err != nil:
		return "damaged: " + g.Err.Error()
	case g.Share.Nation != ref.Nation:
		return fmt.Sprintf("of another nation: %s, and not %s", g.Share.Nation, ref.Nation)
	case !g.Share.sameRoot(ref):
		return "of another root: its fingerprint is not that of the others"
	case g.Share.Ceremony != ref.Ceremony && g.Share.Created <= ref.Created:
		return fmt.Sprintf("stale: of an older ceremony, held at %s; the others are of %s", day(g.Share), day(ref))
	case g.Share.Ceremony != ref.Ceremony:
		return fmt.Sprintf("of a newer ceremony, held at %s; most of the others are of %s", day(g.Share), day(ref))
	}
	return ""
}

func day(s *Share) string { return s.When().Format("2006-01-02 15:04:05Z") }
