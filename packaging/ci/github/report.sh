#!/bin/bash
# The step of action.yml that reports, also when the job was cancelled: leftovers go
# into the summary of the job. It sweeps, too, because a runner that has lost its
# patience kills pitvisor together with the guardian that would have ended the run.
set -euo pipefail
ci_here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
# shellcheck source=packaging/ci/common.sh
. "$ci_here/../common.sh"

ci_junit=${PITVISOR_CI_DIRECTORY-}/pitvisor.xml
ci_swept=$(ci_sweep)

if [[ $ci_swept ]]; then
	while read -r ci_line; do
		printf '::warning title=pitvisor sweep::%s\n' "${ci_line//%/%25}"
	done <<<"$ci_swept"
fi
ci_findings "$ci_junit" "$ci_swept" >>"${GITHUB_STEP_SUMMARY:-/dev/null}"

ci_proven=false
if [[ -e $ci_junit ]] && ci_clean "$ci_junit"; then
	ci_proven=true
fi
echo "clean=$ci_proven" >>"${GITHUB_OUTPUT:-/dev/null}"
