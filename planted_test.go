package pitvisor_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestPoliciesCanFail plants what each policy forbids. A planted file in
// testdata/policies is named after its policy, and says in the comment
// "// breach" on a line that this line must be found, and no other.
func TestPoliciesCanFail(t *testing.T) {
	for _, p := range policies() {
		if p.check == nil || p.name == "small files and functions" {
			continue // seen to fail in tests of their own
		}
		t.Run(p.name, func(t *testing.T) {
			name := "testdata/policies/" + strings.ReplaceAll(p.name, " ", "-") + ".txt"
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			file := "cgroup/planted.go"
			if p.name == "honest skips" {
				file = "cgroup/planted_test.go"
			}
			s, err := parse(file, string(text))
			if err != nil {
				t.Fatal(err)
			}
			if !p.scope(s) {
				t.Fatalf("%s is out of the policy's scope", file)
			}
			var want []string
			for i, line := range strings.Split(string(text), "\n") {
				if strings.Contains(line, "// breach") {
					want = append(want, fmt.Sprintf("%s:%d", file, i+1))
				}
			}
			got := p.check(s)
			if len(got) != len(want) || len(want) == 0 {
				t.Fatalf("found %q, want %q", got, want)
			}
			for i := range want {
				if got[i] != want[i] && !strings.HasPrefix(got[i], want[i]+":") {
					t.Errorf("found %q, want %q", got[i], want[i])
				}
			}
		})
	}
}

func TestSizePolicyCanFail(t *testing.T) {
	tests := []struct {
		name  string
		lines int // of the one function
		more  int // lines of the file
		want  string
	}{
		{"p/a.go", 50, 0, ""},
		{"p/a.go", 51, 0, "p/a.go:3: f has 51 lines, at most 50"},
		{"p/a_test.go", 51, 0, ""},
		{"p/a_test.go", 151, 0, "p/a_test.go:3: f has 151 lines, at most 150"},
		{"p/a.go", 3, 395, ""},
		{"p/a.go", 3, 396, "p/a.go: 401 lines, at most 400"},
		{"p/a_test.go", 3, 595, ""},
		{"p/a_test.go", 3, 596, "p/a_test.go: 601 lines, at most 600"},
	}
	for _, test := range tests {
		text := "package p\n\nfunc f() {" + strings.Repeat("\n", test.lines-1) + "}\n" + strings.Repeat("\n", test.more)
		s, err := parse(test.name, text)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(sizes(s), "; "); got != test.want {
			t.Errorf("%s with a function of %d lines and %d more: %q, want %q", test.name, test.lines, test.more, got, test.want)
		}
	}
}
