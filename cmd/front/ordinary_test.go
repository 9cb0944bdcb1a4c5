package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// ordinary is a command that need not know that pitvisor is there.
type ordinary struct {
	name  string
	needs []string
	files string   // prepares its directory; for sh
	argv  []string // if it is not a script
	sh    string   // $RUN in it is nothing, or pitvisor run --
	stdin string
}

func ordinaries() []ordinary {
	lines := strings.Builder{}
	for i := range 100_000 {
		fmt.Fprintf(&lines, "%d %d\n", i*7919%100_003, i)
	}
	return []ordinary{
		{name: "make -j", needs: []string{"make"}, files: `
			printf '%s\n' 'all: t1 t2 t3 t4 t5 t6 t7 t8' '	cat t?' 't%:' '	@echo $@ >$@' 'bad:' '	exit 3' >Makefile
			`, sh: `make -j4 && make -j4 bad`},
		{name: "go vet and test", needs: []string{"go"}, files: `
			printf 'module tiny\n' >go.mod
			printf 'package tiny\nimport "testing"\nfunc TestTiny(t *testing.T) { t.Error("no") }\n' >tiny_test.go
			`, sh: `go vet ./... && go test -count=1 ./... >out; code=$?; sed 's/[0-9.]*s)*$//' out; exit $code`},
		{name: "git", needs: []string{"git"}, files: `echo text >file`, sh: `
			export GIT_CONFIG_SYSTEM=/dev/null GIT_AUTHOR_DATE=2026-01-01T00:00:00Z GIT_COMMITTER_DATE=2026-01-01T00:00:00Z
			git init -b main && git add . && git -c user.name=a -c user.email=a@b.c commit -m first && git log --stat && git show nothing`},
		{name: "apt", needs: []string{"apt-get", "apt-cache"}, sh: `apt-get --version; apt-cache policy bash; apt-cache show no-such-package-at-all`},
		{name: "dpkg", needs: []string{"dpkg"}, argv: []string{"dpkg", "-l"}},
		{name: "tar and gzip", needs: []string{"tar", "gzip"}, files: `mkdir d && seq 10000 >d/a && seq 20000 >d/b`, sh: `
			tar --sort=name --mtime=@0 --owner=0 --group=0 -cf - d | gzip -n >d.tgz; cat d.tgz; tar -tzvf d.tgz; tar -xzf no-such.tgz`},
		{name: "sh with traps", argv: []string{"sh", "-c", `trap 'echo over' EXIT; trap 'echo term; exit 3' TERM; kill $$; echo not reached`}},
		{name: "bash with job control", needs: []string{"bash"}, argv: []string{"bash", "-c", `
			set -m
			sleep 1000 & sleep 1000 & jobs
			kill %2; wait %2; echo $?
			kill -INT %1; wait %1; echo $?
			sh -c "cut -d ' ' -f 5 /proc/\$\$/stat | grep -x \$\$ >/dev/null"; echo $?
			(sleep 0.05; exit 7) & fg; echo $?`}},
		{name: "awk", argv: []string{"awk", `{ n += $1 } END { print n, NR; exit 4 }`}, stdin: lines.String()},
		{name: "sed", argv: []string{"sed", "-n", "s/^\\(.\\)\\(.*\\) /\\2\\1/p;90000q5"}, stdin: lines.String()},
		{name: "sort", argv: []string{"sort", "-n"}, stdin: lines.String()},
		{name: "dd", argv: []string{"dd", "bs=1000", "count=100", "iflag=fullblock", "status=noxfer"}, stdin: lines.String()},
		{name: "python", needs: []string{"python3"}, argv: []string{"python3", "-c", `
import os, signal, subprocess, sys
print(os.isatty(0), sys.stdin.readline(), signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGPIPE))
print(subprocess.run(["sh", "-c", "kill -TERM $$"]).returncode, file=sys.stderr)
raise ValueError("no")`}, stdin: "text\n"},
		{name: "perl", needs: []string{"perl"}, argv: []string{"perl", "-e", `print scalar(<STDIN>); system(q(sh -c "exit 3")); print $? >> 8, "\n"; die "no\n"`}, stdin: "text\n"},
		{name: "node", needs: []string{"node"}, argv: []string{"node", "-e", `
			process.stdin.on("data", d => process.stdout.write(d)).on("end", () => {
				const child = require("child_process").spawn("sh", ["-c", "echo err >&2; exit 6"], {stdio: "inherit"});
				child.on("exit", code => process.exit(code + 1));
			})`}, stdin: "text\n"},
		{name: "find", files: `mkdir -p a/b a/c && touch a/b/x a/c/y`, sh: `find a no-such | sort; find a -name x -exec sh -c 'echo "$0"' {} \; -quit`},
		{name: "grep", files: `mkdir d && echo text >d/a`, argv: []string{"grep", "-r", "nothing", "."}},
		{name: "xargs -P", sh: `seq 40 | xargs -P 4 -I{} sh -c 'echo {} >f{}' && cat f*; seq 3 | xargs -P 2 false`},
		{name: "timeout", sh: `timeout 0.05 sleep 100; echo $?; timeout --foreground -s KILL 0.05 sleep 100; echo $?; timeout -v 0.05 sleep 100`},
		{name: "env -i", argv: []string{"env", "-i", "A=b", "sh", "-c", "env; exit 9"}},
		{name: "nice", argv: []string{"nice", "-n", "5", "sh", "-c", "nice; exec nice -n 3 nice"}},
		{name: "killed", argv: []string{"sh", "-c", "echo before; kill -KILL $$"}},
		{name: "in a pipeline", needs: []string{"bash"}, argv: []string{"bash", "-c", `$RUN yes | head -n 1; echo ${PIPESTATUS[@]}; false | $RUN cat; echo ${PIPESTATUS[@]}`}},
		{name: "on a part of the input", sh: `$RUN sh -c 'read -r first; echo "$first"'; cat`, stdin: lines.String()},
		{name: "background", sh: `$RUN sleep 0.05 & $RUN sh -c 'exit 5' & wait $!; echo $?; wait; echo $?`},
		{name: "what a command inherits", sh: inherited + "\nexit 0"},
		// Of other signals Go's runtime forgets that they were ignored.
		{name: "what a command of nohup inherits", sh: `trap '' HUP INT TSTP; exec $RUN sh -c 'grep -E "^Sig(Blk|Ign)" /proc/self/status'`},
		{name: "ssh", needs: []string{"ssh", "sshd", "ssh-keygen"}, files: `
			ssh-keygen -q -t ed25519 -N '' -f key && cp key.pub authorized
			printf '%s\n' "HostKey $PWD/key" 'PermitRootLogin yes' 'StrictModes no' "AuthorizedKeysFile $PWD/authorized" 'UsePAM no' >conf
			printf '%s\n' 'mount -t tmpfs none /run && mkdir /run/sshd && exec "$(command -v sshd)" -i -f conf' >serve
			`, sh: `ssh -F none -o 'ProxyCommand=unshare --mount sh serve' -o StrictHostKeyChecking=no -o "UserKnownHostsFile=$PWD/known" \
				-i key root@localhost 'cat; echo err >&2; exit 7'`, stdin: "text\n"},
	}
}

// inherited prints what processes hand down to those that they start.
const inherited = `
grep -E '^(SigBlk|SigIgn|Cap|NoNewPrivs|Seccomp|Groups|Uid|Gid|Umask|Cpus_allowed|Mems_allowed|THP)' /proc/self/status
cat /proc/self/limits
ls /proc/self/fd
grep flags /proc/self/fdinfo/[012]
readlink /proc/self/ns/* /proc/$$/cwd /proc/$$/root /proc/$$/exe
for f in comm cmdline oom_score_adj timerslack_ns coredump_filter personality autogroup loginuid; do cat /proc/$$/$f; done 2>&1 | sed "s|/$$/|/PID/|"
nice; umask; pwd; tty
chrt -p $$ | cut -d: -f 2; ionice -p $$; taskset -p $$ | cut -d: -f 2
env | grep -Ev '^(_|RUN|PITVISOR_RUN_ID)=' | sort`

// TestOrdinaryCommands: exit code, output and complaints of commands are the same to the
// byte whether they run under pitvisor or not. For one that a signal has ended this is
// the code that a shell gives it.
func TestOrdinaryCommands(t *testing.T) {
	y := newYard(t)
	path := "PATH=" + searchPath()
	var cache string
	if gobin, err := exec.LookPath("go"); err == nil {
		path += ":" + filepath.Dir(gobin)
		cache = goCache(t)
	}
	for _, o := range ordinaries() {
		t.Run(o.name, func(t *testing.T) {
			linuxtest.NoLeaks(t)
			t.Setenv("PATH", strings.TrimPrefix(path, "PATH="))
			linuxtest.NeedCommand(t, o.needs...)
			if o.name == "ssh" {
				linuxtest.NeedAdmin(t, "to make namespaces")
			}
			dir := filepath.Join(t.TempDir(), "work")
			env := []string{path, "HOME=" + dir, "USER=root", "LC_ALL=C", "TZ=UTC", cache, "GOFLAGS=-mod=mod", "PITVISOR_CGROUP_ROOT=" + y.root}
			bare := o.run(t, dir, env, "")
			under := o.run(t, dir, env, filepath.Join(y.bin, "pitvisor")+" run --")
			if under.code != bare.code {
				t.Errorf("exit code %d, without pitvisor %d", under.code, bare.code)
			}
			differ(t, "stdout", under.stdout, bare.stdout)
			differ(t, "stderr", under.stderr, bare.stderr)
			y.nothingLeft(t)
		})
	}
}

// goCache is the setting of the test's own cache: what the commands build is small.
func goCache(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	return "GOCACHE=" + strings.TrimSpace(string(out))
}

// outcome is what a command was seen to do.
type outcome struct {
	code           int
	stdout, stderr string
}

// run runs the command in a directory that is made for it, under what RUN says.
func (o ordinary) run(t *testing.T, dir string, env []string, run string) outcome {
	t.Helper()
	argv := o.argv
	if o.sh != "" {
		argv = []string{"sh", "-c", o.sh}
	}
	script := o.sh + strings.Join(o.argv, " ")
	if !strings.Contains(script, "$RUN ") {
		argv = append(strings.Fields(run), argv...)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	prepare := exec.Command("sh", "-ec", o.files)
	prepare.Dir, prepare.Env = dir, env
	if out, err := prepare.CombinedOutput(); err != nil {
		t.Fatalf("prepare: %v\n%s", err, out)
	}
	return capture(t, linuxtest.Command{Args: append([]string{"/usr/bin/env"}, argv...), Dir: dir, Env: append(env, "RUN="+run)}, o.stdin)
}

// capture runs a command to its end, with a pipe for its input.
func capture(t *testing.T, c linuxtest.Command, input string) outcome {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Stdin = r
	outputs := t.TempDir()
	for name, file := range map[string]**os.File{"stdout": &c.Stdout, "stderr": &c.Stderr} {
		if *file, err = os.Create(filepath.Join(outputs, name)); err != nil {
			t.Fatal(err)
		}
		defer (*file).Close()
	}
	p := c.Start(t)
	_ = r.Close() // the command has its own
	written := make(chan struct{})
	go func() {
		defer close(written)
		_, _ = io.WriteString(w, input) // who does not want it all closes the pipe
		_ = w.Close()
	}()
	status := p.Wait(t, patience)
	<-written
	var texts [2]string
	for i, name := range []string{"stdout", "stderr"} {
		text, err := os.ReadFile(filepath.Join(outputs, name))
		if err != nil {
			t.Fatal(err)
		}
		texts[i] = string(text)
	}
	return outcome{shellCode(status), texts[0], texts[1]}
}

// shellCode is what $? would be.
func shellCode(status unix.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

// differ shows the first line in which two texts differ.
func differ(t *testing.T, what, got, want string) {
	t.Helper()
	if got == want {
		return
	}
	g, w := strings.SplitAfter(got, "\n"), strings.SplitAfter(want, "\n")
	for i := 0; ; i++ {
		if i >= len(g) || i >= len(w) || g[i] != w[i] {
			t.Errorf("%s differs from line %d on: %.500q, without pitvisor %.500q", what, i+1, g[min(i, len(g)):], w[min(i, len(w)):])
			return
		}
	}
}
