package pitvisor_test

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/pitvisor/pitvisor"

// source is one Go file of the project.
type source struct {
	dir  string // of its package, below the module: "cgroup", "." for the root
	name string // below the module, with slashes
	fset *token.FileSet
	file *ast.File
	text string
}

func (s source) isTest() bool { return strings.HasSuffix(s.name, "_test.go") }

// isTool says whether the file is no part of what is shipped.
func (s source) isTool() bool {
	return under(s.dir, "linuxtest") || under(s.dir, "cmd/pitvisor-linuxtest") || under(s.dir, "bench") || under(s.dir, "examples") || under(s.dir, "scripts")
}

// production is what is built into the program or imported by others.
func (s source) production() bool { return !s.isTest() && !s.isTool() }

func under(dir, top string) bool { return dir == top || strings.HasPrefix(dir, top+"/") }

// at names a place in a file.
func (s source) at(pos token.Pos) string {
	return fmt.Sprintf("%s:%d", s.name, s.fset.Position(pos).Line)
}

// imports maps the names by which a file knows its imports to their paths.
func (s source) imports() map[string]string {
	names := map[string]string{}
	for _, spec := range s.file.Imports {
		path := importPath(spec)
		name := path[strings.LastIndexByte(path, '/')+1:]
		if spec.Name != nil {
			name = spec.Name.Name
		}
		names[name] = path
	}
	return names
}

// importPath is the path without its quotes, which the parser has checked.
func importPath(spec *ast.ImportSpec) string {
	path, err := strconv.Unquote(spec.Path.Value)
	if err != nil {
		return spec.Path.Value
	}
	return path
}

// parse reads the text of one file.
func parse(name, text string) (source, error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return source{}, err
	}
	return source{dir: filepath.ToSlash(filepath.Dir(name)), name: name, fset: fset, file: file, text: text}, nil
}

// sources reads all Go files of the module. They are opened here and not listed
// by the go tool, so that the cache of test results knows what they depend on.
func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	err := filepath.WalkDir(".", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := e.Name()
		if e.IsDir() && path != "." && (strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata" || name == "bin") {
			return filepath.SkipDir
		}
		if e.IsDir() || !strings.HasSuffix(name, ".go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // an editor's file
		}
		if err != nil {
			return err
		}
		s, err := parse(filepath.ToSlash(path), string(text))
		if err != nil {
			return err
		}
		all = append(all, s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 50 {
		t.Fatalf("found %d Go files: this is not the project", len(all))
	}
	return all
}
