package integration_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
)

const (
	windowSize = 16 // bytes
	hexRun     = 32 // hexadecimal digits that hold a window
	base64Run  = 22 // base64 digits that hold a window, at any alignment
)

type window = [windowSize]byte

// scanner looks for texts: for every window of long ones, and for short ones
// as a whole. It finds them as they are, in hexadecimal, and in base64 of both
// alphabets at any alignment.
type scanner struct {
	filter  []uint64 // bits by the first bytes of a window; answers for nearly all
	windows map[window]struct{}
	needles map[string]string // what to find, and what it means
}

func newScanner() *scanner {
	return &scanner{make([]uint64, 1<<20), map[window]struct{}{}, map[string]string{}}
}

func (s *scanner) place(w []byte) (word, bit uint64) {
	h := (binary.LittleEndian.Uint64(w) * 0x9e3779b97f4a7c15) >> 38
	return h / 64, h % 64
}

// addText adds every window of a text.
func (s *scanner) addText(text []byte) {
	for i := 0; i+windowSize <= len(text); i++ {
		word, bit := s.place(text[i:])
		s.filter[word] |= 1 << bit
		s.windows[window(text[i:])] = struct{}{}
	}
}

// addName adds a short text, in all its forms.
func (s *scanner) addName(name string) {
	s.needles[name] = "name " + name
	s.needles[hex.EncodeToString([]byte(name))] = "name in hex " + name
	s.needles[strings.ToUpper(hex.EncodeToString([]byte(name)))] = "name in hex " + name
	for _, alphabet := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for shift := range 3 {
			// Only digits that depend on nothing but the name.
			digits := alphabet.EncodeToString(append(make([]byte, shift), name...))
			s.needles[digits[(8*shift+5)/6:8*(shift+len(name))/6]] = "name in base64 " + name
		}
	}
}

func (s *scanner) has(w []byte) bool {
	word, bit := s.place(w)
	if s.filter[word]>>bit&1 == 0 {
		return false
	}
	_, ok := s.windows[window(w)]
	return ok
}

// search returns what it finds in data, one of each form.
func (s *scanner) search(data []byte) []string {
	found := map[string]string{}
	for i := 0; i+windowSize <= len(data); i++ {
		if s.has(data[i:]) {
			found["plain"] = fmt.Sprintf("plain %q at byte %d", data[i:i+windowSize], i)
		}
	}
	var raw [windowSize + 2]byte
	var padded [base64Run + 2]byte
	hexes, base64s := 0, 0 // digits before and at i
	for i, c := range data {
		if hexes++; !hexDigit(c) {
			hexes = 0
		}
		if hexes >= hexRun {
			if _, err := hex.Decode(raw[:], data[i+1-hexRun:i+1]); err == nil && s.has(raw[:windowSize]) {
				found["hex"] = fmt.Sprintf("hex of %q at byte %d", raw[:windowSize], i+1-hexRun)
			}
		}
		if base64s++; base64Digit(c) == 0 {
			base64s = 0
		}
		for shift := 0; base64s >= base64Run && shift < 3; shift++ {
			digits := padded[:shift+base64Run]
			copy(digits, "AA")
			for j, d := range data[i+1-base64Run : i+1] {
				digits[shift+j] = base64Digit(d)
			}
			if _, err := base64.RawStdEncoding.Decode(raw[:], digits); err == nil && s.has(raw[shift:shift+windowSize]) {
				found["base64"] = fmt.Sprintf("base64 of %q at byte %d", raw[shift:shift+windowSize], i+1-base64Run)
			}
		}
	}
	for needle, meaning := range s.needles {
		if bytes.Contains(data, []byte(needle)) {
			found[meaning] = meaning
		}
	}
	var texts []string
	for _, text := range found {
		texts = append(texts, text)
	}
	slices.Sort(texts)
	return texts
}

func hexDigit(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

// base64Digit returns the digit in the standard alphabet, or 0.
func base64Digit(c byte) byte {
	switch {
	case '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '+', c == '/':
		return c
	case c == '-':
		return '+'
	case c == '_':
		return '/'
	}
	return 0
}

// TestScanner shows that the scanner finds what is there, in every form and at
// every alignment, and nothing else.
func TestScanner(t *testing.T) {
	s := newScanner()
	text := append([]byte("An ordinary sentence that nobody else may read."), noise(3, 100)...)
	s.addText(text)
	s.addName("population-register")
	around := noise(4, 64)
	in := func(b []byte) []byte { return slices.Concat(around, b, around) }
	encodings := map[string]func([]byte) []byte{
		"plain":      func(b []byte) []byte { return b },
		"hex":        func(b []byte) []byte { return []byte(hex.EncodeToString(b)) },
		"upper hex":  func(b []byte) []byte { return []byte(strings.ToUpper(hex.EncodeToString(b))) },
		"base64":     func(b []byte) []byte { return []byte(base64.StdEncoding.EncodeToString(b)) },
		"url base64": func(b []byte) []byte { return []byte(base64.RawURLEncoding.EncodeToString(b)) },
	}
	for form, encode := range encodings {
		for shift := range 3 {
			before := noise(5, shift)
			for at := 0; at+windowSize <= len(text); at++ {
				if found := s.search(in(encode(slices.Concat(before, text[at:at+windowSize])))); len(found) != 1 {
					t.Fatalf("%s, alignment %d, window %d: found %q", form, shift, at, found)
				}
			}
			if found := s.search(in(encode(slices.Concat(before, []byte("population-register"), before)))); len(found) != 1 {
				t.Errorf("%s, alignment %d: a name was found as %q", form, shift, found)
			}
			if found := s.search(in(encode(noise(6, 1000)))); len(found) != 0 {
				t.Errorf("%s: found %q in noise", form, found)
			}
		}
	}
}
