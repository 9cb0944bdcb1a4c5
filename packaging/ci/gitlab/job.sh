#!/bin/sh
# Runs one command of a job's script: job.sh COMMAND [ARGUMENT...]
#
# The reports are in $CI_PROJECT_DIR/pitvisor-reports, where artifacts can be taken
# from: see pitvisor.gitlab-ci.yml. It becomes pitvisor run, so that the signals of a
# cancelled job go there.
set -eu
ci_here=$(dirname "$(readlink -f "$0")")
# shellcheck source=packaging/ci/common.sh
. "$ci_here/../common.sh"

ci_reports=$(ci_directory "${PITVISOR_CI_REPORTS:-${CI_PROJECT_DIR:-.}/pitvisor-reports}")
ci_run "$ci_reports" "${CI_JOB_NAME:-gitlab}" -- "$@"
