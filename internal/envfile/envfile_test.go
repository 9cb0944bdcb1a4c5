package envfile

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzLine: a line of an env_file gives a variable, nothing, or an error with a column on the line.
func FuzzLine(f *testing.F) {
	for _, seed := range []string{"", "A=1", " # x", "A='x' y", "A=\"\\n\\q\"", "=", "é=1", "A=\xff", "A=\"\\"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		a, column, err := Line(line)
		if err != nil && (column < 1 || column > utf8.RuneCountInString(line)+1 || strings.Contains(err.Error(), "\n")) {
			t.Errorf("Line(%q) = %d, %v", line, column, err)
		}
		if err == nil && a.Name != "" && (CheckName(a.Name) != nil || strings.IndexByte(a.Value, 0) >= 0) {
			t.Errorf("Line(%q) = %+v", line, a)
		}
	})
}
