package crypto_test

import (
	"bytes"
	"encoding/hex"
	"reflect"
	"strings"
	"testing"

	"embassy/crypto"
)

func id(b byte) (id crypto.ID) {
	for i := range id {
		id[i] = b
	}
	return id
}

func testContext() crypto.Context {
	return crypto.Context{
		Type: "pack", Nation: id(1), Compartment: id(2), Agent: id(3), Chain: id(4), Epoch: 5,
	}
}

// otherContexts returns contexts that each differ from testContext in one
// field, by the field's name.
func otherContexts(t *testing.T) map[string]crypto.Context {
	t.Helper()
	others := make(map[string]crypto.Context)
	for _, f := range reflect.VisibleFields(reflect.TypeFor[crypto.Context]()) {
		c := testContext()
		v := reflect.ValueOf(&c).Elem().FieldByIndex(f.Index)
		switch v.Kind() {
		case reflect.String:
			v.SetString(v.String() + "t")
		case reflect.Array:
			v.Index(15).SetUint(v.Index(15).Uint() ^ 1)
		case reflect.Uint32:
			v.SetUint(v.Uint() + 1)
		default:
			t.Fatalf("no change known for field %s", f.Name)
		}
		others[f.Name] = c
	}
	if len(others) != 6 {
		t.Fatalf("%d fields in Context, want 6", len(others))
	}
	return others
}

func secret(t testing.TB, b byte) *crypto.Secret {
	t.Helper()
	s, err := crypto.SecretFromBytes(bytes.Repeat([]byte{b}, crypto.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestContextEncode(t *testing.T) {
	want := hex.EncodeToString([]byte("embassy/v1")) + "00" + "0004" + hex.EncodeToString([]byte("pack")) + "0001" +
		strings.Repeat("01", 16) + strings.Repeat("02", 16) + strings.Repeat("03", 16) + strings.Repeat("04", 16) +
		"00000005"
	if got := hex.EncodeToString(testContext().Encode()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestContextEncodeTellsFieldsApart(t *testing.T) {
	seen := map[string]string{string(testContext().Encode()): "none"}
	for field, ctx := range otherContexts(t) {
		e := string(ctx.Encode())
		if other, ok := seen[e]; ok {
			t.Errorf("contexts changed in %s and in %s encode alike", field, other)
		}
		seen[e] = field
	}
}

func TestContextTypeTooLong(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	crypto.Context{Type: strings.Repeat("x", 1<<16)}.Encode()
}
