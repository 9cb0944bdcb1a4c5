package ci_test

import (
	"maps"
	"regexp"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
	"golang.org/x/sys/unix"
)

// A system is how one CI system starts a job, and where it finds the reports.
type system struct {
	name   string
	before func(*testing.T, *machine) int // what is done before a job; its exit code
	argv   func(*testing.T, *machine, []string) []string
	cancel func(*testing.T, *machine, *job)
	after  func(*testing.T, *machine) (code int, said string)
	junit  func(*testing.T, *machine) string // file
}

func systems() []system {
	return []system{github(), gitlab(), buildkite(), jenkins()}
}

// github is a runner with the composite action and the hooks.
func github() system {
	return system{
		name: "github",
		before: func(t *testing.T, m *machine) int {
			for _, name := range []string{"GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"} {
				m.env[name] = m.write(t, name, "")
			}
			m.env["RUNNER_TEMP"], m.env["GITHUB_JOB"] = m.temp, "build"
			m.env["GITHUB_ACTION_PATH"] = m.script("github")
			code, _, _ := m.run(t, "bash", "-e", m.script("github/job-started.sh"))
			return code
		},
		argv: func(t *testing.T, m *machine, job []string) []string {
			m.inputs["run"] = "echo begun\n" + strings.Join(job, " ") + "\n"
			steps := actionSteps(t, m)
			return []string{"bash", "--noprofile", "--norc", "-e", "-o", "pipefail", m.write(t, "step1.sh", steps[0])}
		},
		// The script of the job is a bash, and that waits for its command when it gets
		// INT. The runner sends TERM 7.5 seconds later.
		cancel: func(t *testing.T, _ *machine, j *job) { j.signal(t, unix.SIGINT, unix.SIGTERM) },
		after: func(t *testing.T, m *machine) (int, string) {
			directory := regexp.MustCompile(`(?m)^directory=(.*)$`).FindStringSubmatch(readFile(t, m.env["GITHUB_OUTPUT"]))
			if directory != nil {
				m.env["PITVISOR_CI_DIRECTORY"] = directory[1]
			}
			steps := actionSteps(t, m)
			code, said, _ := m.run(t, "bash", "--noprofile", "--norc", "-e", "-o", "pipefail", m.write(t, "step2.sh", steps[1]))
			if code == 0 {
				code, _, _ = m.run(t, "bash", "-e", m.script("github/job-completed.sh"))
			}
			return code, said + readFile(t, m.env["GITHUB_STEP_SUMMARY"])
		},
		junit: func(t *testing.T, m *machine) string {
			return m.only(t, m.temp, "pitvisor-reports", "*", "pitvisor.xml")
		},
	}
}

// actionSteps does what the runner does with action.yml: it gives the inputs, or else
// their defaults, to the steps, and returns the scripts of those.
func actionSteps(t *testing.T, m *machine) (scripts []string) {
	t.Helper()
	input := regexp.MustCompile(`^  ([a-z-]+):$`)
	standard := regexp.MustCompile(`^    default: "?([^"]*)"?$`)
	variable := regexp.MustCompile(`^        ([A-Z_]+): \$\{\{ inputs\.([a-z-]+) \}\}$`)
	script := regexp.MustCompile(`^      run: (.*)$`)
	defaults := map[string]string{}
	last := ""
	for line := range strings.Lines(readFile(t, m.script("github/action.yml"))) {
		line = strings.TrimSuffix(line, "\n")
		if found := input.FindStringSubmatch(line); found != nil {
			last = found[1]
		} else if found := standard.FindStringSubmatch(line); found != nil {
			defaults[last] = found[1]
		} else if found := script.FindStringSubmatch(line); found != nil {
			scripts = append(scripts, found[1])
		} else if found := variable.FindStringSubmatch(line); found != nil {
			maps.Copy(defaults, m.inputs) // all inputs are above the steps
			m.env[found[1]] = defaults[found[2]]
		}
	}
	if len(scripts) != 2 {
		t.Fatalf("action.yml has the scripts %q, want two", scripts)
	}
	return scripts
}

// gitlab is a runner with the shell executor and our config.toml.
func gitlab() system {
	return system{
		name: "gitlab",
		before: func(t *testing.T, m *machine) int {
			m.env["CI_PROJECT_DIR"], m.env["CI_JOB_NAME"] = m.dir, "unit tests"
			code, _, _ := m.run(t, "bash", m.write(t, "get_sources.sh", gitlabScripts(t, m)[0]))
			return code
		},
		argv: func(t *testing.T, m *machine, job []string) []string {
			scripts := gitlabScripts(t, m)
			step := "set -eo pipefail\n" + scripts[1] + "\n" + m.script("gitlab/job.sh") + " " + strings.Join(job, " ") + "\n" + scripts[2] + "\n"
			return []string{"bash", m.write(t, "runner.sh", groupRunner), "bash", m.write(t, "step_script.sh", step)}
		},
		cancel: tellRunner,
		after: func(t *testing.T, m *machine) (int, string) {
			section := readFile(t, m.script("gitlab/pitvisor.gitlab-ci.yml"))
			command := regexp.MustCompile(`after_script:\n    - /usr/share/pitvisor/ci/(.*)\n`).FindStringSubmatch(section)
			if command == nil {
				t.Fatal("pitvisor.gitlab-ci.yml has no after_script")
			}
			code, said, _ := m.run(t, "bash", m.write(t, "after_script.sh", m.script(command[1])))
			return code, said
		},
		junit: func(t *testing.T, m *machine) string {
			section := readFile(t, m.script("gitlab/pitvisor.gitlab-ci.yml"))
			pattern := regexp.MustCompile(`      junit: (.*)\n`).FindStringSubmatch(section)
			if pattern == nil {
				t.Fatal("pitvisor.gitlab-ci.yml has no JUnit report")
			}
			return m.only(t, m.dir, pattern[1])
		},
	}
}

// gitlabScripts are those of config.toml: before git, before the job, after the job.
func gitlabScripts(t *testing.T, m *machine) [3]string {
	t.Helper()
	var config struct {
		Runners []struct {
			Executor    string
			Environment []string
			Sources     string `toml:"pre_get_sources_script"`
			Pre         string `toml:"pre_build_script"`
			Post        string `toml:"post_build_script"`
		}
	}
	if err := toml.Unmarshal([]byte(readFile(t, m.script("gitlab/config.toml"))), &config); err != nil {
		t.Fatal(err)
	}
	r := config.Runners[0]
	for _, variable := range r.Environment {
		name, value, _ := strings.Cut(variable, "=")
		m.env[name] = value
	}
	at := func(script string) string { return strings.ReplaceAll(script, "/usr/share/pitvisor/ci", m.here) }
	return [3]string{at(r.Sources), at(r.Pre), at(r.Post)}
}

func tellRunner(t *testing.T, _ *machine, j *job) {
	t.Helper()
	if _, err := j.cancel.WriteString("cancel\n"); err != nil {
		t.Fatal(err)
	}
}

// hookWrapper is how the Buildkite agent runs a hook.
const hookWrapper = `#!/bin/bash
: >"$AFTER"
. "$1"
export BUILDKITE_HOOK_EXIT_STATUS=$?
env -0 >"$AFTER"
exit $BUILDKITE_HOOK_EXIT_STATUS
`

// agent stands in for buildkite-agent: it records what it is asked for.
const agent = `#!/bin/sh
{
	echo "buildkite-agent $*"
	case $1 in
	annotate) cat ;;
	artifact) ls $3 ;;
	esac
} >>"$AGENT_LOG"
`

func buildkite() system {
	return system{
		name: "buildkite",
		before: func(t *testing.T, m *machine) int {
			m.write(t, "agent/buildkite-agent", agent)
			m.env["PATH"] += ":" + m.temp + "/agent"
			for _, name := range []string{"pre-command", "command", "pre-exit"} {
				m.link(t, "buildkite/"+name, "hooks/"+name)
			}
			m.env["AGENT_LOG"] = m.write(t, "agent.log", "")
			m.env["AFTER"] = m.write(t, "after", "")
			m.env["BUILDKITE_JOB_ID"], m.env["BUILDKITE_STEP_KEY"] = "0190-job", "unit"
			m.env["BUILDKITE_COMMAND_EVAL"] = "true"
			code, _ := m.hook(t, "pre-command")
			return code
		},
		argv: func(t *testing.T, m *machine, job []string) []string {
			m.env["BUILDKITE_COMMAND"] = strings.Join(job, " ")
			return []string{
				"bash", m.write(t, "runner.sh", groupRunner),
				"bash", m.write(t, "wrapper.sh", hookWrapper), m.temp + "/hooks/command",
			}
		},
		cancel: tellRunner,
		after: func(t *testing.T, m *machine) (int, string) {
			code, said := m.hook(t, "pre-exit")
			return code, said + readFile(t, m.env["AGENT_LOG"])
		},
		junit: func(t *testing.T, m *machine) string { return m.env["PITVISOR_CI_REPORTS"] + "/pitvisor.xml" },
	}
}

// hook runs an agent hook and takes over what it exports.
func (m *machine) hook(t *testing.T, name string) (code int, said string) {
	t.Helper()
	code, said, _ = m.run(t, "bash", m.write(t, "wrapper.sh", hookWrapper), m.temp+"/hooks/"+name)
	for variable := range strings.SplitSeq(readFile(t, m.env["AFTER"]), "\x00") {
		if name, value, ok := strings.Cut(variable, "="); ok {
			m.env[name] = value
		}
	}
	return code, said
}

func jenkins() system {
	const cookie = "JENKINS_SERVER_COOKIE"
	return system{
		name: "jenkins",
		before: func(t *testing.T, m *machine) int {
			m.env["WORKSPACE"], m.env["BUILD_NUMBER"], m.env["STAGE_NAME"] = m.dir, "17", "Unit tests"
			m.env[cookie] = m.root
			return 0
		},
		argv: func(t *testing.T, m *machine, job []string) []string {
			step := m.script("jenkins/job.sh") + " env -u " + cookie + " " + strings.Join(job, " ") + "\n"
			return []string{"sh", "-xe", m.write(t, "script.sh", step)}
		},
		cancel: func(t *testing.T, m *machine, _ *job) { signalByCookie(t, cookie+"="+m.root) },
		after:  func(t *testing.T, m *machine) (int, string) { return 0, "" },
		junit: func(t *testing.T, m *machine) string {
			return m.only(t, m.dir, "pitvisor-reports", "17", "*", "pitvisor.xml")
		},
	}
}
