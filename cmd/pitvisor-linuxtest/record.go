package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/pitvisor/pitvisor/linuxtest/vm"
)

// place are the flags that say where this is.
type place struct {
	lane, system, cgroup, json string
}

// parse reads the flags of a command that has no others than these and more's.
func (p *place) parse(name string, args []string, more func(*flag.FlagSet)) error {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.StringVar(&p.lane, "lane", "host", "`name` of how the kernel is met here: host, container, delegated, ...")
	f.StringVar(&p.system, "system", "", "what else is here, such as \"systemd 257\"")
	f.StringVar(&p.cgroup, "cgroup", "", "`directory` of the cgroup to try features in (default the one we are in)")
	f.StringVar(&p.json, "json", "", "write the report to this `file`")
	if more != nil {
		more(f)
	}
	if f.Parse(args) != nil || f.NArg() > 0 {
		return errUsage
	}
	return nil
}

// inspect makes a report of what the kernel can do here, without programs.
func (p *place) inspect() (*vm.Report, error) {
	guest, err := vm.Inspect(p.cgroup)
	if err != nil {
		return nil, err
	}
	return &vm.Report{
		Lane: p.lane, System: p.system, Release: guest.Release,
		Tier: guest.Tier, Controllers: guest.Controllers, Features: guest.Features,
	}, nil
}

// write writes the report to the file that was asked for, else to out.
func (p *place) write(r *vm.Report, out io.Writer) error {
	if p.json == "" {
		return encode(out, []*vm.Report{r})
	}
	return save(p.json, []*vm.Report{r})
}

func encode(out io.Writer, reports []*vm.Report) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "\t")
	e.SetEscapeHTML(false)
	return e.Encode(reports)
}

// save writes reports to a file, and makes its directory.
func save(name string, reports []*vm.Report) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(encode(f, reports), f.Close())
}

// load reads reports from a file.
func load(name string) ([]*vm.Report, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var reports []*vm.Report
	if err := json.Unmarshal(text, &reports); err != nil {
		return nil, fmt.Errorf("read %s: %w: it must be a list of reports, see docs/testing.md", name, err)
	}
	for _, r := range reports {
		if r == nil || r.Lane == "" || r.Release == "" {
			return nil, fmt.Errorf("read %s: a report has no lane or no release, see docs/testing.md", name)
		}
	}
	return reports, nil
}

// runProbe reports what the kernel can do here.
func runProbe(_ context.Context, args []string) (bool, error) {
	var p place
	if err := p.parse("probe", args, nil); err != nil {
		return false, err
	}
	r, err := p.inspect()
	if err != nil {
		return false, err
	}
	return true, p.write(r, os.Stdout)
}

// runRecord makes a report of what go test -json says on stdin, and passes it on.
// Whether tests failed is for the reader behind it to say, unless skips are judged.
func runRecord(_ context.Context, args []string) (bool, error) {
	var p place
	var skips string
	err := p.parse("record", args, func(f *flag.FlagSet) {
		f.StringVar(&skips, "skips", "", "`file` with the reasons for which tests may be skipped; any other skip is a failure")
	})
	if err != nil {
		return false, err
	}
	if p.json == "" {
		return false, errors.New("record: name the file for the report with -json")
	}
	var rules *vm.Rules
	if skips != "" {
		if rules, err = vm.ReadRules(skips); err != nil {
			return false, err
		}
	}
	r, err := p.inspect()
	if err != nil {
		_, lost := io.Copy(os.Stdout, os.Stdin) // the tests are worth reading all the same
		return false, errors.Join(err, lost)
	}
	if r.Programs, err = vm.ReadGoTest(os.Stdin, os.Stdout, rules, r.Release); err != nil {
		return false, err
	}
	for _, o := range r.Programs {
		for _, s := range o.Unexplained {
			fmt.Fprintf(os.Stderr, "must not be skipped: %s %s: %s\n", o.Name, s.Test, s.Reason)
		}
	}
	return r.OK(), p.write(r, os.Stdout)
}
