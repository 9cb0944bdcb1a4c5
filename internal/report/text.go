package report

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/pitvisor/pitvisor/internal/leftover"
	"github.com/pitvisor/pitvisor/internal/sockdiag"
)

// How much a person reads.
const (
	textProcesses = 50
	textCommand   = 160 // bytes of a command line
	textReason    = 400
	textSockets   = 8
)

// The styles of a terminal.
const (
	styleWarn = "\x1b[33m"
	styleDim  = "\x1b[2m"
	styleOff  = "\x1b[0m"
)

// text collects lines.
type text struct {
	bytes.Buffer
	color bool
}

// say writes a line of pitvisor's.
func (t *text) say(format string, args ...any) {
	t.WriteString("pitvisor: ")
	fmt.Fprintf(t, format, args...)
	t.WriteByte('\n')
}

// warn writes a line that should be seen.
func (t *text) warn(format string, args ...any) {
	t.say("%s", t.paint(styleWarn, fmt.Sprintf(format, args...)))
}

func (t *text) paint(style, s string) string {
	if !t.color {
		return s
	}
	return style + s + styleOff
}

// WriteText writes what is not as it should be, for a person to read on stderr: what
// was left behind, what is still there, and what cannot be promised. A clean run
// gives nothing.
func (r *Report) WriteText(w io.Writer, color bool) error {
	t := &text{color: color}
	r.sayOOM(t)
	r.sayLeft(t)
	for _, d := range r.Detached {
		t.say("%s goes on as detached run %s", visible(d.Name, textCommand), visible(d.ID, textCommand))
	}
	r.sayBlocked(t)
	if r.Weak {
		t.warn("weak: this ran without a cgroup, so what escaped is not known")
	}
	_, err := w.Write(t.Bytes())
	return err
}

func (r *Report) sayOOM(t *text) {
	if r.OOM != nil && r.OOM.Count > 0 {
		t.warn("%s", visible(r.OOM.Words, textReason))
	}
	switch {
	case r.PIDs != nil:
		t.warn("the limit of processes was reached: %s", visible(r.PIDs.Words, textReason))
	case slices.Contains(r.Extra, PIDsLimit):
		t.warn("the limit of processes was reached: starts of more were refused")
	}
}

func (r *Report) sayLeft(t *text) {
	if r.LeftErr != nil {
		t.warn("%s", r.unlisted())
	}
	if r.Left.Total == 0 {
		return
	}
	t.warn("%s", r.leftTitle())
	for i, p := range r.Left.Processes {
		if i == textProcesses {
			break
		}
		t.WriteString("  " + processLine(p, t.paint) + "\n")
	}
	if more := r.Left.Total - min(len(r.Left.Processes), textProcesses); more > 0 {
		t.WriteString("  and " + count(more, "more process", "more processes") + "\n")
	}
}

// unlisted says that what was left behind is not known.
func (r *Report) unlisted() string {
	return "what the command left behind is not known, but killed: " + visible(r.LeftErr.Error(), textReason)
}

// leftTitle says how much was left behind, and what became of it.
func (r *Report) leftTitle() string {
	what := "killed"
	if r.Blocked != nil {
		what = "not all of it killed"
	}
	return "left behind by the command and " + what + ": " + count(r.Left.Total, "process", "processes")
}

// sayBlocked names what keeps the cgroups from being removed.
func (r *Report) sayBlocked(t *text) {
	switch {
	case r.Blocked != nil:
		t.warn("not clean: %s", r.blockedTitle())
		for _, b := range r.Blocked.Blockers {
			t.WriteString("  " + visible(b.String(), textCommand) + "\n")
		}
		if more := r.Blocked.Total - len(r.Blocked.Blockers); more > 0 && len(r.Blocked.Blockers) > 0 {
			t.WriteString("  and " + count(more, "more process", "more processes") + "\n")
		}
	case !r.Removed && !r.Weak && r.RunID != "":
		t.warn("not clean: the cgroup of run %s is still there", visible(r.RunID, textCommand))
	}
}

// blockedTitle says what keeps the run from being removed, without the names.
func (r *Report) blockedTitle() string {
	b := r.Blocked
	path, reason := visible(b.Path, textCommand), "unknown"
	if b.Err != nil {
		reason = visible(b.Err.Error(), textReason)
	}
	if b.Total == 0 {
		return "cgroup " + path + " cannot be removed: " + reason
	}
	return count(b.Total, "process", "processes") + " left in cgroup " + path + ": " + reason
}

// processLine is one process in one line:
//
//	4711:84423 redis-server *:6379 uid 0 age 3s (setsid, reparented) listening 127.0.0.1:6379
func processLine(p leftover.Process, paint func(style, s string) string) string {
	unknown := func(f leftover.Fact) bool { return slices.Contains(p.Unknown, f) }
	line := fmt.Sprintf("%s %s", identity(p), processName(p))
	var more strings.Builder
	if !unknown(leftover.FactUID) {
		fmt.Fprintf(&more, " uid %d", p.UID)
	}
	if !unknown(leftover.FactState) {
		more.WriteString(" age " + age(p.Age))
	}
	if len(p.Left) > 0 {
		more.WriteString(" (" + ways(p) + ")")
	}
	if len(p.Listening) > 0 {
		more.WriteString(" listening " + sockets(p))
	}
	if len(p.Unknown) > 0 {
		more.WriteString(" unknown: " + strings.Join(facts(p), ", "))
	}
	return line + paint(styleDim, more.String())
}

// identity is the number of a process, with what makes it unique.
func identity(p leftover.Process) string {
	if p.Inode == 0 {
		return fmt.Sprint(p.PID)
	}
	return fmt.Sprintf("%d:%d", p.PID, p.Inode)
}

// processName is the command line, or what the kernel calls a process without one.
func processName(p leftover.Process) string {
	name := commandLine(p.Args, textCommand)
	switch {
	case name == "" && p.Comm == "":
		return "[unknown]"
	case name == "":
		return "[" + visible(p.Comm, textCommand) + "]"
	case p.ArgsCut && !strings.HasSuffix(name, "..."):
		return name + "..."
	}
	return name
}

// ways says how a process left; the nested run or the cgroup that it is in is named.
func ways(p leftover.Process) string {
	var words []string
	for _, w := range p.Left {
		word := string(w)
		switch {
		case w == leftover.SubCgroup && p.Run != "":
			word = "nested run " + visible(p.Run, textCommand)
		case w == leftover.SubCgroup, w == leftover.OtherCgroup:
			word += " " + visible("/"+p.Cgroup, textCommand)
		}
		words = append(words, word)
	}
	return strings.Join(words, ", ")
}

func facts(p leftover.Process) []string {
	var words []string
	for _, f := range p.Unknown {
		words = append(words, string(f))
	}
	return words
}

// sockets lists where a process listens.
func sockets(p leftover.Process) string {
	var words []string
	for i, s := range p.Listening {
		if i == textSockets {
			break
		}
		word := visible(s.String(), textCommand)
		if s.Proto != sockdiag.TCP {
			word = s.Proto.String() + " " + word
		}
		words = append(words, word)
	}
	if more := len(p.Listening) - len(words) + p.ListeningLeftOut; more > 0 {
		words = append(words, fmt.Sprintf("%d more", more))
	}
	return strings.Join(words, ", ")
}

// age is a duration as a person says it: two units at most.
func age(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
