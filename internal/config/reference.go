package config

// Manual is what there is to know about the file, for pages that people read. Its
// texts are Markdown of the plainest kind: paragraphs, lists, `code` and **stress**.
type Manual struct {
	Intro    string
	Example  string // a file
	Sections []Section
}

// Section is one table of the file.
type Section struct {
	Title string // as the table is written: "[log]"
	Intro string // may be ""
	Keys  []Key
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
			"column and a hint, and all errors are reported together; `pitvisor check` reads\n" +
			"the file and starts nothing.\n\n" +
			"- A **duration** is a string such as `\"10s\"`, `\"1m30s\"` or `\"1min 30s\"`; a number without a unit is refused.\n" +
			"- A **size** is a number of bytes or a string such as `\"512K\"`, `\"64M\"`, `\"1.5G\"` or `\"1GiB\"`; K is 1024.\n" +
			"- A **path** that is relative starts at the directory of the file.\n",
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
			section("Top level", "", t.top),
			section("[log]", "", t.log),
			section("[api]", "The socket that `pitvisor status` and other programs use: docs/api.md.", t.api),
			section("[pool.NAME]", "A pool is a number of workers that run the same command. NAME is up to 63 of a-z, 0-9, `_` and `-`, and begins with a letter or a digit.", t.pool),
			section("[pool.NAME.backoff]", "How long to wait before a worker is started again.", t.backoff),
			section("[pool.NAME.limits]", "Limits of the kernel's cgroup v2 controllers, under the kernel's names, systemd's, or the kernel's with underscores. `[pool.NAME.pool_limits]` has the same keys. Values that are not numbers are strings. A disk is given by its numbers, by its node, or by a file on it; for several disks, write a list of strings. Where a controller is missing, as on hybrid hosts, `limits_mode` decides.", t.limits),
			section("[pool.NAME.rlimits]", "setrlimit(2), under its own names or systemd's. One value sets the soft and the hard limit. Setting any makes each start several times as expensive.", t.rlimits),
			section("[pool.NAME.ready]", "A worker is ready when every rule that is set has held for this very start. Rules are waited for one after the other: `notify`, `fd`, `file`, `stdout`, `stderr`, then `tcp`, `http`, `grpc`, then `exec`.", t.ready),
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
