#!/bin/bash
# Hook of a self-hosted runner: sweeps before a job. In the runner's .env:
#
#	ACTIONS_RUNNER_HOOK_JOB_STARTED=/usr/share/pitvisor/ci/github/job-started.sh
#
# If it fails, the job fails before its first step: see PITVISOR_CI_REQUIRED.
set -euo pipefail
ci_here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
# shellcheck source=packaging/ci/common.sh
. "$ci_here/../common.sh"

ci_sweep
