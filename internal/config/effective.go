package config

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/pitvisor/pitvisor/supervise"
)

// Effective is the result of reading all files, with where each value is from.
type Effective struct {
	Files  []string
	Tables []EffectiveTable
}

// EffectiveTable is one table of the result.
type EffectiveTable struct {
	Path     []string // such as "pool", "web", "limits"; none for the top level
	Settings []Setting
}

// Header returns the table's name as the file has it, "[pool.web]"; "" for the top
// level.
func (t EffectiveTable) Header() string {
	if len(t.Path) == 0 {
		return ""
	}
	return "[" + dottedKey(t.Path) + "]"
}

// Whole returns the key of a setting as it would be at the top of a file, such as
// pool.web.limits."memory.max".
func (t EffectiveTable) Whole(s Setting) string {
	return dottedKey(append(slices.Clone(t.Path), s.Key))
}

func dottedKey(parts []string) string {
	written := make([]string, len(parts))
	for i, p := range parts {
		written[i] = tomlKey(p)
	}
	return strings.Join(written, ".")
}

// tomlKey writes a key as a file has it.
func tomlKey(name string) string {
	if isBare(name) {
		return name
	}
	return tomlString(name)
}

// Setting is one key in force.
type Setting struct {
	Key  string
	From From
	At   *Place  // of the key; nil unless From is a file
	Over []Place // where else the key is set, to no effect, the last place first
	Why  string  // of a value that no file has, or has only as a variable

	v *value
}

// From says what kind of thing a value is from.
type From string

// The kinds of origins.
const (
	FromFile     From = "file"
	FromDefaults From = "defaults" // of a file
	FromBuiltIn  From = "built-in"
)

// TOML returns the line that says so in a file.
func (s Setting) TOML() string { return tomlKey(s.Key) + " = " + s.v.toml() }

// Value returns the value as encoding/json takes it.
func (s Setting) Value() any { return s.v.plain() }

// toml writes a value as a file has it.
func (v *value) toml() string {
	switch v.kind {
	case kindText:
		return tomlString(strings.ReplaceAll(v.text, "${", "$${"))
	case kindList:
		items := make([]string, len(v.items))
		for i, item := range v.items {
			items[i] = item.toml()
		}
		return "[" + strings.Join(items, ", ") + "]"
	case kindWhole, kindFloat, kindBool, kindDate, kindTable:
	}
	return v.text
}

// tomlString quotes text.
func tomlString(text string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range text {
		switch {
		case r == '"' || r == '\\':
			b.WriteString(`\` + string(r))
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case !strconv.IsPrint(r) && r != ' ':
			fmt.Fprintf(&b, `\U%08X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

func (v *value) plain() any {
	switch v.kind {
	case kindText, kindDate, kindTable:
	case kindBool:
		return v.text == "true"
	case kindWhole:
		if n, err := parseWhole(v.text); err == nil {
			return n
		}
	case kindFloat:
		if f, err := strconv.ParseFloat(strings.ReplaceAll(v.text, "_", ""), 64); err == nil {
			return f
		}
	case kindList:
		items := make([]any, len(v.items))
		for i, item := range v.items {
			items[i] = item.plain()
		}
		return items
	}
	return v.text
}

// record notes a value in force.
func (d *decoder) record(place, name string, e *entry) {
	if d.settings == nil || e.kind == kindTable {
		return
	}
	if d.settings[place] == nil {
		d.settings[place] = make(map[string]*entry)
	}
	d.settings[place][name] = e
}

// move notes that a built-in value gives way to what is written of another key.
func (d *decoder) move(place, name, after string) {
	if other := d.settings[place][after]; other != nil {
		own := *other
		own.name, own.moved = name, true
		d.record(place, name, &own)
	}
}

// effective lists what is in force, in the order of the reference.
func (d *decoder) effective(c *Config) *Effective {
	e := &Effective{Files: c.Files}
	name := &value{kind: kindText, text: c.Name}
	dir := &value{kind: kindText, text: d.dir}
	addTable(d, e, nil, d.tables.top, true, Setting{Key: "name", Why: "the file's name", v: name})
	addTable(d, e, []string{"log"}, d.tables.log, true)
	addTable(d, e, []string{"api"}, d.tables.api, false)
	for _, s := range c.Sockets {
		addTable(d, e, []string{"socket", s.Name}, d.tables.socket, false)
	}
	addTable(d, e, []string{"run"}, d.tables.run, false)
	addTable(d, e, []string{"run", "limits"}, d.tables.limits, false)
	addTable(d, e, []string{"run", "pressure"}, d.tables.runPressure, len(c.Run.Watch) > 0)
	for _, p := range c.Pools {
		path := func(more ...string) []string { return append([]string{"pool", p.Spec.Name}, more...) }
		addTable(d, e, path(), d.tables.pool, true, Setting{Key: "directory", Why: "the directory of " + filepath.Base(c.Path), v: dir})
		d.addNames(e, path("env"))
		d.addNames(e, path("labels"))
		d.addNames(e, path("after"))
		addTable(d, e, path("limits"), d.tables.limits, false)
		addTable(d, e, path("pool_limits"), d.tables.limits, false)
		addTable(d, e, path("rlimits"), d.tables.rlimits, false)
		addTable(d, e, path("backoff"), d.tables.backoff, true)
		addTable(d, e, path("rollout"), d.tables.rollout, false)
		if p.Spec.Recycle != (supervise.Recycle{}) { // else nothing that is said of it has an effect
			addTable(d, e, path("recycle"), d.tables.recycle, true)
		}
		if p.Spec.Pressure.Action != 0 {
			addTable(d, e, path("pressure"), ofAction(d.tables.pressure, p.Spec.Pressure.Action), true)
		}
		if p.Live != nil {
			addTable(d, e, path("live"), d.tables.live, len(d.settings["[pool."+p.Spec.Name+".live]"]) > 0)
		}
		if p.Ready != nil { // else only [defaults] say something, to no effect
			addTable(d, e, path("ready"), d.tables.ready, true)
		}
	}
	return e
}

// addTable adds a table if there is anything in it; with what is built in, if that is
// in force, and with what is known of single keys only here.
func addTable[T any](d *decoder, to *Effective, path []string, keys []key[T], builtIn bool, computed ...Setting) {
	place := "[" + strings.Join(path, ".") + "]"
	if len(path) == 0 {
		place = wholeFile
	}
	t := EffectiveTable{Path: path}
	for _, k := range keys {
		i := slices.IndexFunc(computed, func(s Setting) bool { return s.Key == k.Name })
		set := d.settings[place][k.Name]
		switch text := k.builtIn(); {
		case set != nil && set.moved:
			t.Settings = append(t.Settings, Setting{Key: k.Name, From: FromBuiltIn, Why: "follows what is set beside it", v: set.value})
		case set != nil:
			t.Settings = append(t.Settings, d.setting(set))
		case i >= 0:
			computed[i].From = FromBuiltIn
			t.Settings = append(t.Settings, computed[i])
		case builtIn && text != "":
			t.Settings = append(t.Settings, Setting{Key: k.Name, From: FromBuiltIn, v: literal(text)})
		}
	}
	if len(t.Settings) > 0 {
		to.Tables = append(to.Tables, t)
	}
}

// addNames adds a table that may have any name in it.
func (d *decoder) addNames(to *Effective, path []string) {
	t := EffectiveTable{Path: path}
	for _, e := range d.settings["["+strings.Join(path, ".")+"]"] {
		t.Settings = append(t.Settings, d.setting(e))
	}
	if len(t.Settings) > 0 {
		slices.SortFunc(t.Settings, func(a, b Setting) int { return strings.Compare(a.Key, b.Key) })
		to.Tables = append(to.Tables, t)
	}
}

func (d *decoder) setting(e *entry) Setting {
	at := d.place(e.at)
	s := Setting{Key: e.name, From: FromFile, At: &at, v: e.value}
	if e.inherited {
		s.From = FromDefaults
	}
	if e.variable && e.written == "" {
		s.Why = "with variables"
	} else if e.variable {
		s.Why = e.written
	}
	for _, o := range e.over {
		s.Over = append(s.Over, d.place(o.at))
	}
	return s
}

// builtIn returns the default as a file would have it, "" if it depends on where
// pitvisor runs.
func (k key[T]) builtIn() string {
	if strings.Count(k.Default, "`") != 2 || !strings.HasPrefix(k.Default, "`") || !strings.HasSuffix(k.Default, "`") {
		return ""
	}
	return strings.Trim(k.Default, "`")
}

// literal is a value of the reference.
func literal(text string) *value {
	switch {
	case strings.HasPrefix(text, `"`):
		return &value{kind: kindText, text: strings.Trim(text, `"`)}
	case text == "true", text == "false":
		return &value{kind: kindBool, text: text}
	case strings.Contains(text, "."):
		return &value{kind: kindFloat, text: text}
	}
	return &value{kind: kindWhole, text: text}
}
