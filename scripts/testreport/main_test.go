package main

import (
	"strings"
	"testing"
)

const stream = `{"Action":"start","Package":"p"}
{"Action":"output","Package":"p","Test":"TestGood","Output":"=== RUN   TestGood\n"}
{"Action":"pass","Package":"p","Test":"TestGood"}
{"Action":"output","Package":"p","Test":"TestBad","Output":"    a_test.go:3: oh\n"}
{"Action":"fail","Package":"p","Test":"TestBad"}
{"Action":"output","Package":"p","Test":"TestSkip","Output":"    a_test.go:9: needs root\n"}
{"Action":"skip","Package":"p","Test":"TestSkip"}
{"Action":"skip","Package":"p","Test":"TestOther"}
{"Action":"output","Package":"p","Output":"linuxtest-skips: {\"needs root\":1}\n"}
{"Action":"output","Package":"p","Output":"linuxtest: left behind: open file 7\n"}
{"Action":"output","Package":"p","Output":"FAIL\tp\t0.1s\n"}
{"Action":"fail","Package":"p"}
go: a message of the tool
{"Action":"output","Package":"q","Output":"ok  \tq\t0.2s\n"}
{"Action":"pass","Package":"q"}
`

const want = `    a_test.go:3: oh
linuxtest: left behind: open file 7
go: a message of the tool
tests: 4 run, 1 passed, 1 failed, 2 skipped
skipped:   1 needs root
skipped:   1 without a reason that was counted
FAIL	p	0.1s
ok  	q	0.2s
`

func TestReport(t *testing.T) {
	var out strings.Builder
	r := &report{out: &out, output: map[string][]string{}, reasons: map[string]int{}}
	if err := r.read(strings.NewReader(stream)); err != nil {
		t.Fatal(err)
	}
	r.summary()
	if out.String() != want {
		t.Errorf("report:\n%s\nwant:\n%s", out.String(), want)
	}
	if !r.broken {
		t.Error("broken = false after a failure")
	}
}

func TestReportOfATestProcessThatDied(t *testing.T) {
	var out strings.Builder
	r := &report{out: &out, output: map[string][]string{}, reasons: map[string]int{}}
	in := `{"Action":"output","Package":"p","Test":"TestHangs","Output":"panic: timed out\n"}
{"Action":"fail","Package":"p"}
`
	if err := r.read(strings.NewReader(in)); err != nil {
		t.Fatal(err)
	}
	if !r.broken || !strings.Contains(out.String(), "panic: timed out") {
		t.Errorf("broken %v, report %q, want the panic of the test that has no end", r.broken, out.String())
	}
}
