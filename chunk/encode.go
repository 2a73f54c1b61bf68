package chunk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/klauspost/compress/zstd"
)

// EncodedOverhead is the size of what precedes the payload of an encoded
// chunk, in bytes: u8 codec ‖ u32 raw length, big endian.
const EncodedOverhead = 5

const (
	codecRaw  = 0
	codecZstd = 1

	// maxWindow bounds what a zstd frame may ask a decoder to keep, in bytes.
	// Encoder writes frames of at most 4 MiB.
	maxWindow = 8 << 20

	// slack, where there is room for it, lets the decoder copy whole words at
	// the end of a frame.
	slack = 16
)

// ErrCorrupt is wrapped by every error about bytes that no Encoder wrote, or
// that claim more than the caller allows.
var ErrCorrupt = errors.New("corrupt chunk")

// MaxEncodedSize is the largest size of an encoded chunk of raw bytes.
func MaxEncodedSize(raw int) int { return raw + EncodedOverhead }

// RawSize returns how many bytes an encoded chunk claims to decode to; 0 if it
// is too short to say.
func RawSize(encoded []byte) uint32 {
	if len(encoded) < EncodedOverhead {
		return 0
	}
	return binary.BigEndian.Uint32(encoded[1:])
}

// Encoder compresses chunks. It is not safe for concurrent use.
type Encoder struct {
	zstd    *zstd.Encoder
	scratch []byte
}

// NewEncoder returns an Encoder, which starts no goroutine and needs no Close.
func NewEncoder() *Encoder {
	// No checksum: the seal covers the chunk.
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false))
	if err != nil {
		panic("chunk: " + err.Error())
	}
	return &Encoder{zstd: e}
}

// Encode appends the encoded chunk to dst. The payload is a zstd frame, or the
// raw bytes where that saves less than 1/32 of them, so that it appends at most
// MaxEncodedSize(len(raw)) bytes. The chunk must be smaller than 4 GiB and must
// not overlap dst.
func (e *Encoder) Encode(dst, raw []byte) []byte {
	if uint64(len(raw)) > math.MaxUint32 {
		panic("chunk: 4 GiB or more")
	}
	codec, payload := byte(codecRaw), raw
	e.scratch = e.zstd.EncodeAll(raw, e.scratch[:0])
	if len(e.scratch) < len(raw)-len(raw)/32 {
		codec, payload = codecZstd, e.scratch
	}
	dst = slices.Grow(dst, EncodedOverhead+len(payload))
	dst = append(dst, codec)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(raw)))
	return append(dst, payload...)
}

// Decoder decodes chunks. It is not safe for concurrent use.
type Decoder struct {
	zstd *zstd.Decoder
}

// NewDecoder returns a Decoder, which Close releases.
func NewDecoder() *Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic("chunk: " + err.Error())
	}
	return &Decoder{zstd: d}
}

// Close releases the Decoder's buffers. It must not be used afterwards.
func (d *Decoder) Close() { d.zstd.Close() }

// Decode appends the raw bytes of an encoded chunk to dst. It returns an error
// that wraps ErrCorrupt, and no bytes, unless they are exactly as many as the
// chunk claims, and at most max; that is checked before anything is allocated.
// encoded must not overlap dst.
func (d *Decoder) Decode(dst, encoded []byte, max int) ([]byte, error) {
	if len(encoded) < EncodedOverhead {
		return nil, fmt.Errorf("%w: %d bytes", ErrCorrupt, len(encoded))
	}
	size := int64(binary.BigEndian.Uint32(encoded[1:]))
	if size > int64(max) {
		return nil, fmt.Errorf("%w: claims %d bytes, at most %d are allowed", ErrCorrupt, size, max)
	}
	payload := encoded[EncodedOverhead:]
	switch codec := encoded[0]; codec {
	case codecRaw:
		if int64(len(payload)) != size {
			return nil, fmt.Errorf("%w: %d bytes, claims %d", ErrCorrupt, len(payload), size)
		}
		return append(dst, payload...), nil
	case codecZstd:
		return d.inflate(dst, payload, int(size))
	default:
		return nil, fmt.Errorf("%w: unknown codec %d", ErrCorrupt, codec)
	}
}

// inflate appends the size bytes of a zstd payload to dst. The capacity that it
// hands to the zstd decoder is the limit on what that may write.
func (d *Decoder) inflate(dst, payload []byte, size int) ([]byte, error) {
	n := len(dst)
	dst = slices.Grow(dst, size)
	limit := min(n+size+slack, cap(dst))
	raw, err := d.zstd.DecodeAll(payload, dst[n:n:limit])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if len(raw) != size {
		return nil, fmt.Errorf("%w: %d bytes, claims %d", ErrCorrupt, len(raw), size)
	}
	return append(dst, raw...), nil
}
