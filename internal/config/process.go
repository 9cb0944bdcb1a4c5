package config

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pitvisor/pitvisor/internal/units"
	"github.com/pitvisor/pitvisor/spawn"
	"golang.org/x/sys/unix"
)

// processKeys are what a process is given besides its command.
func processKeys() []key[*poolDraft] {
	return []key[*poolDraft]{
		{
			Name: "umask", Type: "octal string", Default: "the supervisor's",
			Meaning: "File mode creation mask.",
			Example: `umask = "027"`,
			set:     setUmask,
		},
		whole(key[*poolDraft]{
			Name: "nice", Default: "the supervisor's",
			Meaning: "Nice value, -20 to 19. Less than the supervisor's own needs root.",
			Example: `nice = 10`,
		}, -20, 19, func(p *poolDraft, n int) {
			nice := n
			p.Spec.Command.Nice = &nice
		}),
		whole(key[*poolDraft]{
			Name: "oom_score_adj", Default: "the supervisor's",
			Meaning: "How gladly the kernel kills it when memory runs out, -1000 to 1000.",
			Example: `oom_score_adj = 500`,
		}, -1000, 1000, func(p *poolDraft, n int) {
			score := n
			p.Spec.Command.OOMScoreAdj = &score
		}),
	}
}

// confinementKeys are what a process is kept from.
func confinementKeys() []key[*poolDraft] {
	return []key[*poolDraft]{
		yesNo(key[*poolDraft]{
			Name: "no_new_privs", Default: "`false`",
			Meaning: "No program that a worker starts can gain rights (set-user-ID and the like).",
			Example: `no_new_privs = true`,
		}, func(p *poolDraft, b bool) { p.Spec.Command.NoNewPrivs = b }),
		yesNo(key[*poolDraft]{
			Name: "netns", Default: "`false`",
			Meaning: "A network namespace for each worker, with nothing in it but a loopback device that is up. All workers may then listen on the same port. Needs root.",
			Example: `netns = true`,
		}, func(p *poolDraft, b bool) { p.Spec.Command.NetNS = b }),
	}
}

// setUmask takes octal digits only: 22 without quotes would be another mask than people mean.
func setUmask(d *decoder, e *entry, p *poolDraft) {
	text := e.value.text
	if e.kind == kindWhole && strings.HasPrefix(text, "0o") {
		text = text[2:]
	} else if e.kind != kindText {
		d.wrongKind(e, "a string of octal digits", `write it in quotes: umask = "022"`)
		return
	}
	n, err := strconv.ParseUint(text, 8, 32)
	if err != nil || n > 0o777 {
		d.add(e.value.at, `write octal digits, such as "022"`, "umask is %s, must be \"000\" to \"777\"", quoted(e.value.text))
		return
	}
	mask := int(n)
	p.Spec.Command.Umask = &mask
}

// rlimit is one resource of setrlimit(2).
type rlimit struct {
	name     string
	systemd  string
	resource int
	bytes    bool // a size may have a unit
	meaning  string
}

func rlimitTable() []rlimit {
	return []rlimit{
		{"nofile", "LimitNOFILE", unix.RLIMIT_NOFILE, false, "open files"},
		{"nproc", "LimitNPROC", unix.RLIMIT_NPROC, false, "processes and threads of the user"},
		{"core", "LimitCORE", unix.RLIMIT_CORE, true, "size of a core dump"},
		{"as", "LimitAS", unix.RLIMIT_AS, true, "address space"},
		{"data", "LimitDATA", unix.RLIMIT_DATA, true, "data segment"},
		{"stack", "LimitSTACK", unix.RLIMIT_STACK, true, "stack"},
		{"rss", "LimitRSS", unix.RLIMIT_RSS, true, "resident memory; Linux ignores it"},
		{"memlock", "LimitMEMLOCK", unix.RLIMIT_MEMLOCK, true, "locked memory"},
		{"fsize", "LimitFSIZE", unix.RLIMIT_FSIZE, true, "size of a file"},
		{"cpu", "LimitCPU", unix.RLIMIT_CPU, false, "seconds of CPU time"},
		{"locks", "LimitLOCKS", unix.RLIMIT_LOCKS, false, "file locks; Linux ignores it"},
		{"sigpending", "LimitSIGPENDING", unix.RLIMIT_SIGPENDING, false, "queued signals of the user"},
		{"msgqueue", "LimitMSGQUEUE", unix.RLIMIT_MSGQUEUE, true, "bytes in message queues of the user"},
		{"nice", "LimitNICE", unix.RLIMIT_NICE, false, "20 minus the least nice value"},
		{"rtprio", "LimitRTPRIO", unix.RLIMIT_RTPRIO, false, "real-time priority"},
		{"rttime", "LimitRTTIME", unix.RLIMIT_RTTIME, false, "microseconds of real-time CPU without a pause"},
	}
}

// rlimitKeys makes keys of the table.
func rlimitKeys() []key[*[]spawn.Rlimit] {
	var keys []key[*[]spawn.Rlimit]
	for _, r := range rlimitTable() {
		typ := "number, `\"soft:hard\"` or `\"infinity\"`"
		if r.bytes {
			typ = "size, `\"soft:hard\"` or `\"infinity\"`"
		}
		keys = append(keys, key[*[]spawn.Rlimit]{
			Name: r.name, Also: []string{r.systemd}, Type: typ, schema: schema{"type": []string{"integer", "string"}, "minimum": 0}, Default: "the supervisor's", Meaning: r.meaning,
			Example: fmt.Sprintf("%s = %s", r.name, map[bool]string{false: `"1024:4096"`, true: `"64M"`}[r.bytes]),
			set: func(d *decoder, e *entry, to *[]spawn.Rlimit) {
				if soft, hard, ok := d.softHard(e, r.bytes); ok {
					*to = append(*to, spawn.Rlimit{Resource: r.resource, Soft: soft, Hard: hard})
				}
			},
		})
	}
	return keys
}

func (d *decoder) rlimits(t *table, place string) []spawn.Rlimit {
	var all []spawn.Rlimit
	decodeTable(d, t, place[:len(place)-1]+".rlimits]", d.tables.rlimits, &all)
	// In another order they would look like another specification.
	slices.SortFunc(all, func(a, b spawn.Rlimit) int { return cmp.Compare(a.Resource, b.Resource) })
	return all
}

// softHard reads one limit for both, or two with a colon between them.
func (d *decoder) softHard(e *entry, bytes bool) (soft, hard uint64, ok bool) {
	const hint = `write a number, "soft:hard" or "infinity"`
	if e.kind != kindWhole && e.kind != kindText {
		d.wrongKind(e, "a number or a string", hint)
		return 0, 0, false
	}
	first, second, two := strings.Cut(e.value.text, ":")
	soft, err := parseRlimit(first, bytes)
	hard = soft
	if err == nil && two {
		hard, err = parseRlimit(second, bytes)
	}
	if err != nil {
		d.add(e.value.at, hint, "%s is %s: %v", bareKey(e.name), quoted(e.value.text), err)
		return 0, 0, false
	}
	if soft > hard {
		d.add(e.value.at, "", "%s is %s: the soft limit is above the hard one", bareKey(e.name), quoted(e.value.text))
		return 0, 0, false
	}
	return soft, hard, true
}

func parseRlimit(text string, bytes bool) (uint64, error) {
	text = strings.TrimSpace(text)
	switch {
	case text == "infinity" || text == "unlimited":
		return unix.RLIM_INFINITY, nil
	case bytes && !strings.HasPrefix(text, "0x"):
		n, err := units.Size(strings.ReplaceAll(text, "_", ""))
		return uint64(n), err
	}
	n, err := parseWhole(text)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%s is not a number of them", quoted(text))
	}
	return uint64(n), nil
}
