package linuxtest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// Worker is what [Ready] asks a supervisor about one of its workers. An adapter
// of a few lines fits any supervisor.
type Worker interface {
	Ready() (ok bool, why string) // why not, if not: its state and cause
	Stderr() []string             // the last lines it wrote
}

// Ready fails the test if a worker does not become ready in time, with the cause
// and the tail of its standard error: never a bare timeout.
func Ready(tb testing.TB, within time.Duration, w Worker) {
	tb.Helper()
	if ok, why := poll(within, w.Ready); !ok {
		tb.Fatalf("not ready after %v: %s\n%s", within, why, tail(w.Stderr()))
	}
}

// AllReady fails the test unless exactly n workers are there and every one
// becomes ready in time. A pool that started in part is a failure, each missing
// worker is named.
func AllReady[W Worker](tb testing.TB, within time.Duration, n int, workers []W) {
	tb.Helper()
	if len(workers) != n {
		tb.Fatalf("%d workers, want %d", len(workers), n)
	}
	end := time.Now().Add(within)
	for i, w := range workers {
		if ok, why := poll(max(time.Until(end), 0), w.Ready); !ok {
			tb.Errorf("worker %d of %d not ready after %v: %s\n%s", i+1, n, within, why, tail(w.Stderr()))
		}
	}
	if tb.Failed() {
		tb.FailNow()
	}
}

// Failure is a start that failed, in words that fit any supervisor.
type Failure struct {
	Cause  string
	Code   int // exit code; -1 for none
	Stderr []string
}

// StartFails fails the test if a start did not fail for this cause, with this exit
// code (-1 for none), and with a line of standard error that matches. An empty
// pattern wants no line at all: a program that said something must be heard.
func StartFails(tb testing.TB, got Failure, cause string, code int, stderr string) {
	tb.Helper()
	said := len(got.Stderr) == 0
	if stderr != "" {
		said = slices.ContainsFunc(got.Stderr, regexp.MustCompile(stderr).MatchString)
	}
	if got.Cause != cause || got.Code != code || !said {
		tb.Errorf("start failed with cause %q, exit code %d, want %q, %d and stderr %q\n%s",
			got.Cause, got.Code, cause, code, stderr, tail(got.Stderr))
	}
}

// NoRestartStorm fails the test if the number of starts grows by more than most in
// the given time.
func NoRestartStorm(tb testing.TB, d time.Duration, most int, starts func() int) {
	tb.Helper()
	first := starts()
	timer := time.NewTimer(d)
	defer timer.Stop()
	<-timer.C
	if grown := starts() - first; grown > most {
		tb.Errorf("%d starts in %v, want at most %d", grown, d, most)
	}
}

// CapacityBack fails the test if a count is not n again in time.
func CapacityBack(tb testing.TB, n int, within time.Duration, count func() int) {
	tb.Helper()
	got := 0
	if ok, _ := poll(within, func() (bool, string) { got = count(); return got == n, "" }); !ok {
		tb.Errorf("%d after %v, want %d again", got, within, n)
	}
}

// Exactly fails the test if two sequences of events differ in number, order or
// content, and shows the first difference.
func Exactly[E any](tb testing.TB, got []E, want ...E) {
	tb.Helper()
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			tb.Errorf("event %d of %d is missing: %+v", i+1, len(want), want[i])
		case i >= len(want):
			tb.Errorf("event %d is too much: %+v", i+1, got[i])
		case !reflect.DeepEqual(got[i], want[i]):
			tb.Errorf("event %d = %+v, want %+v", i+1, got[i], want[i])
		default:
			continue
		}
		tb.Logf("all events: %+v", got)
		return
	}
}

// QuietLog fails the test for each line of a log/slog JSON log above a level, and
// for each line that is not JSON: a log is read by machines.
func QuietLog(tb testing.TB, log []byte, most slog.Level) {
	tb.Helper()
	lines := bufio.NewScanner(bytes.NewReader(log))
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var record struct{ Level slog.Level }
		if err := json.Unmarshal(lines.Bytes(), &record); err != nil {
			tb.Errorf("log line is not a record: %v: %s", err, lines.Bytes())
			continue
		}
		if record.Level > most {
			tb.Errorf("log line above %v: %s", most, lines.Bytes())
		}
	}
	if err := lines.Err(); err != nil {
		tb.Errorf("read the log: %v", err)
	}
}

// StateBounded fails the test if the files below a directory are more, or bigger
// in sum, than this. Call it after each of many cycles.
func StateBounded(tb testing.TB, dir string, bytes int64, entries int) {
	tb.Helper()
	var size int64
	var names []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if info.Mode().IsRegular() {
			size += info.Size()
		}
		names = append(names, path)
		return nil
	})
	if err != nil {
		tb.Fatalf("walk %s: %v", dir, err)
	}
	if size > bytes || len(names) > entries {
		tb.Errorf("%s holds %d bytes in %d entries, want at most %d in %d: %s",
			dir, size, len(names), bytes, entries, strings.Join(names[:min(len(names), 20)], " "))
	}
}

// TornState calls check with the file cut off at each of so many places, from
// empty to whole, and once with a byte turned over in its middle, as a crash or a
// bad disk leaves it. The file is whole again afterwards.
func TornState(tb testing.TB, path string, cuts int, check func(what string)) {
	tb.Helper()
	whole, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	try := func(what string, data []byte) {
		tb.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			tb.Fatal(err)
		}
		check(what)
	}
	defer func() {
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			tb.Error(err)
		}
	}()
	for i := range cuts {
		n := len(whole) * i / max(cuts-1, 1)
		try(fmt.Sprintf("cut off at byte %d of %d", n, len(whole)), whole[:n])
	}
	if len(whole) > 0 {
		damaged := slices.Clone(whole)
		damaged[len(damaged)/2] ^= 0xff
		try(fmt.Sprintf("byte %d of %d turned over", len(whole)/2, len(whole)), damaged)
	}
}

// OutputTailKept fails the test if the last of the lines kept is not this one.
func OutputTailKept(tb testing.TB, got []string, last string) {
	tb.Helper()
	if len(got) == 0 || got[len(got)-1] != last {
		tb.Errorf("last line kept is not %q:\n%s", last, tail(got))
	}
}

// StartLatency fails the test if the 99th percentile of the measured durations is
// above p99, and reports the median, the percentile and the longest.
func StartLatency(tb testing.TB, p99 time.Duration, measured []time.Duration) {
	tb.Helper()
	if len(measured) == 0 {
		tb.Fatal("no start was measured")
	}
	sorted := slices.Sorted(slices.Values(measured))
	// With few samples the 99th percentile is the longest.
	at := func(percent int) time.Duration { return sorted[(len(sorted)*percent+99)/100-1] }
	text := fmt.Sprintf("%d starts: median %v, p99 %v, longest %v", len(sorted), at(50), at(99), sorted[len(sorted)-1])
	if at(99) > p99 {
		tb.Errorf("%s; want p99 at most %v", text, p99)
		return
	}
	tb.Log(text)
}

// tail is the end of a program's output for a message.
func tail(lines []string) string {
	if len(lines) == 0 {
		return "it wrote nothing to stderr"
	}
	return "its stderr ends with:\n\t" + strings.Join(lines[max(0, len(lines)-20):], "\n\t")
}
