package vm

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// Matrix writes what lanes have found as Markdown: a table with a column for each
// report. The same reports in any order give the same text.
func Matrix(reports []*Report) string {
	m := matrix{columns: slices.Clone(reports)}
	slices.SortFunc(m.columns, func(a, b *Report) int {
		return cmp.Or(a.version().compare(b.version()), cmp.Compare(laneOrder(a), laneOrder(b)), strings.Compare(a.System, b.System))
	})
	m.kernels()
	m.features()
	m.programs()
	m.skips()
	return m.b.String()
}

// Merge puts newer reports in the place of those of the same lane, kernel and
// system, and returns all without what only a person who looks for a fault wants.
func Merge(old, newer []*Report) []*Report {
	byKey := map[string]*Report{}
	for _, r := range slices.Concat(old, newer) {
		byKey[fmt.Sprintf("%v %s %s", r.version(), r.Lane, r.System)] = r.brief()
	}
	return slices.SortedFunc(maps.Values(byKey), func(a, b *Report) int {
		return cmp.Or(a.version().compare(b.version()), cmp.Compare(a.Lane, b.Lane), strings.Compare(a.System, b.System))
	})
}

// brief is the report as the matrix needs it.
func (r *Report) brief() *Report {
	b := &Report{
		Lane: r.Lane, System: r.System, Release: r.Release, Version: r.Version, Suite: r.Suite,
		Tier: r.Tier, Controllers: r.Controllers, Features: r.Features, Lacking: r.Lacking, Dropped: r.Dropped, Error: r.Error,
	}
	for _, o := range r.Programs {
		short := Outcome{Name: o.Name, OK: o.OK, Why: o.Why}
		if o.Tests != nil {
			short.Tests = &Tests{Passed: o.Tests.Passed, Skipped: o.Tests.Skipped}
			for _, f := range o.Tests.Failed {
				short.Tests.Failed = append(short.Tests.Failed, Failed{Test: f.Test})
			}
		}
		b.Programs = append(b.Programs, short)
	}
	return b
}

// version is the kernel's; 0.0 where the release cannot be read.
func (r *Report) version() version {
	v, _ := parseVersion(r.Release)
	return v
}

// laneOrder puts a plain kernel first, and the host's own behind it.
func laneOrder(r *Report) string {
	switch r.Lane {
	case "vm":
		return "0"
	case "host":
		return "1"
	}
	return "2" + r.Lane
}

// matrix is a page that is being written.
type matrix struct {
	columns []*Report
	b       strings.Builder
}

// head starts a table with some columns of its own before those of the reports.
func (m *matrix) head(first ...string) {
	m.b.WriteString("\n| " + strings.Join(first, " | ") + " |")
	for _, r := range m.columns {
		fmt.Fprintf(&m.b, " %v %s |", r.version(), r.Lane)
	}
	m.b.WriteString("\n" + strings.Repeat("|---", len(first)+len(m.columns)) + "|\n")
}

// row writes a row, cell telling what stands in the column of a report.
func (m *matrix) row(first []string, cell func(*Report) string) {
	m.b.WriteString("| " + strings.Join(first, " | ") + " |")
	for _, r := range m.columns {
		m.b.WriteString(" " + strings.ReplaceAll(cell(r), "|", "\\|") + " |")
	}
	m.b.WriteString("\n")
}

// plain is a row with one name in front.
func (m *matrix) plain(name string, cell func(*Report) string) { m.row([]string{name}, cell) }

// orDash is what stands in a cell that has nothing.
func orDash(text string) string { return cmp.Or(text, "–") }

func (m *matrix) kernels() {
	m.head("")
	m.plain("release", func(r *Report) string { return "`" + r.Release + "`" })
	m.plain("with", func(r *Report) string { return orDash(r.System) })
	m.plain("tier", func(r *Report) string { return "**" + orDash(r.Tier) + "**" })
	m.plain("controllers", func(r *Report) string { return orDash(strings.Join(r.Controllers, " ")) })
	m.plain("tests passed", func(r *Report) string {
		return r.sum(func(t *Tests) int { return t.Passed })
	})
	m.plain("tests failed", func(r *Report) string {
		if bad := r.bad(); bad != "" {
			return bad
		}
		return r.sum(func(t *Tests) int { return len(t.Failed) })
	})
	m.plain("tests skipped", func(r *Report) string {
		return r.sum(func(t *Tests) int { return len(t.Skipped) })
	})
}

// sum adds up over the programs of a report.
func (r *Report) sum(of func(*Tests) int) string {
	if len(r.Programs) == 0 {
		return "–"
	}
	n := 0
	for _, o := range r.Programs {
		if o.Tests != nil {
			n += of(o.Tests)
		}
	}
	return fmt.Sprint(n)
}

// bad names the programs that did not end as they should, with the number of
// failed tests; "" is none.
func (r *Report) bad() string {
	var names []string
	for _, o := range r.Programs {
		if !o.OK {
			failed := 0
			if o.Tests != nil {
				failed = len(o.Tests.Failed)
			}
			names = append(names, fmt.Sprintf("%s: %d (%s)", path.Base(o.Name), failed, o.Why))
		}
	}
	return strings.Join(names, "; ")
}

func (m *matrix) features() {
	m.b.WriteString("\nWhat the kernel can do, by trying: `–` the kernel is older, `no` it is new enough, but it is not there.\n")
	m.head("feature", "Linux")
	names := map[string]bool{}
	for _, r := range m.columns {
		for name := range r.Features {
			names[name] = true
		}
	}
	known := since()
	for _, name := range slices.SortedFunc(maps.Keys(names), func(a, b string) int {
		from, to := known[a], known[b]
		undated := cmp.Compare(to.major, 0) - cmp.Compare(from.major, 0) // they come last
		return cmp.Or(undated, from.compare(to), strings.Compare(a, b))
	}) {
		from, dated := known[name]
		first := "–"
		if dated {
			first = from.String()
		}
		m.row([]string{name, first}, func(r *Report) string {
			has, asked := r.Features[name]
			switch {
			case has:
				return "yes"
			case !asked, dated && r.version().before(from):
				return "–"
			}
			return "no"
		})
	}
}

func (m *matrix) programs() {
	names := map[string]bool{}
	for _, r := range m.columns {
		for _, o := range r.Programs {
			names[o.Name] = true
		}
	}
	if len(names) == 0 {
		return
	}
	m.b.WriteString("\nTests that passed, by package, and `+` those that were skipped.\n")
	m.head("package")
	common := commonDir(slices.Sorted(maps.Keys(names)))
	for _, name := range slices.Sorted(maps.Keys(names)) {
		m.plain(strings.TrimPrefix(name, common), func(r *Report) string {
			i := slices.IndexFunc(r.Programs, func(o Outcome) bool { return o.Name == name })
			if i < 0 {
				return "–"
			}
			return r.Programs[i].cell()
		})
	}
}

// cell is how the program ended, in a word.
func (o *Outcome) cell() string {
	text := "ok"
	if o.Tests != nil {
		text = fmt.Sprint(o.Tests.Passed)
		if n := len(o.Tests.Skipped); n > 0 {
			text += fmt.Sprintf(" +%d", n)
		}
	}
	if !o.OK {
		text += " **" + cmp.Or(o.Why, "failed") + "**"
	}
	return text
}

// commonDir is the directory, with its slash, that all import paths begin with.
func commonDir(names []string) string {
	names = slices.DeleteFunc(names, func(name string) bool { return !strings.Contains(name, "/") })
	common := ""
	for i, name := range names {
		if i == 0 {
			common = path.Dir(name) + "/"
		}
		for !strings.HasPrefix(name, common) {
			common = strings.TrimSuffix(path.Dir(strings.TrimSuffix(common, "/"))+"/", "./")
		}
	}
	return common
}

func (m *matrix) skips() {
	reasons := map[string]map[*Report]int{}
	for _, r := range m.columns {
		for _, o := range r.Programs {
			if o.Tests == nil {
				continue
			}
			for _, s := range o.Tests.Skipped {
				if reasons[s.Reason] == nil {
					reasons[s.Reason] = map[*Report]int{}
				}
				reasons[s.Reason][r]++
			}
		}
	}
	if len(reasons) == 0 {
		return
	}
	m.b.WriteString("\nWhy tests were skipped, and how many.\n")
	m.head("reason")
	for _, reason := range slices.Sorted(maps.Keys(reasons)) {
		m.plain(strings.ReplaceAll(reason, "|", "\\|"), func(r *Report) string {
			if n := reasons[reason][r]; n > 0 {
				return fmt.Sprint(n)
			}
			return "–"
		})
	}
}
