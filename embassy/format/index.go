package format

import (
	"encoding/binary"
	"fmt"
)

const indexMagic = "EMBINDX1"

// IndexedSegment is a segment's header and sealed directory, verbatim.
type IndexedSegment struct {
	Offset uint64 // of the segment within its pack
	Length uint64 // of the segment
	Head   []byte // preamble and header
	Dir    []byte // sealed directory
}

// minIndexed is the least that a segment takes in an index.
var minIndexed = 8 + 8 + 4 + 4 + headerSize(1) + ClassSize(0)

// check returns an error unless the segment's own header says the same.
func (s IndexedSegment) check() error {
	h, _, size, length, err := parseHeader(segmentMagic, s.Head)
	if err != nil {
		return err
	}
	if size != len(s.Head) || length != s.Length || len(s.Dir) != ClassSize(h.DirClass) ||
		uint64(len(s.Head)+len(s.Dir)) > length {
		return fmt.Errorf("%w: segment of %d bytes, directory of %d", ErrMalformed, s.Length, len(s.Dir))
	}
	return nil
}

// IndexedPack is one pack in an index object.
type IndexedPack struct {
	Hash     Hash
	Size     uint64
	Segments []IndexedSegment
}

func (p IndexedPack) append(dst []byte) []byte {
	dst = append(dst, p.Hash[:]...)
	dst = binary.BigEndian.AppendUint64(dst, p.Size)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(p.Segments)))
	for _, s := range p.Segments {
		dst = binary.BigEndian.AppendUint64(dst, s.Offset)
		dst = binary.BigEndian.AppendUint64(dst, s.Length)
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(s.Head)))
		dst = append(dst, s.Head...)
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(s.Dir)))
		dst = append(dst, s.Dir...)
	}
	return dst
}

// BuildIndexes joins the heads of packs (Pack.Head) into as few index objects
// as their bound allows, in order. It needs no key.
func BuildIndexes(heads [][]byte) ([][]byte, error) {
	var objects [][]byte
	for len(heads) > 0 {
		n, size := 0, len(indexMagic)+4
		for n < len(heads) && ClassSize(ClassFor(size+len(heads[n]))) <= MaxIndexSize {
			size += len(heads[n])
			n++
		}
		if n == 0 {
			return nil, fmt.Errorf("%w: a pack's head of %d bytes fits no index", ErrMalformed, len(heads[0]))
		}
		b := make([]byte, 0, ClassSize(ClassFor(size)))
		b = append(b, indexMagic...)
		b = binary.BigEndian.AppendUint32(b, uint32(n))
		for _, h := range heads[:n] {
			b = append(b, h...)
		}
		objects = append(objects, b[:cap(b)])
		heads = heads[n:]
	}
	return objects, nil
}

// ParseIndex reads an index object. The slices alias it. Nothing in it is
// authenticated but by the hash that an entry lists for it, and by the seals.
func ParseIndex(object []byte) ([]IndexedPack, error) {
	if len(object) > MaxIndexSize {
		return nil, fmt.Errorf("%w: index of %d bytes", ErrMalformed, len(object))
	}
	c := newCursor(object)
	magic, n := c.take(len(indexMagic)), uint64(c.u32())
	if string(magic) != indexMagic || n > uint64(len(c.b)/(32+8+4+minIndexed)) {
		return nil, fmt.Errorf("%w: index", ErrMalformed)
	}
	packs := make([]IndexedPack, n)
	for i := range packs {
		p := &packs[i]
		c.fill(p.Hash[:])
		p.Size = c.u64()
		segments := uint64(c.u32())
		if !c.ok || p.Size == 0 || p.Size > MaxPackSize || segments > uint64(len(c.b)/minIndexed) {
			return nil, fmt.Errorf("%w: index, pack %d", ErrMalformed, i)
		}
		p.Segments = make([]IndexedSegment, segments)
		var at uint64
		for j := range p.Segments {
			s := &p.Segments[j]
			s.Offset, s.Length = c.u64(), c.u64()
			s.Head = c.take(int(c.u32()))
			s.Dir = c.take(int(c.u32()))
			if !c.ok || s.Offset != at || s.Length > p.Size-at {
				return nil, fmt.Errorf("%w: index, pack %s, segment %d", ErrMalformed, p.Hash, j)
			}
			if err := s.check(); err != nil {
				return nil, fmt.Errorf("index, pack %s, segment %d: %w", p.Hash, j, err)
			}
			at += s.Length
		}
		if at != p.Size {
			return nil, fmt.Errorf("%w: index, pack %s: segments do not fill it", ErrMalformed, p.Hash)
		}
	}
	if !c.zeros() {
		return nil, fmt.Errorf("%w: index padding", ErrMalformed)
	}
	return packs, nil
}

// ParsePack finds the segments of a whole pack without an index. The slices
// alias the object.
func ParsePack(object []byte) (IndexedPack, error) {
	p := IndexedPack{Hash: HashOf(object), Size: uint64(len(object))}
	if len(object) == 0 || len(object) > MaxPackSize {
		return p, fmt.Errorf("%w: pack of %d bytes", ErrMalformed, len(object))
	}
	for at := uint64(0); at < p.Size; {
		rest := object[at:]
		h, _, size, length, err := parseHeader(segmentMagic, rest)
		if err != nil {
			return p, fmt.Errorf("pack %s: %w", p.Hash, err)
		}
		dir := uint64(ClassSize(h.DirClass))
		if length > uint64(len(rest)) || uint64(size)+dir > length {
			return p, fmt.Errorf("%w: pack %s: segment of %d bytes", ErrMalformed, p.Hash, length)
		}
		p.Segments = append(p.Segments, IndexedSegment{
			Offset: at, Length: length, Head: rest[:size:size], Dir: rest[length-dir : length : length],
		})
		at += length
	}
	return p, nil
}
