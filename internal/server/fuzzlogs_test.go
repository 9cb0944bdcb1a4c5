package server

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/internal/logfile"
)

// FuzzLines asks for lines of any bytes with any query: the answer says what is wrong
// with the query, or is lines whose offsets go up in each stream, and the end; and
// without a bound it has every byte.
func FuzzLines(f *testing.F) {
	f.Add([]byte("one\ntwo\n\xff\x00\n"), "n=2&stream=stdout&since=2026-01-01T00:00:00Z")
	f.Add([]byte("not finished"), "")
	f.Add([]byte("a\n\n\nb"), "select=web/0&until=2030-01-01T00:00:00.5+02:00")
	f.Add([]byte(strings.Repeat("x", 70_000)), "n=0")
	f.Add([]byte("\n"), "select=web/0.7&select=*&n=-1")
	s := stubbed(10, 0)
	s.o.Logs = filepath.Join(f.TempDir(), strings.Repeat("0", 26))
	pool := filepath.Join(s.o.Logs, "web")
	if err := os.MkdirAll(pool, 0o755); err != nil {
		f.Fatal(err)
	}
	routes := table()
	var fails []int
	for i := range routes {
		if routes[i].path == "/v1/logs" {
			fails = routes[i].statuses()
		}
	}
	f.Fuzz(func(t *testing.T, text []byte, query string) {
		values, err := url.ParseQuery(query)
		if err != nil || values.Get("follow") == "true" {
			return // is not meant, or has no end
		}
		if err := os.WriteFile(filepath.Join(pool, logfile.LiveName(0, logfile.Stdout)), text, 0o644); err != nil {
			t.Fatal(err)
		}
		w, err := callStub(s, http.MethodGet, "/v1/logs?"+values.Encode(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if w.Code != http.StatusOK {
			if w.Code >= 500 || !strings.Contains(w.Body.String(), `"cause"`) || !slices.Contains(fails, w.Code) {
				t.Errorf("%q = %d %s", query, w.Code, w.Body)
			}
			return
		}
		all := readLinesOf(t, w.Body.String())
		if query == "" && strings.TrimSuffix(all, "\n") != strings.TrimSuffix(string(text), "\n") {
			t.Errorf("%d bytes have come back as %d: %q", len(text), len(all), all[:min(len(all), 100)])
		}
	})
}

// readLinesOf puts lines together again, and holds them against what is promised.
func readLinesOf(t *testing.T, body string) string {
	t.Helper()
	var b strings.Builder
	last, ended := int64(-1), false
	for line := range strings.Lines(body) {
		var l api.LogLine
		if err := json.Unmarshal([]byte(line), &l); err != nil || ended {
			t.Fatalf("line %q, %v, after the end: %v", line, err, ended)
		}
		if ended = l.End; ended {
			continue
		}
		if l.Offset <= last {
			t.Errorf("offset %d comes after %d", l.Offset, last)
		}
		last = l.Offset
		b.Write(l.Text())
		if !l.Partial {
			b.WriteByte('\n')
		}
	}
	if !ended {
		t.Errorf("no end: %.200q", body)
	}
	return b.String()
}
