package terminal

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// groupAlive says whether a process group has a process that is no zombie. Nothing
// but a look at all of them tells; it is needed only when a command has left the
// terminal to a group of its own.
func groupAlive(group int) (bool, error) {
	proc, err := os.Open("/proc")
	if err != nil {
		return false, fmt.Errorf("look for process group %d: %w", group, err)
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return false, fmt.Errorf("look for process group %d: %w", group, err)
	}
	for _, name := range names {
		if name[0] < '0' || name[0] > '9' {
			continue
		}
		stat, err := os.ReadFile("/proc/" + name + "/stat")
		if err != nil {
			continue // it has gone meanwhile
		}
		if state, g := parseStat(stat); g == group && state != 'Z' && state != 'X' {
			return true, nil
		}
	}
	return false, nil
}

// parseStat returns the state and the process group in a line of /proc/<pid>/stat.
func parseStat(stat []byte) (state byte, group int) {
	end := bytes.LastIndexByte(stat, ')') // the name before it may hold anything
	fields := bytes.Fields(stat[end+1:])
	if end < 0 || len(fields) < 3 {
		return 0, 0
	}
	group, err := strconv.Atoi(string(fields[2]))
	if err != nil {
		return 0, 0
	}
	return fields[0][0], group
}
