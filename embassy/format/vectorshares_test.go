package format_test

import (
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"embassy/crypto"
	"embassy/embassy/format"
)

const shareDigits = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

func shareBase32(body []byte) string {
	return base32.NewEncoding(shareDigits).WithPadding(base32.NoPadding).EncodeToString(body)
}

// shareOf prints any digits as the block of a share, ungrouped.
func shareOf(digits string) string {
	var b strings.Builder
	b.WriteString("-----BEGIN EMBASSY SHARE-----\n")
	for n := 1; digits != ""; n++ {
		line, end := digits[:min(40, len(digits))], ""
		if digits = digits[len(line):]; digits == "" {
			end = "end "
		}
		b.WriteString(strings.ToUpper(hex.EncodeToString(hashOf(fmt.Appendf(nil, "%d %s%s", n, end, line))[:2])) + " " + line + "\n")
	}
	return b.String() + "-----END EMBASSY SHARE-----\n"
}

func shareBody(body []byte) string { return shareOf(shareBase32(body)) }

// signShare signs a share as a record of any type.
func signShare(s format.Share, typ string, by *crypto.Signer) format.Share {
	s.Signature = nil
	s.Signature = by.Sign(crypto.Context{Type: typ, Nation: s.Nation, Chain: s.Ceremony}, mustCBOR(s))
	return s
}

func (g *generator) shares() {
	f := g.file("share", "Shares of the root in their text form, and their combination.")
	ceremony := g.ceremony(g.t, 3, 5, ceremonyTime)
	text := func(shares ...*format.Share) (all string) {
		for _, s := range shares {
			all += shareText(g.t, s)
		}
		return all
	}
	f.add("with hints", "share", "valid", input{Text: text(ceremony[0])})
	bare := *ceremony[1]
	bare.Hints = nil
	plain := text(&bare)
	f.add("without hints", "share", "valid", input{Text: plain})
	begin, end := shareBlock(plain)
	f.fault("without hints", "as it may be typed", "valid", input{Text: "-----BEGIN EMBASSY SHARE-----\r\n" +
		strings.NewReplacer("0", "o", "1", "i", " ", "").Replace(strings.ToLower(plain[begin:end])) + "-----END EMBASSY SHARE-----"})
	f.fault("without hints", "on one line", "valid", input{Text: strings.Join(strings.Fields(plain), " ")})

	line := strings.Index(plain[begin:], "\n") + 1
	digit := func(at int, digits string) splice {
		if plain[at] == digits[0] {
			return splice{At: at, Cut: 1, Put: hexBytes(digits[1:])}
		}
		return splice{At: at, Cut: 1, Put: hexBytes(digits[:1])}
	}
	f.fault("without hints", "first line damaged", "malformed", input{}, digit(begin+6, "AB"))
	f.fault("without hints", "letter U", "malformed", input{}, digit(begin+6, "UU"))
	f.fault("without hints", "sum of a line damaged", "malformed", input{}, digit(begin+line, "23"))
	f.fault("without hints", "a line is missing", "malformed", input{}, splice{At: begin, Cut: line})
	f.fault("without hints", "two lines swapped", "malformed", input{},
		splice{At: begin, Cut: 2 * line, Put: hexBytes(plain[begin+line:begin+2*line] + plain[begin:begin+line])})
	last := strings.LastIndex(plain[:end-1], "\n") + 1
	f.fault("without hints", "the last line is missing", "malformed", input{}, splice{At: last, Cut: end - last})
	f.fault("without hints", "no end", "malformed", input{}, cut([]byte(plain), end))
	f.fault("without hints", "no begin", "malformed", input{}, splice{Cut: begin - 20})
	body := mustCBOR(bare)
	digits := shareBase32(body)
	spare := string(shareDigits[strings.IndexByte(shareDigits, digits[len(digits)-1])|1]) // the last digit is even
	f.fault("without hints", "bits behind the last byte", "malformed", input{Text: shareOf(digits[:len(digits)-1] + spare)})

	edits := mapEdits(body)
	for _, name := range slices.Sorted(maps.Keys(edits)) {
		f.fault("without hints", name, "malformed", input{Text: shareBody(edits[name])})
	}
	signed := func(name, class string, change func(s *format.Share)) {
		s := bare
		change(&s)
		f.fault("without hints", name, class, input{Text: shareBody(mustCBOR(signShare(s, "share", g.root.Signer())))})
	}
	signed("signed anew", "valid", func(*format.Share) {})
	signed("number 0", "malformed", func(s *format.Share) { s.Number = 0 })
	signed("number beyond the shares", "malformed", func(s *format.Share) { s.Number = 6 })
	signed("quorum of 1", "malformed", func(s *format.Share) { s.Quorum = 1 })
	signed("quorum beyond the shares", "malformed", func(s *format.Share) { s.Quorum = 6 })
	signed("33 shares", "malformed", func(s *format.Share) { s.Of = 33 })
	signed("value of 31 bytes", "malformed", func(s *format.Share) { s.Value = s.Value[:31] })
	signed("value that is no scalar", "malformed", func(s *format.Share) { s.Value = slices.Repeat([]byte{0xff}, 32) })
	signed("sealed root cut", "malformed", func(s *format.Share) { s.Wrapped = s.Wrapped[:111] })
	signed("earlier roots in version 1", "malformed", func(s *format.Share) { s.Earlier = []byte{1} })
	signed("signer of an unknown algorithm", "malformed", func(s *format.Share) { s.RootSigner = append([]byte{0, 2}, s.RootSigner[2:]...) })
	signed("signed by another root than it names", "authentication", func(s *format.Share) { s.RootSigner = g.other.Signer.Verifier().Bytes() })

	altered := func(name string, change func(s *format.Share)) {
		s := bare
		change(&s)
		f.fault("without hints", name, "authentication", input{Text: shareBody(mustCBOR(s))})
	}
	altered("altered value", func(s *format.Share) { s.Value = ceremony[2].Value })
	altered("altered number", func(s *format.Share) { s.Number = 3 })
	altered("altered quorum", func(s *format.Share) { s.Quorum = 2 })
	altered("altered time", func(s *format.Share) { s.Created++ })
	altered("altered sealed root", func(s *format.Share) { s.Wrapped = append([]byte{s.Wrapped[0] ^ 1}, s.Wrapped[1:]...) })
	altered("wrong nation", func(s *format.Share) { s.Nation[0] ^= 1 })
	altered("wrong ceremony", func(s *format.Share) { s.Ceremony[0] ^= 1 })
	altered("not signed", func(s *format.Share) { s.Signature = nil })
	altered("signature cut", func(s *format.Share) { s.Signature = s.Signature[:65] })
	altered("signed by an agent", func(s *format.Share) { *s = signShare(*s, "share", g.agent.Signer) })
	altered("signed as a charter", func(s *format.Share) { *s = signShare(*s, "charter", g.root.Signer()) })
	altered("signed for another ceremony", func(s *format.Share) {
		right := s.Ceremony
		s.Ceremony[0] ^= 1
		*s = signShare(*s, "share", g.root.Signer())
		s.Ceremony = right
	})

	f.add("quorum", "combine", "valid", input{Text: text(ceremony[4], ceremony[0], &bare)})
	f.add("all", "combine", "valid", input{Text: text(ceremony...)})
	few := func(name string, third *format.Share) {
		f.fault("quorum", name, "authentication", input{Text: text(ceremony[4], ceremony[0]) + text(third)})
	}
	f.fault("quorum", "one too few", "authentication", input{Text: text(ceremony[4], ceremony[0])})
	few("one twice", ceremony[0])
	few("one of another ceremony", g.ceremony(g.t, 3, 5, ceremonyTime)[1])
	few("one of another nation", newWorld(g.t, 1).ceremony(g.t, 3, 5, ceremonyTime)[1])
	forged := func(name string, change func(s *format.Share)) {
		var all string
		for _, s := range ceremony[:3] {
			c := *s
			change(&c)
			all += shareBody(mustCBOR(signShare(c, "share", g.root.Signer())))
		}
		f.fault("quorum", name, "authentication", input{Text: all})
	}
	forged("sealed root altered in each", func(s *format.Share) { s.Wrapped = append(slices.Clone(s.Wrapped[:111]), s.Wrapped[111]^1) })
	forged("values of the wrong numbers", func(s *format.Share) { s.Number++ })
	forged("nation altered in each", func(s *format.Share) { s.Nation[0] ^= 1 })
	forged("quorum lowered in each", func(s *format.Share) { s.Quorum, s.Value = 2, ceremony[s.Number%5].Value })
}

func opShare(in input) (any, error) {
	s, err := format.ParseShare([]byte(in.Text))
	if err != nil {
		return nil, err
	}
	fp, err := s.Fingerprint()
	return map[string]any{"share": s, "fingerprint": fp}, err
}

func opCombine(in input) (any, error) {
	var given []format.NamedShare
	for i, part := range format.SplitShares([]byte(in.Text)) {
		given = append(given, format.NameShare(fmt.Sprint(i), part))
	}
	c, err := format.Combine(given)
	if err != nil {
		return nil, err
	}
	return map[string]any{"nation": c.Nation, "root": c.Root.Bytes(), "hints": c.Hints}, nil
}
