package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pitvisor/pitvisor/internal/config"
	"github.com/pitvisor/pitvisor/spawn"
)

// sourceFlags say which files a configuration is made of.
type sourceFlags struct {
	file, dropIns string
}

const dropInsUsage = "`DIR` with drop-ins, or none (default: conf.d beside a file called pitvisor.toml)"

func (f *sourceFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVarP(&f.file, "file", "f", "pitvisor.toml", "configuration file")
	flags.StringVar(&f.dropIns, "config-dir", "", dropInsUsage)
}

func (f *sourceFlags) source() config.Source {
	return config.Source{File: f.file, DropIns: f.dropIns}
}

func (f *sourceFlags) load() (*config.Config, error) {
	cfg, err := f.source().Load()
	return cfg, badConfig(f.file, err)
}

// badConfig turns every problem with a configuration into a usage error.
func badConfig(file string, err error) error {
	if err == nil {
		return nil
	}
	var list config.Errors
	errors.As(err, &list)
	for _, e := range list {
		switch {
		case e.File == file && errors.Is(e, os.ErrNotExist):
			return failHint(exitUsage, err, "name a configuration with -f FILE; examples/pool/pitvisor.toml is one to start from")
		case errors.Is(e, os.ErrPermission):
			return failHint(exitUsage, err, letRead(e.File))
		}
	}
	return fail(exitUsage, err)
}

func (a *app) checkCommand() *cobra.Command {
	var f sourceFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check [-f FILE]",
		Short: "validate a configuration without starting anything",
		Long: "Validate a configuration and its drop-ins: every error with its file, line and column, all of\n" +
			"them at once; of more than 100 the rest is counted. With --json they are printed on stdout.\n" +
			"What may be different where and when it runs is a note: a program or directory that is not\n" +
			"here, a socket whose address somebody has at the moment.\n" +
			"Exit code 0 when it is good, 2 when it is not.",
		Args: takes(0, 0),
		RunE: func(*cobra.Command, []string) error { return a.check(f, asJSON) },
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

type checkedPool struct {
	Name    string   `json:"name"`
	Size    int      `json:"size"`
	Command []string `json:"command"`
}

type checkedError struct {
	File    string `json:"file"`
	Line    int    `json:"line,omitempty"` // not there if the file could not be read
	Column  int    `json:"column,omitempty"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// checked is what `check --json` prints.
type checked struct {
	Good   bool           `json:"good"`
	Name   string         `json:"name,omitempty"`
	Path   string         `json:"path,omitempty"`
	Files  []string       `json:"files,omitempty"`
	Pools  []checkedPool  `json:"pools,omitempty"`
	Errors []checkedError `json:"errors,omitempty"`
	Notes  []string       `json:"notes,omitempty"` // what is good, and could not be done now
}

func (a *app) check(f sourceFlags, asJSON bool) error {
	cfg, err := f.load()
	if err != nil {
		return a.checkFailed(err, asJSON)
	}
	out := checked{Good: true, Name: cfg.Name, Path: cfg.Path, Files: cfg.Files}
	workers := 0
	for _, p := range cfg.Pools {
		workers += p.Spec.Size
		argv := append([]string{p.Spec.Command.Path}, p.Spec.Command.Args[min(1, len(p.Spec.Command.Args)):]...)
		out.Pools = append(out.Pools, checkedPool{Name: p.Spec.Name, Size: p.Spec.Size, Command: argv})
	}
	out.Notes = append(checkPrograms(cfg), checkSockets(cfg)...)
	if asJSON {
		return a.printJSON(out)
	}
	for _, note := range out.Notes {
		fmt.Fprintf(a.stderr, "%s: note: %s\n", f.file, note)
	}
	fmt.Fprintf(a.stdout, "%s%s: good: %s, %s\n", f.file, andDropIns(cfg.Files), count(len(cfg.Pools), "pool", "pools"), count(workers, "worker", "workers"))
	return nil
}

// checkPrograms says which pools could not start here, for want of what they name.
func checkPrograms(cfg *config.Config) []string {
	var notes []string
	for _, p := range cfg.Pools {
		c := p.Spec.Command
		_, err := os.Stat(c.Dir)
		if err == nil {
			_, err = spawn.LookPath(c.Path, c.Env, c.Dir)
		}
		if err != nil {
			notes = append(notes, fmt.Sprintf("pool %s cannot start here: %v", p.Spec.Name, err))
		}
	}
	return notes
}

// andDropIns says how many files there are besides the main one.
func andDropIns(files []string) string {
	switch n := len(files) - 1; n {
	case 0:
		return ""
	case 1:
		return " and " + files[1]
	default:
		return fmt.Sprintf(" and %d drop-ins", n)
	}
}

// checkFailed prints the errors for programs, or leaves it to whoever prints errors.
func (a *app) checkFailed(err error, asJSON bool) error {
	var list config.Errors
	if !asJSON || !errors.As(err, &list) {
		return err
	}
	var out checked
	for _, e := range list {
		out.Errors = append(out.Errors, checkedError{
			File: e.File, Line: e.Line, Column: e.Column, Message: e.Msg, Hint: strings.TrimSpace(e.Hint),
		})
	}
	if err := a.printJSON(out); err != nil {
		return err
	}
	return fail(exitUsage, nil)
}
