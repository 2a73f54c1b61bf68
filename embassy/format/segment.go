package format

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"

	"embassy/chunk"
	"embassy/crypto"
)

// ChunkKind tells file content from the tree that describes it.
type ChunkKind uint8

// The kinds of chunk.
const (
	DataChunk ChunkKind = 1
	TreeChunk ChunkKind = 2
)

const (
	minPackSize = 64 << 10
	dirEntry    = 1 + 4 + 4 + 32
	dirFixed    = 4 + crypto.BoxOverhead

	// ChunkOverhead is what sealing adds to an encoded chunk, in bytes.
	ChunkOverhead = crypto.TagSize
)

// DirEntry is one chunk of a segment: Length sealed bytes at Offset from the
// segment's start, which hold Raw bytes of plaintext. The nonce is the offset.
// Raw places a chunk within its file before any chunk is opened; it is a claim
// until then.
type DirEntry struct {
	Kind   ChunkKind
	ID     chunk.ID
	Offset uint32
	Length uint32
	Raw    uint32
}

// PackBuilder gathers encoded chunks in one buffer at their final offsets,
// and seals them there. It owns the buffer until Seal, which hands it over.
type PackBuilder struct {
	session *Session
	full    int
	buf     []byte
	dir     []DirEntry
}

// NewPackBuilder starts a pack of at most full bytes, a power of two from
// 64 KiB to MaxPackSize. buf is reused as far as it goes.
func NewPackBuilder(s *Session, full int, buf []byte) *PackBuilder {
	b := &PackBuilder{session: s, full: full, buf: buf[:0]}
	b.room(headerSize(len(s.Keys)))
	b.buf = b.buf[:headerSize(len(s.Keys))]
	return b
}

// room makes the buffer hold so many bytes. It grows with what is added: most runs
// add little, and to clear the buffer of a full pack would be most of their work.
func (b *PackBuilder) room(n int) {
	if n <= cap(b.buf) {
		return
	}
	size := minPackSize
	for size < n {
		size *= 4
	}
	b.buf = append(make([]byte, 0, min(size, b.full)), b.buf...)
}

func dirSize(chunks int) int { return ClassSize(ClassFor(dirFixed + chunks*dirEntry)) }

// Free returns how many bytes the largest encoded chunk that still fits may
// have; negative if none does.
func (b *PackBuilder) Free() int {
	return b.full - len(b.buf) - dirSize(len(b.dir)+1) - ChunkOverhead
}

// Len returns the number of chunks.
func (b *PackBuilder) Len() int { return len(b.dir) }

// Add copies an encoded chunk into the pack; it must fit.
func (b *PackBuilder) Add(kind ChunkKind, id chunk.ID, encoded []byte) {
	if len(encoded) > b.Free() {
		panic("format: chunk added to a pack in which it does not fit")
	}
	e := DirEntry{
		Kind: kind, ID: id, Offset: uint32(len(b.buf)), Length: uint32(len(encoded) + ChunkOverhead),
		Raw: chunk.RawSize(encoded),
	}
	b.dir = append(b.dir, e)
	b.room(len(b.buf) + int(e.Length))
	b.buf = append(b.buf, encoded...)
	b.buf = b.buf[:len(b.buf)+ChunkOverhead]
}

// Absorb adds all chunks of another builder of the same session, if they fit.
// The other keeps its buffer, and is spent.
func (b *PackBuilder) Absorb(o *PackBuilder) bool {
	body := o.buf[headerSize(len(o.session.Keys)):]
	if len(b.buf)+len(body)+dirSize(len(b.dir)+len(o.dir)) > b.full {
		return false
	}
	shift := uint32(len(b.buf) - headerSize(len(o.session.Keys)))
	b.room(len(b.buf) + len(body))
	b.buf = append(b.buf, body...)
	for _, e := range o.dir {
		e.Offset += shift
		b.dir = append(b.dir, e)
	}
	o.dir = nil
	return true
}

// Buffer returns the buffer of a builder that is not to be sealed.
func (b *PackBuilder) Buffer() []byte { return b.buf }

// Pack is a sealed pack.
type Pack struct {
	Hash Hash
	Data []byte // the object
	Dir  []DirEntry
	Head []byte // its part of an index object
}

// Seal seals every chunk in place, pads the pack to its size, and names it.
// The builder is spent.
func (b *PackBuilder) Seal(w *Writer) (Pack, error) {
	key, salt, commitment, err := crypto.NewSealKey(b.session.key, b.session.Scope.context(typePack))
	if err != nil {
		return Pack{}, err
	}
	dirBytes := dirSize(len(b.dir))
	size := int(PackSize(uint64(len(b.buf)+dirBytes), uint64(b.full)))
	h := Header{
		Scope: b.session.Scope, Keys: b.session.Keys, salt: salt, commitment: commitment,
		DirClass: ClassFor(dirBytes),
	}
	head := h.append(make([]byte, 0, headerSize(len(h.Keys))), segmentMagic, uint64(size))
	copy(b.buf, head)
	aad := HashOf(head[preambleSize:])

	plain := make([]byte, dirBytes-crypto.BoxOverhead)
	binary.BigEndian.PutUint32(plain, uint32(len(b.dir)))
	p := plain[4:]
	for _, e := range b.dir {
		body := b.buf[e.Offset : e.Offset+e.Length-ChunkOverhead : e.Offset+e.Length]
		key.Seal(body[:0], uint64(e.Offset), body, aad[:])
		p[0] = byte(e.Kind)
		binary.BigEndian.PutUint32(p[1:], e.Length)
		binary.BigEndian.PutUint32(p[5:], e.Raw)
		copy(p[9:], e.ID[:])
		p = p[dirEntry:]
	}
	dir, err := crypto.SealBox(w.index, h.Scope.context(typeDirectory), plain, aad[:])
	if err != nil {
		return Pack{}, err
	}
	used := len(b.buf)
	b.room(size)
	data := b.buf[:size]
	rand.Read(data[used : size-dirBytes]) // padding; never fails
	copy(data[size-dirBytes:], dir)

	pack := Pack{Hash: HashOf(data), Data: data, Dir: b.dir}
	pack.Head = IndexedPack{
		Hash: pack.Hash, Size: uint64(size),
		Segments: []IndexedSegment{{Length: uint64(size), Head: head, Dir: dir}},
	}.append(nil)
	return pack, nil
}

// PackSize returns how large a pack of n bytes is made: the smallest power of two
// that holds them, at most full.
func PackSize(n, full uint64) uint64 {
	size := uint64(minPackSize)
	for size < n {
		size *= 2
	}
	return min(size, full)
}

// Segment gives access to the chunks of one segment.
type Segment struct {
	Header Header
	aad    [32]byte
	key    *crypto.SealKey
}

// OpenSegment reads the header at the start of a segment and derives the key
// of its chunks. head is at least preamble and header, and may hold more.
func OpenSegment(r *Reader, head []byte) (*Segment, error) {
	h, aad, _, _, err := parseHeader(segmentMagic, head)
	if err != nil {
		return nil, fmt.Errorf("segment: %w", err)
	}
	key, err := r.sealKey(&h, typePack)
	if err != nil {
		return nil, fmt.Errorf("segment: %w", err)
	}
	return &Segment{Header: h, aad: aad, key: key}, nil
}

// Open opens one sealed chunk that lies at offset within the segment, into
// dst, and returns it encoded. dst may be sealed[:0]. Safe for concurrent use.
func (s *Segment) Open(dst []byte, offset uint32, sealed []byte) ([]byte, error) {
	return s.key.Open(dst, uint64(offset), sealed, s.aad[:])
}

// OpenDirectory opens the sealed directory of a segment of length bytes with
// the writer secret. head is preamble and header.
func OpenDirectory(w *Writer, head, dir []byte, length uint64) (Header, []DirEntry, error) {
	h, aad, size, _, err := parseHeader(segmentMagic, head)
	if err != nil {
		return h, nil, fmt.Errorf("segment: %w", err)
	}
	if length > MaxPackSize || len(dir) != ClassSize(h.DirClass) || uint64(size+len(dir)) > length {
		return h, nil, fmt.Errorf("%w: segment of %d bytes, directory of %d", ErrMalformed, length, len(dir))
	}
	plain, err := crypto.OpenBox(w.index, h.Scope.context(typeDirectory), dir, aad[:])
	if err != nil {
		return h, nil, fmt.Errorf("pack directory: %w", err)
	}
	c := newCursor(plain)
	n := int(c.u32())
	if !c.ok || n > len(c.b)/dirEntry {
		return h, nil, fmt.Errorf("%w: pack directory of %d chunks", ErrMalformed, n)
	}
	entries := make([]DirEntry, n)
	at := uint64(size)
	for i := range entries {
		e := &entries[i]
		e.Kind, e.Length, e.Raw = ChunkKind(c.u8()), c.u32(), c.u32()
		c.fill(e.ID[:])
		e.Offset = uint32(at)
		at += uint64(e.Length)
		if (e.Kind != DataChunk && e.Kind != TreeChunk) || e.Length < ChunkOverhead || at+uint64(len(dir)) > length {
			return h, nil, fmt.Errorf("%w: pack directory entry %d", ErrMalformed, i)
		}
	}
	if !c.zeros() {
		return h, nil, fmt.Errorf("%w: pack directory padding", ErrMalformed)
	}
	return h, entries, nil
}
