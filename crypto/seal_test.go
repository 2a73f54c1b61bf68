package crypto_test

import (
	"bytes"
	"errors"
	"testing"

	"embassy/crypto"
)

// refused checks that a seal or signature was refused with the one error there
// is, and no plaintext.
func refused(t *testing.T, how string, plaintext []byte, err error) {
	t.Helper()
	if !errors.Is(err, crypto.ErrAuthentication) {
		t.Errorf("%s: %v, want ErrAuthentication", how, err)
	}
	if plaintext != nil {
		t.Errorf("%s: %d bytes come with the error", how, len(plaintext))
	}
}

func TestSealKey(t *testing.T) {
	s, ctx := crypto.NewSecret(), testContext()
	k, salt, commitment, err := crypto.NewSealKey(s, ctx)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := crypto.OpenSealKey(s, ctx, salt, commitment)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, 15, 16, 17, 65536} {
		plaintext, aad, nonce := bytes.Repeat([]byte{9}, n), []byte("header"), uint64(n)<<40|7
		sealed := k.Seal([]byte("prefix"), nonce, plaintext, aad)
		if len(sealed) != len("prefix")+n+crypto.TagSize {
			t.Fatalf("%d bytes seal to %d", n, len(sealed))
		}
		sealed = sealed[len("prefix"):]
		got, err := opened.Open([]byte("p"), nonce, sealed, aad)
		if err != nil || !bytes.Equal(got, append([]byte("p"), plaintext...)) {
			t.Fatalf("%d bytes do not come back: %v", n, err)
		}

		p, err := opened.Open(nil, nonce+1, sealed, aad)
		refused(t, "other nonce", p, err)
		p, err = opened.Open(nil, nonce^1<<63, sealed, aad)
		refused(t, "other nonce, high bit", p, err)
		p, err = opened.Open(nil, nonce, sealed, []byte("headeR"))
		refused(t, "other aad", p, err)
		p, err = opened.Open(nil, nonce, sealed, nil)
		refused(t, "no aad", p, err)
		p, err = opened.Open(nil, nonce, sealed[:len(sealed)-1], aad)
		refused(t, "cut", p, err)
		p, err = opened.Open(nil, nonce, append(sealed, 0), aad)
		refused(t, "extended", p, err)
		other, _, _, err := crypto.NewSealKey(s, ctx)
		if err != nil {
			t.Fatal(err)
		}
		p, err = other.Open(nil, nonce, sealed, aad)
		refused(t, "key of another salt", p, err)
	}
}

func TestSealKeyInPlace(t *testing.T) {
	k, _, _, err := crypto.NewSealKey(crypto.NewSecret(), testContext())
	if err != nil {
		t.Fatal(err)
	}
	want := []byte("the quick brown fox jumps over the lazy dog")
	buf := append(make([]byte, 0, len(want)+crypto.TagSize), want...)
	sealed := k.Seal(buf[:0], 1, buf, nil)
	if &sealed[0] != &buf[0] {
		t.Error("sealed elsewhere although there was room")
	}
	if !bytes.Equal(sealed, k.Seal(nil, 1, want, nil)) {
		t.Error("sealed in place differs")
	}
	opened, err := k.Open(sealed[:0], 1, sealed, nil)
	if err != nil {
		t.Fatal(err)
	}
	if &opened[0] != &buf[0] || !bytes.Equal(opened, want) {
		t.Errorf("opened in place: %q", opened)
	}

	sealed = k.Seal(buf[:0], 2, opened, nil)
	sealed[3] ^= 1
	p, err := k.Open(sealed[:0], 2, sealed, nil)
	refused(t, "flipped bit", p, err)
	if bytes.Contains(sealed, want[8:]) {
		t.Error("an in-place Open that failed left plaintext behind")
	}
}

func TestOpenSealKeyRefuses(t *testing.T) {
	s, ctx := crypto.NewSecret(), testContext()
	_, salt, commitment, err := crypto.NewSealKey(s, ctx)
	if err != nil {
		t.Fatal(err)
	}
	open := func(how string, s *crypto.Secret, ctx crypto.Context, salt, commitment [32]byte) {
		t.Helper()
		k, err := crypto.OpenSealKey(s, ctx, salt, commitment)
		refused(t, how, nil, err)
		if k != nil {
			t.Errorf("%s: a key comes with the error", how)
		}
	}
	open("other secret", crypto.NewSecret(), ctx, salt, commitment)
	for field, other := range otherContexts(t) {
		open("other "+field, s, other, salt, commitment)
	}
	for i := range 32 {
		bad := salt
		bad[i] ^= 1
		open("other salt", s, ctx, bad, commitment)
		bad = commitment
		bad[i] ^= 0x80
		open("other commitment", s, ctx, salt, bad)
	}
}

func TestNewSealKeySaltsDiffer(t *testing.T) {
	s := secret(t, 1)
	_, salt1, commitment1, err1 := crypto.NewSealKey(s, testContext())
	_, salt2, commitment2, err2 := crypto.NewSealKey(s, testContext())
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if salt1 == salt2 || commitment1 == commitment2 {
		t.Error("two keys share a salt or a commitment")
	}
}

func TestBox(t *testing.T) {
	s, ctx, aad := crypto.NewSecret(), testContext(), []byte("aad")
	for _, plaintext := range [][]byte{nil, []byte("x"), bytes.Repeat([]byte("nation"), 1000)} {
		box, err := crypto.SealBox(s, ctx, plaintext, aad)
		if err != nil {
			t.Fatal(err)
		}
		if len(box) != len(plaintext)+crypto.BoxOverhead {
			t.Errorf("%d bytes seal to %d", len(plaintext), len(box))
		}
		before := bytes.Clone(box)
		got, err := crypto.OpenBox(s, ctx, box, aad)
		if err != nil || !bytes.Equal(got, plaintext) {
			t.Errorf("got %q, %v", got, err)
		}
		if !bytes.Equal(box, before) {
			t.Error("OpenBox wrote into the box")
		}
	}
}

func TestOpenBoxRefuses(t *testing.T) {
	s, ctx, aad := crypto.NewSecret(), testContext(), []byte("aad")
	box, err := crypto.SealBox(s, ctx, []byte("plaintext"), aad)
	if err != nil {
		t.Fatal(err)
	}
	open := func(how string, s *crypto.Secret, ctx crypto.Context, box, aad []byte) {
		t.Helper()
		p, err := crypto.OpenBox(s, ctx, box, aad)
		refused(t, how, p, err)
	}
	open("other secret", crypto.NewSecret(), ctx, box, aad)
	open("other aad", s, ctx, box, []byte("aae"))
	open("no aad", s, ctx, box, nil)
	for field, other := range otherContexts(t) {
		open("other "+field, s, other, box, aad)
	}
	for n := range box {
		open("cut", s, ctx, box[:n], aad)
	}
	open("extended", s, ctx, append(bytes.Clone(box), 0), aad)
	for i := range len(box) * 8 {
		bad := bytes.Clone(box)
		bad[i/8] ^= 1 << (i % 8)
		open("flipped bit", s, ctx, bad, aad)
	}
}

func BenchmarkSealKey(b *testing.B) {
	k, _, _, err := crypto.NewSealKey(crypto.NewSecret(), testContext())
	if err != nil {
		b.Fatal(err)
	}
	buf, aad := make([]byte, 1<<20, 1<<20+crypto.TagSize), make([]byte, 32)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for n := uint64(0); b.Loop(); n++ {
		k.Seal(buf[:0], n, buf, aad)
	}
}
