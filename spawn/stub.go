package spawn

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/pitvisor/pitvisor/cgroup"
	"github.com/pitvisor/pitvisor/pidfd"
	"golang.org/x/sys/unix"
)

var ErrRunning = errors.New("process is still running")

type Credential struct {
	UID, GID uint32
	Groups   []uint32
}
type Rlimit struct {
	Resource   int
	Soft, Hard uint64
}
type Session uint8

const (
	SessionNew Session = iota
	SessionGroup
	SessionKeep
)

type Cmd struct {
	Path                  string
	Args                  []string
	Env                   []string
	Dir                   string
	Leaf                  *cgroup.Dir
	Stdin, Stdout, Stderr *os.File
	ExtraFiles            []*os.File
	Credential            *Credential
	Umask                 *int
	Rlimits               []Rlimit
	Nice                  *int
	OOMScoreAdj           *int
	NoNewPrivs            bool
	Session               Session
	NetNS                 bool
	ForceHelper           bool
}

func Start(c *Cmd) (*Process, error) { panic("unbuilt") }

func LookPath(name string, env []string, dir string) (string, error) { panic("unbuilt") }

type Cause uint8

const (
	CauseUnknown Cause = iota
	CauseNotFound
	CauseNotExecutable
	CauseBadFormat
	CauseNoInterpreter
	CauseCgroupGone
	CauseCgroupFrozen
	CauseKilledBeforeExec
	CauseForkLimit
	CauseBadDir
	CauseCredential
	CausePermission
	CauseTooManyFiles
	CauseSetting
	CauseNetwork
	CauseHelper
	CauseInvalid
)

func (c Cause) String() string { panic("unbuilt") }

type Error struct {
	Path, Leaf string
	Cause      Cause
	Detail     string
	Err        error
}

func (e *Error) Error() string { panic("unbuilt") }
func (e *Error) Unwrap() error { return e.Err }
func (e *Error) Hint() string  { panic("unbuilt") }

type Process struct{}

func (p *Process) PID() int                               { panic("unbuilt") }
func (p *Process) Handle() *pidfd.Process                 { panic("unbuilt") }
func (p *Process) Signal(sig unix.Signal) error           { panic("unbuilt") }
func (p *Process) Reap() (Exit, error)                    { panic("unbuilt") }
func (p *Process) Wait(ctx context.Context) (Exit, error) { panic("unbuilt") }
func (p *Process) Close() error                           { panic("unbuilt") }

type Exit struct {
	Code             int
	Signal           unix.Signal
	Core, BeforeExec bool
	At               time.Time
}

func (e Exit) String() string { panic("unbuilt") }
func (e Exit) Success() bool  { panic("unbuilt") }

func HelperMain() {}

func Poisoned(root *cgroup.Dir) (bool, error) { panic("unbuilt") }

func ReapOrphans(ctx context.Context) error { panic("unbuilt") }
