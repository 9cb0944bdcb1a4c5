package probe

import (
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/pitvisor/pitvisor/spawn"
	"github.com/pitvisor/pitvisor/supervise"
)

const (
	defaultInterval   = 100 * time.Millisecond
	defaultTryTimeout = 5 * time.Second
	// portPatience is how long a port may be seen with a stranger before the
	// start fails: a stale run that is being swept gives its ports up in less.
	portPatience = 2 * time.Second
)

// Rules says when a start is ready. Every rule that is set must hold; at least
// one must be set. They are waited for one after the other, events first:
// Notify, FD, File, Stdout, Stderr, then TCP, HTTP, GRPC, then Exec.
//
// In TCP, HTTP, GRPC and Exec the text {port} is the port that Stdout or Stderr
// captured, else the number in the ready file, else Port plus the slot. In File
// and Exec {run}, {pool}, {slot}, {worker} and {start} are replaced too.
//
// TCP, HTTP and GRPC hold only if the sockets that listen on the port belong to
// processes of the worker's leaf, in the worker's network namespace, and nobody
// outside the leaf listens there as well. They therefore ask an address of this
// machine: an IP address or localhost. No host means localhost.
type Rules struct {
	// Stdout and Stderr hold when a whole line matches somewhere. The group
	// named port, else the first group if it is a number, is the worker's port.
	// A match with a port outside 1 to 65535 does not count.
	Stdout, Stderr *regexp.Regexp

	// File holds when the worker has written this file, absolute, during this
	// start. FileAuto is the same with a file of the package's choice, which the
	// worker finds in PITVISOR_READY_FILE, in a directory that only this start
	// has. At most one of them may be set.
	//
	// The content is complete when it ends in a newline or the file was renamed
	// into place; until then the file may be half written, even if it is closed.
	// An empty file and one that is no text do not count. A first line that is a
	// number, host:number or port=number is the port.
	File     string
	FileAuto bool

	TCP         string // host:port, :port or port: a connection is accepted
	HTTP        string // [GET |HEAD ][http://][host:port]/path: the answer is 2xx or 3xx; nothing is followed
	GRPC        string // as TCP: grpc.health.v1.Health/Check answers SERVING, in plain HTTP/2
	GRPCService string // the service asked about; empty means the server as a whole

	// Notify holds when a process of the leaf sent READY=1 to $NOTIFY_SOCKET. It
	// needs Deps.Notify.
	Notify bool

	// Exec is a command that exits 0, run in a leaf of its own beside the
	// worker's, in the worker's network namespace.
	Exec []string

	// FD is the descriptor, 3 to 9, on which the worker writes a newline. The
	// worker also finds it in PITVISOR_READY_FD. 0 means no such rule.
	FD int

	// Port plus the slot is the port that the worker is told in PITVISOR_PORT;
	// 0 means none.
	Port int

	// Interval is the longest pause between two tries of a rule that has no
	// event; the first pauses are shorter. 0 means 100 ms. TryTimeout bounds
	// one try; 0 means 5 s.
	Interval, TryTimeout time.Duration
}

// Deps is what the rules of one pool need from their surroundings. The zero
// value is enough for rules without FileAuto, Notify and Exec.
type Deps struct {
	// RuntimeDir is where FileAuto makes one directory per start. It must exist
	// and let the workers' users pass (0711).
	RuntimeDir string

	Notify *NotifyServer // for Notify; its Serve must be running
	Files  *FileWatcher  // shared by pools to save inotify instances; nil gives this pool its own

	// Count is told what workers count, for Live.Count. It must not block.
	Count func(supervise.StartInfo, uint64)

	Track supervise.Track // what the pool calls alive; see supervise.PoolSpec

	// What Exec runs with. A nil environment is empty, no directory is "/", no
	// credential is the supervisor's own.
	ExecEnv        []string
	ExecDir        string
	ExecCredential *spawn.Credential
}

// New checks the rules and returns the readiness of one pool.
func New(r Rules, d Deps) (supervise.Readiness, error) {
	rd := &readiness{rules: r, deps: d, patience: portPatience}
	if err := rd.parse(); err != nil {
		return nil, err
	}
	if r.Notify && d.Notify == nil {
		return nil, errors.New("wait for sd_notify: no notification server")
	}
	if r.FileAuto && d.RuntimeDir == "" {
		return nil, errors.New("wait for a ready file: no runtime directory")
	}
	if rd.deps.Files == nil {
		rd.deps.Files = NewFileWatcher()
	}
	if rd.rules.Interval == 0 {
		rd.rules.Interval = defaultInterval
	}
	if rd.rules.TryTimeout == 0 {
		rd.rules.TryTimeout = defaultTryTimeout
	}
	return rd, nil
}

// Validate reports what New would refuse whatever the Deps.
func (r Rules) Validate() error {
	return (&readiness{rules: r}).parse()
}

// readiness is the rules of one pool, parsed.
type readiness struct {
	rules Rules
	deps  Deps

	tcp, grpc *target
	http      *httpTarget
	patience  time.Duration
}

// parse checks every rule and reports everything that is wrong.
func (rd *readiness) parse() error {
	r := &rd.rules
	errs := []error{rd.parseTargets(), r.checkFile(), r.checkNumbers()}
	if !r.any() {
		errs = append(errs, errors.New("no readiness rule is set"))
	}
	if rd.usesPort() && !r.givesPort() {
		errs = append(errs, errors.New("{port} has no source: capture it with stdout or stderr, have it written to the ready file, or set port"))
	}
	if r.GRPCService != "" && r.GRPC == "" {
		errs = append(errs, errors.New("a gRPC service is named but no gRPC address"))
	}
	if len(r.Exec) > 0 && r.Exec[0] == "" {
		errs = append(errs, errors.New("the exec rule has no program"))
	}
	return errors.Join(errs...)
}

func (rd *readiness) parseTargets() error {
	var err error
	var errs []error
	if rd.rules.TCP != "" {
		if rd.tcp, err = parseTarget(rd.rules.TCP); err != nil {
			errs = append(errs, fmt.Errorf("tcp %q: %w", rd.rules.TCP, err))
		}
	}
	if rd.rules.GRPC != "" {
		if rd.grpc, err = parseTarget(rd.rules.GRPC); err != nil {
			errs = append(errs, fmt.Errorf("grpc %q: %w", rd.rules.GRPC, err))
		}
	}
	if rd.rules.HTTP != "" {
		if rd.http, err = parseHTTP(rd.rules.HTTP); err != nil {
			errs = append(errs, fmt.Errorf("http %q: %w", rd.rules.HTTP, err))
		}
	}
	return errors.Join(errs...)
}
