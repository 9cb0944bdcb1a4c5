# shellcheck shell=sh
# What the scripts for the CI systems share. It is sourced, by sh and by bash. All their
# variables begin with ci_: another name may be a variable of the job, and would be
# changed for it.
#
#	PITVISOR_CI_PROGRAM   the program, if it is not the pitvisor in PATH
#	PITVISOR_CI_REQUIRED  1 or true: without pitvisor, or after a sweep that did not
#	                      work, the job fails; otherwise it is said and the job goes on
#	PITVISOR_CI_REPORTS   where reports are written; each script has its own default
#
# The options of `pitvisor run` have environment twins, which are for the machine's or
# the job's settings: PITVISOR_FAIL_ON_LEAK=1, PITVISOR_TIMEOUT=30m, PITVISOR_UID=build.

ci_program=${PITVISOR_CI_PROGRAM:-pitvisor}

ci_say() { printf 'pitvisor-ci: %s\n' "$*" >&2; }

ci_required() {
	case ${PITVISOR_CI_REQUIRED-} in
	1 | true) return 0 ;;
	esac
	return 1
}

# ci_missing: is there no pitvisor? Says so, and ends the script if it is required.
ci_missing() {
	if command -v "$ci_program" >/dev/null 2>&1; then
		return 1
	fi
	if ci_required; then
		ci_say "there is no $ci_program, and PITVISOR_CI_REQUIRED is set"
		exit 125
	fi
	ci_say "there is no $ci_program: $1"
}

# ci_sweep ends the runs whose owner is gone, and prints a line for each: what was
# swept, and what could not be. Others' runs and all else are left alone.
ci_sweep() {
	! ci_missing 'nothing is swept' || return 0
	# The time is given because PITVISOR_TIMEOUT is meant for runs.
	ci_code=0
	ci_said=$("$ci_program" sweep --timeout 10s) || ci_code=$?
	printf '%s\n' "$ci_said" | grep -E '^run-[^:]*: (swept|blocked)' || true
	if [ "$ci_code" -ne 0 ]; then
		ci_say "the sweep ended with exit code $ci_code"
		! ci_required || exit "$ci_code"
	fi
}

# ci_directory PARENT makes a directory for the reports of one run, and prints it; ""
# if there is none to be had.
ci_directory() {
	if ! mkdir -p "$1" || ! mktemp -d "$1/pitvisor.XXXXXX"; then
		ci_say "no report is written: $1 is no directory to write to"
	fi
}

# ci_run DIRECTORY NAME [OPTION...] -- COMMAND [ARGUMENT...] becomes pitvisor run, so
# that the signals of whoever cancels the job go there and not to a shell. The
# reports are DIRECTORY/pitvisor.json and pitvisor.xml; "" writes none.
ci_run() {
	ci_reports=$1 ci_name=$2
	shift 2
	if ci_missing 'the job runs without it'; then
		while [ "$1" != -- ]; do
			shift
		done
		shift
		exec "$@"
	fi
	if [ -n "$ci_reports" ]; then
		set -- --report "$ci_reports/pitvisor.json" --report-junit "$ci_reports/pitvisor.xml" "$@"
	fi
	exec "$ci_program" run --name "$ci_name" "$@"
}

# ci_clean FILE: does the JUnit report say that nothing was left behind?
ci_clean() { grep -q '<property name="clean" value="true"/>' "$1"; }

# ci_leaks FILE prints in plain text what the JUnit report names in its cases leaks
# and removed. It goes by the form that pitvisor gives it: the text of a case cannot
# hold a "<", nor a message a quote.
ci_leaks() {
	awk '
	function plain(s) {
		gsub(/&#(9|10);/, " ", s); gsub(/&quot;/, "\"", s); gsub(/&lt;/, "<", s)
		gsub(/&gt;/, ">", s); gsub(/&amp;/, "\\&", s)
		return s
	}
	/^ *<testcase name="/ { wanted = /^ *<testcase name="(leaks|removed)".*">$/; next }
	/^ *<\/testcase>/ { wanted = 0 }
	!wanted { next }
	/^ *<(failure|error) message="/ {
		sub(/^[^"]*"/, "")
		message = $0; sub(/".*/, "", message); print plain(message)
		if (!sub(/^[^>]*[^>\/]>/, "")) next
	}
	{ ended = sub(/<\/(failure|error)>$/, ""); if ($0 != "") print "  " plain($0); if (ended) wanted = 0 }
	' "$1"
}

# ci_markdown TITLE TEXT prints a section. What a text names comes from the job; no line
# of it begins with a backtick, so none can end the block.
ci_markdown() {
	# shellcheck disable=SC2016 # these are backticks
	printf '### pitvisor: %s\n\n```text\n%s\n```\n' "$1" "$2"
}

# ci_findings FILE SWEPT prints what a job has left as Markdown: what its JUnit report
# names, and what ci_sweep has said. Nothing if all was clean.
ci_findings() {
	if [ -e "$1" ] && ! ci_clean "$1"; then
		ci_markdown 'the job was not clean' "$(ci_leaks "$1")"
	fi
	if [ -n "$2" ]; then
		ci_markdown 'a run was killed, and has been swept' "$2"
	fi
}
