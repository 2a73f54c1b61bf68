package format

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"embassy/crypto"
)

const (
	segmentMagic  = "EMBS"
	snapshotMagic = "EMBN"

	preambleSize  = 16  // magic, header length, whole length
	fixedHeader   = 138 // header without recipients
	recipientSize = 4 + 16 + sealedKeySize
	sealedKeySize = crypto.RecipientOverhead + crypto.KeySize

	// MaxRecipients bounds the recipients of a compartment.
	MaxRecipients = 64
)

// SealedKey is a session key sealed to one recipient.
type SealedKey struct {
	Epoch  uint32 // reader epoch of the recipient
	To     ID     // crypto.Recipient.ID
	Sealed [sealedKeySize]byte
}

// Session is the key of one run of one agent in one compartment, with its
// sealed forms. Wipe it at the end of the run.
type Session struct {
	Scope Scope // Epoch is the writer epoch
	Keys  []SealedKey

	key *crypto.Secret
}

// Recipient is a public key that a compartment is sealed to.
type Recipient struct {
	Epoch uint32
	Key   *crypto.Recipient
	Since uint32 // the first writer epoch that it may read; not in the header
}

// NewSession makes a session key and seals it to every recipient.
func NewSession(scope Scope, to []Recipient) (*Session, error) {
	if len(to) == 0 || len(to) > MaxRecipients {
		return nil, fmt.Errorf("%d recipients: a compartment has 1 to %d", len(to), MaxRecipients)
	}
	s := &Session{Scope: scope, key: crypto.NewSecret()}
	for _, r := range to {
		ctx := scope
		ctx.Epoch = r.Epoch
		sealed, err := r.Key.Seal(ctx.context(typeSessionKey), s.key.Bytes())
		if err != nil {
			return nil, fmt.Errorf("seal session key to %x: %w", r.Key.ID(), err)
		}
		k := SealedKey{Epoch: r.Epoch, To: r.Key.ID()}
		if len(sealed) != len(k.Sealed) {
			return nil, fmt.Errorf("sealed session key of %d bytes, want %d", len(sealed), len(k.Sealed))
		}
		copy(k.Sealed[:], sealed)
		s.Keys = append(s.Keys, k)
	}
	return s, nil
}

// Wipe forgets the session key.
func (s *Session) Wipe() { s.key.Wipe() }

// Header opens a segment or a snapshot. Its bytes are the associated data of
// everything sealed behind it.
type Header struct {
	Scope    Scope // Epoch is the writer epoch
	DirClass uint8 // size class of the sealed directory; 0 in a snapshot
	Keys     []SealedKey

	salt, commitment [32]byte
}

// headerSize is the length of preamble and header for n recipients.
func headerSize(n int) int { return preambleSize + fixedHeader + n*recipientSize }

func (h Header) append(dst []byte, magic string, length uint64) []byte {
	dst = append(dst, magic...)
	dst = binary.BigEndian.AppendUint32(dst, uint32(fixedHeader+len(h.Keys)*recipientSize))
	dst = binary.BigEndian.AppendUint64(dst, length)
	dst = append(dst, Version, h.DirClass)
	dst = binary.BigEndian.AppendUint16(dst, uint16(crypto.SuiteV1))
	dst = append(dst, h.Scope.Nation[:]...)
	dst = append(dst, h.Scope.Compartment[:]...)
	dst = append(dst, h.Scope.Agent[:]...)
	dst = append(dst, h.Scope.Chain[:]...)
	dst = binary.BigEndian.AppendUint32(dst, h.Scope.Epoch)
	dst = append(dst, h.salt[:]...)
	dst = append(dst, h.commitment[:]...)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(h.Keys)))
	for i := range h.Keys {
		k := &h.Keys[i]
		dst = binary.BigEndian.AppendUint32(dst, k.Epoch)
		dst = append(dst, k.To[:]...)
		dst = append(dst, k.Sealed[:]...)
	}
	return dst
}

// parseHeader reads preamble and header from the start of b, which may hold
// more. It returns the bytes that are associated data, and the length that
// the preamble claims, unchecked.
func parseHeader(magic string, b []byte) (h Header, aad [32]byte, size int, length uint64, err error) {
	c := newCursor(b)
	m, n := c.take(len(magic)), c.u32()
	length = c.u64()
	body := c.take(int(n))
	if !c.ok || string(m) != magic {
		return h, aad, 0, 0, fmt.Errorf("%w: magic or length of header", ErrMalformed)
	}
	aad = sha256.Sum256(body)
	size = preambleSize + len(body)
	c = newCursor(body)
	version := c.u8()
	h.DirClass = c.u8()
	suite := c.u16()
	c.fill(h.Scope.Nation[:])
	c.fill(h.Scope.Compartment[:])
	c.fill(h.Scope.Agent[:])
	c.fill(h.Scope.Chain[:])
	h.Scope.Epoch = c.u32()
	c.fill(h.salt[:])
	c.fill(h.commitment[:])
	keys := c.u16()
	if !c.ok || version != Version || suite != uint16(crypto.SuiteV1) {
		return h, aad, 0, 0, fmt.Errorf("%w: header of version %d, suite %d", ErrMalformed, version, suite)
	}
	if keys == 0 || keys > MaxRecipients || len(c.b) != int(keys)*recipientSize || h.DirClass > maxClass {
		return h, aad, 0, 0, fmt.Errorf("%w: header with %d recipients", ErrMalformed, keys)
	}
	h.Keys = make([]SealedKey, keys)
	for i := range h.Keys {
		h.Keys[i].Epoch = c.u32()
		c.fill(h.Keys[i].To[:])
		c.fill(h.Keys[i].Sealed[:])
	}
	return h, aad, size, length, nil
}

// Reader opens what is sealed to one or more identities of a compartment. It
// remembers session keys, so a run's packs cost one decapsulation in all.
// Not for concurrent use.
type Reader struct {
	identities map[ID]*crypto.Identity
	sessions   map[sessionID]*crypto.Secret
	granted    map[Hash][]grantedKey // by the hash of a sealed form in a header
}

// sessionID is all that a session key is sealed under.
type sessionID struct {
	scope Scope
	key   SealedKey
}

// NewReader returns a reader with these identities.
func NewReader(identities ...*crypto.Identity) *Reader {
	r := &Reader{map[ID]*crypto.Identity{}, map[sessionID]*crypto.Secret{}, map[Hash][]grantedKey{}}
	for _, i := range identities {
		r.identities[i.Recipient().ID()] = i
	}
	return r
}

func (r *Reader) session(h *Header) (*crypto.Secret, error) {
	s, _, err := r.opened(h)
	return s, err
}

// opened returns the session key of a header, and the sealed form that it is
// from. Others may stand beside it that are not of this session.
func (r *Reader) opened(h *Header) (*crypto.Secret, *SealedKey, error) {
	for i := range h.Keys {
		k := &h.Keys[i]
		if s, ok := r.sessions[sessionID{h.Scope, *k}]; ok {
			return s, k, nil
		}
		id, ok := r.identities[k.To]
		if !ok {
			continue
		}
		ctx := h.Scope
		ctx.Epoch = k.Epoch
		raw, err := id.Open(ctx.context(typeSessionKey), k.Sealed[:])
		if err != nil {
			return nil, nil, err
		}
		s, err := crypto.SecretFromBytes(raw)
		if err != nil {
			return nil, nil, err
		}
		r.sessions[sessionID{h.Scope, *k}] = s
		return s, k, nil
	}
	return nil, nil, ErrSealedToOthers
}
