package config

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2/unstable"
)

// kind is what a value is in TOML.
type kind uint8

const (
	kindText kind = iota
	kindWhole
	kindFloat
	kindBool
	kindDate
	kindList
	kindTable
)

func (k kind) String() string {
	return [...]string{"a string", "a whole number", "a number", "a boolean", "a date", "a list", "a table"}[k]
}

// value is a TOML value and where it is.
type value struct {
	kind  kind
	at    int
	text  string // of a string its content, of other scalars as written
	items []*value
	table *table

	variable bool   // the text has the value of a variable in it
	written  string // the text as it is in the file, if it has
}

// entry is a key with its value.
type entry struct {
	name string
	at   int // of the key
	*value

	file      int      // the number of the file that it is from
	inherited bool     // from the [defaults] of that file
	over      []*entry // what earlier files say of the same key, the last one first
	moved     bool     // nobody wrote it; it follows what is set beside it
}

// sameLayer says that neither of two entries may replace the other.
func (e *entry) sameLayer(other *entry) bool {
	return e.file == other.file && e.inherited == other.inherited
}

// origin says how a table came to be, which decides who may add to it.
type origin uint8

const (
	originImplied origin = iota // by the header of a table in it
	originHeader                // by its own header
	originDotted                // by a dotted key
	originInline                // by braces; nobody may add to it
)

// table keeps the order of the file. Made of several files it has an entry for what
// each of them says of a key, in their order.
type table struct {
	entries []*entry
	byName  map[string]*entry // the last of the name
	origin  origin
	at      int // of the header that defined it, or where it was first implied
}

func newTable(o origin, at int) *table {
	return &table{byName: make(map[string]*entry), origin: o, at: at}
}

func (t *table) put(e *entry) {
	t.entries = append(t.entries, e)
	t.byName[e.name] = e
}

// maxDepth bounds the parts of a dotted key; the deepest key we know has five.
const maxDepth = 32

// builder makes a tree of tables out of the expressions of a TOML document.
type builder struct {
	*problems
	*document
	parser unstable.Parser
	root   *table
}

// parseTree parses a document. It reports every duplicate, and the first thing
// that is not TOML; what stands before that is in the tree.
func parseTree(p *problems, doc *document) *table {
	b := &builder{problems: p, document: doc, root: newTable(originHeader, doc.base)}
	if at := invalidUTF8(doc.src); at >= 0 {
		hint := "is this a text file at all?"
		if bytes.HasPrefix(doc.src, []byte("\xff\xfe")) || bytes.HasPrefix(doc.src, []byte("\xfe\xff")) {
			hint = "the file is UTF-16; save it as UTF-8"
		}
		b.add(doc.base+at, hint, "byte 0x%02x is not UTF-8 text", doc.src[at])
		return b.root
	}
	b.parser.Reset(doc.src)
	current := b.root
	for b.parser.NextExpression() {
		switch n := b.parser.Expression(); n.Kind {
		case unstable.Table:
			current = b.header(n)
		case unstable.ArrayTable:
			keys := b.keys(n.Key())
			b.add(keys[0].at, headerHint(keys),
				"a list of tables [[%s]] is not known here", dotted(keys))
			current = newTable(originHeader, keys[0].at) // what it holds is not looked at
		case unstable.KeyValue:
			b.keyValue(current, n)
		}
	}
	if err := b.parser.Error(); err != nil {
		b.syntax(err)
	}
	return b.root
}

func headerHint(keys []*entry) string {
	if len(keys) == 1 && (keys[0].name == "pool" || keys[0].name == "pools") {
		return "write [pool.NAME]"
	}
	if last := keys[len(keys)-1].name; len(keys) == 3 && keys[0].name == "pool" && (last == "socket" || last == "sockets") {
		return `write [socket.NAME] for each, and in the pool sockets = ["NAME"]`
	}
	return fmt.Sprintf("write [%s]", dotted(keys))
}

func invalidUTF8(src []byte) int {
	if utf8.Valid(src) {
		return -1
	}
	for at := 0; ; {
		r, n := utf8.DecodeRune(src[at:])
		if r == utf8.RuneError && n == 1 {
			return at
		}
		at += n
	}
}

// syntax reports what the parser could not understand.
func (b *builder) syntax(err error) {
	at, msg := len(b.src), err.Error()
	var pe *unstable.ParserError
	if errors.As(err, &pe) {
		msg = pe.Message
		if pe.Highlight != nil {
			at = int(b.parser.Range(pe.Highlight).Offset)
		}
	}
	b.add(b.base+at, syntaxHint(b.src, at, msg), "%s", msg)
}

func syntaxHint(src []byte, at int, msg string) string {
	found := byte(0)
	if at < len(src) {
		found = src[at]
	}
	switch {
	case strings.HasPrefix(msg, "expected '=' after key") && found == ':':
		return `write "=" between a key and its value`
	case strings.HasPrefix(msg, "unexpected character"), strings.HasPrefix(msg, "expected keyword"), msg == "strings must be quoted":
		return `put text in quotes: "..."`
	case strings.HasPrefix(msg, "expected newline"):
		return "one key and value on a line; text goes in quotes"
	case strings.Contains(msg, "incomplete"):
		return "the closing bracket is missing"
	}
	return ""
}

// keys copies the parts of a key out of the parser.
func (b *builder) keys(it unstable.Iterator) []*entry {
	var keys []*entry
	for it.Next() {
		n := it.Node()
		keys = append(keys, &entry{name: string(n.Data), at: b.base + int(n.Raw.Offset), file: b.number})
	}
	return keys
}

func dotted(keys []*entry) string {
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = bareKey(k.name)
	}
	return strings.Join(names, ".")
}

// bareKey returns a key as it has to be written, cut if it is long.
func bareKey(name string) string {
	if isBare(name) && len(name) <= 60 {
		return name
	}
	return quoted(name)
}

// isBare says whether a key may stand without quotes.
func isBare(name string) bool {
	other := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
	}
	return name != "" && strings.IndexFunc(name, other) < 0
}

// header returns the table that [a.b.c] opens; a fresh one if that is an error.
func (b *builder) header(n *unstable.Node) *table {
	keys := b.keys(n.Key())
	last := keys[len(keys)-1]
	t, ok := b.descend(b.root, keys[:len(keys)-1], originImplied)
	if !ok {
		return newTable(originHeader, last.at)
	}
	old := t.byName[last.name]
	switch {
	case old == nil:
		last.value = &value{kind: kindTable, at: last.at, table: newTable(originHeader, last.at)}
		t.put(last)
		return last.table
	case old.kind == kindTable && old.table.origin == originImplied:
		old.table.origin, old.table.at = originHeader, last.at
		return old.table
	}
	b.twice(last.at, old, fmt.Sprintf("table [%s]", dotted(keys)))
	return newTable(originHeader, last.at)
}

// descend walks down the tables that keys name and makes those that are missing.
func (b *builder) descend(t *table, keys []*entry, how origin) (*table, bool) {
	if len(keys) > maxDepth {
		b.add(keys[0].at, "", "key of %d parts", len(keys)+1)
		return nil, false
	}
	for i, k := range keys {
		next := t.byName[k.name]
		if next == nil {
			next = &entry{name: k.name, at: k.at, file: b.number, value: &value{kind: kindTable, at: k.at, table: newTable(how, k.at)}}
			t.put(next)
		}
		// A dotted key may only add to what dotted keys have made, a header only to what is not in braces.
		if next.kind != kindTable || next.table.origin == originInline ||
			how == originDotted && next.table.origin != originDotted {
			b.twice(k.at, next, dotted(keys[:i+1]))
			return nil, false
		}
		t = next.table
	}
	return t, true
}

// twice reports that something is defined again.
func (b *builder) twice(at int, old *entry, what string) {
	line, column := b.position(old.at)
	b.add(at, "join the two", "%s is defined a second time, first at %d:%d", what, line, column)
}

func (b *builder) keyValue(t *table, n *unstable.Node) {
	keys := b.keys(n.Key())
	last := keys[len(keys)-1]
	t, ok := b.descend(t, keys[:len(keys)-1], originDotted)
	if !ok {
		return
	}
	if old := t.byName[last.name]; old != nil {
		b.twice(last.at, old, "key "+dotted(keys))
		return
	}
	last.value = b.value(n.Value(), b.valueStart(n))
	t.put(last)
}

// valueStart returns where the value of a key begins, for the values whose place the parser does not keep.
func (b *builder) valueStart(n *unstable.Node) int {
	end := int(n.Raw.Offset)
	for it := n.Key(); it.Next(); {
		raw := it.Node().Raw
		end = int(raw.Offset + raw.Length)
	}
	for end < len(b.src) && strings.IndexByte(" \t=", b.src[end]) >= 0 {
		end++
	}
	return b.base + end
}

// value copies a value out of the parser. The parser bounds the depth.
func (b *builder) value(n *unstable.Node, at int) *value {
	v := &value{at: at, text: string(n.Data)}
	if n.Raw.Length > 0 {
		v.at = b.base + int(n.Raw.Offset)
	}
	switch n.Kind {
	case unstable.String:
		v.kind = kindText
	case unstable.Integer:
		v.kind = kindWhole
	case unstable.Float:
		v.kind = kindFloat
	case unstable.Bool:
		v.kind = kindBool
	case unstable.Array:
		v.kind = kindList
		for it := n.Children(); it.Next(); {
			v.items = append(v.items, b.value(it.Node(), v.at))
		}
	case unstable.InlineTable:
		v.kind = kindTable
		v.table = newTable(originDotted, v.at)
		for it := n.Children(); it.Next(); {
			b.keyValue(v.table, it.Node())
		}
		v.table.seal()
	default:
		v.kind = kindDate
	}
	return v
}

// seal closes a table in braces, with all that is in it, to later additions.
func (t *table) seal() {
	t.origin = originInline
	for _, e := range t.entries {
		if e.kind == kindTable && e.table.origin != originInline {
			e.table.seal()
		}
	}
}
