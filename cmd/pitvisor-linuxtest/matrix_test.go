package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/linuxtest/vm"
)

// The page of this project is what the command makes of the reports beside it.
func TestKernelsPageIsWhatIsPrinted(t *testing.T) {
	reports, err := load("../../docs/kernels.json")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/kernels.md")
	if err != nil {
		t.Fatal(err)
	}
	_, tables, ok := strings.Cut(string(page), matrixMark)
	if want := vm.Matrix(vm.Merge(nil, reports)); !ok || tables != want {
		t.Errorf("docs/kernels.md is not made of docs/kernels.json: make docs-kernels writes\n%s", want)
	}
	for _, r := range reports {
		for _, name := range r.Lacking {
			t.Errorf("%s %s lacks %s", r.Lane, r.Release, name)
		}
	}
}

func TestMatrixKeepsReportsAndRewritesThePage(t *testing.T) {
	dir := t.TempDir()
	page, data := filepath.Join(dir, "page.md"), filepath.Join(dir, "data.json")
	report := func(name, tier string) string {
		file := filepath.Join(dir, name)
		if err := save(file, []*vm.Report{{Lane: "vm", Release: "6.12.1", Tier: tier}}); err != nil {
			t.Fatal(err)
		}
		return file
	}
	if err := os.WriteFile(page, []byte("# Title\n"+matrixMark+"old\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tier := range []string{"C", "B"} {
		if code := run(t.Context(), []string{"matrix", "-data", data, "-o", page, report("r.json", tier)}); code != 0 {
			t.Fatalf("exit code %d", code)
		}
		text, err := os.ReadFile(page)
		if err != nil || !strings.HasPrefix(string(text), "# Title\n"+matrixMark+"\n|") || !strings.Contains(string(text), "**"+tier+"**") {
			t.Errorf("page %q, %v, want a title and tier %s", text, err, tier)
		}
	}
	if kept, err := load(data); err != nil || len(kept) != 1 || kept[0].Tier != "B" {
		t.Errorf("kept %+v, %v, want the newer report alone", kept, err)
	}
	bad := filepath.Join(dir, "bad.json")
	for _, text := range []string{"{}", `[{"lane": "vm"}]`, `[null]`} {
		if err := os.WriteFile(bad, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if code := run(t.Context(), []string{"matrix", bad}); code != 1 {
			t.Errorf("exit code %d for %s, want 1", code, text)
		}
	}
}

// What a lane writes that has nothing but go test.
func TestRecordPassesOnAndReports(t *testing.T) {
	linuxtest.NeedCommand(t, "go")
	file := filepath.Join(t.TempDir(), "new", "report.json")
	cmd := exec.Command(build(t, "."), "record", "-json", file, "-lane", "container", "-system", "podman 4", "-cgroup", linuxtest.Cgroup(t))
	const events = `{"Action":"pass","Package":"p","Test":"TestA"}` + "\n" + `{"Action":"pass","Package":"p","Elapsed":1}` + "\n"
	cmd.Stdin = strings.NewReader(events)
	out, err := cmd.Output()
	if err != nil || string(out) != events {
		t.Fatalf("record = %q, %v, want what it has read", out, err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var reports []vm.Report
	if err := json.Unmarshal(text, &reports); err != nil || len(reports) != 1 {
		t.Fatalf("report %s: %v", text, err)
	}
	r := reports[0]
	if r.Lane != "container" || r.System != "podman 4" || r.Release == "" || !r.Features["clone into cgroup"] || !r.Features["cgroup.freeze"] || r.Tier == "E" {
		t.Errorf("report %+v", r)
	}
	if len(r.Programs) != 1 || !r.Programs[0].OK || r.Programs[0].Tests.Passed != 1 {
		t.Errorf("programs %+v, want one that passed", r.Programs)
	}
}

// Where nothing is to be found out of the host, what the tests say still gets through.
func TestRecordPassesOnWithoutACgroup(t *testing.T) {
	linuxtest.NeedCommand(t, "go")
	file := filepath.Join(t.TempDir(), "report.json")
	cmd := exec.Command(build(t, "."), "record", "-json", file, "-cgroup", filepath.Join(t.TempDir(), "none"))
	const events = `{"Action":"pass","Package":"p","Elapsed":1}` + "\n"
	cmd.Stdin = strings.NewReader(events)
	out, err := cmd.Output()
	if err == nil || string(out) != events {
		t.Errorf("record = %q, %v, want what it has read and a failure", out, err)
	}
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("a report all the same: %v", err)
	}
}
