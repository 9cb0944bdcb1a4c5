package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

const doctorLong = `Try each thing that pitvisor needs of this host, by doing it in a scratch cgroup,
and print the tier of guarantees that is reached and what would raise it:

  A  reuse-proof identity of processes, exit status of processes that are not
     our children, cgroup.kill, start inside the cgroup
  B  identity by unique pidfd inode; exit status only of children
  C  identity by pidfd, boot id, start time and membership
  D  no cgroup.kill: freeze, signal every member by pidfd, repeat, thaw
  E  no writable cgroup v2: refused

Exit codes: 0 pitvisor works here; 1 it does not.`

// finding is the outcome of one probe.
type finding struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Need   bool   `json:"required"` // pitvisor does not work without it
	Detail string `json:"detail,omitempty"`
	Cure   string `json:"cure,omitempty"`
}

// diagnosis is what doctor prints.
type diagnosis struct {
	Tier     string    `json:"tier"`
	Works    bool      `json:"works"`
	Root     string    `json:"cgroup_root,omitempty"`
	Raise    string    `json:"raise,omitempty"` // what would raise the tier
	Findings []finding `json:"findings"`
}

func (a *app) doctorCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "try what this host can do and print the tier of guarantees",
		Long:  doctorLong,
		Args:  takes(0, 0),
		RunE: func(*cobra.Command, []string) error {
			d := a.diagnose()
			if err := a.printDiagnosis(d, asJSON); err != nil {
				return err
			}
			if !d.Works {
				return fail(exitFailed, nil)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (a *app) printDiagnosis(d diagnosis, asJSON bool) error {
	if asJSON {
		return a.printJSON(d)
	}
	paint := painter(a.colors(a.stdout))
	for _, f := range d.Findings {
		mark := paint.paint(styleGreen, "ok  ")
		switch {
		case !f.OK && f.Need:
			mark = paint.paint(styleRed, "NO  ")
		case !f.OK:
			mark = paint.paint(styleYellow, "no  ")
		}
		fmt.Fprintf(a.stdout, "%s %-28s %s\n", mark, f.Name, f.Detail)
		if f.Cure != "" {
			fmt.Fprintf(a.stdout, "     %-28s %s\n", "", paint.paint(styleDim, "→ "+f.Cure))
		}
	}
	fmt.Fprintf(a.stdout, "tier %s\n", d.Tier)
	if d.Raise != "" {
		fmt.Fprintf(a.stdout, "to raise it: %s\n", d.Raise)
	}
	return nil
}
