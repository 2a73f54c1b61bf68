package format_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/hpke"
	"crypto/sha256"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"

	"embassy/crypto"
	"embassy/embassy/format"
)

var someContext = crypto.Context{Type: "example", Nation: crypto.ID{1}, Compartment: crypto.ID{2}, Agent: crypto.ID{3}, Chain: crypto.ID{4}, Epoch: 5}

// algorithms are what the suite is made of, and docs/THREAT-MODEL.md says so in
// these words. Each is named by the second implementation that opens what
// was sealed, so a name that is not true fails.
var algorithms = []struct {
	purpose string
	open    func(t *testing.T) string // returns the name, with ids and sizes in bits
}{
	{"suite", func(*testing.T) string { return fmt.Sprintf("id %d", crypto.SuiteV1) }},
	{"sealing", func(t *testing.T) string {
		s, ctx, plain := secretOf(1), someContext, []byte("plain")
		box, err := crypto.SealBox(s, ctx, plain, []byte("aad"))
		if err != nil {
			t.Fatal(err)
		}
		salt, commitment, sealed := box[:32], box[32:64], box[64:]
		derived, err := hkdf.Key(sha256.New, s.Bytes(), salt, string(ctx.Encode()), 64)
		if err != nil {
			t.Fatal(err)
		}
		key := derived[:32]
		block, err := aes.NewCipher(key)
		if err != nil {
			t.Fatal(err)
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			t.Fatal(err)
		}
		got, err := aead.Open(nil, make([]byte, aead.NonceSize()), sealed, []byte("aad"))
		if err != nil || !bytes.Equal(got, plain) || !bytes.Equal(commitment, derived[32:]) {
			t.Fatalf("not what was sealed: %v", err)
		}
		return fmt.Sprintf("AES-%d-GCM, nonce %d, tag %d; key and %d-bit commitment by HKDF-SHA-%d from a %d-bit salt",
			len(key)*8, aead.NonceSize()*8, aead.Overhead()*8, len(commitment)*8, sha256.Size*8, len(salt)*8)
	}},
	{"recipients", func(t *testing.T) string {
		id, err := crypto.NewIdentity()
		if err != nil {
			t.Fatal(err)
		}
		sealed, err := id.Recipient().Seal(someContext, []byte("plain"))
		if err != nil {
			t.Fatal(err)
		}
		kem, kdf, aead := hpke.MLKEM768X25519(), hpke.HKDFSHA256(), hpke.AES256GCM()
		key, err := kem.NewPrivateKey(id.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if got, err := hpke.Open(key, kdf, aead, someContext.Encode(), sealed); err != nil || string(got) != "plain" {
			t.Fatalf("HPKE opens %q, %v", got, err)
		}
		return fmt.Sprintf("HPKE: KEM MLKEM768-X25519 (0x%04x), HKDF-SHA-256 (0x%04x), AES-256-GCM (0x%04x); public key %d, encapsulated key %d",
			kem.ID(), kdf.ID(), aead.ID(), len(id.Recipient().Bytes())*8, (len(sealed)-len("plain")-crypto.TagSize)*8)
	}},
	{"signatures", func(t *testing.T) string {
		s, ctx := crypto.NewSigner(), someContext
		seed, public, sig := s.Bytes(), s.Verifier().Bytes(), s.Sign(ctx, []byte("message"))
		msg := append(append([]byte("embassy/v1 signature\x00"), ctx.Encode()...), "message"...)
		if !bytes.Equal(ed25519.NewKeyFromSeed(seed[2:]).Public().(ed25519.PublicKey), public[2:]) || !ed25519.Verify(public[2:], msg, sig[2:]) {
			t.Fatal("Ed25519 does not verify it")
		}
		return fmt.Sprintf("Ed25519 (algorithm %d), public key %d, signature %d", int(sig[0])<<8|int(sig[1]), len(public[2:])*8, len(sig[2:])*8)
	}},
	{"derivation", func(t *testing.T) string {
		s, ctx := secretOf(1), someContext
		want, err := hkdf.Key(sha256.New, s.Bytes(), nil, "label\x00"+string(ctx.Encode()), 32)
		if err != nil || !bytes.Equal(want, s.Derive("label", ctx).Bytes()) {
			t.Fatalf("another key: %v", err)
		}
		return fmt.Sprintf("HKDF-SHA-%d, keys of %d", sha256.Size*8, len(want)*8)
	}},
	{"chunk ids", func(t *testing.T) string {
		w := newWorld(t, 0)
		mac := hmac.New(sha256.New, w.derived("chunk id").Bytes())
		mac.Write([]byte("plain"))
		if id := w.writer.Hasher().ID([]byte("plain")); !bytes.Equal(mac.Sum(nil), id[:]) {
			t.Fatal("another id")
		}
		return fmt.Sprintf("HMAC-SHA-%d under a key of the compartment", mac.Size()*8)
	}},
	{"object names", func(t *testing.T) string {
		if format.HashOf([]byte("object")) != sha256.Sum256([]byte("object")) {
			t.Fatal("another hash")
		}
		return fmt.Sprintf("SHA-%d", sha256.Size*8)
	}},
	{"passphrase", func(t *testing.T) string {
		root := crypto.NewRoot()
		w, err := crypto.WrapRoot(root, []byte("passphrase"), someContext)
		if err != nil {
			t.Fatal(err)
		}
		key := argon2.IDKey([]byte("passphrase"), w.Salt, w.Time, w.MemoryKiB, w.Threads, 32)
		aead, err := chacha20poly1305.NewX(key)
		if err != nil {
			t.Fatal(err)
		}
		aad := append(someContext.Encode(), 0, 0, 0, byte(w.Time), byte(w.MemoryKiB>>24), byte(w.MemoryKiB>>16), byte(w.MemoryKiB>>8), byte(w.MemoryKiB), w.Threads)
		if got, err := aead.Open(nil, w.Nonce, w.Ciphertext, append(aad, w.Salt...)); err != nil || !bytes.Equal(got, root.Bytes()) {
			t.Fatalf("not what was wrapped: %v", err)
		}
		return fmt.Sprintf("Argon2id, %d passes, %d MiB, %d lanes, salt %d; XChaCha20-Poly1305, key %d, nonce %d",
			w.Time, w.MemoryKiB>>10, w.Threads, len(w.Salt)*8, len(key)*8, len(w.Nonce)*8)
	}},
}

// TestAlgorithms compares the algorithms that are used with the table in
// docs/THREAT-MODEL.md: the page must not drift from the code.
func TestAlgorithms(t *testing.T) {
	page, err := os.ReadFile("../../docs/THREAT-MODEL.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(page), "\n## Algorithms\n")
	if section, _, _ = strings.Cut(section, "\n## "); !found {
		t.Fatal("the page has no section on algorithms")
	}
	documented := map[string]string{}
	for line := range strings.Lines(section) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 4 {
			continue
		}
		for i := range cells {
			if cells[i] = strings.TrimSpace(cells[i]); cells[i] == "" {
				t.Errorf("a cell is empty: %s", line)
			}
		}
		documented[cells[0]] = cells[1]
	}
	for _, a := range algorithms {
		if want := a.open(t); documented[a.purpose] != want {
			t.Errorf("docs/THREAT-MODEL.md names for %s: %q\nand what is used is       %q", a.purpose, documented[a.purpose], want)
		}
	}
}
