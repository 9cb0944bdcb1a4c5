#!/bin/sh
# A worker in shell: it takes one job after the other until it is told to stop.
# As an example it has no jobs and waits.

# TERM ends the wait below at once. A shell that runs "sleep" in the foreground
# would look at the signal only when the sleep is over.
trap 'echo "stopped"; kill "$child" 2>/dev/null; exit 0' TERM
child=

echo "working as ${PITVISOR_WORKER:-nobody}"

# Ready: one newline on descriptor 3, then close it. That is what the rule
# "fd = 3" waits for; without a supervisor there is no such descriptor.
if [ -n "${PITVISOR_READY_FD:-}" ]; then
    echo >&3
    exec 3>&-
fi

while :; do
    sleep 3600 &
    child=$!
    wait "$child"
done
