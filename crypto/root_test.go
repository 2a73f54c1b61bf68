package crypto_test

import (
	"bytes"
	"encoding/hex"
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
	goldenReader      = "0aa7b5f31d780211b3251d96ee923b6c"
	goldenReader2     = "6adb9afe58ac3f8a22e000669dd1f860"
	goldenReaderKey   = "e6cebf0c522b0195c7fd81b4cf743ac435e9e3a8cfd85114eb65498f510b6696"
	goldenWriter      = "13a1c1085b855a2640e7ab2b50682a1270c274ba91ebf59e38229eef0b2f4852"
	goldenWriter2     = "d03053f17f0048545ee0b344c28d56e86b89da28dad3b38179e3cd2037fccf6e"
	goldenFingerprint = "ouz3-h46m-3hfz-2kmn-xrio-tkav-wqp6-xdeb"
	goldenVerifier    = "7e7ad7c9658a8b11fc176556b7eec13b"
	goldenRecipient   = "54be243385f3dd742830af472b197974"
	goldenAgent       = "8b4501880471739f3b73ed1277faf5d4"
	goldenSignature   = "0001cc50af9c5cf0e4cb949a8d80737d12374fe1cbc68c96b376881dc07aa02df1f7" +
		"0ce163189ddf77b6eecec473f45d82703dfeb64450c34150bf1602d1369b6505"
	goldenBox = "c43f54c4f0b60dbc720a96bd22f8ab16c7a771eb799be7ba37f46e568cc44c53" +
		"59e644f5613d9543c9c9adda5ed21e27646f7cc97c1f4e81155d534c41a77dcd" +
		"30960411c7d3552d87c73d632a35eaa7e9bdf5f0676d74132e"
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
