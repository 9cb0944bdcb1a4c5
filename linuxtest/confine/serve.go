package confine

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// outcome is what the init reports.
type outcome struct {
	Status uint32   `json:"status"` // of the program, as wait gives it
	Left   []string `json:"left"`   // what outlived it
}

// serve starts the program and is init until it ends: it passes signals on, reaps,
// reports what is left, and ends with the program's code. Everything in the PID
// namespace ends with it.
func (c Container) serve(self, args []string) (int, error) {
	for _, fd := range []int{c.Lifeline, c.Report} {
		if fd > 0 {
			unix.CloseOnExec(fd) // they are the init's
		}
	}
	if c.Lifeline > 0 {
		go endWith(c.Lifeline)
	}
	inner := c
	inner.Confine = true
	argv, err := inner.Argv(self, args)
	if err != nil {
		return 125, err
	}
	files := []uintptr{0, 1, 2}
	for i := range c.Files {
		files = append(files, uintptr(3+i))
	}
	pidfd := -1
	pid, _, err := syscall.StartProcess("/proc/self/exe", argv, &syscall.ProcAttr{
		Env: os.Environ(), Files: files, Sys: &syscall.SysProcAttr{PidFD: &pidfd, Setsid: true},
	})
	if err != nil {
		return 125, fmt.Errorf("start %q: %w", args, err)
	}
	for _, fd := range files[3:] {
		_ = unix.Close(int(fd)) // the program has it
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGCONT)
	go func() {
		for s := range signals {
			_ = unix.PidfdSendSignal(pidfd, s.(unix.Signal), nil, 0) // it may have ended
		}
	}()
	status, err := reapUntil(pid)
	if err != nil {
		return 125, err
	}
	if err := c.report(status); err != nil {
		return 125, err
	}
	if status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return status.ExitStatus(), nil
}

// endWith ends the init, and with it everything, when nobody holds the other end of
// the lifeline any more.
func endWith(fd int) {
	lifeline := os.NewFile(uintptr(fd), "lifeline")
	_, _ = lifeline.Read(make([]byte, 1)) // the end is all there is
	os.Exit(125)
}

// reapUntil reaps whatever ends until the program has.
func reapUntil(program int) (unix.WaitStatus, error) {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil) // PID 1 here: every orphan is ours
		if err != nil && !errors.Is(err, unix.EINTR) {
			return 0, fmt.Errorf("reap: %w", err)
		}
		if pid == program {
			return status, nil
		}
	}
}

// report says how the program ended and what it left.
func (c Container) report(status unix.WaitStatus) error {
	if c.Report == 0 {
		return nil
	}
	o := outcome{Status: uint32(status)}
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for range 10 { // to end by themselves
		for {
			if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); pid <= 0 && !errors.Is(err, unix.EINTR) {
				break
			}
		}
		if o.Left = others(); len(o.Left) == 0 {
			break
		}
		<-ticker.C
	}
	text, err := json.Marshal(o)
	if err == nil {
		_, err = unix.Write(c.Report, text)
	}
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}

// others names all processes of this PID namespace but the init.
func others() []string {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return []string{err.Error()}
	}
	var names []string
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && pid != 1 {
			names = append(names, describe(pid))
		}
	}
	return names
}

// describe names a process by what can be found out.
func describe(pid int) string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)) // nothing is left out but words
	name, state := "?", "gone"
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "Name:"); ok {
			name = strings.TrimSpace(v)
		}
		if v, ok := strings.CutPrefix(line, "State:"); ok {
			state = strings.TrimSpace(v)
		}
	}
	return fmt.Sprintf("%d (%s, %s)", pid, name, state)
}
