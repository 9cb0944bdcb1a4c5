package vm

import (
	"slices"
	"strings"
	"testing"
)

func matrixReports() []*Report {
	return []*Report{
		{
			Lane: "systemd", System: "systemd 257", Release: "6.12.96-cloud", Tier: "B",
			Programs: []Outcome{{Name: "restart", OK: true}},
		},
		{
			Lane: "vm", Kernel: "5.10", Release: "5.10.0-32-cloud", Tier: "D", Controllers: []string{"cpu", "io"},
			Features: map[string]bool{"cgroup.kill": false, "cpu.max": true, "cgroup.freeze": false, "odd": true}, Boot: 3.5,
			Programs: []Outcome{
				{Name: "m/pidfd", OK: true, Exit: &Exit{Seconds: 3}, Tests: &Tests{Passed: 7, Skipped: []Skip{{"TestA", "needs pidfs"}, {"TestB", "needs pidfs"}}}},
				{Name: "m/cgroup", Why: "exit code 1", Output: "long", Tests: &Tests{Passed: 3, Failed: []Failed{{"TestC", "output"}}}},
			},
		},
		{
			Lane: "vm", Release: "6.12.96-cloud", Tier: "B",
			Features: map[string]bool{"cgroup.kill": true, "cpu.max": true, "cgroup.freeze": true},
			Programs: []Outcome{{Name: "m/pidfd", OK: true, Tests: &Tests{Passed: 9}}},
		},
	}
}

const wantMatrix = `
|  | 5.10 vm | 6.12 vm | 6.12 systemd |
|---|---|---|---|
| release | ´5.10.0-32-cloud´ | ´6.12.96-cloud´ | ´6.12.96-cloud´ |
| with | – | – | systemd 257 |
| tier | **D** | **B** | **B** |
| controllers | cpu io | – | – |
| tests passed | 10 | 9 | 0 |
| tests failed | cgroup: 1 (exit code 1) | 0 | 0 |
| tests skipped | 2 | 0 | 0 |

What the kernel can do, by trying: ´–´ the kernel is older, ´no´ it is new enough, but it is not there.

| feature | Linux | 5.10 vm | 6.12 vm | 6.12 systemd |
|---|---|---|---|---|
| cpu.max | 4.15 | yes | yes | – |
| cgroup.freeze | 5.2 | no | yes | – |
| cgroup.kill | 5.14 | – | yes | – |
| odd | – | yes | – | – |

Tests that passed, by package, and ´+´ those that were skipped.

| package | 5.10 vm | 6.12 vm | 6.12 systemd |
|---|---|---|---|
| cgroup | 3 **exit code 1** | – | – |
| pidfd | 7 +2 | 9 | – |
| restart | – | – | ok |

Why tests were skipped, and how many.

| reason | 5.10 vm | 6.12 vm | 6.12 systemd |
|---|---|---|---|
| needs pidfs | 2 | – | – |
`

func TestMatrix(t *testing.T) {
	want := strings.ReplaceAll(wantMatrix, "´", "`")
	reports := matrixReports()
	for range 3 {
		if got := Matrix(reports); got != want {
			t.Fatalf("Matrix =\n%s\nwant\n%s", got, want)
		}
		reports = append(reports[1:], reports[0]) // the order does not matter
	}
	// Nor does it what is left out when reports are kept.
	if got := Matrix(Merge(nil, reports)); got != want {
		t.Errorf("Matrix of what was kept =\n%s\nwant\n%s", got, want)
	}
}

func TestMergeReplacesTheSameColumn(t *testing.T) {
	newer := &Report{Lane: "vm", Release: "6.12.97-cloud", Tier: "A", Programs: []Outcome{{Name: "p", Output: "x", Tests: &Tests{Failed: []Failed{{"T", "y"}}}}}}
	got := Merge(matrixReports(), []*Report{newer})
	var names []string
	for _, r := range got {
		names = append(names, r.Lane+" "+r.Release)
	}
	if want := []string{"vm 5.10.0-32-cloud", "systemd 6.12.96-cloud", "vm 6.12.97-cloud"}; !slices.Equal(names, want) {
		t.Errorf("Merge = %q, want %q", names, want)
	}
	if p := got[2].Programs[0]; p.Output != "" || p.Tests.Failed[0].Output != "" || p.Tests.Failed[0].Test != "T" {
		t.Errorf("kept %+v, %+v, want it without output", p, p.Tests)
	}
}
