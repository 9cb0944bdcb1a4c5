package config

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/pitvisor/pitvisor/internal/envfile"
)

// defaultPath is the PATH of a worker whose supervisor has none.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// assignment is one environment variable.
type assignment = envfile.Variable

// inherit returns what of the supervisor's environment is not about the
// supervisor itself, sorted, and always a PATH.
func inherit(environ []string) []string {
	all := map[string]string{"PATH": defaultPath}
	for _, v := range environ {
		name, value, ok := strings.Cut(v, "=")
		if ok && name != "" && !private(name) && (name != "PATH" || value != "") {
			all[name] = value
		}
	}
	return joined(all)
}

// private says whether a variable is about the supervisor: a worker that took
// it for its own would notify, watch or listen in the supervisor's name.
func private(name string) bool {
	switch name {
	case "NOTIFY_SOCKET", "JOURNAL_STREAM", "INVOCATION_ID", "MAINPID":
		return true
	}
	return strings.HasPrefix(name, "WATCHDOG_") || strings.HasPrefix(name, "LISTEN_") || strings.HasPrefix(name, "PITVISOR_")
}

func joined(all map[string]string) []string {
	env := make([]string, 0, len(all))
	for name, value := range all {
		env = append(env, name+"="+value)
	}
	slices.Sort(env)
	return env
}

// environment puts a pool's environment together: inherited, then of the
// account, then of env_file, then of env.
func (d *decoder) environment(p *poolDraft) []string {
	own := make(map[string]string)
	if p.user != nil {
		if who, err := d.accounts.user(p.user.value.text); err == nil {
			own["HOME"], own["USER"], own["LOGNAME"] = who.Home, who.Name, who.Name
		}
	}
	var fromFile []assignment
	if p.envFile != nil {
		fromFile = d.readEnvFile(p.envFile)
	}
	for _, a := range slices.Concat(fromFile, p.env) {
		own[a.Name] = a.Value
	}
	if p.inherit && len(own) == 0 {
		return slices.Clip(d.inherited) // shared by all such pools
	}
	env := make([]string, 0, len(d.inherited)+len(own))
	for _, v := range d.inherited {
		name, _, _ := strings.Cut(v, "=")
		if _, replaced := own[name]; !replaced && (p.inherit || name == "PATH") {
			env = append(env, v)
		}
	}
	for name, value := range own {
		env = append(env, name+"="+value)
	}
	slices.Sort(env)
	return env
}

func setEnv(d *decoder, e *entry, p *poolDraft) {
	t, ok := d.subtable(e, `write it as a table: { NAME = "value" }`)
	if !ok {
		return
	}
	for _, v := range t.entries {
		if err := envfile.CheckName(v.name); err != nil {
			d.add(v.at, "", "variable %s in env: %v", quoted(v.name), err)
		}
	}
	for own := range d.inForce(t) {
		if envfile.CheckName(own.name) != nil {
			continue
		}
		if text, ok := d.text(own); ok {
			d.placeholders(own.value, "env")
			p.env = append(p.env, assignment{Name: own.name, Value: text})
			d.record(p.place[:len(p.place)-1]+".env]", own.name, own)
		}
	}
}

// readEnvFile reads a file of KEY=value lines. What is wrong in it is told with its own
// place, and once.
func (d *decoder) readEnvFile(e *entry) []assignment {
	at, path := e.value.at, e.value.text
	if all, known := d.envFiles[path]; known {
		return all
	}
	d.envFiles[path] = nil
	data, err := readRegular(path, 1<<20)
	if err != nil {
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		d.add(at, "", "env_file %s: %v", quoted(path), err)
		return nil
	}
	all, wrong := envfile.Parse(string(data))
	for _, w := range wrong {
		d.put(problem{at: at, other: &Error{File: path, Line: w.Line, Column: w.Column, Msg: w.Err.Error()}})
	}
	d.envFiles[path] = all
	return all
}

// readRegular reads a file, but nothing that may block, such as a FIFO.
func readRegular(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errNotRegular
	}
	data, _, err := readFile(path, limit)
	return data, err
}
