package format_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"

	"embassy/crypto"
	"embassy/embassy/format"
)

// opGrant opens the root of a snapshot with the key that a grant has for it.
func opGrant(in input) (any, error) {
	g, err := format.OpenGrant(in.Object, id16(in.Nation), id16(in.Compartment))
	if err != nil {
		return nil, err
	}
	r, err := in.reader()
	if err != nil {
		return nil, err
	}
	r.Grant(g)
	s, err := format.ParseSnapshot(in.Snapshot)
	if err != nil {
		return nil, err
	}
	root, err := s.Root(r)
	return map[string]any{"grant": g, "root": root}, err
}

func opReaderKey(in input) (any, error) {
	k, err := format.ParseReaderKey([]byte(in.Text))
	if err != nil {
		return nil, err
	}
	return *k, nil
}

func opPartnerKey(in input) (any, error) {
	k, err := format.ParsePartnerKey([]byte(in.Text))
	if err != nil {
		return nil, err
	}
	fp, err := k.Fingerprint()
	return map[string]any{"key": k, "fingerprint": fp}, err
}

// blockText prints a block of base64 lines, with sums.
func blockText(block string, body []byte) string {
	var b strings.Builder
	fmt.Fprintf(&b, "-----BEGIN %s-----\n", block)
	text := base64.StdEncoding.EncodeToString(body)
	for n := 1; text != ""; n++ {
		line := text[:min(60, len(text))]
		text = text[len(line):]
		end := ""
		if text == "" {
			end = "end "
		}
		fmt.Fprintf(&b, "%x %s\n", hashOf(fmt.Appendf(nil, "%d %s%s", n, end, line))[:2], line)
	}
	fmt.Fprintf(&b, "-----END %s-----\n", block)
	return b.String()
}

// alone is a session that is sealed to the nation's own reader only.
func (g *generator) alone() (*format.Session, []byte) {
	s, err := format.NewSession(g.scope, []format.Recipient{{Epoch: 1, Key: g.reader.Recipient()}})
	if err != nil {
		g.t.Fatal(err)
	}
	object, err := format.SealSnapshot(s, g.writer, format.Summary{Dataset: "population"}, format.Root{Host: "tallinn-1"})
	if err != nil {
		g.t.Fatal(err)
	}
	return s, object
}

func (g *generator) grants() {
	f := g.file("grant", "Grant records: session keys of the past for a partner nation.")
	session, object := g.alone()
	key, err := g.reader.Open(ctxOf("session key", g.scope, 1), session.Keys[0].Sealed[:])
	if err != nil {
		g.t.Fatal(err)
	}
	seal := func(key []byte, to *crypto.Identity, ctx crypto.Context) []byte {
		b, err := to.Recipient().Seal(ctx, key)
		if err != nil {
			g.t.Fatal(err)
		}
		return b
	}
	was := format.HashOf(session.Keys[0].Sealed[:])
	right := format.GrantedKey{Was: was, Sealed: seal(key, g.partner, ctxOf("session key", g.scope, 0))}
	grant := format.Grant{
		Version: 1, Nation: g.nation, Compartment: g.comp, To: g.partner.Recipient().ID(), Keys: []format.GrantedKey{right},
	}
	record := func(body []byte) []byte { return append([]byte("EMBGRNT1"), body...) }
	first := record(mustCBOR(grant))
	f.add("one key", "grant", "valid", input{
		Object: first, Nation: g.nation[:], Compartment: g.comp[:], Identities: []hexBytes{g.partner.Bytes()}, Snapshot: object,
	})
	change := func(name, class string, edit func(g *format.Grant)) {
		c := grant
		c.Keys = slices.Clone(c.Keys)
		edit(&c)
		f.fault("one key", name, class, input{Object: record(mustCBOR(c))})
	}
	other := seal(make([]byte, 32), g.partner, ctxOf("session key", g.scope, 0))
	change("a wrong key before the right one", "valid", func(g *format.Grant) {
		g.Keys = []format.GrantedKey{{Was: was, Sealed: other}, right}
	})
	f.fault("one key", "not needed by the nation's own reader", "valid", input{Identities: []hexBytes{g.reader.Bytes()}})

	faults := mapEdits(mustCBOR(grant))
	for _, name := range slices.Sorted(maps.Keys(faults)) {
		f.fault("one key", name, "malformed", input{Object: record(faults[name])})
	}
	for _, at := range []int{0, 7, 8, 60, len(first) - 1} {
		f.fault("one key", fmt.Sprintf("cut to %d bytes", at), "malformed", input{}, cut(first, at))
	}
	f.fault("one key", "magic of a charter", "malformed", input{}, splice{Cut: 8, Put: hexBytes("EMBCHAR1")})
	f.fault("one key", "wrong nation", "malformed", input{Nation: g.comp[:]})
	f.fault("one key", "wrong compartment", "malformed", input{Compartment: g.nation[:]})
	change("no key", "malformed", func(g *format.Grant) { g.Keys = nil })
	change("key of 1167 bytes", "malformed", func(g *format.Grant) { g.Keys[0].Sealed = right.Sealed[1:] })

	f.fault("one key", "another partner", "authentication", input{Identities: []hexBytes{g.other.Identity.Bytes()}})
	f.fault("one key", "altered key", "authentication", input{}, flip(first, len(first)-1))
	change("recipient swapped", "authentication", func(c *format.Grant) { c.To = g.other.Identity.Recipient().ID() })
	change("of another session", "authentication", func(g *format.Grant) { g.Keys[0].Was[0] ^= 1 })
	change("another session's key", "authentication", func(g *format.Grant) { g.Keys[0].Sealed = other })
	sealed := func(name string, ctx crypto.Context) {
		change("sealed for "+name, "authentication", func(c *format.Grant) { c.Keys[0].Sealed = seal(key, g.partner, ctx) })
	}
	sealed("a reader epoch", ctxOf("session key", g.scope, 1))
	sealed("another type", ctxOf("charter part", g.scope, 0))
	for _, name := range []string{"nation", "compartment", "agent", "chain"} {
		s := g.scope
		id := map[string]*format.ID{"nation": &s.Nation, "compartment": &s.Compartment, "agent": &s.Agent, "chain": &s.Chain}[name]
		id[0] ^= 1
		sealed("another "+name, ctxOf("session key", s, 0))
	}
}

func (g *generator) readerKeys() {
	f := g.file("readerkey", "Reader keys and partner keys in their text forms.")
	key := format.ReaderKey{
		Version: 1, Nation: g.nation, RootSigner: g.root.Signer().Verifier().Bytes(), Compartment: g.comp,
		Identities: []format.ReaderIdentity{{Epoch: 1, Key: g.reader.Bytes()}},
		Part: format.CompartmentPart{
			NationName: "Estland", Name: "official", Writers: []format.EpochSecret{{Epoch: 1, Secret: g.secret.Bytes()}},
			Datasets: []format.Dataset{{Name: "population", Priority: 1, Agents: []format.ID{g.scope.Agent}}},
		},
	}
	text, err := key.Text()
	if err != nil {
		g.t.Fatal(err)
	}
	const block = "EMBASSY READER KEY"
	f.add("reader key", "readerkey", "valid", input{Text: text})
	f.fault("reader key", "reader key without prose", "valid", input{Text: blockText(block, mustCBOR(key))})
	f.textFaults("reader key", block, text, mustCBOR(key))
	change := func(name string, edit func(k *format.ReaderKey)) {
		k := key
		k.Identities, k.Part.Writers = slices.Clone(k.Identities), slices.Clone(k.Part.Writers)
		edit(&k)
		f.fault("reader key", "reader key: "+name, "malformed", input{Text: blockText(block, mustCBOR(k))})
	}
	change("no identity", func(k *format.ReaderKey) { k.Identities = nil })
	change("identity of epoch 0", func(k *format.ReaderKey) { k.Identities[0].Epoch = 0 })
	change("identity of 31 bytes", func(k *format.ReaderKey) { k.Identities[0].Key = k.Identities[0].Key[1:] })
	change("signer of 33 bytes", func(k *format.ReaderKey) { k.RootSigner = k.RootSigner[1:] })
	change("no writer secret", func(k *format.ReaderKey) { k.Part.Writers = nil })

	partner := *format.NewPartnerKey(g.nation, g.root)
	if text, err = partner.Text("Estland"); err != nil {
		g.t.Fatal(err)
	}
	const partnerBlock = "EMBASSY PARTNER KEY"
	f.add("partner key", "partnerkey", "valid", input{Text: text})
	f.textFaults("partner key", partnerBlock, text, mustCBOR(partner))
	signed := func(name, class string, sign func(k format.PartnerKey, body []byte) []byte, edit func(k *format.PartnerKey)) {
		k := partner
		edit(&k)
		if k.Sig = nil; sign != nil {
			k.Sig = sign(k, mustCBOR(k))
		} else {
			k.Sig = partner.Sig
		}
		f.fault("partner key", "partner key: "+name, class, input{Text: blockText(partnerBlock, mustCBOR(k))})
	}
	same := func(*format.PartnerKey) {}
	by := func(s *crypto.Signer, typ string) func(format.PartnerKey, []byte) []byte {
		return func(k format.PartnerKey, body []byte) []byte {
			return s.Sign(crypto.Context{Type: typ, Nation: k.Nation}, body)
		}
	}
	root := g.root.Signer()
	signed("signed anew", "valid", by(root, "partner key"), same)
	signed("another nation", "authentication", nil, func(k *format.PartnerKey) { k.Nation[0] ^= 1 })
	signed("recipient swapped", "authentication", nil, func(k *format.PartnerKey) { k.Recipient = g.partner.Recipient().Bytes() })
	signed("another root", "authentication", nil, func(k *format.PartnerKey) { k.Signer = g.other.Signer.Verifier().Bytes() })
	signed("signed by another", "authentication", by(g.other.Signer, "partner key"), same)
	signed("signed as a charter", "authentication", by(root, "charter"), same)
	signed("recipient of 1215 bytes", "malformed", by(root, "partner key"), func(k *format.PartnerKey) { k.Recipient = k.Recipient[1:] })
	signed("version 2", "malformed", by(root, "partner key"), func(k *format.PartnerKey) { k.Version = 2 })
}

// textFaults adds what can be wrong with a block of lines.
func (f *vectorFile) textFaults(from, block, text string, body []byte) {
	begin := strings.Index(text, block+"-----\n") + len(block) + len("-----\n")
	last := strings.Index(text, "-----END")
	damaged := []byte(text[begin+20 : begin+21])
	damaged[0] = map[bool]byte{true: 'B', false: 'A'}[damaged[0] == 'A']
	f.fault(from, from+": a line damaged", "malformed", input{}, splice{At: begin + 20, Cut: 1, Put: damaged})
	f.fault(from, from+": a line is missing", "malformed", input{}, splice{At: begin, Cut: 66})
	f.fault(from, from+": no end", "malformed", input{}, cut([]byte(text), last))
	f.fault(from, from+": block of a kit", "malformed", input{Text: strings.ReplaceAll(text, block, "EMBASSY RECOVERY KIT")})
	for _, name := range []string{"unknown key", "required key missing", "byte behind the map"} {
		f.fault(from, from+": "+name, "malformed", input{Text: blockText(block, mapEdits(bytes.Clone(body))[name])})
	}
}
