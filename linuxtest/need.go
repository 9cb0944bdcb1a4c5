package linuxtest

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Skip skips the test for a reason that [Main] counts and prints. With
// PITVISOR_STRICT=1 in the environment it fails the test instead: there the
// machine is known to have everything. The reason is the same for every test
// that lacks the same thing, so that equal reasons are added up.
func Skip(tb testing.TB, reason string) {
	tb.Helper()
	if os.Getenv("PITVISOR_STRICT") == "1" {
		tb.Fatalf("skipped although PITVISOR_STRICT=1: %s", reason)
	}
	current.mu.Lock()
	if current.skips == nil {
		current.skips = map[string]int{}
	}
	current.skips[reason]++
	current.mu.Unlock()
	tb.Skip(reason)
}

// NeedRoot skips a test that only root can run, and says what for: "to become another
// user".
func NeedRoot(tb testing.TB, what ...string) {
	tb.Helper()
	if os.Geteuid() != 0 {
		Skip(tb, strings.Join(append([]string{"needs root"}, what...), " "))
	}
}

// NeedCapability skips a test that needs a capability, such as
// unix.CAP_SYS_RESOURCE, in the effective set. name is for the reason.
func NeedCapability(tb testing.TB, capability int, name string) {
	tb.Helper()
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		tb.Fatalf("read the capabilities: %v", err)
	}
	if data[capability/32].Effective&(1<<(capability%32)) == 0 {
		Skip(tb, "needs "+name)
	}
}

// NeedAdmin skips a test without CAP_SYS_ADMIN, which root in most containers does not
// have, and says what for: "to mount a file system".
func NeedAdmin(tb testing.TB, what string) {
	tb.Helper()
	NeedCapability(tb, unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN "+what)
}

// NeedChosenPID skips a test that gives a process a number of its choice: see [ForkPID].
func NeedChosenPID(tb testing.TB) {
	tb.Helper()
	if clone3Refused() {
		if err := unix.Access(lastPID, unix.W_OK); err != nil || inFirstPIDNamespace() {
			Skip(tb, errNoClone3.Error())
		}
		return
	}
	NeedCapability(tb, unix.CAP_CHECKPOINT_RESTORE, "CAP_CHECKPOINT_RESTORE to choose a PID")
}

// NeedCommand skips a test that runs programs which are not in PATH.
func NeedCommand(tb testing.TB, names ...string) {
	tb.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			Skip(tb, "needs the command "+name)
		}
	}
}

// NeedClone3 skips a test where a sandbox refuses clone3, as in most containers.
func NeedClone3(tb testing.TB) {
	tb.Helper()
	if clone3Refused() {
		Skip(tb, "needs clone3")
	}
}

// Emulated says whether the processor is emulated, and everything takes about ten
// times as long: LINUXTEST_EMULATED=1 in the environment, as in the guests of
// linuxtest/vm without KVM.
func Emulated() bool { return os.Getenv("LINUXTEST_EMULATED") == "1" }

// NeedRealSpeed skips a test of how long something takes where the processor is
// [Emulated].
func NeedRealSpeed(tb testing.TB) {
	tb.Helper()
	if Emulated() {
		Skip(tb, "needs a processor that is not emulated")
	}
}

// NeedKernel skips a test that needs a feature which no probe can find out
// about; why names it. Prefer trying the feature: kernels are patched.
func NeedKernel(tb testing.TB, major, minor int, why string) {
	tb.Helper()
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		tb.Fatalf("uname: %v", err)
	}
	release := unix.ByteSliceToString(uts.Release[:])
	gotMajor, gotMinor, err := kernelVersion(release)
	if err != nil {
		tb.Fatal(err)
	}
	if gotMajor < major || gotMajor == major && gotMinor < minor {
		Skip(tb, fmt.Sprintf("needs Linux %d.%d: %s", major, minor, why))
	}
}

// kernelVersion reads "6.18.44-fc" as 6, 18.
func kernelVersion(release string) (major, minor int, err error) {
	first, rest, _ := strings.Cut(release, ".")
	second, _, _ := strings.Cut(rest, ".")
	second = second[:len(second)-len(strings.TrimLeft(second, "0123456789"))]
	if major, err = strconv.Atoi(first); err != nil {
		return 0, 0, fmt.Errorf("read the kernel version %q: %w", release, err)
	}
	if minor, err = strconv.Atoi(second); err != nil {
		return 0, 0, fmt.Errorf("read the kernel version %q: %w", release, err)
	}
	return major, minor, nil
}

// pidfsMagic is PIDFS_SUPER_MAGIC of linux/magic.h.
const pidfsMagic = 0x50494446

// NeedPidfs skips a test where pidfds have no unique inode number. Linux 6.9.
func NeedPidfs(tb testing.TB) {
	tb.Helper()
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		Skip(tb, "needs pidfds")
	}
	defer func() { _ = unix.Close(fd) }() // read-only; nothing to lose
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil || st.Type != pidfsMagic {
		Skip(tb, "needs pidfs")
	}
}

// NeedCgroup2 skips a test where no cgroup can be made below a cgroup2 mount, or
// where one of the controllers cannot be switched on for the cgroups of [Cgroup].
func NeedCgroup2(tb testing.TB, controllers ...string) {
	tb.Helper()
	current.needMain(tb)
	if current.group == nil {
		Skip(tb, "needs a writable cgroup2: "+current.noGroup)
	}
	for _, c := range controllers {
		if err := current.group.enable(c); err != nil {
			Skip(tb, fmt.Sprintf("needs the cgroup2 controller %s: %v", c, err))
		}
	}
}

// printSkips prints nothing when nothing was skipped.
func (s *session) printSkips(w io.Writer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.skips) == 0 {
		return
	}
	var reasons []string
	total := 0
	for reason, n := range s.skips {
		reasons = append(reasons, reason)
		total += n
	}
	slices.Sort(reasons)
	for i, reason := range reasons {
		reasons[i] = fmt.Sprintf("%s (%d)", reason, s.skips[reason])
	}
	fmt.Fprintf(w, "linuxtest: %d skipped: %s\n", total, strings.Join(reasons, ", "))
	line, err := json.Marshal(s.skips)
	if err != nil {
		fmt.Fprintf(w, "linuxtest: encode the skips: %v\n", err)
		return
	}
	fmt.Fprintf(w, "linuxtest-skips: %s\n", line)
}
