package format_test

import (
	"bytes"
	"slices"

	"embassy/crypto"
	"embassy/embassy/format"
)

// rotations makes kits of version 2: of a root that took the place of others.
func (g *generator) rotations() {
	f := g.file("rotation", "The recovery kit of a root that took the place of others. Argon2id at a low cost.")
	middle := g.root.Succeed()
	root := middle.Succeed()
	ctx := crypto.Context{Type: "earlier roots", Nation: g.nation}
	wrapped, err := crypto.WrapParams{Time: 1, MemoryKiB: 64, Threads: 2}.WrapRoot(root, []byte("passphrase"),
		crypto.Context{Type: "recovery kit", Nation: g.nation})
	if err != nil {
		g.t.Fatal(err)
	}
	earlier, err := root.SealEarlier(ctx)
	if err != nil {
		g.t.Fatal(err)
	}
	kit := format.Kit{
		Version: 2, Nation: g.nation, Created: 1767225600_000000000, Wrapped: wrapped, Earlier: earlier,
		RootSigner: root.Signer().Verifier().Bytes(), RootRecipient: root.Identity().Recipient().Bytes(),
	}
	text, err := kit.Text("Estland")
	if err != nil {
		g.t.Fatal(err)
	}
	f.add("two roots before", "ring", "valid", input{Text: text, Passphrase: "passphrase"})

	edit := func(name, class string, change func(k *format.Kit)) {
		k := kit
		k.Earlier = bytes.Clone(kit.Earlier)
		change(&k)
		f.fault("two roots before", name, class, input{Text: kitText(mustCBOR(k))})
	}
	edit("version 1 with roots before", "malformed", func(k *format.Kit) { k.Version = 1 })
	edit("version 2 without roots before", "malformed", func(k *format.Kit) { k.Earlier = nil })
	edit("version 3", "malformed", func(k *format.Kit) { k.Version = 3 })
	edit("wrong passphrase", "authentication", func(k *format.Kit) { k.Wrapped.Ciphertext = make([]byte, 48) })
	for _, part := range []struct {
		name string
		at   int
	}{{"salt", 0}, {"commitment", 32}, {"roots", 64}, {"tag", len(earlier) - 1}} {
		edit("altered: "+part.name+" of the roots before", "authentication", func(k *format.Kit) { k.Earlier[part.at] ^= 1 })
	}
	edit("roots before are cut", "authentication", func(k *format.Kit) { k.Earlier = k.Earlier[:79] })
	sealed := func(name string, under *crypto.Root, ctx crypto.Context, plain []byte) {
		key := under.Derive("earlier roots", ctx)
		box, err := crypto.SealBox(key, ctx, plain, nil)
		if err != nil {
			g.t.Fatal(err)
		}
		edit(name, "authentication", func(k *format.Kit) { k.Earlier = box })
	}
	both := slices.Concat(middle.Bytes(), g.root.Bytes())
	sealed("roots before under another root", middle, ctx, both)
	other := ctx
	other.Nation[0] ^= 1
	sealed("roots before of another nation", root, other, both)
	other = ctx
	other.Type = "recovery kit"
	sealed("roots before of another type", root, other, both)
	sealed("no root before", root, ctx, nil)
	sealed("a root before of 31 bytes", root, ctx, both[:31])
	sealed("a root and a half", root, ctx, both[:48])
}
