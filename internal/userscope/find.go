package userscope

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// prefix and suffix make the name of a scope.
const (
	prefix = "pitvisor-run-"
	suffix = ".scope"
)

// depth is how far below the top systemd puts a user's scopes, with room to spare:
// user.slice/user-1000.slice/user@1000.service/app.slice/pitvisor-run-x.scope.
const depth = 7

// depthOfServices is that of system.slice/system-pitvisor.slice/pitvisor@ci.service.
const depthOfServices = 2

// leaf is the supervisor's own in a service: DelegateSubgroup= of the units. With
// ProtectControlGroups=private the supervisor sees nothing above it, and its runs are
// there.
const leaf = "supervisor"

// Find returns the directories of the scopes of [Enter], and of the services called
// pitvisor or pitvisor@NAME, in a mount of cgroup2 that belong to the caller, to root
// those of everybody. Each holds the runs that were made in it; in a service it may also
// be the supervisor's leaf that does. A scope may be gone by the time it is opened.
func Find(mount string) []string {
	top := filepath.Join(mount, "user.slice")
	if _, err := os.Stat(top); err != nil {
		return find(mount, depth) // a user's manager that was not started by a login
	}
	return append(find(top, depth), find(filepath.Join(mount, "system.slice"), depthOfServices)...)
}

// ours knows the names of scopes and services of pitvisor.
func ours(name string) bool {
	return strings.HasPrefix(name, prefix) && strings.HasSuffix(name, suffix) ||
		name == "pitvisor.service" || strings.HasPrefix(name, "pitvisor@") && strings.HasSuffix(name, ".service")
}

func find(dir string, depth int) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // gone, or not ours to see
	}
	var found []string
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		below := filepath.Join(dir, e.Name())
		switch {
		case ours(e.Name()):
			if owned(below) {
				found = append(found, below)
				found = append(found, withRuns(filepath.Join(below, leaf))...)
			}
		case depth > 1:
			found = append(found, find(below, depth-1)...)
		}
	}
	return found
}

// withRuns returns the directory if there are runs in it.
func withRuns(dir string) []string {
	if runs, _ := filepath.Glob(filepath.Join(dir, "run-*")); len(runs) == 0 { // the pattern is a good one
		return nil
	}
	return []string{dir}
}

// owned says whether a directory is the caller's to work in.
func owned(dir string) bool {
	var st unix.Stat_t
	uid := os.Geteuid()
	return uid == 0 || unix.Stat(dir, &st) == nil && int(st.Uid) == uid
}
