package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest/confine"
	"github.com/pitvisor/pitvisor/linuxtest/vm"
	"golang.org/x/sys/unix"
)

// site is where programs run on this host's own kernel.
type site struct {
	lane string
	name string // of the container's kind, or the lane's
	at   string // where it sees the module's files; "" is where they are
	run  func(ctx context.Context, files string, p confine.Program, out io.Writer) (confine.Result, error)
}

// siteOptions are the flags of container and delegated.
type siteOptions struct{ common }

func (o *siteOptions) define(f *flag.FlagSet) {
	o.common.define(f, words{
		programs: "programs", at: runtime.NumCPU(), limit: 10 * time.Minute,
		skips: "`file` with the reasons for which tests may be skipped, or directory with a file for each kind; any other skip is a failure",
	})
}

// rules are those of one site.
func (o *siteOptions) rules(name string) (*vm.Rules, error) {
	if o.skips == "" {
		return nil, nil
	}
	file := o.skips
	if st, err := os.Stat(file); err == nil && st.IsDir() {
		file = filepath.Join(file, name)
	}
	return vm.ReadRules(file)
}

// visit runs the programs in every site and says whether everything passed.
func (o *siteOptions) visit(ctx context.Context, sites []site) (ok bool, err error) {
	out := &printer{w: os.Stdout}
	dir, done, err := confine.TempDir()
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, done()) }()
	files := filepath.Join(dir, "src")
	if err := copySelf(filepath.Join(files, probe)); err != nil {
		return false, err
	}
	ok = true
	var reports []*vm.Report
	trees := map[string][]vm.Program{}
	for _, p := range sites {
		programs, known := trees[p.at]
		if !known {
			if programs, err = o.prepare(ctx, files, p.at, out); err != nil {
				return false, err
			}
			trees[p.at] = programs
		}
		r, err := o.one(ctx, p, files, programs, out)
		if err != nil {
			return false, err
		}
		printSite(out, r)
		ok = ok && r.OK()
		reports = append(reports, r)
	}
	if o.json != "" {
		if err := save(o.json, reports); err != nil {
			return false, err
		}
	}
	return ok, context.Cause(ctx)
}

// prepare builds the programs below files, for a site that sees them at the given
// directory.
func (o *siteOptions) prepare(ctx context.Context, files, at string, out *printer) ([]vm.Program, error) {
	if len(o.packages) == 0 {
		path, err := filepath.Abs(o.args[0])
		if err == nil {
			_, err = os.Stat(path)
		}
		args := o.args[1:]
		if strings.HasSuffix(path, ".test") {
			args = slices.Clone(args)
			for i, arg := range args {
				if arg == "-test.v" || arg == "-test.v=true" {
					args[i] = "-test.v=test2json"
				}
			}
		}
		return []vm.Program{{Name: filepath.Base(path), Path: path, Args: args, Limit: o.limit}}, err
	}
	began := time.Now()
	if at == "" {
		at = files
	}
	spec := vm.TestSpec{Packages: o.packages, Programs: list(o.build), Args: o.args, Limit: o.limit}
	programs, err := spec.Tree(ctx, files, at)
	out.line("%d programs ready after %.1f s", len(programs), time.Since(began).Seconds())
	return programs, err
}

// one runs the programs in one site, a few at a time.
func (o *siteOptions) one(ctx context.Context, p site, files string, programs []vm.Program, out *printer) (*vm.Report, error) {
	rules, err := o.rules(p.name)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	r, err := p.inspect(ctx, files)
	if err != nil {
		return nil, err
	}
	r.Programs = make([]vm.Outcome, len(programs))
	turns := make(chan struct{}, max(1, o.at))
	var wg sync.WaitGroup
	for i, program := range programs {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			f := &vm.Follower{Rules: rules, Release: r.Release}
			r.Programs[i] = o.program(ctx, p, files, program, f, out)
		})
	}
	wg.Wait()
	r.Total = time.Since(began).Round(10 * time.Millisecond).Seconds()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

// probe is this very command below the files that a site sees.
const probe = ".linuxtest/probe"

func copySelf(to string) error {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, self, 0o755)
}

// inspect finds out what can be done at the site.
func (p site) inspect(ctx context.Context, files string) (*vm.Report, error) {
	at := cmp.Or(p.at, files)
	system := p.name
	if system == p.lane {
		system = ""
	}
	var out bytes.Buffer
	result, err := p.run(ctx, files, confine.Program{
		Args: []string{filepath.Join(at, probe), "probe", "-lane", p.lane, "-system", system}, Dir: at, Limit: time.Minute,
	}, &out)
	if err != nil {
		return nil, err
	}
	var reports []*vm.Report
	if err := json.Unmarshal(out.Bytes(), &reports); err != nil || len(reports) != 1 {
		return nil, fmt.Errorf("find out what can be done in %s: %s: %s", p.name, result.Exit(), out.Bytes())
	}
	return reports[0], nil
}

// program runs one program and prints how it went.
func (o *siteOptions) program(ctx context.Context, p site, files string, program vm.Program, f *vm.Follower, out *printer) vm.Outcome {
	if o.verbose {
		out.line("%s: %s", p.name, program.Name)
	}
	var sink io.Writer = f
	if o.verbose {
		sink = io.MultiWriter(f, shower{out})
	}
	result, err := p.run(ctx, files, confine.Program{
		Args: append([]string{program.Path}, program.Args...), Dir: program.Dir, Limit: program.Limit,
		Env: append(slices.Clone(program.Env), o.env...),
	}, sink)
	var outcome vm.Outcome
	if err != nil {
		outcome = f.End(program.Name, nil, result.Left, err.Error())
	} else {
		exit := &vm.Exit{Code: result.Status.ExitStatus(), Late: result.Late, Seconds: result.Took.Seconds()}
		if result.Status.Signaled() {
			exit.Signal = unix.SignalName(result.Status.Signal())
		}
		outcome = f.End(program.Name, exit, result.Left, "")
	}
	var b strings.Builder
	printOutcome(&b, p.name, &outcome)
	out.raw(b.String())
	return outcome
}

// shower prints what a program writes, without package testing's marks.
type shower struct{ out *printer }

func (s shower) Write(data []byte) (int, error) {
	s.out.raw(strings.ReplaceAll(string(data), "\x16", ""))
	return len(data), nil
}
