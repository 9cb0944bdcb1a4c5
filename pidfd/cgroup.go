package pidfd

import (
	"fmt"
	"strings"
)

// CgroupPath returns the cgroup v2 of the process as /proc names it to the caller,
// from the top of the hierarchy that the caller sees. The name says where to look; it
// proves nothing, because anybody with a cgroup to work in can make one of that name.
// It fails with [ErrGone] when the process was reaped.
func (p *Process) CgroupPath() (string, error) {
	data, err := p.readProc("cgroup")
	if err != nil {
		return "", fmt.Errorf("read the cgroup of process %d: %w", p.pid, err)
	}
	for line := range strings.Lines(string(data)) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			return strings.TrimSuffix(path, "\n"), nil
		}
	}
	return "", fmt.Errorf("read the cgroup of process %d: %w", p.pid, ErrNotSupported)
}
