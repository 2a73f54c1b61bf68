package format

import (
	"fmt"

	"embassy/crypto"
)

// OpenPast verifies any charter of the nation with the newest one, which
// OpenCharter returned: of the roots that were replaced since, that one knows
// the ids. crypto.ErrAuthentication when none of its roots vouches for it.
func (c *Charter) OpenPast(object []byte) (*Charter, error) {
	r, err := parseSigned(charterMagic, MaxCharterSize, object)
	if err != nil {
		return nil, fmt.Errorf("charter: %w", err)
	}
	var past struct { // nothing else is read before somebody signed it
		RootSigner []byte `cbor:"6,keyasint"`
	}
	if err := glanceMode.Unmarshal(r.Body, &past); err != nil {
		return nil, fmt.Errorf("%w: charter: %v", ErrMalformed, err)
	}
	root, err := crypto.ParseVerifier(past.RootSigner)
	if err != nil {
		return nil, fmt.Errorf("%w: charter: %v", ErrMalformed, err)
	}
	newest, err := crypto.ParseVerifier(c.RootSigner)
	if err != nil {
		return nil, fmt.Errorf("%w: charter: %v", ErrMalformed, err)
	}
	known := root.ID() == newest.ID()
	for _, h := range c.Succession {
		known = known || h.From == root.ID()
	}
	if !known {
		return nil, fmt.Errorf("charter: %w", crypto.ErrAuthentication)
	}
	return OpenCharter(object, c.Nation, root)
}
