package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pitvisor/pitvisor/spawn"
	"github.com/pitvisor/pitvisor/supervise"
	"golang.org/x/sys/unix"
)

// poolDraft is a pool while its table is being read. What depends on several
// keys is put together at the end, so the keys may come in any order.
type poolDraft struct {
	Pool
	at      int // of the name
	place   string
	sizeAt  int
	command []*value
	partial bool // these are [defaults]: nothing has to be complete

	inherit     bool
	env         []assignment
	envFile     *entry
	journal     *entry
	user, group *entry
	groups      *entry
	ready       *readyDraft
	live        *liveDraft
	after       []dependency
	sockets     []*value
	minSize     *entry
}

func newPoolDraft(e *entry) *poolDraft {
	p := &poolDraft{at: e.at, place: fmt.Sprintf("[pool.%s]", e.name), sizeAt: e.at, inherit: true}
	p.Output = OutputFile
	p.Spec = supervise.PoolSpec{
		Name:         e.name,
		Size:         1,
		Backoff:      supervise.Backoff{Min: 100 * time.Millisecond, Max: 30 * time.Second, Factor: 2, Jitter: 0.2, Reset: 10 * time.Second, Free: 2},
		Stop:         supervise.Stop{Signal: unix.SIGTERM, Grace: 10 * time.Second},
		StartTimeout: 60 * time.Second,
	}
	return p
}

// pool decodes one [pool.NAME].
func (d *decoder) pool(e *entry) Pool {
	p := newPoolDraft(e)
	decodeTable(d, e.table, p.place, d.tables.pool, p)
	d.countWorkers(p)
	d.finishCommand(p, e.table.byName["command"] != nil)
	d.finishCredential(p)
	d.finishReady(p)
	d.finishLive(p)
	d.finishOutput(p)
	d.finishInherit(p)
	d.finishPressure(p)
	for _, dep := range p.after {
		p.Spec.After = append(p.Spec.After, dep.Dependency)
	}
	d.dependencies = append(d.dependencies, p.after...)
	return p.Pool
}

// countWorkers bounds the workers of all pools together, and tells of it once.
func (d *decoder) countWorkers(p *poolDraft) {
	before := d.workers
	d.workers += p.Spec.Size
	if before <= maxWorkers && d.workers > maxWorkers {
		d.add(p.sizeAt, "make pools smaller, or use several files", "more than %d workers with this pool", maxWorkers)
	}
}

// finishCommand needs the environment, because a program is looked up in the worker's own PATH.
func (d *decoder) finishCommand(p *poolDraft, given bool) {
	p.Spec.Command.Env = d.environment(p)
	if p.Spec.Command.Dir == "" {
		p.Spec.Command.Dir = d.dir
	}
	if len(p.command) == 0 {
		if !given && !d.truncated {
			d.add(p.at, `add command = ["program", "argument"]`, "pool %q has no command", p.Spec.Name)
		}
		return
	}
	p.Spec.Command.Args = texts(p.command)
	p.Spec.Command.Path = d.program(p.command[0], p.Spec.Command.Env)
}

// program finds a bare name in the PATH of env, or reports that it is not there.
// Whether a path leads to a program is seen when it is started.
func (d *decoder) program(name *value, env []string) string {
	if strings.Contains(name.text, "/") {
		return name.text
	}
	path := ""
	if i := slices.IndexFunc(env, func(v string) bool { return strings.HasPrefix(v, "PATH=") }); i >= 0 {
		path = env[i]
	}
	id := name.text + "\x00" + path
	found, ok := d.programs[id]
	if !ok {
		found.value, found.err = spawn.LookPath(name.text, env, d.dir)
		d.programs[id] = found
	}
	var e *spawn.Error
	switch {
	case found.err == nil:
	case errors.As(found.err, &e) && e.Cause == spawn.CauseNotExecutable:
		d.add(name.at, e.Hint(), "program %s: %s is not executable", quoted(name.text), e.Path)
	default:
		d.add(name.at, "write the whole path, or set PATH in env", "program %s is not in %s", quoted(name.text), path)
	}
	return found.value
}

// poolKeys are the keys of [pool.NAME], in the order of the reference.
func poolKeys() []key[*poolDraft] {
	var all []key[*poolDraft]
	for _, part := range [][]key[*poolDraft]{commandKeys(), envKeys(), identityKeys(), processKeys(), confinementKeys(), limitTableKeys(), inheritKeys(), poolsTogetherKeys(), restartKeys(), lifeKeys(), stopKeys()} {
		all = append(all, part...)
	}
	return all
}

func commandKeys() []key[*poolDraft] {
	return []key[*poolDraft]{
		{
			Name: "command", Type: "list of strings", Default: "required",
			Meaning: "Program and arguments, passed on as they are: no shell, no quoting (put a shell in front if you want one). A program without a slash is looked up in the worker's `PATH` when the file is read; one with a slash is relative to `directory`. In the arguments `{pool}`, `{slot}` (from 0), `{worker}` (`web/3`), `{start}` and `{run}` are replaced at each start.",
			Example: `command = ["python3", "server.py", "--name", "{worker}"]`,
			set:     setCommand,
		},
		{
			Name: "size", Type: "whole number", Default: "`1`",
			Meaning: fmt.Sprintf("How many workers, 1 to %d; all pools together have at most %d.", maxPoolSize, maxWorkers),
			Example: `size = 8`,
			schema:  wholeSchema(1, maxPoolSize),
			set: func(d *decoder, e *entry, p *poolDraft) {
				if n, ok := d.whole(e, 1, maxPoolSize); ok {
					p.Spec.Size, p.sizeAt = int(n), e.value.at
				}
			},
		},
		{
			Name: "directory", Type: "path", Default: "the directory of the main file",
			Meaning: "Working directory. A relative path starts at the directory of the main file.",
			Example: `directory = "/srv/shop"`,
			set: func(d *decoder, e *entry, p *poolDraft) {
				if s, ok := d.nonEmpty(e); ok && d.noPlaceholder(e.value, "directory") {
					e.value.text = d.path(s)
					p.Spec.Command.Dir = e.value.text
				}
			},
		},
	}
}

func envKeys() []key[*poolDraft] {
	return []key[*poolDraft]{
		{
			Name: "env", Type: "table of strings", Default: "empty",
			Meaning: "Environment variables; they win over `env_file` and the inherited ones. The placeholders of `command` are replaced in the values. Names that begin with `PITVISOR_` are the supervisor's.",
			Example: `env = { PORT_BASE = "8000", NAME = "{worker}" }`,
			set:     setEnv,
		},
		{
			Name: "env_file", Type: "path", Default: "none",
			Meaning: "File of `KEY=value` lines, read when the configuration is. Empty lines and lines that begin with `#` are skipped. A value may stand in single quotes (as it is) or double quotes (with `\\n`, `\\t`, `\\\"`, `\\\\` and `\\$`).",
			Example: `env_file = "shop.env"`,
			set: func(d *decoder, e *entry, p *poolDraft) {
				if s, ok := d.nonEmpty(e); ok {
					e.value.text = d.path(s)
					p.envFile = e
				}
			},
		},
		yesNo(key[*poolDraft]{
			Name: "inherit_env", Default: "`true`",
			Meaning: "Whether workers get the supervisor's environment. What belongs to the supervisor alone is left out: `NOTIFY_SOCKET`, `WATCHDOG_*`, `LISTEN_*`, `JOURNAL_STREAM`, `INVOCATION_ID`, `MAINPID` and `PITVISOR_*`. With `false` they get only `PATH`.",
			Example: `inherit_env = false`,
		}, func(p *poolDraft, b bool) { p.inherit = b }),
	}
}

func setCommand(d *decoder, e *entry, p *poolDraft) {
	items, ok := d.list(e, "write it as a list: "+listOf(e.value.text))
	if !ok {
		return
	}
	switch {
	case len(items) == 0:
		d.add(e.value.at, `write command = ["program", "argument"]`, "command is empty")
	case items[0].text == "":
		d.add(items[0].at, "", "command has an empty program name")
	case !d.noPlaceholder(items[0], "the program's name"):
	default:
		for _, item := range items[1:] {
			d.placeholders(item, "command")
		}
		p.command = items
	}
}

// listOf writes a command line as the list that was probably meant.
func listOf(line string) string {
	if strings.ContainsAny(line, "|&;<>()$`\\\"'*?[]#~=%{}\n") {
		return fmt.Sprintf(`["/bin/sh", "-c", %q]`, line)
	}
	words := strings.Fields(line)
	for i, w := range words {
		words[i] = fmt.Sprintf("%q", w)
	}
	return "[" + strings.Join(words, ", ") + "]"
}
