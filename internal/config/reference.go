package config

// Manual is what there is to know about the file, for pages that people read. Its
// texts are Markdown of the plainest kind: paragraphs, lists, `code` and **stress**.
type Manual struct {
	Intro    string
	Example  string // a file
	Sections []Section
}

// Section is one table of the file, or what is to be said of all of it.
type Section struct {
	Title string // as the table is written: "[log]"
	Intro string // may be ""
	Keys  []Key  // none if it is not about one table
}

// Key is one key of a table.
type Key struct {
	Names                           []string // the usual spelling first
	Type, Default, Meaning, Example string
}

// Reference describes every key that the decoder knows, from the tables that it goes
// by.
func Reference() Manual {
	t := newTables()
	return Manual{
		Intro: "The file is TOML. Whatever pitvisor does not know in it is an error with line,\n" +
			"column and a hint, and all errors are reported together (of more than 100 the\n" +
			"rest is counted). `pitvisor check` reads the file and starts nothing (a program or\n" +
			"directory that is not there is a note: it may be where the file is for), `pitvisor\n" +
			"config show` prints the result with where each value is from, `pitvisor config\n" +
			"diff` compares two, and `pitvisor config schema` prints a JSON Schema for editors.\n\n" +
			"- A **duration** is a string such as `\"10s\"`, `\"1m30s\"` or `\"1min 30s\"`; a number without a unit is refused.\n" +
			"- A **size** is a number of bytes or a string such as `\"512K\"`, `\"64M\"`, `\"1.5G\"` or `\"1GiB\"`; K is 1024.\n" +
			"- A **path** that is relative starts at the directory of the file, for drop-ins as well: of the main file.\n",
		Example: `[pool.web]
command = ["python3", "server.py", "--name", "{worker}"]
size = 4
stop_grace = "30s"
limits = { MemoryMax = "512M", TasksMax = 64 }

[pool.web.ready]
http = "http://127.0.0.1:{port}/health"
port = 8000
`,
		Sections: []Section{
			{Title: "Drop-ins", Intro: dropInsText},
			{Title: "Variables", Intro: variablesText},
			section("Top level", "", t.top),
			section("[log]", "", t.log),
			section("[api]", "The socket that `pitvisor status` and other programs use: docs/api.md.", t.api),
			section("[run]", "", t.run),
			section("[run.pressure]", "Of what is set here events tell, and nothing follows: see docs/pressure.md.", t.runPressure),
			section("[socket.NAME]", "A listening socket that the supervisor owns, so that a restart of workers drops no connection. NAME is as that of a pool, and is what workers find in `LISTEN_FDNAMES`. How they are kept, and what to do in a worker: docs/sockets.md.", t.socket),
			{Title: "[defaults]", Intro: defaultsText},
			section("[pool.NAME]", "A pool is a number of workers that run the same command. NAME is up to 63 of a-z, 0-9, `_` and `-`, and begins with a letter or a digit.", t.pool),
			section("[pool.NAME.backoff]", "How long to wait before a worker is started again.", t.backoff),
			section("[pool.NAME.rollout]", "How many workers are replaced at a time when a pool is restarted or reloaded, or workers are recycled. A new worker counts when it is ready.", t.rollout),
			section("[pool.NAME.recycle]", "A ready worker that has lived long enough is replaced as in a rollout: the new one comes first, as [pool.NAME.rollout] allows.", t.recycle),
			section("[pool.NAME.pressure]", "What a pool does while programs wait for a resource too much of the time, as the kernel's pressure stall information has it. At least one resource must be named. Where the kernel keeps no pressure, or does not let us watch it, `limits_mode` decides.", t.pressure),
			section("[pool.NAME.limits]", "Limits of the kernel's cgroup v2 controllers, under the kernel's names, systemd's, or the kernel's with underscores. `[pool.NAME.pool_limits]` has the same keys. Values that are not numbers are strings. A disk is given by its numbers, by its node, or by a file on it; for several disks, write a list of strings. Where a controller is missing, as on hybrid hosts, `limits_mode` decides.", t.limits),
			section("[pool.NAME.rlimits]", "setrlimit(2), under its own names or systemd's. One value sets the soft and the hard limit.", t.rlimits),
			section("[pool.NAME.ready]", "A worker is ready when every rule that is set has held for this very start. Rules are waited for one after the other: `notify`, `fd`, `file`, `stdout`, `stderr`, then `tcp`, `http`, `grpc`, then `exec`.", t.ready),
			section("[pool.NAME.live]", "Whether a ready worker is well is another question than whether it is ready. Every `period` all rules that are set are checked; a worker of which `failures` checks in a row have failed is restarted. Some rules ask, others are heartbeats that must have come since the check before.", t.live),
		},
	}
}

func section[T any](title, intro string, keys []key[T]) Section {
	s := Section{Title: title, Intro: intro}
	for _, k := range keys {
		s.Keys = append(s.Keys, Key{
			Names: append([]string{k.Name}, k.Also...),
			Type:  k.Type, Default: k.Default, Meaning: k.Meaning, Example: k.Example,
		})
	}
	return s
}

const dropInsText = "Beside a file called `pitvisor.toml` the directory `conf.d` is read, if there is one:\n" +
	"all its `*.toml`, in the order of their names, after the main file. A file of\n" +
	"another name has no drop-ins, so that several may lie in one directory.\n" +
	"`--config-dir DIR` (or `PITVISOR_CONFIG_DIR`) names another directory, for any file;\n" +
	"`--config-dir none` reads the main file alone.\n\n" +
	"- A drop-in has the same keys. It may bring pools of its own, and it may change those of earlier files: it names just the keys that are to be different.\n" +
	"- Of a key that several files set, the last one holds. Tables are joined key by key; lists are replaced as a whole. Other spellings of a key are the same key.\n" +
	"- A key can not be taken away, only set to something else.\n" +
	"- A value that is replaced must be right as well, but the users, files, programs and variables that it names need not exist.\n" +
	"- Names that begin with a dot or end in something else than `.toml` are left out: what editors and package managers put there.\n" +
	"- The directory and the files must belong to root, to the user who starts pitvisor or to the owner of the main file, and not everybody may be allowed to write to them, unless that is so of the main file too. A link is followed, and what it leads to is looked at.\n"

const variablesText = "In every string that is a value, `${NAME}` is replaced by that variable of pitvisor's\n" +
	"own environment, once, when the file is read. `${NAME:-default}` is the default where\n" +
	"the variable is not set or empty; without a default a variable that is not set is an\n" +
	"error. `$${` is the two characters `${`, for shells: `[\"sh\", \"-c\", \"cd $${HOME}\"]`. Any\n" +
	"other dollar sign is itself: `$HOME`, `$$` and `$(date)` reach the shell as they are.\n\n" +
	"- Names of keys and tables are not looked at, nor is `env_file`'s content.\n" +
	"- What comes out is not looked at again, and a default holds no braces.\n" +
	"- Numbers and booleans may be given so, too: `size = \"${WORKERS:-4}\"`.\n" +
	"- A worker's own `PITVISOR_PORT` and the like are not known yet when the file is read; `{slot}`, `{worker}` and so on are replaced at each start.\n"

const defaultsText = "`[defaults]` has the keys of [pool.NAME] and says what the pools of the same file have\n" +
	"unless they say otherwise. Tables are joined key by key: a pool has the `env` of both.\n" +
	"The pools of a file are those that it is the first to name: a drop-in that changes a\n" +
	"pool of the main file leaves it the defaults of the main file. `port`, `interval`,\n" +
	"`timeout` and `grpc_service` of `[defaults.ready]` alone make no rule: a pool without\n" +
	"one is still ready as soon as it runs.\n"
