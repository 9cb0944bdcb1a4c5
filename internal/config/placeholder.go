package config

import (
	"regexp"
	"slices"
	"strings"

	"github.com/pitvisor/pitvisor/internal/suggest"
)

// startPlaceholders are what supervise replaces in arguments and variables.
func startPlaceholders() []string { return []string{"pool", "slot", "worker", "start", "run"} }

// bracedWords returns the words that stand alone in braces, such as {slot}.
// Those with a dollar sign are the shell's.
func bracedWords(text string) []string {
	var words []string
	for i := strings.IndexByte(text, '{'); i >= 0; {
		rest := text[i+1:]
		end := strings.IndexFunc(rest, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r != '_' && r != '-'
		})
		if end > 0 && rest[end] == '}' && (i == 0 || text[i-1] != '$') {
			words = append(words, rest[:end])
		}
		next := strings.IndexByte(rest, '{')
		if next < 0 {
			break
		}
		i += 1 + next
	}
	return words
}

// placeholders reports words in braces that were probably meant to be
// placeholders. Any other one is left alone, because programs have braces too.
func (d *decoder) placeholders(v *value, key string) {
	for _, word := range startPlaceholders() {
		if strings.Contains(v.text, "${"+word+"}") {
			d.add(v.at, "give the variable another name", "{%s} in %s is replaced behind a dollar sign as well", word, key)
		}
	}
	for _, word := range bracedWords(v.text) {
		if slices.Contains(startPlaceholders(), word) {
			continue
		}
		hint := didYouMean(word, startPlaceholders())
		switch suggest.Plain(word) {
		case "port":
			hint = "a worker chooses its port by itself, from PITVISOR_PORT or {slot}; {port} is for [pool.NAME.ready]"
		case "instance", "index", "number", "id", "workerid", "i", "n":
			hint = "the number of a worker in its pool is {slot}"
		case "name":
			hint = "the name of a worker is {worker}"
		}
		if hint != "" {
			d.add(v.at, hint, "unknown placeholder {%s} in %s", word, key)
		}
	}
}

// onlyPlaceholders reports every word in braces but the allowed ones.
func (d *decoder) onlyPlaceholders(v *value, key string, allowed ...string) (ok bool) {
	ok = true
	for _, word := range bracedWords(v.text) {
		if slices.Contains(allowed, word) {
			continue
		}
		hint := didYouMean(word, allowed)
		if hint == "" {
			hint = "allowed here: {" + strings.Join(allowed, "}, {") + "}"
		}
		d.add(v.at, hint, "unknown placeholder {%s} in %s", word, key)
		ok = false
	}
	return ok
}

// noPlaceholder reports a placeholder where none is replaced.
func (d *decoder) noPlaceholder(v *value, what string) bool {
	for _, word := range bracedWords(v.text) {
		if slices.Contains(startPlaceholders(), word) {
			d.add(v.at, "they are replaced in the arguments and in env", "placeholder {%s} in %s", word, what)
			return false
		}
	}
	return true
}

// expression compiles a regular expression of RE2.
func (d *decoder) expression(e *entry) *regexp.Regexp {
	s, ok := d.nonEmpty(e)
	if !ok {
		return nil
	}
	re, err := regexp.Compile(s)
	if err != nil {
		msg := strings.TrimPrefix(err.Error(), "error parsing regexp: ")
		hint := "the syntax is RE2's, see https://github.com/google/re2/wiki/Syntax"
		if strings.Contains(msg, "(?") {
			hint = "RE2 has no look-around and no back-references"
		}
		d.add(e.value.at, hint, "%s is %s: %s", bareKey(e.name), quoted(s), msg)
		return nil
	}
	if re.MatchString("") {
		d.add(e.value.at, "", "%s is %s: this matches every line", bareKey(e.name), quoted(s))
		return nil
	}
	return re
}
