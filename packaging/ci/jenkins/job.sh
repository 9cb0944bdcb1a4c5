#!/bin/sh
# Runs the command of a pipeline's sh step: job.sh COMMAND [ARGUMENT...]
#
# It sweeps first, because Jenkins has no hook on the machine before a build. The
# reports are in the workspace, one directory for each build and each step: see
# Jenkinsfile. It becomes pitvisor run, so that the signal of an aborted build goes there.
set -eu
ci_here=$(dirname "$(readlink -f "$0")")
# shellcheck source=packaging/ci/common.sh
. "$ci_here/../common.sh"

ci_sweep
ci_reports=$(ci_directory "${PITVISOR_CI_REPORTS:-${WORKSPACE:-.}/pitvisor-reports/${BUILD_NUMBER:-0}}")
ci_run "$ci_reports" "${STAGE_NAME:-${JOB_BASE_NAME:-jenkins}}" -- "$@"
