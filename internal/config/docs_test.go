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
				!strings.Contains(e, ".ready]:") && !strings.Contains(e, ".live]:") && !strings.Contains(e, "became ready") && !strings.Contains(e, "which there is not") && !strings.Contains(e, "is not in PATH") {
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
	for _, k := range tables.api {
		accept(k.Name, valid+"[api]\n"+k.Example+"\n")
	}
	for _, k := range tables.socket {
		text := "listen = \"/run/x.sock\"\n"
		if k.Name == "listen" || k.Name == "fd" {
			text = ""
		}
		accept(k.Name, valid+"[socket.web]\n"+text+k.Example+"\n")
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
	for _, k := range tables.rollout {
		accept(k.Name, valid+"[pool.web.rollout]\n"+k.Example+"\n")
	}
	for _, k := range tables.recycle {
		accept(k.Name, valid+"[pool.web.recycle]\n"+k.Example+"\n")
	}
	for _, k := range tables.pressure {
		accept(k.Name, valid+pressureLine(k, "[pool.web.pressure]\n"))
	}
	for _, k := range tables.runPressure {
		accept(k.Name, valid+pressureLine(k, "[run.pressure]\n"))
	}
	for _, k := range tables.run {
		accept(k.Name, valid+"[run]\n"+k.Example+"\n")
	}
	for _, k := range tables.live {
		accept(k.Name, valid+"[pool.web.live]\n"+k.Example+"\n")
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

// pressureLine is the example of a key, with what must stand beside it.
func pressureLine(k key[*pressureDraft], table string) string {
	text := table + k.Example + "\n"
	if k.Name != "memory" {
		text += "memory = 30\n"
	}
	action := map[string]string{"priority": "freeze", "min_size": "shrink"}[k.Name]
	switch {
	case table == "[run.pressure]\n", k.Name == "action":
		return text
	case k.Name == "min_size":
		text = "size = 4\n" + text
	case action == "":
		action = "freeze"
	}
	return text + "action = \"" + action + "\"\n"
}

func reference() string {
	var b strings.Builder
	manual := Reference()
	fmt.Fprintf(&b, "# pitvisor.toml\n\nThis page is made from the tables in internal/config that the decoder goes by; a\n"+
		"test holds the two equal.\n\n%s\n```toml\n%s```\n\n", manual.Intro, manual.Example)
	for _, s := range manual.Sections {
		writeSection(&b, s)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func writeSection(b *strings.Builder, s Section) {
	fmt.Fprintf(b, "## %s\n\n", s.Title)
	if s.Intro != "" {
		fmt.Fprintf(b, "%s\n\n", strings.TrimSuffix(s.Intro, "\n"))
	}
	if len(s.Keys) == 0 {
		return
	}
	b.WriteString("| key | type | default | meaning | example |\n|---|---|---|---|---|\n")
	cell := func(s string) string { return strings.ReplaceAll(strings.ReplaceAll(s, "|", `\|`), "\n", " ") }
	for _, k := range s.Keys {
		fmt.Fprintf(b, "| `%s` | %s | %s | %s | `%s` |\n", strings.Join(k.Names, "`, `"),
			cell(k.Type), cell(k.Default), cell(k.Meaning), cell(k.Example))
	}
	b.WriteString("\n")
}
