package cgroup

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

var (
	ErrNoCgroup2    = errors.New("no cgroup2 file system is mounted")
	ErrNotSupported = errors.New("not supported here")
	ErrPopulated    = errors.New("the cgroup holds processes or cgroups")
	ErrGone         = errors.New("the cgroup is gone")
	ErrLocked       = errors.New("the cgroup is locked by another process")
	ErrSelf         = errors.New("the cgroup holds the calling process or one of its ancestors")
)

type Mount struct {
	Path                         string
	Root                         string
	Hybrid, ReadOnly, NSDelegate bool
}

func FindMount() (Mount, error) { panic("unbuilt") }
func SelfPath() (string, error) { panic("unbuilt") }

type RootSource string

const (
	RootFlag      RootSource = "flag"
	RootDelegated RootSource = "delegated"
	RootOwned     RootSource = "owned"
)

type Root struct {
	Dir    *Dir
	Source RootSource
	Mount  Mount
}

func FindRoot(explicit string) (Root, error) { panic("unbuilt") }

type NoRootError struct {
	Path string
	Err  error
}

func (e *NoRootError) Error() string { panic("unbuilt") }
func (e *NoRootError) Unwrap() error { return e.Err }
func (e *NoRootError) Hint() string  { panic("unbuilt") }

type Dir struct {
	fd   int
	id   uint64
	path string
}

func Open(path string) (*Dir, error)                                     { panic("unbuilt") }
func (d *Dir) Path() string                                              { panic("unbuilt") }
func (d *Dir) Name() string                                              { panic("unbuilt") }
func (d *Dir) FD() int                                                   { return d.fd }
func (d *Dir) ID() uint64                                                { return d.id }
func (d *Dir) Close() error                                              { panic("unbuilt") }
func (d *Dir) Create(name string) (*Dir, error)                          { panic("unbuilt") }
func (d *Dir) OpenChild(name string) (*Dir, error)                       { panic("unbuilt") }
func (d *Dir) Children() ([]string, error)                               { panic("unbuilt") }
func (d *Dir) Exists() (bool, error)                                     { panic("unbuilt") }
func (d *Dir) RemoveChild(name string, id uint64) error                  { panic("unbuilt") }
func (d *Dir) Destroy(ctx context.Context, name string, id uint64) error { panic("unbuilt") }

type BlockedError struct {
	Path     string
	Blockers []Blocker
	Err      error
}

func (e *BlockedError) Error() string { panic("unbuilt") }
func (e *BlockedError) Unwrap() error { return e.Err }

type Blocker struct {
	PID                int
	Comm, State, Wchan string
}

func (d *Dir) Controllers() ([]string, error)     { panic("unbuilt") }
func (d *Dir) Enable(controllers ...string) error { panic("unbuilt") }

type ControllerError struct {
	Controller, Path string
	Hybrid           bool
	Err              error
}

func (e *ControllerError) Error() string { panic("unbuilt") }
func (e *ControllerError) Unwrap() error { return e.Err }
func (e *ControllerError) Hint() string  { panic("unbuilt") }

type Limits struct {
	MemoryMax, MemoryHigh, MemoryLow, MemoryMin, MemorySwapMax, PIDsMax int64
	CPUWeight, IOWeight                                                 uint64
	CPUQuota, CPUPeriod                                                 time.Duration
	CPUs, Mems                                                          string
	OOMGroup                                                            bool
}

const Unlimited int64 = -1

func (l Limits) IsZero() bool           { return l == Limits{} }
func (l Limits) Controllers() []string  { panic("unbuilt") }
func (d *Dir) SetLimits(l Limits) error { panic("unbuilt") }

type Usage struct {
	MemoryCurrent, MemoryPeak, PIDs *uint64
	CPUUsage                        *time.Duration
	OOMKills                        *uint64
}

func (d *Dir) Usage() (Usage, error)         { panic("unbuilt") }
func (d *Dir) MemoryCurrent() (uint64, bool) { panic("unbuilt") }
func (d *Dir) PIDs() ([]int, error)          { panic("unbuilt") }
func (d *Dir) PIDsRecursive() ([]int, error) { panic("unbuilt") }

type Events struct{ Populated, Frozen bool }

func (d *Dir) Events() (Events, error)                  { panic("unbuilt") }
func (d *Dir) OpenEvents() (*os.File, error)            { panic("unbuilt") }
func (d *Dir) WaitEmpty(ctx context.Context) error      { panic("unbuilt") }
func (d *Dir) Kill() error                              { panic("unbuilt") }
func (d *Dir) KillEach(ctx context.Context) error       { panic("unbuilt") }
func (d *Dir) Signal(sig unix.Signal) (int, error)      { panic("unbuilt") }
func (d *Dir) Freeze(ctx context.Context) error         { panic("unbuilt") }
func (d *Dir) Thaw(ctx context.Context) error           { panic("unbuilt") }
func (d *Dir) Lock() error                              { panic("unbuilt") }
func (d *Dir) Locked() (bool, error)                    { panic("unbuilt") }
func (d *Dir) SetXattr(name string, value []byte) error { panic("unbuilt") }
func (d *Dir) Xattr(name string) ([]byte, error)        { panic("unbuilt") }
func (d *Dir) MoveSelf() error                          { panic("unbuilt") }
func (d *Dir) HoldsSelf() (bool, error)                 { panic("unbuilt") }
func (d *Dir) Contains(id uint64) (bool, error)         { panic("unbuilt") }
