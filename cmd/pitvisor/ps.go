package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pitvisor/pitvisor/api"
	"github.com/pitvisor/pitvisor/internal/detach"
	"github.com/pitvisor/pitvisor/registry"
)

func (a *app) psCommand() *cobra.Command {
	var asJSON, processes bool
	cmd := &cobra.Command{
		Use:   "ps",
		Short: "show the tree of runs, pools and workers",
		Long: "Show the tree of runs, pools and workers, read from the cgroup tree itself, so it works\n" +
			"with and without a supervisor. Processes are shown as PID:INODE, which names a process\n" +
			"and not just a number.",
		Args: takes(0, 0),
		RunE: func(*cobra.Command, []string) error { return a.ps(asJSON, processes) },
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVarP(&processes, "processes", "p", false, "show every process of each worker")
	return cmd
}

func (a *app) ps(asJSON, processes bool) error {
	all, err := a.places()
	if err != nil {
		if all = a.othersPlaces(); len(all) == 0 {
			return err
		}
	}
	defer all.close()
	runs, err := all.list(context.Background())
	if err != nil {
		return err
	}
	if asJSON {
		return a.printJSON(runs)
	}
	if len(runs) == 0 {
		fmt.Fprintf(a.stdout, "no runs below %s\n", all)
		return nil
	}
	return a.printRuns(runs, processes)
}

func (a *app) printRuns(runs []registry.RunView, processes bool) error {
	p := psPrinter{table: &table{paint: painter(a.colors(a.stdout))}, processes: processes, now: time.Now()}
	p.head("NAME", "STATE", "READY", "AGE", "MEMORY", "PROCS", "PROCESS")
	for _, run := range runs {
		p.run(run)
	}
	_, err := fmt.Fprint(a.stdout, p.table)
	return err
}

type psPrinter struct {
	*table
	processes bool
	now       time.Time
}

// row adds a line of the tree; style is that of the second cell.
func (p psPrinter) row(s style, texts ...string) {
	cells := make([]cell, len(texts))
	for i, text := range texts {
		cells[i].text = text
	}
	cells[1].style = s
	p.add(cells...)
}

// run adds a line about the run, whose name is too long for a column, and its tree.
func (p psPrinter) run(r registry.RunView) {
	var names []string
	if r.Name != "" {
		names = append(names, clean(r.Name))
	}
	if r.Kind == detach.Kind {
		names = append(names, "detached")
	}
	line := filepath.Base(r.Dir)
	if len(names) > 0 {
		line += " (" + strings.Join(names, ", ") + ")"
	}
	facts := []string{string(r.State) + " " + p.age(r.Started), count(r.Processes, "process", "processes")}
	if r.Memory != nil {
		facts = append(facts, memory(r.Memory))
	}
	if r.State == registry.RunRunning {
		facts = append(facts, "owner "+r.Owner.String())
	}
	if !r.Expires.IsZero() {
		facts = append(facts, "ends in "+max(0, r.Expires.Sub(p.now)).Round(time.Second).String())
	}
	p.add(cell{text: line + ": " + strings.Join(facts, ", ")})
	for i, pool := range r.Pools {
		p.pool(pool, branch(i, len(r.Pools)), stem(i, len(r.Pools)))
	}
}

func branch(i, n int) string {
	if i == n-1 {
		return "└─ "
	}
	return "├─ "
}

func stem(i, n int) string {
	if i == n-1 {
		return "   "
	}
	return "│  "
}

func (p psPrinter) pool(pool registry.PoolView, lead, below string) {
	ready, procs := 0, 0
	for _, w := range pool.Workers {
		procs += len(w.Processes)
		if w.Ready {
			ready++
		}
	}
	p.row("", lead+pool.Name, "", fmt.Sprintf("%d/%d", ready, pool.Size), "", "", fmt.Sprint(procs), pool.Pressure)
	rows := len(pool.Workers) + len(pool.Waiting)
	for i, w := range pool.Workers {
		p.worker(w, below+branch(i, rows), below+stem(i, rows))
	}
	for i, slot := range pool.Waiting {
		p.row(stateStyle(api.State(slot.State), false), below+branch(len(pool.Workers)+i, rows)+fmt.Sprintf("%s/%d", pool.Name, slot.Slot), slot.State, "no", "", "", "0", slot.Cause)
	}
}

func (p psPrinter) worker(w registry.WorkerView, lead, below string) {
	ready := "no"
	if w.Ready {
		ready = "yes"
	}
	process := ""
	if w.Process.PID != 0 { // 0 in the first moments of a run
		process = w.Process.String()
	}
	if w.Port != 0 {
		process += fmt.Sprintf(" port %d", w.Port)
	}
	state := w.State
	if w.Frozen {
		state += " (frozen)"
	}
	p.row(stateStyle(api.State(w.State), w.Ready && !w.Frozen), lead+fmt.Sprintf("%s/%d", w.Pool, w.Slot), state, ready, p.age(w.Started), memory(w.Memory), fmt.Sprint(len(w.Processes)), process)
	if !p.processes {
		return
	}
	for i, proc := range w.Processes {
		p.row("", below+branch(i, len(w.Processes))+string(printable([]byte(proc.Comm))), "", "", "", "", "", fmt.Sprintf("%d:%d", proc.PID, proc.Inode))
	}
}

func (p psPrinter) age(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	age := p.now.Sub(t)
	switch {
	case age < time.Second:
		return age.Round(time.Millisecond).String()
	case age < time.Hour:
		return age.Round(time.Second).String()
	case age < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(age.Hours()), int(age.Minutes())%60)
	}
	return fmt.Sprintf("%dd", int(age.Hours())/24)
}

// memory prints bytes in binary units; "-" is not available on this host.
func memory(bytes *uint64) string {
	if bytes == nil {
		return "-"
	}
	value, unit := float64(*bytes), "B"
	for _, next := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if value < 1024 {
			break
		}
		value, unit = value/1024, next
	}
	if unit == "B" {
		return fmt.Sprintf("%d B", *bytes)
	}
	return fmt.Sprintf("%.1f %s", value, unit)
}
