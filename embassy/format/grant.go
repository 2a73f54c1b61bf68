package format

import (
	"bytes"
	"fmt"

	"embassy/crypto"
)

const (
	grantMagic = "EMBGRNT1"

	// MaxGranted bounds the keys of one grant record.
	MaxGranted = 8192
)

// Grant seals session keys of a compartment's past to a partner nation, so that
// no pack needs to be touched. Nobody signs it: a wrong key opens nothing,
// because every header commits to its own.
type Grant struct {
	Version     uint8        `cbor:"1,keyasint"`
	Nation      ID           `cbor:"2,keyasint"`
	Compartment ID           `cbor:"3,keyasint"`
	To          ID           `cbor:"4,keyasint"` // crypto.Recipient.ID
	Keys        []GrantedKey `cbor:"5,keyasint"`
}

// GrantedKey is one more sealed form of a session key.
type GrantedKey struct {
	Was    Hash   `cbor:"1,keyasint"` // of a sealed form that headers carry
	Sealed []byte `cbor:"2,keyasint"` // HPKE, as in a header for a recipient of epoch 0
}

// IsGrant reports whether an object says that it is a grant record.
func IsGrant(object []byte) bool { return bytes.HasPrefix(object, []byte(grantMagic)) }

// OpenGrant reads a grant record of a compartment.
func OpenGrant(object []byte, nation, compartment ID) (*Grant, error) {
	if len(object) > MaxSnapshotSize {
		return nil, fmt.Errorf("%w: grant of %d bytes", ErrMalformed, len(object))
	}
	rest, ok := bytes.CutPrefix(object, []byte(grantMagic))
	if !ok {
		return nil, fmt.Errorf("%w: magic of a grant", ErrMalformed)
	}
	g := new(Grant)
	if err := decode(rest, g); err != nil {
		return nil, fmt.Errorf("grant: %w", err)
	}
	if g.Version != Version || len(g.Keys) == 0 || len(g.Keys) > MaxGranted {
		return nil, fmt.Errorf("%w: grant of version %d with %d keys", ErrMalformed, g.Version, len(g.Keys))
	}
	if g.Nation != nation || g.Compartment != compartment {
		return nil, fmt.Errorf("%w: grant of another nation or compartment", ErrMalformed)
	}
	for _, k := range g.Keys {
		if len(k.Sealed) != sealedKeySize {
			return nil, fmt.Errorf("%w: granted key of %d bytes", ErrMalformed, len(k.Sealed))
		}
	}
	return g, nil
}

// Granter gathers the session keys of a compartment that a reader can open, and
// seals them to a partner. Not for concurrent use.
type Granter struct {
	nation, compartment ID
	reader              *Reader
	to                  *crypto.Recipient
	done                map[Hash]bool
	keys                []GrantedKey
}

// NewGranter returns a Granter that has gathered nothing.
func NewGranter(nation, compartment ID, reader *Reader, to *crypto.Recipient) *Granter {
	return &Granter{nation: nation, compartment: compartment, reader: reader, to: to, done: map[Hash]bool{}}
}

// Skip leaves out what a grant has already, if it is to the same partner.
func (g *Granter) Skip(have *Grant) {
	if have.To != g.to.ID() {
		return
	}
	for _, k := range have.Keys {
		g.done[k.Was] = true
	}
}

// Segment adds the session of a segment, of which head is preamble and header.
func (g *Granter) Segment(head []byte) error {
	h, _, _, _, err := parseHeader(segmentMagic, head)
	if err != nil {
		return fmt.Errorf("segment: %w", err)
	}
	return g.add(&h)
}

// Snapshot adds the session of a snapshot.
func (g *Granter) Snapshot(s *Snapshot) error { return g.add(&s.Header) }

func (g *Granter) add(h *Header) error {
	if h.Scope.Nation != g.nation || h.Scope.Compartment != g.compartment {
		return fmt.Errorf("%w: of another nation or compartment", ErrMalformed)
	}
	to := ID(g.to.ID())
	for i := range h.Keys {
		if h.Keys[i].To == to {
			return nil // new enough
		}
	}
	s, k, err := g.reader.opened(h)
	if err != nil {
		return err
	}
	// The form that opened is bound to its scope. Any other may be that of another
	// agent's session, put here so that it seems granted.
	was := HashOf(k.Sealed[:])
	if g.done[was] {
		return nil
	}
	ctx := h.Scope
	ctx.Epoch = 0
	sealed, err := g.to.Seal(ctx.context(typeSessionKey), s.Bytes())
	if err != nil {
		return err
	}
	g.done[was] = true
	g.keys = append(g.keys, GrantedKey{Was: was, Sealed: sealed})
	return nil
}

// Len is how many keys the records will hold.
func (g *Granter) Len() int { return len(g.keys) }

// Records returns what was gathered as grant records.
func (g *Granter) Records() [][]byte {
	var out [][]byte
	for keys := g.keys; len(keys) > 0; {
		n := min(len(keys), MaxGranted)
		out = append(out, append([]byte(grantMagic), encode(Grant{
			Version: Version, Nation: g.nation, Compartment: g.compartment, To: g.to.ID(), Keys: keys[:n],
		})...))
		keys = keys[n:]
	}
	return out
}

// ErrSealedToOthers is wrapped, beside crypto.ErrAuthentication, by errors about
// what is sealed to keys that a reader does not have.
var ErrSealedToOthers = fmt.Errorf("%w: sealed to other keys than these", crypto.ErrAuthentication)

// grantedKey is a granted session key that was not opened yet.
type grantedKey struct {
	identity *crypto.Identity
	sealed   []byte
}

// Grant lets the reader open what the record grants, if one of its identities is
// the one that it grants to. The record must not change after.
func (r *Reader) Grant(g *Grant) {
	id, ok := r.identities[g.To]
	if !ok {
		return
	}
	for _, k := range g.Keys {
		r.granted[k.Was] = append(r.granted[k.Was], grantedKey{id, k.Sealed})
	}
}

// sealKey derives the key of what stands behind a header.
func (r *Reader) sealKey(h *Header, typ string) (*crypto.SealKey, error) {
	ctx := h.Scope.context(typ)
	s, err := r.session(h)
	if err == nil {
		return crypto.OpenSealKey(s, ctx, h.salt, h.commitment)
	}
	// Anybody who may write a record can grant a wrong key: each is tried.
	for i := range h.Keys {
		for _, k := range r.granted[HashOf(h.Keys[i].Sealed[:])] {
			if s := k.open(h.Scope); s != nil {
				if key, e := crypto.OpenSealKey(s, ctx, h.salt, h.commitment); e == nil {
					r.sessions[sessionID{h.Scope, h.Keys[i]}] = s
					return key, nil
				}
			}
		}
	}
	return nil, err
}

// open returns the session key, or nil when this is none.
func (k grantedKey) open(scope Scope) *crypto.Secret {
	scope.Epoch = 0
	raw, err := k.identity.Open(scope.context(typeSessionKey), k.sealed)
	if err != nil {
		return nil
	}
	defer clear(raw)
	s, err := crypto.SecretFromBytes(raw)
	if err != nil {
		return nil
	}
	return s
}
