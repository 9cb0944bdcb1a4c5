package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"unicode/utf8"
)

// defaultPath is the PATH of a worker whose supervisor has none.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// assignment is one environment variable.
type assignment struct {
	name, value string
}

// inherit returns what of the supervisor's environment is not about the
// supervisor itself, sorted, and always a PATH.
func inherit(environ []string) []string {
	all := map[string]string{"PATH": defaultPath}
	for _, v := range environ {
		name, value, ok := strings.Cut(v, "=")
		if ok && name != "" && !private(name) && (name != "PATH" || value != "") {
			all[name] = value
		}
	}
	return joined(all)
}

// private says whether a variable is about the supervisor: a worker that took
// it for its own would notify, watch or listen in the supervisor's name.
func private(name string) bool {
	switch name {
	case "NOTIFY_SOCKET", "JOURNAL_STREAM", "INVOCATION_ID", "MAINPID":
		return true
	}
	return strings.HasPrefix(name, "WATCHDOG_") || strings.HasPrefix(name, "LISTEN_") || strings.HasPrefix(name, "PITVISOR_")
}

func joined(all map[string]string) []string {
	env := make([]string, 0, len(all))
	for name, value := range all {
		env = append(env, name+"="+value)
	}
	slices.Sort(env)
	return env
}

// environment puts a pool's environment together: inherited, then of the
// account, then of env_file, then of env.
func (d *decoder) environment(p *poolDraft) []string {
	own := make(map[string]string)
	if p.user != nil {
		if who, err := d.accounts.user(p.user.value.text); err == nil {
			own["HOME"], own["USER"], own["LOGNAME"] = who.home, who.name, who.name
		}
	}
	for _, a := range slices.Concat(p.envFile, p.env) {
		own[a.name] = a.value
	}
	if p.inherit && len(own) == 0 {
		return slices.Clip(d.inherited) // shared by all such pools
	}
	env := make([]string, 0, len(d.inherited)+len(own))
	for _, v := range d.inherited {
		name, _, _ := strings.Cut(v, "=")
		if _, replaced := own[name]; !replaced && (p.inherit || name == "PATH") {
			env = append(env, v)
		}
	}
	for name, value := range own {
		env = append(env, name+"="+value)
	}
	slices.Sort(env)
	return env
}

func setEnv(d *decoder, e *entry, p *poolDraft) {
	t, ok := d.subtable(e, `write it as a table: { NAME = "value" }`)
	if !ok {
		return
	}
	for _, v := range t.entries {
		if err := checkName(v.name); err != nil {
			d.add(v.at, "", "variable %s in env: %v", quoted(v.name), err)
			continue
		}
		if text, ok := d.text(v); ok {
			d.placeholders(v.value, "env")
			p.env = append(p.env, assignment{v.name, text})
		}
	}
}

// checkName refuses names that no shell could use, or that are the supervisor's.
func checkName(name string) error {
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

// readEnvFile reads a file of KEY=value lines. What is wrong in it is told with its own place.
func (d *decoder) readEnvFile(at int, path string) []assignment {
	data, err := readRegular(path, 1<<20)
	if err != nil {
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		d.add(at, "", "env_file %s: %v", quoted(path), err)
		return nil
	}
	var all []assignment
	seen := make(map[string]int)
	number := 0
	for line := range strings.Lines(strings.TrimPrefix(string(data), "\ufeff")) {
		number++
		line = strings.TrimRight(line, "\r\n")
		a, column, err := parseAssignment(line)
		if err == nil && a.name != "" && seen[a.name] > 0 {
			column, err = 1, fmt.Errorf("variable %q is set a second time, first in line %d", a.name, seen[a.name])
		}
		if err != nil {
			d.all = append(d.all, problem{at: at, other: &Error{File: path, Line: number, Column: column, Msg: err.Error()}})
			continue
		}
		if a.name != "" {
			seen[a.name] = number
			all = append(all, a)
		}
	}
	return all
}

// readRegular reads a file, but nothing that may block, such as a FIFO.
func readRegular(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	return readFile(path, limit)
}

// parseAssignment reads one line of an env_file; the name is empty if there is
// nothing on it. The column is where an error is.
func parseAssignment(line string) (a assignment, column int, err error) {
	text := strings.TrimLeft(line, " \t")
	column = utf8.RuneCountInString(line[:len(line)-len(text)]) + 1
	switch {
	case text == "" || text[0] == '#':
		return assignment{}, 0, nil
	case !utf8.ValidString(text) || strings.IndexByte(text, 0) >= 0:
		return assignment{}, column, errors.New("the line is no text")
	}
	name, value, ok := strings.Cut(text, "=")
	if !ok {
		return assignment{}, column, fmt.Errorf("%s is not of the form KEY=value", quoted(text))
	}
	if err := checkName(name); err != nil {
		return assignment{}, column, fmt.Errorf("variable %s: %w", quoted(name), err)
	}
	value, err = unquote(strings.TrimSpace(value))
	return assignment{name, value}, column + utf8.RuneCountInString(name) + 1, err
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
