package vm

import (
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Machine is a guest and what it is to run. Kernel and Programs must be set.
type Machine struct {
	Kernel   *Kernel
	Root     *Root     // nil: the guest has nothing but the programs' own disk
	System   *System   // boot this with its systemd, instead of a Root
	Payload  string    // a disk image that becomes /src; "" is none
	Programs []Program // run one after the other; in a System, each in a machine of its own
	Env      []string  // of each program
	Memory   int       // in MiB; 0 is 1024
	CPUs     int       // 0 is 2
	Accel    string    // "kvm" or "tcg"; "" is the better one that works

	// Boot is how long the guest may take to be ready; 0 is two minutes, and half a
	// minute with KVM. After it each program has its own limit, and a minute more.
	Boot time.Duration

	// Observe, unless nil, is told what happens while it happens.
	Observe func(Event)
}

// Event is something that happened in the guest.
type Event struct {
	Kind    EventKind
	Program int    // which one
	Output  []byte // of EventOutput; valid during the call
	Exit    *Exit  // of EventEnd; nil when the program did not start
	Left    []string
	Err     string
}

// EventKind says what an [Event] is.
type EventKind uint8

// Kinds of events.
const (
	EventReady  EventKind = iota // the guest is up
	EventStart                   // a program starts
	EventOutput                  // it wrote something
	EventEnd                     // it ended
)

// Run is the outcome of [Machine.Run].
type Run struct {
	Guest      *Guest
	Accel      string          // how instructions were run
	AccelWhy   string          // why not by KVM
	Boot       time.Duration   // from the start of QEMU until the guest was ready; 0: it was saved before
	Save       time.Duration   // to save a System
	Restores   []time.Duration // from the start of QEMU until a saved System went on
	Total      time.Duration   // until QEMU was gone
	CPU        time.Duration   // that QEMU has used
	Complaints []string        // lines in which the kernel speaks of a fault of its own
}

func (m *Machine) cpus() int {
	if m.CPUs == 0 {
		return 2
	}
	return m.CPUs
}

func (m *Machine) memory() int {
	if m.Memory == 0 {
		return 1024
	}
	return m.Memory
}

// Run boots the guest, runs the programs and returns when QEMU is gone. A program
// that fails is no error: its end is an event. An error says that the guest did
// not do its job, with the end of its console.
//
// A guest that does not get ready with KVM, where nobody asked for it, is booted
// again without.
func (m *Machine) Run(ctx context.Context) (*Run, error) {
	began := time.Now()
	accel, why := m.Accel, ""
	if accel == "" {
		accel, why = acceleration()
	}
	r, err := m.run(ctx, accel)
	if err != nil && m.Accel == "" && accel == "kvm" && r.Guest == nil && ctx.Err() == nil {
		first, _, _ := strings.Cut(err.Error(), ";") // without the console
		why = "with KVM: " + first
		r, err = m.run(ctx, "tcg")
	}
	r.AccelWhy = why
	r.Total = time.Since(began)
	return r, err
}

// run runs the machine once.
func (m *Machine) run(ctx context.Context, accel string) (*Run, error) {
	if m.System != nil {
		return m.runSystem(ctx, accel)
	}
	r := &Run{Accel: accel}
	self, err := staticSelf()
	if err != nil {
		return r, err
	}
	initramfs, err := m.initramfs(self, accel)
	if err != nil {
		return r, err
	}
	defer func() { _ = initramfs.Close() }() // nothing to lose
	scratch, err := memoryFile("scratch")
	if err != nil {
		return r, err
	}
	defer func() { _ = scratch.Close() }() // nothing to lose
	if err := scratch.Truncate(scratchSize); err != nil {
		return r, err
	}
	g, err := start(m.arguments(accel, m.disks()), initramfs, scratch)
	if err != nil {
		return r, err
	}
	started := time.Now()
	err = m.follow(ctx, g, m.patience(accel), listener{ready: func(guest *Guest) {
		r.Guest, r.Boot = guest, time.Since(started)
	}})
	if err != nil {
		err = fmt.Errorf("%w; the console ends with:\n%s", err, lastLines(g.console.String(), 60))
	}
	err = errors.Join(err, g.stop())
	r.CPU = g.used()
	r.Complaints = g.console.found()
	return r, err
}

// patience is how long the guest may take to be ready.
func (m *Machine) patience(accel string) time.Duration {
	switch {
	case m.Boot != 0:
		return m.Boot
	case accel == "kvm":
		return 30 * time.Second
	}
	return 2 * time.Minute
}

// scratchSize is the disk at /dev/vdX that $LINUXTEST_SCRATCH_DISK names.
const scratchSize = 64 << 20

// disks are QEMU's drives in the order of the guest's names.
func (m *Machine) disks() []string {
	var disks []string
	if m.Root != nil {
		disks = append(disks, m.Root.Image)
	}
	if m.Payload != "" {
		disks = append(disks, m.Payload)
	}
	return append(disks, "/proc/self/fd/5")
}

// staticSelf is the path of this binary, which must run without libraries.
func staticSelf() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the program: %w", err)
	}
	f, err := elf.Open(self)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // read-only; nothing to lose
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return "", fmt.Errorf("%s is also the guest's init and must be static: build it with CGO_ENABLED=0", self)
		}
	}
	return self, nil
}

// initramfs writes the first file system of the guest.
func (m *Machine) initramfs(self, accel string) (*os.File, error) {
	env := []string{"LINUXTEST_SCRATCH_DISK=/dev/vd" + string(rune('a'+len(m.disks())-1))}
	if accel == "tcg" {
		env = append(env, "LINUXTEST_EMULATED=1")
	}
	return m.Kernel.initramfs(self, jobFile, job{
		Root: m.Root != nil, Payload: m.Payload != "",
		Env: append(env, m.Env...), Programs: m.Programs,
	})
}

// initramfs writes one with this program as init, the kernel's modules, and a file
// that says what to do.
func (k *Kernel) initramfs(self, name string, todo any) (*os.File, error) {
	init, err := os.ReadFile(self)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(todo)
	if err != nil {
		return nil, err
	}
	f, err := memoryFile("initramfs")
	if err != nil {
		return nil, err
	}
	a := &archive{w: f}
	a.dir("dev")
	a.device("dev/console", 0o600, 5, 1)
	a.file("init", 0o755, init)
	a.file(strings.TrimPrefix(name, "/"), 0o644, text)
	a.dir("modules")
	order := ""
	for _, path := range k.Modules {
		module, err := os.ReadFile(path)
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		order += filepath.Base(path) + "\n"
		a.file("modules/"+filepath.Base(path), 0o644, module)
	}
	a.file("modules/modules.order", 0o644, []byte(order))
	if err := a.end(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// listener is told what concerns the machine and not its programs.
type listener struct {
	ready func(*Guest)
	up    func() error // a System waits for its order
}

// follow reads what the guest says until it says goodbye, or until a limit.
func (m *Machine) follow(ctx context.Context, g *emulation, patience time.Duration, on listener) error {
	w := wait{patience, "the guest to be ready"}
	stop := context.AfterFunc(ctx, func() { _ = g.port.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		kind, data, err := w.receive(ctx, g.port)
		if err != nil {
			return err
		}
		if kind == frameOutput {
			m.tell(Event{Kind: EventOutput, Output: data})
			continue
		}
		var msg message
		if err := json.Unmarshal(data, &msg); err != nil {
			return fmt.Errorf("read a message of the guest: %w", err)
		}
		switch msg.Type {
		case "bye":
			return nil
		case "error":
			return fmt.Errorf("in the guest: %s", msg.Text)
		case "ready":
			on.ready(msg.Guest)
			m.tell(Event{Kind: EventReady})
		case "up":
			if err := on.up(); err != nil {
				return err
			}
			w = wait{patience, "the guest to be ready"}
		case "restart":
			w = wait{patience, "the guest to be up again"}
		case "start":
			p := m.Programs[msg.Program]
			w = wait{p.limit() + time.Minute, p.Name}
			m.tell(Event{Kind: EventStart, Program: msg.Program})
		case "end":
			w = wait{time.Minute, "the next program"}
			m.tell(Event{Kind: EventEnd, Program: msg.Program, Exit: msg.Exit, Left: msg.Left, Err: msg.Text})
		}
	}
}

// wait is what the host waits for, and how long since the guest last spoke.
type wait struct {
	limit time.Duration
	what  string
}

func (w wait) receive(ctx context.Context, port *os.File) (kind byte, data []byte, err error) {
	err = port.SetReadDeadline(time.Now().Add(w.limit))
	if err == nil && ctx.Err() == nil { // or the deadline of the end was overwritten
		kind, data, err = receive(port)
	}
	switch {
	case ctx.Err() != nil:
		return 0, nil, context.Cause(ctx)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return 0, nil, fmt.Errorf("gave up after %v of waiting for %s", w.limit, w.what)
	case errors.Is(err, io.EOF):
		return 0, nil, fmt.Errorf("the guest ended while we waited for %s", w.what)
	case err != nil:
		return 0, nil, fmt.Errorf("read from the guest: %w", err)
	}
	return kind, data, nil
}

func (m *Machine) tell(e Event) {
	if m.Observe != nil {
		m.Observe(e)
	}
}
