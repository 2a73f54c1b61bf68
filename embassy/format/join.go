package format

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Join lays the segments of packs end to end, in order, as one pack. Of a segment
// whose directory one of the writers opens, the padding goes; any other stays as it
// is. No key of a reader is needed: every seal stays valid. The result, whose Dir
// is empty, has at most MaxPackSize bytes.
func Join(writers []*Writer, packs ...[]byte) (Pack, error) {
	var out IndexedPack
	var data []byte
	for _, object := range packs {
		p, err := ParsePack(object)
		if err != nil {
			return Pack{}, err
		}
		for _, s := range p.Segments {
			at := len(data)
			body, err := packed(writers, s)
			if err != nil {
				return Pack{}, fmt.Errorf("pack %s: %w", p.Hash, err)
			}
			data = append(data, object[s.Offset:s.Offset+body]...)
			data = append(data, s.Dir...)
			length := uint64(len(data) - at)
			binary.BigEndian.PutUint64(data[at+8:], length) // all else of the header is bound to the seals
			out.Segments = append(out.Segments, IndexedSegment{Offset: uint64(at), Length: length, Head: data[at : at+len(s.Head)], Dir: s.Dir})
		}
	}
	if len(data) == 0 || len(data) > MaxPackSize {
		return Pack{}, fmt.Errorf("%w: joined pack of %d bytes", ErrMalformed, len(data))
	}
	out.Hash, out.Size = HashOf(data), uint64(len(data))
	for i := range out.Segments { // data may have moved while it grew
		s := &out.Segments[i]
		s.Head = data[s.Offset : s.Offset+uint64(len(s.Head))]
	}
	return Pack{Hash: out.Hash, Data: data, Head: out.append(nil)}, nil
}

// packed returns how many bytes of a segment its header and its chunks take; all
// but the directory, when no writer opens it.
func packed(writers []*Writer, s IndexedSegment) (uint64, error) {
	for _, w := range writers {
		_, dir, err := OpenDirectory(w, s.Head, s.Dir, s.Length)
		if errors.Is(err, ErrMalformed) {
			return 0, err
		}
		if err != nil {
			continue
		}
		if len(dir) == 0 {
			return uint64(len(s.Head)), nil
		}
		last := dir[len(dir)-1]
		return uint64(last.Offset) + uint64(last.Length), nil
	}
	return s.Length - uint64(len(s.Dir)), nil
}
