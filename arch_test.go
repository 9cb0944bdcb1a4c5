package pitvisor_test

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// layers says which packages of ours each package may import. A package that does
// not exist yet may stand here; one that exists must. ARCHITECTURE.md shows the
// same table.
func layers() map[string][]string {
	return map[string][]string{
		".":                  nil,
		"cgroup":             {"internal/units"},
		"pidfd":              {"internal/units"},
		"spawn":              {"internal/nofile", "internal/steps", "internal/units", "cgroup", "pidfd"},
		"registry":           {"cgroup", "pidfd"},
		"history":            {"registry"},
		"resource":           {"cgroup", "internal/suggest", "internal/units"},
		"internal/pressure":  {"cgroup"},
		"supervise":          {"cgroup", "pidfd", "spawn", "registry", "resource", "internal/pressure", "internal/units"},
		"api":                nil,
		"internal/probe":     {"supervise", "internal/procfs", "internal/sockdiag", "cgroup", "pidfd", "spawn"},
		"internal/sockets":   {"supervise", "internal/sockdiag"},
		"internal/config":    {"supervise", "internal/probe", "internal/sockets", "internal/account", "internal/envfile", "internal/units", "cgroup", "spawn", "resource", "internal/suggest"},
		"internal/capture":   {"internal/logfile", "pidfd"},
		"internal/logfile":   nil,
		"internal/account":   nil,
		"internal/envfile":   nil,
		"internal/units":     nil,
		"internal/exit":      nil,
		"internal/procfs":    {"pidfd"},
		"internal/sockdiag":  {"internal/procfs"},
		"internal/leftover":  {"internal/procfs", "internal/sockdiag", "cgroup", "pidfd"},
		"internal/report":    {"internal/leftover", "internal/sockdiag", "cgroup"},
		"internal/home":      {"registry", "spawn", "cgroup"},
		"internal/release":   nil,
		"internal/weak":      {"internal/procfs", "cgroup", "pidfd", "spawn"},
		"internal/userscope": {"cgroup"},
		"internal/oneshot": {
			"internal/guardian", "internal/home", "internal/leftover", "internal/siginfo", "internal/terminal", "internal/weak",
			"registry", "spawn", "cgroup", "pidfd",
		},
		"internal/detach": {"registry", "spawn", "cgroup", "pidfd"},
		"internal/runverb": {
			"internal/account", "internal/detach", "internal/envfile", "internal/exit", "internal/oneshot", "internal/report", "internal/units",
			"registry", "spawn", "cgroup",
		},
		"cmd/front":         {"internal/exit", "internal/guardian", "internal/release", "internal/runverb", "spawn"},
		"internal/siginfo":  nil,
		"internal/terminal": nil,
		"internal/guardian": {"internal/steps", "cgroup", "pidfd"},
		"internal/steps":    nil,
		"internal/nofile":   nil,
		"internal/suggest":  nil,
		"internal/server":   {"api", "supervise", "registry", "resource", "spawn", "cgroup", "pidfd", "internal/logfile", "internal/suggest", "internal/units"},
		"internal/metrics":  {"supervise", "registry", "cgroup", "internal/pressure"},
		"linuxtest":         nil,
		"cmd/pitvisor":      {"*"}, // all but linuxtest and programs
	}
}

// foreign says which packages may import what is not ours. What is not named here
// is for everybody (the standard library) or for nobody (the rest).
func foreign() map[string][]string {
	return map[string][]string{
		"github.com/containerd/cgroups/v3": {"resource"},
		"github.com/vishvananda/netns":     {"spawn"},
		"go.etcd.io/bbolt":                 {"history"},
		"github.com/prometheus":            {"internal/metrics"},
		"github.com/pelletier/go-toml/v2":  {"internal/config"},
		"github.com/coreos/go-systemd/v22": {"cmd/pitvisor", "internal/userscope"},
		"github.com/godbus/dbus/v5":        {"internal/userscope"},
		"github.com/spf13/cobra":           {"cmd/pitvisor"},
		"github.com/spf13/pflag":           {"cmd/pitvisor", "cmd/front", "internal/runverb"},
		"golang.org/x/sys":                 {"*"},

		// Kernel packages and the heart neither log nor print nor speak HTTP.
		"net/http": {"api", "internal/probe", "internal/server", "internal/metrics"},
		"log":      {"cmd/pitvisor", "internal/server"},
		"flag":     {},
		// An *exec.Cmd kills by *os.Process; everything starts through spawn.
		"os/exec": {},
		// Only tests may need what only tests need.
		"testing": {},
	}
}

// breach is one import that must not be.
type breach struct{ at, what string }

// checkImports holds production files against the tables.
func checkImports(files []source, layers, foreign map[string][]string) []breach {
	var found []breach
	for _, s := range files {
		if !s.production() {
			continue
		}
		allowed, known := layers[s.dir]
		if !known {
			found = append(found, breach{s.name, "package " + s.dir + " is not in the table of layers"})
			continue
		}
		for _, spec := range s.file.Imports {
			path := importPath(spec)
			if ours, ok := strings.CutPrefix(path, module+"/"); ok {
				everything := slices.Contains(allowed, "*") && ours != "linuxtest" && !strings.HasPrefix(ours, "cmd/")
				if !everything && !slices.Contains(allowed, ours) {
					found = append(found, breach{s.at(spec.Pos()), s.dir + " must not import " + ours})
				}
				continue
			}
			if !mayImport(s.dir, path, foreign) {
				found = append(found, breach{s.at(spec.Pos()), s.dir + " must not import " + path})
			}
		}
	}
	return found
}

// mayImport finds the longest rule for a path that is not ours.
func mayImport(dir, path string, foreign map[string][]string) bool {
	for prefix := path; ; {
		if allowed, ok := foreign[prefix]; ok {
			return slices.Contains(allowed, dir) || slices.Contains(allowed, "*")
		}
		cut := strings.LastIndexByte(prefix, '/')
		if cut < 0 {
			break
		}
		prefix = prefix[:cut]
	}
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".") // the standard library
}

func TestLayers(t *testing.T) {
	for _, b := range checkImports(sources(t), layers(), foreign()) {
		t.Errorf("%s: %s", b.at, b.what)
	}
}

// linuxtest is public: it must be usable without the rest, and the rest must not
// need it.
func TestLinuxtestStandsAlone(t *testing.T) {
	for _, s := range sources(t) {
		for _, spec := range s.file.Imports {
			path := importPath(spec)
			if under(s.dir, "linuxtest") && strings.HasPrefix(path, module) && !under(path, module+"/linuxtest") {
				t.Errorf("%s: linuxtest must not import %s", s.at(spec.Pos()), path)
			}
			if path == module+"/linuxtest" && !s.isTest() {
				t.Errorf("%s: only tests may import linuxtest", s.at(spec.Pos()))
			}
		}
	}
}

// TestSlimPackages: what only starts and ends processes must start fast itself.
// The initialisation of containerd/cgroups and what it links takes half of the
// start of an empty Go program, and bbolt is some more.
func TestSlimPackages(t *testing.T) {
	imported := map[string]map[string]bool{} // by package of ours
	for _, s := range sources(t) {
		if !s.production() {
			continue
		}
		if imported[s.dir] == nil {
			imported[s.dir] = map[string]bool{}
		}
		for _, spec := range s.file.Imports {
			imported[s.dir][importPath(spec)] = true
		}
	}
	// Each of them is linked by one package of ours, or this test no longer looks.
	slow := map[string]string{
		"github.com/containerd/": "supervise",
		"go.etcd.io/bbolt":       "cmd/pitvisor",
		"github.com/prometheus/": "cmd/pitvisor",
	}
	for _, dir := range []string{"cgroup", "pidfd", "spawn", "registry", "cmd/front"} {
		if imported[dir] == nil {
			t.Errorf("there is no package %s", dir)
		}
		for prefix := range slow {
			if path := chain(imported, dir, prefix); path != nil {
				t.Errorf("%s links %s", dir, strings.Join(path, " -> "))
			}
		}
	}
	for prefix, dir := range slow {
		if path := chain(imported, dir, prefix); path == nil {
			t.Errorf("%s does not link %s: does this test still look?", dir, prefix)
		}
	}
}

// chain returns how dir comes to import what begins with prefix, or nil.
func chain(imported map[string]map[string]bool, dir, prefix string) []string {
	for path := range imported[dir] {
		if strings.HasPrefix(path, prefix) {
			return []string{dir, path}
		}
		if ours, ok := strings.CutPrefix(path, module+"/"); ok {
			if rest := chain(imported, ours, prefix); rest != nil {
				return append([]string{dir}, rest...)
			}
		}
	}
	return nil
}

func TestImportRulesCanFail(t *testing.T) {
	tests := []struct{ name, dir, path, want string }{
		{"upwards", "cgroup", module + "/supervise", "cgroup must not import supervise"},
		{"sideways", "registry", module + "/spawn", "registry must not import spawn"},
		{"test helpers", "spawn", module + "/linuxtest", "spawn must not import linuxtest"},
		{"unknown package", "util", "fmt", "package util is not in the table of layers"},
		{"HTTP in the heart", "supervise", "net/http", "supervise must not import net/http"},
		{"logging kernel package", "cgroup", "log/slog", "cgroup must not import log/slog"},
		{"somebody else's library", "cgroup", "go.etcd.io/bbolt", "cgroup must not import go.etcd.io/bbolt"},
		{"part of a library", "pidfd", "github.com/containerd/cgroups/v3/cgroup2", "pidfd must not import github.com/containerd/cgroups/v3/cgroup2"},
		{"unknown library", "pidfd", "example.org/left-pad", "pidfd must not import example.org/left-pad"},
		{"second way to start", "cmd/pitvisor", "os/exec", "cmd/pitvisor must not import os/exec"},
		{"allowed", "spawn", module + "/cgroup", ""},
		{"allowed library", "cgroup", "golang.org/x/sys/unix", ""},
		{"standard library", "cgroup", "path/filepath", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s, err := parse(test.dir+"/planted.go", "package p\n\nimport \""+test.path+"\"\n")
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			for _, b := range checkImports([]source{s}, layers(), foreign()) {
				got += b.what
			}
			if got != test.want {
				t.Errorf("breaches = %q, want %q", got, test.want)
			}
		})
	}
}

// TestArchitecturePageShowsTheLayers compares the table that people read with the
// one above.
func TestArchitecturePageShowsTheLayers(t *testing.T) {
	page, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]bool{}
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		name, quoted := strings.CutPrefix(strings.TrimSpace(cells[0]), "`")
		name = strings.TrimSuffix(name, "`")
		if len(cells) != 3 || !quoted {
			continue
		}
		shown[name] = true
		if got, want := shownImports(cells[2]), wantImports(name); got != want {
			t.Errorf("ARCHITECTURE.md: %s imports %q, want %q", name, got, want)
		}
	}
	for _, s := range sources(t) {
		if s.production() && s.dir != "." && !shown[s.dir] {
			t.Errorf("ARCHITECTURE.md does not show %s", s.dir)
			shown[s.dir] = true
		}
	}
}

// shownImports sorts the packages of a cell; a dash is none.
func shownImports(cell string) string {
	cell = strings.TrimSpace(cell)
	if cell == "–" || cell == "" {
		return ""
	}
	if cell == "all but linuxtest" {
		return "all"
	}
	var names []string
	for name := range strings.SplitSeq(cell, ",") {
		names = append(names, strings.Trim(strings.TrimSpace(name), "`"))
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// wantImports is the row of layers in the page's words, which leave out internal/.
func wantImports(name string) string {
	table := layers()
	if slices.Contains(table[name], "*") {
		return "all"
	}
	var names []string
	for _, n := range table[name] {
		names = append(names, strings.TrimPrefix(n, "internal/"))
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}
