package report

import (
	"bytes"
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/internal/leftover"
)

// page is what people read about the JSON.
func page(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/run-report.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestPageShowsTheExample(t *testing.T) {
	_, example, _ := strings.Cut(page(t), "```json\n")
	example, _, _ = strings.Cut(example, "```\n")
	var b bytes.Buffer
	if err := sample().WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	if example != b.String() {
		t.Errorf("docs/run-report.md has another example than:\n%s", &b)
	}
}

// first returns the first cells of the page's tables that match, without the quotes.
func first(t *testing.T, text, pattern string) []string {
	t.Helper()
	var found []string
	for _, m := range regexp.MustCompile("(?m)^\\| `("+pattern+")` \\|").FindAllStringSubmatch(text, -1) {
		found = append(found, m[1])
	}
	slices.Sort(found)
	return found
}

// section returns the page's text from one phrase to another.
func section(t *testing.T, from, to string) string {
	t.Helper()
	_, text, ok := strings.Cut(page(t), from)
	if !ok {
		t.Fatalf("docs/run-report.md has no %q", from)
	}
	text, _, ok = strings.Cut(text, to)
	if !ok {
		t.Fatalf("docs/run-report.md has no %q behind %q", to, from)
	}
	return text
}

// paths lists the keys of decoded JSON, those of lists with brackets.
func paths(at string, v any, found map[string]bool) {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			path := strings.TrimPrefix(at+"."+key, ".")
			found[path] = true
			if path != "labels" && path != "receipt.unavailable" {
				paths(path, value, found)
			}
		}
	case []any:
		for _, value := range v {
			paths(at+"[]", value, found)
		}
	}
}

func TestPageDescribesEveryKey(t *testing.T) {
	var b bytes.Buffer
	r := sample()
	if err := r.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	var decoded any
	if err := json.Unmarshal(b.Bytes(), &decoded); err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	paths("", decoded, found)
	for _, v := range r.Receipt.values() {
		found["receipt."+v.name] = true
	}
	text := page(t)
	for _, enumeration := range []string{section(t, "| outcome |", "##"), section(t, "| way |", "##")} {
		text = strings.Replace(text, enumeration, "", 1)
	}
	shown := first(t, text, "[^`]*")
	for _, key := range shown {
		if !found[key] {
			t.Errorf("docs/run-report.md describes %s, which is not in the JSON", key)
		}
		delete(found, key)
	}
	for key := range found {
		t.Errorf("docs/run-report.md does not describe %s", key)
	}
}

func TestPageListsTheWords(t *testing.T) {
	outcomes := []string{string(Exited), string(Signalled), string(TimedOut), string(Lifeline), string(Interrupted), string(NotStarted), string(Failed)}
	ways := []string{
		string(leftover.Reparented), string(leftover.DoubleFork), string(leftover.Setsid), string(leftover.Setpgid),
		string(leftover.Scrubbed), string(leftover.OtherUser), string(leftover.SubCgroup), string(leftover.OtherCgroup),
	}
	for from, want := range map[string][]string{"| outcome |": outcomes, "| way |": ways} {
		slices.Sort(want)
		if got := first(t, section(t, from, "##"), "[a-z-]+"); !slices.Equal(got, want) {
			t.Errorf("the table %q lists %v, want %v", from, got, want)
		}
	}
	text := page(t)
	for _, word := range []string{
		OOMKilled, PIDsLimit, string(leftover.FactState), string(leftover.FactUID), string(leftover.FactArgs),
		string(leftover.FactEnvironment), string(leftover.FactListening), "unixgram", "at most 200", "at most 4096 bytes", "at most 64",
	} {
		if !strings.Contains(text, word) {
			t.Errorf("docs/run-report.md does not say %q", word)
		}
	}
	if leftover.MaxProcesses != 200 || leftover.MaxArgs != 4096 || leftover.MaxListening != 64 {
		t.Error("docs/run-report.md gives other bounds than package leftover")
	}
}
