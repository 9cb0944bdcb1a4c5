package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// machine is where the numbers come from.
type machine struct {
	Kernel, CPU, Go, C, Commit string
	CPUs                       int
	MemoryGiB                  float64
	BareMicros                 summary // one start, exec and end of a program that does nothing
}

func (m machine) String() string {
	text := fmt.Sprintf("Linux %s, %d × %s, %.0f GiB, %s", m.Kernel, m.CPUs, m.CPU, m.MemoryGiB, m.Go)
	if m.C != "" {
		text += ", " + m.C
	}
	if m.Commit != "" {
		text += ", commit " + m.Commit
	}
	if m.BareMicros.N > 0 {
		text += fmt.Sprintf("; a bare exec of a static program that does nothing takes %s µs here", m.BareMicros.spread("%.0f"))
	}
	return text + "."
}

// machine finds out about the machine, and how dear an exec is on it.
func (b *bench) machine(ctx context.Context) error {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return fmt.Errorf("uname: %w", err)
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return fmt.Errorf("sysinfo: %w", err)
	}
	b.Machine = machine{
		Kernel: unix.ByteSliceToString(name.Release[:]), CPU: cpuModel(), CPUs: runtime.NumCPU(), Go: runtime.Version(),
		C: firstLine(ctx, "gcc", "--version"), Commit: commit(ctx),
		MemoryGiB: float64(uint64(info.Totalram)*uint64(info.Unit)) / (1 << 30),
	}
	if b.tools.bare == "" {
		return nil
	}
	b.say.step("a bare exec")
	micros, err := b.bareExecs(ctx)
	if err != nil {
		return err
	}
	b.Machine.BareMicros = summarize(micros)
	return nil
}

func (b *bench) bareExecs(ctx context.Context) ([]float64, error) {
	var micros []float64
	err := b.inCell(ctx, time.Minute, func(ctx context.Context, c *cell) error {
		for range 100 {
			started := time.Now()
			p, err := startIn(c.sup, []string{b.tools.bare}, nil, filepath.Join(c.dir, "log"))
			if err != nil {
				return err
			}
			if err := p.wait(ctx); err != nil {
				return err
			}
			p.close()
			micros = append(micros, float64(p.ended.Sub(started).Microseconds()))
		}
		return nil
	})
	return micros, err
}

func cpuModel() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if key, value, found := strings.Cut(lines.Text(), ":"); found && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// commit is the version that is measured: of the build if it knows, else of the working tree. Empty if nobody knows.
func commit(ctx context.Context) string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, setting := range info.Settings {
			if setting.Key == "vcs.revision" {
				return fmt.Sprintf("%.12s", setting.Value)
			}
		}
	}
	return firstLine(ctx, "git", "describe", "--always", "--dirty", "--abbrev=12")
}

func firstLine(ctx context.Context, name string, args ...string) string {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}
