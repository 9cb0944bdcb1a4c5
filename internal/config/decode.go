package config

import (
	"bytes"
	"fmt"
	"iter"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pitvisor/pitvisor/internal/units"
)

// decoder turns the trees of the files into a Config and collects what is wrong.
type decoder struct {
	problems
	dir     string // of the main file; relative paths start here
	environ []string
	accounts
	tables   tables
	programs map[string]answer[string]    // by name and PATH
	envFiles map[string][]assignment      // by path
	settings map[string]map[string]*entry // in force, by table and key; nil unless they are asked for

	inherited    []string     // what a pool gets of environ unless it says no; shared, never written to
	workers      int          // of all pools so far
	dependencies []dependency // between pools
	socketUses   []*socketUse // by pools
	truncated    bool         // a file was not understood to its end, so nothing is said about what is missing
}

func newDecoder(dir string, environ []string) *decoder {
	return &decoder{
		dir: dir, environ: environ,
		accounts: newAccounts(), tables: newTables(), programs: make(map[string]answer[string]),
		envFiles: make(map[string][]assignment), inherited: inherit(environ),
	}
}

// read makes the tree of one more file.
func (d *decoder) read(name string, data []byte) *table {
	// A byte order mark is allowed and takes no column.
	doc := d.open(name, bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")))
	before := d.count
	t := parseTree(&d.problems, doc)
	d.truncated = d.truncated || d.count > before
	return t
}

// key is one key that a table may have. The exported fields are its documentation.
type key[T any] struct {
	Name    string
	Also    []string // other spellings
	Type    string
	Default string
	Meaning string
	Example string // of a line, or of several
	schema  schema // of the value; nil means what Type says
	alone   bool   // what several files say of it stands side by side
	set     func(d *decoder, e *entry, to T)
}

// decodeTable gives each entry of a table to its key and refuses unknown ones. Of what
// several files say the last holds, but the rest must be right as well.
func decodeTable[S any](d *decoder, t *table, place string, keys []key[*S], to *S) {
	final := make(map[string]*entry, len(t.entries))
	for _, e := range t.entries {
		k := findKey(keys, e.name)
		if k == nil {
			d.unknown(e, place, keyNames(keys))
			continue
		}
		first := final[k.Name]
		switch {
		case k.alone:
			k.set(d, e, to)
			continue
		case first == nil:
		case first.sameLayer(e):
			d.add(e.at, "remove one of them", "%s says the same thing as %s", bareKey(e.name), bareKey(first.name))
			continue
		default:
			scratch := *to
			d.setReplaced(first, func(own *entry) { k.set(d, own, &scratch) })
			e = e.replacing(first)
		}
		final[k.Name] = e
	}
	for _, e := range t.entries {
		k := findKey(keys, e.name)
		if k == nil || final[k.Name] == nil {
			continue
		}
		e, final[k.Name] = final[k.Name], nil
		if own, ok := d.expanded(e); ok {
			k.set(d, own, to)
			d.record(place, k.Name, own)
		}
	}
}

// inForce returns the entries of a table that no later file replaces, with their
// variables. What is wrong with a variable is reported, and its entry left out.
func (d *decoder) inForce(t *table) iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		replaced := make(map[string][]*entry)
		for _, e := range t.entries {
			if t.byName[e.name] != e {
				replaced[e.name] = append([]*entry{e}, replaced[e.name]...)
				continue
			}
			own, ok := d.expanded(e)
			own.over = replaced[e.name]
			if ok && !yield(own) {
				return
			}
		}
	}
}

// replacing returns e with what it takes the place of.
func (e *entry) replacing(first *entry) *entry {
	own := *e
	own.over = append([]*entry{first}, first.over...)
	return &own
}

// setReplaced looks whether a value is right that another file replaces. One with a
// variable depends on what is perhaps not to be had, which may be why it is replaced.
func (d *decoder) setReplaced(e *entry, set func(*entry)) {
	if e.kind == kindTable || e.mentionsVariable() {
		return
	}
	if own, ok := d.expanded(e); ok {
		set(own)
	}
}

func findKey[T any](keys []key[T], name string) *key[T] {
	for i := range keys {
		if keys[i].Name == name || slices.Contains(keys[i].Also, name) {
			return &keys[i]
		}
	}
	return nil
}

// keyNames returns all spellings, the preferred ones first.
func keyNames[T any](keys []key[T]) []string {
	var names, also []string
	for _, k := range keys {
		names = append(names, k.Name)
		also = append(also, k.Also...)
	}
	return append(names, also...)
}

func (d *decoder) unknown(e *entry, place string, allowed []string) {
	hint := didYouMean(e.name, allowed)
	if hint == "" && slices.Contains(allowed, "command") {
		hint = elsewhere(e.name)
	}
	if hint == "" {
		hint = "allowed are " + strings.Join(allowed, ", ")
	}
	d.add(e.at, hint, "unknown key %s in %s", quoted(e.name), place)
}

// wrongKind reports a value of the wrong kind.
func (d *decoder) wrongKind(e *entry, want, hint string) {
	if e.variable {
		hint = "it comes from a variable"
	}
	d.add(e.value.at, hint, "%s must be %s, but this is %s", bareKey(e.name), want, describe(e.value))
}

// describe returns a value for a message.
func describe(v *value) string {
	switch v.kind {
	case kindText:
		return "the string " + quoted(v.text)
	case kindWhole, kindFloat, kindBool, kindDate:
		return v.kind.String() + ", " + v.text
	case kindList, kindTable:
	}
	return v.kind.String()
}

// text returns a string without zero bytes, which nothing in the kernel can take.
func (d *decoder) text(e *entry) (string, bool) {
	if e.kind != kindText {
		hint := ""
		if e.kind == kindWhole || e.kind == kindFloat || e.kind == kindBool {
			hint = fmt.Sprintf("write it in quotes: %q", e.value.text)
		}
		d.wrongKind(e, "a string", hint)
		return "", false
	}
	return e.value.text, d.noZero(e.value, e.name)
}

func (d *decoder) noZero(v *value, name string) bool {
	if strings.IndexByte(v.text, 0) >= 0 {
		d.add(v.at, "", "%s holds a zero byte, which no system call can take", bareKey(name))
		return false
	}
	return true
}

// nonEmpty is text that says something.
func (d *decoder) nonEmpty(e *entry) (string, bool) {
	s, ok := d.text(e)
	if ok && s == "" {
		d.add(e.value.at, "leave the key out instead", "%s is empty", bareKey(e.name))
		return "", false
	}
	return s, ok
}

func (d *decoder) choice(e *entry, words ...string) (int, bool) {
	s, ok := d.text(e)
	if !ok {
		return 0, false
	}
	i := slices.Index(words, s)
	if i < 0 {
		d.add(e.value.at, didYouMean(s, words), "%s is %s, must be %s", bareKey(e.name), quoted(s), oneOf(words))
	}
	return i, i >= 0
}

func (d *decoder) boolean(e *entry) (bool, bool) {
	if e.variable && (e.value.text == "true" || e.value.text == "false") {
		e.value.kind = kindBool
	}
	if e.kind != kindBool {
		hint := ""
		if e.kind == kindText && (e.value.text == "true" || e.value.text == "false") {
			hint = "leave the quotes out"
		}
		d.wrongKind(e, "true or false", hint)
		return false, false
	}
	return e.value.text == "true", true
}

// whole returns a whole number within the bounds.
func (d *decoder) whole(e *entry, least, most int64) (int64, bool) {
	e.value.numeric()
	if e.kind != kindWhole {
		hint := ""
		if _, err := strconv.Atoi(e.value.text); err == nil {
			hint = "leave the quotes out: " + e.value.text
		}
		d.wrongKind(e, "a whole number", hint)
		return 0, false
	}
	n, err := parseWhole(e.value.text)
	if err != nil || n < least || n > most {
		d.add(e.value.at, "", "%s is %s, must be %d to %d", bareKey(e.name), e.value.text, least, most)
		return 0, false
	}
	return n, true
}

// parseWhole reads a whole number as TOML writes it. There are no octal numbers with a bare zero in TOML.
func parseWhole(text string) (int64, error) {
	return strconv.ParseInt(strings.TrimPrefix(text, "+"), 0, 64)
}

func (d *decoder) float(e *entry, least, most float64) (float64, bool) {
	e.value.numeric()
	if e.kind != kindFloat && e.kind != kindWhole {
		d.wrongKind(e, "a number", "")
		return 0, false
	}
	f, err := strconv.ParseFloat(strings.ReplaceAll(e.value.text, "_", ""), 64)
	if e.kind == kindWhole {
		n, wholeErr := parseWhole(e.value.text)
		f, err = float64(n), wholeErr
	}
	if err != nil || math.IsNaN(f) || f < least || f > most {
		d.add(e.value.at, "", "%s is %s, must be %v to %v", bareKey(e.name), e.value.text, least, most)
		return 0, false
	}
	return f, true
}

// duration returns a length of time within the bounds; most 0 means that it may be infinite, told as 0.
func (d *decoder) duration(e *entry, least, most time.Duration) (time.Duration, bool) {
	const example = `write a number with a unit, such as "10s", "1m30s" or "1min 30s"`
	if e.kind != kindText {
		hint := example
		if e.kind == kindWhole {
			hint = fmt.Sprintf("write the unit as well: %q", e.value.text+"s")
		}
		d.wrongKind(e, "a duration", hint)
		return 0, false
	}
	if most == 0 && e.value.text == "infinity" {
		return 0, true
	}
	t, err := units.Duration(e.value.text)
	if err != nil {
		d.add(e.value.at, example, "%s is %s: %v", bareKey(e.name), quoted(e.value.text), err)
		return 0, false
	}
	if t < least || most > 0 && t > most {
		limits := fmt.Sprintf("%v to %v", least, most)
		if most == 0 {
			limits = fmt.Sprintf("at least %v, or \"infinity\"", least)
		}
		d.add(e.value.at, "", "%s is %s, must be %s", bareKey(e.name), quoted(e.value.text), limits)
		return 0, false
	}
	return t, true
}

// size returns a number of bytes within the bounds.
func (d *decoder) size(e *entry, least, most int64) (int64, bool) {
	const example = `write bytes, or a string such as "512K", "64M" or "1.5G" (K is 1024)`
	n, err := int64(0), error(nil)
	switch e.kind {
	case kindWhole:
		n, err = parseWhole(e.value.text)
	case kindText:
		n, err = units.Size(e.value.text)
	case kindFloat, kindBool, kindDate, kindList, kindTable:
		d.wrongKind(e, "a size", example)
		return 0, false
	}
	if err != nil {
		d.add(e.value.at, example, "%s is %s: %v", bareKey(e.name), quoted(e.value.text), err)
		return 0, false
	}
	if n < least || n > most {
		d.add(e.value.at, "", "%s is %d bytes, must be %d to %d", bareKey(e.name), n, least, most)
		return 0, false
	}
	return n, true
}

// list returns the items of a list of strings. The hint is for a single string.
func (d *decoder) list(e *entry, hint string) ([]*value, bool) {
	if e.kind != kindList {
		if e.kind != kindText {
			hint = ""
		}
		d.wrongKind(e, "a list of strings", hint)
		return nil, false
	}
	ok := true
	for i, item := range e.items {
		if item.kind != kindText {
			hint := ""
			if item.kind != kindList && item.kind != kindTable {
				hint = fmt.Sprintf("write it in quotes: %q", item.text)
			}
			d.add(item.at, hint, "item %d of %s must be a string, but this is %s", i+1, bareKey(e.name), describe(item))
			ok = false
			continue
		}
		ok = d.noZero(item, e.name) && ok
	}
	return e.items, ok
}

func texts(items []*value) []string {
	all := make([]string, len(items))
	for i, item := range items {
		all[i] = item.text
	}
	return all
}

// subtable returns a table, or reports that it is none.
func (d *decoder) subtable(e *entry, hint string) (*table, bool) {
	if e.kind != kindTable {
		d.wrongKind(e, "a table", hint)
		return nil, false
	}
	return e.table, true
}
