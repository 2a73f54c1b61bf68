package format_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/cryptotest"

	"embassy/chunk"
	"embassy/crypto"
	"embassy/embassy/format"
)

// generator makes the vectors of one world.
type generator struct {
	*world
	t     testing.TB
	files map[string]*vectorFile
}

func makeVectors(t *testing.T) map[string]*vectorFile {
	g := &generator{newWorld(t, 0), t, map[string]*vectorFile{}}
	g.keys()
	g.charter()
	g.ledger()
	g.packs()
	g.snapshots()
	g.trees()
	g.kits()
	g.chunks()
	g.shares() // the randomness of those above does not move
	g.audits()
	// From here on, each begins its own stream: what comes after it does not change when it grows.
	cryptotest.SetGlobalRandom(t, 2)
	g.refusals()
	cryptotest.SetGlobalRandom(t, 3)
	g.grants()
	g.readerKeys()
	cryptotest.SetGlobalRandom(t, 3)
	g.rule()
	cryptotest.SetGlobalRandom(t, 4)
	g.rotations()
	g.orders()
	g.checkpoints()
	cryptotest.SetGlobalRandom(t, 5)
	g.destruction()
	return g.files
}

func (g *generator) file(name, about string) *vectorFile {
	f := &vectorFile{About: about}
	g.files[name] = f
	return f
}

func (f *vectorFile) add(name, op, class string, in input) {
	raw, err := json.Marshal(in)
	if err != nil {
		panic(err)
	}
	f.Vectors = append(f.Vectors, vector{Name: name, Op: op, Class: class, In: raw})
}

// fault adds a vector that differs from another in one thing.
func (f *vectorFile) fault(from, name, class string, in input, splices ...splice) {
	i := slices.IndexFunc(f.Vectors, func(v vector) bool { return v.Name == from })
	if i < 0 {
		panic("no vector " + from)
	}
	f.add(name, f.Vectors[i].Op, class, in)
	v := &f.Vectors[len(f.Vectors)-1]
	v.From, v.Splice = from, splices
	if string(v.In) == "{}" {
		v.In = nil
	}
}

// flip changes one byte of an object.
func flip(object []byte, at int) splice { return splice{At: at, Cut: 1, Put: hexBytes{object[at] ^ 1}} }

// cut ends an object at a border.
func cut(object []byte, at int) splice { return splice{At: at, Cut: len(object) - at} }

func (g *generator) keys() {
	f := g.file("keys", "The root, and what is derived from it. Keys in hexadecimal.")
	f.add("first epoch", "derive", "valid", input{Root: g.root.Bytes(), Name: "official", Epoch: 1})
	f.add("second epoch", "derive", "valid", input{Root: g.root.Bytes(), Name: "official", Epoch: 2})
	f.add("other compartment", "derive", "valid", input{Root: g.root.Bytes(), Name: "secret", Epoch: 1})
	scope := input{
		Nation: g.nation[:], Compartment: g.comp[:], Agent: g.scope.Agent[:], Chain: g.scope.Chain[:], Epoch: 1, Name: "session key",
	}
	f.add("context", "context", "valid", scope)
	f.add("empty context", "context", "valid", input{})
	hash := format.HashOf([]byte("object"))
	name := g.scope.Chain.String() + "/" + fmt.Sprintf("%016x-%s", 258, hash)
	scope.Object, scope.Seq, scope.Name = []byte("object"), 258, name
	f.add("object names", "names", "valid", scope)
	for what, s := range map[string]splice{
		"upper case": {At: 40, Cut: 1, Put: hexBytes("A")}, "short number": {At: 33, Cut: 1},
		"no slash": {At: 32, Cut: 1, Put: hexBytes("-")}, "short hash": {At: len(name) - 1, Cut: 1},
		"more behind": {At: len(name), Put: hexBytes("0")}, "no hyphen": {At: 49, Cut: 1, Put: hexBytes("/")},
	} {
		bad := name[:s.At] + string(s.Put) + name[s.At+s.Cut:]
		f.fault("object names", "object names: "+what, "malformed", input{Name: bad})
	}
	f.add("size classes", "classes", "valid", input{Count: 65})
	f.sort("object names: ")
}

// sort puts what came from a map in order.
func (f *vectorFile) sort(prefix string) {
	slices.SortStableFunc(f.Vectors, func(a, b vector) int {
		if bytes.HasPrefix([]byte(a.Name), []byte(prefix)) && bytes.HasPrefix([]byte(b.Name), []byte(prefix)) {
			return bytes.Compare([]byte(a.Name), []byte(b.Name))
		}
		return 0
	})
}

func (g *generator) charter() {
	f := g.file("charter", "Charters and their sealed parts.")
	publicAgent := func(k *crypto.AgentKey) format.CharterAgent {
		return format.CharterAgent{
			ID: k.ID(), Signer: k.Signer.Verifier().Bytes(), Recipient: k.Identity.Recipient().Bytes(),
			Compartments: []format.ID{g.comp}, Status: format.AgentActive,
		}
	}
	part := format.CompartmentPart{
		NationName: "Estland", Name: "official", Classification: "restricted",
		Writers:    []format.EpochSecret{{Epoch: 1, Secret: g.secret.Bytes()}},
		Datasets:   []format.Dataset{{Name: "population", Priority: 1, Agents: []format.ID{g.scope.Agent}}},
		AgentNames: []format.AgentName{{ID: g.scope.Agent, Name: "tallinn-1"}},
	}
	seal := func(kind format.PartKind, to *crypto.Recipient) format.Part {
		p, err := format.SealPart(g.nation, g.comp, 1, kind, to, part)
		if err != nil {
			g.t.Fatal(err)
		}
		return p
	}
	c := format.Charter{
		Nation: g.nation, Seq: 1, Time: 1767225600_000000001,
		RootSigner: g.root.Signer().Verifier().Bytes(), RootRecipient: g.root.Identity().Recipient().Bytes(),
		Compartments: []format.CharterCompartment{{
			ID: g.comp, Epoch: 1, Stewards: []format.ID{g.scope.Agent},
			Recipients: []format.RecipientKey{{Epoch: 1, Key: g.reader.Recipient().Bytes()}},
		}},
		Agents: []format.CharterAgent{publicAgent(g.agent)},
		Parts:  []format.Part{seal(format.AgentPart, g.agent.Identity.Recipient()), seal(format.ReaderPart, g.reader.Recipient())},
	}
	sign := func(c format.Charter) []byte {
		object, err := format.SealCharter(c, g.root.Signer())
		if err != nil {
			g.t.Fatal(err)
		}
		return object
	}
	first := sign(c)
	in := input{Object: first, Nation: g.nation[:], Verifier: c.RootSigner}
	f.add("first", "charter", "valid", in)

	second := c
	second.Seq, second.Prev, second.Time, second.Parts = 2, format.HashOf(first), c.Time+1, nil
	revoked := publicAgent(g.other)
	revoked.Status, revoked.Quota = format.AgentRevoked, 1<<40
	revoked.After = []format.Head{{Chain: g.scope.Chain, Seq: 7, Hash: format.HashOf([]byte("7"))}}
	second.Agents = append(slices.Clone(c.Agents), revoked)
	k := c.Compartments[0]
	k.Recipients = append(slices.Clone(k.Recipients), format.RecipientKey{
		Key: g.partner.Recipient().Bytes(), Partner: "ouz3-h46m-3hfz-2kmn-xrio-tkav-wqp6-xdeb",
	})
	k.Shared = true
	second.Compartments = []format.CharterCompartment{k}
	second.Administrators, second.Quorum = [][]byte{g.other.Signer.Verifier().Bytes()}, 1
	in.Object = sign(second)
	f.add("second", "charter", "valid", in)

	body := func(c format.Charter) []byte { c.Version = 1; return mustCBOR(c) }
	small := c
	small.Compartments, small.Agents, small.Parts = nil, nil, nil
	in.Object = sign(small)
	f.add("empty", "charter", "valid", in)
	signed := func(body []byte, signers ...*crypto.Signer) input {
		return input{Object: signedObject("EMBCHAR1", "charter", format.Scope{Nation: g.nation}, body, signers...)}
	}
	faults := mapEdits(body(small))
	for _, name := range slices.Sorted(maps.Keys(faults)) {
		f.fault("empty", name, "malformed", signed(faults[name], g.root.Signer()))
	}
	f.fault("empty", "list as null", "malformed",
		signed(bytes.Replace(body(small), []byte{8, 0x80, 9, 0x80}, []byte{8, 0xf6, 9, 0x80}, 1), g.root.Signer()))
	bad := func(name string, edit func(c *format.Charter)) {
		c := c
		c.Parts = nil
		edit(&c)
		f.fault("first", name, "malformed", signed(body(c), g.root.Signer()))
	}
	bad("number 0", func(c *format.Charter) { c.Seq = 0 })
	bad("first with a previous", func(c *format.Charter) { c.Prev = format.HashOf(nil) })
	bad("second without a previous", func(c *format.Charter) { c.Seq = 2 })
	bad("compartment without recipients", func(c *format.Charter) {
		c.Compartments = []format.CharterCompartment{{ID: g.comp, Epoch: 1}}
	})
	bad("compartment of epoch 0", func(c *format.Charter) {
		c.Compartments = slices.Clone(c.Compartments)
		c.Compartments[0].Epoch = 0
	})
	bad("agent under another's id", func(c *format.Charter) {
		c.Agents = slices.Clone(c.Agents)
		c.Agents[0].ID[0] ^= 1
	})
	bad("agent of status 4", func(c *format.Charter) {
		c.Agents = slices.Clone(c.Agents)
		c.Agents[0].Status = 4
	})
	bad("nation inside is another", func(c *format.Charter) { c.Nation[0] ^= 1 })
	for _, at := range []int{0, 7, 8, 20, len(first) - 1} {
		f.fault("first", fmt.Sprintf("cut to %d bytes", at), "malformed", input{}, cut(first, at))
	}
	f.fault("first", "byte behind", "malformed", input{}, splice{At: len(first), Put: hexBytes{0}})
	f.fault("first", "magic of an entry", "malformed", input{}, splice{Cut: 8, Put: hexBytes("EMBLEDG1")})
	f.fault("first", "altered field", "authentication", input{}, flip(first, 100))
	f.fault("first", "altered signature", "authentication", input{}, flip(first, len(first)-1))
	f.fault("first", "wrong nation", "authentication", input{Nation: g.comp[:]})
	f.fault("first", "another root", "authentication", input{Verifier: g.other.Signer.Verifier().Bytes()})
	f.fault("first", "signed by an agent", "authentication", signed(body(c), g.agent.Signer))
	f.fault("first", "signed twice", "authentication", signed(body(c), g.root.Signer(), g.agent.Signer))
	f.fault("first", "not signed", "malformed", signed(body(c)))
	f.fault("first", "signed as an entry", "authentication",
		input{Object: signedObject("EMBCHAR1", "ledger entry", format.Scope{Nation: g.nation}, body(c), g.root.Signer())})

	p := input{Object: first, Nation: in.Nation, Verifier: in.Verifier, Compartment: g.comp[:], Kind: 1,
		Identities: []hexBytes{g.agent.Identity.Bytes()}}
	f.add("part for an agent", "part", "valid", p)
	p.Kind, p.Identities = 2, []hexBytes{g.reader.Bytes()}
	f.add("part for a reader", "part", "valid", p)
	part1 := func(name, class string, edit func(p *format.Part)) {
		c := small
		p := seal(format.AgentPart, g.agent.Identity.Recipient())
		edit(&p)
		c.Parts = []format.Part{p}
		f.fault("part for an agent", name, class, input{Object: sign(c)})
	}
	f.fault("part for an agent", "part: another agent", "authentication", input{Identities: []hexBytes{g.other.Identity.Bytes()}})
	f.fault("part for an agent", "part: wrong compartment", "authentication", input{Compartment: g.nation[:]})
	part1("part: wrong epoch", "authentication", func(p *format.Part) { p.Epoch = 2 })
	part1("part: of another kind", "authentication", func(p *format.Part) {
		*p = seal(format.ReaderPart, g.agent.Identity.Recipient())
		p.Kind = format.AgentPart
	})
	part1("part: altered", "authentication", func(p *format.Part) { p.Box[1200] ^= 1 })
	part1("part: cut", "authentication", func(p *format.Part) { p.Box = p.Box[:1000] })
	reseal := func(name string, plain []byte) {
		part1(name, "malformed", func(p *format.Part) {
			ctx := ctxOf("charter part", format.Scope{Nation: g.nation, Compartment: g.comp, Chain: format.ID{15: 1}}, 1)
			var err error
			if p.Box, err = g.agent.Identity.Recipient().Seal(ctx, plain); err != nil {
				g.t.Fatal(err)
			}
		})
	}
	reseal("part: padding not zero", append(padTo(mustCBOR(part), crypto.RecipientOverhead), 1))
	reseal("part: length beyond its end", slices.Concat([]byte{0xff, 0xff, 0xff, 0xff}, mustCBOR(part)))
	reseal("part: unknown key", padTo(append([]byte{mustCBOR(part)[0] + 1}, append(mustCBOR(part)[1:], 0x18, 0x63, 1)...), 1136))
}

func (g *generator) ledger() {
	f := g.file("ledger", "Ledger entries.")
	hash := func(s string) format.Hash { return format.HashOf([]byte(s)) }
	e := format.Entry{
		Nation: g.nation, Compartment: g.comp, Agent: g.scope.Agent, Chain: g.scope.Chain, Seq: 1, Time: 1767225600_000000001,
		Adds: []format.Listed{
			{Kind: format.KindPack, Hash: hash("pack"), Size: 32 << 20}, {Kind: format.KindIndex, Hash: hash("index"), Size: 4096},
			{Kind: format.KindSnapshot, Hash: hash("snapshot"), Size: 8192}, {Kind: format.KindRecord, Hash: hash("record"), Size: 1},
		},
		Snapshots: []format.Hash{hash("snapshot")},
	}
	sign := func(e format.Entry) []byte {
		object, err := format.SealEntry(e, g.agent.Signer)
		if err != nil {
			g.t.Fatal(err)
		}
		return object
	}
	in := input{
		Nation: g.nation[:], Compartment: g.comp[:], Agent: g.scope.Agent[:], Chain: g.scope.Chain[:], Seq: 1,
		Verifier: g.agent.Signer.Verifier().Bytes(), Object: sign(e),
	}
	first := in.Object
	f.add("first", "entry", "valid", in)
	later := format.Entry{
		Nation: e.Nation, Compartment: e.Compartment, Agent: e.Agent, Chain: e.Chain, Seq: 2, Prev: format.HashOf(first), Time: -1,
		Depends:   []format.Head{{Chain: format.ID{1}, Seq: 9, Hash: hash("9")}},
		Steward:   []format.Head{{Chain: format.ID{2}, Seq: 3, Hash: hash("3")}},
		Confirmed: []format.Confirmation{{Target: g.writer.TargetName("tallinn"), Seq: 1}, {Target: [8]byte{1}}},
		Adds:      []format.Listed{{Kind: format.KindRecord, Hash: hash("order"), Size: 100}},
		Orders:    []format.Ordered{{Kind: format.OrderMark, Record: hash("order")}},
	}
	in.Seq, in.Object = 2, sign(later)
	f.add("later", "entry", "valid", in)
	next := e
	next.Continues, next.Adds, next.Snapshots = []format.Head{{Chain: format.ID{3}, Seq: 5, Hash: hash("5")}}, nil, nil
	in.Seq, in.Object = 1, sign(next)
	f.add("first of a chain that continues another", "entry", "valid", in)

	signed := func(e format.Entry, edit func(body []byte) []byte) input {
		e.Version = 1
		return input{Object: signedObject("EMBLEDG1", "ledger entry", entryScope(e), edit(mustCBOR(e)), g.agent.Signer)}
	}
	same := func(b []byte) []byte { return b }
	names := slices.Sorted(maps.Keys(mapEdits([]byte{0xa0, 1, 1})))
	for _, name := range names {
		f.fault("first", name, "malformed", signed(e, func(b []byte) []byte { return mapEdits(b)[name] }))
	}
	f.fault("first", "empty list written out", "malformed", signed(e, func(b []byte) []byte {
		return append([]byte{b[0] + 1}, append(b[1:], 0x0f, 0x80)...)
	}))
	f.fault("first", "list as null", "malformed", signed(e, func(b []byte) []byte {
		return append([]byte{b[0] + 1}, append(b[1:], 0x0f, 0xf6)...)
	}))
	f.fault("first", "list of 2^32 objects", "malformed", signed(e, func(b []byte) []byte {
		return append([]byte{b[0] + 1}, append(b[1:], 0x0f, 0x9b, 0, 0, 0, 1, 0, 0, 0, 0)...)
	}))
	f.fault("first", "id of 15 bytes", "malformed", signed(e, func(b []byte) []byte {
		return bytes.Replace(b, append([]byte{0x50}, e.Nation[:]...), append([]byte{0x4f}, e.Nation[:15]...), 1)
	}))
	f.fault("first", "id of 17 bytes", "malformed", signed(e, func(b []byte) []byte {
		return bytes.Replace(b, append([]byte{0x50}, e.Nation[:]...), append([]byte{0x51}, append(e.Nation[:], 0)...), 1)
	}))
	bad := func(name string, edit func(e *format.Entry)) {
		e := e
		e.Adds = slices.Clone(e.Adds)
		edit(&e)
		f.fault("first", name, "malformed", signed(e, same))
	}
	bad("another number", func(e *format.Entry) { e.Seq, e.Prev = 2, hash("1") })
	bad("first with a previous", func(e *format.Entry) { e.Prev = hash("0") })
	bad("object of an unknown kind", func(e *format.Entry) { e.Adds[0].Kind = 6 })
	bad("object of no bytes", func(e *format.Entry) { e.Adds[0].Size = 0 })
	bad("pack beyond its bound", func(e *format.Entry) { e.Adds[0].Size = 64<<20 + 1 })
	bad("index beyond its bound", func(e *format.Entry) { e.Adds[1].Size = 32<<20 + 1 })
	bad("snapshot beyond its bound", func(e *format.Entry) { e.Adds[2].Size = 16<<20 + 1 })
	l := later
	l.Prev = format.Hash{}
	f.fault("later", "later without a previous", "malformed", signed(l, same))
	l = later
	l.Continues = next.Continues
	f.fault("later", "later that continues another chain", "malformed", signed(l, same))
	f.fault("later", "offered under another number", "malformed", input{Seq: 3})

	for _, at := range []int{0, 7, 8, 12, len(first) - 67, len(first) - 1} {
		f.fault("first", fmt.Sprintf("cut to %d bytes", at), "malformed", input{}, cut(first, at))
	}
	f.fault("first", "byte behind", "malformed", input{}, splice{At: len(first), Put: hexBytes{0}})
	f.fault("first", "magic of a charter", "malformed", input{}, splice{Cut: 8, Put: hexBytes("EMBCHAR1")})
	f.fault("first", "wrong nation", "authentication", input{Nation: g.comp[:]})
	f.fault("first", "wrong compartment", "authentication", input{Compartment: g.nation[:]})
	f.fault("first", "wrong agent", "authentication", input{Agent: g.nation[:]})
	f.fault("first", "wrong chain", "authentication", input{Chain: g.nation[:]})
	f.fault("first", "another agent's key", "authentication", input{Verifier: g.other.Signer.Verifier().Bytes()})
	f.fault("first", "altered field", "authentication", input{}, flip(first, 40))
	f.fault("first", "altered signature", "authentication", input{}, flip(first, len(first)-1))
	f.fault("first", "altered algorithm of the signature", "authentication", input{}, flip(first, len(first)-65))
	b := e
	b.Version = 1
	object := func(typ string, signers ...*crypto.Signer) input {
		return input{Object: signedObject("EMBLEDG1", typ, entryScope(b), mustCBOR(b), signers...)}
	}
	f.fault("first", "signed by another agent", "authentication", object("ledger entry", g.other.Signer))
	f.fault("first", "a second signature", "authentication", object("ledger entry", g.agent.Signer, g.other.Signer))
	f.fault("first", "its signature twice", "authentication", object("ledger entry", g.agent.Signer, g.agent.Signer))
	f.fault("first", "signed as a charter", "authentication", object("charter", g.agent.Signer))
	f.fault("first", "not signed", "malformed", object("ledger entry"))
}

func entryScope(e format.Entry) format.Scope {
	return format.Scope{Nation: e.Nation, Compartment: e.Compartment, Agent: e.Agent, Chain: e.Chain}
}

func (g *generator) chunks() {
	f := g.file("chunks", "Encoded chunks, and cut points.")
	raw := bytes.Repeat([]byte("a line of a table\n"), 40)
	zstd := chunk.NewEncoder().Encode(nil, raw)
	plain := slices.Concat([]byte{0}, u32(5), []byte("plain"))
	f.add("raw", "chunk", "valid", input{Object: plain, Limit: 5})
	f.add("zstd", "chunk", "valid", input{Object: zstd, Limit: len(raw)})
	f.add("empty", "chunk", "valid", input{Object: make([]byte, 5)})
	f.fault("raw", "raw: beyond the bound", "malformed", input{Limit: 4})
	f.fault("raw", "raw: shorter than it says", "malformed", input{}, cut(plain, 9))
	f.fault("raw", "raw: longer than it says", "malformed", input{}, splice{At: 10, Put: hexBytes{0}})
	f.fault("raw", "codec 2", "malformed", input{}, splice{Cut: 1, Put: hexBytes{2}})
	f.fault("raw", "four bytes", "malformed", input{}, cut(plain, 4))
	f.fault("raw", "raw as zstd", "malformed", input{}, splice{Cut: 1, Put: hexBytes{1}})
	f.fault("zstd", "zstd: beyond the bound", "malformed", input{Limit: len(raw) - 1})
	f.fault("zstd", "zstd: cut", "malformed", input{}, cut(zstd, len(zstd)-1))
	f.fault("zstd", "zstd: gives more than it says", "malformed", input{}, splice{At: 1, Cut: 4, Put: u32(len(raw) - 1)})
	f.fault("zstd", "zstd: gives less than it says", "malformed", input{Limit: 1 << 20}, splice{At: 1, Cut: 4, Put: u32(len(raw) + 1)})
	in := input{Nation: g.nation[:], Compartment: g.comp[:], Epoch: 1, Writer: g.secret.Bytes()}
	for _, n := range []int{1, chunk.MinSize, 12 << 20} {
		in.Count = n
		f.add(fmt.Sprintf("cuts of %d bytes", n), "cuts", "valid", in)
	}
}

// dataChunk is a chunk that is not compressed.
func (w *world) dataChunk(kind byte, plain []byte) rawChunk {
	return rawChunk{kind, w.writer.Hasher().ID(plain), slices.Concat([]byte{0}, u32(len(plain)), plain), len(plain)}
}

// noise is n bytes that do not compress.
func noise(n int, seed byte) []byte {
	var b []byte
	for i := 0; len(b) < n; i++ {
		sum := sha256.Sum256([]byte{seed, byte(i), byte(i >> 8), byte(i >> 16)})
		b = append(b, sum[:]...)
	}
	return b[:n]
}
