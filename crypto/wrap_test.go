package crypto_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"runtime"
	"testing"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"

	"embassy/crypto"
)

// cheap makes wrapping fast enough for tests.
var cheap = crypto.WrapParams{Time: 1, MemoryKiB: 64, Threads: 2}

func wrap(t *testing.T, r *crypto.Root) crypto.Wrapped {
	t.Helper()
	w, err := cheap.WrapRoot(r, []byte("passphrase"), testContext())
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestWrapRoot(t *testing.T) {
	r := crypto.NewRoot()
	w := wrap(t, r)
	got, err := crypto.UnwrapRoot(w, []byte("passphrase"), testContext())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), r.Bytes()) {
		t.Error("another root comes back")
	}
	again := wrap(t, r)
	if bytes.Equal(w.Salt, again.Salt) || bytes.Equal(w.Nonce, again.Nonce) {
		t.Error("two wrappings share a salt or a nonce")
	}
}

func TestWrapRootDefaults(t *testing.T) {
	r := crypto.NewRoot()
	w, err := crypto.WrapRoot(r, []byte("passphrase"), testContext())
	if err != nil {
		t.Fatal(err)
	}
	if w.Time != 3 || w.MemoryKiB != 256<<10 || w.Threads != 4 {
		t.Errorf("defaults are %d, %d KiB, %d", w.Time, w.MemoryKiB, w.Threads)
	}
	got, err := crypto.UnwrapRoot(w, []byte("passphrase"), testContext())
	if err != nil || !bytes.Equal(got.Bytes(), r.Bytes()) {
		t.Errorf("the root does not come back: %v", err)
	}
}

func TestUnwrapRootRefuses(t *testing.T) {
	w := wrap(t, crypto.NewRoot())
	unwrap := func(how string, w crypto.Wrapped, passphrase string, ctx crypto.Context) {
		t.Helper()
		r, err := crypto.UnwrapRoot(w, []byte(passphrase), ctx)
		refused(t, how, nil, err)
		if r != nil {
			t.Errorf("%s: a root comes with the error", how)
		}
	}
	for _, p := range []string{"", "passphras", "passphrasf", "passphrase ", "Passphrase"} {
		unwrap("passphrase "+p, w, p, testContext())
	}
	for field, ctx := range otherContexts(t) {
		unwrap("other "+field, w, "passphrase", ctx)
	}
	for how, change := range map[string]func(*crypto.Wrapped){
		"time":       func(w *crypto.Wrapped) { w.Time++ },
		"memory":     func(w *crypto.Wrapped) { w.MemoryKiB++ }, // rounded away by Argon2, so only bound by the seal
		"threads":    func(w *crypto.Wrapped) { w.Threads-- },
		"salt":       func(w *crypto.Wrapped) { w.Salt = flip(w.Salt) },
		"nonce":      func(w *crypto.Wrapped) { w.Nonce = flip(w.Nonce) },
		"ciphertext": func(w *crypto.Wrapped) { w.Ciphertext = flip(w.Ciphertext) },
	} {
		bad := w
		change(&bad)
		unwrap("other "+how, bad, "passphrase", testContext())
	}
}

func flip(b []byte) []byte {
	b = bytes.Clone(b)
	b[len(b)-1] ^= 1
	return b
}

// wrapByHand is a second implementation of the documented layout, without
// bounds.
func wrapByHand(time, memory uint32, threads uint8, root, passphrase []byte) crypto.Wrapped {
	salt, nonce := bytes.Repeat([]byte{5}, 16), bytes.Repeat([]byte{6}, 24)
	aad := testContext().Encode()
	aad = binary.BigEndian.AppendUint32(aad, time)
	aad = binary.BigEndian.AppendUint32(aad, memory)
	aad = append(append(aad, threads), salt...)
	c, err := chacha20poly1305.NewX(argon2.IDKey(passphrase, salt, time, memory, threads, 32))
	if err != nil {
		panic(err)
	}
	return crypto.Wrapped{
		Time: time, MemoryKiB: memory, Threads: threads,
		Salt: salt, Nonce: nonce, Ciphertext: c.Seal(nil, nonce, root, aad),
	}
}

// TestUnwrapRootBounds uses wrappings that are right in all but their cost.
func TestUnwrapRootBounds(t *testing.T) {
	root, pass := bytes.Repeat([]byte{1}, 32), []byte("passphrase")
	for _, c := range []struct {
		name         string
		time, memory uint32
		threads      uint8
		ok           bool
	}{
		{"most passes", 16, 64, 1, true},
		{"too many passes", 17, 64, 1, false},
		{"most threads", 1, 8 * 64, 64, true},
		{"too many threads", 1, 8 * 65, 65, false},
		{"least memory", 1, 16, 2, true},
		{"too little memory", 1, 15, 2, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := wrapByHand(c.time, c.memory, c.threads, root, pass)
			r, err := crypto.UnwrapRoot(w, pass, testContext())
			if !c.ok {
				refused(t, c.name, nil, err)
			} else if err != nil || !bytes.Equal(r.Bytes(), root) {
				t.Errorf("refused: %v", err)
			}
		})
	}
}

// TestUnwrapRootHostile gives costs and sizes that no WrapRoot writes. Argon2
// would take at least 64 MiB for each; nothing may be allocated.
func TestUnwrapRootHostile(t *testing.T) {
	const memory = 64 << 10
	ok := wrap(t, crypto.NewRoot())
	for name, w := range map[string]crypto.Wrapped{
		"zero":             {},
		"no passes":        {Time: 0, MemoryKiB: memory, Threads: 1},
		"no threads":       {Time: 1, MemoryKiB: memory, Threads: 0},
		"17 passes":        {Time: 17, MemoryKiB: memory, Threads: 1},
		"all passes":       {Time: 1<<32 - 1, MemoryKiB: memory, Threads: 1},
		"65 threads":       {Time: 1, MemoryKiB: memory, Threads: 65},
		"above 2 GiB":      {Time: 1, MemoryKiB: 2<<20 + 1, Threads: 1},
		"all memory":       {Time: 1, MemoryKiB: 1<<32 - 1, Threads: 1},
		"no salt":          {Time: 1, MemoryKiB: memory, Threads: 1, Salt: []byte{}},
		"short salt":       {Time: 1, MemoryKiB: memory, Threads: 1, Salt: ok.Salt[:15]},
		"no nonce":         {Time: 1, MemoryKiB: memory, Threads: 1, Nonce: []byte{}},
		"long nonce":       {Time: 1, MemoryKiB: memory, Threads: 1, Nonce: make([]byte, 25)},
		"no ciphertext":    {Time: 1, MemoryKiB: memory, Threads: 1, Ciphertext: []byte{}},
		"short ciphertext": {Time: 1, MemoryKiB: memory, Threads: 1, Ciphertext: ok.Ciphertext[:47]},
		"long ciphertext":  {Time: 1, MemoryKiB: memory, Threads: 1, Ciphertext: make([]byte, 49)},
	} {
		t.Run(name, func(t *testing.T) {
			if w.Salt == nil {
				w.Salt = ok.Salt
			}
			if w.Nonce == nil {
				w.Nonce = ok.Nonce
			}
			if w.Ciphertext == nil {
				w.Ciphertext = ok.Ciphertext
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := crypto.UnwrapRoot(w, []byte("passphrase"), testContext())
			runtime.ReadMemStats(&after)
			refused(t, name, nil, err)
			if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
				t.Errorf("%d bytes were allocated first", n)
			}
		})
	}
}

func TestWrapRootRefuses(t *testing.T) {
	r := crypto.NewRoot()
	if _, err := cheap.WrapRoot(r, nil, testContext()); err == nil {
		t.Error("an empty passphrase was accepted")
	}
	_, err := crypto.WrapParams{Time: 17, MemoryKiB: 64, Threads: 1}.WrapRoot(r, []byte("p"), testContext())
	if err == nil || errors.Is(err, crypto.ErrAuthentication) {
		t.Errorf("a cost that nobody can unwrap: %v", err)
	}
}
