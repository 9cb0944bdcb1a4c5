package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// unpack is what a deb installs.
func unpack(t *testing.T, deb string) (tree string) {
	t.Helper()
	linuxtest.NeedCommand(t, "dpkg-deb")
	tree = t.TempDir()
	sh(t, "dpkg-deb", "-x", deb, tree)
	return tree
}

// offers are the words that a shell would offer for the last one of a command line.
func offers(t *testing.T, tree string, words ...string) []string {
	t.Helper()
	out, err := exec.Command(filepath.Join(tree, "usr/bin/pitvisor"), append([]string{"__complete"}, words...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(out)) {
		if word, _, ok := strings.Cut(line, "\t"); ok {
			found = append(found, word)
		}
	}
	return found
}

// testManual: every verb has a page, mandoc has nothing against them, and they say
// something when they are read.
func testManual(t *testing.T, deb string) {
	linuxtest.NeedCommand(t, "mandoc")
	tree := unpack(t, deb)
	sh(t, "gunzip", "-r", filepath.Join(tree, "usr/share/man"))
	pages := []string{"man1/pitvisor.1", "man5/pitvisor.toml.5", "man7/pitvisor.7"}
	verbs := offers(t, tree, "")
	if len(verbs) < 10 {
		t.Fatalf("verbs: %q", verbs)
	}
	for _, verb := range verbs {
		if verb != "help" {
			pages = append(pages, "man1/pitvisor-"+verb+".1")
		}
	}
	for _, verb := range offers(t, tree, "config", "") {
		pages = append(pages, "man1/pitvisor-config-"+verb+".1")
	}
	for i, page := range pages {
		pages[i] = filepath.Join(tree, "usr/share/man", page)
		name := strings.TrimSuffix(filepath.Base(page), filepath.Ext(page))
		if text := sh(t, "mandoc", "-T", "ascii", "-O", "width=200", pages[i]); !strings.Contains(text, name+" - ") || len(text) < 500 {
			t.Errorf("%s reads as:\n%s", page, text)
		}
	}
	all, err := filepath.Glob(filepath.Join(tree, "usr/share/man/man?/*"))
	if err != nil {
		t.Fatal(err)
	}
	if slices.Sort(pages); !slices.Equal(all, pages) {
		t.Errorf("pages: %q, want %q", all, pages)
	}
	if out := sh(t, append([]string{"mandoc", "-T", "lint", "-W", "warning"}, pages...)...); out != "" {
		t.Errorf("mandoc:\n%s", out)
	}
}

// shells are how each shell is asked what comes behind "pitvisor swe". $1 is the
// directory of the package's files.
func shells() map[string]string {
	return map[string]string{
		// bash-completion finds the file; bash would call the function when a tab comes.
		"bash": `source "$2" || exit
_completion_loader pitvisor
complete -p pitvisor >/dev/null || exit
COMP_WORDS=(pitvisor swe) COMP_CWORD=1 COMP_LINE='pitvisor swe' COMP_POINT=12 COMP_TYPE=9
__start_pitvisor 2>/dev/null # compopt wants a tab
printf '%s\n' "${COMPREPLY[@]}"`,
		"zsh": `zmodload zsh/zpty
zpty -b shell zsh -f -i
say() { zpty -w shell "$1"; }
say "fpath=($1/usr/share/zsh/vendor-completions \$fpath); autoload -U compinit; compinit -u -D; PS1=; stty -echo"
say 'echo prepared=$?'
zpty -r shell line '*prepared=0*' || exit
zpty -w -n shell $'pitvisor swe\t'
zpty -r -m shell line '*pitvisor sweep*' || exit
zpty -d shell
echo sweep`,
		"fish": `complete -C 'pitvisor swe' | string split -f 1 \t`,
	}
}

// testCompletions asks real shells, with the completions where they look for them.
func testCompletions(t *testing.T, deb string) {
	tree := unpack(t, deb)
	for shell, script := range shells() {
		t.Run(shell, func(t *testing.T) {
			linuxtest.NeedCommand(t, shell)
			args := []string{"-c", script, "sh", tree, "/usr/share/bash-completion/bash_completion"}
			switch shell {
			case "bash":
				if _, err := os.Stat(args[4]); err != nil {
					linuxtest.Skip(t, "needs the package bash-completion")
				}
			case "zsh":
				args = append([]string{"-f"}, args...)
			case "fish":
				args = args[:2]
			}
			home := t.TempDir()
			cmd := exec.Command(shell, args...)
			cmd.Env = []string{
				"PATH=" + filepath.Join(tree, "usr/bin") + ":" + os.Getenv("PATH"), "HOME=" + home, "TERM=dumb", "LC_ALL=C.UTF-8",
				"XDG_DATA_DIRS=" + filepath.Join(tree, "usr/share"), "XDG_CONFIG_HOME=" + home,
			}
			out, err := cmd.CombinedOutput()
			if err != nil || strings.TrimSpace(string(out)) != "sweep" {
				t.Errorf("%s completes swe with %q (%v), want sweep", shell, out, err)
			}
		})
	}
}
