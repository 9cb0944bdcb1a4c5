package config

import (
	"fmt"
	"slices"
	"strings"
)

// didYouMean returns a hint with the word that was probably meant, or "".
func didYouMean(found string, words []string) string {
	best, bestDistance := "", 4
	if len(found) > 40 {
		return ""
	}
	for _, word := range words {
		limit := max(1, min(3, len(word)/3))
		if n := distance(plain(found), plain(word)); n <= limit && n < bestDistance {
			best, bestDistance = word, n
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("did you mean %q?", best)
}

// plain makes spellings alike that differ in case and separators only.
func plain(word string) string {
	return strings.NewReplacer("-", "", "_", "", ".", "").Replace(strings.ToLower(word))
}

// distance counts the letters to insert, delete, replace, or swap with their neighbour.
func distance(a, b string) int {
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row := make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(last[j]+cost, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}

// elsewhere names our word for a word of other supervisors.
func elsewhere(found string) string {
	for ours, theirs := range map[string][]string{
		"command":       {"cmd", "exec", "execstart", "program", "argv", "run"},
		"size":          {"replicas", "numprocs", "instances", "count", "workers", "processes", "scale"},
		"directory":     {"workingdir", "workingdirectory", "workdir", "cwd", "chdir", "dir"},
		"env":           {"environment", "envvars", "variables"},
		"env_file":      {"environmentfile", "dotenv"},
		"restart":       {"autorestart", "restartpolicy", "respawn"},
		"ready":         {"readiness", "readinessprobe", "healthcheck", "healthz"},
		"stop_signal":   {"killsignal", "stopsig", "killmode"},
		"stop_grace":    {"stopwaitsecs", "killdelay", "timeoutstopsec", "shutdowntimeout", "stoptimeout", "killtimeout", "grace"},
		"start_timeout": {"timeoutstartsec", "startsecs", "startuptimeout", "readytimeout"},
		"failure_limit": {"startretries", "maxrestarts", "startlimitburst", "maxretries"},
		"output":        {"stdout", "stderr", "stdoutlogfile", "log", "logs"},
		"user":          {"uid", "runas", "setuid"},
		"group":         {"gid", "setgid"},
		"groups":        {"supplementarygroups"},
	} {
		if slices.Contains(theirs, plain(found)) {
			return fmt.Sprintf("here it is called %q", ours)
		}
	}
	return ""
}
