package pitvisor_test

import (
	"fmt"
	"go/ast"
	"go/token"
	"os"
	"slices"
	"strings"
	"testing"
)

// policy is one rule that every file is held against.
type policy struct {
	name  string
	why   string
	scope func(source) bool
	check func(source) []string // the places where it is broken
}

// policies are the rules of the project that a program can check.
func policies() []policy {
	everything := func(source) bool { return true }
	inProduction := source.production
	return []policy{
		{
			"no signal by number", "a PID may belong to a stranger by the time it is used: pidfd.Process.Signal",
			everything, signalsByNumber,
		},
		{
			"no second way to hold a process", "os.Process signals by number where pidfds are refused: spawn.Start",
			inProduction, foreignProcesses,
		},
		{
			"no reaping of others' children", "wait4(-1) takes the exit code that somebody else waits for",
			inProduction, reapsAll,
		},
		{
			"no Pdeathsig", "it is bound to the thread that started the child, and Go ends threads",
			inProduction, pdeathsig,
		},
		{
			"no sleeping", "wait for the event, or for a timer that can be stopped",
			everything, func(s source) []string { return uses(s, "time", "Sleep") },
		},
		{
			"no undocumented panic", "return an error; a panic that reports a caller's mistake is in the doc comment",
			inProduction, panics,
		},
		{
			"no init", "importing a package does nothing",
			everything, inits,
		},
		{
			"no os files on cgroupfs", "the runtime's poller parks for ever where kernfs answers EAGAIN; unix.Write",
			inProduction, cgroupFiles,
		},
		{
			"no mutable package variables", "a test seam is a field; state belongs to somebody",
			func(s source) bool { return !s.isTest() }, nil, // needs whole packages: see TestPackageVariables
		},
		{
			"small files and functions", "one idea a file, one screen a function",
			everything, sizes,
		},
		{
			"nothing put off", "an open end is an issue, not a comment",
			everything, openEnds,
		},
		{
			"honest skips", "a skip is counted and named: linuxtest.Skip and the Need functions",
			func(s source) bool { return s.isTest() && s.dir != "linuxtest" }, skips,
		},
	}
}

func TestPolicies(t *testing.T) {
	files := sources(t)
	for _, p := range policies() {
		if p.check == nil {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			for _, s := range files {
				if !p.scope(s) {
					continue
				}
				for _, place := range p.check(s) {
					t.Errorf("%s: %s (%s)", place, p.name, p.why)
				}
			}
		})
	}
}

// uses finds name of a package by its import path, whatever it is called here.
func uses(s source, path string, names ...string) []string {
	var found []string
	imports := s.imports()
	ast.Inspect(s.file, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if pkg, ok := sel.X.(*ast.Ident); ok && imports[pkg.Name] == path && slices.Contains(names, sel.Sel.Name) {
			found = append(found, fmt.Sprintf("%s: %s.%s", s.at(sel.Pos()), pkg.Name, sel.Sel.Name))
		}
		return true
	})
	return found
}

const xsys = "golang.org/x/sys/unix"

// controls must signal by number, or name the calls, to show what comes of it.
func controls() map[string]string {
	return map[string]string{
		"linuxtest/trap_child.go":    "names the system calls in order to catch them",
		"linuxtest/trap_test.go":     "the naive killer that NoForeignSignals must catch",
		"cmd/pitvisor/story_test.go": "the naive supervisor of the story, which kills a stranger",
	}
}

func signalsByNumber(s source) []string {
	if controls()[s.name] != "" {
		return nil
	}
	numbers := []string{"SYS_KILL", "SYS_TKILL", "SYS_TGKILL", "SYS_RT_SIGQUEUEINFO", "SYS_RT_TGSIGQUEUEINFO"}
	var found []string
	for _, path := range []string{xsys, "syscall"} {
		found = append(found, uses(s, path, append([]string{"Kill", "Tgkill"}, numbers...)...)...)
	}
	return append(found, uses(s, "os", "FindProcess")...)
}

// foreignProcesses: without these no *os.Process can be had, so nobody can call
// its Kill and Signal.
func foreignProcesses(s source) []string {
	found := uses(s, "os", "StartProcess", "FindProcess", "Process")
	return append(found, uses(s, "os/exec", "Command", "CommandContext", "Cmd")...)
}

func reapsAll(s source) []string {
	var found []string
	for _, path := range []string{xsys, "syscall"} {
		for _, call := range calls(s, path, "Wait4") {
			if minus, ok := call.Args[0].(*ast.UnaryExpr); ok && minus.Op == token.SUB {
				found = append(found, s.at(call.Pos()))
			}
		}
	}
	return found
}

// calls finds the calls of a package's functions.
func calls(s source, path string, names ...string) []*ast.CallExpr {
	var found []*ast.CallExpr
	imports := s.imports()
	ast.Inspect(s.file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		sel, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if pkg, ok := sel.X.(*ast.Ident); ok && imports[pkg.Name] == path && slices.Contains(names, sel.Sel.Name) {
			found = append(found, call)
		}
		return true
	})
	return found
}

func pdeathsig(s source) []string {
	var found []string
	ast.Inspect(s.file, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok && id.Name == "Pdeathsig" {
			found = append(found, s.at(id.Pos()))
		}
		return true
	})
	return found
}

func panics(s source) []string {
	var found []string
	for _, decl := range s.file.Decls {
		f, isFunc := decl.(*ast.FuncDecl)
		if isFunc && f.Doc != nil && strings.Contains(strings.ToLower(f.Doc.Text()), "panic") {
			continue
		}
		ast.Inspect(decl, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				if id, ok := call.Fun.(*ast.Ident); ok && id.Name == "panic" {
					found = append(found, s.at(call.Pos()))
				}
			}
			return true
		})
	}
	return found
}

func inits(s source) []string {
	var found []string
	for _, decl := range s.file.Decls {
		if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
			found = append(found, s.at(f.Pos()))
		}
	}
	return found
}

// cgroupFiles: the packages that work on cgroups may read /proc and what sysfs says
// of disks, and nothing else, through package os; elsewhere no argument may name a cgroup file.
func cgroupFiles(s source) []string {
	var found []string
	for _, call := range calls(s, "os", "ReadFile", "WriteFile", "Open", "OpenFile", "Create") {
		text := ""
		ast.Inspect(call, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				text += lit.Value
			}
			return true
		})
		inCgroup := (s.dir == "cgroup" || s.dir == "resource") &&
			!strings.Contains(text, "/proc/") && !strings.Contains(text, "/sys/dev/block/")
		named := strings.Contains(text, "cgroup.") || strings.Contains(text, "/sys/fs/cgroup") ||
			strings.Contains(text, "memory.") || strings.Contains(text, "pids.")
		if inCgroup || named {
			found = append(found, s.at(call.Pos()))
		}
	}
	return found
}

// limits are the most lines of a file and of a function. Tests may be longer:
// their length is tables.
func limits(s source) (file, function int) {
	if s.isTest() {
		return 600, 150
	}
	return 400, 50
}

func sizes(s source) []string {
	var found []string
	mostFile, mostFunc := limits(s)
	if n := strings.Count(s.text, "\n"); n > mostFile {
		found = append(found, fmt.Sprintf("%s: %d lines, at most %d", s.name, n, mostFile))
	}
	for _, decl := range s.file.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok || f.Body == nil {
			continue
		}
		if n := s.fset.Position(f.End()).Line - s.fset.Position(f.Pos()).Line + 1; n > mostFunc {
			found = append(found, fmt.Sprintf("%s: %s has %d lines, at most %d", s.at(f.Pos()), f.Name.Name, n, mostFunc))
		}
	}
	return found
}

func openEnds(s source) []string {
	var found []string
	for _, group := range s.file.Comments {
		for _, c := range group.List {
			// Put together here, or this file would be its own first find.
			for _, word := range []string{"TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"} {
				if strings.Contains(c.Text, word) {
					found = append(found, s.at(c.Pos()))
				}
			}
		}
	}
	return found
}

func skips(s source) []string {
	var found []string
	ast.Inspect(s.file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		sel, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		recv, ok := sel.X.(*ast.Ident)
		if ok && slices.Contains([]string{"t", "b", "f", "tb"}, recv.Name) && slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, sel.Sel.Name) {
			found = append(found, s.at(call.Pos()))
		}
		return true
	})
	return found
}

func TestGoModHasNoReplace(t *testing.T) {
	for _, name := range []string{"go.mod", "tools.mod", "packaging/tools.mod"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(strings.TrimSpace(line), "replace ") {
				t.Errorf("%s: %s: what is tested must be what others get", name, strings.TrimSpace(line))
			}
		}
	}
}

// Exactly one package comment each, and it says what the package is not for.
func TestPackageComments(t *testing.T) {
	comments := map[string]int{}
	for _, s := range sources(t) {
		if s.isTest() {
			continue
		}
		comments[s.dir] += 0
		if s.file.Doc == nil {
			continue
		}
		comments[s.dir]++
		text := s.file.Doc.Text()
		want := "Package " + s.file.Name.Name + " "
		if s.file.Name.Name == "main" {
			continue // a command's comment is its manual
		}
		if !strings.HasPrefix(text, want) {
			t.Errorf("%s: the package comment does not start with %q", s.name, want)
		}
		if !strings.Contains(text, " not ") {
			t.Errorf("%s: the package comment does not say what the package is not for", s.name)
		}
	}
	for dir, n := range comments {
		if n != 1 {
			t.Errorf("package %s has %d package comments, want 1", dir, n)
		}
	}
}
