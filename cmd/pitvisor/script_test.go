package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// TestScript runs testdata/script: what a person types, and what comes back.
// Each script has a cgroup root and directories of its own.
func TestScript(t *testing.T) {
	linuxtest.NeedCgroup2(t)
	// Once, before the scripts run side by side: a file that is open for writing when
	// another of them forks can not be executed until that child has closed it.
	bin := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\nexec '%s' \"$@\"\n", strings.Join(linuxtest.Helper(t, "pitvisor"), "' '"))
	if err := os.WriteFile(filepath.Join(bin, "pitvisor"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			tb := env.T().(testing.TB)
			env.Setenv("PITVISOR_CGROUP_ROOT", linuxtest.Cgroup(tb))
			env.Setenv("PITVISOR_STATE_DIR", filepath.Join(env.WorkDir, "state"))
			env.Setenv("PITVISOR_RUNTIME_DIR", filepath.Join(env.WorkDir, "rt"))
			env.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
			return nil
		},
	})
}
