package format_test

import (
	"bytes"
	"slices"

	"embassy/crypto"
	"embassy/embassy/format"
)

// rule makes the vectors of charters of version 2, and of requests.
func (g *generator) rule() {
	f := g.file("rule", "Charters of administrators, and after rotations of the root; requests of agents.")
	var admins []*crypto.Signer
	for i := range byte(3) {
		admins = append(admins, crypto.DeriveSigner(secretOf(0xd0+i)))
	}
	slices.SortFunc(admins, func(a, b *crypto.Signer) int {
		x, y := a.Verifier().ID(), b.Verifier().ID()
		return slices.Compare(x[:], y[:])
	})
	agent := func(k *crypto.AgentKey, status format.AgentStatus) format.CharterAgent {
		return format.CharterAgent{
			ID: k.ID(), Signer: k.Signer.Verifier().Bytes(), Recipient: k.Identity.Recipient().Bytes(),
			Compartments: []format.ID{g.comp}, Status: status,
		}
	}
	base := format.Charter{
		Nation: g.nation, Seq: 2, Prev: format.HashOf([]byte("charter 1")), Time: 1767225600_000000002,
		RootSigner: g.root.Signer().Verifier().Bytes(), RootRecipient: g.root.Identity().Recipient().Bytes(),
		Compartments: []format.CharterCompartment{{
			ID: g.comp, Epoch: 1, Recipients: []format.RecipientKey{{Epoch: 1, Key: g.reader.Recipient().Bytes()}},
		}},
		Agents: []format.CharterAgent{agent(g.agent, format.AgentActive), agent(g.other, format.AgentRevoked)},
		Quorum: 2,
	}
	for _, a := range admins {
		base.Administrators = append(base.Administrators, a.Verifier().Bytes())
	}
	sign := func(c format.Charter, signers ...*crypto.Signer) []byte {
		object, err := format.SealCharter(c, signers...)
		if err != nil {
			g.t.Fatal(err)
		}
		return object
	}
	signed := func(c format.Charter, signers ...*crypto.Signer) input {
		c.Version = 2
		return input{Object: signedObject("EMBCHAR1", "charter", format.Scope{Nation: g.nation}, mustCBOR(c), signers...)}
	}
	rooted := sign(base, g.root.Signer())
	next := base
	next.Seq, next.Prev, next.Time, next.Base = 3, format.HashOf(rooted), base.Time+1, rooted
	next.Agents = slices.Clone(base.Agents)
	next.Agents[0].Status, next.Agents[0].Quota = format.AgentSuspended, 1<<40
	in := input{Nation: g.nation[:], Verifier: base.RootSigner}
	in.Object = rooted
	f.add("of the root, with administrators", "charter", "valid", in)
	in.Object = sign(next, admins[:2]...)
	byTwo := in.Object
	const ofTwo = "of two administrators"
	f.add(ofTwo, "charter", "valid", in)
	in.Object = sign(next, admins[1:]...)
	f.add("of two others", "charter", "valid", in)

	refuse := func(name, class string, signers ...*crypto.Signer) {
		f.fault(ofTwo, name, class, signed(next, signers...))
	}
	refuse("too few signatures", "authentication", admins[0])
	refuse("too many signatures", "authentication", admins...)
	refuse("signatures not in order", "authentication", admins[1], admins[0])
	refuse("one signature twice", "authentication", admins[0], admins[0])
	refuse("an unknown administrator", "authentication", sorted(admins[0], g.other.Signer)...)
	refuse("the root beside an administrator", "authentication", sorted(admins[0], g.root.Signer())...)
	refuse("the root alone", "authentication", g.root.Signer())
	refuse("no signature", "malformed")
	f.fault(ofTwo, "altered agent", "authentication", input{}, flip(byTwo, len(byTwo)-300))
	f.fault(ofTwo, "altered signature", "authentication", input{}, flip(byTwo, len(byTwo)-1))
	f.fault(ofTwo, "wrong nation", "authentication", input{Nation: g.comp[:]})
	f.fault(ofTwo, "another root", "authentication", input{Verifier: g.other.Signer.Verifier().Bytes()})
	bad := func(name, class string, edit func(c *format.Charter)) {
		c := next
		c.Agents, c.Compartments = slices.Clone(next.Agents), slices.Clone(next.Compartments)
		edit(&c)
		f.fault(ofTwo, name, class, signed(c, admins[:2]...))
	}
	bad("changed compartment", "malformed", func(c *format.Charter) { c.Compartments[0].Epoch = 2 })
	bad("another quorum", "malformed", func(c *format.Charter) { c.Quorum = 1 })
	bad("another administrator", "malformed", func(c *format.Charter) {
		c.Administrators = append(slices.Clone(c.Administrators[:2]), g.other.Signer.Verifier().Bytes())
	})
	bad("revoked agent revived", "malformed", func(c *format.Charter) { c.Agents[1].Status = format.AgentActive })
	bad("agent left out", "malformed", func(c *format.Charter) { c.Agents = c.Agents[1:] })
	bad("number of its base", "malformed", func(c *format.Charter) { c.Seq = 2 })
	bad("base of administrators", "malformed", func(c *format.Charter) { c.Seq, c.Base = 4, byTwo })
	bad("base that is cut", "malformed", func(c *format.Charter) { c.Base = rooted[:len(rooted)-1] })
	bad("base of another root", "authentication", func(c *format.Charter) { c.Base = sign(base, g.other.Signer) })
	bad("no base", "authentication", func(c *format.Charter) { c.Base = nil })
	f.fault("of the root, with administrators", "version 2 without its words", "malformed", signed(base, g.root.Signer()))

	g.handovers(f, base)
	g.requests(f)
}

// sorted returns signers in ascending order of their ids.
func sorted(signers ...*crypto.Signer) []*crypto.Signer {
	slices.SortFunc(signers, func(a, b *crypto.Signer) int {
		x, y := a.Verifier().ID(), b.Verifier().ID()
		return slices.Compare(x[:], y[:])
	})
	return signers
}

func (g *generator) handovers(f *vectorFile, c format.Charter) {
	first, second := g.root, g.root.Succeed()
	third := second.Succeed()
	c.Administrators, c.Quorum, c.Agents = nil, 0, nil
	once := c
	if err := once.Succeed(first, second); err != nil {
		g.t.Fatal(err)
	}
	twice := once
	if err := twice.Succeed(second, third); err != nil {
		g.t.Fatal(err)
	}
	sign := func(c format.Charter, by *crypto.Root) input {
		c.Version = 2
		return input{
			Object: signedObject("EMBCHAR1", "charter", format.Scope{Nation: g.nation}, mustCBOR(c), by.Signer()),
			Nation: g.nation[:], Verifier: first.Signer().Verifier().Bytes(),
		}
	}
	f.add("handover", "charter", "valid", sign(once, second))
	f.add("two handovers", "charter", "valid", sign(twice, third))
	in := sign(twice, third)
	in.Verifier = second.Signer().Verifier().Bytes()
	f.add("two handovers, for who trusts the second root", "charter", "valid", in)
	fault := func(name string, by *crypto.Root, edit func(c *format.Charter)) {
		c := twice
		c.Succession = slices.Clone(twice.Succession)
		edit(&c)
		f.fault("two handovers", name, "authentication", input{Object: sign(c, by).Object})
	}
	none := func(*format.Charter) {}
	fault("signed by the first root", first, none)
	fault("signed by the second root", second, none)
	fault("handovers in another order", third, func(c *format.Charter) { slices.Reverse(c.Succession) })
	fault("handover left out", third, func(c *format.Charter) { c.Succession = c.Succession[1:] })
	fault("handover to another root", third, func(c *format.Charter) { c.Succession[0].Signer = third.Signer().Verifier().Bytes() })
	fault("handover: altered earlier roots", third, func(c *format.Charter) {
		c.Succession[0].Earlier = slices.Clone(c.Succession[0].Earlier)
		c.Succession[0].Earlier[40] ^= 1
	})
	fault("handover: altered recipient", third, func(c *format.Charter) {
		c.Succession[1].Recipient = slices.Clone(c.Succession[1].Recipient)
		c.Succession[1].Recipient[9] ^= 1
	})
	fault("handover: signature of the other", third, func(c *format.Charter) { c.Succession[1].Sig = c.Succession[0].Sig })
	fault("root of a handover that is not the last", third, func(c *format.Charter) { c.RootSigner = once.RootSigner })
	f.fault("handover", "handover: wrong nation", "authentication", input{Nation: g.comp[:]})
}

func (g *generator) requests(f *vectorFile) {
	r := format.Request{
		Nation: g.nation, Time: 1767225600_000000003, Name: "tartu-1", Compartments: []string{"official"},
		Datasets: []format.Wish{{Name: "archive", Compartment: "official", Priority: 2}},
	}
	text, err := r.Text(g.agent, "Estland")
	if err != nil {
		g.t.Fatal(err)
	}
	f.add("request", "request", "valid", input{Text: text})
	signed := func(r format.Request, typ string, by *crypto.AgentKey, nation format.ID) input {
		r.Version, r.Signer, r.Recipient = 1, g.agent.Signer.Verifier().Bytes(), g.agent.Identity.Recipient().Bytes()
		scope := format.Scope{Nation: nation, Agent: r.ID()}
		return input{Object: signedObject("EMBAREQ1", typ, scope, mustCBOR(r), by.Signer)}
	}
	raw := func(r format.Request, typ string, by *crypto.AgentKey) input { return signed(r, typ, by, r.Nation) }
	in := raw(r, "agent request", g.agent)
	f.add("request without its text", "request", "valid", in)
	refuse := func(name, class string, in input) { f.fault("request without its text", name, class, in) }
	refuse("request signed by another agent", "authentication", raw(r, "agent request", g.other))
	refuse("request signed as an entry", "authentication", raw(r, "ledger entry", g.agent))
	refuse("request: signed for another nation", "authentication", signed(r, "agent request", g.agent, g.comp))
	f.fault("request without its text", "request: altered field", "authentication", input{}, flip(in.Object, bytes.Index(in.Object, []byte(r.Name))))
	empty := r
	empty.Name = ""
	refuse("request without a name", "malformed", raw(empty, "agent request", g.agent))
	stray := r
	stray.Compartments = []string{"secret"}
	refuse("request for a dataset elsewhere", "malformed", raw(stray, "agent request", g.agent))
	f.fault("request without its text", "request: altered signature", "authentication", input{}, flip(in.Object, len(in.Object)-1))
	f.fault("request without its text", "request: cut", "malformed", input{}, cut(in.Object, len(in.Object)-1))
}
