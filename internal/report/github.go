package report

import (
	"bytes"
	"io"
	"strings"
)

// githubMost is how many annotations of a kind GitHub keeps of one step.
const githubMost = 10

// WriteGitHub writes workflow commands, which GitHub and those who copied it show as
// annotations: a warning for each process that was left behind, and an error for what
// could not be ended.
func (r *Report) WriteGitHub(w io.Writer) error {
	var b bytes.Buffer
	if r.Left.Total > 0 {
		title := "left behind by "
		if r.Name != "" {
			title += visible(r.Name, 60) // a script in a file of the runner's says nothing to people
		} else {
			title += commandLine(r.Command, 60)
		}
		for i, p := range r.Left.Processes {
			if i == githubMost-1 && r.Left.Total > githubMost {
				break
			}
			annotate(&b, "warning", title, processLine(p, func(_, s string) string { return s }))
		}
		if more := r.Left.Total - min(len(r.Left.Processes), githubMost-1); r.Left.Total > githubMost {
			annotate(&b, "warning", title, "and "+count(more, "more process", "more processes"))
		}
	}
	if r.LeftErr != nil {
		annotate(&b, "error", "not clean", r.unlisted())
	}
	switch {
	case r.Blocked != nil:
		annotate(&b, "error", "not clean", visible(r.Blocked.Error(), textReason))
	case !r.Removed && !r.Weak && r.RunID != "":
		annotate(&b, "error", "not clean", "the cgroup of run "+r.RunID+" is still there")
	}
	_, err := w.Write(b.Bytes())
	return err
}

// annotate writes "::warning title=...::message".
func annotate(b *bytes.Buffer, kind, title, message string) {
	b.WriteString("::" + kind + " title=" + escapeProperty(title) + "::" + escapeData(message) + "\n")
}

// escapeData escapes what ends a command, as GitHub's own toolkit does.
func escapeData(s string) string {
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A").Replace(s)
}

// escapeProperty escapes what ends a property, too.
func escapeProperty(s string) string {
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C").Replace(s)
}
