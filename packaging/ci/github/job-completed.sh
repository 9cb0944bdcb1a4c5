#!/bin/bash
# Hook of a self-hosted runner: sweeps after a job, also a cancelled one, and reports
# what there was as annotations and in the summary. In the runner's .env:
#
#	ACTIONS_RUNNER_HOOK_JOB_COMPLETED=/usr/share/pitvisor/ci/github/job-completed.sh
set -euo pipefail
exec "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/report.sh"
