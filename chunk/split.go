package chunk

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/restic/chunker"
)

// Bounds of a chunk. Only the last chunk of an input is shorter than MinSize.
const (
	MinSize     = 512 << 10      // bytes
	MaxSize     = 4<<20 - 64<<10 // bytes
	AverageBits = 17             // a cut per 2^17 bytes on average, once past MinSize; see docs/PERFORMANCE.md
	secretSize  = 32             // bytes
)

// Polynomial decides where an input is cut. It is secret, since cut points
// betray contents to whoever can compute them, and redacts itself.
type Polynomial uint64

const redaction = "[redacted]"

func (Polynomial) String() string       { return redaction }
func (Polynomial) GoString() string     { return redaction }
func (Polynomial) LogValue() slog.Value { return slog.StringValue(redaction) }

// MarshalText refuses: a polynomial is derived, never stored.
func (Polynomial) MarshalText() ([]byte, error) {
	return nil, errors.New("chunk: a polynomial is not encoded")
}

// Format prints the redaction whatever the verb.
func (Polynomial) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, redaction) }

// DerivePolynomial returns the irreducible polynomial of degree 53 over GF(2)
// that belongs to a secret of 32 bytes.
//
// Take the stream of blocks HMAC-SHA-256(secret, "embassy/v1 chunker
// polynomial" ‖ 0x00 ‖ u64 i), big endian, i = 0, 1, 2, …; read it as
// little-endian 64-bit integers, four to a block; in each, clear the bits above
// bit 53 and set bits 53 and 0. The first that is irreducible, bit k being the
// coefficient of x^k, is the polynomial.
func DerivePolynomial(secret []byte) (Polynomial, error) {
	if len(secret) != secretSize {
		return 0, fmt.Errorf("chunker secret of %d bytes, want %d", len(secret), secretSize)
	}
	p, err := chunker.DerivePolynomial(&stream{secret: secret})
	if err != nil {
		return 0, fmt.Errorf("derive polynomial: %w", err)
	}
	return Polynomial(p), nil
}

// stream is the endless stream that DerivePolynomial describes.
type stream struct {
	secret []byte
	next   uint64
	rest   []byte
}

func (s *stream) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		mac := hmac.New(sha256.New, s.secret)
		mac.Write([]byte("embassy/v1 chunker polynomial\x00"))
		mac.Write(binary.BigEndian.AppendUint64(nil, s.next))
		s.rest = mac.Sum(nil)
		s.next++
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// Splitter cuts one input after another. It is not safe for concurrent use and
// holds about 1 MiB.
type Splitter struct {
	pol   Polynomial
	src   source
	state splitState
	rabin *chunker.Chunker
	head  []byte // the first MinSize bytes of an input that is longer
}

type splitState uint8

const (
	atStart splitState = iota
	inRabin
	atEnd
)

// NewSplitter returns a Splitter that is at the end of an empty input.
func NewSplitter(p Polynomial) *Splitter {
	return &Splitter{pol: p, state: atEnd}
}

// Reset begins a new input.
func (s *Splitter) Reset(r io.Reader) {
	s.src = source{r}
	s.state = atStart
}

// Next returns the next chunk, and io.EOF after the last one; an empty input
// has none. The chunk lies in buf, whose capacity must be MaxSize or more, and
// is valid until buf is used again. An error of the reader is returned wrapped,
// and the input is over.
//
// An input of fewer than MinSize bytes is one chunk, for which no rolling hash
// is computed.
func (s *Splitter) Next(buf []byte) ([]byte, error) {
	if cap(buf) < MaxSize {
		panic("chunk: buffer smaller than MaxSize")
	}
	switch s.state {
	case atEnd:
		return nil, io.EOF
	case atStart:
		n, err := io.ReadFull(&s.src, buf[:MinSize])
		if err == io.ErrUnexpectedEOF {
			s.end()
			return buf[:n], nil
		}
		if err != nil {
			s.end()
			return nil, err
		}
		s.startRabin(buf[:MinSize])
	}
	c, err := s.rabin.Next(buf)
	if err != nil {
		s.end()
		return nil, err
	}
	return c.Data, nil
}

// startRabin hands the input, of which head was read already, to the rolling
// hash.
func (s *Splitter) startRabin(head []byte) {
	s.head = append(s.head[:0], head...)
	r := io.MultiReader(bytes.NewReader(s.head), &s.src)
	if s.rabin == nil {
		s.rabin = chunker.NewWithBoundaries(r, chunker.Pol(s.pol), MinSize, MaxSize)
	} else {
		s.rabin.ResetWithBoundaries(r, chunker.Pol(s.pol), MinSize, MaxSize)
	}
	s.rabin.SetAverageBits(AverageBits)
	s.state = inRabin
}

// end forgets the reader.
func (s *Splitter) end() {
	s.src = source{}
	s.state = atEnd
}

// source wraps the errors of a reader. A bare io.ErrUnexpectedEOF would pass
// for the end of the input, and cut it short without a word.
type source struct{ r io.Reader }

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("read input: %w", err)
	}
	return n, err
}
