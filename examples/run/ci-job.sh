#!/bin/sh
# Runs a CI job of which nothing is left on the machine: ci-job.sh COMMAND [ARGUMENT...]
#
# A job that succeeds but leaves processes behind fails with exit code 123, and they
# are named: on stderr, in pitvisor.json for programs, and in pitvisor.xml as a JUnit
# test case that CI systems show among the other tests. All other exit codes are the
# job's own; 124 is the time limit.
set -eu

reports=${REPORTS:-reports}
mkdir -p "$reports"

exec pitvisor run \
	--name "${JOB_NAME:-ci-job}" \
	--timeout "${JOB_TIMEOUT:-30m}" --kill-after 10s \
	--fail-on-leak \
	--report "$reports/pitvisor.json" \
	--report-junit "$reports/pitvisor.xml" \
	-- "$@"
