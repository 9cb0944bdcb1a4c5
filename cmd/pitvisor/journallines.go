package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/coreos/go-systemd/v22/journal"

	"github.com/pitvisor/pitvisor/internal/capture"
	"github.com/pitvisor/pitvisor/internal/config"
)

// journalLines sends lines of workers to systemd's journal. While the journal
// does not take them they wait in the files; what is cut away there meanwhile is
// told with the next line.
type journalLines struct {
	inForce func() *config.Config
	seen    *config.Config    // that pools is of
	pools   map[string]bool   // whose lines are sent
	base    map[string]string // fields of every line
	send    func(string, journal.Priority, map[string]string) error
	warn    func(error)
	lost    int // lines that the journal refused since the last one that it took
}

// newJournalLines returns nil if no pool's output goes to the journal.
func newJournalLines(inForce func() *config.Config, run string, warn func(error)) (*journalLines, error) {
	cfg := inForce()
	j := &journalLines{
		inForce: inForce, send: (&journalSocket{path: journalPath}).send, warn: warn,
		base: map[string]string{"PITVISOR_RUN": run, "PITVISOR_NAME": cfg.Name},
	}
	if !slices.ContainsFunc(cfg.Pools, func(p config.Pool) bool { return p.Journal }) {
		return nil, nil
	}
	if !journal.Enabled() {
		return nil, failHint(exitSelf, errors.New("send output to the journal: none listens at /run/systemd/journal/socket"),
			"remove journal = true, or give this process the host's /run/systemd/journal")
	}
	return j, nil
}

// wanted says whether a pool's lines are sent, by the configuration in force.
func (j *journalLines) wanted(pool string) bool {
	if cfg := j.inForce(); cfg != j.seen {
		j.seen, j.pools = cfg, map[string]bool{}
		for _, p := range cfg.Pools {
			j.pools[p.Spec.Name] = p.Journal
		}
	}
	return j.pools[pool]
}

// line sends one line.
func (j *journalLines) line(l capture.Line) {
	pool, slot, _ := strings.Cut(l.Worker, "/")
	if !j.wanted(pool) {
		return
	}
	priority, text := journalLevel(l.Stream, string(l.Text))
	fields := map[string]string{
		"SYSLOG_IDENTIFIER": pool,
		"PITVISOR_POOL":     pool, "PITVISOR_WORKER": l.Worker, "PITVISOR_SLOT": slot,
		"PITVISOR_START": strconv.FormatUint(l.Start, 10), "PITVISOR_STREAM": l.Stream,
	}
	for k, v := range j.base {
		fields[k] = v
	}
	if l.Split {
		fields["PITVISOR_PARTIAL"] = "1" // it goes on in the next line of this stream
	}
	if l.Lost > 0 {
		fields["PITVISOR_LOST_BYTES"] = strconv.FormatInt(l.Lost, 10)
	}
	if j.lost > 0 {
		fields["PITVISOR_LOST_LINES"] = strconv.Itoa(j.lost)
	}
	if err := j.send(text, priority, fields); err != nil {
		if j.lost == 0 {
			j.warn(fmt.Errorf("send a line of %s: %w; lines are lost until it takes some again", l.Worker, err))
		}
		j.lost++
		return
	}
	j.lost = 0
}

// journalLevel is the priority of a line: that of a prefix such as <4>, as
// sd-daemon(3) has them, which is taken off, else that of its stream.
func journalLevel(stream, text string) (journal.Priority, string) {
	if len(text) >= 3 && text[0] == '<' && text[2] == '>' && text[1] >= '0' && text[1] <= '7' {
		return journal.Priority(text[1] - '0'), text[3:]
	}
	if stream == capture.Stderr {
		return journal.PriErr, text
	}
	return journal.PriInfo, text
}
