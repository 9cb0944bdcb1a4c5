package spawn

import (
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/pitvisor/pitvisor/cgroup"
	"golang.org/x/sys/unix"
)

// Cmd says what to start and how. Path and Leaf must be set. A Cmd is not changed
// by [Start] and may be used again, with another leaf.
type Cmd struct {
	// Path is the program. It is not looked up: see [LookPath]. A relative one is
	// relative to Dir.
	Path string
	Args []string // Args[0] is the program's own name for itself; nil is Path alone
	Env  []string // the whole environment; nothing is inherited
	Dir  string   // working directory; "" is the caller's

	// Leaf is the cgroup the process is born in. It must be fresh: the kernel kills
	// whatever is started in a cgroup that was once killed (6.14 to 7.2).
	Leaf *cgroup.Dir

	// Weak starts the process in the cgroup of the caller, where nothing holds what it
	// leaves behind. Leaf must be nil then. It is for hosts that have no cgroup to
	// give; package internal/weak does what can be done there.
	Weak bool

	// Thawed says that the caller has just seen, in [cgroup.Dir.Events] of a fresh
	// cgroup in the same place, that nothing is frozen there. It saves this check,
	// one twentieth of the price of a start, to who starts many at once.
	Thawed bool

	// Autokill has the kernel kill the process when [Process.Handle] is closed, by
	// [Process.Close] or with the end of this program, whatever ends that. It needs
	// Linux 7.1 and CAP_SYS_ADMIN, and is left out without them, and with the helper.
	// See [Process.Autokill].
	//
	// A child that something else in this program forks at that moment, and a process
	// that was given the pidfd, keep it open and so the process alive.
	Autokill bool

	// The standard files. nil is /dev/null, opened for each start. As in os/exec a
	// file in nonblocking mode is switched to blocking, also for the caller.
	Stdin, Stdout, Stderr *os.File
	ExtraFiles            []*os.File // entry i becomes descriptor 3+i; nil leaves it closed

	Credential *Credential // nil keeps the caller's user and groups
	Umask      *int        // nil keeps the caller's
	Nice       *int        // absolute, -20 to 19; nil keeps the caller's
	NoNewPrivs bool        // no set-user-ID program gives it or its children more rights
	Session    Session
	NetNS      bool // a new network namespace with nothing but the loopback device, up

	// OwnPID is a variable, such as LISTEN_PID, in which the process finds its own number;
	// "" is none. It replaces what Env says.
	//
	// For this and the next two the helper is needed before Linux 5.7 and on processors
	// other than amd64 and arm64. It costs several times the price of a start.
	OwnPID string

	Rlimits     []Rlimit
	OOMScoreAdj *int // -1000 to 1000; nil keeps the caller's

	// ForceHelper uses the helper where it is not needed: for tests and diagnosis.
	ForceHelper bool
}

// Credential is the user a process runs as. All of it is set: with Groups nil the
// process is in no group but GID.
type Credential struct {
	UID, GID uint32
	Groups   []uint32
}

// Rlimit is one resource limit, such as unix.RLIMIT_CORE.
type Rlimit struct {
	Resource   int
	Soft, Hard uint64 // unix.RLIM_INFINITY is none
}

// Session says which session and process group a process starts in.
type Session uint8

// The sessions.
const (
	SessionNew   Session = iota // its own session and process group, without a terminal
	SessionGroup                // its own process group in the caller's session
	SessionKeep                 // the caller's session and process group: gets its Ctrl-C
)

// args is what execve gets.
func (c *Cmd) args() []string {
	if c.Args == nil {
		return []string{c.Path}
	}
	return c.Args
}

// check refuses what can be seen to be wrong without starting anything.
func (c *Cmd) check() error {
	switch {
	case c.Path == "":
		return c.invalid("no path")
	case c.Leaf == nil && !c.Weak:
		return c.invalid("no leaf cgroup")
	case c.Leaf != nil && c.Weak:
		return c.invalid("weak, and cgroup " + c.Leaf.Path() + " as its leaf")
	case c.Args != nil && len(c.Args) == 0:
		return c.invalid("Args has no element 0")
	case strings.ContainsRune(c.OwnPID, '='):
		return c.invalid(fmt.Sprintf("variable %q has an equals sign in it", c.OwnPID))
	case c.Umask != nil && *c.Umask&^0o777 != 0:
		return c.invalid(fmt.Sprintf("umask %#o is not between 0 and 0777", *c.Umask))
	}
	return nil
}

// checkStrings finds a string that cannot be passed to a process.
func (c *Cmd) checkStrings() error {
	for what, list := range map[string][]string{
		"path": {c.Path}, "directory": {c.Dir}, "argument": c.Args, "environment entry": c.Env, "variable": {c.OwnPID},
	} {
		for _, s := range list {
			if strings.IndexByte(s, 0) >= 0 {
				return c.invalid(fmt.Sprintf("%s %q holds a zero byte", what, s))
			}
		}
	}
	return nil
}

func (c *Cmd) invalid(detail string) error {
	return c.fail(CauseInvalid, detail, unix.EINVAL)
}

// fail makes the error of a start.
func (c *Cmd) fail(cause Cause, detail string, err error) *Error {
	e := &Error{Path: c.Path, Cause: cause, Detail: detail, Err: err}
	if c.Leaf != nil {
		e.Leaf = c.Leaf.Path()
	}
	return e
}

// sysProcAttr is what every kind of start has in common.
func (c *Cmd) sysProcAttr(pidfd *int) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		PidFD:   pidfd,
		Setsid:  c.Session == SessionNew,
		Setpgid: c.Session == SessionGroup,
	}
}
