package report

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// WriteStats writes the receipt for a person.
func (r *Report) WriteStats(w io.Writer, color bool) error {
	t := &text{color: color}
	t.say("used by everything in the run:")
	if wall, ok := r.Wall(); ok {
		t.stat("wall", seconds(wall))
	}
	if r.Receipt == nil {
		t.stat("not available", "not measured")
	} else {
		r.Receipt.stats(t)
	}
	if r.OOM != nil && r.OOM.Count > 0 {
		t.stat("out of memory", visible(r.OOM.Words, textReason))
	}
	_, err := w.Write(t.Bytes())
	return err
}

// stat writes one line: what, and how much.
func (t *text) stat(what, much string) {
	t.WriteString("  " + t.paint(styleDim, fmt.Sprintf("%-15s", what)) + " " + much + "\n")
}

// stats writes the values that are there, related ones in one line, and then why the
// others are not.
func (r *Receipt) stats(t *text) {
	by := map[string]value{}
	for _, v := range r.values() {
		by[v.name] = v
	}
	for _, line := range []struct {
		what  string
		parts []string // name of a value, and the word for it
	}{
		{"cpu", []string{"cpu_usage", "", "cpu_user", "user", "cpu_system", "system"}},
		{"throttled", []string{"throttled", "", "throttled_periods", "periods"}},
		{"memory", []string{"memory_peak", "peak", "memory_current", "at the end", "swap_peak", "swap peak", "memory_high", "times held back"}},
		{"io", []string{"io_read_bytes", "read", "io_write_bytes", "written", "io_reads", "reads", "io_writes", "writes"}},
		{"processes", []string{"pids_peak", "peak", "pids_refused", "refused"}},
		{"cpu pressure", []string{"cpu_pressure_some", "some", "cpu_pressure_full", "full"}},
		{"memory pressure", []string{"memory_pressure_some", "some", "memory_pressure_full", "full"}},
		{"io pressure", []string{"io_pressure_some", "some", "io_pressure_full", "full"}},
		{"oom", []string{"oom_kills", "killed", "oom_kills_own", "of the cgroup itself", "oom_hits", "hits", "oom_hits_own", "hits of its own limit", "oom_group_kills", "groups"}},
	} {
		var words []string
		for i := 0; i < len(line.parts); i += 2 {
			if v := by[line.parts[i]]; v.known() {
				words = append(words, strings.TrimSpace(v.String()+" "+line.parts[i+1]))
			}
		}
		if len(words) > 0 {
			t.stat(line.what, strings.Join(words, ", "))
		}
	}
	for _, u := range r.unavailable() {
		t.stat("not available", strings.Join(u.names, ", ")+": "+visible(u.reason, textReason))
	}
}

// String is the value in a unit that a person reads.
func (v value) String() string {
	switch {
	case v.took != nil:
		return seconds(*v.took)
	case v.count == nil:
		return "unknown"
	case v.bytes:
		return size(*v.count)
	}
	return fmt.Sprint(*v.count)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.3f s", d.Seconds()) }

// size is a number of bytes to three digits.
func size(n uint64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n), ""
	for _, unit = range []string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"} {
		f /= 1024
		if f < 1000 {
			break
		}
	}
	switch {
	case f < 10:
		return fmt.Sprintf("%.2f %s", f, unit)
	case f < 100:
		return fmt.Sprintf("%.1f %s", f, unit)
	}
	return fmt.Sprintf("%.0f %s", f, unit)
}
