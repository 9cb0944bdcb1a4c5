package confine_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
	"github.com/pitvisor/pitvisor/linuxtest/confine"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	confine.Main() // Run executes this binary
	linuxtest.Main(m, linuxtest.Modes{"facts": modeFacts, "run-sleep": modeRunSleep, "refused": modeRefused})
}

// facts are what a program sees of where it is.
type facts struct {
	PID, PPID, UID int
	Groups         []int
	Caps           string // effective
	Bounding       string
	Cgroup         string
	MakeCgroup     string // how that went
	Clone3         string
	Unshare        string
	Hostname       string
	Devices        []string
	Tmp            string
	Home           string
	Outside        string // mkdir above the delegated cgroup
}

func modeFacts([]string) int {
	f := facts{PID: os.Getpid(), PPID: os.Getppid(), UID: os.Getuid(), Tmp: os.Getenv("TMPDIR"), Home: os.Getenv("HOME")}
	f.Groups, _ = os.Getgroups()
	f.Hostname, _ = os.Hostname()
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, "CapEff:"); ok {
			f.Caps = strings.TrimSpace(v)
		}
		if v, ok := strings.CutPrefix(line, "CapBnd:"); ok {
			f.Bounding = strings.TrimSpace(v)
		}
	}
	own, _ := os.ReadFile("/proc/self/cgroup")
	for line := range strings.Lines(string(own)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			f.Cgroup = v
		}
	}
	mount := mountPoint()
	f.MakeCgroup = tryMkdir(filepath.Join(mount, f.Cgroup, "made"))
	if up := filepath.Dir(f.Cgroup); strings.HasSuffix(f.Cgroup, "/supervisor") {
		f.MakeCgroup = tryMkdir(filepath.Join(mount, up, "made"))
		f.Outside = tryMkdir(filepath.Join(mount, filepath.Dir(up), "made"))
	}
	_, _, errno := unix.RawSyscall(unix.SYS_CLONE3, 0, 0, 0)
	f.Clone3 = errno.Error()
	runtime.LockOSThread() // never to be used again
	f.Unshare = fmt.Sprint(unix.Unshare(unix.CLONE_NEWUTS))
	entries, _ := os.ReadDir("/dev")
	for _, e := range entries {
		f.Devices = append(f.Devices, e.Name())
	}
	text, err := json.Marshal(f)
	if err != nil {
		return 1
	}
	fmt.Println(string(text))
	return 0
}

func mountPoint() string {
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		left, right, _ := strings.Cut(line, " - ")
		if strings.HasPrefix(right, "cgroup2 ") {
			return strings.Fields(left)[4]
		}
	}
	return "/nowhere"
}

func tryMkdir(path string) string {
	err := os.Mkdir(path, 0o755)
	if err == nil {
		err = os.Remove(path)
	}
	var why *os.PathError
	if errors.As(err, &why) {
		return why.Err.Error()
	}
	return fmt.Sprint(err)
}

// need skips where no container can be made.
func need(t *testing.T) {
	t.Helper()
	linuxtest.NeedRoot(t, "to make a container")
	linuxtest.NeedAdmin(t, "to make a container")
	linuxtest.NeedClone3(t)
	linuxtest.NeedCgroup2(t)
}

// runIn runs a helper of this binary in a place.
func runIn(t *testing.T, run func(context.Context, confine.Program, *bytes.Buffer) (confine.Result, error), mode string, args ...string) (confine.Result, string) {
	t.Helper()
	var out bytes.Buffer
	r, err := run(t.Context(), confine.Program{Args: linuxtest.Helper(t, mode, args...), Limit: time.Minute}, &out)
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	return r, out.String()
}

// inside makes Run of a container that sees this binary.
func inside(t *testing.T, c confine.Container) func(context.Context, confine.Program, *bytes.Buffer) (confine.Result, error) {
	t.Helper()
	exe := linuxtest.Helper(t, "facts")[0]
	c.Binds = append(c.Binds, confine.Bind{From: exe, To: exe})
	return func(ctx context.Context, p confine.Program, out *bytes.Buffer) (confine.Result, error) {
		return c.Run(ctx, p, out)
	}
}

func factsOf(t *testing.T, run func(context.Context, confine.Program, *bytes.Buffer) (confine.Result, error)) facts {
	t.Helper()
	r, out := runIn(t, run, "facts")
	var f facts
	if err := json.Unmarshal([]byte(out), &f); err != nil || r.Status != 0 || len(r.Left) != 0 {
		t.Fatalf("%s, %v left, %v: %s", r.Exit(), r.Left, err, out)
	}
	return f
}

func TestContainerLikeDockers(t *testing.T) {
	need(t)
	c := confine.Container{
		Cgroup: confine.CgroupReadOnly, Capabilities: confine.DockerCapabilities(), Refuse: confine.DockerRefusals(), Masked: true,
	}
	f := factsOf(t, inside(t, c))
	// As docker run shows it.
	if const14 := "00000000a80425fb"; f.Caps != const14 || f.Bounding != const14 {
		t.Errorf("capabilities %s, bounding set %s, want %s", f.Caps, f.Bounding, const14)
	}
	if f.PPID != 1 || f.UID != 0 || f.Cgroup != "/" || f.Hostname != "container" {
		t.Errorf("%+v, want a child of PID 1 at the top of a cgroup namespace", f)
	}
	if f.MakeCgroup != unix.EROFS.Error() || f.Clone3 != unix.ENOSYS.Error() || f.Unshare != unix.EPERM.Error() {
		t.Errorf("mkdir %q, clone3 %q, unshare %q", f.MakeCgroup, f.Clone3, f.Unshare)
	}
	if want := []string{"fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero"}; !slices.Equal(f.Devices, want) {
		t.Errorf("/dev has %q, want %q", f.Devices, want)
	}
}

func TestViewsOfCgroups(t *testing.T) {
	need(t)
	for view, want := range map[confine.CgroupView]string{
		"": "<nil>", confine.CgroupPrivate: "<nil>", confine.CgroupHost: "<nil>", confine.CgroupReadOnly: unix.EROFS.Error(), confine.CgroupNone: unix.ENOENT.Error(),
	} {
		f := factsOf(t, inside(t, confine.Container{Cgroup: view}))
		top := f.Cgroup == "/"
		if namespace := view != confine.CgroupHost && view != confine.CgroupNone; f.MakeCgroup != want || top != namespace {
			t.Errorf("view %q: in %s, mkdir %q, want %q", view, f.Cgroup, f.MakeCgroup, want)
		}
		if f.Clone3 != unix.EINVAL.Error() || f.Unshare != "<nil>" {
			t.Errorf("view %q: clone3 %q, unshare %q, want all allowed", view, f.Clone3, f.Unshare)
		}
	}
	if err := (confine.Container{Cgroup: "some"}).Check(); err == nil || !strings.Contains(err.Error(), "want private") {
		t.Errorf("Check = %v", err)
	}
}

func TestDelegated(t *testing.T) {
	need(t)
	f := factsOf(t, func(ctx context.Context, p confine.Program, out *bytes.Buffer) (confine.Result, error) {
		return confine.Delegated{User: 61234}.Run(ctx, p, out)
	})
	if f.UID != 61234 || len(f.Groups) != 0 || strings.Trim(f.Caps, "0") != "" {
		t.Errorf("user %d, groups %v, capabilities %s", f.UID, f.Groups, f.Caps)
	}
	if f.MakeCgroup != "<nil>" || f.Outside != unix.EACCES.Error() {
		t.Errorf("mkdir in the delegated cgroup %q, outside of it %q", f.MakeCgroup, f.Outside)
	}
	for _, dir := range []string{f.Home, f.Tmp} {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", dir, err)
		}
	}
}

func TestEndOfAProgram(t *testing.T) {
	need(t)
	for _, place := range []func(context.Context, confine.Program, *bytes.Buffer) (confine.Result, error){
		inside(t, confine.Container{}),
		func(ctx context.Context, p confine.Program, out *bytes.Buffer) (confine.Result, error) {
			return confine.Delegated{}.Run(ctx, p, out)
		},
	} {
		if r, _ := runIn(t, place, "exit", "7"); r.Exit() != "exit code 7" {
			t.Errorf("%s, want 7", r.Exit())
		}
		if r, _ := runIn(t, place, "die", "9"); r.Exit() != "ended by SIGKILL" {
			t.Errorf("%s, want SIGKILL", r.Exit())
		}
		if r, _ := runIn(t, place, "double-fork"); r.Status != 0 || len(r.Left) != 1 {
			t.Errorf("%s, left %q, want the daemon", r.Exit(), r.Left)
		}
		var out bytes.Buffer
		r, err := place(t.Context(), confine.Program{Args: linuxtest.Helper(t, "run"), Limit: time.Millisecond}, &out)
		if err != nil || !r.Late {
			t.Errorf("%+v, %v, want late", r, err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("enough"))
		if _, err := place(ctx, confine.Program{Args: linuxtest.Helper(t, "run")}, &out); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	}
	if left, _ := filepath.Glob(mountPoint() + "/linuxtest-confine-*" + fmt.Sprint(os.Getpid())); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// modeRunSleep runs a program that lives on in a container of its own.
func modeRunSleep([]string) int {
	_, err := confine.Container{}.Run(context.Background(), confine.Program{Args: []string{"/bin/sleep", "100"}}, os.Stderr)
	fmt.Println(err)
	return 1
}

// Whatever ends the caller, the container ends with it.
func TestContainerEndsWithItsCaller(t *testing.T) {
	need(t)
	p := linuxtest.Start(t, linuxtest.Helper(t, "run-sleep")...)
	var group string
	linuxtest.Wait(t, 20*time.Second, func() (bool, string) {
		for _, dir := range ownedGroups(t, p.PID()) {
			if members := linuxtest.Members(dir); len(members) > 1 { // the init and the program
				group = dir
			}
		}
		return group != "", "no container"
	})
	p.Kill(t)
	linuxtest.Wait(t, 20*time.Second, func() (bool, string) {
		members := linuxtest.Members(group)
		return len(members) == 0, fmt.Sprint(members)
	})
	linuxtest.Wait(t, 20*time.Second, func() (bool, string) {
		err := os.Remove(group) // what the next caller does, later
		return err == nil || errors.Is(err, os.ErrNotExist), fmt.Sprint(err)
	})
}

// ownedGroups are the cgroups of containers that a process keeps open.
func ownedGroups(t *testing.T, pid int) []string {
	t.Helper()
	var dirs []string
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && strings.Contains(to, "linuxtest-confine-container-") {
			dirs = append(dirs, to)
		}
	}
	return dirs
}

// modeRefused installs a filter and says how calls are answered.
func modeRefused([]string) int {
	runtime.LockOSThread()
	filter := confine.Filter([]confine.Refusal{
		{Call: unix.SYS_GETPRIORITY, Errno: unix.EXDEV, If: &confine.ArgumentMask{Argument: 1, Bits: 6}},
		{Call: unix.SYS_GETPRIORITY, Errno: unix.EDOM, If: &confine.ArgumentMask{Argument: 1, Bits: 8}},
		{Call: unix.SYS_PERSONALITY, Errno: unix.ENOSYS},
		{Call: unix.SYS_PERSONALITY, Errno: unix.EPERM},
	})
	if err := confine.Install(filter); err != nil {
		fmt.Println(err)
		return 1
	}
	for _, who := range []int{1, 2, 4, 8, 10, 16} {
		_, err := unix.Getpriority(unix.PRIO_PROCESS, who)
		var errno syscall.Errno
		if errors.As(err, &errno) && errno != unix.ESRCH {
			fmt.Print(who, ":", int(errno), " ")
		}
	}
	_, _, errno := unix.RawSyscall(unix.SYS_PERSONALITY, 0xffffffff, 0, 0)
	fmt.Println("personality:", int(errno))
	return 0
}

func TestFilter(t *testing.T) {
	out := linuxtest.Command{Args: linuxtest.Helper(t, "refused")}.Output(t, 20*time.Second)
	want := fmt.Sprintf("2:%d 4:%d 8:%d 10:%d personality: %d", unix.EXDEV, unix.EXDEV, unix.EDOM, unix.EXDEV, unix.ENOSYS)
	if out != want {
		t.Errorf("answers %q, want %q", out, want)
	}
}
