package format

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// armor prints bytes as a block of lines that a person can print, type and
// compare, each behind a sum of its number and text, so that a line typed
// wrong, left out or misplaced is found.
type armor struct {
	what   string // it is, in errors
	block  string // name of the block
	advice string // about a line that is wrong
	digits int    // of a line
	shown  int    // digits of a line that an error shows; 0: not its sum either
	groups int    // digits of a group, between spaces; 0: all
	encode func([]byte) string
	decode func(string) ([]byte, error)
	fold   func(rune) rune // takes one digit for another; nil: none
}

const sumSize = 4 // hexadecimal digits before a line

func (a *armor) begin() string { return "-----BEGIN " + a.block + "-----" }
func (a *armor) end() string   { return "-----END " + a.block + "-----" }

func (a *armor) folded(text string) string {
	if a.fold == nil {
		return text
	}
	return strings.Map(a.fold, text)
}

// print appends the block.
func (a *armor) print(b *strings.Builder, data []byte) {
	b.WriteString(a.begin() + "\n")
	text := a.encode(data)
	for n := 1; text != ""; n++ {
		line, rest := text[:min(a.digits, len(text))], text[min(a.digits, len(text)):]
		b.WriteString(a.lineSum(n, rest == "", line))
		for left := line; left != ""; {
			size := len(left)
			if a.groups > 0 {
				size = min(size, a.groups)
			}
			b.WriteString(" " + left[:size])
			left = left[size:]
		}
		b.WriteString("\n")
		text = rest
	}
	b.WriteString(a.end() + "\n")
}

// lineSum is the start of the SHA-256 of a line, its number from 1, and
// whether it is the last.
func (a *armor) lineSum(n int, last bool, line string) string {
	end := ""
	if last {
		end = "end "
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %s%s", n, end, line))
	return a.folded(hex.EncodeToString(sum[:sumSize/2]))
}

// found reports whether the block begins in the text.
func (a *armor) found(text []byte) bool {
	return strings.Contains(strings.Join(strings.Fields(string(text)), " "), a.begin())
}

// parse reads what print wrote. White space does not matter, nor where lines
// end, nor what stands around the block.
func (a *armor) parse(text []byte) ([]byte, error) {
	before, rest, ok := strings.Cut(strings.Join(strings.Fields(string(text)), " "), a.begin())
	body, _, ok2 := strings.Cut(rest, a.end())
	if !ok || !ok2 {
		return nil, fmt.Errorf("%w: no %s between %q and %q", ErrMalformed, a.what, a.begin(), a.end())
	}
	body = a.folded(strings.ReplaceAll(body, " ", ""))
	var joined strings.Builder
	for n, rest := 1, body; rest != ""; n++ {
		line := rest[:min(sumSize+a.digits, len(rest))]
		if len(line) <= sumSize || line[:sumSize] != a.lineSum(n, line == rest, line[sumSize:]) {
			at := fmt.Sprintf("line %d of the file", lineOf(text, before+a.begin()+body[:len(body)-len(rest)]))
			if a.shown > 0 {
				at += fmt.Sprintf(", at %q", line[:min(sumSize, len(line))]+" "+line[min(sumSize, len(line)):min(sumSize+a.shown, len(line))])
			}
			return nil, fmt.Errorf("%w: %s: %s; %s", ErrMalformed, a.what, a.lineFault(n, line, rest, at), a.advice)
		}
		joined.WriteString(line[sumSize:])
		rest = rest[len(line):]
	}
	return a.data(joined.String())
}

// data decodes the digits of all lines.
func (a *armor) data(digits string) ([]byte, error) {
	raw, err := a.decode(digits)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %v", ErrMalformed, a.what, err)
	}
	if a.encode(raw) != digits {
		return nil, fmt.Errorf("%w: %s: not in its one encoding", ErrMalformed, a.what)
	}
	return raw, nil
}

// lineFault says what is wrong with the nth line of a block, of which rest is
// left, and which stands at that place.
func (a *armor) lineFault(n int, line, rest, at string) string {
	if len(line) > sumSize {
		for m := range 2*n + len(rest)/a.digits { // some lines may be left out
			for _, last := range []bool{false, true} {
				switch {
				case line[:sumSize] != a.lineSum(m+1, last, line[sumSize:]):
				case m+1 == n && last:
					return fmt.Sprintf("%s, is the last one, and more follows", at)
				case m+1 == n:
					return fmt.Sprintf("its end is missing, behind %s", at)
				default:
					return fmt.Sprintf("line %d of its block is missing or out of order: see %s", n, at)
				}
			}
		}
	}
	return at + ", is damaged"
}

// lineOf returns the number of the line of the text in which the character
// stands that follows those of read; white space does not count.
func lineOf(text []byte, read string) int {
	left, line := utf8.RuneCountInString(strings.ReplaceAll(read, " ", "")), 1
	for _, c := range string(text) {
		switch {
		case c == '\n':
			line++
		case unicode.IsSpace(c):
		case left == 0:
			return line
		default:
			left--
		}
	}
	return line
}
