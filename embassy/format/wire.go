package format

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"

	"github.com/fxamacker/cbor/v2"
)

var (
	encMode = must(cbor.EncOptions{
		Sort: cbor.SortCoreDeterministic, ShortestFloat: cbor.ShortestFloat16,
		IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
		NilContainers: cbor.NilContainerAsEmpty, // never null: an empty list has one encoding
	}.EncMode())
	decOptions = cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden,
		TagsMd: cbor.TagsForbidden, ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		MaxArrayElements: 1 << 20, MaxMapPairs: 1 << 16, MaxNestedLevels: 16,
	}
	decMode = must(decOptions.DecMode())
	// glanceMode passes over what it is not asked for, and keeps nothing of it.
	glanceMode = must(func() (cbor.DecMode, error) {
		o := decOptions
		o.ExtraReturnErrors = 0
		return o.DecMode()
	}())
	checkpointMode = must(func() (cbor.DecMode, error) {
		o := decOptions
		o.MaxArrayElements = maxRestatedChains
		return o.DecMode()
	}())
	handoverMode = must(func() (cbor.DecMode, error) {
		o := decOptions
		o.MaxArrayElements = maxRotations
		return o.DecMode()
	}())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // options are constants
	}
	return v
}

// encode writes deterministic CBOR.
func encode(v any) []byte { return must(encMode.Marshal(v)) }

// encodeRecord encodes a record that is to be sealed or signed, and makes sure
// that a reader will take it: text that is not UTF-8, or a list that is too
// long, is found while the data is still there.
func encodeRecord[T any](v T) ([]byte, error) {
	b := encode(v)
	return b, decode(b, new(T))
}

// decode reads CBOR into v and refuses bytes that encode would not have
// written.
func decode(b []byte, v any) error { return decodeIn(decMode, b, v) }

func decodeIn(mode cbor.DecMode, b []byte, v any) error {
	if err := mode.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	if again, err := encMode.Marshal(v); err != nil || !bytes.Equal(again, b) {
		return fmt.Errorf("%w: not in its one encoding", ErrMalformed)
	}
	return nil
}

// cursor reads fixed fields; after the first short read every result is zero
// and ok is false.
type cursor struct {
	b  []byte
	ok bool
}

func newCursor(b []byte) *cursor { return &cursor{b: b, ok: true} }

func (c *cursor) take(n int) []byte {
	if !c.ok || n < 0 || n > len(c.b) {
		c.ok = false
		return nil
	}
	p := c.b[:n:n]
	c.b = c.b[n:]
	return p
}

func (c *cursor) u8() uint8 {
	if p := c.take(1); p != nil {
		return p[0]
	}
	return 0
}

func (c *cursor) u16() uint16 {
	if p := c.take(2); p != nil {
		return binary.BigEndian.Uint16(p)
	}
	return 0
}

func (c *cursor) u32() uint32 {
	if p := c.take(4); p != nil {
		return binary.BigEndian.Uint32(p)
	}
	return 0
}

func (c *cursor) u64() uint64 {
	if p := c.take(8); p != nil {
		return binary.BigEndian.Uint64(p)
	}
	return 0
}

func (c *cursor) fill(dst []byte) { copy(dst, c.take(len(dst))) }

// zeros reports whether the rest is padding: nothing but zero bytes.
func (c *cursor) zeros() bool {
	for _, b := range c.b {
		if b != 0 {
			return false
		}
	}
	return c.ok
}

// Size classes: four to the octave, from 1 KiB. Class k holds
// (4 + k%4) << (8 + k/4) bytes. What is padded to a class shows its size to
// within a quarter.
const maxClass = 4 * 16

// ClassSize returns the bytes of a class; math.MaxInt for one that no int
// holds.
func ClassSize(class uint8) int {
	shift := 8 + int(class/4)
	if shift > bits.UintSize-4 {
		return math.MaxInt
	}
	return (4 + int(class%4)) << shift
}

// ClassFor returns the smallest class of at least n bytes.
func ClassFor(n int) uint8 {
	var k uint8
	for ClassSize(k) < n {
		k++
	}
	return k
}

// pad returns body behind its length, followed by zeros, so that the result
// with overhead more bytes fills a class.
func pad(body []byte, overhead int) []byte {
	size := ClassSize(ClassFor(4+len(body)+overhead)) - overhead
	p := make([]byte, size)
	binary.BigEndian.PutUint32(p, uint32(len(body)))
	copy(p[4:], body)
	return p
}

func unpad(p []byte) ([]byte, error) {
	c := newCursor(p)
	body := c.take(int(c.u32()))
	if !c.ok || !c.zeros() {
		return nil, fmt.Errorf("%w: padding", ErrMalformed)
	}
	return body, nil
}
