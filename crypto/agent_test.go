package crypto_test

import (
	"bytes"
	"testing"

	"embassy/crypto"
)

func TestAgentKey(t *testing.T) {
	k, err := crypto.NewAgentKey()
	if err != nil {
		t.Fatal(err)
	}
	b := k.Marshal()
	got, err := crypto.ParseAgentKey(b)
	if err != nil {
		t.Fatal(err)
	}
	if got.ID() != k.ID() || !bytes.Equal(got.Marshal(), b) {
		t.Error("another key comes back")
	}
	if err := k.Signer.Verifier().Verify(testContext(), []byte("m"), got.Signer.Sign(testContext(), []byte("m"))); err != nil {
		t.Error(err)
	}
	sealed, err := k.Identity.Recipient().Seal(testContext(), []byte("writer secret"))
	if err != nil {
		t.Fatal(err)
	}
	if p, err := got.Identity.Open(testContext(), sealed); err != nil || string(p) != "writer secret" {
		t.Errorf("got %q, %v", p, err)
	}

	for n := range b {
		if _, err := crypto.ParseAgentKey(b[:n]); err == nil {
			t.Errorf("%d bytes were accepted", n)
		}
	}
	if _, err := crypto.ParseAgentKey(append(bytes.Clone(b), 0)); err == nil {
		t.Error("an extended key was accepted")
	}
	for _, i := range []int{0, 1, 2, 3} {
		bad := bytes.Clone(b)
		bad[i] ^= 2
		if _, err := crypto.ParseAgentKey(bad); err == nil {
			t.Errorf("an unknown suite or algorithm was accepted, byte %d", i)
		}
	}
}

func TestAgentIDBindsBothKeys(t *testing.T) {
	a, err := crypto.NewAgentKey()
	if err != nil {
		t.Fatal(err)
	}
	b, err := crypto.NewAgentKey()
	if err != nil {
		t.Fatal(err)
	}
	if a.ID() == (&crypto.AgentKey{Signer: a.Signer, Identity: b.Identity}).ID() {
		t.Error("the identity is not bound")
	}
	if a.ID() == (&crypto.AgentKey{Signer: b.Signer, Identity: a.Identity}).ID() {
		t.Error("the signer is not bound")
	}
}
