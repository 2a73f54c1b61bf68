package crypto_test

import (
	"bytes"
	"testing"

	"embassy/crypto"
)

func identity(t testing.TB, seed byte) *crypto.Identity {
	t.Helper()
	i, err := crypto.DeriveIdentity(secret(t, seed))
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestRecipientRoundTrip(t *testing.T) {
	random, err := crypto.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	for name, i := range map[string]*crypto.Identity{"random": random, "derived": identity(t, 1)} {
		t.Run(name, func(t *testing.T) {
			r, err := crypto.ParseRecipient(i.Recipient().Bytes())
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Bytes()) != 1216 || r.ID() != i.Recipient().ID() {
				t.Errorf("the recipient does not come back: %d bytes", len(r.Bytes()))
			}
			parsed, err := crypto.ParseIdentity(i.Bytes())
			if err != nil {
				t.Fatal(err)
			}
			for _, plaintext := range [][]byte{nil, []byte("session key"), make([]byte, 10000)} {
				sealed, err := r.Seal(testContext(), plaintext)
				if err != nil {
					t.Fatal(err)
				}
				if len(sealed) != len(plaintext)+crypto.RecipientOverhead {
					t.Errorf("%d bytes seal to %d", len(plaintext), len(sealed))
				}
				got, err := parsed.Open(testContext(), sealed)
				if err != nil || !bytes.Equal(got, plaintext) {
					t.Errorf("got %q, %v", got, err)
				}
			}
		})
	}
}

func TestDeriveIdentity(t *testing.T) {
	if !bytes.Equal(identity(t, 1).Bytes(), identity(t, 1).Bytes()) {
		t.Error("not deterministic")
	}
	if identity(t, 1).Recipient().ID() == identity(t, 2).Recipient().ID() {
		t.Error("two seeds give one identity")
	}
}

func TestIdentityOpenRefuses(t *testing.T) {
	i, ctx := identity(t, 1), testContext()
	sealed, err := i.Recipient().Seal(ctx, []byte("plaintext"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := identity(t, 2).Open(ctx, sealed)
	refused(t, "other identity", p, err)
	for field, other := range otherContexts(t) {
		p, err := i.Open(other, sealed)
		refused(t, "other "+field, p, err)
	}
	for n := range sealed {
		p, err := i.Open(ctx, sealed[:n])
		refused(t, "cut", p, err)
	}
	p, err = i.Open(ctx, append(bytes.Clone(sealed), 0))
	refused(t, "extended", p, err)
	for n := 0; n < len(sealed); n += 7 {
		bad := bytes.Clone(sealed)
		bad[n] ^= 0x80
		p, err := i.Open(ctx, bad)
		refused(t, "flipped bit", p, err)
	}
}

func TestParseKeysOfWrongSize(t *testing.T) {
	i := identity(t, 1)
	for _, n := range []int{0, 1, 31, 33, 1184, 1215} {
		if _, err := crypto.ParseIdentity(make([]byte, n)); err == nil {
			t.Errorf("an identity of %d bytes was accepted", n)
		}
		if _, err := crypto.ParseRecipient(make([]byte, n)); err == nil {
			t.Errorf("a recipient of %d bytes was accepted", n)
		}
	}
	if _, err := crypto.ParseRecipient(append(i.Recipient().Bytes(), 0)); err == nil {
		t.Error("an extended recipient was accepted")
	}
}

func TestParseRecipientOutOfRange(t *testing.T) {
	b := identity(t, 1).Recipient().Bytes()
	copy(b, []byte{0xff, 0xff, 0xff}) // ML-KEM coefficients above the modulus
	if _, err := crypto.ParseRecipient(b); err == nil {
		t.Error("accepted")
	}
}

func TestSealToDegenerateRecipient(t *testing.T) {
	b := identity(t, 1).Recipient().Bytes()
	clear(b[1184:]) // the X25519 point of order 1
	r, err := crypto.ParseRecipient(b)
	if err != nil {
		return
	}
	if _, err := r.Seal(testContext(), []byte("plaintext")); err == nil {
		t.Error("sealed to a key that anyone can half open")
	}
}
