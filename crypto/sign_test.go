package crypto_test

import (
	"bytes"
	"encoding/binary"
	"regexp"
	"testing"

	"embassy/crypto"
)

func TestSign(t *testing.T) {
	for name, s := range map[string]*crypto.Signer{"random": crypto.NewSigner(), "derived": crypto.DeriveSigner(secret(t, 1))} {
		t.Run(name, func(t *testing.T) {
			parsed, err := crypto.ParseSigner(s.Bytes())
			if err != nil {
				t.Fatal(err)
			}
			v, err := crypto.ParseVerifier(s.Verifier().Bytes())
			if err != nil {
				t.Fatal(err)
			}
			if v.ID() != s.Verifier().ID() || v.Fingerprint() != s.Verifier().Fingerprint() {
				t.Error("the verifier does not come back")
			}
			for _, msg := range [][]byte{nil, []byte("charter")} {
				sig := parsed.Sign(testContext(), msg)
				if len(sig) != crypto.SignatureSize {
					t.Errorf("signature of %d bytes", len(sig))
				}
				if err := v.Verify(testContext(), msg, sig); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestVerifyRefuses(t *testing.T) {
	s, ctx, msg := crypto.NewSigner(), testContext(), []byte("message")
	v, sig := s.Verifier(), s.Sign(ctx, msg)
	refused(t, "other key", nil, crypto.NewSigner().Verifier().Verify(ctx, msg, sig))
	refused(t, "other message", nil, v.Verify(ctx, []byte("messagf"), sig))
	refused(t, "longer message", nil, v.Verify(ctx, []byte("message!"), sig))
	for field, other := range otherContexts(t) {
		refused(t, "other "+field, nil, v.Verify(other, msg, sig))
	}
	for n := range sig {
		refused(t, "cut", nil, v.Verify(ctx, msg, sig[:n]))
	}
	refused(t, "extended", nil, v.Verify(ctx, msg, append(bytes.Clone(sig), 0)))
	for i := range len(sig) * 8 {
		bad := bytes.Clone(sig)
		bad[i/8] ^= 1 << (i % 8)
		refused(t, "flipped bit", nil, v.Verify(ctx, msg, bad))
	}
}

// TestSignTypeBorder moves a byte from the type to the front of the message:
// the two must not sign alike.
func TestSignTypeBorder(t *testing.T) {
	s := crypto.NewSigner()
	sig := s.Sign(crypto.Context{Type: "ab"}, []byte("c"))
	refused(t, "moved border", nil, s.Verifier().Verify(crypto.Context{Type: "a"}, []byte("bc"), sig))
}

func TestParseSigningKeysRefuses(t *testing.T) {
	s := crypto.NewSigner()
	for what, parse := range map[string]func([]byte) error{
		"signer":   func(b []byte) error { _, err := crypto.ParseSigner(b); return err },
		"verifier": func(b []byte) error { _, err := crypto.ParseVerifier(b); return err },
	} {
		good := s.Bytes()
		if what == "verifier" {
			good = s.Verifier().Bytes()
		}
		if err := parse(good); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		for n := range good {
			if parse(good[:n]) == nil {
				t.Errorf("%s of %d bytes was accepted", what, n)
			}
		}
		if parse(append(bytes.Clone(good), 0)) == nil {
			t.Errorf("extended %s was accepted", what)
		}
		for _, alg := range []uint16{0, 2, 0x100} {
			bad := bytes.Clone(good)
			binary.BigEndian.PutUint16(bad, alg)
			if parse(bad) == nil {
				t.Errorf("%s of algorithm %d was accepted", what, alg)
			}
		}
	}
}

func TestParseVerifierCopies(t *testing.T) {
	s := crypto.NewSigner()
	b := s.Verifier().Bytes()
	v, err := crypto.ParseVerifier(b)
	if err != nil {
		t.Fatal(err)
	}
	clear(b)
	if err := v.Verify(testContext(), nil, s.Sign(testContext(), nil)); err != nil {
		t.Error("the verifier shares memory with its caller")
	}
}

func TestFingerprintForm(t *testing.T) {
	f := crypto.NewSigner().Verifier().Fingerprint()
	if !regexp.MustCompile(`^[a-z2-7]{4}(-[a-z2-7]{4}){7}$`).MatchString(f) {
		t.Error(f)
	}
}
