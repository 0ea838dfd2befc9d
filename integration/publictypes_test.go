package integration

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// TestLayoutPublicTypes: whoever imports a public package can write down every type that
// its exported fields, functions and variables ask for. A type of an internal package can
// be named through an alias only (type Script = simkit.Script), and an embedded one need
// not be named.
func TestLayoutPublicTypes(t *testing.T) {
	t.Parallel()
	for _, name := range unnameable(t, os.DirFS("..")) {
		t.Errorf("%s: a type of an internal package, which no other module can import; give it an alias", name)
	}
	planted := fstest.MapFS{}
	for name, text := range map[string]string{
		"p/a.go": `package p
import "github.com/heartline-mqtt/heartline/internal/x"
type App struct { Key *x.Key; secret x.Key; x.Embedded }
type Alias = x.Key
func New(k []x.Key) Alias { return k[0] }
func hidden(x.Key) {}
func (a App) Do(func(x.Key)) {}
func (h hide) Do(x.Key) {}
type hide struct{}
var Default x.Key
type Fn func() x.Key
type I interface { M(x.Key) }
`,
		"internal/p/a.go": "package p\nimport \"github.com/heartline-mqtt/heartline/internal/x\"\nfunc F(x.Key) {}",
		"main/a.go":       "package main\nimport \"github.com/heartline-mqtt/heartline/internal/x\"\nfunc F(x.Key) {}",
	} {
		planted[name] = &fstest.MapFile{Data: []byte(text)}
	}
	if got, want := unnameable(t, planted), []string{"p.App.Do", "p.App.Key", "p.Default", "p.Fn", "p.I", "p.New"}; !slices.Equal(got, want) {
		t.Errorf("found %v, want %v", got, want)
	}
}

// unnameable lists the exported declarations of public packages that name a type of an
// internal package.
func unnameable(t *testing.T, tree fs.FS) (found []string) {
	t.Helper()
	err := fs.WalkDir(tree, ".", func(path string, d fs.DirEntry, err error) error {
		switch name := d.Name(); {
		case err != nil:
			return err
		case d.IsDir() && (name == "internal" || name == "testdata" || name == "node_modules" || name == "build" || name == "integration" || name == "cmd" || name == "bench" || name == ".git"):
			return fs.SkipDir
		case d.IsDir() || filepath.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		source, err := fs.ReadFile(tree, path)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, source, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		if file.Name.Name == "main" {
			return nil
		}
		internals := map[string]bool{}
		for _, imported := range file.Imports {
			if at := strings.Trim(imported.Path.Value, `"`); strings.Contains(at, "/internal/") {
				name := at[strings.LastIndexByte(at, '/')+1:]
				if imported.Name != nil {
					name = imported.Name.Name
				}
				internals[name] = true
			}
		}
		if len(internals) > 0 {
			for _, name := range exportedUses(file, internals) {
				found = append(found, file.Name.Name+"."+name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// exportedUses lists the exported declarations of a file whose types name one of the
// packages.
func exportedUses(file *ast.File, packages map[string]bool) (found []string) {
	note := func(name string, types ...ast.Node) {
		for _, n := range types {
			ast.Inspect(n, func(n ast.Node) bool {
				if s, ok := n.(*ast.SelectorExpr); ok {
					if x, ok := s.X.(*ast.Ident); ok && packages[x.Name] && !slices.Contains(found, name) {
						found = append(found, name)
					}
				}
				return true
			})
		}
	}
	for _, d := range file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			name := d.Name.Name
			if d.Recv != nil {
				receiver := d.Recv.List[0].Type
				if s, ok := receiver.(*ast.StarExpr); ok {
					receiver = s.X
				}
				if g, ok := receiver.(*ast.IndexExpr); ok {
					receiver = g.X
				}
				of, ok := receiver.(*ast.Ident)
				if !ok || !of.IsExported() {
					continue
				}
				name = of.Name + "." + name
			}
			if d.Name.IsExported() {
				note(name, d.Type)
			}
		case *ast.GenDecl:
			for _, s := range d.Specs {
				switch s := s.(type) {
				case *ast.ValueSpec:
					for _, n := range s.Names {
						if n.IsExported() && s.Type != nil {
							note(n.Name, s.Type)
						}
					}
				case *ast.TypeSpec:
					if !s.Name.IsExported() || s.Assign.IsValid() {
						continue
					}
					of, isStruct := s.Type.(*ast.StructType)
					if !isStruct {
						note(s.Name.Name, s.Type)
						continue
					}
					for _, f := range of.Fields.List {
						for _, n := range f.Names {
							if n.IsExported() {
								note(s.Name.Name+"."+n.Name, f.Type)
							}
						}
					}
				}
			}
		}
	}
	return found
}
