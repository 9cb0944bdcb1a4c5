package vm

import (
	"slices"
	"strings"
	"testing"
)

// said is what a test binary of Go 1.26 wrote with -test.v=test2json, the marker
// shown as @.
const said = `@=== RUN   TestA
    t_test.go:3: x
no newline@--- PASS: TestA (0.00s)
@=== NAME  
@=== RUN   TestS
@=== RUN   TestS/sub
    t_test.go:4: because: of this
@--- SKIP: TestS/sub (0.00s)
@=== NAME  TestS
err
@--- PASS: TestS (5.25s)
@=== NAME  
@=== RUN   TestF
@=== RUN   TestF/p
@=== PAUSE TestF/p
@=== NAME  TestF
@=== RUN   TestF/q
@=== PAUSE TestF/q
@=== NAME  TestF
@=== CONT  TestF/p
    t_test.go:5: bad
        multi
@--- FAIL: TestF/p (7.00s)
@=== CONT  TestF/q
    t_test.go:5: q
@--- PASS: TestF/q (0.00s)
@--- FAIL: TestF (0.00s)
@=== NAME  
@=== RUN   TestP
    t_test.go:6: a
@--- FAIL: TestP (0.00s)panic: boo [recovered, repanicked]

goroutine 25 [running]:
`

func TestOutputOfATestBinary(t *testing.T) {
	text := strings.ReplaceAll(said, "@", "\x16")
	for _, size := range []int{1, 7, len(text)} {
		var got Tests
		for chunk := range slices.Chunk([]byte(text), size) {
			if _, err := got.Write(chunk); err != nil {
				t.Fatal(err)
			}
		}
		if err := got.Close(); err != nil {
			t.Fatal(err)
		}
		if got.Passed != 3 {
			t.Errorf("by %d: Passed = %d, want 3", size, got.Passed)
		}
		if want := []Skip{{"TestS/sub", "because: of this"}}; !slices.Equal(got.Skipped, want) {
			t.Errorf("by %d: Skipped = %q, want %q", size, got.Skipped, want)
		}
		if want := []Slow{{"TestS", 5.25}}; !slices.Equal(got.Slow, want) {
			t.Errorf("by %d: Slow = %v, want %v", size, got.Slow, want)
		}
		want := []Failed{
			{"TestF/p", "    t_test.go:5: bad\n        multi\n"},
			{"TestF", ""},
			{"TestP", "    t_test.go:6: a\npanic: boo [recovered, repanicked]\n\ngoroutine 25 [running]:\n"},
		}
		if !slices.Equal(got.Failed, want) {
			t.Errorf("by %d: Failed = %q, want %q", size, got.Failed, want)
		}
	}
}

// A binary that is killed ends in the middle of a test, and of a line.
func TestTestsThatDidNotEndHaveFailed(t *testing.T) {
	var got Tests
	text := "\x16=== RUN   TestA\n\x16=== RUN   TestA/sub\nSIGQUIT: quit"
	if _, err := got.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := got.Close(); err != nil {
		t.Fatal(err)
	}
	if want := []Failed{{"TestA", ""}, {"TestA/sub", "SIGQUIT: quit\n"}}; !slices.Equal(got.Failed, want) {
		t.Errorf("Failed = %q, want %q", got.Failed, want)
	}
}

func TestOutputOutsideOfTests(t *testing.T) {
	var got Tests
	text := "before\n\x16=== RUN   TestA\nin\n\x16--- PASS: TestA (1.00s)\n\x16=== NAME  \nPASS\nlinuxtest: left behind: process 7\n"
	if _, err := got.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if want := "before\nPASS\nlinuxtest: left behind: process 7\n"; got.Rest() != want {
		t.Errorf("Rest() = %q, want %q", got.Rest(), want)
	}
}

func TestReasonOfASkip(t *testing.T) {
	for text, want := range map[string]string{
		"    need.go:26: needs root\n":            "needs root",
		"log\n    x_test.go:1: needs pidfs: no\n": "needs pidfs: no",
		"needs a thing: named\n":                  "needs a thing: named",
		"x.go:y: z":                               "x.go:y: z",
		"":                                        "",
	} {
		if got := reason(text); got != want {
			t.Errorf("reason(%q) = %q, want %q", text, got, want)
		}
	}
}

func FuzzTests(f *testing.F) {
	f.Add([]byte(strings.ReplaceAll(said, "@", "\x16")))
	f.Fuzz(func(t *testing.T, data []byte) {
		var whole, bytewise Tests
		_, _ = whole.Write(data) // never fails
		for i := range data {
			_, _ = bytewise.Write(data[i : i+1]) // never fails
		}
		if whole.Close() != nil || bytewise.Close() != nil {
			t.Fatal("Close fails")
		}
		if whole.Passed != bytewise.Passed || !slices.Equal(whole.Failed, bytewise.Failed) || !slices.Equal(whole.Skipped, bytewise.Skipped) {
			t.Errorf("%q is read in another way byte by byte", data)
		}
	})
}
