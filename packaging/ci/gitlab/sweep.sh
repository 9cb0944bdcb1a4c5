#!/bin/sh
# Ends what killed runs of earlier jobs have left: for the runner's config.toml and
# for after_script. See config.toml here for the places.
set -eu
ci_here=$(dirname "$(readlink -f "$0")")
# shellcheck source=packaging/ci/common.sh
. "$ci_here/../common.sh"

ci_sweep
