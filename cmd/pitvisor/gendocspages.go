package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pitvisor/pitvisor/internal/config"
)

// manPages are all pages of the manual.
func manPages(root *cobra.Command) []manPage {
	pages := []manPage{mainPage(root), configPage(config.Reference()), conceptsPage()}
	for _, cmd := range verbs(root) {
		pages = append(pages, verbPage(cmd))
		if cmd.Name() == "completion" {
			continue // its shells are all the same
		}
		for _, sub := range verbs(cmd) {
			pages = append(pages, verbPage(sub))
		}
	}
	return pages
}

// verbs are the commands below cmd that people are told of.
func verbs(cmd *cobra.Command) []*cobra.Command {
	return slices.DeleteFunc(slices.Clone(cmd.Commands()), func(c *cobra.Command) bool { return !c.IsAvailableCommand() })
}

func mainPage(root *cobra.Command) manPage {
	return manPage{
		name: "pitvisor", section: "1", about: root.Short,
		parts: []manPart{
			{"SYNOPSIS", "`pitvisor` VERB [flags] [arguments]\n"},
			{"DESCRIPTION", root.Long + "\n\nThe words that are used here are explained in pitvisor(7).\n"},
			{"VERBS", verbList(root)},
			{"OPTIONS", "These are for every verb.\n\n" + flagList(root.PersistentFlags())},
			{"ENVIRONMENT", `? PITVISOR_NAME
  The flag --name of the verb, for every name: --state-dir is PITVISOR_STATE_DIR.
? NO_COLOR
  No colours, unless --color=always.
? STATE_DIRECTORY, RUNTIME_DIRECTORY
  What systemd gives to a unit, in place of the usual directories.
`},
			{"FILES", `? /etc/pitvisor/pitvisor.toml
  The configuration of pitvisor.service: pitvisor.toml(5).
? /etc/pitvisor/conf.d/*.toml
  Drop-ins, read after it.
? /usr/share/pitvisor/pitvisor.schema.json
  The JSON Schema of both.
? /var/lib/pitvisor, ~/.local/state/pitvisor
  Logs of workers and history, of root and of other users.
? /run/pitvisor, $XDG_RUNTIME_DIR/pitvisor
  Sockets and ready files of runs.
`},
			{"SEE ALSO", seeAlso(root)},
		},
	}
}

func verbPage(cmd *cobra.Command) manPage {
	description := cmd.Long
	if description == "" {
		description = strings.ToUpper(cmd.Short[:1]) + cmd.Short[1:] + "."
	}
	p := manPage{
		name: strings.ReplaceAll(cmd.CommandPath(), " ", "-"), section: "1", about: cmd.Short,
		parts: []manPart{{"SYNOPSIS", "`" + cmd.CommandPath() + "`" + strings.TrimPrefix(cmd.UseLine(), cmd.CommandPath()) + "\n"}, {"DESCRIPTION", description + "\n"}},
	}
	if cmd.HasAvailableSubCommands() {
		p.parts = append(p.parts, manPart{"VERBS", verbList(cmd)})
	}
	if flags := flagList(cmd.LocalFlags()); flags != "" {
		p.parts = append(p.parts, manPart{"OPTIONS", flags + "\nMore, of every verb, are in pitvisor(1).\n"})
	}
	if cmd.Example != "" {
		p.parts = append(p.parts, manPart{"EXAMPLES", "```\n" + unindent(cmd.Example) + "\n```\n"})
	}
	p.parts = append(p.parts, manPart{"SEE ALSO", "pitvisor(1), pitvisor(7), pitvisor.toml(5)\n"})
	return p
}

func unindent(example string) string {
	lines := strings.Split(example, "\n")
	for i := range lines {
		lines[i] = strings.TrimPrefix(lines[i], "  ")
	}
	return strings.Join(lines, "\n")
}

func verbList(cmd *cobra.Command) string {
	var b strings.Builder
	for _, c := range verbs(cmd) {
		fmt.Fprintf(&b, "? `%s`\n  %s.\n", strings.TrimPrefix(c.CommandPath(), "pitvisor "), c.Short)
	}
	return b.String()
}

func seeAlso(root *cobra.Command) string {
	var b strings.Builder
	for _, c := range verbs(root) {
		b.WriteString("pitvisor-" + c.Name() + "(1),\n")
	}
	return b.String() + "pitvisor.toml(5), pitvisor(7)\n"
}

// flagList explains flags as --help does.
func flagList(flags *pflag.FlagSet) string {
	var b strings.Builder
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Deprecated != "" {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		b.WriteString("? ")
		if f.Shorthand != "" {
			fmt.Fprintf(&b, "`-%s`, ", f.Shorthand)
		}
		fmt.Fprintf(&b, "`--%s`", f.Name)
		if value != "" {
			one := strings.TrimSuffix(strings.TrimSuffix(value, "Array"), "s") // a flag is given one at a time
			b.WriteString(" " + strings.ToUpper(one))
		}
		b.WriteString("\n  " + strings.ToUpper(usage[:1]) + usage[1:])
		if !slices.Contains([]string{"", "false", "0", "0s", "[]"}, f.DefValue) {
			fmt.Fprintf(&b, " (default %s)", f.DefValue)
		}
		b.WriteString(".\n")
	})
	return b.String()
}

func configPage(manual config.Manual) manPage {
	p := manPage{
		name: "pitvisor.toml", section: "5", about: "configuration of pools of workers",
		parts: []manPart{{"DESCRIPTION", manual.Intro}, {"EXAMPLE", "```\n" + manual.Example + "```\n"}},
	}
	for _, s := range manual.Sections {
		var b strings.Builder
		if s.Intro != "" {
			b.WriteString(s.Intro + "\n\n")
		}
		for _, k := range s.Keys {
			fmt.Fprintf(&b, "? `%s` (%s)\n  %s\n", strings.Join(k.Names, "`, `"), strings.ReplaceAll(k.Type, "`", ""), strings.ReplaceAll(k.Meaning, "\n", " "))
			if k.Default != "" {
				fmt.Fprintf(&b, "  Default: %s.\n", k.Default)
			}
			if k.Example != "" {
				fmt.Fprintf(&b, "  Example: `%s`\n", strings.ReplaceAll(k.Example, "\n", " "))
			}
		}
		p.parts = append(p.parts, manPart{strings.ToUpper(s.Title[:1]) + s.Title[1:], b.String()})
	}
	p.parts = append(p.parts, manPart{"SEE ALSO", "pitvisor-check(1), pitvisor-config(1), pitvisor-up(1), pitvisor(7)\n"})
	return p
}

func conceptsPage() manPage {
	return manPage{
		name: "pitvisor", section: "7", about: "the words that pitvisor uses, and what they promise",
		parts: []manPart{
			{"DESCRIPTION", conceptsText},
			{"SEE ALSO", "pitvisor(1), pitvisor.toml(5), cgroups(7), pidfd_open(2)\n"},
		},
	}
}

const conceptsText = `pitvisor starts processes, and is sure of what it has started. These are its words.

? run
  What one supervisor keeps, or one command of ` + "`pitvisor run`" + `: a cgroup of its own, run-ID.
  While the owner lives it holds a lock on that directory. The kernel frees the lock
  when the owner is gone, however it went.
? pool
  A number of workers that run the same command: [pool.NAME] in pitvisor.toml(5).
? worker
  One place in a pool, with a number: web/3. When its process ends it is started again.
? start
  One life of a worker. It is ready when the rules of its pool have held for this very
  start, and for no earlier one.
? leaf
  The cgroup of one start. It is made before the process and removed after it, and
  never used twice. Whatever a worker starts is in its leaf and cannot leave it without
  root's rights, so a worker has ended when its leaf is gone.
? pidfd
  A descriptor that is one process, and never another that got its number. pitvisor
  signals by pidfds and whole cgroups, and never by number.
? PID:INODE
  How a process is named: its number, and the inode of its pidfd, which no other process
  gets until the next boot.
? sweep
  To kill and remove runs whose owner is gone: as whole cgroups, after the kernel has
  said by the free lock that nobody owns them. ` + "`pitvisor up`" + ` sweeps beside its starts.
? root
  The cgroup below which runs are made: what systemd has delegated (Delegate= of a unit),
  else pitvisor below the cgroup2 mount for root, else the one of --cgroup-root.
? tier
  What the kernel allows, from A, everything, to E, no cgroup to work in. ` + "`pitvisor doctor`" + `
  prints it, with what would raise it.
`
