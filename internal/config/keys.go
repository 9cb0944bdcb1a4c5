package config

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/pitvisor/pitvisor/resource"
	"github.com/pitvisor/pitvisor/spawn"
	"github.com/pitvisor/pitvisor/supervise"
)

// tables are the keys of every table that a file may have. They are at once what
// the decoder goes by and the reference from which docs/config.md is made.
type tables struct {
	top     []key[*Config]
	log     []key[*Log]
	api     []key[*API]
	socket  []key[*socketDraft]
	pool    []key[*poolDraft]
	backoff []key[*poolDraft]
	live    []key[*liveDraft]
	rollout []key[*rolloutDraft]
	recycle []key[*recycleDraft]

	pressure    []key[*pressureDraft]
	run         []key[*supervise.RunSpec]
	runPressure []key[*pressureDraft]

	ready   []key[*readyDraft]
	limits  []key[*resource.Limits]
	rlimits []key[*[]spawn.Rlimit]
}

func newTables() tables {
	return tables{
		top: append(topKeys(), tableKeys()...), log: logKeys(), api: apiKeys(), socket: socketKeys(), pool: poolKeys(), backoff: backoffKeys(), ready: readyKeys(),
		limits: limitKeys(), rlimits: rlimitKeys(), live: liveKeys(), rollout: rolloutKeys(), recycle: recycleKeys(),
		pressure: poolPressureKeys(), run: runKeys(), runPressure: pressureKeys([]string{"host", "run", "both"}),
	}
}

func defaultLog() Log {
	return Log{Level: "info", Format: "auto", MaxSize: 16 << 20, Keep: 10, Show: ShowText, Rotate: Rotate{Keep: 2}}
}

func topKeys() []key[*Config] {
	return []key[*Config]{
		{
			Name: "name", Type: "string", Default: "the file's name without its ending",
			Meaning: "Name of this set of pools, shown by `pitvisor ps`. Up to 63 of a-z, A-Z, 0-9, `.`, `_` and `-`.",
			Example: `name = "shop"`,
			schema:  orVariable(schema{"type": "string", "pattern": "^[a-zA-Z0-9._-]{1,63}$"}),
			set: func(d *decoder, e *entry, c *Config) {
				if s, ok := d.nonEmpty(e); ok && d.plainName(e, s) {
					c.Name = s
				}
			},
		},
		{
			Name: "state_dir", Type: "path", Default: "`/var/lib/pitvisor` for root, else `$XDG_STATE_HOME/pitvisor`",
			Meaning: "Where output and history are kept. It must be on a local file system. A relative path starts at the directory of the main file.",
			Example: `state_dir = "/srv/pitvisor"`,
			set: func(d *decoder, e *entry, c *Config) {
				if s, ok := d.nonEmpty(e); ok {
					e.value.text = d.path(s)
					c.StateDir = e.value.text
				}
			},
		},
	}
}

// tableKeys are the tables of a file.
func tableKeys() []key[*Config] {
	return []key[*Config]{
		{
			Name: "log", Type: "table", Default: "", Meaning: "The supervisor's own log and the output of workers; see [log].",
			Example: "[log]",
			set: func(d *decoder, e *entry, c *Config) {
				if t, ok := d.subtable(e, "write [log]"); ok {
					decodeTable(d, t, "[log]", d.tables.log, &c.Log)
				}
			},
		},
		apiTable(),
		socketTable(),
		runTable(),
		{
			Name: "defaults", Type: "table", Default: "", Meaning: "What the pools of this file have unless they say otherwise; see [defaults].",
			Example: "[defaults]", alone: true,
			set: func(d *decoder, e *entry, _ *Config) {
				if t, ok := d.subtable(e, "write [defaults]"); ok {
					d.defaults(t)
				}
			},
		},
		{
			Name: "pool", Type: "tables", Default: "", Meaning: "One table for each pool; see [pool.NAME]. There must be at least one, in this file or a drop-in.",
			Example: "[pool.web]",
			set: func(d *decoder, e *entry, c *Config) {
				if t, ok := d.subtable(e, "write [pool.NAME]"); ok {
					d.pools(t, c)
				}
			},
		},
	}
}

func logKeys() []key[*Log] {
	levels, formats := []string{"debug", "info", "warn", "error"}, []string{"auto", "text", "json", "journal"}
	return append([]key[*Log]{
		oneWord(key[*Log]{
			Name: "level", Default: "`\"info\"`",
			Meaning: "The least important messages of the supervisor that are shown.",
			Example: `level = "debug"`,
		}, levels, func(l *Log, i int) { l.Level = levels[i] }),
		oneWord(key[*Log]{
			Name: "format", Default: "`\"auto\"`",
			Meaning: "How they are written. `auto` is text on a terminal, journal fields under systemd, and JSON elsewhere.",
			Example: `format = "json"`,
		}, formats, func(l *Log, i int) { l.Format = formats[i] }),
		{
			Name: "max_size", Type: "size", Default: "`\"16M\"`",
			Meaning: "How many of the newest bytes of each output stream of each worker are in its file for sure. When the file is twice as large the older half is rotated: moved to a file of its own. See docs/logs.md.",
			Example: `max_size = "64M"`,
			set: func(d *decoder, e *entry, l *Log) {
				if n, ok := d.size(e, 64<<10, 1<<40); ok {
					l.MaxSize = n
				}
			},
		},
		whole(key[*Log]{
			Name: "keep", Default: "`10`",
			Meaning: "How many runs that are over keep their output.",
			Example: `keep = 3`,
		}, 0, 100_000, func(l *Log, n int) { l.Keep = n }),
	}, outputKeys()...)
}

func oneOfType(words []string) string {
	return "`\"" + strings.Join(words, "\"`, `\"") + "\"`"
}

// decodeFile fills c from the tree of the whole file.
func (d *decoder) decodeFile(root *table, c *Config) {
	decodeTable(d, root, wholeFile, d.tables.top, c)
	d.finishSockets(c)
	if !d.truncated && root.byName["pool"] == nil {
		d.add(root.at, `begin with [pool.NAME] and a command = ["..."]`, "no [pool.NAME] table")
	}
}

// defaults looks at a table of defaults by itself, so that what is wrong with it is
// told once and also if no pool has it.
func (d *decoder) defaults(t *table) {
	p := &poolDraft{place: "[defaults]", partial: true}
	tracing := d.settings
	d.settings = nil
	d.once(func() { decodeTable(d, t, p.place, d.tables.pool, p) })
	d.settings = tracing
}

// pools decodes every [pool.NAME].
func (d *decoder) pools(t *table, c *Config) {
	if len(t.entries) == 0 {
		d.add(t.at, `write [pool.NAME] and a command = ["..."]`, "no pool in this table")
	}
	var names []string
	for _, e := range t.entries {
		if e.kind != kindTable {
			d.add(e.at, "a pool has a name: [pool.NAME]", "unknown key %s in [pool]", quoted(e.name))
			continue
		}
		names = append(names, e.name)
		if d.poolName(e) {
			c.Pools = append(c.Pools, d.pool(e))
		}
	}
	d.finishAfter(names, c.Pools)
}

// poolName refuses a name that cannot be a directory, a label and a word in a command line alike.
func (d *decoder) poolName(e *entry) bool { return d.nameOfTable(e, "pool") }

// nameOfTable refuses a bad name of a pool or a socket.
func (d *decoder) nameOfTable(e *entry, what string) bool {
	const hint = `write a name such as "web" or "web-2"`
	if len(e.name) > maxPoolNameLen {
		d.add(e.at, hint, "%s name %s is too long: at most %d bytes", what, quoted(e.name), maxPoolNameLen)
		return false
	}
	if e.name == "" {
		d.add(e.at, hint, "%s name is empty", what)
		return false
	}
	for i, r := range e.name {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', i > 0 && (r == '-' || r == '_'):
		case r >= 'A' && r <= 'Z':
			d.add(e.at, fmt.Sprintf("write %q", strings.ToLower(e.name)), "%s name %s has a capital letter", what, quoted(e.name))
			return false
		default:
			d.add(e.at, hint, "%s name %s has %q at character %d: allowed are a-z, 0-9, and after the first also - and _", what, quoted(e.name), r, i+1)
			return false
		}
	}
	return true
}

// plainName refuses what would need quoting somewhere.
func (d *decoder) plainName(e *entry, s string) bool {
	bad := strings.IndexFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '.' && r != '_' && r != '-'
	})
	if bad >= 0 || len(s) > 63 || s == "." || s == ".." {
		d.add(e.value.at, "", "%s is %s: allowed are up to 63 of a-z, A-Z, 0-9, dot, _ and -", bareKey(e.name), quoted(s))
		return false
	}
	return true
}

// path makes a path absolute, starting at the directory of the file.
func (d *decoder) path(s string) string {
	if filepath.IsAbs(s) {
		return filepath.Clean(s)
	}
	return filepath.Join(d.dir, s)
}

const wholeFile = "the file" // how messages call the top level

const maxWait = 30 * 24 * time.Hour // the longest of the times that are not infinite
