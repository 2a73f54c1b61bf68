package chunk_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"embassy/chunk"
)

// Cut points and ids decide what is deduplicated against what was stored
// years ago: if these change, every nation uploads everything again.
const goldenPolynomial = 0x3c5459bfc3d49d

var goldenCuts = []int{
	713357, 666199, 815442, 1086266, 591635, 608043, 542776, 614587, 561590, 799982,
	643434, 670441, 570941, 671793, 720753, 545801, 954220, 538559, 267093,
}

func polynomial(t testing.TB) chunk.Polynomial {
	t.Helper()
	p, err := chunk.DerivePolynomial(testKey)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// split returns the chunks of one input, copied.
func split(s *chunk.Splitter, r io.Reader) ([][]byte, error) {
	buf := make([]byte, 0, chunk.MaxSize)
	var chunks [][]byte
	s.Reset(r)
	for {
		c, err := s.Next(buf)
		if err == io.EOF {
			return chunks, nil
		}
		if err != nil {
			return chunks, err
		}
		chunks = append(chunks, bytes.Clone(c))
	}
}

func mustSplit(t testing.TB, r io.Reader) [][]byte {
	t.Helper()
	chunks, err := split(chunk.NewSplitter(polynomial(t)), r)
	if err != nil {
		t.Fatal(err)
	}
	return chunks
}

func sizes(chunks [][]byte) []int {
	n := make([]int, len(chunks))
	for i, c := range chunks {
		n[i] = len(c)
	}
	return n
}

func TestDerivePolynomial(t *testing.T) {
	p := polynomial(t)
	if uint64(p) != goldenPolynomial {
		t.Errorf("got %#x, want %#x", uint64(p), uint64(goldenPolynomial))
	}
	other, err := chunk.DerivePolynomial(bytes.Repeat([]byte{8}, 32))
	if err != nil {
		t.Fatal(err)
	}
	if other == p {
		t.Error("the secret does not matter")
	}
	for _, n := range []int{0, 31, 33} {
		if _, err := chunk.DerivePolynomial(make([]byte, n)); err == nil {
			t.Errorf("a secret of %d bytes was accepted", n)
		}
	}
}

func TestPolynomialRedaction(t *testing.T) {
	p := polynomial(t)
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		fmt.Fprintf(&out, verb+"\n", p)
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "key", p)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "key", p)
	out.WriteString(p.String() + p.GoString())
	for _, leak := range []string{fmt.Sprintf("%x", uint64(p)), fmt.Sprint(uint64(p))} {
		if strings.Contains(strings.ToLower(out.String()), leak) {
			t.Errorf("shown: %s", out.String())
		}
	}
	if b, err := json.Marshal(p); err == nil {
		t.Errorf("json encoded it: %s", b)
	}
}

func TestSplitGolden(t *testing.T) {
	input := random(1, 12<<20)
	chunks := mustSplit(t, bytes.NewReader(input))
	if got := sizes(chunks); !slices.Equal(got, goldenCuts) {
		t.Errorf("got %v, want %v", got, goldenCuts)
	}
	if !bytes.Equal(bytes.Join(chunks, nil), input) {
		t.Error("the chunks do not make up the input")
	}
}

func TestSplitReadSizes(t *testing.T) {
	input := random(1, 12<<20)
	for name, r := range map[string]io.Reader{
		"one byte":     iotest.OneByteReader(bytes.NewReader(input)),
		"half":         iotest.HalfReader(bytes.NewReader(input)),
		"data and EOF": iotest.DataErrReader(bytes.NewReader(input)),
		"odd":          &oddReader{r: bytes.NewReader(input)},
	} {
		t.Run(name, func(t *testing.T) {
			if got := sizes(mustSplit(t, r)); !slices.Equal(got, goldenCuts) {
				t.Errorf("got %v, want %v", got, goldenCuts)
			}
		})
	}
}

// oddReader reads 1, 2, 3, … bytes at a time, and now and then none.
type oddReader struct {
	r io.Reader
	n int
}

func (o *oddReader) Read(p []byte) (int, error) {
	o.n++
	return o.r.Read(p[:min(len(p), o.n%70001)])
}

func TestSplitBounds(t *testing.T) {
	for name, input := range map[string][]byte{
		"random":      random(2, 40<<20),
		"zeros":       make([]byte, 5<<20+1),
		"never a cut": bytes.Repeat([]byte{0xff}, 9<<20),
	} {
		t.Run(name, func(t *testing.T) {
			chunks := mustSplit(t, bytes.NewReader(input))
			for i, c := range chunks {
				if len(c) > chunk.MaxSize || len(c) == 0 || len(c) < chunk.MinSize && i < len(chunks)-1 {
					t.Errorf("chunk %d of %d is %d bytes", i, len(chunks), len(c))
				}
			}
			if !bytes.Equal(bytes.Join(chunks, nil), input) {
				t.Error("the chunks do not make up the input")
			}
			if name == "never a cut" && (len(chunks) < 3 || len(chunks[0]) != chunk.MaxSize || len(chunks[1]) != chunk.MaxSize) {
				t.Errorf("chunks of %v bytes never reach the bound", sizes(chunks))
			}
		})
	}
}

func TestSplitShort(t *testing.T) {
	for _, n := range []int{0, 1, 1000, chunk.MinSize - 1, chunk.MinSize} {
		input := random(3, n)
		chunks := mustSplit(t, bytes.NewReader(input))
		want := 1
		if n == 0 {
			want = 0
		}
		if len(chunks) != want || !bytes.Equal(bytes.Join(chunks, nil), input) {
			t.Errorf("%d bytes are split into %v", n, sizes(chunks))
		}
	}
}

// TestSplitShortNeedsNoRollingHash uses a polynomial with which there is no
// rolling hash at all.
func TestSplitShortNeedsNoRollingHash(t *testing.T) {
	chunks, err := split(chunk.NewSplitter(0), bytes.NewReader(random(3, chunk.MinSize-1)))
	if err != nil || len(chunks) != 1 {
		t.Errorf("%d chunks, %v", len(chunks), err)
	}
}

func TestSplitterReuse(t *testing.T) {
	s := chunk.NewSplitter(polynomial(t))
	buf := make([]byte, chunk.MaxSize)
	if _, err := s.Next(buf); err != io.EOF {
		t.Errorf("before Reset: %v, want EOF", err)
	}
	long, short := random(1, 12<<20), random(4, 1000)
	for range 2 {
		for _, input := range [][]byte{long, short, nil} {
			chunks, err := split(s, bytes.NewReader(input))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(bytes.Join(chunks, nil), input) {
				t.Error("the chunks do not make up the input")
			}
			if len(input) == len(long) && !slices.Equal(sizes(chunks), goldenCuts) {
				t.Errorf("cuts %v after reuse", sizes(chunks))
			}
			if _, err := s.Next(buf); err != io.EOF {
				t.Errorf("after the end: %v, want EOF", err)
			}
		}
		// Abandon an input in the middle.
		s.Reset(bytes.NewReader(long))
		if _, err := s.Next(buf); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSplitUsesTheBuffer(t *testing.T) {
	s := chunk.NewSplitter(polynomial(t))
	buf := make([]byte, chunk.MaxSize)
	for _, n := range []int{10, 12 << 20} {
		s.Reset(bytes.NewReader(random(1, n)))
		for {
			c, err := s.Next(buf)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if &c[0] != &buf[0] {
				t.Fatal("a chunk lies outside the buffer")
			}
		}
	}
}

func TestSplitSmallBuffer(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	s := chunk.NewSplitter(polynomial(t))
	s.Reset(strings.NewReader("x"))
	_, _ = s.Next(make([]byte, chunk.MaxSize-1))
}

// TestSplitReadError checks that an input that breaks off is never taken for
// one that ends, wherever and however it breaks off.
func TestSplitReadError(t *testing.T) {
	input := random(1, 12<<20)
	s := chunk.NewSplitter(polynomial(t))
	for _, want := range []error{errors.New("disk on fire"), io.ErrUnexpectedEOF} {
		for _, n := range []int{0, 1, chunk.MinSize - 1, chunk.MinSize, chunk.MinSize + 1, 3 << 20, 12 << 20} {
			chunks, err := split(s, io.MultiReader(bytes.NewReader(input[:n]), iotest.ErrReader(want)))
			if !errors.Is(err, want) {
				t.Errorf("%v after %d bytes: %v", want, n, err)
			}
			if !bytes.HasPrefix(input, bytes.Join(chunks, nil)) {
				t.Errorf("%v after %d bytes: wrong chunks", want, n)
			}
			for i, c := range chunks {
				if len(c) != goldenCuts[i] {
					t.Errorf("%v after %d bytes: chunk %d is cut short to %d", want, n, i, len(c))
				}
			}
			if _, err := s.Next(make([]byte, chunk.MaxSize)); err != io.EOF {
				t.Errorf("after the error: %v, want EOF", err)
			}
		}
	}
}

// TestSplitResynchronizes inserts one byte: the cuts before and soon after it
// stay.
func TestSplitResynchronizes(t *testing.T) {
	input := random(2, 40<<20)
	known := make(map[string]bool)
	for _, c := range mustSplit(t, bytes.NewReader(input)) {
		known[string(c)] = true
	}
	edited := slices.Insert(bytes.Clone(input), 20<<20, 0x55)
	fresh := 0
	for _, c := range mustSplit(t, bytes.NewReader(edited)) {
		if !known[string(c)] {
			fresh++
		}
	}
	if fresh == 0 || fresh > 3 {
		t.Errorf("%d new chunks after one inserted byte", fresh)
	}
}

func BenchmarkSplit(b *testing.B) {
	input := random(1, 64<<20)
	s, buf := chunk.NewSplitter(polynomial(b)), make([]byte, chunk.MaxSize)
	for name, n := range map[string]int{"64MiB": len(input), "100KiB": 100 << 10} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				s.Reset(bytes.NewReader(input[:n]))
				for {
					_, err := s.Next(buf)
					if err == io.EOF {
						break
					}
					if err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
