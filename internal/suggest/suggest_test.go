package suggest

import (
	"strings"
	"testing"
)

func TestWord(t *testing.T) {
	words := []string{"memory.max", "memory.min", "MemoryMax", "pids.max", "io"}
	for found, want := range map[string]string{
		"memory.maxx": "memory.max", "memroy.max": "memory.max", "memory_min": "memory.min", "MEMORYMAX": "memory.max",
		"pid.max": "pids.max", "oi": "io", "ip": "io",
		"": "", "xyzzy": "", "ab": "", strings.Repeat("memory.max", 5): "", "\xff": "",
	} {
		if got := Word(found, words); got != want {
			t.Errorf("Word(%q) = %q, want %q", found, got, want)
		}
	}
	if got := Word("x", nil); got != "" {
		t.Errorf("Word of nothing = %q", got)
	}
}

func TestDistance(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{
		{"", "", 0},
		{"", "abc", 3},
		{"abc", "", 3},
		{"abc", "abc", 0},
		{"abc", "abd", 1},
		{"abc", "acb", 1},
		{"abc", "xabc", 1},
		{"kitten", "sitting", 3},
	} {
		if got := distance(test.a, test.b); got != test.want {
			t.Errorf("distance(%q, %q) = %d, want %d", test.a, test.b, got, test.want)
		}
	}
}
