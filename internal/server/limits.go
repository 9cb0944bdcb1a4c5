package server

import (
	"strings"

	"github.com/pitvisor/pitvisor/cgroup"
)

// limitsOf reads the limits of a cgroup that are not what the kernel begins with.
func limitsOf(d *cgroup.Dir) map[string]string {
	usual := map[string]string{
		"memory.max": "max", "memory.high": "max", "memory.low": "0", "memory.min": "0", "memory.swap.max": "max", "memory.oom.group": "0",
		"pids.max": "max", "cpu.max": "max 100000", "cpu.weight": "100", "cpu.idle": "0", "cpuset.cpus": "", "cpuset.mems": "", "io.weight": "default 100", "io.max": "",
	}
	var found map[string]string
	for file, begin := range usual {
		data, err := d.ReadFile(file)
		if err != nil {
			continue // its controller is not there
		}
		value := strings.TrimSpace(string(data))
		if value == begin {
			continue
		}
		if found == nil {
			found = map[string]string{}
		}
		found[file] = value
	}
	return found
}
