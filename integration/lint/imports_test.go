package lint_test

import (
	"slices"
	"strings"
	"testing"

	"embassy/integration/lint"
)

const root = "../.."

func TestModuleKeepsRules(t *testing.T) {
	pkgs, err := lint.Load(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	for _, broken := range lint.Check(pkgs) {
		t.Error(broken)
	}
	files := 0
	for _, p := range pkgs {
		files += len(p.Files)
	}
	if files < 2*len(pkgs) {
		t.Errorf("%d files in %d packages: the check has not seen all of them", files, len(pkgs))
	}
}

func TestRescueLinksNoCatalog(t *testing.T) {
	for _, goos := range []string{"linux", "darwin", "windows"} {
		t.Run(goos, func(t *testing.T) {
			linked, err := lint.Linked(t.Context(), root, goos, "cmd/embassy-rescue")
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{"embassy/embassy/format", "embassy/targets", "embassy/crypto"} {
				if !slices.Contains(linked, want) {
					t.Errorf("%s is not linked: this is not the emergency restore", want)
				}
			}
			for _, broken := range lint.CheckRescue(linked) {
				t.Error(broken)
			}
		})
	}
}

func TestRescueCheckObjects(t *testing.T) {
	for _, imported := range []string{"embassy/catalog", "github.com/dgraph-io/badger/v4", "github.com/dgraph-io/badger/v4/pb"} {
		if found := lint.CheckRescue([]string{"fmt", imported}); len(found) != 1 {
			t.Errorf("CheckRescue with %s found %q, want one line", imported, found)
		}
	}
	if found := lint.CheckRescue([]string{"fmt", "embassy/embassy", "embassy/targets"}); len(found) != 0 {
		t.Errorf("CheckRescue without a catalog found %q", found)
	}
}

// sound returns a module that keeps every rule.
func sound() []lint.Package {
	pkg := func(path, name string, imports ...string) lint.Package {
		return lint.Package{Path: path, Name: name, Files: []lint.File{{Name: "a.go", Lines: 600, Imports: imports}}}
	}
	return []lint.Package{
		pkg("chunk", "chunk", "crypto/hmac", "crypto/sha256"),
		pkg("crypto", "crypto", "crypto/aes", "crypto/hpke", "crypto/rand", "golang.org/x/crypto/argon2", "github.com/cloudflare/circl/group"),
		pkg("targets", "targets", "github.com/minio/minio-go/v7"),
		pkg("targets/targettest", "targettest", "embassy/targets", "math/rand/v2"),
		pkg("embassy", "embassy", "embassy/chunk", "embassy/crypto", "embassy/targets", "embassy/embassy/format", "math/rand/v2"),
		pkg("embassy/format", "format", "embassy/crypto"),
		pkg("embassy/fusefs", "fusefs", "embassy/embassy", "github.com/hanwen/go-fuse/v2/fs"),
		pkg("catalog", "catalog", "embassy/embassy", "github.com/dgraph-io/badger/v4"),
		pkg("cmd/embassy", "main", "embassy/embassy", "embassy/catalog", "embassy/targets"),
		pkg("cmd/embassy-rescue", "main", "embassy/embassy"),
		pkg("integration/lint", "lint"),
	}
}

func TestSoundModulePasses(t *testing.T) {
	pkgs := sound()
	for i := range pkgs {
		pkgs[i].Files = append(pkgs[i].Files, lint.File{
			Name: "a_test.go", Lines: 2000, Contexts: []string{"context.Background"},
			Imports: []string{"math/rand", "crypto/ed25519", "embassy/integration/minio"},
		})
	}
	if found := lint.Check(pkgs); len(found) != 0 {
		t.Errorf("Check found %q in a module that keeps every rule", found)
	}
}

func TestCheckObjects(t *testing.T) {
	file := func(name string, imports ...string) lint.File { return lint.File{Name: name, Imports: imports} }
	tests := map[string]struct {
		path string
		file lint.File
		want string // the only line, or its start
	}{
		"leaf imports leaf":              {"chunk", file("b.go", "embassy/crypto"), "chunk/b.go: chunk may not import embassy/crypto"},
		"leaf imports service":           {"targets", file("b.go", "embassy/embassy/format"), "targets/b.go: targets may not import"},
		"leaf's subpackage imports leaf": {"targets/targettest", file("b.go", "embassy/chunk"), "targets/targettest/b.go: targets may not import"},
		"leaf's test imports leaf":       {"crypto", file("b_test.go", "embassy/chunk"), "crypto/b_test.go: crypto may not import"},
		"service imports catalog":        {"embassy/format", file("b.go", "embassy/catalog"), "embassy/format/b.go: embassy may not import"},
		"service imports command":        {"embassy", file("b.go", "embassy/cmd/embassy"), "embassy/b.go: embassy may not import"},
		"catalog imports command":        {"catalog", file("b.go", "embassy/cmd/embassy"), "catalog/b.go: catalog may not import"},
		"test support in the program":    {"cmd/embassy", file("b.go", "embassy/targets/targettest"), "cmd/embassy/b.go: imports embassy/targets/targettest, which is for tests"},
		"integration in the program":     {"cmd/embassy", file("b.go", "embassy/integration/minio"), "cmd/embassy/b.go: cmd may not import"},
		"badger in the program":          {"cmd/embassy", file("b.go", "github.com/dgraph-io/badger/v4"), "cmd/embassy/b.go: cmd may not import"},
		"badger in a service test":       {"embassy", file("b_test.go", "github.com/dgraph-io/badger/v4/pb"), "embassy/b_test.go: embassy may not import"},
		"minio-go in the service":        {"embassy", file("b.go", "github.com/minio/minio-go/v7/pkg/credentials"), "embassy/b.go: embassy may not import"},
		"go-fuse in the service":         {"embassy", file("b.go", "github.com/hanwen/go-fuse/v2/fuse"), "embassy/b.go: embassy may not import"},
		"AES outside crypto":             {"embassy/format", file("b.go", "crypto/aes"), "embassy/format/b.go: embassy may not import"},
		"GCM in chunk":                   {"chunk", file("b.go", "crypto/cipher"), "chunk/b.go: chunk may not import"},
		"HPKE in the rescue":             {"cmd/embassy-rescue", file("b.go", "crypto/hpke"), "cmd/embassy-rescue/b.go: cmd may not import"},
		"signatures in the catalog":      {"catalog", file("b.go", "crypto/ed25519"), "catalog/b.go: catalog may not import"},
		"x/crypto in targets":            {"targets", file("b.go", "golang.org/x/crypto/argon2"), "targets/b.go: targets may not import"},
		"HMAC in targets":                {"targets", file("b.go", "crypto/hmac"), "targets/b.go: targets may not import"},
		"weak randomness":                {"crypto", file("b.go", "math/rand/v2"), "crypto/b.go: crypto may not import"},
		"long file":                      {"crypto", lint.File{Name: "b.go", Lines: 601}, "crypto/b.go: 601 lines"},
		"fresh context":                  {"targets", lint.File{Name: "b.go", Contexts: []string{"context.TODO"}}, "targets/b.go: context.TODO below cmd"},
		"unknown folder":                 {"internal/clock", file("b.go"), "internal/clock: Go code outside"},
		"code in the module's root":      {".", file("b.go"), ".: Go code outside"},
		"meaningless name":               {"embassy/util", file("b.go"), "embassy/util: the name util says nothing"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			pkgs := append(sound(), lint.Package{Path: tt.path, Name: "x", Files: []lint.File{tt.file}})
			if found := lint.Check(pkgs); len(found) != 1 || !strings.HasPrefix(found[0], tt.want) {
				t.Errorf("Check found %q, want only %q", found, tt.want)
			}
		})
	}
	t.Run("meaningless package clause", func(t *testing.T) {
		pkgs := append(sound(), lint.Package{Path: "chunk/split", Name: "helpers"})
		if found := lint.Check(pkgs); len(found) != 1 || !strings.Contains(found[0], "helpers says nothing") {
			t.Errorf("Check found %q, want one line about helpers", found)
		}
	})
}

func TestCheckMissesPackages(t *testing.T) {
	if found := lint.Check(nil); len(found) < len(sound())-1 {
		t.Errorf("Check of no package at all found only %q", found)
	}
	for i, p := range sound() {
		if p.Path == "targets/targettest" {
			continue // not every module has it
		}
		found := lint.Check(slices.Delete(sound(), i, i+1))
		if !slices.Contains(found, p.Path+": no such package") {
			t.Errorf("Check without %s found %q", p.Path, found)
		}
	}
}

func TestLoadReadsFiles(t *testing.T) {
	pkgs, err := lint.Load(t.Context(), "testdata/module")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]lint.File{
		"plain.go":      {Lines: 10, Imports: []string{"context"}, Contexts: []string{"context.Background", "context.TODO"}},
		"renamed.go":    {Lines: 5, Imports: []string{"context"}, Contexts: []string{"context.Background"}},
		"left_out.go":   {Lines: 5, Imports: []string{"math/rand"}},
		"plain_test.go": {Lines: 5, Imports: []string{"testing"}},
	}
	if len(pkgs) != 1 || pkgs[0].Path != "chunk" || pkgs[0].Name != "chunk" || len(pkgs[0].Files) != len(want) {
		t.Fatalf("Load found %+v, want package chunk with %d files", pkgs, len(want))
	}
	for _, f := range pkgs[0].Files {
		w := want[f.Name]
		if f.Lines != w.Lines || !slices.Equal(f.Imports, w.Imports) || !slices.Equal(f.Contexts, w.Contexts) {
			t.Errorf("%s: %+v, want %+v", f.Name, f, w)
		}
	}
}
