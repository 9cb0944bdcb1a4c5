package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"
)

// madeUp is a table of so many milliseconds of wall and CPU time per round.
func madeUp(name string, kind kind, wall ...float64) shotTable {
	t := shotTable{Name: name, Kind: kind.String()}
	for _, ms := range wall {
		d := time.Duration(ms * float64(time.Millisecond))
		t.Shots = append(t.Shots, shot{Wall: d, CPU: d / 2})
	}
	return t
}

// verdictOf finds the row about one measure and one reference.
func verdictOf(t *testing.T, b *bench, id, measure, reference string) row {
	t.Helper()
	for _, r := range b.Rows {
		if r.ID == id && strings.Contains(r.Measure, measure) && strings.HasPrefix(r.Reference, reference) {
			return r
		}
	}
	t.Fatalf("no row %s of %s against %s in %+v", id, measure, reference, b.Rows)
	return row{}
}

func TestOneshotIsJudgedRoundByRound(t *testing.T) {
	b := &bench{}
	b.Shots = []shotTable{
		madeUp(product, kindProduct, 10, 100, 11),
		madeUp(oneshotGo, kindFloor, 10, 100, 10), // the slow round is slow for all
		madeUp(oneshotC, kindFloor, 5, 50, 5.5),
		madeUp(bubblewrap, kindPeer, 9, 90, 9.9),
		madeUp(crunRun, kindPeer, 12.5, 125, 13.75),
	}
	b.judgeOneshot()
	for _, test := range []struct{ measure, reference, ratio, verdict string }{
		{"wall", oneshotGo, "1.00 [1.00-1.10]", verdictMet},
		{"CPU", oneshotGo, "1.00 [1.00-1.10]", verdictMet},
		{"wall", bubblewrap, "1.11 [1.11-1.11]", verdictNear},
		{"wall", crunRun, "0.80 [0.80-0.80]", verdictMissed},
		{"wall", runcRun, "", verdictNone},
		{"wall", systemdRun, "", verdictNone},
		{"wall", oneshotC, "2.00 [2.00-2.00]", "-"},
	} {
		r := verdictOf(t, b, "1", test.measure, test.reference)
		if r.Ratio != test.ratio || r.Verdict != test.verdict {
			t.Errorf("%s against %s = %q, %q, want %q, %q", test.measure, test.reference, r.Ratio, r.Verdict, test.ratio, test.verdict)
		}
	}
}

func TestOneshotWithoutPitvisorIsNotJudged(t *testing.T) {
	b := &bench{}
	b.Shots = []shotTable{madeUp(oneshotGo, kindFloor, 10)}
	b.judgeOneshot()
	if len(b.Rows) > 0 {
		t.Errorf("judgeOneshot made %+v, want no rows", b.Rows)
	}
}

// A record may cost two syncs and 5 % of the command: here 2 × 1 + 0.5 on 10 ms.
func TestRecordIsJudgedByTheSyncsOfTheSameRun(t *testing.T) {
	for _, test := range []struct {
		wall float64
		want string
	}{{12.5, verdictMet}, {13, verdictNear}, {14.3, verdictNear}, {14.4, verdictMissed}} {
		b := &bench{}
		b.Shots = []shotTable{madeUp(product, kindProduct, 10, 10, 10), madeUp(recorded, kindProduct, test.wall, test.wall, test.wall)}
		b.Syncs = []time.Duration{time.Millisecond, time.Millisecond, 50 * time.Millisecond}
		b.judgeOneshot()
		if got := verdictOf(t, b, "2", "--record", "without"); got.Verdict != test.want {
			t.Errorf("a record of %v ms: %+v, want %q", test.wall, got, test.want)
		}
	}
}

func TestAFailedCommandIsNoMeasure(t *testing.T) {
	b := &bench{}
	mine := madeUp(product, kindProduct, 10, 10, 1)
	mine.Shots[2].Err = "left 1 cgroups"
	b.Shots = []shotTable{mine, madeUp(oneshotGo, kindFloor, 10, 10, 10)}
	b.judgeOneshot()
	if got := verdictOf(t, b, "1", "wall", oneshotGo).Ratio; got != "1.00 [1.00-1.00]" {
		t.Errorf("ratio = %q, want the failed round left out", got)
	}
	if err := b.oneshotFailures(); err == nil || err.Error() != "pitvisor: 1 of 3 commands failed" {
		t.Errorf("oneshotFailures = %v, want the one", err)
	}
}

func TestMiddleLeavesTheExtremesOut(t *testing.T) {
	var values []float64
	for i := range 20 {
		values = append(values, float64(i))
	}
	values[0], values[19] = -1000, 1000
	if got, want := middle(values), (summary{20, 9.5, 2, 17}); got != want {
		t.Errorf("middle = %v, want %v", got, want)
	}
	if got := middle(nil); got.N != 0 {
		t.Errorf("middle of nothing = %v, want nothing", got)
	}
}

func TestOneshotMarkdownShowsNoCPUOfWhatRunsElsewhere(t *testing.T) {
	b := &bench{}
	remote := madeUp(systemdRun, kindPeer, 40, 40)
	remote.Remote = true
	b.Shots = []shotTable{madeUp(oneshotGo, kindFloor, 10, 10), madeUp(oneshotC, kindFloor, 5, 5), remote}
	b.Syncs = []time.Duration{time.Millisecond}
	var out bytes.Buffer
	b.oneshotMarkdown(func(format string, args ...any) { fmt.Fprintf(&out, format+"\n", args...) })
	want := "| systemd-run | peer | 2/2 | 40.00 [40.00-40.00] | 4.00 [4.00-4.00] | 8.00 [8.00-8.00] | - | - | - |\n"
	if !strings.Contains(out.String(), want) {
		t.Errorf("markdown =\n%s\nwant the line\n%s", out.String(), want)
	}
}

func TestOCISpecLosesTerminalAndDeviceRules(t *testing.T) {
	spec, err := parseOCISpec([]byte(`{"process":{"terminal":true,"args":["sh"]},"linux":{"resources":{"devices":[]},"namespaces":[{"type":"pid"}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(spec), "map[linux:map[namespaces:[map[type:pid]]] process:map[args:[sh] terminal:false]]"; got != want {
		t.Errorf("spec = %s, want %s", got, want)
	}
	if _, err := parseOCISpec([]byte(`{}`)); err == nil {
		t.Error("parseOCISpec of nothing = nil, want an error")
	}
}
