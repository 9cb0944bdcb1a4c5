package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pitvisor/pitvisor/resource"
)

// limit is one resource limit under all its names: the kernel's, systemd's, and
// the kernel's with underscores, which TOML takes without quotes.
type limit struct {
	kernel, systemd string
	typ, meaning    string
	example         string
	set             func(d *decoder, e *entry, l *resource.Limits)
}

func limitTable() []limit {
	return []limit{
		{"memory.max", "MemoryMax", "size or `\"max\"`", "Memory; beyond it the kernel kills.", `"512M"`, setBytes(1, func(l *resource.Limits) *int64 { return &l.MemoryMax })},
		{"memory.high", "MemoryHigh", "size or `\"max\"`", "Memory; beyond it the kernel slows down and reclaims.", `"400M"`, setBytes(1, func(l *resource.Limits) *int64 { return &l.MemoryHigh })},
		{"memory.low", "MemoryLow", "size or `\"max\"`", "Memory that is reclaimed only if there is no other.", `"64M"`, setBytes(0, func(l *resource.Limits) *int64 { return &l.MemoryLow })},
		{"memory.min", "MemoryMin", "size or `\"max\"`", "Memory that is never reclaimed.", `"32M"`, setBytes(0, func(l *resource.Limits) *int64 { return &l.MemoryMin })},
		{"memory.swap.max", "MemorySwapMax", "size or `\"max\"`", "Swap; `0` means none.", `0`, setSwap},
		{"memory.oom.group", "", "boolean", "Whether running out of memory kills the whole worker and not one process of it.", `true`, setOOMGroup},
		{"pids.max", "TasksMax", "whole number or `\"max\"`", "Processes and threads.", `64`, setPIDs},
		{"cpu.max", "CPUQuota", "percentage, kernel form or `\"max\"`", "CPU time: `\"150%\"` is one and a half CPUs; the kernel form is `\"150000 100000\"`, microseconds of each period.", `"150%"`, setCPU},
		{"cpu.weight", "CPUWeight", "whole number 1 to 10000", "Share of the CPU when it is short; the kernel starts with 100.", `200`, setWeight(func(l *resource.Limits) *uint64 { return &l.CPUWeight })},
		{"io.weight", "IOWeight", "whole number 1 to 10000", "Share of the disks when they are short.", `50`, setWeight(func(l *resource.Limits) *uint64 { return &l.IOWeight })},
		{"cpuset.cpus", "AllowedCPUs", "list of numbers and ranges", "CPUs that may be used.", `"0-3,6"`, setSet(func(l *resource.Limits) *string { return &l.CPUs })},
		{"cpuset.mems", "AllowedMemoryNodes", "list of numbers and ranges", "Memory nodes that may be used.", `"0"`, setSet(func(l *resource.Limits) *string { return &l.Mems })},
	}
}

func (l limit) names() []string {
	names := []string{l.kernel, strings.ReplaceAll(l.kernel, ".", "_")}
	if l.systemd != "" {
		names = append(names, l.systemd)
	}
	return names
}

// limitKeys makes keys of the table.
func limitKeys() []key[*resource.Limits] {
	var keys []key[*resource.Limits]
	for _, l := range limitTable() {
		names := l.names()
		keys = append(keys, key[*resource.Limits]{
			Name: names[0], Also: names[1:], Type: l.typ, Default: "the kernel's", Meaning: l.meaning,
			Example: fmt.Sprintf("%s = %s", names[len(names)-1], l.example), set: l.set,
		})
	}
	return keys
}

// limits decodes a table of limits. The kernel's names have dots, which TOML
// reads as tables in tables unless they are quoted; both are understood.
func (d *decoder) limits(t *table, place string, to *resource.Limits) {
	flat := newTable(originInline, t.at)
	d.flatten(t, "", flat)
	decodeTable(d, flat, place, d.tables.limits, to)
}

// flatten joins the keys of tables in tables with dots.
func (d *decoder) flatten(t *table, prefix string, flat *table) {
	for _, e := range t.entries {
		name := prefix + e.name
		if e.kind == kindTable && strings.Count(prefix, ".") < 3 {
			d.flatten(e.table, name+".", flat)
			continue
		}
		if flat.byName[name] != nil {
			d.add(e.at, "remove one of them", "%s is defined a second time", bareKey(name))
			continue
		}
		flat.put(&entry{name: name, at: e.at, value: e.value})
	}
}

// unlimited says whether the value lifts a limit.
func unlimited(e *entry) bool {
	return e.kind == kindText && (e.value.text == "max" || e.value.text == "infinity")
}

func setBytes(least int64, field func(*resource.Limits) *int64) func(*decoder, *entry, *resource.Limits) {
	return func(d *decoder, e *entry, l *resource.Limits) {
		if unlimited(e) {
			*field(l) = resource.Unlimited
			return
		}
		if e.kind == kindText && strings.HasSuffix(e.value.text, "%") {
			d.add(e.value.at, `write a size, such as "512M"`, "%s is %s: shares of the memory are not understood", bareKey(e.name), quoted(e.value.text))
			return
		}
		if n, ok := d.size(e, least, 1<<60); ok {
			*field(l) = n
		}
	}
}

// setSwap lets 0 mean no swap. In resource.Limits 0 means to leave the limit
// alone, and the kernel rounds one byte down to no page.
func setSwap(d *decoder, e *entry, l *resource.Limits) {
	setBytes(0, func(l *resource.Limits) *int64 { return &l.MemorySwapMax })(d, e, l)
	if l.MemorySwapMax == 0 {
		l.MemorySwapMax = 1
	}
}

func setOOMGroup(d *decoder, e *entry, l *resource.Limits) {
	if b, ok := d.boolean(e); ok {
		l.OOMGroup = b
	}
}

func setPIDs(d *decoder, e *entry, l *resource.Limits) {
	if unlimited(e) {
		l.PIDsMax = resource.Unlimited
		return
	}
	if n, ok := d.whole(e, 1, 4<<20); ok {
		l.PIDsMax = n
	}
}

func setWeight(field func(*resource.Limits) *uint64) func(*decoder, *entry, *resource.Limits) {
	return func(d *decoder, e *entry, l *resource.Limits) {
		if n, ok := d.whole(e, 1, 10_000); ok {
			*field(l) = uint64(n)
		}
	}
}

// setSet checks the form only; which CPUs there are is for the kernel to say.
func setSet(field func(*resource.Limits) *string) func(*decoder, *entry, *resource.Limits) {
	return func(d *decoder, e *entry, l *resource.Limits) {
		s, ok := d.nonEmpty(e)
		if !ok {
			return
		}
		for _, part := range strings.Split(s, ",") {
			first, last, isRange := strings.Cut(part, "-")
			a, err := strconv.ParseUint(first, 10, 16)
			b := a
			if err == nil && isRange {
				b, err = strconv.ParseUint(last, 10, 16)
			}
			if err != nil || b < a {
				d.add(e.value.at, `write numbers and ranges, such as "0-3,6"`, "%s is %s: %s is neither", bareKey(e.name), quoted(s), quoted(part))
				return
			}
		}
		*field(l) = s
	}
}

// setCPU reads systemd's percentage and the kernel's pair of quota and period.
func setCPU(d *decoder, e *entry, l *resource.Limits) {
	if unlimited(e) {
		l.CPUQuota = time.Duration(resource.Unlimited)
		return
	}
	s, ok := d.nonEmpty(e)
	if !ok {
		return
	}
	quota, period, err := parseCPU(s)
	if err != nil {
		d.add(e.value.at, `write a percentage of one CPU, such as "150%"`, "%s is %s: %v", bareKey(e.name), quoted(s), err)
		return
	}
	l.CPUQuota, l.CPUPeriod = quota, period
}

func parseCPU(s string) (quota, period time.Duration, err error) {
	period = 100 * time.Millisecond
	if number, ok := strings.CutSuffix(s, "%"); ok {
		percent, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || !(percent >= 1 && percent <= 1_000_000) {
			return 0, 0, fmt.Errorf("must be 1%% to 1000000%%")
		}
		return time.Duration(percent / 100 * float64(period)).Round(time.Microsecond), period, nil
	}
	words := strings.Fields(s)
	if len(words) < 1 || len(words) > 2 {
		return 0, 0, fmt.Errorf("neither a percentage nor quota and period")
	}
	n, err := strconv.ParseUint(words[0], 10, 40)
	if err != nil || n < 1000 {
		return 0, 0, fmt.Errorf("quota must be at least 1000 microseconds")
	}
	if len(words) == 2 {
		p, err := strconv.ParseUint(words[1], 10, 40)
		if err != nil || p < 1000 || p > 1_000_000 {
			return 0, 0, fmt.Errorf("period must be 1000 to 1000000 microseconds")
		}
		period = time.Duration(p) * time.Microsecond
	}
	return time.Duration(n) * time.Microsecond, period, nil
}

// limitTableKeys are the tables in a pool and how strict their limits are.
func limitTableKeys() []key[*poolDraft] {
	modes := []string{"strict", "best-effort"}
	set := func(place string, to func(*poolDraft) *resource.Limits) func(*decoder, *entry, *poolDraft) {
		return func(d *decoder, e *entry, p *poolDraft) {
			if t, ok := d.subtable(e, `write it as a table: { "memory.max" = "512M" }`); ok {
				d.limits(t, p.place[:len(p.place)-1]+"."+place+"]", to(p))
			}
		}
	}
	return []key[*poolDraft]{
		{
			Name: "limits", Type: "table", Default: "no limits", Meaning: "Limits of each worker with all its processes; see [pool.NAME.limits].",
			Example: `limits = { "memory.max" = "512M", TasksMax = 64 }`,
			set:     set("limits", func(p *poolDraft) *resource.Limits { return &p.Spec.Limits }),
		},
		{
			Name: "pool_limits", Type: "table", Default: "no limits", Meaning: "The same for all workers of the pool together.",
			Example: `pool_limits = { "memory.max" = "4G" }`,
			set:     set("pool_limits", func(p *poolDraft) *resource.Limits { return &p.Spec.PoolLimits }),
		},
		{
			Name: "limits_mode", Type: oneOfType(modes), Default: "`\"strict\"`",
			Meaning: "What happens where the kernel has no controller for a limit: `strict` refuses to start, `best-effort` says so and goes on without it.",
			Example: `limits_mode = "best-effort"`,
			set: func(d *decoder, e *entry, p *poolDraft) {
				if i, ok := d.choice(e, modes...); ok {
					p.Spec.BestEffortLimits = i == 1
				}
			},
		},
		{
			Name: "rlimits", Type: "table", Default: "the supervisor's", Meaning: "Classic resource limits of each process; see [pool.NAME.rlimits].",
			Example: `rlimits = { nofile = "1024:4096", core = 0 }`,
			set: func(d *decoder, e *entry, p *poolDraft) {
				if t, ok := d.subtable(e, `write it as a table: { nofile = "1024:4096" }`); ok {
					p.Spec.Command.Rlimits = d.rlimits(t, p.place)
				}
			},
		},
	}
}
