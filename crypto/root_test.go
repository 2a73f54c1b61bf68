package crypto_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"testing"

	"embassy/crypto"
)

// The stored values below fix the key hierarchy and the seals of suite 1.
// What a nation stored years ago is found and opened with them: if one of
// these tests fails, the change needs a new suite.
const (
	goldenCompartment = "5b77959a719643e4bb8a4887740af23c"
	goldenReader      = "4f0e2251cb5dbed1b0bfa2578d6b8c37"
	goldenReader2     = "89f8538e2e182dcf77965319a39d7136"
	goldenReaderKey   = "d84b03df40c966f790843bcfe15d4df9f6cd5cbc478bb963137311cb6f3d7cb2"
	goldenWriter      = "06ef8e0fdff9c4b99f0eef967226e4661a238a696b7a483e587c9bee8bd4a435"
	goldenWriter2     = "7bbb6cff9d9ccfae14db997bc4e5480246e2c1bd71327af21ea350c7d8426a1d"
	goldenFingerprint = "ouz3-h46m-3hfz-2kmn-xrio-tkav-wqp6-xdeb"
	goldenVerifier    = "7e7ad7c9658a8b11fc176556b7eec13b"
	goldenRecipient   = "54be243385f3dd742830af472b197974"
	goldenAgent       = "8b4501880471739f3b73ed1277faf5d4"
	goldenSignature   = "0001cc50af9c5cf0e4cb949a8d80737d12374fe1cbc68c96b376881dc07aa02df1f7" +
		"0ce163189ddf77b6eecec473f45d82703dfeb64450c34150bf1602d1369b6505"
	goldenBox = "3eb09d4e9ce34bc2ee5e1e499698c6b68efc0aca4b04db4f516b75180b20b9c4" +
		"5e76fc83fa545cc500ec7eb57aa64b8933d49e6aa31cbca980b5660d5c9dba93" +
		"98c3292b0342e6d7ddfab8899d57f0165f009aa685dc5cc65a"
	goldenWrapSalt   = "9c235131780c0f95be5c92e60c51b8fa"
	goldenWrapNonce  = "6a8cd7bea5ddd9db62d9e8b4a6d205e78b9a3ef48be688a1"
	goldenWrapSealed = "bd8047b71fd8bcaee894b7014cc15324d8b778093179323f451816c3586ce445be9d8f44710bede7010b4d281c627944"
)

// goldenRoot is the root 00 01 02 … 1f.
func goldenRoot(t *testing.T) *crypto.Root {
	t.Helper()
	b := make([]byte, crypto.KeySize)
	for i := range b {
		b[i] = byte(i)
	}
	r, err := crypto.RootFromBytes(b)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestGoldenDerivations(t *testing.T) {
	r := goldenRoot(t)
	c := r.CompartmentID("official")
	text := func(id crypto.ID) string { return hex.EncodeToString(id[:]) }
	agent := crypto.AgentID(r.Signer().Verifier().Bytes(), r.Identity().Recipient().Bytes())
	for _, g := range []struct{ name, got, want string }{
		{"compartment id", text(c), goldenCompartment},
		{"reader of epoch 1", text(r.Reader(c, 1).Recipient().ID()), goldenReader},
		{"reader of epoch 2", text(r.Reader(c, 2).Recipient().ID()), goldenReader2},
		{"reader's private key", hex.EncodeToString(r.Reader(c, 1).Bytes()), goldenReaderKey},
		{"writer of epoch 1", hex.EncodeToString(r.Writer(c, 1).Bytes()), goldenWriter},
		{"writer of epoch 2", hex.EncodeToString(r.Writer(c, 2).Bytes()), goldenWriter2},
		{"fingerprint", r.Fingerprint(), goldenFingerprint},
		{"verifier id", text(r.Signer().Verifier().ID()), goldenVerifier},
		{"recipient id", text(r.Identity().Recipient().ID()), goldenRecipient},
		{"agent id", text(agent), goldenAgent},
		{"signature", hex.EncodeToString(r.Signer().Sign(testContext(), []byte("message"))), goldenSignature},
	} {
		if g.got != g.want {
			t.Errorf("%s: got %s, want %s", g.name, g.got, g.want)
		}
	}
}

func TestGoldenBox(t *testing.T) {
	r := goldenRoot(t)
	writer := r.Writer(r.CompartmentID("official"), 1)
	p, err := crypto.OpenBox(writer, testContext(), unhex(t, goldenBox), []byte("aad"))
	if err != nil || string(p) != "plaintext" {
		t.Errorf("got %q, %v", p, err)
	}
}

func TestGoldenRecipient(t *testing.T) {
	text, err := os.ReadFile("testdata/recipient.hex")
	if err != nil {
		t.Fatal(err)
	}
	r := goldenRoot(t)
	sealed := unhex(t, strings.ReplaceAll(string(text), "\n", ""))
	p, err := r.Reader(r.CompartmentID("official"), 1).Open(testContext(), sealed)
	if err != nil || string(p) != "plaintext" {
		t.Errorf("got %q, %v", p, err)
	}
}

func TestGoldenWrapped(t *testing.T) {
	r, err := crypto.UnwrapRoot(crypto.Wrapped{
		Time: 1, MemoryKiB: 64, Threads: 2,
		Salt: unhex(t, goldenWrapSalt), Nonce: unhex(t, goldenWrapNonce), Ciphertext: unhex(t, goldenWrapSealed),
	}, []byte("passphrase"), testContext())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(r.Bytes(), goldenRoot(t).Bytes()) {
		t.Error("another root comes back")
	}
}

func TestRootFromBytes(t *testing.T) {
	for _, n := range []int{0, 31, 33} {
		if _, err := crypto.RootFromBytes(make([]byte, n)); err == nil {
			t.Errorf("%d bytes were accepted", n)
		}
	}
	if a, b := crypto.NewRoot(), crypto.NewRoot(); a.Fingerprint() == b.Fingerprint() {
		t.Error("two new roots are one")
	}
}

func TestRootKeysDiffer(t *testing.T) {
	r := goldenRoot(t)
	a, b := r.CompartmentID("a"), r.CompartmentID("b")
	if a == b || a == crypto.NewRoot().CompartmentID("a") {
		t.Error("compartment ids collide")
	}
	writers := []*crypto.Secret{r.Writer(a, 1), r.Writer(a, 2), r.Writer(b, 1), r.Writer(crypto.ID{}, 0)}
	readers := []*crypto.Identity{r.Reader(a, 1), r.Reader(a, 2), r.Reader(b, 1), r.Identity()}
	for i := range writers {
		for j := range i {
			if writers[i].Equal(writers[j]) {
				t.Errorf("writers %d and %d are one", i, j)
			}
			if readers[i].Recipient().ID() == readers[j].Recipient().ID() {
				t.Errorf("readers %d and %d are one", i, j)
			}
		}
	}
}

// TestReduce: what is left of a root opens what was kept, and nothing else, however
// often it goes on to another root.
func TestReduce(t *testing.T) {
	first := crypto.NewRoot()
	a, b, c := first.CompartmentID("a"), first.CompartmentID("b"), first.CompartmentID("c")
	second := first.SucceedWith([][16]byte{a, b})
	third := second.Succeed()
	last := third.SucceedWith([][16]byte{a, c}) // b is gone now, and c is younger than the first destruction
	ctx := crypto.Context{Type: "kept keys", Nation: a}
	earlier, err := last.SealEarlier(ctx)
	if err != nil || earlier != nil {
		t.Fatalf("whole roots are left: %v", err)
	}
	box, err := last.SealKept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	bare, err := crypto.RootFromBytes(last.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	open, err := bare.OpenRing(ctx, nil, ctx, box)
	if err != nil || len(bare.Ring()) != 1 {
		t.Fatalf("the root itself has %d in its ring: %v", len(bare.Ring()), err)
	}
	ring := open.Ring()
	if len(ring) != 4 || open.Lacks(a) || !open.Lacks(b) || !open.Lacks(c) {
		t.Fatalf("%d roots", len(ring))
	}
	for i, r := range []*crypto.Root{third, second, first} {
		left := ring[1+i]
		if left.Holds(b) || left.Holds(c) != (i < 2) {
			t.Errorf("root %d holds what it should not, or not what it should", i)
		}
		if !bytes.Equal(left.Reader(a, 7).Bytes(), r.Reader(a, 7).Bytes()) || !left.Writer(a, 7).Equal(r.Writer(a, 7)) ||
			left.Fingerprint() != r.Fingerprint() || left.CompartmentID("x") != r.CompartmentID("x") ||
			!bytes.Equal(left.Partner().Bytes(), r.Partner().Bytes()) || !bytes.Equal(left.Identity().Bytes(), r.Identity().Bytes()) {
			t.Errorf("root %d derives other keys", i)
		}
		for name, use := range map[string]func(){"reader": func() { left.Reader(b, 1) }, "writer": func() { left.Writer(b, 1) }, "any key": func() { left.Derive("reader", crypto.Context{}) }} {
			func() {
				defer func() {
					if recover() == nil {
						t.Errorf("root %d: %s of what is gone", i, name)
					}
				}()
				use()
			}()
		}
	}
	if _, err := second.OpenRing(ctx, nil, ctx, box); !errors.Is(err, crypto.ErrAuthentication) {
		t.Errorf("under another root: %v", err)
	}
	open.Wipe()
}
