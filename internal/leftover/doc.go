// Package leftover tells what is still in a run when its command has ended: each
// process, how it got away from the command, and where it listens.
//
// Everything it says of a process was read while a pidfd of it was held, and it is
// said only if the process was there, and in the run, after the reading. The caller
// freezes the run first if the picture is to stand still; the facts are true
// without that too, but there may be others a moment later.
//
// What could not be read is named as unknown and never guessed. The package is not
// for ending processes: the numbers in its answer are for printing.
package leftover

import (
	"time"

	"github.com/pitvisor/pitvisor/internal/sockdiag"
	"github.com/pitvisor/pitvisor/pidfd"
)

// Bounds of an answer. A fork bomb leaves thousands of processes, and a process can
// have megabytes of arguments and thousands of sockets.
const (
	MaxProcesses = 200     // listed; all are counted
	MaxArgs      = 4 << 10 // bytes of one command line
	MaxListening = 64      // sockets of one process
)

// Command is what is known of the command whose run it is.
type Command struct {
	Leader  pidfd.Identity // the command's first process, which is no leftover; zero: it is gone
	Session int            // that it was started in; 0 is one outside the caller's PID namespace, below 0 is not known
	Group   int            // process group likewise
	UID     uint32         // effective user
	RunID   string         // the value of PITVISOR_RUN_ID that it got; "" is none, and then no environment is looked at
	Leaf    string         // path of its cgroup below the run; "" is the run's own
}

// Way is one way in which a process is no longer where the command was.
type Way string

// The ways.
const (
	Reparented  Way = "reparented"           // its parent is not in the run any more
	DoubleFork  Way = "double-fork"          // so is the one that made its session or process group
	Setsid      Way = "setsid"               // it is in another session
	Setpgid     Way = "setpgid"              // it is in another process group of the session
	Scrubbed    Way = "environment-scrubbed" // its environment does not name the run
	OtherUser   Way = "other-user"           // it has another effective user
	SubCgroup   Way = "sub-cgroup"           // it is in a cgroup below the command's
	OtherCgroup Way = "other-cgroup"         // it is elsewhere in the run
)

// Fact is something that can be unknown of a process.
type Fact string

// The facts that can be unknown: hidden from the caller, or not to be had in time.
const (
	FactState       Fact = "state" // with it parent, session, process group and age
	FactUID         Fact = "uid"
	FactArgs        Fact = "args"
	FactEnvironment Fact = "environment"
	FactListening   Fact = "listening"
)

// Process is one process that was left. Strings may hold any bytes.
type Process struct {
	PID     int
	Inode   uint64 // of its pidfd: unique in a boot; 0 before Linux 6.9
	PPID    int    // 0 is outside the caller's PID namespace, or unknown
	Session int
	Group   int
	Comm    string
	Args    []string // empty for a process that overwrote it
	ArgsCut bool     // there was more than MaxArgs
	UID     uint32   // effective
	Started time.Time
	Age     time.Duration
	State   string // letter of ps; a frozen process sleeps
	Cgroup  string // path below the run
	Run     string // the nested run that it belongs to, "" for none

	Left             []Way
	Listening        []sockdiag.Socket
	ListeningLeftOut int // sockets beyond MaxListening

	Unknown []Fact // what could not be read and is zero above

	start uint64 // in ticks, to sort by
}

// Found is what was left in a run.
type Found struct {
	Processes []Process // at most MaxProcesses, the oldest first
	Total     int       // all, listed or not; zombies do not count
}
