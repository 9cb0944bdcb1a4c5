package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// validator holds values against a JSON Schema (2020-12). It knows the words that our
// schema uses and refuses all others, so that none is passed over. A library would do
// the same with the format and vocabulary machinery that we do not use.
type validator struct {
	root     map[string]any
	patterns map[string]*regexp.Regexp
}

func newValidator(tb testing.TB) *validator {
	tb.Helper()
	data, err := Schema()
	if err != nil {
		tb.Fatal(err)
	}
	v := &validator{patterns: make(map[string]*regexp.Regexp)}
	if err := json.Unmarshal(data, &v.root); err != nil {
		tb.Fatal(err)
	}
	return v
}

// validate returns what is wrong with a value, "" if nothing is.
func (v *validator) validate(value any) string { return v.check("", v.root, value) }

func (v *validator) check(at string, s map[string]any, value any) string {
	words := slices.Sorted(maps.Keys(s))
	for _, word := range words {
		if wrong := v.word(at, s, word, value); wrong != "" {
			return wrong
		}
	}
	return ""
}

// word applies one word of a schema.
func (v *validator) word(at string, s map[string]any, word string, value any) string {
	arg := s[word]
	text, isText := value.(string)
	number, isNumber := value.(float64)
	list, isList := value.([]any)
	object, isObject := value.(map[string]any)
	ok := true
	switch word {
	case "$schema", "$id", "$defs", "title", "description", "default", "examples":
	case "properties", "additionalProperties", "propertyNames":
		if isObject {
			return v.members(at, s, word, object)
		}
	case "$ref":
		return v.check(at, v.resolve(arg.(string)), value)
	case "anyOf":
		return v.anyOf(at, arg.([]any), value)
	case "not":
		ok = v.check(at, arg.(map[string]any), value) != ""
	case "type":
		ok = isOfType(arg, value)
	case "enum":
		ok = slices.Contains(arg.([]any), value)
	case "const":
		ok = arg == value
	case "pattern":
		ok = !isText || v.pattern(arg.(string)).MatchString(text)
	case "minLength":
		ok = !isText || utf8.RuneCountInString(text) >= int(arg.(float64))
	case "minimum":
		ok = !isNumber || number >= arg.(float64)
	case "maximum":
		ok = !isNumber || number <= arg.(float64)
	case "minItems":
		ok = !isList || len(list) >= int(arg.(float64))
	case "maxItems":
		ok = !isList || len(list) <= int(arg.(float64))
	case "items":
		for i, item := range list {
			if wrong := v.check(fmt.Sprintf("%s[%d]", at, i), arg.(map[string]any), item); wrong != "" {
				return wrong
			}
		}
	default:
		return fmt.Sprintf("%s: the schema has the unknown word %s", at, word)
	}
	if !ok {
		return fmt.Sprintf("%s: %v breaks %s %v", at, value, word, arg)
	}
	return ""
}

func (v *validator) members(at string, s map[string]any, word string, object map[string]any) string {
	properties, _ := s["properties"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(object)) {
		wrong, place := "", at+"."+name
		known, listed := properties[name].(map[string]any)
		switch rest := s["additionalProperties"].(type) {
		case bool:
			if word == "additionalProperties" && !rest && !listed {
				wrong = place + ": unknown"
			}
		case map[string]any:
			if word == "additionalProperties" && !listed {
				wrong = v.check(place, rest, object[name])
			}
		}
		if word == "properties" && listed {
			wrong = v.check(place, known, object[name])
		}
		if word == "propertyNames" {
			wrong = v.check(place, s[word].(map[string]any), name)
		}
		if wrong != "" {
			return wrong
		}
	}
	return ""
}

func (v *validator) anyOf(at string, all []any, value any) string {
	var wrong []string
	for _, s := range all {
		w := v.check(at, s.(map[string]any), value)
		if w == "" {
			return ""
		}
		wrong = append(wrong, w)
	}
	return strings.Join(wrong, " and ")
}

func (v *validator) resolve(ref string) map[string]any {
	name := strings.TrimPrefix(ref, "#/$defs/")
	return v.root["$defs"].(map[string]any)[name].(map[string]any)
}

func (v *validator) pattern(text string) *regexp.Regexp {
	if v.patterns[text] == nil {
		v.patterns[text] = regexp.MustCompile(text)
	}
	return v.patterns[text]
}

func isOfType(want, value any) bool {
	if several, ok := want.([]any); ok {
		return slices.ContainsFunc(several, func(one any) bool { return isOfType(one, value) })
	}
	switch v := value.(type) {
	case string:
		return want == "string"
	case bool:
		return want == "boolean"
	case float64:
		return want == "number" || want == "integer" && v == math.Trunc(v)
	case []any:
		return want == "array"
	case map[string]any:
		return want == "object"
	}
	return false
}
