package main

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// manPage is one page of the manual.
type manPage struct {
	name, section string // "pitvisor-run", "1"
	about         string // half a sentence
	parts         []manPart
}

// manPart is a heading with text in the Markdown of [renderText].
type manPart struct{ heading, text string }

// roff is the page as man(7) source.
func (p manPage) roff(date time.Time) []byte {
	var b strings.Builder
	kind := map[string]string{"1": "User Commands", "5": "File Formats", "7": "Miscellaneous"}[p.section]
	fmt.Fprintf(&b, ".TH %q %q %q %q %q\n", strings.ToUpper(p.name), p.section, date.Format(time.DateOnly), "pitvisor "+version(), kind)
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", escapeRoff(p.name), inlineRoff(p.about))
	for _, part := range p.parts {
		fmt.Fprintf(&b, ".SH \"%s\"\n", escapeRoff(part.heading))
		b.WriteString(renderText(part.text))
	}
	return []byte(b.String())
}

// renderText turns text into man(7) source. Blank lines divide paragraphs; "- " begins
// an item of a list, and "? TERM" with indented lines below it one of a list of terms;
// indented lines, and those between ``` lines, stay as they are.
func renderText(text string) string {
	r := &roffWriter{fresh: true}
	for line := range strings.Lines(text) {
		r.line(strings.TrimSuffix(line, "\n"))
	}
	r.literal(false)
	return r.b.String()
}

// roffWriter is in the middle of a text.
type roffWriter struct {
	b       strings.Builder
	fresh   bool // right below a heading or a term: no paragraph has to be begun
	blank   bool // blank lines were seen since the last text
	verbose bool // inside .nf
	fenced  bool // inside ```
	term    bool // inside the explanation of a term
}

func (r *roffWriter) line(line string) {
	trimmed := strings.TrimSpace(line)
	indented := trimmed != "" && line[0] == ' '
	switch {
	case strings.HasPrefix(trimmed, "```"):
		r.fenced = !r.fenced
		r.literal(r.fenced)
	case r.fenced:
		r.verbatim(line)
	case trimmed == "":
		r.literal(false)
		r.blank = true
	case strings.HasPrefix(line, "? "):
		r.literal(false)
		r.b.WriteString(".TP\n" + inlineRoff(line[2:]) + "\n")
		r.fresh, r.blank, r.term = true, false, true
	case r.term && indented:
		if r.blank {
			r.b.WriteString(".IP\n")
			r.blank = false
		}
		r.b.WriteString(inlineRoff(trimmed) + "\n")
		r.fresh = false
	case strings.HasPrefix(line, "- "):
		r.literal(false)
		r.b.WriteString(".IP \\(bu 2\n" + inlineRoff(line[2:]) + "\n")
		r.fresh, r.blank, r.term = false, false, false
	case indented:
		r.literal(true)
		r.verbatim(line)
	default:
		r.literal(false)
		if (r.blank || r.term) && !r.fresh {
			r.b.WriteString(".PP\n")
		}
		r.fresh, r.blank, r.term = false, false, false
		r.b.WriteString(inlineRoff(trimmed) + "\n")
	}
}

// verbatim writes a line of an example, two columns further left.
func (r *roffWriter) verbatim(line string) {
	for range 2 {
		line = strings.TrimPrefix(line, " ")
	}
	r.b.WriteString(escapeRoff(line) + "\n")
}

// literal begins or ends text that stays as it is.
func (r *roffWriter) literal(on bool) {
	if on == r.verbose {
		return
	}
	r.verbose = on
	if !on {
		r.b.WriteString(".fi\n.RE\n")
		r.fresh, r.blank = false, true
		return
	}
	if !r.fresh {
		r.b.WriteString(".PP\n")
	}
	r.b.WriteString(".RS 4\n.nf\n")
	r.fresh, r.blank, r.term = false, false, false
}

var (
	codeSpan   = regexp.MustCompile("`([^`]+)`")
	stressSpan = regexp.MustCompile(`\*\*([^*]+)\*\*`)
	pageName   = regexp.MustCompile(`\b([a-z](?:[a-z0-9_.]|\\-)*)(\([1-8]\))`)
)

// inlineRoff is a line of running text with `code`, **stress** and names of pages.
func inlineRoff(s string) string {
	s = escapeRoff(s)
	s = strings.ReplaceAll(s, `\(ga`, "`") // of which only the unpaired ones are text
	s = codeSpan.ReplaceAllString(s, `\fB$1\fP`)
	s = stressSpan.ReplaceAllString(s, `\fB$1\fP`)
	s = strings.ReplaceAll(s, "`", `\(ga`)
	return pageName.ReplaceAllString(s, `\fB$1\fP$2`)
}

// escapeRoff makes each character stand for itself, and a line no request.
func escapeRoff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`, "'", `\(aq`, `"`, `\(dq`,
		"–", `\(en`, "→", `\(->`, "…", "...", "×", `\(mu`).Replace(s)
	if strings.HasPrefix(s, ".") {
		s = `\&` + s
	}
	return s
}
