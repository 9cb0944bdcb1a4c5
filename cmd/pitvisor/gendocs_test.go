package main

import (
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/pitvisor/pitvisor/internal/config"
)

// manual is all generated files, and the pages in one text without what roff adds.
func manual(t *testing.T) (files map[string][]byte, text string) {
	t.Helper()
	root := (&app{stdout: io.Discard, stderr: io.Discard}).rootCommand()
	files, err := docFiles(root, time.Unix(1e9, 0).UTC())
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for name, data := range files {
		if strings.HasPrefix(name, "man/") {
			all.Write(data)
		}
	}
	return files, strings.NewReplacer(`\fB`, "", `\fP`, "", `\-`, "-", `\(aq`, "'", `\(dq`, `"`, `\&`, "").Replace(all.String())
}

func TestManualHasEveryVerbFlagAndKey(t *testing.T) {
	files, text := manual(t)
	root := (&app{stdout: io.Discard, stderr: io.Discard}).rootCommand()
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		page := string(files["man/pitvisor-"+cmd.Name()+".1"])
		if cmd.Hidden != (page == "") {
			t.Errorf("verb %s: hidden %v, page of %d bytes", cmd.Name(), cmd.Hidden, len(page))
		}
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if !cmd.Hidden && !f.Hidden && !strings.Contains(page, `\fB\-\-`+strings.ReplaceAll(f.Name, "-", `\-`)+`\fP`) {
				t.Errorf("the page of %s does not have --%s", cmd.Name(), f.Name)
			}
		})
	}
	for _, s := range config.Reference().Sections {
		for _, k := range s.Keys {
			if !strings.Contains(text, "\n"+strings.Join(k.Names, ", ")+" (") {
				t.Errorf("pitvisor.toml(5) does not have %s of %s", k.Names[0], s.Title)
			}
		}
	}
}

// The same program writes the same bytes, so that packages can be made again.
func TestManualIsReproducible(t *testing.T) {
	first, _ := manual(t)
	second, _ := manual(t)
	if !maps.EqualFunc(first, second, func(a, b []byte) bool { return string(a) == string(b) }) {
		t.Error("two manuals differ")
	}
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	dir := t.TempDir()
	if code := run([]string{"gen-docs", dir}, io.Discard, os.Stderr); code != exitOK {
		t.Fatalf("gen-docs = %d", code)
	}
	page, err := os.ReadFile(filepath.Join(dir, "man", "pitvisor.1"))
	if err != nil || !strings.HasPrefix(string(page), `.TH "PITVISOR" "1" "2023-11-14" "pitvisor `+version()+`"`) {
		t.Errorf("pitvisor.1 = %.80q, %v", page, err)
	}
	t.Setenv("SOURCE_DATE_EPOCH", "yesterday")
	if code := run([]string{"gen-docs", dir}, io.Discard, io.Discard); code != exitUsage {
		t.Errorf("gen-docs with a wrong date = %d, want %d", code, exitUsage)
	}
}

func TestRenderText(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"paragraphs", "a\nb\n\nc\n", "a\nb\n.PP\nc\n"},
		{"request", ".PP is no 'request'\n", "\\&.PP is no \\(aqrequest\\(aq\n"},
		{"quote first", "'tis\n", "\\(aqtis\n"},
		{"spans", "`--a` and **b**, see pitvisor-run(1)\n", "\\fB\\-\\-a\\fP and \\fBb\\fP, see \\fBpitvisor\\-run\\fP(1)\n"},
		{"backslash", `\fB` + "\n", "\\efB\n"},
		{"example", "codes:\n  1  x\nmore\n", "codes:\n.PP\n.RS 4\n.nf\n1  x\n.fi\n.RE\n.PP\nmore\n"},
		{"fence", "```\n.a\n\nb\n```\n", ".RS 4\n.nf\n\\&.a\n\nb\n.fi\n.RE\n"},
		{"terms", "? a\n  is\n? b\n  is\n\n  more\nend\n", ".TP\na\nis\n.TP\nb\nis\n.IP\nmore\n.PP\nend\n"},
		{"list", "x\n\n- a\n- b\n\ny\n", "x\n.IP \\(bu 2\na\n.IP \\(bu 2\nb\n.PP\ny\n"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := renderText(test.text); got != test.want {
				t.Errorf("renderText(%q) = %q, want %q", test.text, got, test.want)
			}
		})
	}
}
