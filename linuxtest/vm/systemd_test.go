package vm

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// monitored answers as QEMU's monitor does: one line for each command, and then what
// happens afterwards. It returns the commands.
func monitored(t *testing.T, answers map[string]string, events string) (*monitor, func() []string) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "monitor"), os.NewFile(uintptr(pair[1]), "QEMU")
	said := make(chan []string, 1)
	go func() {
		defer theirs.Close()
		var lines []string
		defer func() { said <- lines }()
		fmt.Fprintln(theirs, `{"QMP": {"version": {}, "capabilities": []}}`)
		for {
			data, rights := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
			n, rn, _, _, err := unix.Recvmsg(pair[1], data, rights, unix.MSG_CMSG_CLOEXEC)
			if err != nil || n == 0 {
				return
			}
			line := strings.TrimSpace(string(data[:n]))
			if messages, err := unix.ParseSocketControlMessage(rights[:rn]); err == nil && len(messages) == 1 {
				fds, _ := unix.ParseUnixRights(&messages[0])
				for _, fd := range fds {
					_, _ = unix.Write(fd, []byte("state"))
					_ = unix.Close(fd)
				}
				line += " with a file"
			}
			lines = append(lines, line)
			answer := `{"return": {}}`
			for word, other := range answers {
				if strings.Contains(line, word) {
					answer = other
				}
			}
			fmt.Fprintln(theirs, answer)
			if strings.Contains(line, `"migrate"`) {
				fmt.Fprint(theirs, events)
			}
		}
	}()
	t.Cleanup(func() { _ = ours.Close() })
	return &monitor{socket: ours, in: bufio.NewReader(ours)}, func() []string {
		_ = ours.Close()
		return <-said
	}
}

const saved = `{"event": "STOP"}
{"event": "MIGRATION", "data": {"status": "setup"}}
{"event": "MIGRATION", "data": {"status": "completed"}}
`

func TestMonitorSavesToAFile(t *testing.T) {
	m, said := monitored(t, nil, saved)
	f, err := os.Create(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := m.migrate(f); err != nil {
		t.Fatal(err)
	}
	lines := said()
	if len(lines) != 5 || !strings.HasSuffix(lines[3], `"state"}} with a file`) || !strings.Contains(lines[4], `"fd:state"`) {
		t.Errorf("QEMU was told %q", lines)
	}
	if got, err := os.ReadFile(f.Name()); string(got) != "state" || err != nil {
		t.Errorf("the file has %q, %v", got, err)
	}
}

func TestMonitorTellsWhatWentWrong(t *testing.T) {
	for want, c := range map[string]struct {
		answers map[string]string
		events  string
	}{
		"State blocked by device x": {map[string]string{`"migrate"`: `{"error": {"class": "GenericError", "desc": "State blocked by device x"}}`}, ""},
		"QEMU saves the machine: failed": {nil, `{"event": "MIGRATION", "data": {"status": "failed"}}
`},
		"from QEMU's monitor": {map[string]string{"qmp": "nonsense"}, ""},
	} {
		m, said := monitored(t, c.answers, c.events)
		if err := m.migrate(os.Stdin); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("migrate = %v, want %q", err, want)
		}
		said()
	}
}

// Of each suite the machines that were used last stay.
func TestForgetKeepsWhatIsUsed(t *testing.T) {
	dir := t.TempDir()
	for i, name := range []string{"trixie-1", "trixie-2", "trixie-3", "trixie-4", "trixie-5", "bookworm-1"} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		when := time.Unix(int64(1000-i), 0)
		if err := os.Chtimes(path, when, when); err != nil {
			t.Fatal(err)
		}
	}
	s := &system{Machine: &Machine{System: &System{Suite: "trixie", states: dir}}}
	if err := s.forget(); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	for i := range left {
		left[i] = filepath.Base(left[i])
	}
	if want := []string{"bookworm-1", "trixie-1", "trixie-2", "trixie-3"}; !slices.Equal(left, want) {
		t.Errorf("left: %q, %v, want %q", left, err, want)
	}
}

func TestKernelOfASuite(t *testing.T) {
	for suite, want := range map[string]string{"bookworm": "6.1", "trixie": "6.12", "sid": "suite:sid"} {
		if got := KernelOf(suite); got != want {
			t.Errorf("KernelOf(%s) = %s, want %s", suite, got, want)
		}
	}
}

func TestVersionOfSystemd(t *testing.T) {
	for text, want := range map[string]string{"252.39-1~deb12u2": "252", "259~rc1-1": "259", "": ""} {
		if got := (&System{Systemd: text}).version(); got != want {
			t.Errorf("version of %q = %q, want %q", text, got, want)
		}
	}
}

func TestMedian(t *testing.T) {
	if got := median([]time.Duration{5, 1, 3}); got != 3 {
		t.Errorf("median = %d, want 3", got)
	}
	if got := median(nil); got != 0 {
		t.Errorf("median of none = %d", got)
	}
}

// A cold machine may reboot, and does not go on from a saved one.
func TestArgumentsOfACold(t *testing.T) {
	s := &system{Machine: &Machine{Kernel: &Kernel{Image: "vmlinux"}, System: &System{Image: "disk"}}, accel: "tcg"}
	warm, cold := s.arguments(false), s.arguments(true)
	if !slices.Contains(warm, "-no-reboot") || slices.Contains(cold, "-no-reboot") {
		t.Errorf("arguments %q and %q", warm, cold)
	}
	line := cold[slices.Index(cold, "-append")+1]
	if !strings.Contains(line, "panic=0 ") || !strings.Contains(line, " systemd.unit=multi-user.target") {
		t.Errorf("kernel arguments %q", line)
	}
}
