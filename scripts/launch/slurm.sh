#!/usr/bin/env bash
# Pretrain on several nodes under Slurm, one task a GPU; the job requeues itself until the run ends.
#
#   sbatch --nodes 4 scripts/launch/slurm.sh RECIPE.yaml --run.dir runs/NAME --precision bf16
#   ACCELERATE_USE_FSDP=true sbatch ...      # shards of the model (FSDP2), not replicas (DDP)
#
# Submit it from the root of the checkout, which all nodes have to see, as they do the run directory.
# What follows the script's name are flags of pretrain.py; options of sbatch go before it.
#
#SBATCH --job-name=fcmae
#SBATCH --nodes=2
#SBATCH --time=24:00:00
#
# A task for each GPU. Not --gpus-per-task: a task would then see its own GPU alone, as number 0,
# where pretrain.py takes that of its local rank.
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#
# CPUs of a task: its data workers (--data.workers) and itself.
#SBATCH --cpus-per-task=10
#
# Some time before the time limit. With "B:" it would reach this shell alone, without it the
# processes of the step alone, which is where it is handled. Slurm may be a minute early, which
# leaves two for a step and a checkpoint.
#SBATCH --signal=USR1@180
#
# Back into the queue after the loss of a node and after preemption; what a signal ended is put
# there below. The job keeps its number and with that its log, so the log must not start anew.
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?is set by sbatch}" # this file is run as a copy that lies elsewhere
# shellcheck source=/dev/null
[ ! -e .venv/bin/activate ] || . .venv/bin/activate

# Rank 0, on the first node, is where the processes meet, at a port that is this job's own and
# below those that systems give away at random (from 32768 on).
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
export MASTER_ADDR=${hosts%%$'\n'*}
export MASTER_PORT=$((15000 + SLURM_JOB_ID % 15000))

# What `distributed_type: FSDP` and `fsdp_version: 2` are in a config of accelerate.
export ACCELERATE_USE_FSDP=${ACCELERATE_USE_FSDP:-false} FSDP_VERSION=2

# No accelerate or torchrun in between: they would neither pass on SIGUSR1 nor the exit status.
# exec, since a shell that waited for Python would die of the signal. --cpus-per-task, since srun
# does not take it over from sbatch. Of tasks that end, none is to end the others at once, which
# may be saying whom they lost, or closing trackers; after a minute it does. --kill-on-bad-exit
# would send them SIGTERM on the first 75, and have srun return 143 for it.
status=0
# shellcheck disable=SC2016  # each task expands its own
srun --kill-on-bad-exit=0 --wait=60 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" bash -c '
    export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID
    exec python pretrain.py "$@"
' pretrain "$@" || status=$?

# 75: a signal ended the run, which has saved. A job that was cancelled, or preempted and put back
# into the queue by Slurm, got signals too, but is no longer running.
if [ "$status" -eq 75 ] && [[ $(scontrol show job "$SLURM_JOB_ID") == *JobState=RUNNING* ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
