package format_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"embassy/crypto"
	"embassy/embassy/format"
)

// fault is one way in which a record can be passed off for another.
type fault int

const (
	faultField       fault = iota // an altered field, or byte of the seal
	faultNation                   // made for another nation
	faultCompartment              // made for another compartment
	faultType                     // made as another type of record
	faultEpoch                    // made in another epoch, or for another place in its order
	faultParty                    // sealed to another recipient, or signed by another key
	faultKinds
)

func (f fault) String() string {
	return [...]string{"altered field", "wrong nation", "wrong compartment", "wrong type", "wrong epoch", "swapped recipient or signer"}[f]
}

// refusal is the stored vector that shows a fault, as "file: name", and its
// class. One without a class says why the record cannot have the fault.
type refusal struct{ vector, class string }

const (
	auth      = "authentication"
	malformed = "malformed"
)

// refusals are the vectors that show how each type of record is refused, one
// for every fault, in the order of the faults. What is neither signed nor
// sealed, such as an index, counts only by its hash in a record that is.
var refusals = map[string][faultKinds]refusal{
	"charter": {
		{"charter: altered field", auth}, {"charter: wrong nation", auth}, {"it is of all compartments", ""},
		{"charter: signed as an entry", auth}, {"charter: second without a previous", malformed}, {"charter: another root", auth},
	},
	"charter part": {
		{"charter: part: altered", auth}, {"refusals: part: wrong nation", auth}, {"refusals: part: wrong compartment", auth},
		{"refusals: part: wrong type", auth}, {"charter: part: wrong epoch", auth}, {"refusals: part: swapped recipient", auth},
	},
	"ledger entry": {
		{"ledger: altered field", auth}, {"ledger: wrong nation", auth}, {"ledger: wrong compartment", auth},
		{"ledger: signed as a charter", auth}, {"ledger: offered under another number", malformed}, {"ledger: signed by another agent", auth},
	},
	"pack": {
		{"pack: altered: chunk", auth}, {"refusals: pack: wrong nation", auth}, {"refusals: pack: wrong compartment", auth},
		{"refusals: pack: wrong type", auth}, {"refusals: pack: wrong epoch", auth}, {"pack: wrong reader", auth},
	},
	"pack directory": {
		{"pack: altered: directory", auth}, {"refusals: directory: wrong nation", auth}, {"refusals: directory: wrong compartment", auth},
		{"refusals: directory: wrong type", auth}, {"refusals: directory: wrong epoch", auth}, {"pack: wrong writer secret", auth},
	},
	"session key": {
		{"refusals: session key: altered field", auth}, {"refusals: session key: wrong nation", auth}, {"refusals: session key: wrong compartment", auth},
		{"refusals: session key: wrong type", auth}, {"refusals: session key: wrong epoch", auth}, {"refusals: session key: swapped recipient", auth},
	},
	"snapshot summary": {
		{"snapshot: altered: summary", auth}, {"refusals: summary: wrong nation", auth}, {"refusals: summary: wrong compartment", auth},
		{"refusals: summary: wrong type", auth}, {"refusals: summary: wrong epoch", auth}, {"refusals: summary: wrong writer secret", auth},
	},
	"snapshot root": {
		{"snapshot: altered: root", auth}, {"refusals: root: wrong nation", auth}, {"refusals: root: wrong compartment", auth},
		{"refusals: root: wrong type", auth}, {"refusals: root: wrong epoch", auth}, {"snapshot: wrong reader", auth},
	},
	"recovery kit": {
		{"kit: altered salt", auth}, {"kit: of another nation", auth}, {"it is of all compartments", ""},
		{"refusals: kit: wrong type", auth}, {"a root has no epoch", ""}, {"kit: another root's recipient", auth},
	},
	"recovery hints": {
		{"kit: altered hints", auth}, {"refusals: hints: wrong nation", auth}, {"they are of all compartments", ""},
		{"refusals: hints: wrong type", auth}, {"a root has no epoch", ""}, {"refusals: hints: swapped recipient", auth},
	},
	"handover": {
		{"refusals: handover: altered field", auth}, {"refusals: handover: wrong nation", auth}, {"it is of all compartments", ""},
		{"refusals: handover: wrong type", auth}, {"refusals: handover: from another root", auth}, {"refusals: handover: another signer", auth},
	},
	"earlier roots": {
		{"refusals: earlier roots: altered field", auth}, {"refusals: earlier roots: wrong nation", auth}, {"they are of all compartments", ""},
		{"refusals: earlier roots: wrong type", auth}, {"a root has no epoch", ""}, {"refusals: earlier roots: swapped recipient", auth},
	},
	"kept keys": {
		{"destroy: kept keys: altered keys", auth}, {"destroy: kept keys: wrong nation", auth}, {"see the compartments that they are of", ""},
		{"destroy: kept keys: wrong type", auth}, {"a root has no epoch", ""}, {"destroy: kept keys: swapped recipient", auth},
	},
	"audit record": {
		{"audit: altered field", auth}, {"audit: wrong nation", auth}, {"it names its compartment: see the deed", ""},
		{"audit: signed as an entry", auth}, {"audit: number 0", malformed}, {"audit: signed by another agent", auth},
	},
	"audit deed": {
		{"audit: deed altered", auth}, {"audit: deed of another nation", auth}, {"audit: deed of another compartment", auth},
		{"audit: deed sealed as a summary", auth}, {"audit: deed of another epoch", auth}, {"audit: another writer secret", auth},
	},
	"checkpoint": {
		{"checkpoint: altered field", auth}, {"checkpoint: signed for another nation", auth}, {"checkpoint: signed for another compartment", auth},
		{"checkpoint: signed as an entry", auth}, {"any valid one is right", ""}, {"checkpoint: signed by another agent", auth},
	},
	"share": {
		{"share: altered value", auth}, {"share: wrong nation", auth}, {"it is of all compartments", ""},
		{"share: signed as a charter", auth}, {"share: wrong ceremony", auth}, {"share: signed by an agent", auth},
	},
	"partner key": {
		{"readerkey: partner key: recipient swapped", auth}, {"readerkey: partner key: another nation", auth}, {"it is of all compartments", ""},
		{"readerkey: partner key: signed as a charter", auth}, {"a root has no epoch", ""}, {"readerkey: partner key: signed by another", auth},
	},
	"agent request": {
		{"rule: request: altered field", auth}, {"rule: request: signed for another nation", auth}, {"it is of all compartments", ""},
		{"rule: request signed as an entry", auth}, {"an agent has no epoch", ""}, {"rule: request signed by another agent", auth},
	},
}

// TestEveryFaultHasAVector fails for a type of record, or a fault of one, that
// no stored vector shows. TestVectors shows that each is refused as it says.
func TestEveryFaultHasAVector(t *testing.T) {
	stored := map[string]vector{}
	for name, f := range loadVectors(t) {
		for _, v := range f.Vectors {
			stored[name+": "+v.Name] = v
		}
	}
	types := recordTypes(t)
	for name := range refusals {
		if !slices.Contains(types, name) {
			t.Errorf("package format has no record of type %q", name)
		}
	}
	for _, name := range types {
		for kind, cell := range refusals[name] {
			v, found := stored[cell.vector]
			switch {
			case cell.vector == "":
				t.Errorf("%s: no vector shows %s", name, fault(kind))
			case cell.class == "":
				if found {
					t.Errorf("%s, %s: the vector %q is there", name, fault(kind), cell.vector)
				}
			case !found:
				t.Errorf("%s, %s: there is no vector %q", name, fault(kind), cell.vector)
			case v.Class != cell.class:
				t.Errorf("%s, %s: %q is %s, want %s", name, fault(kind), cell.vector, v.Class, cell.class)
			}
		}
	}
}

// recordTypes are the types that package format binds into seals and
// signatures: the values of its constants named type….
func recordTypes(t *testing.T) (types []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "doc.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok && strings.HasPrefix(spec.Names[0].Name, "type") && len(spec.Values) == 1 {
			value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			types = append(types, value)
		}
		return true
	})
	if len(types) < 10 {
		t.Fatalf("only %q were found", types)
	}
	return types
}

// wrongContexts are what a record of this context is not opened under, by the
// fault that they are.
func wrongContexts(c crypto.Context, otherType string) map[string]crypto.Context {
	nation, compartment, typ, epoch := c, c, c, c
	nation.Nation[0] ^= 1
	compartment.Compartment[0] ^= 1
	typ.Type = otherType
	epoch.Epoch++
	return map[string]crypto.Context{"nation": nation, "compartment": compartment, "type": typ, "epoch": epoch}
}

// seals are the keys and contexts that an object is sealed with. Whichever is
// wrong, its header says what is right.
type seals struct {
	keys         []format.SealedKey
	inner, outer crypto.Context // of chunks or the root; of the directory or the summary
	writer       *crypto.Secret // of the directory or the summary
}

// sealPack makes a pack of one chunk, as segment does.
func (w *world) sealPack(t testing.TB, s seals) []byte {
	t.Helper()
	c := w.dataChunk(1, []byte("plain"))
	key, salt, commitment, err := crypto.NewSealKey(w.key, s.inner)
	if err != nil {
		t.Fatal(err)
	}
	dir := dirPlain(1, []rawChunk{c}, 0)
	header := w.header(format.ClassFor(len(dir)+crypto.BoxOverhead), salt, commitment, s.keys)
	sealed := key.Seal(nil, uint64(16+len(header)), c.encoded, hashOf(header))
	box, err := crypto.SealBox(s.writer, s.outer, dir, hashOf(header))
	if err != nil {
		t.Fatal(err)
	}
	return slices.Concat(preamble("EMBS", header, 16+len(header)+len(sealed)+len(box)), header, sealed, box)
}

// sealSnapshot makes a snapshot, as snapshot does.
func (w *world) sealSnapshot(t testing.TB, s seals) []byte {
	t.Helper()
	key, salt, commitment, err := crypto.NewSealKey(w.key, s.inner)
	if err != nil {
		t.Fatal(err)
	}
	header := w.header(0, salt, commitment, s.keys)
	box, err := crypto.SealBox(s.writer, s.outer, padTo(mustCBOR(format.Summary{Dataset: "d"}), crypto.BoxOverhead), hashOf(header))
	if err != nil {
		t.Fatal(err)
	}
	covered := slices.Concat(header, u32(len(box)), box)
	sealed := key.Seal(nil, 0, padTo(mustCBOR(format.Root{}), crypto.TagSize), hashOf(covered))
	return slices.Concat(preamble("EMBN", header, 16+len(covered)+len(sealed)), covered, sealed)
}

// refusals makes the vectors of the table that no other file has. Each has its
// fault in one seal alone: all others open.
func (g *generator) refusals() {
	f := g.file("refusals", "Records made for another nation, compartment, epoch, type or recipient, and passed off as of this one.")
	in := input{
		Nation: g.nation[:], Compartment: g.comp[:], Epoch: 1, Writer: g.secret.Bytes(), Identities: []hexBytes{g.reader.Bytes()},
	}
	// each adds what differs from a good object in one context.
	each := func(base, what string, right crypto.Context, otherType string, object func(wrong crypto.Context) input) {
		wrong := wrongContexts(right, otherType)
		for _, how := range slices.Sorted(maps.Keys(wrong)) {
			f.fault(base, what+": wrong "+how, auth, object(wrong[how]))
		}
	}
	sealed := func(base, inner, outer string, writer *crypto.Secret, seal func(testing.TB, seals) []byte) (good seals) {
		good = seals{g.session.Keys, ctxOf(inner, g.scope, 1), ctxOf(outer, g.scope, 1), writer}
		in.Object = seal(g.t, good)
		f.add(base, base, "valid", in)
		each(base, strings.TrimPrefix(inner, "snapshot "), good.inner, outer, func(wrong crypto.Context) input {
			s := good
			s.inner = wrong
			return input{Object: seal(g.t, s)}
		})
		each(base, outer[strings.Index(outer, " ")+1:], good.outer, inner, func(wrong crypto.Context) input {
			s := good
			s.outer = wrong
			return input{Object: seal(g.t, s)}
		})
		return good
	}
	good := sealed("snapshot", "snapshot root", "snapshot summary", g.derived("summary"), g.sealSnapshot)
	good.writer = g.derived("index")
	f.fault("snapshot", "summary: wrong writer secret", auth, input{Object: g.sealSnapshot(g.t, good)})

	good = sealed("pack", "pack", "pack directory", g.derived("index"), g.sealPack)
	keyed := func(edit func(own, partner *format.SealedKey)) input {
		s := good
		s.keys = slices.Clone(s.keys)
		edit(&s.keys[0], &s.keys[1])
		return input{Object: g.sealPack(g.t, s)}
	}
	each("pack", "session key", ctxOf("session key", g.scope, 1), "charter part", func(wrong crypto.Context) input {
		return keyed(func(own, _ *format.SealedKey) {
			copy(own.Sealed[:], g.sealTo(g.reader.Recipient(), wrong, g.key.Bytes()))
		})
	})
	f.fault("pack", "session key: altered field", auth, keyed(func(own, _ *format.SealedKey) { own.Sealed[5] ^= 1 }))
	f.fault("pack", "session key: swapped recipient", auth, keyed(func(own, partner *format.SealedKey) {
		own.Sealed, partner.Sealed = partner.Sealed, own.Sealed
	}))
	g.refusedParts(f)
	g.refusedKits(f)
	g.refusedRotations(f)
}

func (g *generator) sealTo(to *crypto.Recipient, ctx crypto.Context, plain []byte) []byte {
	b, err := to.Seal(ctx, plain)
	if err != nil {
		g.t.Fatal(err)
	}
	return b
}

func (g *generator) refusedParts(f *vectorFile) {
	to := g.agent.Identity.Recipient()
	right := ctxOf("charter part", format.Scope{Nation: g.nation, Compartment: g.comp, Chain: format.ID{15: byte(format.AgentPart)}}, 1)
	plain := padTo(mustCBOR(format.CompartmentPart{NationName: "Estland", Name: "official"}), crypto.RecipientOverhead)
	charter := func(to *crypto.Recipient, ctx crypto.Context) input {
		object, err := format.SealCharter(format.Charter{
			Nation: g.nation, Seq: 1, RootSigner: g.root.Signer().Verifier().Bytes(), RootRecipient: g.root.Identity().Recipient().Bytes(),
			Parts: []format.Part{{
				Kind: format.AgentPart, Compartment: g.comp, Epoch: 1, To: g.agent.Identity.Recipient().ID(), Box: g.sealTo(to, ctx, plain),
			}},
		}, g.root.Signer())
		if err != nil {
			g.t.Fatal(err)
		}
		return input{Object: object}
	}
	in := charter(to, right)
	in.Nation, in.Verifier, in.Compartment = g.nation[:], g.root.Signer().Verifier().Bytes(), g.comp[:]
	in.Kind, in.Identities = uint8(format.AgentPart), []hexBytes{g.agent.Identity.Bytes()}
	f.add("part", "part", "valid", in)
	wrong := wrongContexts(right, "session key")
	for _, how := range slices.Sorted(maps.Keys(wrong)) {
		f.fault("part", "part: wrong "+how, auth, charter(to, wrong[how]))
	}
	f.fault("part", "part: swapped recipient", auth, charter(g.other.Identity.Recipient(), right))
}

func (g *generator) refusedKits(f *vectorFile) {
	ctx := func(typ string) crypto.Context { return crypto.Context{Type: typ, Nation: g.nation} }
	plain := padTo(mustCBOR(format.Hints{Charter: 1}), crypto.RecipientOverhead)
	kit := func(wrap crypto.Context, hints []byte) input {
		wrapped, err := crypto.WrapParams{Time: 1, MemoryKiB: 64, Threads: 2}.WrapRoot(g.root, []byte("passphrase"), wrap)
		if err != nil {
			g.t.Fatal(err)
		}
		return input{Text: kitText(mustCBOR(format.Kit{
			Version: 1, Nation: g.nation, Created: 1767225600_000000000, Wrapped: wrapped, Hints: hints,
			RootSigner: g.root.Signer().Verifier().Bytes(), RootRecipient: g.root.Identity().Recipient().Bytes(),
		}))}
	}
	to := g.root.Identity().Recipient()
	hints := func(to *crypto.Recipient, c crypto.Context) input {
		return kit(ctx("recovery kit"), g.sealTo(to, c, plain))
	}
	in := hints(to, ctx("recovery hints"))
	in.Passphrase = "passphrase"
	f.add("kit", "kit", "valid", in)
	f.fault("kit", "kit: wrong type", auth, kit(ctx("recovery hints"), nil))
	f.fault("kit", "hints: wrong nation", auth, hints(to, wrongContexts(ctx("recovery hints"), "")["nation"]))
	f.fault("kit", "hints: wrong type", auth, hints(to, ctx("charter part")))
	f.fault("kit", "hints: swapped recipient", auth, hints(g.partner.Recipient(), ctx("recovery hints")))
}

// refusedRotations are about a charter and a kit of the root that follows.
func (g *generator) refusedRotations(f *vectorFile) {
	next := g.root.Succeed()
	ctx := func(typ string) crypto.Context { return crypto.Context{Type: typ, Nation: g.nation} }
	earlier := func(under *crypto.Root, c crypto.Context) []byte {
		box, err := crypto.SealBox(under.Derive("earlier roots", ctx("earlier roots")), c, g.root.Bytes(), nil)
		if err != nil {
			g.t.Fatal(err)
		}
		return box
	}
	good := earlier(next, ctx("earlier roots"))
	charter := func(signer *crypto.Signer, c crypto.Context, edit func(*format.Handover)) input {
		h := format.Handover{
			From: g.root.Signer().Verifier().ID(), Signer: next.Signer().Verifier().Bytes(), Recipient: next.Identity().Recipient().Bytes(), Earlier: good,
		}
		h.Sig = signer.Sign(c, mustCBOR(h))
		edit(&h)
		object, err := format.SealCharter(format.Charter{
			Nation: g.nation, Seq: 2, Prev: format.HashOf([]byte("1")), RootSigner: h.Signer, RootRecipient: h.Recipient, Succession: []format.Handover{h},
		}, next.Signer())
		if err != nil {
			g.t.Fatal(err)
		}
		return input{Object: object}
	}
	asItIs := func(*format.Handover) {}
	in := charter(g.root.Signer(), ctx("handover"), asItIs)
	in.Nation, in.Verifier = g.nation[:], g.root.Signer().Verifier().Bytes()
	f.add("charter after a rotation", "charter", "valid", in)
	bad := func(name string, in input) { f.fault("charter after a rotation", "handover: "+name, auth, in) }
	bad("altered field", charter(g.root.Signer(), ctx("handover"), func(h *format.Handover) { h.Earlier = h.Earlier[1:] }))
	bad("wrong nation", charter(g.root.Signer(), wrongContexts(ctx("handover"), "")["nation"], asItIs))
	bad("wrong type", charter(g.root.Signer(), ctx("charter"), asItIs))
	bad("from another root", charter(g.root.Signer(), ctx("handover"), func(h *format.Handover) { h.From[0] ^= 1 }))
	bad("another signer", charter(g.agent.Signer, ctx("handover"), asItIs))

	kit := func(box []byte) input {
		wrapped, err := crypto.WrapParams{Time: 1, MemoryKiB: 64, Threads: 2}.WrapRoot(next, []byte("passphrase"), ctx("recovery kit"))
		if err != nil {
			g.t.Fatal(err)
		}
		return input{Text: kitText(mustCBOR(format.Kit{
			Version: 2, Nation: g.nation, Created: 1767225600_000000000, Wrapped: wrapped, Earlier: box,
			RootSigner: next.Signer().Verifier().Bytes(), RootRecipient: next.Identity().Recipient().Bytes(),
		}))}
	}
	in = kit(good)
	in.Passphrase = "passphrase"
	f.add("kit after a rotation", "kit", "valid", in)
	bad = func(name string, in input) { f.fault("kit after a rotation", "earlier roots: "+name, auth, in) }
	worse := slices.Clone(good)
	worse[len(worse)-1] ^= 1
	bad("altered field", kit(worse))
	bad("wrong nation", kit(earlier(next, wrongContexts(ctx("earlier roots"), "")["nation"])))
	bad("wrong type", kit(earlier(next, ctx("recovery kit"))))
	bad("swapped recipient", kit(earlier(g.root, ctx("earlier roots"))))
}
