package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pitvisor/pitvisor/linuxtest"
)

// waitTime is for what takes milliseconds on a quiet machine.
const waitTime = 20 * time.Second

// call runs a function of this package in a process of its own, in the cgroup at
// dir or in the test's, and returns what it printed.
func call(t testing.TB, dir string, args ...string) string {
	t.Helper()
	return linuxtest.Command{Args: linuxtest.Helper(t, "call", args...), Cgroup: dir}.Output(t, waitTime)
}

// modeCall runs one call and prints its error, if any.
func modeCall(args []string) int {
	if err := runCall(args); err != nil {
		fmt.Println(err)
	}
	return 0
}

// runCall runs one call. Some of them change the process first and go on with the
// rest of their arguments.
func runCall(args []string) error {
	onArg := func(f func(*Dir) error) error { return onDir(args[1], f) }
	switch args[0] {
	case "as": // as UID CALL...: another user, without groups
		if err := becomeUser(args[1]); err != nil {
			return err
		}
		return runCall(args[2:])
	case "few-fds": // few-fds N CALL...: at most so many descriptors
		if err := limitFDs(args[1]); err != nil {
			return err
		}
		return runCall(args[2:])
	case "mounts": // mounts SETUP ARG CALL...: other mounts
		return callWithMounts(args[1], args[2], args[3:])
	case "child": // child CGROUP CALL...: a child elsewhere
		return callChild(args[1], args[2:])
	case "find-root":
		findRoot(FindRoot, args[1])
		return nil
	case "find-top-root":
		findRoot(FindTopRoot, args[1])
		return nil
	case "destroy": // destroy CGROUP NAME
		return onArg(func(d *Dir) error { return destroy(d, args[2]) })
	case "lock": // lock CGROUP [COMMAND...]
		return onArg(func(d *Dir) error { return lockAndStay(d, args[2:]) })
	case "stay":
		fmt.Println("ready")
		stay()
		return nil
	}
	calls := map[string]func(*Dir) error{
		"kill": kill, "each": tryEach, "whole-life": wholeLife, "keep-starting": keepStarting,
		"holds": holds, "hold-dying": holdDying, "create-without-fds": createWithoutFDs,
	}
	f, ok := calls[args[0]]
	if !ok {
		return fmt.Errorf("no call %q", args[0])
	}
	return onArg(f)
}

func kill(d *Dir) error {
	err := d.Kill()
	if err == nil {
		fmt.Println("killed")
	}
	return err
}

// destroy prints the outcome and whether it is a refusal to hit ourselves.
func destroy(d *Dir, name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), waitTime)
	defer cancel()
	err := d.Destroy(ctx, name, 0)
	fmt.Println(err, errors.Is(err, ErrSelf))
	return nil
}

func onDir(path string, f func(*Dir) error) error {
	d, err := Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return f(d)
}

func becomeUser(uid string) error {
	id, err := strconv.Atoi(uid)
	if err != nil {
		return err
	}
	return errors.Join(syscall.Setgroups(nil), syscall.Setgid(id), syscall.Setuid(id))
}

func limitFDs(n string) error {
	limit, err := strconv.ParseUint(n, 10, 64)
	if err != nil {
		return err
	}
	return unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit, Max: limit})
}

// callWithMounts gives this thread mounts of its own, and the exec that follows
// makes them the process's. Nothing of it is seen outside.
func callWithMounts(setup, arg string, args []string) error {
	runtime.LockOSThread()
	if err := changeMounts(setup, arg); err != nil {
		return err
	}
	argv := append([]string{os.Args[0], os.Args[1]}, args...)
	return syscall.Exec("/proc/self/exe", argv, os.Environ())
}

func changeMounts(setup, arg string) error {
	m, err := FindMount() // before: /proc/self shows the first thread's mounts
	if err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	switch setup {
	case "none":
		return unix.Unmount(m.Path, unix.MNT_DETACH)
	case "read-only":
		return unix.Mount("", m.Path, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
	case "pressure": // as ProtectControlGroups=yes of systemd from 254 on: one file can be written
		file := arg + "/cgroup.procs"
		return errors.Join(
			unix.Mount(file, file, "", unix.MS_BIND, ""),
			unix.Mount("", m.Path, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""),
		)
	case "private", "strict": // as ProtectControlGroups= of systemd 257
		if err := errors.Join(
			unix.Unshare(unix.CLONE_NEWCGROUP),
			unix.Unmount(m.Path, unix.MNT_DETACH),
			unix.Mount("cgroup2", m.Path, "cgroup2", 0, ""),
		); err != nil || setup == "private" {
			return err
		}
		return unix.Mount("", m.Path, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
	case "bind": // the mount shows the cgroup arg and what is below it
		return unix.Mount(arg, m.Path, "", unix.MS_BIND, "")
	case "cover": // a second one elsewhere, and something else over the first
		if err := unix.Mount(arg, "/mnt", "", unix.MS_BIND, ""); err != nil {
			return err
		}
		return unix.Mount("none", m.Path, "tmpfs", 0, "")
	}
	return fmt.Errorf("no setup %q", setup)
}

func callChild(dir string, args []string) error {
	d, err := Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	cmd := exec.Command("/proc/self/exe", append([]string{os.Args[1]}, args...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := linuxtest.StartCommand(cmd, d.FD()); err != nil {
		return err
	}
	return cmd.Wait()
}

// findRoot prints the outcome of FindRoot in lines of "key: value".
func findRoot(find func(string) (Root, error), explicit string) {
	root, err := find(explicit)
	if err == nil {
		defer root.Dir.Close()
		fmt.Printf("path: %s\nsource: %s\nroot: %s\nundelegated: %s\n", root.Dir.Path(), root.Source, root.Mount.Root, root.Undelegated)
		return
	}
	var no *NoRootError
	fmt.Printf("error: %v\ntyped: %v\n", err, errors.As(err, &no))
	if no != nil {
		fmt.Printf("hint: %s\n", no.Hint())
	}
	for name, target := range map[string]error{
		"no-cgroup2": ErrNoCgroup2, "permission": os.ErrPermission, "read-only": unix.EROFS,
	} {
		if errors.Is(err, target) {
			fmt.Println("is: " + name)
		}
	}
}

// field returns the value of one line of a call's output.
func field(out, key string) string {
	for line := range strings.Lines(out) {
		if v, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), key+": "); ok {
			return v
		}
	}
	return ""
}

func tryEach(d *Dir) error {
	ctx, cancel := context.WithTimeout(context.Background(), waitTime)
	defer cancel()
	_, signalErr := d.Signal(unix.SIGKILL)
	for name, err := range map[string]error{
		"Kill": d.Kill(), "KillEach": d.KillEach(ctx), "Freeze": d.Freeze(ctx), "Signal": signalErr,
	} {
		fmt.Printf("%s: %v\n", name, errors.Is(err, ErrSelf))
	}
	return nil
}

func createWithoutFDs(d *Dir) error {
	// A million of them, which some machines allow, take long to open and to close.
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 100, Max: 100}); err != nil {
		return err
	}
	for {
		if _, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			break
		}
	}
	_, err := d.Create("web")
	return err
}

// lockAndStay holds the lock. With an argument it first starts such a child.
func lockAndStay(d *Dir, argv []string) error {
	if err := d.Lock(); err != nil {
		return err
	}
	if len(argv) > 0 {
		if _, err := syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{}); err != nil {
			return err
		}
	}
	fmt.Println("locked")
	stay()
	return nil
}

// holdDying starts a process that does not die: it is traced, so SIGKILL stops it on
// its way out until the tracer, which is this process, goes on or ends.
func holdDying(d *Dir) error {
	runtime.LockOSThread() // a tracer is a thread
	attr := &syscall.ProcAttr{Sys: &syscall.SysProcAttr{Ptrace: true}}
	pid, _, err := syscall.StartProcess("/bin/sleep", []string{"sleep", "120"}, attr)
	if err != nil {
		return err
	}
	if _, err := unix.Wait4(pid, nil, 0, nil); err != nil {
		return err
	}
	if err := d.WriteFile("cgroup.procs", strconv.Itoa(pid)); err != nil {
		return err
	}
	if err := unix.PtraceSetOptions(pid, unix.PTRACE_O_TRACEEXIT); err != nil {
		return err
	}
	if err := unix.PtraceCont(pid, 0); err != nil {
		return err
	}
	fmt.Println("ready")
	stay()
	return nil
}

// stay lives until it is killed, or for as long as a helper may.
func stay() {
	timer := time.NewTimer(linuxtest.HelperLife)
	<-timer.C
}

// wholeLife makes, labels, locks, fills, freezes, kills and removes a worker's cgroup.
func wholeLife(root *Dir) error {
	ctx, cancel := context.WithTimeout(context.Background(), waitTime)
	defer cancel()
	leaf, err := root.Create("web.1")
	if err != nil {
		return err
	}
	defer leaf.Close()
	fd := -1
	attr := &syscall.ProcAttr{Sys: &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: leaf.FD(), PidFD: &fd}}
	steps := []func() error{
		leaf.Lock,
		func() error { return leaf.SetXattr("user.pitvisor.run", []byte("1")) },
		func() error {
			_, err := linuxtest.StartProcess("/bin/sleep", []string{"sleep", "120"}, attr)
			return err
		},
		func() error { return leaf.Freeze(ctx) },
		func() error { return leaf.Thaw(ctx) },
		func() error { _, err := leaf.ReadFile("cpu.stat"); return err },
		func() error { _, err := leaf.Signal(unix.SIGCONT); return err },
		func() error { return leaf.KillEach(ctx) },
		func() error { return root.Destroy(ctx, "web.1", leaf.ID()) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	fmt.Println("destroyed")
	return nil
}

// keepStarting starts processes until the cgroup is gone.
func keepStarting(d *Dir) error {
	attr := &syscall.ProcAttr{Sys: &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: d.FD()}}
	for n := 0; ; n++ {
		pid, err := linuxtest.StartProcess("/bin/sleep", []string{"sleep", "60"}, attr)
		if err != nil {
			return nil
		}
		if n == 0 {
			fmt.Println("started")
		} else if _, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); err != nil {
			return err
		}
	}
}
