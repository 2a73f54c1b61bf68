package format_test

import (
	"errors"
	"math"
	"runtime"
	"testing"

	"embassy/crypto"
	"embassy/embassy/format"
)

// ruled is a nation's second charter with three administrators, two of whom
// are a quorum, and one revoked agent.
type ruled struct {
	*world
	admins []*crypto.Signer
	base   format.Charter
	object []byte
}

func newRuled(t *testing.T) *ruled {
	w := &ruled{world: newWorld(t, 0)}
	w.base = w.charter(t)
	w.base.Seq, w.base.Prev = 2, format.HashOf([]byte("charter 1"))
	for range 3 {
		s := crypto.NewSigner()
		w.admins = append(w.admins, s)
		w.base.Administrators = append(w.base.Administrators, s.Verifier().Bytes())
	}
	w.base.Quorum = 2
	gone := w.agent(t)
	gone.Status = format.AgentRevoked
	w.base.Agents = append(w.base.Agents, gone)
	w.object = seal(t, w.base, w.root.Signer())
	return w
}

func (w *ruled) charter(t *testing.T) format.Charter {
	t.Helper()
	return format.Charter{
		Nation: w.nation, Seq: 1, Time: 1, RootSigner: w.root.Signer().Verifier().Bytes(), RootRecipient: w.root.Identity().Recipient().Bytes(),
		Compartments: []format.CharterCompartment{{ID: w.comp, Epoch: 1, Recipients: []format.RecipientKey{
			{Epoch: 1, Key: w.root.Reader(w.comp, 1).Recipient().Bytes()},
		}}},
	}
}

func (w *ruled) agent(t *testing.T) format.CharterAgent {
	t.Helper()
	k, err := crypto.NewAgentKey()
	if err != nil {
		t.Fatal(err)
	}
	return format.CharterAgent{
		ID: k.ID(), Signer: k.Signer.Verifier().Bytes(), Recipient: k.Identity.Recipient().Bytes(), Status: format.AgentActive,
	}
}

// next is what administrators may sign: one more agent.
func (w *ruled) next(t *testing.T) format.Charter {
	c := w.base
	c.Seq, c.Prev, c.Time, c.Base = 3, format.HashOf(w.object), 2, w.object
	c.Agents = append(append([]format.CharterAgent(nil), c.Agents...), w.agent(t))
	return c
}

func seal(t *testing.T, c format.Charter, signers ...*crypto.Signer) []byte {
	t.Helper()
	object, err := format.SealCharter(c, signers...)
	if err != nil {
		t.Fatal(err)
	}
	return object
}

func TestCharterOfAdministrators(t *testing.T) {
	w := newRuled(t)
	object := seal(t, w.next(t), w.admins[2], w.admins[0])
	c, err := format.OpenCharter(object, w.nation, w.root.Signer().Verifier())
	if err != nil || c.Rooted().Seq != 2 || len(c.Agents) != 2 {
		t.Fatalf("a quorum signed: %v, %+v", err, c)
	}
	later := w.base
	later.Seq, later.Prev = 3, format.HashOf(w.object)
	root, err := format.OpenCharter(seal(t, later, w.root.Signer()), w.nation, w.root.Signer().Verifier())
	if err != nil || root.Rank().Compare(c.Rank()) <= 0 {
		t.Fatalf("%v: what the root signed later does not outrank administrators", err)
	}

	stranger := crypto.NewSigner()
	for name, signers := range map[string][]*crypto.Signer{
		"one of them twice": {w.admins[0], w.admins[0]},
		"a stranger":        {w.admins[0], stranger},
		"the root":          {w.root.Signer(), w.admins[0]},
	} {
		object := seal(t, w.next(t), signers...)
		if _, err := format.OpenCharter(object, w.nation, w.root.Signer().Verifier()); !errors.Is(err, crypto.ErrAuthentication) {
			t.Errorf("%s signed: %v", name, err)
		}
	}
	few := w.next(t)
	few.Quorum = 1 // their own rule
	if _, err := format.OpenCharter(seal(t, few, w.admins[0]), w.nation, w.root.Signer().Verifier()); !errors.Is(err, crypto.ErrAuthentication) {
		t.Errorf("one signed a quorum of one: %v", err)
	}
	for name, change := range map[string]func(*format.Charter){
		"another compartment": func(c *format.Charter) { c.Compartments[0].Epoch = 2 },
		"another administrator": func(c *format.Charter) {
			c.Administrators = append(c.Administrators[:2:2], stranger.Verifier().Bytes())
		},
		"another root":          func(c *format.Charter) { c.RootSigner = stranger.Verifier().Bytes() },
		"an agent is left out":  func(c *format.Charter) { c.Agents = c.Agents[1:] },
		"a revoked one revived": func(c *format.Charter) { c.Agents[0].Status = format.AgentActive },
	} {
		c := w.next(t)
		c.Compartments = append([]format.CharterCompartment(nil), c.Compartments...)
		change(&c)
		if _, err := format.OpenCharter(seal(t, c, w.admins[:2]...), w.nation, w.root.Signer().Verifier()); !errors.Is(err, format.ErrOverreach) {
			t.Errorf("%s: %v", name, err)
		}
	}
	nested := w.next(t)
	nested.Seq, nested.Base = 4, object
	if _, err := format.OpenCharter(seal(t, nested, w.admins[:2]...), w.nation, w.root.Signer().Verifier()); !errors.Is(err, format.ErrMalformed) {
		t.Errorf("a Base of administrators: %v", err)
	}
}

func TestHandover(t *testing.T) {
	w := newRuled(t)
	old := w.root.Signer().Verifier()
	second := w.root.Succeed()
	third := second.Succeed()
	c := w.charter(t)
	c.Seq, c.Prev = 4, format.HashOf(w.object)
	if err := c.Succeed(w.root, second); err != nil {
		t.Fatal(err)
	}
	once := c
	if err := c.Succeed(second, third); err != nil {
		t.Fatal(err)
	}
	object := seal(t, c, third.Signer())
	for name, by := range map[string]*crypto.Root{"first": w.root, "second": second, "third": third} {
		got, err := format.OpenCharter(object, w.nation, by.Signer().Verifier())
		if err != nil || got.Rank().Rotations != 2 {
			t.Fatalf("who trusts the %s root: %v", name, err)
		}
	}
	bare, err := crypto.RootFromBytes(third.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	ring, err := c.Ring(bare)
	if err != nil || len(ring.Ring()) != 3 || !ring.Ring()[2].Equal(&w.root.Secret) || !ring.Ring()[1].Equal(&second.Secret) {
		t.Fatalf("the youngest root finds %d roots: %v", len(ring.Ring()), err)
	}
	if _, err := format.OpenCharter(seal(t, c, w.root.Signer()), w.nation, old); !errors.Is(err, crypto.ErrAuthentication) {
		t.Errorf("signed by the root before: %v", err)
	}
	if _, err := format.OpenCharter(seal(t, c, second.Signer()), w.nation, old); !errors.Is(err, crypto.ErrAuthentication) {
		t.Errorf("signed by the second of three: %v", err)
	}
	thief := crypto.NewRoot().Succeed()
	stolen := w.charter(t)
	if err := stolen.Succeed(crypto.NewRoot(), thief); err != nil {
		t.Fatal(err)
	}
	if _, err := format.OpenCharter(seal(t, stolen, thief.Signer()), w.nation, old); !errors.Is(err, crypto.ErrAuthentication) {
		t.Errorf("a handover that nobody signed: %v", err)
	}
	other := w.charter(t)
	if err := other.Succeed(w.root, w.root.Succeed()); err != nil {
		t.Fatal(err)
	}
	if !c.Follows(&once) || other.Follows(&once) || once.Follows(&c) {
		t.Error("two successors of one root follow each other")
	}
	altered := c
	altered.Succession = append([]format.Handover(nil), c.Succession...)
	altered.Succession[0].Earlier = append([]byte(nil), c.Succession[0].Earlier...)
	altered.Succession[0].Earlier[40] ^= 1
	if _, err := format.OpenCharter(seal(t, altered, third.Signer()), w.nation, old); !errors.Is(err, crypto.ErrAuthentication) {
		t.Errorf("an altered handover: %v", err)
	}
}

// A host nests Bases that nobody signed: none but the first is looked at.
func TestNestedBases(t *testing.T) {
	w := newRuled(t)
	c := format.Charter{Nation: w.nation, Seq: 1, Administrators: [][]byte{{1}}, Quorum: 1}
	object := w.object
	for range 400 {
		c.Base = object
		object = seal(t, c, crypto.NewSigner())
	}
	_, err := format.OpenCharter(object, w.nation, w.root.Signer().Verifier())
	if !errors.Is(err, format.ErrMalformed) || len(err.Error()) > 200 {
		t.Errorf("of 400 Bases: %.200v", err)
	}
	p := w.next(t)
	p.Base = seal(t, w.next(t), w.admins[:2]...)
	proposal, err := format.Propose(p)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := proposal.Open(w.nation, w.root.Signer().Verifier()); !errors.Is(err, format.ErrMalformed) {
		t.Errorf("a proposal on a charter of administrators: %v", err)
	}
}

// Administrators who take the last number would leave the root none to dismiss
// them with.
func TestAdministratorsLeaveNumbers(t *testing.T) {
	w := newRuled(t)
	for leap, fine := range map[uint64]bool{1 << 20: true, 1<<20 + 1: false, 1<<64 - 3: false} {
		c := w.next(t)
		c.Seq = w.base.Seq + leap
		_, err := format.OpenCharter(seal(t, c, w.admins[:2]...), w.nation, w.root.Signer().Verifier())
		if fine != (err == nil) || !fine && !errors.Is(err, format.ErrMalformed) {
			t.Errorf("%d numbers ahead: %v", leap, err)
		}
	}
}

// What nobody signed is not read: of a body that would grow a hundredfold in
// memory, nothing is kept.
func TestUnsignedCharterCostsLittle(t *testing.T) {
	w := newRuled(t)
	big := w.charter(t)
	big.Seq, big.Prev = 2, format.HashOf([]byte("charter 1"))
	for range 200_000 {
		big.Parts = append(big.Parts, format.Part{})
	}
	if err := big.Succeed(w.root, w.root.Succeed()); err != nil {
		t.Fatal(err)
	}
	object := seal(t, big, crypto.NewSigner())
	root := w.root.Signer().Verifier()
	least := uint64(math.MaxUint64) // a collection empties pools of buffers, and the race detector does at random
	for range 10 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := format.OpenCharter(object, w.nation, root)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, crypto.ErrAuthentication) {
			t.Fatal(err)
		}
		least = min(least, after.TotalAlloc-before.TotalAlloc)
	}
	if least > 3*uint64(len(object)) {
		t.Errorf("%d bytes were allocated for an object of %d", least, len(object))
	}
}
