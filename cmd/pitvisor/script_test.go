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
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			tb := env.T().(testing.TB)
			env.Setenv("PITVISOR_CGROUP_ROOT", linuxtest.Cgroup(tb))
			env.Setenv("PITVISOR_STATE_DIR", filepath.Join(env.WorkDir, "state"))
			env.Setenv("PITVISOR_RUNTIME_DIR", filepath.Join(env.WorkDir, "rt"))
			bin := filepath.Join(env.WorkDir, "bin")
			env.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
			script := fmt.Sprintf("#!/bin/sh\nexec '%s' \"$@\"\n", strings.Join(linuxtest.Helper(tb, "pitvisor"), "' '"))
			if err := os.Mkdir(bin, 0o755); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(bin, "pitvisor"), []byte(script), 0o755)
		},
	})
}
