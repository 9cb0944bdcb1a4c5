package config

import (
	"fmt"
	"slices"

	"github.com/pitvisor/pitvisor/internal/suggest"
)

// didYouMean returns a hint with the word that was probably meant, or "".
func didYouMean(found string, words []string) string {
	if word := suggest.Word(found, words); word != "" {
		return fmt.Sprintf("did you mean %q?", word)
	}
	return ""
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
		if slices.Contains(theirs, suggest.Plain(found)) {
			return fmt.Sprintf("here it is called %q", ours)
		}
	}
	return ""
}
