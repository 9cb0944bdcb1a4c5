package resource

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/pitvisor/pitvisor/internal/suggest"
)

// Key is one limit as people name it.
type Key struct {
	Name    string   // the kernel's file, such as "memory.max", or systemd's name if there is no such file
	Also    []string // other spellings: the kernel's with underscores, systemd's
	Accepts string   // which values, in words
	Meaning string
	Example string // of a value
	Several bool   // may be given again, for another disk; of others the last one holds
	parse   func(value string, l *Limits) error
}

// ParseLimit reads one limit into those that there are, such as "memory.max" or
// "MemoryMax" with "512M". It takes what [Keys] lists. What it does not take gives a
// *[LimitError] and leaves the limits as they were.
//
// A value may depend on this machine: a share such as "50%" is one of its memory, and
// the path of a device is looked up.
func ParseLimit(key, value string, into *Limits) error {
	keys := Keys()
	i := slices.IndexFunc(keys, func(k Key) bool { return k.Name == key || slices.Contains(k.Also, key) })
	if i < 0 {
		return unknown(key, value, keys)
	}
	l := *into
	if err := keys[i].parse(strings.TrimSpace(value), &l); err != nil {
		return &LimitError{Key: key, Value: value, Why: err.Error(), Hint: "write " + keys[i].Accepts}
	}
	*into = l
	return nil
}

// LimitError says what is wrong with a limit that somebody wrote.
type LimitError struct {
	Key, Value string
	Unknown    bool   // there is no limit of that name
	Why        string // what is wrong with the value
	Hint       string // what to write
}

// Error names the value and what would be accepted.
func (e *LimitError) Error() string {
	if e.Unknown {
		return fmt.Sprintf("unknown limit %s: %s", quote(e.Key), e.Hint)
	}
	return fmt.Sprintf("%s is %s: %s: %s", e.Key, quote(e.Value), e.Why, e.Hint)
}

func unknown(key, value string, keys []Key) error {
	e := &LimitError{Key: key, Value: value, Unknown: true, Why: "there is no such limit"}
	var names, also []string
	for _, k := range keys {
		names = append(names, k.Name)
		also = append(also, k.Also...)
	}
	if word := suggest.Word(key, append(slices.Clone(names), also...)); word != "" {
		e.Hint = fmt.Sprintf("did you mean %q?", word)
	} else {
		e.Hint = "allowed are " + strings.Join(names, ", ")
	}
	return e
}

// quote quotes text for a message and cuts it if it is long.
func quote(text string) string {
	const most = 60
	if utf8.RuneCountInString(text) <= most {
		return fmt.Sprintf("%q", text)
	}
	return fmt.Sprintf("%q... (%d bytes)", string([]rune(text)[:most]), len(text))
}

// Keys returns all limits that [ParseLimit] takes.
func Keys() []Key {
	const (
		size   = "a size such as 512M or 1GiB (K is 1024), a share of the machine's memory such as 50%, or max"
		weight = "a number 1 to 10000"
		set    = "numbers and ranges such as 0-3,6"
	)
	keys := []Key{
		{"memory.max", sd("MemoryMax"), size, "Memory; beyond it the kernel kills.", "512M", false, memory(1, func(l *Limits) *int64 { return &l.MemoryMax })},
		{"memory.high", sd("MemoryHigh"), size, "Memory; beyond it the kernel slows down and reclaims.", "400M", false, memory(1, func(l *Limits) *int64 { return &l.MemoryHigh })},
		{"memory.low", sd("MemoryLow"), size, "Memory that is reclaimed only if there is no other.", "64M", false, memory(0, func(l *Limits) *int64 { return &l.MemoryLow })},
		{"memory.min", sd("MemoryMin"), size, "Memory that is never reclaimed.", "32M", false, memory(0, func(l *Limits) *int64 { return &l.MemoryMin })},
		{"memory.swap.max", sd("MemorySwapMax"), "a size such as 512M or 1GiB (K is 1024), a share of the machine's swap such as 50%, 0 for none, or max", "Swap.", "0", false, swap},
		{"memory.oom.group", nil, "1 or 0", "Whether running out of memory kills all processes together and not one of them.", "1", false, flag(func(l *Limits) *bool { return &l.OOMGroup })},
		{"pids.max", sd("TasksMax"), "a number 1 to 4194304, or max", "Processes and threads.", "64", false, pids},
		{"cpu.max", sd("CPUQuota"), `a percentage of one CPU such as 150%, quota and period in microseconds such as "50000 100000", or max`, "CPU time.", "150%", false, cpuMax},
		{"cpu.weight", sd("CPUWeight"), "a number 1 to 10000, or idle", "Share of the CPU when it is short; the kernel starts with 100. `idle` is `cpu.idle = 1`.", "200", false, cpuWeight},
		{"cpu.idle", nil, "1 or 0", "Whether it gets CPU time only when nobody beside it wants any; then it has no weight. Linux 5.15.", "1", false, flag(func(l *Limits) *bool { return &l.CPUIdle })},
		{"cpuset.cpus", sd("AllowedCPUs"), set, "CPUs that may be used.", "0-3,6", false, list(func(l *Limits) *string { return &l.CPUs })},
		{"cpuset.mems", sd("AllowedMemoryNodes"), set, "Memory nodes that may be used.", "0", false, list(func(l *Limits) *string { return &l.Mems })},
		{"io.weight", sd("IOWeight"), weight, "Share of the disks when they are short.", "50", false, share(func(l *Limits) *uint64 { return &l.IOWeight })},
		{"io.max", nil, `disks and what they may do each second, such as "8:0 rbps=1048576 wiops=120 8:16 wbps=max" (rbps, wbps, riops, wiops)`, "Bytes and operations a second of disks.", "8:0 rbps=1048576 wiops=120", true, ioMax},
	}
	for i := range keys {
		if name := strings.ReplaceAll(keys[i].Name, ".", "_"); name != keys[i].Name {
			keys[i].Also = append([]string{name}, keys[i].Also...)
		}
	}
	return append(keys, diskKeys()...)
}

// sd is systemd's name of a limit.
func sd(name string) []string { return []string{name} }

// diskKeys are what systemd has instead of io.max. There, M is a million.
func diskKeys() []Key {
	const (
		bytes = `a disk and bytes a second, such as "/dev/sda 10M" (K is 1000)`
		ops   = `a disk and operations a second, such as "/dev/sda 1K" (K is 1000)`
	)
	return []Key{
		{"IOReadBandwidthMax", nil, bytes, "Bytes a second that are read from a disk.", "8:0 10M", true, disk(func(d *DiskLimit) *int64 { return &d.ReadBytes })},
		{"IOWriteBandwidthMax", nil, bytes, "Bytes a second that are written to a disk.", "8:0 10M", true, disk(func(d *DiskLimit) *int64 { return &d.WriteBytes })},
		{"IOReadIOPSMax", nil, ops, "Reads a second from a disk.", "8:0 1K", true, disk(func(d *DiskLimit) *int64 { return &d.ReadOps })},
		{"IOWriteIOPSMax", nil, ops, "Writes a second to a disk.", "8:0 1K", true, disk(func(d *DiskLimit) *int64 { return &d.WriteOps })},
	}
}

var errEmpty = errors.New("it is empty")
