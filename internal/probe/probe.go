package probe

import (
	"regexp"
	"time"

	"github.com/pitvisor/pitvisor/spawn"
	"github.com/pitvisor/pitvisor/supervise"
)

// Rules says when a start is ready. Every rule that is set must hold. They are
// looked at in this order: Notify, FD, File, Stdout, Stderr, then TCP, HTTP,
// GRPC, then Exec. At least one must be set.
type Rules struct {
	Stdout, Stderr *regexp.Regexp
	File           string
	FileAuto       bool
	TCP            string
	HTTP           string
	GRPC           string
	GRPCService    string
	Notify         bool
	Exec           []string
	FD             int
	Port           int
	Interval       time.Duration
	TryTimeout     time.Duration
}

// Deps is what the rules of one pool need from their surroundings.
type Deps struct {
	RuntimeDir     string
	Notify         *NotifyServer
	Files          *FileWatcher
	Track          supervise.Track
	ExecEnv        []string
	ExecDir        string
	ExecCredential *spawn.Credential
}

// New checks the rules and returns the readiness of one pool.
func New(r Rules, d Deps) (supervise.Readiness, error) { panic("unbuilt") }

// Validate reports what New would refuse, without needing Deps.
func (r Rules) Validate() error { panic("unbuilt") }
