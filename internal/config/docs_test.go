package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// docs/config.md is made of the tables that the decoder goes by. To write it
// again: PITVISOR_WRITE_DOCS=1 go test ./internal/config -run Reference
func TestReferenceIsUpToDate(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "config.md")
	want := reference()
	if os.Getenv("PITVISOR_WRITE_DOCS") != "" {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("%s is not what the tables say (%v); write it again with PITVISOR_WRITE_DOCS=1", path, err)
	}
}

// Every example is accepted where it belongs, and every default is what leaving the key out gives.
func TestExamplesAreAccepted(t *testing.T) {
	tables := newTables()
	accept := func(key, text string) {
		t.Helper()
		for _, e := range errorsOf(t, text) {
			// What is on this machine and how keys go together is not the example's fault.
			if !strings.Contains(e, "unknown user") && !strings.Contains(e, "unknown group") && !strings.Contains(e, "no such file") &&
				!strings.Contains(e, ".ready]:") && !strings.Contains(e, "is not in PATH") {
				t.Errorf("the example of %s is refused: %s", key, e)
			}
		}
	}
	for _, k := range tables.top {
		if k.Name != "pool" {
			accept(k.Name, k.Example+"\n"+valid)
		}
	}
	for _, k := range tables.log {
		accept(k.Name, valid+"[log]\n"+k.Example+"\n")
	}
	for _, k := range tables.pool {
		text := valid
		if k.Name == "command" {
			text = "[pool.web]\n"
		}
		accept(k.Name, text+k.Example+"\n")
	}
	for _, k := range tables.backoff {
		accept(k.Name, valid+"[pool.web.backoff]\n"+k.Example+"\n")
	}
	for _, k := range tables.limits {
		accept(k.Name, valid+"[pool.web.limits]\n"+k.Example+"\n")
	}
	for _, k := range tables.rlimits {
		accept(k.Name, valid+"[pool.web.rlimits]\n"+k.Example+"\n")
	}
	for _, k := range tables.ready {
		accept(k.Name, valid+"[pool.web.ready]\n"+k.Example+"\n")
	}
}

func reference() string {
	var b strings.Builder
	t := newTables()
	b.WriteString(`# pitvisor.toml

This page is made from the tables in internal/config that the decoder goes by; a
test holds the two equal.

The file is TOML. Whatever pitvisor does not know in it is an error with line,
column and a hint, and all errors are reported together; ` + "`pitvisor check`" + ` reads
the file and starts nothing.

- A **duration** is a string such as ` + "`\"10s\"`, `\"1m30s\"` or `\"1min 30s\"`" + `; a number without a unit is refused.
- A **size** is a number of bytes or a string such as ` + "`\"512K\"`, `\"64M\"`, `\"1.5G\"` or `\"1GiB\"`" + `; K is 1024.
- A **path** that is relative starts at the directory of the file.

` + "```toml" + `
[pool.web]
command = ["python3", "server.py", "--name", "{worker}"]
size = 4
stop_grace = "30s"
limits = { MemoryMax = "512M", TasksMax = 64 }

[pool.web.ready]
http = "http://127.0.0.1:{port}/health"
port = 8000
` + "```" + `

`)
	section(&b, "Top level", "", t.top)
	section(&b, "[log]", "", t.log)
	section(&b, "[pool.NAME]", "A pool is a number of workers that run the same command. NAME is up to 63 of a-z, 0-9, `_` and `-`, and begins with a letter or a digit.", t.pool)
	section(&b, "[pool.NAME.backoff]", "How long to wait before a worker is started again.", t.backoff)
	section(&b, "[pool.NAME.limits]", "Limits of the kernel's cgroup v2 controllers, under the kernel's names, systemd's, or the kernel's with underscores. `[pool.NAME.pool_limits]` has the same keys. Values that are not numbers are strings. A disk is given by its numbers, by its node, or by a file on it; for several disks, write a list of strings. Where a controller is missing, as on hybrid hosts, `limits_mode` decides.", t.limits)
	section(&b, "[pool.NAME.rlimits]", "setrlimit(2), under its own names or systemd's. One value sets the soft and the hard limit. Setting any makes each start several times as expensive.", t.rlimits)
	section(&b, "[pool.NAME.ready]", "A worker is ready when every rule that is set has held for this very start. Rules are waited for one after the other: `notify`, `fd`, `file`, `stdout`, `stderr`, then `tcp`, `http`, `grpc`, then `exec`.", t.ready)
	return strings.TrimSuffix(b.String(), "\n")
}

func section[T any](b *strings.Builder, title, intro string, keys []key[T]) {
	fmt.Fprintf(b, "## %s\n\n", title)
	if intro != "" {
		fmt.Fprintf(b, "%s\n\n", intro)
	}
	b.WriteString("| key | type | default | meaning | example |\n|---|---|---|---|---|\n")
	cell := func(s string) string { return strings.ReplaceAll(strings.ReplaceAll(s, "|", `\|`), "\n", " ") }
	for _, k := range keys {
		name := "`" + k.Name + "`"
		for _, also := range k.Also {
			name += ", `" + also + "`"
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s | `%s` |\n", name, cell(k.Type), cell(k.Default), cell(k.Meaning), cell(k.Example))
	}
	b.WriteString("\n")
}
