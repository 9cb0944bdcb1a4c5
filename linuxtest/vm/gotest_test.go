package vm

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
)

const goTestStream = `{"Action":"start","Package":"m/p"}
{"Action":"run","Package":"m/p","Test":"TestGood"}
{"Action":"output","Package":"m/p","Test":"TestGood","Output":"=== RUN   TestGood\n"}
{"Action":"pass","Package":"m/p","Test":"TestGood","Elapsed":7.5}
{"Action":"output","Package":"m/p","Test":"TestBad","Output":"    a_test.go:3: oh\n"}
{"Action":"output","Package":"m/p","Test":"TestBad","Output":"--- FAIL: TestBad (0.00s)\n"}
{"Action":"fail","Package":"m/p","Test":"TestBad"}
{"Action":"output","Package":"m/p","Test":"TestSkip","Output":"    a_test.go:9: needs pidfs\n"}
{"Action":"skip","Package":"m/p","Test":"TestSkip"}
{"Action":"output","Package":"m/p","Output":"left behind\n"}
{"Action":"fail","Package":"m/p","Elapsed":9}
go: a message of the tool
{"Action":"output","Package":"m/q","Test":"TestSkip","Output":"    a_test.go:9: needs root\n"}
{"Action":"skip","Package":"m/q","Test":"TestSkip"}
{"Action":"pass","Package":"m/q","Elapsed":0.5}
{"Action":"skip","Package":"m/none"}
{"ImportPath":"m/broken [m/broken.test]","Action":"build-output","Output":"broken.go:1:1: expected\n"}
{"ImportPath":"m/broken [m/broken.test]","Action":"build-fail"}
{"Action":"run","Package":"m/dead","Test":"TestHangs"}
`

func TestReadGoTest(t *testing.T) {
	rs, err := rules(t, "<6.9 needs pidfs\n")
	if err != nil {
		t.Fatal(err)
	}
	var echo bytes.Buffer
	got, err := ReadGoTest(strings.NewReader(goTestStream), &echo, rs, "6.1.0")
	if err != nil || echo.String() != goTestStream {
		t.Fatalf("ReadGoTest = %v, echo %q", err, echo.String())
	}
	want := []Outcome{
		{Name: "m/broken", Why: "does not build", Output: "broken.go:1:1: expected"},
		{Name: "m/dead", Why: "did not end"},
		{
			Name: "m/p", Why: "failed", Exit: &Exit{Code: 1, Seconds: 9}, Output: "left behind",
			Tests: &Tests{
				Passed: 1, Failed: []Failed{{"TestBad", "    a_test.go:3: oh\n"}},
				Skipped: []Skip{{"TestSkip", "needs pidfs"}}, Slow: []Slow{{"TestGood", 7.5}},
			},
		},
		{
			Name: "m/q", Why: "1 skips that must not be", Exit: &Exit{Seconds: 0.5},
			Tests: &Tests{Skipped: []Skip{{"TestSkip", "needs root"}}}, Unexplained: []Skip{{"TestSkip", "needs root"}},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("ReadGoTest = %+v\nwant %+v", got, want)
	}
}
