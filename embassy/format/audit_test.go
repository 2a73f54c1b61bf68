package format_test

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

	"embassy/crypto"
	"embassy/embassy/format"
)

func (w *world) audit(number uint64) format.Audit {
	a := format.Audit{Agent: w.scope.Agent, Log: w.scope.Chain, Number: number}
	if number > 1 {
		a.Prev = format.HashOf([]byte{byte(number)})
	}
	return a
}

func deedOf() format.Deed {
	return format.Deed{Time: 1767225600_000000001, What: "restore", User: "anna", Host: "desk", Outcome: "complete",
		Facts: []format.Fact{{Key: "dataset", Value: "population"}}}
}

func opAudit(in input) (any, error) {
	v, err := crypto.ParseVerifier(in.Verifier)
	if err != nil {
		return nil, err
	}
	a, err := format.OpenAudit(in.Object, v, id16(in.Nation), id16(in.Agent))
	if err != nil {
		return nil, err
	}
	if in.Epoch == 0 {
		in.Epoch = a.Epoch
	}
	w, err := in.writer()
	if err != nil {
		return nil, err
	}
	deed, err := a.Deed(w)
	sealed := a.Sealed
	a.Sealed = nil
	return map[string]any{"audit": a, "deed": deed, "bytes sealed": len(sealed)}, err
}

// audits makes the vectors of audit records.
func (g *generator) audits() {
	f := g.file("audit", "Audit records.")
	seal := func(a format.Audit, d format.Deed) []byte {
		object, err := format.SealAudit(a, d, g.writer, g.agent.Signer)
		if err != nil {
			g.t.Fatal(err)
		}
		return object
	}
	first := seal(g.audit(1), deedOf())
	in := input{Object: first, Nation: g.nation[:], Compartment: g.comp[:], Agent: g.scope.Agent[:],
		Verifier: g.agent.Signer.Verifier().Bytes(), Writer: g.secret.Bytes()}
	f.add("first", "audit", "valid", in)
	later := in
	later.Object = seal(g.audit(2), format.Deed{What: "root used"})
	f.add("later", "audit", "valid", later)

	opened, err := format.OpenAudit(first, g.agent.Signer.Verifier(), g.nation, g.scope.Agent)
	if err != nil {
		g.t.Fatal(err)
	}
	signed := func(typ string, edit func(a *format.Audit), signers ...*crypto.Signer) input {
		a := *opened
		a.Sealed = bytes.Clone(a.Sealed)
		edit(&a)
		return input{Object: signedObject("EMBAUDT1", typ, format.Scope{Nation: g.nation, Agent: g.scope.Agent}, mustCBOR(a), signers...)}
	}
	same := func(*format.Audit) {}
	bad := func(name, class string, edit func(a *format.Audit)) {
		f.fault("first", name, class, signed("audit record", edit, g.agent.Signer))
	}
	bad("version of the future", "malformed", func(a *format.Audit) { a.Version = 2 })
	bad("number 0", "malformed", func(a *format.Audit) { a.Number = 0 })
	bad("first with a previous", "malformed", func(a *format.Audit) { a.Prev = format.HashOf(nil) })
	bad("nation inside is another", "malformed", func(a *format.Audit) { a.Nation = g.comp })
	bad("agent inside is another", "malformed", func(a *format.Audit) { a.Agent = g.comp })
	bad("deed of another compartment", "authentication", func(a *format.Audit) { a.Compartment = g.nation })
	bad("deed of another log", "authentication", func(a *format.Audit) { a.Log = g.nation })
	bad("deed of another epoch", "authentication", func(a *format.Audit) { a.Epoch = 2 })
	bad("deed of another number", "authentication", func(a *format.Audit) { a.Number, a.Prev = 2, format.HashOf(nil) })
	bad("deed altered", "authentication", func(a *format.Audit) { a.Sealed[100] ^= 1 })
	bad("deed cut", "authentication", func(a *format.Audit) { a.Sealed = a.Sealed[:79] })
	sealedAs := func(name string, ctx crypto.Context) {
		box, err := crypto.SealBox(g.derived("audit"), ctx, padTo(nil, crypto.BoxOverhead), append(u64(1), make([]byte, 32)...))
		if err != nil {
			g.t.Fatal(err)
		}
		bad(name, auth, func(a *format.Audit) { a.Sealed = box })
	}
	sealedAs("deed of another nation", wrongContexts(ctxOf("audit deed", g.scope, 1), "")["nation"])
	sealedAs("deed sealed as a summary", ctxOf("snapshot summary", g.scope, 1))
	reseal := func(name string, plain []byte) {
		bad(name, "malformed", func(a *format.Audit) {
			s := g.scope
			var err error
			if a.Sealed, err = crypto.SealBox(g.derived("audit"), ctxOf("audit deed", s, 1), plain, append(u64(1), make([]byte, 32)...)); err != nil {
				g.t.Fatal(err)
			}
		})
	}
	reseal("deed: padding not zero", append(padTo(mustCBOR(deedOf()), crypto.BoxOverhead), 1))
	nothing := deedOf()
	nothing.What = ""
	reseal("deed: nothing was done", padTo(mustCBOR(nothing), crypto.BoxOverhead))
	long := deedOf()
	long.Outcome = string(bytes.Repeat([]byte("x"), format.MaxAuditText+1))
	reseal("deed: text beyond its bound", padTo(mustCBOR(long), crypto.BoxOverhead))

	f.fault("first", "byte behind", "malformed", input{}, splice{At: len(first), Put: hexBytes{0}})
	f.fault("first", "cut", "malformed", input{}, cut(first, len(first)-1))
	f.fault("first", "magic of an entry", "malformed", input{}, splice{Cut: 8, Put: hexBytes("EMBLEDG1")})
	f.fault("first", "altered field", "authentication", input{}, flip(first, 40))
	f.fault("first", "altered signature", "authentication", input{}, flip(first, len(first)-1))
	f.fault("first", "wrong nation", "authentication", input{Nation: g.comp[:]})
	f.fault("first", "wrong agent", "authentication", input{Agent: g.comp[:]})
	f.fault("first", "wrong epoch", "authentication", input{Epoch: 2})
	f.fault("first", "another writer secret", "authentication", input{Writer: secretOf(9).Bytes()})
	f.fault("first", "another agent's key", "authentication", input{Verifier: g.other.Signer.Verifier().Bytes()})
	f.fault("first", "signed by another agent", "authentication", signed("audit record", same, g.other.Signer))
	f.fault("first", "a second signature", "authentication", signed("audit record", same, g.agent.Signer, g.other.Signer))
	f.fault("first", "signed as an entry", "authentication", signed("ledger entry", same, g.agent.Signer))
	f.fault("first", "not signed", "malformed", signed("audit record", same))
}

// A host learns neither what was done nor how long it is told.
func TestAuditShowsNothing(t *testing.T) {
	w := newWorld(t, 0)
	sizes := map[int]bool{}
	for n := range 300 {
		d := deedOf()
		d.Outcome = string(bytes.Repeat([]byte("o"), n))
		object, err := format.SealAudit(w.audit(1), d, w.writer, w.agent.Signer)
		if err != nil {
			t.Fatal(err)
		}
		sizes[len(object)] = true
		for _, hidden := range []string{"restore", "anna", "desk", "population"} {
			if bytes.Contains(object, []byte(hidden)) {
				t.Fatalf("the record shows %q", hidden)
			}
		}
		a, err := format.OpenAudit(object, w.agent.Signer.Verifier(), w.nation, w.scope.Agent)
		if err != nil {
			t.Fatal(err)
		}
		got, err := a.Deed(w.writer)
		if diff := cmp.Diff(d, got); err != nil || diff != "" {
			t.Fatal(err, diff)
		}
	}
	if len(sizes) != 1 {
		t.Errorf("300 records show %d sizes", len(sizes))
	}
	d := deedOf()
	d.Facts = make([]format.Fact, format.MaxAuditFacts+1)
	if _, err := format.SealAudit(w.audit(1), d, w.writer, w.agent.Signer); class(err) != "malformed" {
		t.Errorf("too many facts: %v", err)
	}
}
