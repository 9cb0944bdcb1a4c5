package packaging

import (
	"strings"
	"testing"
)

// uncommented is the shipped configuration with its examples switched on: those lines
// that begin with # and no blank, but for the one that names the schema.
func uncommented(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(read(t, "etc/pitvisor.toml")) {
		if rest, ok := strings.CutPrefix(line, "#"); ok && strings.TrimSpace(rest) != "" && rest[0] != ' ' && rest[0] != ':' && rest[0] != '\t' {
			line = rest
		}
		b.WriteString(line)
	}
	if !strings.Contains(b.String(), "\n[pool.") {
		t.Fatalf("there is no pool in it:\n%s", b.String())
	}
	return b.String()
}
