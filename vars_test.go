package pitvisor_test

import (
	"go/ast"
	"go/token"
	"slices"
	"strings"
	"testing"
)

// sharedState are the package variables that are state all the same, each with
// the reason why the process can have only one of it.
func sharedState() map[string]string {
	return map[string]string{
		"internal/guardian.ready":  "whether main has called Main is a fact about the process",
		"internal/nofile.original": "what the process was started with can be read only once, before package syscall changes it",
		"internal/siginfo.state":   "the actions of signals belong to the process, and a handler is given nothing else to find its pipe",
		"linuxtest.current":        "package testing has one TestMain per process and no way from a test to it",
		"spawn.forking":            "syscall.ForkLock is one for the process: whoever holds it for several must count them",
		"spawn.tracked":            "children belong to the process: whoever reaps orphans must know all that were started",
		"spawn.helperReady":        "whether main has called HelperMain is a fact about the process",
	}
}

// variables finds the package variables that somebody could change: all but
// errors, values that are made once, and tables that their own package leaves
// alone and others cannot reach.
func variables(files []source) []string {
	written := map[string]bool{}
	for _, s := range files {
		for name := range assigned(s) {
			written[s.dir+"."+name] = true
		}
	}
	var found []string
	for _, s := range files {
		for _, decl := range s.file.Decls {
			group, ok := decl.(*ast.GenDecl)
			if !ok || group.Tok != token.VAR {
				continue
			}
			for _, spec := range group.Specs {
				v := spec.(*ast.ValueSpec)
				for i, name := range v.Names {
					if name.Name == "_" || constant(s, group, v, i, written[s.dir+"."+name.Name]) {
						continue
					}
					found = append(found, s.dir+"."+name.Name)
				}
			}
		}
	}
	return found
}

// constant says whether the i-th variable of a declaration can be taken for one.
func constant(s source, group *ast.GenDecl, v *ast.ValueSpec, i int, written bool) bool {
	for _, doc := range []*ast.CommentGroup{group.Doc, v.Doc} {
		// Comments that tools read are no text: look at the lines.
		if doc == nil {
			continue
		}
		for _, line := range doc.List {
			if strings.HasPrefix(line.Text, "//go:embed ") || strings.Contains(line.Text, "-ldflags") {
				return !written
			}
		}
	}
	if written || len(v.Values) <= i {
		return false
	}
	switch value := v.Values[i].(type) {
	case *ast.CallExpr:
		return madeOnce(s, value)
	case *ast.CompositeLit:
		return !v.Names[i].IsExported()
	default:
		return false
	}
}

// madeOnce lists the functions whose results do not change.
func madeOnce(s source, call *ast.CallExpr) bool {
	fun := call.Fun
	if index, ok := fun.(*ast.IndexExpr); ok {
		fun = index.X
	}
	sel, ok := fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	pkg, ok := sel.X.(*ast.Ident)
	if !ok {
		return false
	}
	return slices.Contains([]string{
		"errors.New", "fmt.Errorf", "regexp.MustCompile", "sync.OnceValue", "sync.OnceValues", "sync.OnceFunc",
	}, s.imports()[pkg.Name]+"."+sel.Sel.Name)
}

// assigned collects the names that a file assigns to, takes the address of or
// hands to delete or clear. A local variable of the same name counts too: then the
// package's one should have another name anyway.
func assigned(s source) map[string]bool {
	names := map[string]bool{}
	note := func(e ast.Expr) {
		for {
			switch x := e.(type) {
			case *ast.Ident:
				names[x.Name] = true
				return
			case *ast.IndexExpr:
				e = x.X
			case *ast.SelectorExpr:
				e = x.X
			case *ast.ParenExpr:
				e = x.X
			default:
				return
			}
		}
	}
	ast.Inspect(s.file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			if n.Tok == token.DEFINE {
				return true
			}
			for _, left := range n.Lhs {
				note(left)
			}
		case *ast.IncDecStmt:
			note(n.X)
		case *ast.UnaryExpr:
			if n.Op == token.AND {
				note(n.X)
			}
		case *ast.CallExpr:
			if id, ok := n.Fun.(*ast.Ident); ok && (id.Name == "delete" || id.Name == "clear") && len(n.Args) > 0 {
				note(n.Args[0])
			}
		}
		return true
	})
	return names
}

func TestPackageVariables(t *testing.T) {
	var files []source
	for _, s := range sources(t) {
		if !s.isTest() {
			files = append(files, s)
		}
	}
	excused := sharedState()
	seen := map[string]bool{}
	for _, name := range variables(files) {
		seen[name] = true
		if excused[name] == "" {
			t.Errorf("%s is a package variable that can change: a seam is a field, state belongs to somebody", name)
		}
	}
	for name := range excused {
		dir, _, _ := strings.Cut(name, ".")
		exists := slices.ContainsFunc(files, func(s source) bool { return s.dir == dir })
		if exists && !seen[name] {
			t.Errorf("%s is excused and not there any more", name)
		}
	}
}

func TestVariableRuleCanFail(t *testing.T) {
	tests := []struct {
		declaration string
		bad         bool
	}{
		{"var n int", true},
		{"var n = 3", true},
		{"var seam = os.Getpid", true},
		{"var Table = []string{}", true}, // others can change it
		{"var table = []string{}\nfunc f() { table[0] = \"\" }", true},
		{"var table = map[int]int{}\nfunc f() { delete(table, 1) }", true},
		{"var point = struct{ x int }{}\nfunc f() { point.x++ }", true},
		{"var point = struct{ x int }{}\nfunc f() any { return &point }", true},
		{"var ErrGone = errors.New(\"gone\")\nfunc f() { ErrGone = nil }", true},
		{"var cache sync.Map", true},
		{"// version is set by -ldflags\nvar version = \"dev\"", false},
		{"//go:embed a.txt\nvar text string", false},
		{"var ErrGone = errors.New(\"gone\")", false},
		{"var pattern = regexp.MustCompile(\"a\")", false},
		{"var once = sync.OnceValue(os.Getpid)", false},
		{"var table = [...]string{\"a\"}", false},
		{"var _ error = nil", false},
	}
	for _, test := range tests {
		s, err := parse("p/planted.go", "package p\n\nimport (\n\"errors\"\n\"os\"\n\"regexp\"\n\"sync\"\n)\n\n"+test.declaration+"\n")
		if err != nil {
			t.Fatal(err)
		}
		if got := variables([]source{s}); (len(got) > 0) != test.bad {
			t.Errorf("%q: found %v, want a breach: %v", test.declaration, got, test.bad)
		}
	}
}
