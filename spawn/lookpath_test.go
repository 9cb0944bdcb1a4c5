package spawn

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// pathOf is an environment whose second PATH counts.
func pathOf(list ...string) []string {
	return []string{"PATH=/overridden", "PATH=" + strings.Join(list, ":")}
}

func TestLookPath(t *testing.T) {
	dir := publicDir(t)
	for name, mode := range map[string]os.FileMode{"a/tool": 0o755, "b/tool": 0o755, "b/plain": 0o644, "c/plain": 0o755} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	a, b, c := dir+"/a", dir+"/b", dir+"/c"
	for _, row := range []struct {
		name  string
		env   []string
		want  string
		cause Cause
	}{
		{"tool", pathOf(a, b), a + "/tool", 0},
		{"tool", pathOf(b, a), b + "/tool", 0},
		{"plain", pathOf(b, c), c + "/plain", 0},
		{"plain", pathOf(b), "", CauseNotExecutable},
		{"b", pathOf(dir), "", CauseNotExecutable},
		{"tool", pathOf(c), "", CauseNotFound},
		{"tool", pathOf("", ".", "a"), "", CauseNotFound}, // whatever the working directory is
		{"sh", nil, "/usr/bin/sh", 0},
		{"", nil, "", CauseInvalid},
		{"./a/tool", nil, a + "/tool", 0},
		{"a/tool", nil, a + "/tool", 0},
		{a + "/tool", nil, a + "/tool", 0},
		{"b/plain", nil, "", CauseNotExecutable},
		{"a/", nil, "", CauseNotExecutable},
		{"a/tool/x", nil, "", CauseNotFound},
		{"./nothing", nil, "", CauseNotFound},
	} {
		got, err := LookPath(row.name, row.env, dir)
		if row.want != "" && (got != row.want || err != nil) {
			t.Errorf("LookPath(%q, %q) = %q, %v, want %q", row.name, row.env, got, err, row.want)
		}
		var e *Error
		if row.want == "" && (!errors.As(err, &e) || e.Cause != row.cause) {
			t.Errorf("LookPath(%q, %q) = %q, %v, want cause %v", row.name, row.env, got, err, row.cause)
		}
	}
}
