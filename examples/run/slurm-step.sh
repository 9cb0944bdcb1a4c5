#!/bin/sh
# One task of a Slurm step: srun slurm-step.sh COMMAND [ARGUMENT...]
#
# Slurm ends what a step leaves behind when the step ends, and says nothing about it.
# Here every task ends with nothing left, and what it would have left is named in a
# report of its own. Where Slurm gives the task's user no cgroup to write to, the run
# is weak (see docs/run.md): Slurm's own cgroup of the step is then the second line.
#
# scancel sends TERM, which pitvisor forwards to the command, and after KillWait (30 s
# as Slurm comes) KILL to all that is in the step.
set -eu

# Named, so that an ordinary user's pitvisor does not ask the user's systemd for a
# cgroup: the task would leave that of its step, and with it Slurm's limits.
: "${PITVISOR_CGROUP_ROOT:=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)}"
export PITVISOR_CGROUP_ROOT

task=${SLURM_JOB_ID:?to be started by srun}.${SLURM_STEP_ID:?}.${SLURM_PROCID:?}

exec pitvisor run \
	--name "slurm-$task" --label slurm_job="$SLURM_JOB_ID" \
	--allow-weak \
	--report "${REPORTS:-.}/pitvisor-$task.json" \
	-- "$@"
