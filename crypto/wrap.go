package crypto

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"
)

const (
	wrapSaltSize = 16

	// What UnwrapRoot accepts at most: a kit may be hostile.
	maxWrapTime      = 16
	maxWrapMemoryKiB = 2 << 20
	maxWrapThreads   = 64
)

// Wrapped is a root sealed under a passphrase. Its fields are public.
type Wrapped struct {
	Time       uint32 // Argon2id passes
	MemoryKiB  uint32 // Argon2id memory
	Threads    uint8  // Argon2id lanes
	Salt       []byte // 16 bytes
	Nonce      []byte // 24 bytes
	Ciphertext []byte // 48 bytes
}

// WrapParams is the cost of guessing a passphrase. A zero field takes its
// default.
type WrapParams struct {
	Time      uint32 // Argon2id passes; default 3
	MemoryKiB uint32 // Argon2id memory; default 256 MiB
	Threads   uint8  // Argon2id lanes; default 4
}

// WrapRoot wraps a root at the default cost. It refuses an empty passphrase.
func WrapRoot(r *Root, passphrase []byte, ctx Context) (Wrapped, error) {
	return WrapParams{}.WrapRoot(r, passphrase, ctx)
}

// WrapRoot wraps a root at this cost. It refuses an empty passphrase and a
// cost that UnwrapRoot would refuse.
//
// The key is Argon2id version 1.3 (passphrase, salt), 32 bytes; the root is
// sealed with XChaCha20-Poly1305, with the associated data ctx.Encode() ‖ u32
// time ‖ u32 memory in KiB ‖ u8 threads ‖ salt, integers big endian.
func (p WrapParams) WrapRoot(r *Root, passphrase []byte, ctx Context) (Wrapped, error) {
	if len(passphrase) == 0 {
		return Wrapped{}, errors.New("empty passphrase")
	}
	w := Wrapped{
		Time: p.Time, MemoryKiB: p.MemoryKiB, Threads: p.Threads,
		Salt: make([]byte, wrapSaltSize), Nonce: make([]byte, chacha20poly1305.NonceSizeX),
	}
	if w.Time == 0 {
		w.Time = 3
	}
	if w.MemoryKiB == 0 {
		w.MemoryKiB = 256 << 10
	}
	if w.Threads == 0 {
		w.Threads = 4
	}
	if err := w.checkCost(); err != nil {
		return Wrapped{}, err
	}
	must(rand.Read(w.Salt))
	must(rand.Read(w.Nonce))
	key := w.key(passphrase)
	defer clear(key)
	w.Ciphertext = must(chacha20poly1305.NewX(key)).Seal(nil, w.Nonce, r.b[:], w.aad(ctx))
	return w, nil
}

// UnwrapRoot returns the root that WrapRoot wrapped under this passphrase and
// context, or an error that wraps ErrAuthentication. A cost above 16 passes,
// 2 GiB or 64 threads, and fields of a wrong size, are refused before any work
// is done.
func UnwrapRoot(w Wrapped, passphrase []byte, ctx Context) (*Root, error) {
	if err := w.checkCost(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAuthentication, err)
	}
	if len(w.Salt) != wrapSaltSize || len(w.Nonce) != chacha20poly1305.NonceSizeX ||
		len(w.Ciphertext) != KeySize+chacha20poly1305.Overhead {
		return nil, fmt.Errorf("%w: the wrapped root is cut or extended", ErrAuthentication)
	}
	key := w.key(passphrase)
	defer clear(key)
	b, err := must(chacha20poly1305.NewX(key)).Open(nil, w.Nonce, w.Ciphertext, w.aad(ctx))
	if err != nil {
		return nil, ErrAuthentication
	}
	defer clear(b)
	return RootFromBytes(b)
}

func (w Wrapped) checkCost() error {
	if w.Time < 1 || w.Time > maxWrapTime {
		return fmt.Errorf("%d Argon2 passes, want 1 to %d", w.Time, maxWrapTime)
	}
	if w.Threads < 1 || w.Threads > maxWrapThreads {
		return fmt.Errorf("%d Argon2 threads, want 1 to %d", w.Threads, maxWrapThreads)
	}
	if low := 8 * uint32(w.Threads); w.MemoryKiB < low || w.MemoryKiB > maxWrapMemoryKiB {
		return fmt.Errorf("%d KiB of Argon2 memory, want %d to %d", w.MemoryKiB, low, maxWrapMemoryKiB)
	}
	return nil
}

func (w Wrapped) key(passphrase []byte) []byte {
	return argon2.IDKey(passphrase, w.Salt, w.Time, w.MemoryKiB, w.Threads, chacha20poly1305.KeySize)
}

func (w Wrapped) aad(ctx Context) []byte {
	b := ctx.Encode()
	b = binary.BigEndian.AppendUint32(b, w.Time)
	b = binary.BigEndian.AppendUint32(b, w.MemoryKiB)
	b = append(b, w.Threads)
	return append(b, w.Salt...)
}
