package crypto_test

import (
	"bytes"
	"encoding/base64"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"embassy/crypto"
)

func TestSecretFromBytes(t *testing.T) {
	for _, n := range []int{0, 16, 31, 33, 64} {
		if _, err := crypto.SecretFromBytes(make([]byte, n)); err == nil {
			t.Errorf("%d bytes were accepted", n)
		}
	}
	b := bytes.Repeat([]byte{7}, crypto.KeySize)
	s, err := crypto.SecretFromBytes(b)
	if err != nil {
		t.Fatal(err)
	}
	clear(b)
	s.Bytes()[0] = 0
	if !bytes.Equal(s.Bytes(), bytes.Repeat([]byte{7}, crypto.KeySize)) {
		t.Error("the secret shares memory with its caller")
	}
}

func TestSecretWipe(t *testing.T) {
	s := crypto.NewSecret()
	s.Wipe()
	if !bytes.Equal(s.Bytes(), make([]byte, crypto.KeySize)) {
		t.Error("bytes are left after Wipe")
	}
}

func TestSecretEqual(t *testing.T) {
	if !secret(t, 1).Equal(secret(t, 1)) {
		t.Error("equal secrets differ")
	}
	if secret(t, 1).Equal(secret(t, 2)) || crypto.NewSecret().Equal(crypto.NewSecret()) {
		t.Error("different secrets are equal")
	}
}

func TestSecretDerive(t *testing.T) {
	s, ctx := secret(t, 1), testContext()
	want := s.Derive("label", ctx)
	if !want.Equal(s.Derive("label", ctx)) {
		t.Error("not deterministic")
	}
	if want.Equal(s.Derive("labem", ctx)) {
		t.Error("label is not bound")
	}
	if want.Equal(secret(t, 2).Derive("label", ctx)) {
		t.Error("secret is not bound")
	}
	for field, other := range otherContexts(t) {
		if want.Equal(s.Derive("label", other)) {
			t.Errorf("%s is not bound", field)
		}
	}
}

// nested holds what it is given in an exported and an unexported field.
type nested struct {
	Public any
	hidden any
}

// TestRedaction puts every secret type through everything that prints or
// encodes, and looks for its bytes in whatever notation.
func TestRedaction(t *testing.T) {
	agent, err := crypto.NewAgentKey()
	if err != nil {
		t.Fatal(err)
	}
	s, root := crypto.NewSecret(), crypto.NewRoot()
	for name, c := range map[string]struct {
		pointer, value any
		bytes          []byte
	}{
		"Secret":   {s, *s, s.Bytes()},
		"Root":     {root, *root, root.Bytes()},
		"Identity": {agent.Identity, *agent.Identity, agent.Identity.Bytes()},
		"Signer":   {agent.Signer, *agent.Signer, agent.Signer.Bytes()[2:]},
		"AgentKey": {agent, *agent, agent.Marshal()[36:]},
	} {
		t.Run(name, func(t *testing.T) {
			check := func(how, out string) {
				t.Helper()
				if leak := leaked(out, c.bytes); leak != "" {
					t.Errorf("%s shows the secret as %s: %s", how, leak, out)
				}
			}
			redacted := func(how, out string) {
				t.Helper()
				check(how, out)
				if !strings.Contains(out, "[redacted]") {
					t.Errorf("%s does not say that it redacts: %s", how, out)
				}
			}
			for _, v := range []any{c.pointer, c.value} {
				for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%q", "%d", "%08b"} {
					redacted(verb, fmt.Sprintf(verb, v))
					redacted(verb+" in a slice", fmt.Sprintf(verb, []any{v}))
					redacted(verb+" in a struct", fmt.Sprintf(verb, nested{Public: v}))
				}
				redacted("String", v.(fmt.Stringer).String())
				redacted("GoString", v.(fmt.GoStringer).GoString())
				for how, h := range map[string]func(io.Writer, *slog.HandlerOptions) slog.Handler{
					"slog text": func(w io.Writer, o *slog.HandlerOptions) slog.Handler { return slog.NewTextHandler(w, o) },
					"slog json": func(w io.Writer, o *slog.HandlerOptions) slog.Handler { return slog.NewJSONHandler(w, o) },
				} {
					var out strings.Builder
					slog.New(h(&out, nil)).Info("x", "key", v)
					redacted(how, out.String())
					out.Reset()
					slog.New(h(&out, nil)).Info("x", "in", nested{Public: v})
					check(how+" in a struct", out.String())
				}
				if out, err := json.Marshal(v); err == nil {
					t.Errorf("json encoded it: %s", out)
				}
				if out, err := json.Marshal(nested{Public: v}); err == nil {
					t.Errorf("json encoded it in a struct: %s", out)
				}
				if out, err := cbor.Marshal(nested{Public: v}); err == nil {
					t.Errorf("CBOR encoded it: %x", out)
				}
				if err := gob.NewEncoder(io.Discard).Encode(v); err == nil {
					t.Error("gob encoded it")
				}
			}
			check("%+v of an unexported pointer", fmt.Sprintf("%+v %#v", nested{hidden: c.pointer}, nested{hidden: c.pointer}))
		})
	}
}

// TestEveryTypeIsSecretOrPublic fails for a new type until it is said whether it
// holds a secret: then it embeds redacted, itself or through another type, and
// belongs into TestRedaction.
func TestEveryTypeIsSecretOrPublic(t *testing.T) {
	secrets := []string{"AgentKey", "Identity", "Root", "SealKey", "Secret", "Signer"}
	public := []string{"Context", "Recipient", "Verifier", "WrapParams", "Wrapped"}
	paths, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok || !spec.Name.IsExported() {
				return true
			}
			fields, ok := spec.Type.(*ast.StructType)
			if !ok {
				return true
			}
			found = append(found, spec.Name.Name)
			redacts := slices.ContainsFunc(fields.Fields.List, func(f *ast.Field) bool {
				id, ok := f.Type.(*ast.Ident)
				return ok && len(f.Names) == 0 && (id.Name == "redacted" || slices.Contains(secrets, id.Name))
			})
			if redacts != slices.Contains(secrets, spec.Name.Name) {
				t.Errorf("%s: redacts itself: %v, and is among the secrets: %v", spec.Name.Name, redacts, !redacts)
			}
			return true
		})
	}
	slices.Sort(found)
	want := slices.Sorted(slices.Values(slices.Concat(secrets, public)))
	if !slices.Equal(found, want) {
		t.Errorf("package crypto has the types %q, and this test knows %q", found, want)
	}
}

func TestSealKeyRedaction(t *testing.T) {
	k, _, _, err := crypto.NewSealKey(crypto.NewSecret(), testContext())
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("%v %+v %#v %x", k, k, *k, *k); got != strings.Repeat("[redacted] ", 3)+"[redacted]" {
		t.Error(got)
	}
}

// leaked returns the notation in which out shows eight bytes of b in a row.
func leaked(out string, b []byte) string {
	for i := 0; i+8 <= len(b); i++ {
		w := b[i : i+8]
		for how, text := range map[string]string{
			"raw bytes": string(w),
			"hex":       hex.EncodeToString(w),
			"HEX":       strings.ToUpper(hex.EncodeToString(w)),
			"decimal":   strings.Trim(fmt.Sprint(w), "[]"),
			"go syntax": strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", w), "[]byte{"), "}"),
			"base64":    base64.RawStdEncoding.EncodeToString(w[:6]),
		} {
			if strings.Contains(out, text) {
				return how
			}
		}
	}
	return ""
}

func TestLeakedFindsLeaks(t *testing.T) {
	b := secret(t, 0xa7).Bytes()
	for _, format := range []string{"%s", "%x", "%X", "%v", "%#v"} {
		if leaked(fmt.Sprintf(format, b), b) == "" {
			t.Errorf("a leak through %s is not seen", format)
		}
	}
	if leaked(base64.StdEncoding.EncodeToString(b), b) == "" {
		t.Error("a leak through base64 is not seen")
	}
}
