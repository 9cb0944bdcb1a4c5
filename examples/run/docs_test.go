package run_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// testPage holds docs/run.md against the programs' own help: every flag of the verbs
// is on the page, and every option that the page names belongs to somebody.
func testPage(t *testing.T, bin string) {
	p := newPlace(t, bin)
	page := string(readFile(t, "../../docs/run.md"))
	option := regexp.MustCompile(`--[a-z][a-z-]*`)
	var known []string
	for _, verb := range []string{"run", "detach", "end"} {
		code, help, _ := p.run(t, bin+"/pitvisor", verb, "--help")
		_, flags, ok := strings.Cut(help, "\nFlags:\n")
		if code != 0 || !ok {
			t.Fatalf("pitvisor %s --help: exit code %d\n%s", verb, code, help)
		}
		own, global, _ := strings.Cut(flags, "\nGlobal Flags:\n")
		for line := range strings.Lines(own) {
			flag := option.FindString(line)
			known = append(known, flag)
			if flag != "--help" && !strings.Contains(page, "`"+flag) {
				t.Errorf("docs/run.md does not tell of %s of pitvisor %s", flag, verb)
			}
		}
		for line := range strings.Lines(global) {
			known = append(known, option.FindString(line))
		}
	}
	// Options of other verbs and programs on the page.
	known = append(known, "--json", "--scope", "--user", "--wait", "--pipe", "--die-with-parent", "--unshare-pid", "--ppid")
	for _, named := range option.FindAllString(page, -1) {
		if !slices.Contains(known, named) {
			t.Errorf("docs/run.md names %s, which no verb has", named)
		}
	}
}
