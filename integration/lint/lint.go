// Package lint holds the borders between the packages of the module, and
// finds what crosses them. docs/ARCHITECTURE.md gives the reasons.
//
// It reads every Go file of the packages that go list finds, also those that
// build constraints leave out on this machine. It does not look at packages
// all of whose files are left out.
package lint

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Package is one package of the module.
type Package struct {
	Path  string // below the module, such as "embassy/format"; "." is the module's root
	Name  string // as its package clause says
	Files []File
}

// File is one Go file of a package.
type File struct {
	Name     string // its base name
	Lines    int
	Imports  []string // full import paths
	Contexts []string // uses of context.Background and context.TODO, as "context.TODO"
}

// Test reports whether the file belongs to tests only.
func (f File) Test() bool { return strings.HasSuffix(f.Name, "_test.go") }

// Load reads all packages of the module whose root folder is root. A package
// that go list finds broken is an error.
func Load(ctx context.Context, root string) ([]Package, error) {
	out, err := goList(ctx, root, nil,
		"-json=ImportPath,Name,Dir,GoFiles,CgoFiles,IgnoredGoFiles,TestGoFiles,XTestGoFiles", "./...")
	if err != nil {
		return nil, err
	}
	var pkgs []Package
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var l struct {
			ImportPath, Name, Dir                                        string
			GoFiles, CgoFiles, IgnoredGoFiles, TestGoFiles, XTestGoFiles []string
		}
		if err := dec.Decode(&l); errors.Is(err, io.EOF) {
			return pkgs, nil
		} else if err != nil {
			return nil, fmt.Errorf("decode the answer of go list: %w", err)
		}
		p := Package{Path: below(l.ImportPath), Name: l.Name}
		for _, name := range slices.Concat(l.GoFiles, l.CgoFiles, l.IgnoredGoFiles, l.TestGoFiles, l.XTestGoFiles) {
			f, err := readFile(filepath.Join(l.Dir, name))
			if err != nil {
				return nil, err
			}
			p.Files = append(p.Files, f)
		}
		pkgs = append(pkgs, p)
	}
}

// Linked returns the import paths of all packages, those of other modules and
// of the standard library included, that a static build of pkg for goos links.
// pkg is a path below the module.
func Linked(ctx context.Context, root, goos, pkg string) ([]string, error) {
	out, err := goList(ctx, root, []string{"GOOS=" + goos, "CGO_ENABLED=0"}, "-deps", "./"+pkg)
	if err != nil {
		return nil, err
	}
	return strings.Fields(string(out)), nil
}

func goList(ctx context.Context, root string, env []string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"list", "-buildvcs=false"}, args...)...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, stderr.Bytes())
	}
	return out, nil
}

func readFile(path string) (File, error) {
	src, err := os.ReadFile(path)
	if err != nil {
		return File{}, err
	}
	syntax, err := parser.ParseFile(token.NewFileSet(), path, src, parser.SkipObjectResolution)
	if err != nil {
		return File{}, err
	}
	f := File{Name: filepath.Base(path), Lines: bytes.Count(src, []byte("\n"))}
	contextName := ""
	for _, spec := range syntax.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return File{}, fmt.Errorf("%s: import %s: %w", path, spec.Path.Value, err)
		}
		f.Imports = append(f.Imports, imported)
		if imported == "context" {
			contextName = "context"
			if spec.Name != nil {
				contextName = spec.Name.Name
			}
		}
	}
	ast.Inspect(syntax, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := sel.X.(*ast.Ident); ok && contextName != "" && x.Name == contextName &&
			(sel.Sel.Name == "Background" || sel.Sel.Name == "TODO") {
			f.Contexts = append(f.Contexts, "context."+sel.Sel.Name)
		}
		return true
	})
	return f, nil
}
