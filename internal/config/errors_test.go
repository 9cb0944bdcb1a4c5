package config

import (
	"fmt"
	"strings"
	"testing"
)

const valid = "[pool.web]\ncommand = [\"/bin/true\"]\n"

func TestErrorsHavePlaceCauseAndCure(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"unknown key", valid + "  comand = 1\n", `3:3: unknown key "comand" in [pool.web]: did you mean "command"?`},
		{"unknown key of others", valid + "numprocs = 1\n", `3:1: unknown key "numprocs" in [pool.web]: here it is called "size"`},
		{"unknown key that is like nothing", "[log]\nxyzzy = 1\n" + valid, `2:1: unknown key "xyzzy" in [log]: allowed are level, format, max_size, keep, show, rotate_keep, rotate_age, rotate_max_age, rotate_max_size, compress`},
		{"unknown table", "[pools.web]\ncommand = []\n" + valid, `1:2: unknown key "pools" in the file: did you mean "pool"?`},
		{"unknown key in braces", valid + `backoff = { min = "1s", factr = 2 }`, `3:25: unknown key "factr" in [pool.web.backoff]: did you mean "factor"?`},
		{"unknown dotted key", valid + "backoff.mim = \"1s\"\n", `3:9: unknown key "mim" in [pool.web.backoff]: did you mean "min"?`},
		{"unknown limit", valid + "[pool.web.limits]\nmemory.maxx = \"1G\"\n", `4:8: unknown key "memory.maxx" in [pool.web.limits]: did you mean "memory.max"?`},
		{"unknown rlimit", valid + "rlimits = { nofiles = 3 }\n", `3:13: unknown key "nofiles" in [pool.web.rlimits]: did you mean "nofile"?`},
		{"unknown ready rule", valid + "ready.htpp = \"/\"\n", `3:7: unknown key "htpp" in [pool.web.ready]: did you mean "http"?`},
		{"column counts characters", valid + "env = { X = \"äöü\", \"é\" = \"\" }\n", `3:20: variable "é" in env: a name has letters, digits and _`},

		{"command is a string", "[pool.web]\ncommand = \"python3 -m http.server\"\n", `2:11: command must be a list of strings, but this is the string "python3 -m http.server": write it as a list: ["python3", "-m", "http.server"]`},
		{"command is for a shell", "[pool.web]\ncommand = \"a | b\"\n", `2:11: command must be a list of strings, but this is the string "a | b": write it as a list: ["/bin/sh", "-c", "a | b"]`},
		{"command is empty", "[pool.web]\ncommand = []\n", `2:11: command is empty: write command = ["program", "argument"]`},
		{"command without a name", "[pool.web]\ncommand = [\"\"]\n", `2:12: command has an empty program name`},
		{"command with a number", "[pool.web]\ncommand = [\"/bin/sleep\", 5]\n", `2:26: item 2 of command must be a string, but this is a whole number, 5: write it in quotes: "5"`},
		{"command with a zero byte", "[pool.web]\ncommand = [\"/bin/echo\", \"\\u0000\"]\n", `2:25: command holds a zero byte`},
		{"command not there", "[pool.web]\ncommand = [\"no-such-program\"]\n", `2:12: program "no-such-program" is not in PATH=/usr/bin:/bin: write the whole path, or set PATH in env`},
		{"command missing", "[pool.web]\nsize = 1\n", `1:7: pool "web" has no command: add command = ["program", "argument"]`},
		{"placeholder misspelt", "[pool.web]\ncommand = [\"/bin/echo\", \"{slott}\"]\n", `2:25: unknown placeholder {slott} in command: did you mean "slot"?`},
		{"placeholder port", "[pool.web]\ncommand = [\"/bin/echo\", \"-p{port}\"]\n", `2:25: unknown placeholder {port} in command: a worker chooses its port`},
		{"placeholder in the program", "[pool.web]\ncommand = [\"/bin/{slot}\"]\n", `2:12: placeholder {slot} in the program's name`},
		{"placeholder in env", valid + "env.A = \"{Slot}\"\n", `3:9: unknown placeholder {Slot} in env: did you mean "slot"?`},
		{"placeholder in directory", valid + "directory = \"/srv/{pool}\"\n", `3:13: placeholder {pool} in directory`},

		{"size zero", valid + "size = 0\n", `3:8: size is 0, must be 1 to 10000`},
		{"size too large", valid + "size = 100_000\n", `3:8: size is 100_000, must be 1 to 10000`},
		{"size beyond numbers", valid + "size = 99999999999999999999\n", `3:8: size is 99999999999999999999, must be 1 to 10000`},
		{"size is text", valid + "size = \"4\"\n", `3:8: size must be a whole number, but this is the string "4": leave the quotes out: 4`},
		{"size is a date", valid + "size = 2024-01-01\n", `3:8: size must be a whole number, but this is a date, 2024-01-01`},

		{"duration without a unit", valid + "stop_grace = 10\n", `3:14: stop_grace must be a duration, but this is a whole number, 10: write the unit as well: "10s"`},
		{"duration text without a unit", valid + "stop_grace = \"10\"\n", `3:14: stop_grace is "10": 10 has no unit`},
		{"duration negative", valid + "stop_grace = \"-1s\"\n", `3:14: stop_grace is "-1s": no number at "-1s"`},
		{"duration unknown unit", valid + "start_timeout = \"3 fortnights\"\n", `3:17: start_timeout is "3 fortnights": unknown unit "fortnights"`},
		{"duration too long", valid + "stop_grace = \"31d\"\n", `3:14: stop_grace is "31d", must be 0s to 720h0m0s`},
		{"duration of zero", valid + "start_timeout = \"0s\"\n", `3:17: start_timeout is "0s", must be at least 1ms`},
		{"duration overflow", valid + "start_timeout = \"99999999999w\"\n", `3:17: start_timeout is "99999999999w": it is longer than 292 years`},
		{"backoff contradicts itself", valid + "backoff = { min = \"5s\", max = \"1s\" }\n", `3:31: max "1s" is less than min "5s"`},
		{"factor", valid + "backoff.factor = 0.5\n", `3:18: factor is 0.5, must be 1 to 100`},
		{"jitter is no number", valid + "backoff.jitter = nan\n", `3:18: jitter is nan, must be 0 to 1`},

		{"signal", valid + "stop_signal = \"TREM\"\n", `3:15: stop_signal is "TREM", which is no signal: did you mean "TERM"?`},
		{"signal out of range", valid + "stop_signal = 65\n", `3:15: stop_signal is "65", which is no signal: write a name`},
		{"signal zero", valid + "stop_signal = 0\n", `3:15: stop_signal is "0", which is no signal`},
		{"restart", valid + "restart = \"on_failure\"\n", `3:11: restart is "on_failure", must be "always", "on-failure" or "never": did you mean "on-failure"?`},
		{"track", valid + "track = true\n", `3:9: track must be a string, but this is a boolean, true: write it in quotes: "true"`},
		{"boolean", valid + "netns = \"true\"\n", `3:9: netns must be true or false, but this is the string "true": leave the quotes out`},
		{"umask", valid + "umask = 22\n", `3:9: umask must be a string of octal digits, but this is a whole number, 22: write it in quotes: umask = "022"`},
		{"umask digits", valid + "umask = \"089\"\n", `3:9: umask is "089", must be "000" to "777"`},
		{"nice", valid + "nice = 20\n", `3:8: nice is 20, must be -20 to 19`},
		{"user", valid + "user = \"no-such-user\"\n", `3:8: user "no-such-user": unknown user`},
		{"user number without account", valid + "user = 3999999999\n", `3:8: user "3999999999": has no account, so its group is not known: set group as well`},
		{"user is no name", valid + "user = 1.5\n", `3:8: user must be a name or a number, but this is a number, 1.5`},
		{"group", valid + "group = \"no-such-group\"\n", `3:9: group "no-such-group": unknown group`},
		{"one of groups", valid + "groups = [\"root\", \"no-such-group\"]\n", `3:19: group "no-such-group": unknown group`},
		{"groups is text", valid + "groups = \"video\"\n", `3:10: groups must be a list of names and numbers, but this is the string "video": write groups = ["video"]`},

		{"limit", valid + "limits.MemoryMax = \"512MB\"\n", `3:20: MemoryMax is "512MB": unknown unit "MB", write "M"`},
		{"limit of zero", valid + "limits.TasksMax = 0\n", `3:19: TasksMax is "0": must be 1 to 4194304`},
		{"limit as a share", valid + "limits.MemoryMax = \"500%\"\n", `3:20: MemoryMax is "500%": a share must be above 0% and at most 100%: write a size such as 512M`},
		{"limit is a fraction", valid + "limits.CPUWeight = 1.5\n", `3:20: CPUWeight must be a string or a whole number, but this is a number, 1.5`},
		{"limit is a list", valid + "limits.MemoryMax = [\"1G\", \"2G\"]\n", `3:20: MemoryMax must be a string or a whole number, but this is a list`},
		{"limit is a boolean", valid + "limits.MemoryMax = true\n", `3:20: MemoryMax is "true": it does not begin with a number`},
		{"second disk", valid + "limits.IOReadBandwidthMax = [\"8:0 1M\", \"8:16\"]\n", `3:40: IOReadBandwidthMax is "8:16": it is not a disk and a number: write a disk and bytes a second`},
		{"disk is a number", valid + "limits.io_max = [1.5]\n", `3:18: io_max must be a string or a whole number, but this is a number, 1.5`},
		{"limit twice", valid + "limits = { MemoryMax = 1, \"memory.max\" = 2 }\n", `3:27: "memory.max" says the same thing as MemoryMax`},
		{"cpu", valid + "limits.CPUQuota = \"0%\"\n", `3:19: CPUQuota is "0%": must be 1% to 1000000%`},
		{"cpuset", valid + "limits.AllowedCPUs = \"3-1\"\n", `3:22: AllowedCPUs is "3-1": "3-1" is neither a number nor a range`},
		{"weight", valid + "limits.CPUWeight = 10001\n", `3:20: CPUWeight is "10001": must be 1 to 10000`},
		{"rlimit", valid + "rlimits.nofile = \"20:10\"\n", `3:18: nofile is "20:10": the soft limit is above the hard one`},
		{"rlimit text", valid + "rlimits.nofile = \"many\"\n", `3:18: nofile is "many": "many" is not a number of them`},

		{"regular expression", valid + "ready.stdout = \"a(b\"\n", `3:16: stdout is "a(b": missing closing ): ` + "`a(b`: the syntax is RE2's"},
		{"look-around", valid + "ready.stderr = \"(?=x)\"\n", `3:16: stderr is "(?=x)": invalid or unsupported Perl syntax: ` + "`(?=`: RE2 has no look-around"},
		{"matches everything", valid + "ready.stdout = \"x*\"\n", `3:16: stdout is "x*": this matches every line`},
		{"journal without output", valid + "output = \"none\"\njournal = true\n", `4:1: journal has no effect without output: set output = "file"`},
		{"lines without output", valid + "output = \"none\"\nready.stdout = \"x\"\n", `4:7: stdout can not hold without output: set output = "file"`},
		{"ready fd in use", valid + "ready.fd = 1\n", `3:12: fd 1 is stdout of the worker already: use 3 to 9`},
		{"ready fd", valid + "ready.fd = 10\n", `3:12: fd is 10, must be 3 to 9`},
		{"ready address", valid + "ready.tcp = \"example.com:80\"\n", `3:13: tcp "example.com:80": host "example.com": must be an IP address of this machine`},
		{"ready placeholder", valid + "ready = { tcp = \":{prot}\", port = 1 }\n", `3:17: unknown placeholder {prot} in tcp: did you mean "port"?`},
		{"ready without a rule", valid + "[pool.web.ready]\n", `3:11: [pool.web.ready]: no readiness rule is set`},
		{"ready port without a source", valid + "ready.http = \"/health\"\n", `3:1: [pool.web.ready]: {port} has no source`},
		{"ready port too high", valid + "size = 10\nready = { tcp = \":{port}\", port = 65530 }\n", `4:35: port is 65530, so the last of 10 workers would have 65539`},
		{"ready file", valid + "ready.file = \"run/ready\"\n", `3:14: ready file "run/ready": the path must be absolute`},
		{"ready program", valid + "ready.exec = [\"no-such-program\"]\n", `3:15: program "no-such-program" is not in PATH=`},

		{"env number", valid + "env = { PORT = 8080 }\n", `3:16: PORT must be a string, but this is a whole number, 8080: write it in quotes: "8080"`},
		{"env name", valid + "env = { 1A = \"\" }\n", `3:9: variable "1A" in env: a name has letters`},
		{"env reserved", valid + "env = { PITVISOR_POOL = \"\" }\n", `3:9: variable "PITVISOR_POOL" in env: names that begin with PITVISOR_ are the supervisor's`},
		{"env is no table", valid + "env = [\"A=b\"]\n", `3:7: env must be a table, but this is a list: write it as a table`},
		{"env_file missing", valid + "env_file = \"/no/such\"\n", `3:12: env_file "/no/such": no such file or directory`},

		{"name", "name = \"a b\"\n" + valid, `1:8: name is "a b": allowed are`},
		{"no pools", "name = \"x\"\n", `1:1: no [pool.NAME] table`},
		{"empty", "", `1:1: no [pool.NAME] table`},
		{"pool without a name", "[pool]\ncommand = [\"x\"]\n", `2:1: unknown key "command" in [pool]: a pool has a name: [pool.NAME]`},
		{"empty pool table", "[pool]\n", `1:2: no pool in this table`},
		{"list of sockets of a pool", valid + "[[pool.web.sockets]]\n", `3:3: a list of tables [[pool.web.sockets]] is not known here: write [socket.NAME] for each, and in the pool sockets = ["NAME"]`},
		{"list of pools", "[[pool]]\nname = \"web\"\n", `1:3: a list of tables [[pool]] is not known here: write [pool.NAME]`},
		{"log", "log = 3\n" + valid, `1:7: log must be a table, but this is a whole number, 3: write [log]`},
		{"api", "api = 3\n" + valid, `1:7: api must be a table, but this is a whole number, 3: write [api]`},
		{"tcp without a token", "[api]\ntcp = \"127.0.0.1:1\"\n" + valid, `2:1: tcp needs a token_file: over TCP nobody knows who calls: add token_file`},
		{"token without tcp", "[api]\ntoken_file = \"t\"\n" + valid, `2:1: token_file has no meaning without tcp`},
		{"no port", "[api]\ntoken_file = \"t\"\ntcp = \"127.0.0.1\"\n" + valid, `3:7: tcp is "127.0.0.1": no address and port`},
		{"port 0", "[api]\ntoken_file = \"t\"\ntcp = \":0\"\n" + valid, `3:7: tcp is ":0": the port must be 1 to 65535`},
		{"a name to listen on", "[api]\ntoken_file = \"t\"\ntcp = \"shop.example:80\"\n" + valid, `3:7: tcp is "shop.example:80": "shop.example" is no address`},
		{"a group for no socket", "[api]\nsocket = \"none\"\ngroup = \"root\"\n" + valid, `3:1: group has no meaning with socket = "none": leave one of them out`},
		{"log size", "[log]\nmax_size = \"1K\"\n" + valid, `2:12: max_size is 1024 bytes, must be 65536 to`},
	} {
		t.Run(tc.name, func(t *testing.T) { wantErrors(t, tc.text, tc.want) })
	}
}

func TestPoolNames(t *testing.T) {
	for name, want := range map[string]string{
		`"a/b"`:                    `pool name "a/b" has '/' at character 2`,
		`".."`:                     `pool name ".." has '.' at character 1`,
		`"a.b"`:                    `pool name "a.b" has '.' at character 2`,
		`"a b"`:                    `pool name "a b" has ' ' at character 2`,
		`"a\n"`:                    `pool name "a\n" has '\n' at character 2`,
		`"\u0000"`:                 `pool name "\x00" has '\x00' at character 1`,
		`"\u202e"`:                 `pool name "\u202e" has '\u202e' at character 1`,
		`""`:                       `pool name is empty`,
		`-a`:                       `pool name "-a" has '-' at character 1`,
		`_a`:                       `pool name "_a" has '_' at character 1`,
		`Web`:                      `pool name "Web" has a capital letter: write "web"`,
		strings.Repeat("n", 64):    `pool name "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"... (64 bytes) is too long: at most 63 bytes`,
		strings.Repeat("long", 75): `pool name "longlonglonglonglonglonglonglonglonglonglonglonglonglonglong"... (300 bytes) is too long: at most 63 bytes`,
	} {
		wantErrors(t, "[pool."+name+"]\ncommand = [\"/bin/true\"]\n", "1:7: "+want)
	}
	for _, name := range []string{"a", "0", "web-2", "a_b", strings.Repeat("n", 63)} {
		if c := good(t, "[pool."+name+"]\ncommand = [\"/bin/true\"]\n"); c.Pools[0].Spec.Name != name {
			t.Errorf("name = %q, want %q", c.Pools[0].Spec.Name, name)
		}
	}
}

func TestAllErrorsAreReportedInFileOrder(t *testing.T) {
	wantErrors(t, `nme = "x"
[pool.b]
size = 0
command = ["/bin/true"]
stop_grace = 5
[pool.A]
[pool.a]
nice = 99
[log]
levl = "info"
keep = -1
`,
		`1:1: unknown key "nme" in the file: did you mean "name"?`,
		`3:8: size is 0`,
		`5:14: stop_grace must be a duration`,
		`6:7: pool name "A" has a capital letter`,
		`7:7: pool "a" has no command`,
		`8:8: nice is 99, must be -20 to 19`,
		`10:1: unknown key "levl" in [log]: did you mean "level"?`,
		`11:8: keep is -1, must be 0 to 100000`)
}

func TestWhatIsNotTOML(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"text without quotes", valid + "user = nobody\n", `3:8: expected keyword "nan": put text in quotes: "..."`},
		{"colon", "[pool.web]\ncommand: [\"x\"]\n", `2:8: expected '=' after key: write "=" between a key and its value`},
		{"open list", "[pool.web]\ncommand = [\"x\"\n", `2:15: array is incomplete: the closing bracket is missing`},
		{"open quote", "[pool.web]\ncommand = [\"x\n", `2:`},
		{"duration without quotes", valid + "stop_grace = 10s\n", `3:16: strings must be quoted: put text in quotes: "..."`},
		{"key twice", valid + "size = 1\nsize = 2\n", `4:1: key size is defined a second time, first at 3:1: join the two`},
		{"pool twice", valid + valid, `3:7: table [pool.web] is defined a second time, first at 1:7: join the two`},
		{"table after dotted key", valid + "limits.TasksMax = 1\n[pool.web.limits]\n", `4:11: table [pool.web.limits] is defined a second time, first at 3:1`},
		{"key of a value", valid + "size.x = 1\nsize = 2\n", `3:1: size must be a whole number, but this is a table`},
		{"addition to braces", valid + "env = {}\nenv.A = \"x\"\n", `4:1: env is defined a second time, first at 3:1`},
		{"not UTF-8", valid + "# caf\xe9\n", `3:6: byte 0xe9 is not UTF-8 text: is this a text file at all?`},
		{"UTF-16", "\xff\xfen\x00", `1:1: byte 0xff is not UTF-8 text: the file is UTF-16; save it as UTF-8`},
		{"a program", "\x7fELF\x02\x01\x01\x00\x00", `1:1: `},
		{"zero bytes", "\x00\x00\x00", `1:1: `},
		{"YAML", "pool:\n  web:\n    command: x\n", `1:5: expected '=' after key: write "="`},
		{"JSON", "{\"pool\": {}}\n", `1:1: `},
		{"lone carriage return", "name = \"x\"\rsize = 1\r", `1:11: `},
		{"deep nesting", "x = " + strings.Repeat("[", 100_000), `1:`},
		{"deep key", "a" + strings.Repeat(".a", 100_000) + " = 1\n" + valid, `1:1: key of 100001 parts`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := errorsOf(t, tc.text)
			if len(got) == 0 || !strings.HasPrefix(got[0], tc.want) {
				t.Errorf("errors = %.300q, want first %q", got, tc.want)
			}
		})
	}
}

// After a syntax error nothing is said to be missing, because it may be behind it.
func TestNothingIsMissingBehindASyntaxError(t *testing.T) {
	wantErrors(t, "[pool.web]\nsize = 0\nstop_grace = 5 s\ncommand = [\"/bin/true\"]\n",
		"2:8: size is 0", "3:16: expected newline but got U+0073 's'")
}

func TestByteOrderMarkLineEndsAndLongLines(t *testing.T) {
	text := "\ufeff" + strings.ReplaceAll(valid, "\n", "\r\n")
	if c := good(t, text); c.Pools[0].Spec.Command.Path != "/bin/true" {
		t.Errorf("path = %q", c.Pools[0].Spec.Command.Path)
	}
	wantErrors(t, "\ufeffnam = 1\r\n"+valid+"siz = 2\r\n", `1:1: unknown key "nam"`, `4:1: unknown key "siz"`)
	long := strings.Repeat("x", 5<<20)
	if c := good(t, "# "+long+"\n[pool.web]\ncommand = [\"/bin/true\", \""+long+"\"]\n"); len(c.Pools[0].Spec.Command.Args[1]) != len(long) {
		t.Error("a long argument was changed")
	}
	wantErrors(t, valid+"restart = \""+long+"\"\n", `3:11: restart is "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"... (5242880 bytes), must be`)
	if got := errorsOf(t, valid+strings.Repeat("k", 5<<20)+" = 1\n"); len(got) != 1 || len(got[0]) > 1000 {
		t.Errorf("a long key gives %.1000q", got)
	}
}

func TestBoundsOfWorkers(t *testing.T) {
	var text strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&text, "[pool.p%d]\ncommand = [\"/bin/true\"]\n", i)
	}
	if c := good(t, text.String()); len(c.Pools) != 10_000 {
		t.Errorf("%d pools, want 10000", len(c.Pools))
	}
	wantErrors(t, valid+"size = 10000\n[pool.b]\ncommand = [\"/bin/true\"]\nsize = 10000\n[pool.c]\ncommand = [\"/bin/true\"]\n[pool.d]\ncommand = [\"/bin/true\"]\n",
		"7:7: more than 20000 workers with this pool: make pools smaller")
}

// Of 100,000 errors the first 100 are reported, and in reasonable time.
func TestManyErrors(t *testing.T) {
	_, err := parseText("f.toml", valid+strings.Repeat("size = 0\n", 100_000), nil)
	lines := strings.Split(fmt.Sprint(err), "\n")
	if len(lines) != 101 || !strings.HasPrefix(lines[0], "f.toml:3:8: size is 0") || lines[100] != "f.toml: and 99900 more errors" {
		t.Errorf("%d errors, the first %s, the last %s", len(lines), lines[0], lines[len(lines)-1])
	}
}
