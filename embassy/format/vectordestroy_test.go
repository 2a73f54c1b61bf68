package format_test

import (
	"bytes"
	"slices"

	"embassy/crypto"
	"embassy/embassy/format"
)

// destruction makes what a root is kept in that took the place of others, and does
// not hold a compartment that was destroyed; and a charter that says so.
func (g *generator) destruction() {
	f := g.file("destroy", "A nation of which a compartment was destroyed: kit, share and charter. Argon2id at a low cost.")
	gone, later := format.ID(g.root.CompartmentID("secret")), format.ID(g.root.CompartmentID("later"))
	reduced := g.root.SucceedWith([][16]byte{g.comp, later})
	root := reduced.Succeed()
	ctx := func(typ string) crypto.Context { return crypto.Context{Type: typ, Nation: g.nation} }
	must := func(b []byte, err error) []byte {
		g.t.Helper()
		if err != nil {
			g.t.Fatal(err)
		}
		return b
	}
	kitOf := func(root *crypto.Root, version uint8, earlier, kept []byte) input {
		wrapped, err := crypto.WrapParams{Time: 1, MemoryKiB: 64, Threads: 2}.WrapRoot(root, []byte("passphrase"), ctx("recovery kit"))
		if err != nil {
			g.t.Fatal(err)
		}
		return input{Compartment: g.comp[:], Epoch: 1, Passphrase: "passphrase", Text: kitText(mustCBOR(format.Kit{
			Version: version, Nation: g.nation, Created: 1767225600_000000000, Wrapped: wrapped, Earlier: earlier, Kept: kept,
			RootSigner: root.Signer().Verifier().Bytes(), RootRecipient: root.Identity().Recipient().Bytes(),
		}))}
	}
	kept := must(reduced.SealKept(ctx("kept keys")))
	f.add("kit after a destruction", "ring", "valid", kitOf(reduced, 3, nil, kept))
	f.fault("kit after a destruction", "of the compartment that was destroyed", "valid", input{Compartment: gone[:]})
	both := kitOf(root, 3, must(root.SealEarlier(ctx("earlier roots"))), must(root.SealKept(ctx("kept keys"))))
	f.add("kit after a destruction and a rotation", "ring", "valid", both)

	bad := func(name, class string, in input) {
		f.fault("kit after a destruction", name, class, input{Text: in.Text})
	}
	bad("version 2 with kept keys", "malformed", kitOf(reduced, 2, nil, kept))
	bad("version 3 without kept keys", "malformed", kitOf(reduced, 3, kept, nil))
	bad("kept keys as earlier roots", "authentication", kitOf(reduced, 2, kept, nil))
	for _, part := range []struct {
		name string
		at   int
	}{{"salt", 0}, {"commitment", 32}, {"keys", 64}, {"tag", len(kept) - 1}} {
		box := bytes.Clone(kept)
		box[part.at] ^= 1
		bad("kept keys: altered "+part.name, "authentication", kitOf(reduced, 3, nil, box))
	}
	sealed := func(under *crypto.Root, key, box crypto.Context, plain []byte) input {
		return kitOf(reduced, 3, nil, must(crypto.SealBox(under.Derive("kept keys", key), box, plain, nil)))
	}
	key := ctx("kept keys")
	plain := must(crypto.OpenBox(reduced.Derive("kept keys", key), key, kept, nil))
	other := wrongContexts(key, "")["nation"]
	bad("kept keys: wrong nation", "authentication", sealed(reduced, other, other, plain))
	bad("kept keys: wrong type", "authentication", sealed(reduced, key, ctx("earlier roots"), plain))
	bad("kept keys: swapped recipient", "authentication", sealed(root, key, key, plain))
	const seeds, row = 4 * 32, 16 + 32
	edit := func(name string, plain []byte) {
		bad("kept keys: "+name, "authentication", sealed(reduced, key, key, plain))
	}
	edit("none", nil)
	edit("cut", plain[:len(plain)-1])
	edit("a byte more", append(bytes.Clone(plain), 0))
	edit("a compartment more than there are", slices.Concat(plain[:seeds], []byte{0, 3}, plain[seeds+2:]))
	first, second := plain[seeds+2:seeds+2+row], plain[seeds+2+row:]
	edit("compartments in another order", slices.Concat(plain[:seeds+2], second, first))
	edit("a compartment twice", slices.Concat(plain[:seeds+2], first, first))

	g.keptShares(f, reduced)
	g.tombstones(f, reduced, gone)
}

func (g *generator) keptShares(f *vectorFile, root *crypto.Root) {
	shares, err := format.NewShares(root, g.nation, 2, 3, format.Hints{Time: 5, Charter: 7, Targets: []format.TargetHint{}}, ceremonyTime)
	if err != nil {
		g.t.Fatal(err)
	}
	f.add("share after a destruction", "share", "valid", input{Text: shareText(g.t, shares[0])})
	f.add("shares after a destruction", "combine", "valid", input{Text: shareText(g.t, shares[0]) + shareText(g.t, shares[2])})
	edit := func(name, class string, change func(s *format.Share)) {
		s := *shares[0]
		s.Hints = nil
		change(&s)
		f.fault("share after a destruction", name, class, input{Text: shareBody(mustCBOR(signShare(s, "share", root.Signer())))})
	}
	edit("share of version 2 with kept keys", "malformed", func(s *format.Share) { s.Version = 2 })
	edit("share of version 3 without kept keys", "malformed", func(s *format.Share) { s.Kept = nil })
	s := *shares[0]
	s.Hints, s.Kept = nil, bytes.Clone(s.Kept)
	s.Kept[64] ^= 1
	f.fault("share after a destruction", "share: altered kept keys", "authentication", input{Text: shareBody(mustCBOR(s))})
}

func (g *generator) tombstones(f *vectorFile, next *crypto.Root, gone format.ID) {
	c := format.Charter{
		Version: 2, Nation: g.nation, Seq: 2, Prev: format.HashOf([]byte("1")), Time: 1767225600_000000002,
		Compartments: []format.CharterCompartment{{ID: g.comp, Epoch: 2, Recipients: []format.RecipientKey{
			{Epoch: 2, Key: next.Reader(g.comp, 2).Recipient().Bytes()},
		}}},
		Destroyed: []format.Tombstone{{ID: gone, Time: 1767225600_000000001, Agents: []format.ID{g.agent.ID()}}},
	}
	if err := c.Succeed(g.root, next); err != nil {
		g.t.Fatal(err)
	}
	notice, err := format.SealPart(g.nation, gone, 0, format.NoticePart, g.agent.Identity.Recipient(), format.CompartmentPart{
		NationName: "Estland", Name: "secret", Datasets: []format.Dataset{{Name: "cables"}},
	})
	if err != nil {
		g.t.Fatal(err)
	}
	c.Parts = []format.Part{notice}
	signed := func(c format.Charter, by *crypto.Root) input {
		return input{Object: signedObject("EMBCHAR1", "charter", format.Scope{Nation: g.nation}, mustCBOR(c), by.Signer())}
	}
	in := signed(c, next)
	in.Nation, in.Verifier = g.nation[:], g.root.Signer().Verifier().Bytes()
	f.add("charter with a tombstone", "charter", "valid", in)
	in.Compartment, in.Kind, in.Identities = gone[:], uint8(format.NoticePart), []hexBytes{g.agent.Identity.Bytes()}
	f.add("notice of a destruction", "part", "valid", in)
	f.fault("notice of a destruction", "notice: as a part of an agent", "authentication", input{Kind: uint8(format.AgentPart)})
	f.fault("notice of a destruction", "notice: to somebody else", "authentication", input{Identities: []hexBytes{g.partner.Bytes()}})
	c.Parts = []format.Part{}
	bad := func(name string, edit func(c *format.Charter)) {
		c := c
		c.Destroyed = slices.Clone(c.Destroyed)
		edit(&c)
		f.fault("charter with a tombstone", name, "malformed", signed(c, next))
	}
	bad("a compartment that is there and destroyed", func(c *format.Charter) { c.Destroyed[0].ID = g.comp })
	bad("a compartment that is destroyed twice", func(c *format.Charter) { c.Destroyed = append(c.Destroyed, c.Destroyed[0]) })
	bad("an agent of a compartment that is destroyed", func(c *format.Charter) {
		c.Agents = []format.CharterAgent{{
			ID: g.agent.ID(), Signer: g.agent.Signer.Verifier().Bytes(), Recipient: g.agent.Identity.Recipient().Bytes(),
			Compartments: []format.ID{gone}, Status: format.AgentActive,
		}}
	})
	c.Version, c.Succession, c.RootSigner, c.RootRecipient = 1, nil, g.root.Signer().Verifier().Bytes(), g.root.Identity().Recipient().Bytes()
	f.fault("charter with a tombstone", "version 1 with a tombstone", "malformed", signed(c, g.root))
}
