package format

import (
	"encoding/binary"
	"fmt"
)

// SegmentFrame is what the plain parts of a segment say of it. Nobody vouches
// for it until its directory opens; for Length nobody does then.
type SegmentFrame struct {
	Scope  Scope
	Keys   []SealedKey
	Head   int    // bytes of preamble and header
	Dir    int    // bytes of the sealed directory, the last of the segment
	Length uint64 // of the segment
}

// SegmentHead returns the bytes of preamble and header of the segment that
// begins with start, of which 16 bytes are enough. The error wraps ErrMalformed.
func SegmentHead(start []byte) (int, error) {
	if len(start) < preambleSize || string(start[:len(segmentMagic)]) != segmentMagic {
		return 0, fmt.Errorf("%w: no segment begins here", ErrMalformed)
	}
	n := binary.BigEndian.Uint32(start[len(segmentMagic):])
	if n > fixedHeader+MaxRecipients*recipientSize {
		return 0, fmt.Errorf("%w: header of %d bytes", ErrMalformed, n)
	}
	return preambleSize + int(n), nil
}

// ParseSegmentFrame reads preamble and header of a segment, for which its pack
// has room bytes left. The error wraps ErrMalformed.
func ParseSegmentFrame(head []byte, room uint64) (SegmentFrame, error) {
	h, _, size, length, err := parseHeader(segmentMagic, head)
	if err != nil {
		return SegmentFrame{}, err
	}
	f := SegmentFrame{Scope: h.Scope, Keys: h.Keys, Head: size, Dir: ClassSize(h.DirClass), Length: length}
	if length > room || uint64(f.Head+f.Dir) > length {
		return SegmentFrame{}, fmt.Errorf("%w: segment of %d bytes in %d, directory of %d", ErrMalformed, length, room, f.Dir)
	}
	return f, nil
}
