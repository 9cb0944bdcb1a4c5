package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

const genDocsLong = `Write the man pages and the completions of this very program below DIR:
man/pitvisor.1, a page for each verb, man/pitvisor.toml.5, man/pitvisor.7, and
completions for bash, zsh and fish. This is for who makes packages.

SOURCE_DATE_EPOCH is obeyed.`

func (a *app) genDocsCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "gen-docs DIR",
		Short:  "write man pages and completions",
		Long:   genDocsLong,
		Hidden: true,
		Args:   takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			date, err := sourceDate()
			if err != nil {
				return fail(exitUsage, err)
			}
			files, err := docFiles(cmd.Root(), date)
			if err != nil {
				return fail(exitSelf, err)
			}
			return writeFiles(args[0], files)
		},
	}
}

// sourceDate is the date that generated files bear.
func sourceDate() (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		return time.Now().UTC(), nil
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH=%q is no number of seconds", text)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// docFiles are the contents of all files by their names.
func docFiles(root *cobra.Command, date time.Time) (map[string][]byte, error) {
	root.InitDefaultCompletionCmd()
	files := map[string][]byte{}
	for _, p := range manPages(root) {
		files["man/"+p.name+"."+p.section] = p.roff(date)
	}
	for name, generate := range map[string]func(io.Writer) error{
		"bash/pitvisor":      func(w io.Writer) error { return root.GenBashCompletionV2(w, true) },
		"zsh/_pitvisor":      root.GenZshCompletion,
		"fish/pitvisor.fish": func(w io.Writer) error { return root.GenFishCompletion(w, true) },
	} {
		var b bytes.Buffer
		if err := generate(&b); err != nil {
			return nil, fmt.Errorf("generate the completion %s: %w", name, err)
		}
		files["completions/"+name] = b.Bytes()
	}
	return files, nil
}

func writeFiles(dir string, files map[string][]byte) error {
	for name, data := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fail(exitSelf, err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return fail(exitSelf, err)
		}
	}
	return nil
}
