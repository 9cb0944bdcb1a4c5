package config

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"
)

// FuzzParse: no input makes Parse panic, every error has a place in the file
// and one line, and what go-toml itself refuses is refused.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", "\ufeff", valid, valid + "size = 0\r\n", "[pool.web]\ncommand = [\"{slott}\", \"a\\u0000\"]\n",
		valid + "limits.memory.max = \"1G\"\n[pool.web.ready]\ntcp = \":{port}\"\nstdout = \"(\\\\d+)\"\n",
		valid + "env = { A = \"x\" }\nenv_file = \"/etc/hostname\"\nuser = \"root\"\ngroups = [1]\n",
		"[[pool]]\n[pool.a]\n[pool]\na.b.c = 1\na.b = 2\n", "x = [[[{a={b=[1.5, inf, 2024-01-01]}}]]]\n", "a = \"\"\"\n\n\"\"\"\n[", "\xff\xfe",
		valid + "backoff = { min = \"1min 30s\", max = \"1w\", factor = 1_0.5e1 }\nstop_signal = \"RTMIN+3\"\numask = 0o022\n",
		valid + "rlimits = { nofile = \"1:2\", core = \"infinity\" }\nlimits = { CPUQuota = \"20%\", AllowedCPUs = \"0-3\" }\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parse("f.toml", data, testEnviron())
		if err == nil {
			checkGood(t, c, data)
			return
		}
		var errs Errors
		if !errors.As(err, &errs) || len(errs) == 0 {
			t.Fatalf("parse = %T", err)
		}
		lines := bytes.Split(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")), []byte("\n"))
		line, column := 0, 0
		for _, e := range errs {
			if e.File != "f.toml" {
				continue // of an env_file
			}
			if e.Line < 1 || e.Line > len(lines) || e.Column < 1 || e.Column > utf8.RuneCount(lines[e.Line-1])+1 {
				t.Errorf("%v: no such place in %q", e, data)
			}
			if e.Line < line || e.Line == line && e.Column < column {
				t.Errorf("%v: comes after %d:%d in %q", e, line, column, data)
			}
			if line, column = e.Line, e.Column; strings.ContainsAny(e.Error(), "\n\x00") || len(e.Error()) > 2000 {
				t.Errorf("message %q", e.Error())
			}
		}
	})
}

// checkGood checks what was accepted against what is promised.
func checkGood(t *testing.T, c *Config, data []byte) {
	t.Helper()
	var any map[string]any
	if err := toml.Unmarshal(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")), &any); err != nil {
		t.Errorf("accepted, but go-toml says %v: %q", err, data)
	}
	if len(c.Pools) == 0 {
		t.Errorf("no pools in %q", data)
	}
	for _, p := range c.Pools {
		if p.Spec.Command.Path == "" || p.Spec.Size < 1 || p.Spec.Size > maxPoolSize || p.Spec.Stop.Signal < 1 || p.Spec.Backoff.Min > p.Spec.Backoff.Max {
			t.Errorf("spec %+v from %q", p.Spec, data)
		}
	}
}
