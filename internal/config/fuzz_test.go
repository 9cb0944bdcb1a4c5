package config

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"
)

// FuzzParse: no input makes Parse panic, every error has a place in its file
// and one line, and what go-toml itself refuses is refused. What is accepted is valid
// to the schema, and means the same when it is shown and read again.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", "\ufeff", valid, valid + "size = 0\r\n", "[pool.web]\ncommand = [\"{slott}\", \"a\\u0000\"]\n",
		valid + "limits.memory.max = \"1G\"\n[pool.web.ready]\ntcp = \":{port}\"\nstdout = \"(\\\\d+)\"\n",
		valid + "env = { A = \"x\" }\nenv_file = \"/etc/hostname\"\nuser = \"root\"\ngroups = [1]\n",
		"[[pool]]\n[pool.a]\n[pool]\na.b.c = 1\na.b = 2\n", "x = [[[{a={b=[1.5, inf, 2024-01-01]}}]]]\n", "a = \"\"\"\n\n\"\"\"\n[", "\xff\xfe",
		valid + "backoff = { min = \"1min 30s\", max = \"1w\", factor = 1_0.5e1 }\nstop_signal = \"RTMIN+3\"\numask = 0o022\n",
		valid + "rlimits = { nofile = \"1:2\", core = \"infinity\" }\nlimits = { CPUQuota = \"20%\", AllowedCPUs = \"0-3\" }\n",
		"[defaults]\nsize = \"${N:-3}\"\nready.timeout = \"1s\"\n" + valid + "env = { A = \"$${X} ${LANG}\" }\n",
	} {
		f.Add([]byte(seed), []byte("[pool.web]\nsize = 2\nlimits.\"memory.max\" = 1\n[defaults]\nnice = 1\n[pool.b]\ncommand = [\"/bin/true\"]\n"))
		f.Add([]byte(seed), []byte(seed))
	}
	v := newValidator(f)
	f.Fuzz(func(t *testing.T, data, dropIn []byte) {
		files := []input{{name: "f.toml", data: data}, {name: "d.toml", data: dropIn}}
		c, e, err := parse("/x/f.toml", files, testEnviron(), true)
		if err == nil {
			checkGood(t, v, c, files)
			checkAgain(t, c, e)
			return
		}
		var errs Errors
		if !errors.As(err, &errs) || len(errs) == 0 || len(errs) > maxErrors+1 {
			t.Fatalf("parse = %T", err)
		}
		last := Place{}
		for _, e := range errs {
			checkError(t, files, e, last)
			if e.Line > 0 && (e.File == "f.toml" || e.File == "d.toml") {
				last = Place{File: e.File, Line: e.Line, Column: e.Column}
			}
		}
	})
}

// checkError looks whether an error has a place, behind that of the one before.
func checkError(t *testing.T, files []input, e *Error, last Place) {
	t.Helper()
	if strings.ContainsAny(e.Error(), "\n\x00") || len(e.Error()) > 2000 {
		t.Errorf("message %q", e.Error())
	}
	i := slices.IndexFunc(files, func(f input) bool { return f.name == e.File })
	if i < 0 || e.Line == 0 && strings.HasPrefix(e.Msg, "and ") {
		return // of an env_file, or the number of further ones
	}
	lines := bytes.Split(bytes.TrimPrefix(files[i].data, []byte("\xef\xbb\xbf")), []byte("\n"))
	if e.Line < 1 || e.Line > len(lines) || e.Column < 1 || e.Column > utf8.RuneCount(lines[e.Line-1])+1 {
		t.Errorf("%v: no such place in %q", e, files[i].data)
	}
	if last.File == e.File && (e.Line < last.Line || e.Line == last.Line && e.Column < last.Column) || last.File == "d.toml" && e.File == "f.toml" {
		t.Errorf("%v: comes after %v", e, last)
	}
}

// checkGood checks what was accepted against what is promised.
func checkGood(t *testing.T, v *validator, c *Config, files []input) {
	t.Helper()
	for _, f := range files {
		var any map[string]any
		if err := toml.Unmarshal(bytes.TrimPrefix(f.data, []byte("\xef\xbb\xbf")), &any); err != nil {
			t.Errorf("accepted, but go-toml says %v: %q", err, f.data)
			continue
		}
		if wrong := v.validate(throughJSON(t, any)); wrong != "" {
			t.Errorf("accepted, but the schema says %s: %q", wrong, f.data)
		}
	}
	if len(c.Pools) == 0 {
		t.Errorf("no pools in %v", files)
	}
	for _, p := range c.Pools {
		if p.Spec.Command.Path == "" || p.Spec.Size < 1 || p.Spec.Size > maxPoolSize || p.Spec.Stop.Signal < 1 || p.Spec.Backoff.Min > p.Spec.Backoff.Max {
			t.Errorf("spec %+v from %v", p.Spec, files)
		}
	}
}

// checkAgain reads what is shown.
func checkAgain(t *testing.T, c *Config, e *Effective) {
	t.Helper()
	text := written(e)
	again, _, err := parse(c.Path, []input{{name: "again", data: []byte(text)}}, testEnviron(), false)
	if err != nil {
		t.Fatalf("what is shown is refused: %v: %q", err, text)
	}
	if d := Diff(c, again); !d.Empty() {
		t.Errorf("what is shown means something else: %+v: %q", d, text)
	}
}
