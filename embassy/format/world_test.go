package format_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"embassy/chunk"
	"embassy/crypto"
	"embassy/embassy/format"
)

// world is a nation with one compartment, one agent, two recipients and one
// session, all of fixed keys.
type world struct {
	root         *crypto.Root
	nation, comp format.ID
	agent, other *crypto.AgentKey
	reader       *crypto.Identity // the nation's own
	partner      *crypto.Identity // of a nation that may read
	scope        format.Scope
	secret       *crypto.Secret // the writer secret
	writer       *format.Writer
	session      *format.Session
	key          *crypto.Secret // the session key, for the second implementation below
}

func secretOf(b byte) *crypto.Secret {
	s, err := crypto.SecretFromBytes(bytes.Repeat([]byte{b}, crypto.KeySize))
	if err != nil {
		panic(err)
	}
	return s
}

func identityOf(b byte) *crypto.Identity {
	i, err := crypto.DeriveIdentity(secretOf(b))
	if err != nil {
		panic(err)
	}
	return i
}

func agentOf(b byte) *crypto.AgentKey {
	return &crypto.AgentKey{Signer: crypto.DeriveSigner(secretOf(b)), Identity: identityOf(b + 1)}
}

func newWorld(t testing.TB, seed byte) *world {
	t.Helper()
	raw := make([]byte, crypto.KeySize)
	for i := range raw {
		raw[i] = seed + byte(i)
	}
	root, err := crypto.RootFromBytes(raw)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		root: root, nation: format.NationID(root.Signer().Verifier(), root.Identity().Recipient()),
		comp: root.CompartmentID("official"), agent: agentOf(0xa0), other: agentOf(0xb0), partner: identityOf(0xc0),
	}
	w.reader, w.secret = root.Reader(w.comp, 1), root.Writer(w.comp, 1)
	w.scope = format.Scope{
		Nation: w.nation, Compartment: w.comp, Agent: w.agent.ID(), Chain: format.ID(bytes.Repeat([]byte{0xcc}, 16)), Epoch: 1,
	}
	w.writer = format.NewWriter(w.nation, w.comp, 1, w.secret)
	w.session, err = format.NewSession(w.scope, []format.Recipient{
		{Epoch: 1, Key: w.reader.Recipient()}, {Epoch: 0, Key: w.partner.Recipient()},
	})
	if err != nil {
		t.Fatal(err)
	}
	k := w.session.Keys[0]
	p, err := w.reader.Open(ctxOf("session key", w.scope, k.Epoch), k.Sealed[:])
	if err != nil {
		t.Fatal(err)
	}
	if w.key, err = crypto.SecretFromBytes(p); err != nil {
		t.Fatal(err)
	}
	return w
}

func ctxOf(typ string, s format.Scope, epoch uint32) crypto.Context {
	return crypto.Context{
		Type: typ, Nation: s.Nation, Compartment: s.Compartment, Agent: s.Agent, Chain: s.Chain, Epoch: epoch,
	}
}

// derived is a key below the writer secret.
func (w *world) derived(label string) *crypto.Secret {
	return w.secret.Derive(label, ctxOf(label, format.Scope{Nation: w.nation, Compartment: w.comp}, 1))
}

// What follows writes the format a second time, from docs/FORMAT.md and
// without package format, so that a fault can be put anywhere.

var testCBOR = func() cbor.EncMode {
	o := cbor.CoreDetEncOptions()
	o.NilContainers = cbor.NilContainerAsEmpty
	m, err := o.EncMode()
	if err != nil {
		panic(err)
	}
	return m
}()

func mustCBOR(v any) []byte {
	b, err := testCBOR.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

func u16(n int) []byte { return binary.BigEndian.AppendUint16(nil, uint16(n)) }
func u32(n int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(n)) }
func u64(n int) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }

func hashOf(parts ...[]byte) []byte {
	sum := sha256.Sum256(slices.Concat(parts...))
	return sum[:]
}

// padTo puts the length before the body, and zeros behind, for a seal of that
// overhead.
func padTo(body []byte, overhead int) []byte {
	p := make([]byte, format.ClassSize(format.ClassFor(4+len(body)+overhead))-overhead)
	copy(p, u32(len(body)))
	copy(p[4:], body)
	return p
}

// signedObject signs any body as a record of any type.
func signedObject(magic, typ string, s format.Scope, body []byte, signers ...*crypto.Signer) []byte {
	sigs := []any{}
	for _, k := range signers {
		id := k.Verifier().ID()
		sigs = append(sigs, map[int]any{1: id[:], 2: k.Sign(ctxOf(typ, s, 0), body)})
	}
	return append([]byte(magic), mustCBOR(map[int]any{1: body, 2: sigs})...)
}

// header returns what stands behind the preamble.
func (w *world) header(class uint8, salt, commitment [32]byte, keys []format.SealedKey) []byte {
	b := append([]byte{1, class}, u16(1)...)
	b = slices.Concat(b, w.scope.Nation[:], w.scope.Compartment[:], w.scope.Agent[:], w.scope.Chain[:],
		u32(int(w.scope.Epoch)), salt[:], commitment[:], u16(len(keys)))
	for _, k := range keys {
		b = slices.Concat(b, u32(int(k.Epoch)), k.To[:], k.Sealed[:])
	}
	return b
}

func preamble(magic string, header []byte, length int) []byte {
	return slices.Concat([]byte(magic), u32(len(header)), u64(length))
}

// snapshot seals any two plaintexts as a snapshot.
func (w *world) snapshot(t testing.TB, summary, root []byte) []byte {
	t.Helper()
	key, salt, commitment, err := crypto.NewSealKey(w.key, ctxOf("snapshot root", w.scope, 1))
	if err != nil {
		t.Fatal(err)
	}
	header := w.header(0, salt, commitment, w.session.Keys)
	box, err := crypto.SealBox(w.derived("summary"), ctxOf("snapshot summary", w.scope, 1), summary, hashOf(header))
	if err != nil {
		t.Fatal(err)
	}
	covered := slices.Concat(header, u32(len(box)), box)
	sealed := key.Seal(nil, 0, root, hashOf(covered))
	return slices.Concat(preamble("EMBN", header, 16+len(covered)+len(sealed)), covered, sealed)
}

// rawChunk is an encoded chunk for a segment of the second implementation.
type rawChunk struct {
	kind    byte
	id      chunk.ID
	encoded []byte
	raw     int
}

func dirPlain(count int, chunks []rawChunk, class uint8) []byte {
	p := u32(count)
	for _, c := range chunks {
		p = slices.Concat(p, []byte{c.kind}, u32(len(c.encoded)+16), u32(c.raw), c.id[:])
	}
	return append(p, make([]byte, max(0, format.ClassSize(class)-80-len(p)))...)
}

// segment seals chunks, and any plaintext as their directory. Behind the
// chunks stand padding bytes of value 0x55.
func (w *world) segment(t testing.TB, chunks []rawChunk, dir []byte, padding int) []byte {
	t.Helper()
	key, salt, commitment, err := crypto.NewSealKey(w.key, ctxOf("pack", w.scope, 1))
	if err != nil {
		t.Fatal(err)
	}
	header := w.header(format.ClassFor(len(dir)+80), salt, commitment, w.session.Keys)
	body := []byte{}
	for _, c := range chunks {
		body = key.Seal(body, uint64(16+len(header)+len(body)), c.encoded, hashOf(header))
	}
	box, err := crypto.SealBox(w.derived("index"), ctxOf("pack directory", w.scope, 1), dir, hashOf(header))
	if err != nil {
		t.Fatal(err)
	}
	size := 16 + len(header) + len(body) + padding + len(box)
	return slices.Concat(preamble("EMBS", header, size), header, body, bytes.Repeat([]byte{0x55}, padding), box)
}

// indexObject lists packs as an index object, without padding.
func indexObject(packs ...format.IndexedPack) []byte {
	b := append([]byte("EMBINDX1"), u32(len(packs))...)
	for _, p := range packs {
		b = slices.Concat(b, p.Hash[:], u64(int(p.Size)), u32(len(p.Segments)))
		for _, s := range p.Segments {
			b = slices.Concat(b, u64(int(s.Offset)), u64(int(s.Length)), u32(len(s.Head)), s.Head, u32(len(s.Dir)), s.Dir)
		}
	}
	return b
}

// mapEdits are the ways in which the CBOR of a map can stray from its one
// encoding. The first pair of the map must be 01 01, and the last allowed key
// below 24; drop is the encoding of a pair that is required.
func mapEdits(body []byte) map[string][]byte {
	head, rest := body[0], body[3:]
	tail := func(b ...byte) []byte { return b }
	return map[string][]byte{
		"key not in its shortest form":     slices.Concat([]byte{head, 0x18, 0x01, 0x01}, rest),
		"value not in its shortest form":   slices.Concat([]byte{head, 0x01, 0x18, 0x01}, rest),
		"keys not in order":                slices.Concat([]byte{head}, rest, tail(0x01, 0x01)),
		"map of indefinite length":         slices.Concat([]byte{0xbf, 0x01, 0x01}, rest, tail(0xff)),
		"key twice":                        slices.Concat([]byte{head + 1, 0x01, 0x01, 0x01, 0x01}, rest),
		"unknown key":                      slices.Concat([]byte{head + 1}, body[1:], tail(0x18, 0x63, 0x01)),
		"unknown text key":                 slices.Concat([]byte{head + 1}, body[1:], tail(0x61, 0x78, 0x01)),
		"byte behind the map":              append(bytes.Clone(body), 0),
		"tag before a value":               slices.Concat([]byte{head, 0x01, 0xc1, 0x01}, rest),
		"float for an integer":             slices.Concat([]byte{head, 0x01, 0xf9, 0x3c, 0x00}, rest),
		"null for an integer":              slices.Concat([]byte{head, 0x01, 0xf6}, rest),
		"negative integer for a version":   slices.Concat([]byte{head, 0x01, 0x20}, rest),
		"required key missing":             slices.Concat([]byte{head - 1}, rest),
		"version of the future":            slices.Concat([]byte{head, 0x01, 0x02}, rest),
		"map header with too many entries": slices.Concat([]byte{0xbb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, body[1:]),
	}
}

// class names the class of an error as the vectors do.
func class(err error) string {
	switch {
	case err == nil:
		return "valid"
	case errors.Is(err, crypto.ErrAuthentication):
		return "authentication"
	case errors.Is(err, format.ErrMalformed), errors.Is(err, chunk.ErrCorrupt):
		return "malformed"
	}
	return err.Error()
}
