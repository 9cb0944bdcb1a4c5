package confine

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Container says what a container is like. The zero value is one like Docker's
// --privileged: everything is allowed in it, and it has a cgroup tree of its own.
type Container struct {
	// Cgroup is how it sees cgroup2; "" is CgroupPrivate.
	Cgroup CgroupView `json:"cgroup"`

	// Capabilities are what its programs may have at most; nil is all that the caller
	// has. See DockerCapabilities.
	Capabilities []int `json:"capabilities"`

	// Refuse are system calls that a seccomp filter answers.
	Refuse []Refusal `json:"refuse,omitempty"`

	// Masked makes /sys, /proc/sys and the like read-only and hides some files, as
	// Docker does unless --privileged is given.
	Masked bool `json:"masked,omitempty"`

	// Entry makes the program PID 1 itself, as Docker does. Otherwise PID 1 is a small
	// init that passes signals on and reaps, as with docker run --init.
	Entry bool `json:"entry,omitempty"`

	// Binds are files and directories of the host that it sees.
	Binds []Bind `json:"binds,omitempty"`

	// Dir is where the program starts; "" is /.
	Dir string `json:"dir,omitempty"`

	// Files is how many descriptors beside the first three the program inherits.
	Files int `json:"files,omitempty"`

	// Of the stages of Enter.
	Confine  bool `json:"confine,omitempty"`  // the program is to be executed now
	Report   int  `json:"report,omitempty"`   // descriptor for the init's report; 0 is none
	Lifeline int  `json:"lifeline,omitempty"` // descriptor at whose end the init ends; 0 is none
}

// CgroupView is how a container sees the cgroup2 file system, which is always at
// /sys/fs/cgroup in it.
type CgroupView string

// Views of cgroup2.
const (
	// CgroupPrivate is a cgroup namespace with a mount of its own, which may be
	// written to: podman run --cgroupns=private --security-opt unmask=/sys/fs/cgroup, and
	// docker run --security-opt writable-cgroups=true.
	CgroupPrivate CgroupView = "private"
	// CgroupReadOnly is the same read-only: what Docker, Podman and Kubernetes give.
	CgroupReadOnly CgroupView = "read-only"
	// CgroupHost is the host's tree in the host's namespace, which may be written to:
	// docker run --cgroupns=host -v /sys/fs/cgroup:/sys/fs/cgroup:rw.
	CgroupHost CgroupView = "host"
	// CgroupNone is no cgroup2 at all, as on a host with cgroup v1.
	CgroupNone CgroupView = "none"
)

// Bind is a file or directory of the host.
type Bind struct {
	From, To string
	Writable bool
}

// Cloneflags are the namespaces in which [Enter] is to be called as PID 1.
const Cloneflags = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET

// Check says what is wrong with the container.
func (c Container) Check() error {
	switch c.Cgroup {
	case "", CgroupPrivate, CgroupReadOnly, CgroupHost, CgroupNone:
	default:
		return fmt.Errorf("cgroup view %q: want private, read-only, host or none", c.Cgroup)
	}
	for _, b := range c.Binds {
		if !filepath.IsAbs(b.From) || !filepath.IsAbs(b.To) {
			return fmt.Errorf("bind %q at %q: want absolute paths", b.From, b.To)
		}
	}
	return nil
}

// Argv is the command line of a program that enters the container and becomes args
// there: self, which must make the program call [Enter], the container, args.
func (c Container) Argv(self, args []string) ([]string, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	text, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	return slices.Concat(self, []string{string(text)}, args), nil
}

// enterName is argv[0] of the programs that Run starts.
const enterName = "linuxtest-container"

// Main must be the first thing that the main of a binary with [Container.Run] does.
// In a container it does not return; otherwise it returns at once.
func Main() {
	if len(os.Args) > 0 && os.Args[0] == enterName {
		os.Exit(Enter(os.Args[:1], os.Args[1:]))
	}
}

// Enter makes the container of the process that it is called in, which must be PID 1
// of new namespaces, and runs the program there: args are those behind self in
// [Container.Argv]. It returns the exit code: the program's own, 128 and the number
// of the signal that ended it, or 125 with a message on stderr.
//
// It must be called before anything else in main: what it changes belongs to threads.
func Enter(self, args []string) int {
	code, err := enter(self, args)
	if err != nil {
		fmt.Fprintf(os.Stderr, "linuxtest: container: %v\n", err)
		return 125
	}
	return code
}

// enter returns the exit code of the init; a program that replaces it does not return.
func enter(self, args []string) (int, error) {
	if len(args) < 2 {
		return 125, fmt.Errorf("nothing to run: %q", args)
	}
	var c Container
	if err := json.Unmarshal([]byte(args[0]), &c); err != nil {
		return 125, fmt.Errorf("read what the container is like: %w", err)
	}
	args = args[1:]
	if c.Confine {
		return 125, c.confine(args)
	}
	if os.Getpid() != 1 {
		return 125, fmt.Errorf("this is process %d and not the first one of a PID namespace", os.Getpid())
	}
	if err := c.build(); err != nil {
		return 125, err
	}
	if c.Entry {
		return 125, c.confine(args)
	}
	return c.serve(self, args)
}
