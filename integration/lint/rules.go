package lint

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

const (
	module   = "embassy"
	maxLines = 600 // of a file that is not a test
)

// areas says, for each top-level folder, which others its packages may
// import, and which ones its tests may import besides. Every package may
// import its own area. A folder that is not listed may hold no Go code.
var areas = map[string]struct{ imports, tests []string }{
	"chunk":       {nil, []string{"integration"}},
	"crypto":      {nil, []string{"integration"}},
	"targets":     {nil, []string{"integration"}},
	"embassy":     {[]string{"chunk", "crypto", "targets"}, []string{"catalog", "integration"}},
	"catalog":     {[]string{"chunk", "crypto", "targets", "embassy"}, []string{"integration"}},
	"cmd":         {[]string{"chunk", "crypto", "targets", "embassy", "catalog"}, []string{"integration"}},
	"integration": {[]string{"chunk", "crypto", "targets", "embassy", "catalog", "cmd"}, nil},
}

// reserved names packages that only some areas, or packages, may import. What
// is not in owners, or below one, crosses the rule; tests, where exempt, do not.
// A rule that has owners and that no owner uses is dead: it guards a name that
// changed.
var reserved = []struct {
	imports     []string // import paths, each with everything below it
	owners      []string
	testsExempt bool
}{
	{[]string{"github.com/dgraph-io/badger"}, []string{"catalog"}, false},
	{[]string{"github.com/hanwen/go-fuse"}, []string{"embassy/fusefs"}, false},
	{[]string{"github.com/minio/minio-go"}, []string{"targets", "integration"}, false},
	{[]string{"crypto/aes", "crypto/cipher", "crypto/ed25519", "crypto/hpke", "golang.org/x/crypto"}, []string{"crypto"}, true},
	{[]string{"github.com/cloudflare/circl"}, []string{"crypto"}, false},
	{[]string{"crypto/hmac"}, []string{"crypto", "chunk"}, true},
	{[]string{"math/rand"}, []string{"embassy"}, true}, // jitter; keys and nonces come from crypto/rand
}

// required are packages that the module cannot lack. Without them a check of
// the rules has looked at the wrong folder, or at nothing.
var required = []string{
	"catalog", "chunk", "cmd/embassy", "cmd/embassy-rescue", "crypto",
	"embassy", "embassy/format", "embassy/fusefs", "integration/lint", "targets",
}

var meaningless = []string{"common", "helper", "helpers", "types", "util", "utils"}

// Check returns what crosses the rules, one line each, sorted. pkgs are all
// packages of the module.
func Check(pkgs []Package) []string {
	var found []string
	report := func(where, format string, args ...any) {
		found = append(found, where+": "+fmt.Sprintf(format, args...))
	}
	for _, want := range required {
		if !slices.ContainsFunc(pkgs, func(p Package) bool { return p.Path == want }) {
			report(want, "no such package")
		}
	}
	used := make([]bool, len(reserved))
	for _, p := range pkgs {
		own := area(p.Path)
		allowed, known := areas[own]
		if !known {
			report(p.Path, "Go code outside the folders that the design names")
			continue
		}
		for _, name := range []string{p.Name, path.Base(p.Path)} {
			if slices.Contains(meaningless, name) {
				report(p.Path, "the name %s says nothing", name)
				break
			}
		}
		for _, f := range p.Files {
			where := path.Join(p.Path, f.Name)
			test := f.Test() || forTests(p.Path)
			if !f.Test() && f.Lines > maxLines {
				report(where, "%d lines, more than %d", f.Lines, maxLines)
			}
			if !test && own != "cmd" {
				for _, use := range f.Contexts {
					report(where, "%s below cmd", use)
				}
			}
			for _, imported := range f.Imports {
				if within(imported, module) {
					to := below(imported)
					if a := area(to); a != own && !slices.Contains(allowed.imports, a) && !(test && slices.Contains(allowed.tests, a)) {
						report(where, "%s may not import %s", own, imported)
					} else if forTests(to) && !test {
						report(where, "imports %s, which is for tests", imported)
					}
				}
				for i, r := range reserved {
					if !slices.ContainsFunc(r.imports, func(parent string) bool { return within(imported, parent) }) {
						continue
					}
					if slices.ContainsFunc(r.owners, func(owner string) bool { return within(p.Path, owner) }) {
						used[i] = true
					} else if !(test && r.testsExempt) {
						report(where, "%s may not import %s", own, imported)
					}
				}
			}
		}
	}
	for i, r := range reserved {
		if len(r.owners) > 0 && !used[i] {
			report(strings.Join(r.owners, ", "), "imports no %s: the rule guards nothing", strings.Join(r.imports, ", "))
		}
	}
	slices.Sort(found)
	return found
}

// CheckRescue returns what the emergency restore must not link and does.
// linked are the import paths that Linked returned for it.
func CheckRescue(linked []string) []string {
	var found []string
	for _, imported := range linked {
		if within(imported, module+"/catalog") || within(imported, "github.com/dgraph-io/badger") {
			found = append(found, "cmd/embassy-rescue links "+imported)
		}
	}
	return found
}

// forTests says whether a package of the module exists for tests: it lies
// below integration, or is named like targets/targettest.
func forTests(pkg string) bool {
	return area(pkg) == "integration" || strings.HasSuffix(pkg, "test")
}

// area returns the top-level folder of a path below the module.
func area(pkg string) string {
	top, _, _ := strings.Cut(pkg, "/")
	return top
}

// below turns an import path of the module into a path below it.
func below(imported string) string {
	if imported == module {
		return "."
	}
	return strings.TrimPrefix(imported, module+"/")
}

// within reports whether an import path is parent or lies below it.
func within(imported, parent string) bool {
	return imported == parent || strings.HasPrefix(imported, parent+"/")
}
