package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/pitvisor/pitvisor/linuxtest/vm"
)

// matrixMark is the line of a page below which the tables stand.
const matrixMark = "<!-- Below: made by pitvisor-linuxtest matrix. -->\n"

// runMatrix makes a page of what lanes have found.
func runMatrix(_ context.Context, args []string) (bool, error) {
	var page, data string
	f := flag.NewFlagSet("matrix", flag.ContinueOnError)
	f.StringVar(&page, "o", "", "rewrite this `file` below its line \""+strings.TrimSpace(matrixMark)+"\" (default print)")
	f.StringVar(&data, "data", "", "`file` that keeps reports: those of the same lane, kernel and system are replaced")
	if f.Parse(args) != nil || f.NArg() == 0 && data == "" {
		return false, errUsage
	}
	var reports []*vm.Report
	for _, name := range f.Args() {
		more, err := load(name)
		if err != nil {
			return false, err
		}
		reports = append(reports, more...)
	}
	if data != "" {
		old, err := load(data)
		if err != nil && !os.IsNotExist(err) {
			return false, err
		}
		reports = vm.Merge(old, reports)
		if err := save(data, reports); err != nil {
			return false, err
		}
	} else {
		reports = vm.Merge(nil, reports)
	}
	if page == "" {
		_, err := io.WriteString(os.Stdout, vm.Matrix(reports))
		return true, err
	}
	text, err := os.ReadFile(page)
	if err != nil {
		return false, err
	}
	prose, _, ok := strings.Cut(string(text), matrixMark)
	if !ok {
		return false, fmt.Errorf("%s has no line %q", page, strings.TrimSpace(matrixMark))
	}
	return true, os.WriteFile(page, []byte(prose+matrixMark+vm.Matrix(reports)), 0o644)
}
