package pidfd

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"
)

var (
	ErrGone         = errors.New("process is gone")
	ErrNotSupported = errors.New("not supported by this kernel")
	ErrNotReaped    = errors.New("process is not reaped yet")
)

type Process struct{ fd, pid int }

func Open(pid int) (*Process, error)                    { panic("unbuilt") }
func FromFD(fd, pid int) *Process                       { panic("unbuilt") }
func Self() (*Process, error)                           { panic("unbuilt") }
func (p *Process) PID() int                             { panic("unbuilt") }
func (p *Process) FD() int                              { panic("unbuilt") }
func (p *Process) Close() error                         { panic("unbuilt") }
func (p *Process) Signal(sig unix.Signal) error         { panic("unbuilt") }
func (p *Process) Exited() (bool, error)                { panic("unbuilt") }
func (p *Process) Wait(ctx context.Context) error       { panic("unbuilt") }
func (p *Process) WaitReaped(ctx context.Context) error { panic("unbuilt") }
func (p *Process) Info() (Info, error)                  { panic("unbuilt") }
func (p *Process) Identity() (Identity, error)          { panic("unbuilt") }
func (p *Process) ExitStatus() (unix.WaitStatus, error) { panic("unbuilt") }

type Info struct {
	PID, PPID, UID int
	CgroupID       uint64
}

type Identity struct {
	Boot  string `json:"boot"`
	Inode uint64 `json:"inode,omitempty"`
	PID   int    `json:"pid"`
	Start uint64 `json:"start,omitempty"`
}

func (id Identity) String() string          { panic("unbuilt") }
func (id Identity) Open() (*Process, error) { panic("unbuilt") }
func (id Identity) Alive() (bool, error)    { panic("unbuilt") }
func BootID() (string, error)               { panic("unbuilt") }

type Tier uint8

const (
	TierE Tier = iota
	TierD
	TierC
	TierB
	TierA
)

func (t Tier) String() string { panic("unbuilt") }

type Features struct{ Open, Pidfs, Info, Handles, ExitInfo bool }

func Probe() Features { panic("unbuilt") }

type Poller struct{}

func NewPoller() (*Poller, error)                               { panic("unbuilt") }
func (p *Poller) Add(fd int, events uint32, token uint64) error { panic("unbuilt") }
func (p *Poller) Remove(fd int) error                           { panic("unbuilt") }
func (p *Poller) Run(ctx context.Context, f func(token uint64, events uint32)) error {
	panic("unbuilt")
}
func (p *Poller) Close() error { panic("unbuilt") }
