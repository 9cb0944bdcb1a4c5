#!/bin/bash
# The step of action.yml that runs the command; the inputs are in PITVISOR_CI_*.
#
# It becomes pitvisor run: when a job is cancelled the runner sends SIGINT, and 7.5
# seconds later SIGTERM, to this process alone.
set -euo pipefail
ci_here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
# shellcheck source=packaging/ci/common.sh
. "$ci_here/../common.sh"

ci_temp=${RUNNER_TEMP:-/tmp} # the runner empties it before and after a job
ci_reports=$(ci_directory "${PITVISOR_CI_REPORTS:-$ci_temp/pitvisor-reports}")
if [[ $ci_reports && ${GITHUB_OUTPUT-} ]]; then
	printf '%s\n' "directory=$ci_reports" "report=$ci_reports/pitvisor.json" "junit=$ci_reports/pitvisor.xml" >>"$GITHUB_OUTPUT"
fi

# In a file, as the runner does it: an argument would be in the reports.
ci_script=$(mktemp "$ci_temp/pitvisor-step.XXXXXX")
printf '%s\n' "${PITVISOR_CI_RUN?}" >"$ci_script"
chmod 644 "$ci_script" # the job may be another user's

ci_options=(--github)
case ${PITVISOR_CI_FAIL_ON_LEAK-} in
true | false) ci_options+=("--fail-on-leak=$PITVISOR_CI_FAIL_ON_LEAK") ;;
'') ;;
*)
	ci_say "fail-on-leak is \"$PITVISOR_CI_FAIL_ON_LEAK\", must be true or false"
	exit 2
	;;
esac
[[ ! ${PITVISOR_CI_TIMEOUT-} ]] || ci_options+=(--timeout "$PITVISOR_CI_TIMEOUT")
[[ ! ${PITVISOR_CI_KILL_AFTER-} ]] || ci_options+=(--kill-after "$PITVISOR_CI_KILL_AFTER")
read -ra ci_more <<<"${PITVISOR_CI_OPTIONS-}"
ci_title=${PITVISOR_CI_NAME:-${GITHUB_JOB:-github}}

unset PITVISOR_CI_RUN PITVISOR_CI_FAIL_ON_LEAK PITVISOR_CI_TIMEOUT PITVISOR_CI_KILL_AFTER PITVISOR_CI_OPTIONS PITVISOR_CI_NAME
ci_run "$ci_reports" "$ci_title" "${ci_options[@]}" "${ci_more[@]}" -- bash --noprofile --norc -eo pipefail "$ci_script"
