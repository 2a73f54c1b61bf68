package chunk_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"testing"

	"github.com/klauspost/compress/zstd"

	"embassy/chunk"
)

const (
	codecRaw  = 0
	codecZstd = 1
)

// table returns n bytes or a few more of text such as a register holds.
func table(n int) []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "%08d,%x,Tallinn,%d\n", i, uint32(i)*2654435761, i%97)
	}
	return b.Bytes()
}

func TestEncodeRoundTrip(t *testing.T) {
	e, d := chunk.NewEncoder(), chunk.NewDecoder()
	defer d.Close()
	for name, c := range map[string]struct {
		raw   []byte
		codec byte
	}{
		"empty":     {nil, codecRaw},
		"one byte":  {[]byte{1}, codecRaw},
		"random":    {random(1, 100000), codecRaw},
		"text":      {table(100000), codecZstd},
		"zeros":     {make([]byte, chunk.MaxSize), codecZstd},
		"max text":  {table(chunk.MaxSize)[:chunk.MaxSize], codecZstd},
		"max noise": {random(2, chunk.MaxSize), codecRaw},
		"1/64 less": {append(random(3, 1<<20), make([]byte, 1<<14)...), codecRaw},
		"1/16 less": {append(random(3, 1<<20), make([]byte, 1<<16)...), codecZstd},
	} {
		t.Run(name, func(t *testing.T) {
			encoded := e.Encode([]byte("prefix"), c.raw)
			if !bytes.HasPrefix(encoded, []byte("prefix")) {
				t.Fatal("Encode does not append")
			}
			encoded = encoded[len("prefix"):]
			if len(encoded) > chunk.MaxEncodedSize(len(c.raw)) || len(encoded) > len(c.raw)+chunk.EncodedOverhead {
				t.Errorf("%d bytes became %d", len(c.raw), len(encoded))
			}
			if encoded[0] != c.codec || binary.BigEndian.Uint32(encoded[1:]) != uint32(len(c.raw)) {
				t.Errorf("header % x", encoded[:chunk.EncodedOverhead])
			}
			for _, dst := range [][]byte{nil, []byte("before"), append(make([]byte, 0, len(c.raw)+100), "before"...)} {
				got, err := d.Decode(dst, encoded, len(c.raw))
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got, append([]byte(string(dst)), c.raw...)) {
					t.Error("another chunk comes back")
				}
			}
			if len(c.raw) > 0 {
				corrupt(t, d, "one below its size", encoded, len(c.raw)-1)
			}
		})
	}
}

// corrupt checks that a decoder refuses, with no bytes.
func corrupt(t *testing.T, d *chunk.Decoder, how string, encoded []byte, max int) {
	t.Helper()
	got, err := d.Decode(nil, encoded, max)
	if !errors.Is(err, chunk.ErrCorrupt) || got != nil {
		t.Errorf("%s: %d bytes, %v", how, len(got), err)
	}
}

func header(codec byte, size uint32, payload []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{codec}, size), payload...)
}

func TestDecodeTruncated(t *testing.T) {
	e, d := chunk.NewEncoder(), chunk.NewDecoder()
	defer d.Close()
	for name, raw := range map[string][]byte{"raw": random(1, 500), "zstd": table(5000)} {
		encoded := e.Encode(nil, raw)
		for n := range encoded {
			corrupt(t, d, fmt.Sprintf("%s cut to %d", name, n), encoded[:n], chunk.MaxSize)
		}
		corrupt(t, d, name+" extended", append(bytes.Clone(encoded), 0), chunk.MaxSize)
		for _, delta := range []int{-1, 1, 15, 16, 17} {
			size := uint32(len(raw) + delta)
			corrupt(t, d, fmt.Sprintf("%s claims %+d", name, delta),
				header(encoded[0], size, encoded[chunk.EncodedOverhead:]), chunk.MaxSize)
		}
		for _, codec := range []byte{2, 0x80, 0xff} {
			corrupt(t, d, fmt.Sprintf("%s with codec %d", name, codec),
				header(codec, uint32(len(raw)), encoded[chunk.EncodedOverhead:]), chunk.MaxSize)
		}
	}
}

// frame compresses in one frame, which names its content size only if sized.
func frame(t *testing.T, raw []byte, sized bool) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	if sized {
		return w.EncodeAll(raw, nil)
	}
	for len(raw) > 0 {
		n := min(len(raw), 1<<20)
		if _, err := w.Write(raw[:n]); err != nil {
			t.Fatal(err)
		}
		raw = raw[n:]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestDecodeBomb feeds what expands to 256 MiB or claims 4 GiB, and counts
// what is allocated.
func TestDecodeBomb(t *testing.T) {
	zeros := make([]byte, 256<<20)
	sized, unsized := frame(t, zeros, true), frame(t, zeros, false)
	small := frame(t, zeros[:1<<20], true)
	window := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 20 << 3, 0x01, 0x00, 0x00} // a window of 1 GiB, an empty block
	for _, c := range []struct {
		name    string
		encoded []byte
		bound   uint64 // bytes
	}{
		{"claims little", header(codecZstd, 1<<20, sized), 4 << 20},
		{"claims little, no content size", header(codecZstd, 1<<20, unsized), 4 << 20},
		{"claims nothing", header(codecZstd, 0, unsized), 1 << 20},
		{"claims the most", header(codecZstd, chunk.MaxSize, unsized), 12 << 20},
		{"claims 256 MiB", header(codecZstd, 256<<20, sized), 1 << 16},
		{"claims 4 GiB", header(codecZstd, 1<<32-1, sized), 1 << 16},
		{"claims 4 GiB raw", header(codecRaw, 1<<32-1, sized), 1 << 16},
		{"many frames", header(codecZstd, 1<<20, bytes.Repeat(small, 256)), 4 << 20},
		{"huge window", header(codecZstd, 0, window), 1 << 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := chunk.NewDecoder()
			defer d.Close()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			corrupt(t, d, c.name, c.encoded, chunk.MaxSize)
			runtime.ReadMemStats(&after)
			if n := after.TotalAlloc - before.TotalAlloc; n > c.bound {
				t.Errorf("%d bytes were allocated", n)
			}
		})
	}
}

func TestDecodeAfterCorrupt(t *testing.T) {
	e, d := chunk.NewEncoder(), chunk.NewDecoder()
	defer d.Close()
	raw := table(50000)
	encoded := e.Encode(nil, raw)
	for n := range 50 {
		bad := bytes.Clone(encoded)
		bad[chunk.EncodedOverhead+n*7] ^= 0xff
		_, _ = d.Decode(nil, bad, chunk.MaxSize) // may yield other bytes: there is no checksum
		got, err := d.Decode(nil, encoded, chunk.MaxSize)
		if err != nil || !bytes.Equal(got, raw) {
			t.Fatalf("a good chunk after a bad one: %v", err)
		}
	}
}

func TestCodecsReuseBuffers(t *testing.T) {
	e, d := chunk.NewEncoder(), chunk.NewDecoder()
	defer d.Close()
	for name, raw := range map[string][]byte{"raw": random(1, 1<<20), "zstd": table(1 << 20)} {
		buf := make([]byte, 0, chunk.MaxEncodedSize(len(raw)))
		encoded := e.Encode(buf, raw)
		if &encoded[0] != &buf[:1][0] {
			t.Errorf("%s: encoded elsewhere although there was room", name)
		}
		out := make([]byte, 0, len(raw))
		decoded, err := d.Decode(out, encoded, len(raw))
		if err != nil {
			t.Fatal(err)
		}
		if &decoded[0] != &out[:1][0] {
			t.Errorf("%s: decoded elsewhere although there was room", name)
		}
	}
}

func FuzzDecode(f *testing.F) {
	const max = 1 << 20
	e, d := chunk.NewEncoder(), chunk.NewDecoder()
	for _, raw := range [][]byte{nil, []byte("x"), table(1000), make([]byte, 10000), random(1, 300)} {
		f.Add(e.Encode(nil, raw))
	}
	f.Add(header(codecZstd, 5, []byte{0x28, 0xb5, 0x2f, 0xfd}))
	f.Add(header(codecZstd, 0, nil))
	f.Add(header(codecRaw, 1<<32-1, []byte("x")))
	f.Fuzz(func(t *testing.T, encoded []byte) {
		raw, err := d.Decode([]byte("p"), encoded, max)
		if err != nil {
			if !errors.Is(err, chunk.ErrCorrupt) || raw != nil {
				t.Fatalf("%d bytes, %v", len(raw), err)
			}
			return
		}
		if raw[0] != 'p' || len(raw)-1 > max || len(raw)-1 != int(binary.BigEndian.Uint32(encoded[1:])) {
			t.Fatalf("%d bytes", len(raw)-1)
		}
		again, err := d.Decode(nil, e.Encode(nil, raw[1:]), max)
		if err != nil || !bytes.Equal(again, raw[1:]) {
			t.Fatalf("another chunk comes back: %v", err)
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	for name, raw := range map[string][]byte{"text": table(1 << 20), "random": random(1, 1<<20)} {
		b.Run(name, func(b *testing.B) {
			e, dst := chunk.NewEncoder(), make([]byte, 0, chunk.MaxEncodedSize(len(raw)))
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			for b.Loop() {
				e.Encode(dst, raw)
			}
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	for name, raw := range map[string][]byte{"text": table(1 << 20), "random": random(1, 1<<20)} {
		b.Run(name, func(b *testing.B) {
			d, dst := chunk.NewDecoder(), make([]byte, 0, chunk.MaxSize)
			defer d.Close()
			encoded := chunk.NewEncoder().Encode(nil, raw)
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := d.Decode(dst, encoded, len(raw)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
