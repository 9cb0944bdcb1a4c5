package leftover

import "slices"

// ways says how the process left the command, from what was read of it.
func (l *lister) ways(p *Process, env environment) []Way {
	var ways []Way
	if !slices.Contains(p.Unknown, FactState) {
		ways = l.lineage(p)
	}
	if env.scrubbed(l.command.RunID, p.Run) {
		ways = append(ways, Scrubbed)
	}
	if p.UID != l.command.UID && !slices.Contains(p.Unknown, FactUID) {
		ways = append(ways, OtherUser)
	}
	if p.Cgroup != l.command.Leaf {
		if _, below := within(p.Cgroup, l.command.Leaf); below {
			ways = append(ways, SubCgroup)
		} else {
			ways = append(ways, OtherCgroup)
		}
	}
	return ways
}

// lineage compares parent, session and process group with the command's.
func (l *lister) lineage(p *Process) []Way {
	var ways []Way
	reparented := !l.inRun(p.PPID)
	session := differs(p.Session, l.command.Session, p.PID)
	group := differs(p.Group, l.command.Group, p.PID)
	// A session and a process group have the number of the process that made them,
	// and nobody else can get that number as long as they last.
	goneMaker := func(maker int) bool { return maker != 0 && !l.inRun(maker) }
	if reparented && (session && goneMaker(p.Session) || group && goneMaker(p.Group)) {
		ways = append(ways, DoubleFork)
	}
	switch {
	case session:
		ways = append(ways, Setsid)
	case group:
		ways = append(ways, Setpgid)
	}
	if reparented {
		ways = append(ways, Reparented)
	}
	return ways
}

// differs says whether a session or process group is another than the command's.
// The command's number can be given anew once all that had it are gone: to a
// process that now leads one of its own. Two outside this PID namespace, both
// numbered 0, cannot be told apart.
func differs(number, commands, pid int) bool {
	return commands >= 0 && (number != commands || number == pid)
}
