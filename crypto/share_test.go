package crypto_test

import (
	"bytes"
	"errors"
	"testing"

	"pgregory.net/rapid"

	"embassy/crypto"
)

// Any quorum of the shares is the root, one share less is nothing, and neither
// is a quorum with a wrong value in it.
func TestSplitRoot(t *testing.T) {
	ctx := crypto.Context{Type: "test", Chain: crypto.ID{1}}
	noScalar, err := crypto.SecretFromBytes(bytes.Repeat([]byte{0xff}, crypto.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, crypto.MaxShares).Draw(t, "n")
		quorum := rapid.IntRange(2, n).Draw(t, "quorum")
		root := crypto.NewRoot()
		values, sealed, err := crypto.SplitRoot(root, ctx, quorum, n)
		if err != nil || len(values) != n || len(sealed) != crypto.SealedRootSize {
			t.Fatalf("%d values, %d bytes, %v", len(values), len(sealed), err)
		}
		order := make([]int, n)
		for i := range order {
			order[i] = i
		}
		order = rapid.Permutation(order).Draw(t, "order")
		take := func(count int) map[int]*crypto.Secret {
			m := map[int]*crypto.Secret{}
			for _, i := range order[:count] {
				m[i+1] = values[i]
			}
			return m
		}
		for _, count := range []int{quorum, n} {
			got, err := crypto.JoinRoot(take(count), sealed, ctx)
			if err != nil || !got.Equal(&root.Secret) {
				t.Fatalf("%d of %d, quorum %d: %v", count, n, quorum, err)
			}
		}
		refused := func(what string, values map[int]*crypto.Secret, sealed []byte, ctx crypto.Context) {
			if got, err := crypto.JoinRoot(values, sealed, ctx); got != nil || !errors.Is(err, crypto.ErrAuthentication) {
				t.Fatalf("%s: %v", what, err)
			}
		}
		refused("one too few", take(quorum-1), sealed, ctx)
		wrong := take(quorum)
		wrong[order[0]+1] = values[order[1]]
		refused("one value twice", wrong, sealed, ctx)
		refused("another context", take(quorum), sealed, crypto.Context{Type: "test"})
		other := append([]byte{}, sealed...)
		other[rapid.IntRange(0, len(other)-1).Draw(t, "at")] ^= 1
		refused("an altered seal", take(quorum), other, ctx)
		wrong[order[0]+1] = noScalar
		refused("no scalar", wrong, sealed, ctx)
	})
}

func TestCheckQuorum(t *testing.T) {
	for _, tt := range []struct {
		quorum, n int
		fit       bool
	}{{2, 2, true}, {3, 5, true}, {32, 32, true}, {1, 5, false}, {0, 0, false}, {6, 5, false}, {3, 33, false}, {-1, 5, false}} {
		_, _, err := crypto.SplitRoot(crypto.NewRoot(), crypto.Context{}, tt.quorum, tt.n)
		if (err == nil) != tt.fit {
			t.Errorf("%d of %d: %v", tt.quorum, tt.n, err)
		}
	}
}
