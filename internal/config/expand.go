package config

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

// mentionsVariable says whether a value depends on the environment.
func (v *value) mentionsVariable() bool {
	if v.kind == kindText && strings.Contains(v.text, "${") {
		return true
	}
	for _, item := range v.items {
		if item.mentionsVariable() {
			return true
		}
	}
	return false
}

// expanded returns an entry of the caller's own, with the values of the variables in
// its strings. What is in a table is left to whoever reads the table.
func (d *decoder) expanded(e *entry) (*entry, bool) {
	own := *e
	v, ok := d.expandedValue(e.value)
	own.value = v
	return &own, ok
}

func (d *decoder) expandedValue(v *value) (*value, bool) {
	own, ok := *v, true
	switch {
	case !v.mentionsVariable():
	case v.kind == kindText:
		text, variable, err := d.expand(v.text)
		if err != nil {
			var wrong *variableError
			if errors.As(err, &wrong) {
				d.add(v.at, wrong.hint, "%s", wrong.msg)
			}
			return &own, false
		}
		own.text, own.variable, own.written = text, variable, v.text
	case v.kind == kindList:
		own.items = make([]*value, len(v.items))
		for i, item := range v.items {
			one, good := d.expandedValue(item)
			own.items[i], ok = one, ok && good
			own.variable = own.variable || one.variable
		}
	}
	return &own, ok
}

// variableError says what is wrong with a variable in a string.
type variableError struct{ msg, hint string }

func (e *variableError) Error() string { return e.msg }

const literalHint = "write $${ for the two characters ${"

// expand replaces ${NAME} and ${NAME:-default} in a text, once: what comes in is not
// looked at again. Only $${ is more than it is: the two characters ${. Any other dollar
// sign is itself, because shells and regular expressions are full of them.
func (d *decoder) expand(text string) (out string, variable bool, err error) {
	var b strings.Builder
	for {
		i := strings.Index(text, "${")
		if i < 0 {
			b.WriteString(text)
			return b.String(), variable, nil
		}
		if i > 0 && text[i-1] == '$' {
			b.WriteString(text[:i-1] + "${")
			text = text[i+2:]
			continue
		}
		b.WriteString(text[:i])
		inside, rest, closed := strings.Cut(text[i+2:], "}")
		if !closed {
			return "", false, &variableError{"a ${ without a }", literalHint}
		}
		value, err := d.variable(inside)
		if err != nil {
			return "", false, err
		}
		b.WriteString(value)
		text, variable = rest, true
	}
}

// variable returns the value of what stands between the braces.
func (d *decoder) variable(inside string) (string, error) {
	name, fallback, hasFallback := strings.Cut(inside, ":-")
	if !variableName.MatchString(name) {
		return "", &variableError{
			fmt.Sprintf("${%s} is no variable", shortened(inside)),
			"known are ${NAME} and ${NAME:-default}; " + literalHint,
		}
	}
	if strings.Contains(fallback, "{") {
		return "", &variableError{fmt.Sprintf("the default of ${%s} has a brace in it", shortened(name)), "a default holds neither variables nor placeholders"}
	}
	value, set := lookup(d.environ, name)
	switch {
	case hasFallback && value == "":
		return fallback, nil
	case !set:
		return "", &variableError{fmt.Sprintf("variable %s is not set", shortened(name)), d.unsetHint(name)}
	case !utf8.ValidString(value) || strings.IndexByte(value, 0) >= 0:
		return "", &variableError{fmt.Sprintf("variable %s is no UTF-8 text", shortened(name)), ""}
	}
	return value, nil
}

// unsetHint says what may have been meant by a variable that there is not.
func (d *decoder) unsetHint(name string) string {
	for _, word := range startPlaceholders() {
		if name == word || name == "PITVISOR_"+strings.ToUpper(word) {
			return fmt.Sprintf("a worker's own is {%s}, without a dollar sign; %s, as for a shell", word, literalHint)
		}
	}
	if strings.HasPrefix(name, "PITVISOR_") {
		return "a worker has it only once it is started; " + literalHint + ", as for a shell"
	}
	return fmt.Sprintf("set it, give it a default with ${%s:-default}, or leave it to a shell with $${%s}", shortened(name), shortened(name))
}

// shortened bounds text for a message, and keeps it on its line.
func shortened(text string) string {
	q := quoted(text)
	return strings.TrimSuffix(strings.TrimPrefix(q, `"`), `"`)
}

// lookup finds a variable in an environment, of which the last of a name counts.
func lookup(environ []string, name string) (string, bool) {
	for i := len(environ) - 1; i >= 0; i-- {
		if n, value, ok := strings.Cut(environ[i], "="); ok && n == name {
			return value, true
		}
	}
	return "", false
}

var (
	variableName  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	wholeNumber   = regexp.MustCompile(`^[+-]?(0|[1-9][0-9]*)$`)
	decimalNumber = regexp.MustCompile(`^[+-]?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$`)
)

// numeric makes a number of a string that a variable had a part in, if it is one.
func (v *value) numeric() {
	switch {
	case !v.variable || v.kind != kindText:
	case wholeNumber.MatchString(v.text):
		v.kind = kindWhole
	case decimalNumber.MatchString(v.text):
		v.kind = kindFloat
	}
}
