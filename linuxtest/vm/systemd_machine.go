package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// payloadSize is the size of the payload's disk in a system: it cannot change when a
// saved machine goes on with another payload. What is not written takes no room.
const payloadSize = 2 << 30

// mostBoots is how often a system may boot for one program.
const mostBoots = 5

// system is a machine with a System on its way.
type system struct {
	*Machine
	accel            string
	payload, scratch *os.File
	run              *Run
}

// runSystem runs each program in a system of its own: one that goes on from the
// saved machine, or one that is booted for a cold program.
func (m *Machine) runSystem(ctx context.Context, accel string) (*Run, error) {
	s := &system{Machine: m, accel: accel, run: &Run{Accel: accel}}
	err := s.open()
	if err == nil {
		err = s.all(ctx)
	}
	for _, f := range []*os.File{s.payload, s.scratch} {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return s.run, err
}

// open makes the disks.
func (s *system) open() error {
	var err error
	if s.scratch, err = memoryFile("scratch"); err != nil {
		return err
	}
	if err := s.scratch.Truncate(scratchSize); err != nil {
		return err
	}
	if s.Payload == "" {
		s.payload, err = memoryFile("payload")
	} else {
		s.payload, err = os.OpenFile(s.Payload, os.O_RDWR, 0)
	}
	if err != nil {
		return err
	}
	st, err := s.payload.Stat()
	if err != nil {
		return err
	}
	if st.Size() > payloadSize {
		return fmt.Errorf("the payload has %d MiB, the most that a system takes is %d", st.Size()>>20, payloadSize>>20)
	}
	return s.payload.Truncate(payloadSize)
}

func (s *system) all(ctx context.Context) error {
	warm := slices.ContainsFunc(s.Programs, func(p Program) bool { return !p.Cold })
	var state *os.File
	if warm {
		var err error
		if state, err = s.state(ctx); err != nil {
			return fmt.Errorf("boot and save a machine: %w", err)
		}
		defer func() { _ = state.Close() }() // read-only; nothing to lose
	}
	var failed error
	for i := range s.Programs {
		if ctx.Err() != nil {
			return errors.Join(failed, context.Cause(ctx))
		}
		if err := s.one(ctx, i, state); err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", s.Programs[i].Name, err))
		}
	}
	return failed
}

// one runs one program.
func (s *system) one(ctx context.Context, i int, state *os.File) error {
	p := s.Programs[i]
	began := time.Now()
	argv, files := []string{}, []*os.File{}
	if !p.Cold {
		argv, files = append(argv, "-incoming", "fd:7"), append(files, state)
		if _, err := state.Seek(0, 0); err != nil {
			return err
		}
	}
	g, err := s.boot(p.Cold, argv, files...)
	if err != nil {
		return err
	}
	boots := 0
	order := func() error {
		if boots++; boots > mostBoots {
			return fmt.Errorf("it was booted %d times", boots)
		}
		return s.order(g, i, boots)
	}
	if !p.Cold {
		if err := order(); err != nil { // it waits for that when it goes on
			return errors.Join(err, g.stop())
		}
	}
	err = s.follow(ctx, g, 2*s.patience(s.accel), listener{up: order, ready: func(guest *Guest) {
		s.run.Guest = guest
		switch {
		case !p.Cold:
			s.run.Restores = append(s.run.Restores, time.Since(began))
		case boots == 1 && s.run.Boot == 0:
			s.run.Boot = time.Since(began)
		}
	}})
	return s.end(g, err)
}

// end ends QEMU, and adds the console to what went wrong.
func (s *system) end(g *emulation, err error) error {
	if err != nil {
		err = fmt.Errorf("%w; the console ends with:\n%s", err, lastLines(g.console.String(), 60))
	}
	err = errors.Join(err, g.stop())
	s.run.CPU += g.used()
	s.run.Complaints = append(s.run.Complaints, g.console.found()...)
	return err
}

// order tells the guest what to run.
func (s *system) order(g *emulation, i, boot int) error {
	text, err := json.Marshal(systemOrder{
		Program: s.Programs[i], Index: i, Boot: boot, Payload: s.Payload != "", Now: time.Now(),
		Env: append([]string{"LINUXTEST_SYSTEMD=" + s.System.version()}, s.Env...),
	})
	if err != nil {
		return err
	}
	to := &sender{w: g.port}
	if err := to.send(frameMessage, text); err != nil {
		return fmt.Errorf("tell the guest what to run: %w", err)
	}
	return nil
}

// boot starts QEMU. Its descriptors 3 to 6 are the port, the initramfs and the two
// disks that are files of ours; more is for the caller.
func (s *system) boot(cold bool, more []string, files ...*os.File) (*emulation, error) {
	initramfs, err := s.initramfs(cold)
	if err != nil {
		return nil, err
	}
	defer func() { _ = initramfs.Close() }() // QEMU has it
	return start(append(s.arguments(cold), more...), append([]*os.File{initramfs, s.payload, s.scratch}, files...)...)
}

// arguments is QEMU's command line.
func (s *system) arguments(cold bool) []string {
	argv := s.Machine.arguments(s.accel, []string{s.System.Image, "/proc/self/fd/5", "/proc/self/fd/6"})
	i := slices.Index(argv, "-append") + 1
	argv[i] += " systemd.unit=multi-user.target systemd.show_status=0 systemd.log_target=kmsg"
	if cold {
		// It may reboot, and a kernel that panics is to wait for us.
		argv[i] = strings.Replace(argv[i], "panic=-1", "panic=0", 1)
		argv = slices.DeleteFunc(argv, func(arg string) bool { return arg == "-no-reboot" })
	}
	return argv
}

// initramfs writes the first file system of the guest.
func (s *system) initramfs(cold bool) (*os.File, error) {
	self, err := staticSelf()
	if err != nil {
		return nil, err
	}
	j := systemJob{Cold: cold, Env: []string{"LINUXTEST_SCRATCH_DISK=/dev/vdc"}}
	if s.accel == "tcg" {
		j.Env = append(j.Env, "LINUXTEST_EMULATED=1")
	}
	return s.Kernel.initramfs(self, systemFile, j)
}
