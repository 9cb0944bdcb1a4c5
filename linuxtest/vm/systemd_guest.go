package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	systemFile = "/system.json"       // where the initramfs has the systemJob
	agentName  = "linuxtest-vm-agent" // argv[0] of the service in the system
	agentDir   = "linuxtest"          // its files, below /run
)

// systemJob is what the guest is told when it boots, in its initramfs.
type systemJob struct {
	Cold bool     `json:"cold"` // the disk may be written to, and stays when the guest reboots
	Env  []string `json:"env"`
}

// systemOrder is what the system is told when it is up: the one program to run.
type systemOrder struct {
	Program Program   `json:"program"`
	Index   int       `json:"index"`
	Boot    int       `json:"boot"` // 1 the first time, 2 after a reboot
	Payload bool      `json:"payload"`
	Env     []string  `json:"env"`
	Now     time.Time `json:"now"` // a saved machine's clock has stopped
}

// idle are units that a machine for tests has no use for, and that would make its
// boot longer.
func idle() []string {
	return []string{
		"apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service",
		"fstrim.timer", "getty.target", "getty@.service", "serial-getty@.service", "console-getty.service",
		"systemd-ask-password-console.path", "systemd-ask-password-wall.path", "systemd-binfmt.service",
		"systemd-firstboot.service", "systemd-hwdb-update.service", "systemd-journal-catalog-update.service",
		"systemd-journal-flush.service", "systemd-machine-id-commit.service", "systemd-modules-load.service",
		"systemd-network-generator.service", "systemd-pcrphase.service", "systemd-pcrphase-sysinit.service",
		"systemd-pstore.service", "systemd-random-seed.service", "systemd-tmpfiles-clean.timer", "systemd-update-done.service",
		"systemd-update-utmp.service", "systemd-update-utmp-runlevel.service", "kmod-static-nodes.service",
		"modprobe@.service", "ldconfig.service", "dev-hugepages.mount", "dev-mqueue.mount", "sys-fs-fuse-connections.mount",
		"sys-kernel-config.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount",
	}
}

const agentUnit = `[Unit]
Description=programs of pitvisor-linuxtest
After=dbus.service systemd-logind.service
[Service]
ExecStart=@/run/` + agentDir + `/agent ` + agentName + `
Delegate=yes
KillMode=mixed
OOMPolicy=continue
TasksMax=infinity
LimitNOFILE=1024:1048576
`

// systemMain is PID 1 until systemd is. It does not return.
func systemMain() {
	err := bootSystem()
	fmt.Fprintf(os.Stderr, "pitvisor-linuxtest: boot a system: %v\n", err)
	powerOff()
}

func bootSystem() error {
	if err := mountEssentials(); err != nil {
		return err
	}
	text, err := os.ReadFile(systemFile)
	if err != nil {
		return err
	}
	var j systemJob
	if err := json.Unmarshal(text, &j); err != nil {
		return err
	}
	if err := loadModules(); err != nil {
		return err
	}
	if err := mountSystem(j.Cold); err != nil {
		return err
	}
	if err := furnishRun("/newroot/run", text); err != nil {
		return err
	}
	// What was here stays in memory for ever.
	if err := errors.Join(os.Remove("/init"), os.RemoveAll("/modules")); err != nil {
		return err
	}
	if err := moveRoot(); err != nil {
		return err
	}
	const systemd = "/lib/systemd/systemd"
	return fmt.Errorf("%s: %w", systemd, unix.Exec(systemd, []string{systemd}, []string{"PATH=/usr/sbin:/usr/bin"}))
}

// mountSystem mounts the disk, and memory for what is written unless the disk is to
// keep it.
func mountSystem(cold bool) error {
	const disk = "/dev/vda"
	if !within(20*time.Second, func() bool { return exists(disk) }) {
		return fmt.Errorf("the disk %s does not appear", disk)
	}
	run := mount{"tmpfs", "/newroot/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"}
	if cold {
		return mountAll([]mount{{disk, "/newroot", "ext4", 0, ""}, run})
	}
	err := mountAll([]mount{
		{disk, "/disk", "ext4", unix.MS_RDONLY, ""},
		{"tmpfs", "/memory", "tmpfs", 0, "mode=0755"},
	})
	if err != nil {
		return err
	}
	if err := errors.Join(os.Mkdir("/memory/upper", 0o755), os.Mkdir("/memory/work", 0o755)); err != nil {
		return err
	}
	return mountAll([]mount{{"overlay", "/newroot", "overlay", 0, "lowerdir=/disk,upperdir=/memory/upper,workdir=/memory/work"}, run})
}

// furnishRun puts the agent, its unit and what is not to be started into /run. The
// disk knows nothing of it.
func furnishRun(run string, job []byte) error {
	self, err := os.ReadFile("/init")
	if err != nil {
		return err
	}
	units := filepath.Join(run, "systemd/system")
	wants := filepath.Join(units, "multi-user.target.wants")
	for _, dir := range []string{filepath.Join(run, agentDir), wants} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for _, unit := range idle() {
		if err := os.Symlink("/dev/null", filepath.Join(units, unit)); err != nil {
			return err
		}
	}
	return errors.Join(
		os.WriteFile(filepath.Join(run, agentDir, "agent"), self, 0o755),
		os.WriteFile(filepath.Join(run, agentDir, "job"), job, 0o644),
		os.WriteFile(filepath.Join(units, "linuxtest.service"), []byte(agentUnit), 0o644),
		os.Symlink("../linuxtest.service", filepath.Join(wants, "linuxtest.service")),
	)
}

// Read reads from a descriptor that blocks.
func (fd plainFile) Read(data []byte) (int, error) {
	for {
		n, err := unix.Read(int(fd), data)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// agentMain is the service that runs programs in the system. It does not return.
func agentMain() {
	port, err := openPort()
	if err == nil {
		if err = serveSystem(port); err != nil {
			_ = port.message(message{Type: "error", Text: err.Error()}) // the journal has it as well
		}
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%v\n", err)
		os.Exit(1)
	}
	select {} // the host has what it wants, and ends the machine
}

// serveSystem says when the system is up, waits for the order, and carries it out.
func serveSystem(port *sender) error {
	down := make(chan os.Signal, 1)
	signal.Notify(down, unix.SIGTERM)
	go func() {
		<-down // the program is killed when we have ended: it is not the one to report
		_ = port.message(message{Type: "restart"})
		os.Exit(0)
	}()
	group, err := divide()
	if err != nil {
		return err
	}
	guest, err := Inspect(group)
	if err != nil {
		return err
	}
	if err := running(); err != nil {
		return err
	}
	if err := port.message(message{Type: "up"}); err != nil {
		return err
	}
	// Here a machine is saved, and goes on when it is restored.
	_, text, err := receive(port.w.(plainFile))
	if err != nil {
		return fmt.Errorf("wait for the order: %w", err)
	}
	var o systemOrder
	if err := json.Unmarshal(text, &o); err != nil {
		return err
	}
	now := unix.NsecToTimespec(o.Now.UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &now); err != nil {
		return fmt.Errorf("set the clock: %w", err)
	}
	if o.Payload {
		if err := (mount{"/dev/vdb", "/src", "ext4", 0, ""}).do(); err != nil {
			return err
		}
	}
	if err := port.message(message{Type: "ready", Guest: guest}); err != nil {
		return err
	}
	return o.carryOut(port, filepath.Join(group, "program"))
}

// divide gives this process and the programs cgroups of their own in the one that
// systemd has delegated, with every controller that there is.
func divide() (string, error) {
	group, err := ownCgroup()
	if err != nil {
		return "", err
	}
	for _, name := range []string{"agent", "program"} {
		if err := os.MkdirAll(filepath.Join(group, name), 0o755); err != nil {
			return "", err
		}
	}
	if err := writeFile(filepath.Join(group, "agent/cgroup.procs"), "0"); err != nil {
		return "", err
	}
	have, err := controllers(group)
	if err != nil {
		return "", err
	}
	for _, c := range have {
		if err := writeFile(filepath.Join(group, "cgroup.subtree_control"), "+"+c); err != nil {
			return "", fmt.Errorf("enable the controller %s: %w", c, err)
		}
	}
	return group, nil
}

// running waits until systemd has done all that it does at boot.
func running() error {
	// Its exit code says no more than the word.
	state, _ := exec.Command("systemctl", "is-system-running", "--wait").CombinedOutput()
	if strings.TrimSpace(string(state)) == "running" {
		return nil
	}
	failed, _ := exec.Command("systemctl", "--failed", "--no-legend", "--plain").CombinedOutput()
	return fmt.Errorf("the system is %q: %s", strings.TrimSpace(string(state)), failed)
}

// carryOut runs the program in a cgroup and tells the host.
func (o systemOrder) carryOut(port *sender, group string) error {
	if err := port.message(message{Type: "start", Program: o.Index}); err != nil {
		return err
	}
	exit, left, err := o.run(port, group)
	m := message{Type: "end", Program: o.Index, Exit: exit, Left: left}
	if err != nil {
		m.Text = err.Error()
	}
	if err := port.message(m); err != nil {
		return err
	}
	return port.message(message{Type: "bye"})
}

func (o systemOrder) run(out io.Writer, group string) (*Exit, []string, error) {
	text, err := os.ReadFile(filepath.Join("/run", agentDir, "job"))
	if err != nil {
		return nil, nil, err
	}
	var j systemJob
	if err := json.Unmarshal(text, &j); err != nil {
		return nil, nil, err
	}
	fd, err := unix.Open(group, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open %s: %w", group, err)
	}
	defer func() { _ = unix.Close(fd) }() // only named a place
	p, pidfd := o.Program, -1
	cmd := exec.Command(p.Path, p.Args...)
	cmd.Dir = p.Dir
	cmd.Env = guestEnv(append(append(append(j.Env, fmt.Sprintf("LINUXTEST_BOOT=%d", o.Boot)), o.Env...), p.Env...)...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = 10 * time.Second // what it left may hold its output
	cmd.SysProcAttr = &unix.SysProcAttr{PidFD: &pidfd, UseCgroupFD: true, CgroupFD: fd, Setsid: true}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	defer func() { _ = unix.Close(pidfd) }() // only held the process
	exit := &Exit{}
	warn := time.AfterFunc(p.limit(), func() {
		_ = unix.PidfdSendSignal(pidfd, unix.SIGQUIT, nil, 0) // a Go program says where it is
	})
	kill := time.AfterFunc(p.limit()+10*time.Second, func() { _ = writeFile(group+"/cgroup.kill", "1") })
	_ = cmd.Wait() // the state below says how it ended
	exit.Late = !warn.Stop()
	kill.Stop()
	exit.Seconds, exit.Code = time.Since(began).Seconds(), cmd.ProcessState.ExitCode()
	if status, ok := cmd.ProcessState.Sys().(unix.WaitStatus); ok && status.Signaled() {
		exit.Signal = unix.SignalName(status.Signal())
	}
	return exit, members(group), nil
}

// members names the processes of a cgroup and of those below it.
func members(group string) []string {
	var names []string
	_ = filepath.WalkDir(group, func(path string, e os.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return nil // it went away, and took its processes with it
		}
		procs, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		for pid := range strings.FieldsSeq(string(procs)) {
			names = append(names, fmt.Sprintf("%s (in %s)", pid, path))
		}
		return nil
	})
	return names
}
