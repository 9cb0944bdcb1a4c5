// Package envfile reads files of KEY=value lines, and checks names of variables.
//
// It is not a shell: nothing is expanded.
package envfile

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Variable is one environment variable.
type Variable struct{ Name, Value string }

// Problem is one line that could not be read.
type Problem struct {
	Line, Column int // from 1; the column counts characters
	Err          error
}

// Parse reads the whole text of a file. What is wrong in it is told with its place,
// and what is right is returned all the same.
func Parse(text string) ([]Variable, []Problem) {
	var all []Variable
	var wrong []Problem
	seen := make(map[string]int)
	number := 0
	for line := range strings.Lines(strings.TrimPrefix(text, "\ufeff")) {
		number++
		line = strings.TrimRight(line, "\r\n")
		v, column, err := Line(line)
		if err == nil && v.Name != "" && seen[v.Name] > 0 {
			column, err = 1, fmt.Errorf("variable %q is set a second time, first in line %d", v.Name, seen[v.Name])
		}
		if err != nil {
			wrong = append(wrong, Problem{Line: number, Column: column, Err: err})
			continue
		}
		if v.Name != "" {
			seen[v.Name] = number
			all = append(all, v)
		}
	}
	return all, wrong
}

// CheckName refuses names that no shell could use, or that are the supervisor's.
func CheckName(name string) error {
	letter := func(r rune) bool { return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '_' }
	bad := strings.IndexFunc(name, func(r rune) bool { return !letter(r) && (r < '0' || r > '9') })
	switch {
	case name == "":
		return errors.New("the name is empty")
	case bad >= 0 || !letter(rune(name[0])):
		return errors.New("a name has letters, digits and _, and begins with no digit")
	case strings.HasPrefix(name, "PITVISOR_"):
		return errors.New("names that begin with PITVISOR_ are the supervisor's")
	}
	return nil
}

// Line reads one line; the name is empty if there is
// nothing on it. The column is where an error is.
func Line(line string) (v Variable, column int, err error) {
	text := strings.TrimLeft(line, " \t")
	column = utf8.RuneCountInString(line[:len(line)-len(text)]) + 1
	switch {
	case text == "" || text[0] == '#':
		return Variable{}, 0, nil
	case !utf8.ValidString(text) || strings.IndexByte(text, 0) >= 0:
		return Variable{}, column, errors.New("the line is no text")
	}
	name, value, ok := strings.Cut(text, "=")
	if !ok {
		return Variable{}, column, fmt.Errorf("%s is not of the form KEY=value", quoted(text))
	}
	if err := CheckName(name); err != nil {
		return Variable{}, column, fmt.Errorf("variable %s: %w", quoted(name), err)
	}
	value, err = unquote(strings.TrimSpace(value))
	return Variable{name, value}, column + utf8.RuneCountInString(name) + 1, err
}

// unquote understands a value in single or double quotes, or in none.
func unquote(text string) (string, error) {
	if text == "" || text[0] != '"' && text[0] != '\'' {
		return text, nil
	}
	quote := text[0]
	var out strings.Builder
	for i := 1; i < len(text); i++ {
		c := text[i]
		switch {
		case c == quote && i == len(text)-1:
			return out.String(), nil
		case c == quote:
			return "", fmt.Errorf("there is more behind the closing quote: %s", quoted(text[i+1:]))
		case c == '\\' && quote == '"' && i+1 < len(text):
			i++
			plain, ok := map[byte]byte{'n': '\n', 't': '\t', 'r': '\r', '"': '"', '\\': '\\', '$': '$', '`': '`'}[text[i]]
			if !ok {
				return "", fmt.Errorf("unknown escape \\%s", text[i:i+1])
			}
			out.WriteByte(plain)
		default:
			out.WriteByte(c)
		}
	}
	return "", errors.New("the closing quote is missing")
}

// quoted returns text for a message: quoted, and cut if it is long.
func quoted(text string) string {
	const most = 60
	if utf8.RuneCountInString(text) <= most {
		return fmt.Sprintf("%q", text)
	}
	runes := []rune(text)
	return fmt.Sprintf("%q... (%d bytes)", string(runes[:most]), len(text))
}
