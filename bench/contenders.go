package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// contender is one program that can keep a pool of workers.
type contender struct {
	name  string
	kind  kind
	env   []string
	argv  func(*cell, job) ([]string, error) // writes what configuration it needs into the cell
	stop  []unix.Signal                      // how it is told to stop everything
	force bool                               // the stop is by force, not by a polite signal to each worker
	few   int                                // rounds are enough at full size; 0 means as many as the others
}

// kind orders the contenders in the tables.
type kind uint8

const (
	kindProduct kind = iota
	kindFloor
	kindPeer
)

func (k kind) String() string {
	switch k {
	case kindProduct:
		return "pitvisor"
	case kindFloor:
		return "floor"
	case kindPeer:
		return "peer"
	}
	return "kind " + strconv.Itoa(int(k))
}

const product = "pitvisor"

// pitvisor is `pitvisor up`: its second SIGINT kills at once.
func pitvisor(binary string) contender {
	return contender{
		name: product, kind: kindProduct, force: true, stop: []unix.Signal{unix.SIGINT, unix.SIGINT},
		argv: func(c *cell, j job) ([]string, error) {
			config := filepath.Join(c.dir, "pitvisor.toml")
			if err := os.WriteFile(config, []byte(poolConfig(j)), 0o644); err != nil {
				return nil, err
			}
			return []string{binary, "up", "-f", config, "--cgroup-root", c.root.path, "--state-dir", c.stateDir()}, nil
		},
	}
}

func (c *cell) stateDir() string {
	return filepath.Join(c.dir, "state")
}

func poolConfig(j job) string {
	words := make([]string, len(j.command))
	for i, word := range j.command {
		words[i] = strconv.Quote(word)
	}
	return fmt.Sprintf(`name = "bench"

[pool.bench]
command = [%s]
size = %d
output = %q
inherit_env = true
stop_grace = "30s"

[log]
max_size = "1T"
`, strings.Join(words, ", "), j.workers, cmp.Or(j.output, "none"))
}

// floorC is one mode of limit.c.
func floorC(name, binary, mode string) contender {
	return contender{
		name: name, kind: kindFloor, force: true, stop: []unix.Signal{unix.SIGINT},
		argv: func(c *cell, j job) ([]string, error) {
			if mode == "journal" {
				return floorArgs([]string{binary, "journal=" + filepath.Join(c.dir, "journal")}, c, j), nil
			}
			return floorArgs([]string{binary, mode}, c, j), nil
		},
	}
}

func floorGo(binary string) contender {
	return contender{
		name: "limit-go", kind: kindFloor, force: true, stop: []unix.Signal{unix.SIGINT},
		argv: func(c *cell, j job) ([]string, error) {
			return floorArgs([]string{binary}, c, j), nil
		},
	}
}

func floorArgs(start []string, c *cell, j job) []string {
	return append(append(start, c.root.path, strconv.Itoa(j.workers)), j.command...)
}

// s6 runs one s6-supervise per worker. Its run scripts are the command itself where that is possible: the cheapest
// that s6 can do.
func s6(svscan string) contender {
	return contender{
		name: "s6", kind: kindPeer, stop: []unix.Signal{unix.SIGTERM}, few: 2,
		argv: func(c *cell, j job) ([]string, error) {
			dir, err := serviceDirs(c, j)
			return []string{svscan, "-c", strconv.Itoa(j.workers + 10), dir}, err
		},
	}
}

// runit runs one runsv per worker. SIGHUP makes runsvdir tell all of them to stop their worker and end.
func runit(runsvdir string) contender {
	path := filepath.Dir(runsvdir) + ":" + os.Getenv("PATH")
	return contender{
		name: "runit", kind: kindPeer, stop: []unix.Signal{unix.SIGHUP}, few: 2, env: []string{"PATH=" + path},
		argv: func(c *cell, j job) ([]string, error) {
			dir, err := serviceDirs(c, j)
			return []string{runsvdir, dir}, err
		},
	}
}

// serviceDirs makes one directory with a `run` per worker, as s6 and runit want it.
func serviceDirs(c *cell, j job) (string, error) {
	top := filepath.Join(c.dir, "services")
	for i := range j.workers {
		dir := filepath.Join(top, "w"+strconv.Itoa(i))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", err
		}
		run := filepath.Join(dir, "run")
		if len(j.command) == 1 {
			if err := os.Symlink(j.command[0], run); err != nil {
				return "", err
			}
			continue
		}
		script := "#!/bin/sh\nexec " + strings.Join(j.command, " ") + "\n"
		if err := os.WriteFile(run, []byte(script), 0o755); err != nil {
			return "", err
		}
	}
	return top, nil
}

// supervisord is supervisor; it is slow to start at 1,000 workers, so one round has to do there.
func supervisord(argv []string, env []string) contender {
	return contender{
		name: "supervisor", kind: kindPeer, stop: []unix.Signal{unix.SIGTERM}, few: 1, env: env,
		argv: func(c *cell, j job) ([]string, error) {
			config, output := filepath.Join(c.dir, "supervisord.conf"), "NONE"
			if j.output != "" {
				output = filepath.Join(c.dir, "%(process_num)05d.log")
			}
			text := fmt.Sprintf(`[supervisord]
logfile=%[1]s/supervisord.text
pidfile=%[1]s/supervisord.pid
childlogdir=%[1]s
minfds=15000
nodaemon=true
[program:bench]
command=%[2]s
process_name=w%%(process_num)05d
numprocs=%[3]d
startsecs=0
autorestart=true
stdout_logfile=%[4]s
stdout_logfile_maxbytes=0
stderr_logfile=NONE
`, c.dir, strings.Join(j.command, " "), j.workers, output)
			err := os.WriteFile(config, []byte(text), 0o644)
			return append(append([]string(nil), argv...), "-n", "-c", config), err
		},
	}
}

// errAbsent is the reason why something is not measured.
var errAbsent = errors.New("not there")
